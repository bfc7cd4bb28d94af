"""Recorded exchanges with providers: loading, splitting, and comparing with what was expected.

`compare(record, result)` gives the differences as text, for a `Response` or an `ErrorInfo`; the tests
in process and those over loopback both use it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from allm.data.content import ImagePart, OpaquePart, ReasoningPart, parsed_call
from allm.data.events import Event
from allm.data.failure import ErrorInfo
from allm.data.requests import Request
from allm.data.responses import Response, Usage
from allm.ports import CallContext, HttpHead, WireAdapter
from allm.providers.refusals import redacted
from tests.decoder_support import events_of, folded

WIRE = Path(os.environ.get("ALLM_WIRE") or Path(__file__).resolve().parents[1] / ".." / "shared" / "wire")
DEVIATIONS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "wire_deviations.json").read_text()
)

Record = dict[str, Any]

# The recordings' word for an error, by our reason.
_KINDS = {
    "rate_limited": {"rate_limit"},
    "quota_exceeded": {"quota", "rate_limit"},
    "authentication_failed": {"authentication"},
    "permission_denied": {"permission"},
    "not_found": {"not_found"},
    "invalid_request": {"invalid_request", "too_large", "conflict"},
    "context_length_exceeded": {"context_length"},
    "content_filter": {"content_filter"},
    "overloaded": {"overloaded"},
    "provider_unavailable": {"server"},
    "timeout": {"timeout"},
    "provider_error": {"unknown", "conflict"},
    "protocol_error": {"unknown"},
    "malformed_response": {"unknown"},
}


@cache
def records(endpoint: str) -> tuple[Record, ...]:
    """Every exchange of `ENDPOINT.jsonl`; none where the recordings are not there."""
    path = WIRE / f"{endpoint}.jsonl"
    if not path.exists():
        return ()
    with path.open(encoding="ascii") as lines:
        return tuple(json.loads(line) for line in lines)


def body_of(record: Record) -> bytes:
    response = record["response"]
    text: str = response["body"] if "body" in response else "".join(response["sse"])
    return text.encode()


def head_of(record: Record) -> HttpHead:
    return HttpHead(record["response"]["status"], dict(record["response"]["headers"]))


def splits(body: bytes, seed: int = 0) -> Iterator[list[bytes]]:
    """Every cut in two of bodies up to 8 KiB; else 500 seeded cuts, all line and UTF-8 borders."""
    if len(body) <= 8192:
        cuts: Iterable[int] = range(1, len(body))
    else:
        chosen = random.Random(seed).sample(range(1, len(body)), 500)
        yield _at(body, chosen)
        cuts = chosen[:50]
        yield _at(body, [at for at in range(1, len(body)) if 10 in body[at - 1 : at + 1]])
        yield _at(body, [at for at in range(1, len(body)) if body[at] >= 0x80])
    for at in cuts:
        yield [body[:at], body[at:]]


def _at(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted(cuts), len(body)]
    return [body[start:stop] for start, stop in pairwise(borders)]


def refused(adapter: Any, record: Record, pieces: Iterable[bytes]) -> ErrorInfo | None:
    """What the adapter makes of a recorded refusal; `None` where the record is an answer."""
    head = head_of(record)
    if head.status < 400:
        return None
    refusal: ErrorInfo = adapter.explain(head.status, head.headers, b"".join(pieces))
    return refusal


def decode(adapter: WireAdapter, record: Record, pieces: Iterable[bytes]) -> list[Event]:
    """The events of a recorded answer that comes in these reads."""
    return events_of(adapter.decoder(Request(model=_model(record)), head_of(record), CallContext()), pieces)


def result_of(adapter: WireAdapter, record: Record, pieces: Iterable[bytes]) -> Response | ErrorInfo:
    """The folded answer, or the refusal."""
    return refused(adapter, record, pieces) or folded(decode(adapter, record, pieces))


def _model(record: Record) -> str | None:
    sent = record["request"].get("json")
    return sent.get("model") if isinstance(sent, dict) else None


def compare(record: Record, result: Response | ErrorInfo) -> list[str]:
    """Differences between a result and the record's `expected`; none is a pass.

    The few that are meant stand in `wire_deviations.json`, each with its reason.
    """
    allowed = tuple(DEVIATIONS.get(record["id"], {}).get("allow", ()))
    return [line for line in _differences(record, result) if not (allowed and line.startswith(allowed))]


def _differences(record: Record, result: Response | ErrorInfo) -> list[str]:
    expected = record["expected"]
    if expected["kind"] == "error":
        info = result if isinstance(result, ErrorInfo) else result.error
        return _error(expected["error"], info)
    if isinstance(result, ErrorInfo):
        return [f"refused: {result.reason}: {result.message}"]
    if expected["error"] is None and result.error is not None:
        return [f"failed: {result.error.reason}: {result.error.message}"]
    found = [
        *_equal("text", expected["text"], result.text),
        *_equal("reasoning", expected["reasoning"]["text"], result.reasoning),
        *_opaque(expected["reasoning"], result),
        *_calls(expected["tool_calls"], result),
        *_usage(expected["usage"], result.usage),
    ]
    if expected["error"] is not None:
        return found + _error(expected["error"], result.error)
    return found + _finish(expected["finish"], result) + _rest(expected, result)


def _equal(name: str, expected: Any, actual: Any) -> list[str]:
    return [] if expected == actual else [f"{name}: expected {expected!r:.300}, got {actual!r:.300}"]


def _error(expected: dict[str, Any], info: ErrorInfo | None) -> list[str]:
    if info is None:
        return ["no error"]
    found = []
    if not _KINDS.get(info.reason, set()) & {expected["kind"], expected["kind_by_status"]}:
        found.append(f"error: expected {expected['kind']}, got {info.reason}: {info.message}")
    if expected["status"] >= 400:
        found += _equal("status", expected["status"], info.status)
    if expected["code"] is not None:
        found += _equal("code", str(expected["code"]), info.code)
    message = redacted(expected["message"] or "")
    if message[:150] not in info.message:
        found.append(f"message: expected {message!r}, got {info.message!r}")
    return found


def _opaque(expected: dict[str, Any], result: Response) -> list[str]:
    """Counts of what must go back unread: signatures, redacted thinking and encrypted items."""
    parts = result.message.parts
    thoughts = [part for part in parts if type(part) is ReasoningPart]
    details = [detail for part in thoughts for detail in part.provider_data.get("reasoning_details", ())]
    items = [part.provider_data.get("item", {}) for part in thoughts]
    signatures = sum(bool(part.signature) for part in thoughts)
    signatures += sum("thoughtSignature" in part.provider_data for part in parts)
    encrypted = sum(detail.get("type") == "reasoning.encrypted" for detail in details)
    encrypted += sum(bool(item.get("encrypted_content")) for item in items)
    return [
        *_equal("signatures", expected["signatures"], signatures),
        *_equal("redacted", expected["redacted"], sum(bool(part.redacted) for part in thoughts)),
        *_equal("encrypted", expected["encrypted"], encrypted),
    ]


def _server_tools(expected: list[dict[str, Any]], result: Response) -> list[str]:
    """What the provider ran itself, in order, as opaque parts that name their type."""
    items = [part.data for part in result.message.parts if type(part) is OpaquePart]
    found = [item.get("type") or next(iter(item), None) for item in items if isinstance(item, dict)]
    return _equal("server tools", [item["type"] for item in expected], found)


def _calls(expected: list[dict[str, Any]], result: Response) -> list[str]:
    calls = result.tool_calls
    if len(calls) != len(expected):
        return [f"tool calls: expected {[c['name'] for c in expected]}, got {[c.name for c in calls]}"]
    found = []
    ids = [call.id for call in calls]
    if len(set(ids)) != len(ids) or not all(ids):
        found.append(f"tool call ids are not unique: {ids}")
    for want, call in zip(expected, calls, strict=True):
        found += _equal("name", want["name"], call.name) + _equal("kind", want["kind"], call.kind)
        if want["id"]:
            found += _equal("id", want["id"], call.id)
        if want["kind"] == "function":
            arguments, invalid = call.arguments, call.arguments_invalid
            if result.error is not None:  # a call of a broken answer is marked so, and never run
                again = parsed_call(call.id, call.name, call.raw_arguments or "")
                arguments, invalid = again.arguments, again.arguments_invalid
            found += _arguments(want, arguments, invalid)
    return found


def _arguments(want: dict[str, Any], arguments: dict[str, Any], invalid: bool) -> list[str]:
    if want.get("arguments_invalid"):
        return [] if invalid else ["invalid arguments were taken"]
    accepted = [want["arguments"], *want.get("arguments_accept", ())]
    return [] if arguments in accepted and not invalid else _equal("arguments", accepted, arguments)


_COUNTERS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cached_input_tokens",
    "cache_write": "cache_write_input_tokens",
    "reasoning": "reasoning_tokens",
    "total": "total_tokens",
}


def _usage(expected: dict[str, Any] | None, usage: Usage | None) -> list[str]:
    if expected is None:
        return [] if usage is None else ["usage where none was sent"]
    if usage is None:
        return ["no usage"]
    found = []
    for name, field in _COUNTERS.items():
        accepted = expected.get(f"{name}_accept") or [expected[name]]
        if getattr(usage, field) not in accepted:
            found.append(f"usage {name}: expected {accepted}, got {getattr(usage, field)}")
    return found


def _finish(expected: dict[str, Any], result: Response) -> list[str]:
    accepted = [expected["normalized"], *expected.get("accept", ())]
    word = "other" if result.finish_reason == "paused" else result.finish_reason  # they have no word for it
    found = [] if word in accepted else _equal("finish", accepted, word)
    return found + _equal("raw finish", expected["raw"], result.raw_finish_reason)


def _rest(expected: dict[str, Any], result: Response) -> list[str]:
    images = [part for part in result.message.parts if type(part) is ImagePart]
    return [
        *_server_tools(expected.get("server_tools", []), result),
        *_equal("refusal", expected["refusal"] or None, result.refusal),
        *_equal("images", len(expected["images"]), len(images)),
        *_equal("annotations", expected["annotations"], len(result.metadata.get("annotations", ()))),
        *_equal("id", expected["id"] or None, result.id),
        *_equal(
            "model",
            expected["model"] or _NOTHING,
            result.model or _NOTHING if expected["model"] else _NOTHING,
        ),
    ]


_NOTHING = "(not sent)"
