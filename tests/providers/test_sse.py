"""Server-sent events: the whole grammar, the caps, and the same events whatever the reads are."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allm.errors import LimitExceededError
from allm.providers.sse import EventSplitter, ServerEvent, server_event

LIMIT = 1 << 20


def split(*reads: bytes, limit: int = LIMIT) -> list[ServerEvent]:
    splitter = EventSplitter(limit)
    blocks: list[bytes] = []
    for read in reads:
        blocks += splitter.feed(read)
    return events_of(blocks + splitter.end())


def events_of(blocks: list[bytes]) -> list[ServerEvent]:
    return [event for block in blocks if (event := server_event(block)) is not None]


GRAMMAR = {
    "lf": (b"data: a\n\ndata: b\n\n", [(None, b"a"), (None, b"b")]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [(None, b"a"), (None, b"b")]),
    "cr": (b"data: a\r\rdata: b\r\r", [(None, b"a"), (None, b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", [(None, b"a"), (None, b"b"), (None, b"c")]),
    "bom": (b"\xef\xbb\xbfdata: a\n\n", [(None, b"a")]),
    "comments": (b": hello\n\n:\ndata: a\n: again\n\n", [(None, b"a")]),
    "no space": (b"data:a\n\n", [(None, b"a")]),
    "two spaces": (b"data:  a\n\n", [(None, b" a")]),
    "lines": (b"data: a\ndata:\ndata: b\n\n", [(None, b"a\n\nb")]),
    "name": (b"event: error\ndata: a\n\n", [("error", b"a")]),
    "name after": (b"data: a\nevent: x\n\n", [("x", b"a")]),
    "ignored fields": (b"id: 1\nretry: 5\nfoo: bar\nbaz\ndata: a\n\n", [(None, b"a")]),
    "blank lines": (b"\n\n\n\ndata: a\n\n\n\n\n\ndata: b\n\n\n", [(None, b"a"), (None, b"b")]),
    "empty data": (b"data:\n\ndata: \n\ndata\n\nevent: x\ndata:\n\n", []),
    "no last blank line": (b"data: a\n\ndata: b\n", [(None, b"a"), (None, b"b")]),
    "no last line end": (b"data: a\n\ndata: b", [(None, b"a"), (None, b"b")]),
    "separators are text": ("data: a\u2028b\u2029c\u0085d\x0b\x0c\x1c\n\n".encode(), None),
    "bare JSON": (b'data: a\n\n{\n  "error": {}\n}\n', [(None, b"a"), (None, b'{\n  "error": {}\n}')]),
    "nothing": (b"", []),
    "half a BOM": (b"\xef\xbb", []),
}


@pytest.mark.parametrize("name", GRAMMAR)
def test_grammar(name: str) -> None:
    body, expected = GRAMMAR[name]
    if expected is None:
        expected = [(None, body[6:-2])]
    assert split(body) == expected
    assert split(*(body[at : at + 1] for at in range(len(body)))) == expected


PIECES = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"event: x",
        b"id: 1",
        b":",
        b"{",
        b"a",
        b" ",
        "é€😀".encode(),
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\xef\xbb\xbf",
        b"data: {}\r\n\r\n",
        b"\xff",
    ]
)


@given(st.lists(PIECES, max_size=40).map(b"".join), st.lists(st.integers(0, 200)))
def test_any_reads_give_the_same_events(body: bytes, cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    reads = [body[start:stop] for start, stop in pairwise(borders)]
    assert split(*reads) == split(body)


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    assert split(body) == split(*(body[at : at + 1] for at in range(len(body))))


def test_cap_on_one_event() -> None:
    splitter = EventSplitter(1000)
    for _ in range(10):
        assert splitter.feed(b"x" * 100) == []
    with pytest.raises(LimitExceededError):
        splitter.feed(b"x")
    with pytest.raises(LimitExceededError):
        splitter.feed(b"\n\n")


def test_events_before_the_cap_are_given_first() -> None:
    splitter = EventSplitter(100)
    assert events_of(splitter.feed(b"data: a\n\ndata: " + b"x" * 200 + b"\n\n")) == [(None, b"a")]
    with pytest.raises(LimitExceededError):
        splitter.feed(b"data: b\n\n")


def test_many_small_events_are_not_one_large_one() -> None:
    assert len(split(b"data: a\n\n" * 1000, limit=100)) == 1000


READS = {
    "one byte": b"a",
    "three bytes": b"abc",
    "lines of LF": b"a\n",
    "lines of CRLF": b"a\r\n",
    "many lines of CRLF": b"ab\r\n" * 2048,
    "half the limit": b"a" * (1 << 15),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("ends", [True, False], ids=["ends in time", "too large"])
def test_memory_is_bounded_by_the_limit(name: str, ends: bool) -> None:
    """Whatever the reads are: each is an object of its own, which nobody keeps."""
    limit, read = 1 << 16, READS[name]
    splitter = EventSplitter(limit)

    def feed(times: int) -> None:
        for _ in range(times):
            splitter.feed(bytes(bytearray(read)))

    tracemalloc.start()
    try:
        if ends:
            feed((limit - 1) // len(read))
            assert len(splitter.feed(b"\n\n")) == 1
        else:
            with pytest.raises(LimitExceededError):
                feed(limit + 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit


def seconds(size: int, step: int) -> float:
    body = b"data: " + b"x" * size + b"\n\n"
    start = process_time()
    split(*(body[at : at + step] for at in range(0, len(body), step)), limit=1 << 30)
    return process_time() - start


def test_linear_time() -> None:
    small = min(seconds(1 << 18, 4) for _ in range(3))
    large = min(seconds(1 << 20, 4) for _ in range(3))
    assert large < 12 * small
