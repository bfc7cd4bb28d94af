"""Idle connections, found by their origin without a look at any other."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import Final, Generic, Protocol, TypeVar

IDLE_SECONDS: Final = 30.0  # how long an idle connection is kept


class Idling(Protocol):
    """A connection: `key` is the origin it leads to, `since` when it became idle."""

    key: str
    since: float


L = TypeVar("L", bound=Idling)


class Idle(Generic[L]):
    """At most `most` connections, the longest idle first to go. Not safe for threads by itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[str, deque[L]] = {}  # of each origin, as they came
        self._order: OrderedDict[L, None] = OrderedDict()  # of all, the longest idle first

    def take(self, key: str) -> L | None:
        """The connection of an origin that was used last; it may have waited too long."""
        return self._remove(key, -1) if key in self._lines else None

    def put(self, line: L) -> list[L]:
        """Keep a connection; gives those that are kept no longer."""
        line.since = time.monotonic()
        self._lines.setdefault(line.key, deque()).append(line)
        self._order[line] = None
        gone = []
        while self._order:
            oldest = next(iter(self._order))
            if len(self._order) <= self._most and recent(oldest):
                break
            gone.append(self._remove(oldest.key, 0))
        return gone

    def clear(self) -> list[L]:
        """All of them; none are kept any more."""
        lines = list(self._order)
        self._lines.clear()
        self._order.clear()
        return lines

    def _remove(self, key: str, place: int) -> L:
        lines = self._lines[key]
        line = lines[place]
        del lines[place]
        if not lines:
            del self._lines[key]
        del self._order[line]
        return line


def recent(line: Idling) -> bool:
    return time.monotonic() - line.since <= IDLE_SECONDS
