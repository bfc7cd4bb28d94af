"""Server-sent events: bytes in, blocks out, one an event; `server_event` reads a block. Pure and incremental.

The line grammar is that of the WHATWG HTML standard, "Interpreting an event stream", with two
differences: an event that lacks its final blank line is given at `end`, and a block that is bare
JSON (an error that a server wrote into an open stream) is given as data.
"""

from __future__ import annotations

from allm.errors import LimitExceededError

ServerEvent = tuple[str | None, bytes]

_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Splits one stream into the blocks between blank lines; its lines end in LF, whatever the server's did.

    `limit` is the size of one block in bytes.

    Whatever the reads are, the work is linear in the bytes and memory at most about twice the limit and a
    read: unfinished bytes wait in one buffer and are looked at again once, when the end of an event has come.
    """

    __slots__ = ("_after_cr", "_head", "_limit", "_overflow", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = bytearray()
        self._head: bytes | None = b""  # the first bytes, until they are known to be a BOM or not
        self._after_cr = False
        self._overflow = False

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that these bytes complete.

        Raises `LimitExceededError` for an event over the limit; events that came before it in the
        same read are given first, and the next call raises.
        """
        if self._overflow:
            raise self._too_large()
        if self._head is not None:
            data = self._skip_bom(data)
        if self._after_cr or b"\r" in data:
            data = self._line_feeds(data)
        return self._blocks(data) if data else []

    def end(self) -> list[bytes]:
        """What is left when the body has ended."""
        if self._overflow:
            raise self._too_large()
        rest = (self._head or b"") + bytes(self._waiting)
        self._head, self._waiting = None, bytearray()
        return [rest] if rest else []

    def _skip_bom(self, data: bytes) -> bytes:
        head = (self._head or b"") + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _line_feeds(self, data: bytes) -> bytes:
        """CRLF and CR as LF. A CR at the end of a read counts at once; an LF after it is dropped."""
        if not data:
            return data
        ends_in_cr = data.endswith(b"\r")
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = ends_in_cr
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _blocks(self, data: bytes) -> list[bytes]:
        waiting = self._waiting
        joined = waiting and data.startswith(b"\n") and waiting.endswith(b"\n")
        if not joined and b"\n\n" not in data:
            if len(waiting) + len(data) > self._limit:
                raise self._too_large()
            waiting += data
            return []
        if waiting:
            data = b"".join((waiting, data))
            waiting.clear()
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        if rest:
            waiting += rest
        if len(data) > self._limit:
            return self._within_limit(blocks, rest)
        return blocks

    def _within_limit(self, blocks: list[bytes], rest: bytes) -> list[bytes]:
        for position, block in enumerate((*blocks, rest)):
            if len(block) > self._limit:
                self._overflow = True
                if not any(map(server_event, blocks[:position])):
                    raise self._too_large()
                return blocks[:position]
        return blocks

    def _too_large(self) -> LimitExceededError:
        self._overflow, self._waiting = True, bytearray()
        return LimitExceededError(f"one server-sent event is larger than {self._limit} bytes")


def server_event(block: bytes) -> ServerEvent | None:
    """Name and data of the event in a block; `None` where it holds none."""
    name: str | None = None
    lines: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    data = b"\n".join(lines)
    if not data and block.lstrip().startswith((b"{", b"[")):
        return None, block.strip()
    return (name, data) if data.strip() else None
