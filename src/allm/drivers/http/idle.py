"""Idle connections, found by their origin without a look at any other."""

from __future__ import annotations

import time
from collections import deque
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
        self._count = 0
        self._lines: dict[str, deque[L]] = {}

    def take(self, key: str) -> L | None:
        """The connection of an origin that was used last; it may have waited too long."""
        return self._remove(key, -1) if key in self._lines else None

    def put(self, line: L) -> list[L]:
        """Keep a connection; gives those that are kept no longer."""
        line.since = time.monotonic()
        self._lines.setdefault(line.key, deque()).append(line)
        self._count += 1
        gone = []
        while self._lines and (self._count > self._most or not recent(self._oldest())):
            gone.append(self._remove(self._oldest().key, 0))
        return gone

    def clear(self) -> list[L]:
        """All of them; none are kept any more."""
        lines = [line for found in self._lines.values() for line in found]
        self._lines.clear()
        self._count = 0
        return lines

    def _oldest(self) -> L:
        return min((lines[0] for lines in self._lines.values()), key=lambda line: line.since)

    def _remove(self, key: str, place: int) -> L:
        lines = self._lines[key]
        line = lines[place]
        del lines[place]
        if not lines:
            del self._lines[key]
        self._count -= 1
        return line


def recent(line: Idling) -> bool:
    return time.monotonic() - line.since <= IDLE_SECONDS
