"""Answers read by httptools (llhttp, the parser of Node.js): one call for all that a read has brought.

Pure, as `allm.drivers.http.answers`. The connections that use it are the ones of the extra `fast`.
"""

from __future__ import annotations

from typing import Any

import httptools

from allm.drivers.http.answers import Answer
from allm.drivers.http.messages import Fields, headers_of


class FastAnswer(Answer):
    """An answer that httptools reads."""

    __slots__ = ("_fields", "_parser")

    def __init__(self, *, bodiless: bool = False) -> None:
        super().__init__(bodiless=bodiless)
        self._fields: Fields = []
        self._parser: Any = httptools.HttpResponseParser(self)
        # What other clients take, too: there is one request on the way, and nothing to smuggle into.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: bytes) -> None:
        super().feed(data)
        if self.ended:
            self._parser = None  # it refers to this answer

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if self.ended:
                self.reusable = False  # the fault is behind the answer
            else:
                self._refuse("not HTTP/1.1", exc)

    def _cut(self) -> None:
        if self.opened and self.headers.keys().isdisjoint(("content-length", "transfer-encoding")):
            self.ended = True
        else:
            self._refuse("the connection ended")

    # What the parser calls; after the end it may be about an answer that nobody asked for.

    def on_message_begin(self) -> None:
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.opened:  # else a trailer
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self.ended:
            return
        self.status = self._parser.get_status_code()
        self.headers = headers_of(self._fields)
        self._fields.clear()
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
        if self.opened and not self.ended:
            self._finish()

    def _understood(self) -> bool:
        """What the parser lets pass and we cannot read: other versions, other codings of the transfer."""
        coding = self.headers.get("transfer-encoding", "chunked")
        return (
            self.status >= 100
            and self._parser.get_http_version() in ("1.0", "1.1")
            and coding.strip().lower() == "chunked"
        )

    def _finish(self) -> None:
        self.ended = True
        self.reusable = self._parser.should_keep_alive()
