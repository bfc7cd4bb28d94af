"""Answers read by httptools (llhttp, the parser of Node.js): one call for all that a read has brought.

Pure: bytes in, bytes out. The connections that use it are the ones of the extra `fast`.
"""

from __future__ import annotations

from typing import Any, Final

import httpcore2
import httptools

from allm.drivers.http.messages import Fields, Wire

BARREN: Final = 100 * 1024  # bytes that may come without a head or a byte of the body


def bytes_of(wire: Wire) -> memoryview:
    """The request as it goes on the wire; a view, whose repr does not show the key."""
    lines = [b"%b %b HTTP/1.1" % (wire.method.encode("ascii"), wire.target.url.target)]
    lines += [b"%b: %b" % field for field in wire.fields]
    return memoryview(b"\r\n".join([*lines, b"", wire.body]))


class Answer:
    """One answer out of the bytes of its connection.

    `opened` once the head is there, `ended` once the body is; `reusable` then says whether the connection
    can serve again. `fault` is why no more can be read; what came before it is good. Answers of 1xx are
    left out. `bodiless`: the head is all, as where HEAD was asked.
    """

    __slots__ = (
        "_barren",
        "_bodiless",
        "_parser",
        "_parts",
        "ended",
        "fault",
        "fields",
        "opened",
        "reusable",
        "status",
    )

    def __init__(self, *, bodiless: bool = False) -> None:
        self.status = 0
        self.fields: Fields = []
        self.opened = False
        self.ended = False
        self.reusable = False
        self.fault: Exception | None = None
        self._parts: list[bytes] = []
        self._barren = 0
        self._bodiless = bodiless
        self._parser: Any = httptools.HttpResponseParser(self)
        # What other clients take, too: there is one request on the way, and nothing to smuggle into.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: bytes) -> None:
        """Take what a read has brought; b"" where the connection has ended."""
        if self.ended or self.fault is not None:
            self.reusable = False
        elif data:
            self._parse(data)
        else:
            self._cut()
        if self.ended:
            self._parser = None  # it refers to this answer

    def take(self) -> bytes:
        """All of the body that has come, in one piece. Raises the fault where nothing came before it."""
        parts = self._parts
        if not parts:
            if self.fault is not None:
                raise self.fault
            return b""
        self._parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _parse(self, data: bytes) -> None:
        self._barren += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if self.ended:
                self.reusable = False  # the fault is behind the answer
                return
            self._refuse("not HTTP/1.1", exc)
        if self._barren > BARREN:
            self._refuse("nothing but framing")

    def _cut(self) -> None:
        """The connection has ended: so does an answer that has no other end."""
        names = {name.lower() for name, _ in self.fields}
        if self.opened and not names & {b"content-length", b"transfer-encoding"}:
            self.ended = True
        else:
            self._refuse("the connection ended")

    def _refuse(self, why: str, cause: Exception | None = None) -> None:
        self.fault = httpcore2.RemoteProtocolError(why)
        self.fault.__cause__ = cause

    # What the parser calls; after the end it may be about an answer that nobody asked for.

    def on_message_begin(self) -> None:
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.opened:  # else a trailer
            self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self.ended:
            return
        self.status = self._parser.get_status_code()
        if not self._understood():
            self._refuse("not HTTP/1.1")
            return
        self.opened = self.status >= 200
        self._barren = 0
        if self._bodiless and self.opened:
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self.ended:
            self.reusable = False
        else:
            self._parts.append(data)
            self._barren = 0

    def on_message_complete(self) -> None:
        if not self.opened:
            self.fields.clear()
        elif not self.ended:
            self._finish()

    def _understood(self) -> bool:
        """What the parser lets pass and we cannot read: other versions, other codings of the transfer."""
        codings = [value for name, value in self.fields if name.lower() == b"transfer-encoding"]
        return (
            self.status >= 100
            and self._parser.get_http_version() in ("1.0", "1.1")
            and (not codings or [coding.strip().lower() for coding in codings] == [b"chunked"])
        )

    def _finish(self) -> None:
        self.ended = True
        self.reusable = self._parser.should_keep_alive()
