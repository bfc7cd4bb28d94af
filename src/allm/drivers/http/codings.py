"""Content codings: gzip and deflate undone in bounded pieces."""

from __future__ import annotations

import zlib
from typing import Final

from allm.drivers.http.calls import failure
from allm.ports import HttpHead

PIECE: Final = 64 * 1024  # bytes a decompressor may give at once


class Inflate:
    """Undoes gzip or deflate in pieces of at most PIECE bytes, however well the input is packed."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding in ("gzip", "x-gzip")
        self._codec = zlib.decompressobj(31 if self._gzip else 15)
        self._input = b""
        self._started = False

    def feed(self, data: bytes) -> None:
        self._input += data

    def piece(self) -> bytes:
        """What can be had now without more input; b"" where there is nothing."""
        while self._input:
            if self._codec.eof:
                if not self._gzip or not self._input.startswith(b"\x1f"):
                    self._input = b""  # padding after the end, which everybody ignores
                    break
                self._codec = zlib.decompressobj(31)
            data = self._step()
            if data:
                return data
        return b""

    def _step(self) -> bytes:
        source = self._input
        try:
            data = self._codec.decompress(source, PIECE)
        except zlib.error:
            if self._started or self._gzip:
                raise
            self._codec = zlib.decompressobj(-15)  # deflate without its frame, as some servers send it
            data = self._codec.decompress(source, PIECE)
        self._started = True
        self._input = self._codec.unused_data if self._codec.eof else self._codec.unconsumed_tail
        return data

    def end(self) -> None:
        """Raises zlib.error where the input ended too soon."""
        if self._started and not self._codec.eof:
            raise zlib.error("incomplete")


def inflate_for(head: HttpHead) -> Inflate | None:
    """What undoes the body's coding; None where it has none. Raises WireError for one not asked for."""
    given = head.headers.get("content-encoding")
    if given is None:
        return None
    names = [name.strip().lower() for name in given.split(",")]
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in ("gzip", "x-gzip", "deflate"):
        raise failure("malformed_response", "the body has a content coding that was not asked for", "stream")
    return Inflate(codings[0])
