"""What a decoder makes of an answer, read by read: its events, what they fold to, or its failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from allm.data.events import Event, StreamFailed
from allm.data.failure import ErrorInfo
from allm.data.media import MediaCompleted
from allm.data.responses import Response
from allm.folds import ResponseFold
from allm.ports import Decoder, HttpHead

SSE = "text/event-stream"
JSON = HttpHead(200, {"content-type": "application/json", "x-request-id": "req-1"})


class Readers(NamedTuple):
    """Functions of the reads of an answer, and of options that say what decoder reads them."""

    events: Callable[..., list[Event]]
    answer: Callable[..., Response]
    failure: Callable[..., ErrorInfo]


def readers(decoder: Callable[..., Decoder]) -> Readers:
    """The functions `events(*reads, **options)`, `answer(...)`, `failure(...)` over `decoder(**options)`."""

    def events(*reads: bytes, **options: Any) -> list[Event]:
        return events_of(decoder(**options), reads)

    def answer(*reads: bytes, **options: Any) -> Response:
        return folded(events(*reads, **options))

    def failure(*reads: bytes, **options: Any) -> ErrorInfo:
        last = events(*reads, **options)[-1]
        assert isinstance(last, StreamFailed)
        return last.error

    return Readers(events, answer, failure)


def events_of(decoder: Decoder, reads: Iterable[bytes]) -> list[Event]:
    """All events of an answer; after its end there are none."""
    found = [event for read in reads for event in decoder.feed(read)]
    found += decoder.end()
    assert decoder.feed(b"data: {}\n\n") == decoder.end() == []
    return found


def media_events(decoder: Any, reads: Iterable[bytes]) -> list[Any]:
    """The events of pictures or vectors; exactly one ends them."""
    found: list[Any] = events_of(decoder, reads)
    assert [type(event) in (MediaCompleted, StreamFailed) for event in found].index(True) == len(found) - 1
    return found


def folded(events: Iterable[Event]) -> Response:
    fold = ResponseFold()
    for event in events:
        fold.add(event)
    return fold.response
