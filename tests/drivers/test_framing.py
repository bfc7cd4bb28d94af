"""Bodies out of their framing: as h11 reads them, however the reads fall, and never more than it does."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allm.drivers.http.framing import ByLength, Chunked, Framing, UntilTheEnd

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
EXTENSIONS = st.sampled_from([b"", b";a=1", b';name="quoted text"', b"  ", b";a\t "])
TRAILERS = st.sampled_from([b"", b"x-sum: 1\r\n", b"a: b\r\nc: d\r\n"])


def chunked(pieces: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    chunks = [b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces]
    return b"".join([*chunks, b"0\r\n", trailers, b"\r\n"])


def read(framing: Framing, reads: list[bytes], parts: list[bytes] | None = None) -> tuple[bytes, bool]:
    """The body, and whether something was left behind it."""
    parts, left = [] if parts is None else parts, False
    for data in reads:
        left |= framing.feed(data, parts)
    return b"".join(parts), left


def by_h11(body: bytes) -> bytes | None:
    """What h11 makes of a chunked body; None where it does not come to its end."""
    state = h11.Connection(h11.CLIENT)
    state.send(h11.Request(method="GET", target="/", headers=[("host", "")]))
    state.receive_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)
    found = b""
    try:
        while (event := state.next_event()) is not h11.NEED_DATA:
            if type(event) is h11.Data:
                found += event.data
            elif type(event) is h11.EndOfMessage:
                return found
    except h11.RemoteProtocolError:
        pass
    return None


@st.composite
def cut(draw: Any, data: bytes) -> list[bytes]:
    """The bytes in reads of any size."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.data(), PIECES, EXTENSIONS, TRAILERS)
def test_chunks_in_any_reads(data: Any, pieces: list[bytes], extension: bytes, trailers: bytes) -> None:
    wire = chunked(pieces, extension, trailers)
    for reads in (data.draw(cut(wire)), [wire], [wire[i : i + 1] for i in range(len(wire))]):
        framing = Chunked()
        assert read(framing, reads) == (b"".join(pieces), False)
        assert framing.ended
    assert by_h11(wire) == b"".join(pieces)


@given(st.data(), PIECES)
def test_a_body_that_is_not_whole_does_not_end(data: Any, pieces: list[bytes]) -> None:
    wire = chunked(pieces)
    short = wire[: data.draw(st.integers(0, len(wire) - 1))]
    framing = Chunked()
    body, left = read(framing, data.draw(cut(short)))
    assert not framing.ended
    assert not left
    assert b"".join(pieces).startswith(body)


@given(st.data(), PIECES.filter(bool), st.binary(min_size=1, max_size=3))
def test_a_damaged_body_is_read_as_h11_reads_it_or_not_at_all(
    data: Any, pieces: list[bytes], damage: bytes
) -> None:
    wire = chunked(pieces)
    place = data.draw(st.integers(0, len(wire) - 3))
    wire = wire[:place] + damage + wire[place + data.draw(st.integers(0, 2)) :]
    framing = Chunked()
    try:
        body, _ = read(framing, data.draw(cut(wire)))
    except ValueError:
        return
    if framing.ended and b"\r\n0\r\n\r\n" in wire:  # else the damage has made a trailer
        assert by_h11(wire) == body


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"g",
        b"-1",
        b"+1",
        b"0x1",
        b"1_0",
        b" 1",
        b"1 1",
        "\u0661".encode(),
        b"1" * 17,
        b"1\n",
        b"1\r",
        b"1;\n",
    ],
)
def test_what_is_no_size(line: bytes) -> None:
    parts: list[bytes] = []
    with pytest.raises(ValueError, match="chunk"):
        Chunked().feed(b"2\r\nok\r\n" + line + b"\r\nx\r\n0\r\n\r\n", parts)
    assert parts == [b"ok"]


@pytest.mark.parametrize("behind", [b"\n\r", b"xx", b"\rx", b"0\r\n\r\n"])
@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_a_chunk_that_is_longer_than_it_says(behind: bytes, step: int) -> None:
    wire, parts, framing = b"5\r\nhello" + behind, list[bytes](), Chunked()
    with pytest.raises(ValueError, match="longer"):
        read(framing, [wire[start : start + step] for start in range(0, len(wire), step)], parts)
    assert b"".join(parts) == b"hello"


def test_what_comes_behind_a_body_is_told() -> None:
    assert read(Chunked(), [chunked([b"a"]) + b"HTTP/1.1"]) == (b"a", True)
    assert read(ByLength(3), [b"ab", b"cHTTP/1.1"]) == (b"abc", True)
    assert read(ByLength(0), [b"x"]) == (b"", True)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_length(length: int) -> None:
    framing = ByLength(length)
    assert framing.ended == (length == 0)
    assert read(framing, [b"hello"[:length][i : i + 1] for i in range(length)]) == (b"hello"[:length], False)
    assert framing.ended
    assert not framing.ends_with_connection


def test_until_the_end() -> None:
    framing = UntilTheEnd()
    assert read(framing, [b"a", b"", b"b"]) == (b"ab", False)
    assert framing.ends_with_connection
    assert not framing.ended
