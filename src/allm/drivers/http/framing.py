"""How the body of an answer is framed: by its length, in chunks, or by the end of the connection.

RFC 9112, 6.3 and 7.1, read in November 2026. Pure. A reader takes what comes, puts the body's bytes into
`parts` and says whether something is left behind the end.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Final

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n]*)?[ \t]*\r\n")
_END: Final = b"\r\n"


class Framing(ABC):
    """One body. `ended` once all of it has come; `ends_with_connection` where nothing else ends it."""

    __slots__ = ("ended",)

    ends_with_connection = False

    def __init__(self) -> None:
        self.ended = False

    @abstractmethod
    def feed(self, data: bytes, parts: list[bytes]) -> bool:
        """Take what a read has brought. True where bytes came behind the end.

        Raises ValueError for what is no such body; what came before it is in `parts`.
        """


class UntilTheEnd(Framing):
    """A body that ends with its connection."""

    __slots__ = ()

    ends_with_connection = True

    def feed(self, data: bytes, parts: list[bytes]) -> bool:
        if data:
            parts.append(data)
        return False


class ByLength(Framing):
    """A body of so many bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self.ended = length == 0
        self._left = length

    def feed(self, data: bytes, parts: list[bytes]) -> bool:
        body = data[: self._left]
        if body:
            parts.append(body)
        self._left -= len(body)
        self.ended = self._left == 0
        return len(body) < len(data)


class Chunked(Framing):
    """A body in chunks, each with its size before it. Extensions and trailers are passed over."""

    __slots__ = ("_left", "_rest", "_trailing")

    def __init__(self) -> None:
        super().__init__()
        self._left = 0  # bytes of a chunk that are still to come, with the line end behind them
        self._rest = b""  # the beginning of a line
        self._trailing = False

    def feed(self, data: bytes, parts: list[bytes]) -> bool:
        at = self._go_on(data, parts) if self._left else 0
        if self._rest:
            data, self._rest = self._rest + data, b""
        match, end = _SIZE.match, len(data)
        while at < end and not self._trailing and not self._left:
            size = match(data, at)
            if size is None:
                return self._keep(data, at)
            at, length = size.end(), int(size[1], 16)
            behind = at + length
            if not length:
                self._trailing = True
            elif data[behind : behind + 2] == _END:
                parts.append(data[at:behind])
                at = behind + 2
            else:
                self._left = length + 2
                at += self._go_on(data[at:], parts)
        return self._trail(data, at) if self._trailing else False

    def _go_on(self, data: bytes, parts: list[bytes]) -> int:
        """More of a chunk that has begun; gives how many bytes belong to it."""
        body = data[: max(self._left - 2, 0)]
        if body:
            parts.append(body)
        behind = data[len(body) : self._left]
        if behind and behind != _END[2 - (self._left - len(body)) :][: len(behind)]:
            raise ValueError("a chunk is longer than it says")
        taken = len(body) + len(behind)
        self._left -= taken
        return taken

    def _keep(self, data: bytes, at: int) -> bool:
        """The line of a size has not come to its end."""
        self._rest = data[at:]
        if b"\n" in self._rest:
            raise ValueError("no size of a chunk")
        return False

    def _trail(self, data: bytes, at: int) -> bool:
        """The lines behind the last chunk, up to an empty one."""
        while (found := data.find(_END, at)) > at:
            at = found + 2
        if found < 0:
            self._rest = data[at:]
            return False
        self.ended = True
        return at + 2 < len(data)
