"""One answer out of the bytes of its connection: what all readers share, and the reader that stands on h11.

Pure: bytes in, bytes out. A reader is made for each answer, so nothing of one call is left for the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import h11
import httpcore2

from allm.drivers.http.framing import ByLength, Chunked, Framing, UntilTheEnd
from allm.drivers.http.messages import Headers, headers_of

BARREN: Final = 100 * 1024  # bytes that may come without a head or a byte of the body
# What h11 is told of a request; it only has to know whether the answer has a body.
_GET: Final = h11.Request(method="GET", target="/", headers=[("host", "")])
_HEAD: Final = h11.Request(method="HEAD", target="/", headers=[("host", "")])


class Answer(ABC):
    """One answer; a subclass has the parser.

    `opened` once the head is there, `ended` once the body is; `reusable` then says whether the connection
    can serve again. `fault` is why no more can be read; what came before it is good. Answers of 1xx are
    left out. `bodiless`: the head is all, as where HEAD was asked.
    """

    __slots__ = (
        "_barren",
        "_bodiless",
        "_parts",
        "ended",
        "fault",
        "headers",
        "opened",
        "reusable",
        "status",
    )

    def __init__(self, *, bodiless: bool = False) -> None:
        self.status = 0
        self.headers: Headers = {}
        self.opened = False
        self.ended = False
        self.reusable = False
        self.fault: Exception | None = None
        self._parts: list[bytes] = []
        self._barren = 0
        self._bodiless = bodiless

    def feed(self, data: bytes) -> None:
        """Take what a read has brought; b"" where the connection has ended."""
        if self.ended or self.fault is not None:
            self.reusable = False
        elif data:
            self._barren += len(data)
            self._parse(data)
            if self._barren > BARREN:
                self._refuse("nothing but framing")
        else:
            self._cut()

    def take(self) -> bytes:
        """All of the body that has come, in one piece. Raises the fault where nothing came before it."""
        parts = self._parts
        if not parts:
            if self.fault is not None:
                raise self.fault
            return b""
        self._parts = []
        return b"".join(parts)

    @abstractmethod
    def _parse(self, data: bytes) -> None:
        """Read what has come. `_barren` counts anew from a head and from bytes of the body."""

    @abstractmethod
    def _cut(self) -> None:
        """The connection has ended: so does an answer that has no other end."""

    def _refuse(self, why: str, cause: Exception | None = None) -> None:
        self.fault = httpcore2.RemoteProtocolError(why)
        self.fault.__cause__ = cause


class H11Answer(Answer):
    """An answer whose head h11 reads, the parser of httpcore2. Its body is read by `framing`, as h11 makes an
    event of each chunk, which costs several times what the token in it does."""

    __slots__ = ("_framing", "_keeps", "_state")

    def __init__(self, *, bodiless: bool = False) -> None:
        super().__init__(bodiless=bodiless)
        self._state: h11.Connection | None = h11.Connection(h11.CLIENT, BARREN)  # until the head is there
        self._state.send(_HEAD if bodiless else _GET)
        self._framing: Framing  # from then on
        self._keeps = False

    def _parse(self, data: bytes) -> None:
        try:
            if self._state is not None:
                data = self._read_head(self._state, data)
            if self.opened:
                self._read_body(data)
        except (h11.RemoteProtocolError, ValueError) as exc:
            self._refuse("not HTTP/1.1", exc)

    def _cut(self) -> None:
        if self.opened and self._framing.ends_with_connection:
            self.ended = True
        else:
            self._refuse("the connection ended")

    def _read_head(self, state: h11.Connection, data: bytes) -> bytes:
        """Gives what came behind the head."""
        state.receive_data(data)
        while (event := state.next_event()) is not h11.NEED_DATA:
            if type(event) is h11.Response:
                self._open(event)
                self._state = None
                return bytes(state.trailing_data[0])
        return b""

    def _open(self, event: h11.Response) -> None:
        self.status = event.status_code
        self.headers = headers = headers_of(event.headers.raw_items())
        self.opened = True
        self._barren = 0
        wishes = [wish.strip() for wish in headers.get("connection", "").lower().split(",")]
        self._keeps = event.http_version == b"1.1" and "close" not in wishes
        self._framing = self._framed(headers)

    def _framed(self, headers: Headers) -> Framing:
        if self._bodiless or self.status in (204, 304):
            return ByLength(0)
        if "transfer-encoding" in headers:  # h11 refuses all but chunked
            return Chunked()
        if "content-length" in headers:
            return ByLength(int(headers["content-length"]))
        return UntilTheEnd()

    def _read_body(self, data: bytes) -> None:
        before = len(self._parts)
        more = self._framing.feed(data, self._parts)
        if len(self._parts) > before:
            self._barren = 0
        if self._framing.ended:
            self.ended = True
            self.reusable = self._keeps and not more  # that would be taken for the next answer
