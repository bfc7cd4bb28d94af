"""Recorded embedding exchanges and made-up answers, read by an adapter and held against what is expected."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from allm.data.events import StreamFailed
from allm.data.failure import ErrorInfo
from allm.data.media import EmbeddingRequest, EmbeddingResponse
from allm.ports import CallContext, HttpHead, HttpRequest
from tests.decoder_support import JSON, media_events
from tests.wire_support import Record, _usage, compare, head_of, refused


def request_of(record: Record) -> EmbeddingRequest:
    """What was asked, as far as an answer depends on it: how many texts, of which model."""
    count = record["expected"].get("embeddings", {}).get("count", 1)
    sent = record["request"].get("json") or {}
    return EmbeddingRequest(input=("text",) * count, model=sent.get("model") or "asked")


def decoded(
    adapter: Any, request: EmbeddingRequest, pieces: Iterable[bytes], head: HttpHead = JSON
) -> EmbeddingResponse | ErrorInfo:
    """The vectors of an answer that comes in these reads, or the failure; one of them, and last."""
    last = media_events(adapter.decoder(request, head, CallContext()), pieces)[-1]
    found: EmbeddingResponse | ErrorInfo = last.error if type(last) is StreamFailed else last.result
    return found


def result_of(adapter: Any, record: Record, pieces: Iterable[bytes]) -> EmbeddingResponse | ErrorInfo:
    refusal = refused(adapter, record, pieces)
    return refusal or decoded(adapter, request_of(record), pieces, head_of(record))


def differences(record: Record, result: EmbeddingResponse | ErrorInfo) -> list[str]:
    """How a result differs from the record's `expected`; none is a pass."""
    if isinstance(result, ErrorInfo):
        return compare(record, result)
    expected = record["expected"]
    vectors = expected["embeddings"]
    model = expected["model"] or request_of(record).model
    pairs = {
        "count": (vectors["count"], len(result)),
        "dimension": (vectors["dimension"], result.dimensions),
        "first": (vectors["first"], [round(number, 6) for number in result[0][:3]]),
        "last": (vectors["last"], [round(number, 6) for number in result[-1][-3:]]),
        "model": (model, result.model),
    }
    found = [f"{name}: expected {want}, got {got}" for name, (want, got) in pairs.items() if want != got]
    return found + _usage(expected["usage"], result.usage)


def body_of(sent: HttpRequest) -> Any:
    return json.loads(sent.body)


def failure(result: EmbeddingResponse | ErrorInfo) -> ErrorInfo:
    assert isinstance(result, ErrorInfo)
    return result


def response(result: EmbeddingResponse | ErrorInfo) -> EmbeddingResponse:
    assert isinstance(result, EmbeddingResponse), result
    return result
