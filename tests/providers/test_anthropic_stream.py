"""Answers of Anthropic Messages that no recording holds: cut, odd, hostile, and from later versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allm.data.content import OpaquePart, Origin, ReasoningPart, TextPart, ToolCall
from allm.data.events import (
    MessageCompleted,
    RawChunk,
    TextDelta,
    ToolCallStarted,
    UsageReported,
)
from allm.data.messages import assistant, system, user
from allm.data.requests import Request, ResponseFormat, json_schema
from allm.data.responses import Response
from allm.folds import ResponseFold
from allm.ports import CallContext, Decoder, HttpHead
from allm.preparing import fingerprint
from allm.providers.anthropic.messages import Anthropic
from tests.decoder_support import SSE, readers

START: dict[str, Any] = {
    "type": "message_start",
    "message": {"id": "msg_1", "model": "claude-x", "content": [], "usage": {"input_tokens": 5}},
}
STOP: dict[str, Any] = {"type": "message_stop"}
OLDER = "claude-sonnet-4-0"
PERSON = json_schema("person", {"type": "object", "properties": {"age": {"type": "integer"}}})


def decoder(
    kind: str = SSE, request: Request | None = None, headers: dict[str, str] | None = None
) -> Decoder:
    head = HttpHead(200, {"content-type": kind, **(headers or {})})
    return Anthropic().decoder(request or Request(model="m"), head, CallContext())


events, answered, failure = readers(decoder)


def answer(body: bytes, **options: Any) -> Response:
    response = answered(body, **options)
    assert response.error is None
    return response


def sse(*payloads: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads)


def opened(start: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": start}


def grown(delta: Any, index: Any = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    stop = {"type": "content_block_stop", "index": index}
    return [opened(start, index), *(grown(delta, index) for delta in deltas), stop]


def text(piece: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": piece}


def arguments(piece: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


def ending(reason: str | None = "end_turn", **fields: Any) -> dict[str, Any]:
    delta = {"stop_reason": reason, "stop_sequence": None, **fields}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}}


def stream(*blocks: list[dict[str, Any]], reason: str | None = "end_turn", **fields: Any) -> bytes:
    return sse(START, *(event for each in blocks for event in each), ending(reason, **fields), STOP)


def whole(*blocks: dict[str, Any], reason: str = "end_turn", **fields: Any) -> bytes:
    message = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-x",
        "content": blocks,
        "stop_reason": reason,
    }
    return json.dumps({**message, "usage": {"input_tokens": 5, "output_tokens": 7}, **fields}).encode()


HELLO = block(0, {"type": "text", "text": ""}, text("hel"), text("lo"))
CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}


def test_a_stream_and_a_body_are_one_answer() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "hello", "citations": [{"type": "char_location"}]},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}},
        {**CALL, "input": {"b": 1.5, "a": "é"}, "caller": {"type": "direct"}, "toolset_name": None},
    ]
    streamed = answer(stream(*(block(i, start) for i, start in enumerate(blocks)), reason="tool_use"))
    assert streamed == answer(whole(*blocks, reason="tool_use"), kind="application/json")
    thought, redacted, said, item, call = streamed.message.parts
    origin = Origin("anthropic", "messages", "m")
    assert isinstance(thought, ReasoningPart)
    assert isinstance(redacted, ReasoningPart)
    assert (thought.text, thought.signature, redacted.redacted) == ("Hm.", "sig", "secret")
    assert said == TextPart("hello", provider_data={"citations": [{"type": "char_location"}]}, origin=origin)
    assert item == OpaquePart(data=blocks[3], origin=origin)
    assert call == ToolCall(
        "toolu_1",
        "add",
        {"b": 1.5, "a": "é"},
        r'{"b": 1.5, "a": "\u00e9"}',
        provider_data={"caller": {"type": "direct"}},
        origin=origin,
    )
    assert streamed.metadata["annotations"] == [{"type": "char_location"}]
    assert streamed.finish_reason == "tool_calls"


def test_text_is_shown_as_it_comes() -> None:
    found = events(stream(HELLO))
    assert [event.text for event in found if isinstance(event, TextDelta)] == ["hel", "lo"]
    assert isinstance(found[-2], UsageReported)


def test_deltas_of_a_citation_a_signature_and_a_compaction() -> None:
    response = answer(
        stream(
            block(0, {"type": "thinking", "thinking": ""}, {"type": "signature_delta", "signature": "s"}),
            block(1, {"type": "text"}, text("a"), {"type": "citations_delta", "citation": {"x": 1}}),
            block(
                2,
                {"type": "compaction", "content": None, "signature": "c"},
                {"type": "compaction_delta", "content": "sum", "encrypted_content": "e"},
            ),
        )
    )
    thought, said, item = response.message.parts
    assert isinstance(thought, ReasoningPart)
    assert (thought.text, thought.signature) == ("", "s")
    assert said.provider_data == {"citations": [{"x": 1}]}
    assert isinstance(item, OpaquePart)
    assert item.data == {"type": "compaction", "content": "sum", "signature": "c", "encrypted_content": "e"}


def test_thinking_is_bound_to_the_conversation_before_it() -> None:
    before = (system("s"), user("q"))
    request = Request(model="m", system="be brief", messages=before)
    thinking = block(0, {"type": "thinking", "thinking": "Hm.", "signature": "s"})
    first = answer(stream(thinking), request=request).message.parts[0].origin
    assert first == Origin("anthropic", "messages", "m", fingerprint(before, "be brief"))
    resumed = Request(model="m", system="be brief", messages=(*before, assistant("so far")))
    assert answer(stream(thinking), request=resumed).message.parts[0].origin == first
    formed = Request(model="m", messages=before, response_format=ResponseFormat("json_object"))
    assert answer(stream(thinking), request=formed).message.parts[0].origin != first


def test_server_tool_input_in_pieces() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    whole_input = block(0, search, arguments('{"q": '), arguments('"x"}'))
    cut = block(1, search, arguments('{"q": '))
    items = [part.data for part in answer(stream(whole_input, cut)).message.parts if type(part) is OpaquePart]
    assert [item["input"] for item in items] == [{"q": "x"}, {}]


@pytest.mark.parametrize(
    ("start", "deltas", "expected", "raw"),
    [
        ({}, ["", '{"a"', ":1}"], {"a": 1}, '{"a":1}'),
        ({}, [], {}, ""),
        ({}, ["  "], {}, "  "),
        ({"a": 1}, [], {"a": 1}, '{"a": 1}'),
        ({"a": 1}, ['{"a":2}'], {"a": 2}, '{"a":2}'),
        (None, [], {}, ""),
        ([1], [], None, "[1]"),
        ({}, ['{"a":'], None, '{"a":'),
    ],
)
def test_arguments(start: Any, deltas: list[str], expected: dict[str, Any] | None, raw: str) -> None:
    call = answer(stream(block(0, {**CALL, "input": start}, *map(arguments, deltas)))).tool_calls[0]
    assert (call.arguments, call.raw_arguments) == (expected or {}, raw)
    assert call.arguments_invalid == (expected is None)


def test_calls_in_turn_without_ids_and_with_the_same() -> None:
    starts: list[dict[str, Any]] = [CALL, CALL, {"type": "tool_use", "name": "add"}]
    started = [opened(start, index) for index, start in enumerate(starts)]
    deltas = [grown(arguments(piece), index) for piece in ('{"a"', ":1}") for index in range(3)]
    found = events(sse(START, *started, *deltas, ending("tool_use"), STOP))
    ids = [event.id for event in found if isinstance(event, ToolCallStarted)]
    assert (ids[0], len(set(ids)), all(ids)) == ("toolu_1", 3, True)
    fold = ResponseFold()
    for event in found:
        fold.add(event)
    assert [call.arguments for call in fold.response.tool_calls] == [{"a": 1}] * 3


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "paused"),
        ("compaction", "paused"),
        ("refusal", "content_filter"),
        ("pondering", "other"),
    ],
)
def test_stop_reasons(reason: str, word: str) -> None:
    response = answer(stream(HELLO, reason=reason))
    assert (response.finish_reason, response.raw_finish_reason) == (word, reason)


@pytest.mark.parametrize(
    ("reason", "word"),
    [("tool_use", "tool_calls"), ("end_turn", "tool_calls"), ("max_tokens", "length"), ("new", "tool_calls")],
)
def test_calls_are_read_from_the_content(reason: str, word: str) -> None:
    assert answer(stream(block(0, CALL), reason=reason)).finish_reason == word


def test_what_the_ending_says() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    container = {"id": "c1", "expires_at": "2026-11-01T00:00:00Z"}
    body = stream(HELLO, reason="refusal", stop_details=details, stop_sequence="END", container=container)
    response = answer(body)
    assert response.metadata == {"stop_details": details, "stop_sequence": "END"}
    assert response.provider_data == {"container": container}
    assert response.message.metadata == {"anthropic": {"container": "c1"}}
    assert response == answer(
        whole(
            {"type": "text", "text": "hello"},
            reason="refusal",
            stop_details=details,
            stop_sequence="END",
            container=container,
        ),
        kind="application/json",
    )


def test_usage_is_merged_and_never_added() -> None:
    start = {**START, "message": {"id": "m", "usage": {
        "input_tokens": 5, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 100,
        "output_tokens": 1, "service_tier": "standard",
    }}}  # fmt: skip
    end = {**ending(), "usage": {
        "input_tokens": 6, "cache_read_input_tokens": None, "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }}  # fmt: skip
    response = answer(sse(start, *HELLO, end, STOP))
    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_input_tokens) == (116, 10, 100)
    assert (usage.output_tokens, usage.reasoning_tokens, usage.total_tokens) == (7, 3, None)
    assert usage.raw["input_tokens"] == 6
    assert response.metadata == {"service_tier": "standard"}


def test_odd_usage_costs_no_answer() -> None:
    end = {**ending(), "usage": {"input_tokens": "5", "output_tokens": -3.5, "output_tokens_details": 1}}
    usage = answer(sse(START, *HELLO, end, STOP)).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (None, None)
    none = {**ending(), "usage": [1]}
    assert answer(sse({**START, "message": {"id": "m"}}, *HELLO, none, STOP)).usage is None


def test_a_second_start_is_a_new_try() -> None:
    first = [*HELLO, *block(1, CALL, arguments('{"a"'))[:-1]]
    again = {**START, "message": {"id": "msg_2", "usage": {"input_tokens": 6}}}
    response = answer(sse(START, *first, again, *block(0, {"type": "text", "text": "b"}), ending(), STOP))
    assert (response.text, response.tool_calls, response.id) == ("b", (), "msg_1")
    assert response.finish_reason == "stop"
    assert response.usage is not None
    assert response.usage.input_tokens == 6


@pytest.mark.parametrize(
    "body",
    [
        sse(START, *HELLO[:-1], ending(), STOP),  # the block is not closed
        sse(START, *HELLO, ending()),  # no message_stop
        sse(START, *HELLO, ending()) + b"data: [DONE]\n\n",
        sse(START, *HELLO, {**ending(), "usage": None}, STOP) + b"data: [DONE]\n\n",
        sse(START, *HELLO, ending(), STOP, STOP, *HELLO),
        sse(START, {"type": "ping"}, {"type": "ping", "index": "x"}, *HELLO, ending(), STOP),
        sse(*HELLO, ending(), STOP),  # no message_start
        sse(START, HELLO[0], *HELLO, ending(), STOP),
        sse(
            START,
            *HELLO[:2],
            grown(None),
            *HELLO[2:],
            ending(),
        ),
        sse(START, {"type": "content_block_stop", "index": 9}, *HELLO, ending(), STOP),
        sse(START, *block(10**9, HELLO[0]["content_block"], text("hello")), ending(), STOP),
    ],
)
def test_whole_all_the_same(body: bytes) -> None:
    response = answer(body)
    assert (response.text, response.finish_reason) == ("hello", "stop")


def test_text_in_the_start_of_a_block() -> None:
    assert answer(stream(block(0, {"type": "text", "text": "hel"}, text("lo")))).text == "hello"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "future_event", "delta": "text", "index": "zero"},
        {"type": "future_event", "usage": {"x": 1}},
        {"no": "type"},
        {"type": ["odd"], "delta": 5},
        grown({"type": "future_delta", "text": {"a": 1}}),
        grown({"type": "future_delta", "more": 1}),
        grown(text("stray"), 7),
    ],
)
def test_events_of_later_versions_pass(event: dict[str, Any]) -> None:
    body = sse(START, *HELLO[:2], event, *HELLO[2:], ending(), STOP)
    assert answer(body).text == "hello"
    assert [raw.data for raw in events(body) if isinstance(raw, RawChunk)] == [event]


@pytest.mark.parametrize(
    "start",
    [
        {"type": "thinking", "thinking": "a"},
        {"type": "redacted_thinking", "data": "a"},
        {"type": "text", "text": "a"},
        CALL,
        {**CALL, "name": "person"},
    ],
)
def test_a_delta_of_a_later_version_leaves_its_block_as_it_is(start: dict[str, Any]) -> None:
    request = Request(model=OLDER, response_format=PERSON)
    delta = {"type": "future_delta"}
    found = [events(stream(block(0, start, *deltas)), request=request) for deltas in ((), (delta,))]
    shown = [event for event in found[1] if event not in found[0]]
    assert [event.data["delta"] for event in shown if isinstance(event, RawChunk)] == [delta]
    assert len(shown) == 1


def test_a_block_of_a_later_version_is_kept_where_it_is_whole() -> None:
    hologram = {"type": "hologram", "text": 5, "vertices": [1]}
    response = answer(stream(block(0, hologram), [{**event, "index": 1} for event in HELLO]))
    assert response.text == "hello"
    assert response.message.parts[0] == OpaquePart(data=hologram, origin=Origin("anthropic", "messages", "m"))
    signed = {"type": "signature_delta", "signature": "s"}
    told = answer(stream(block(0, {"type": "connector_text"}, text("a"), text("b"), signed))).message.parts[0]
    assert isinstance(told, OpaquePart)
    assert told.data == {"type": "connector_text", "text": "ab", "signature": "s"}
    delta = {"type": "hologram_delta", "vertices": [2]}
    cut = answer(stream(block(0, hologram, delta), [{**event, "index": 1} for event in HELLO]))
    assert cut.message == assistant("hello")
    assert "'hologram'" in cut.warnings[0]


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (sse(STOP), SSE, "stream_interrupted"),
        (sse(START, *HELLO), SSE, "stream_interrupted"),
        (sse(START, *HELLO, STOP), SSE, "stream_interrupted"),
        (sse(START, *HELLO, ending(None), STOP), SSE, "stream_interrupted"),
        (sse(START, *HELLO) + b"data: [DONE]\n\n", SSE, "stream_interrupted"),
        (stream(HELLO, reason="error"), SSE, "provider_error"),
        (sse(START, *HELLO, ending("error")), SSE, "provider_error"),
        (whole(reason="error"), "application/json", "provider_error"),
        (sse(START, HELLO[0], grown({"type": "text_delta", "text": 4})), SSE, "malformed_response"),
        (sse(START, HELLO[0], grown(text("a"), "zero")), SSE, "malformed_response"),
        (sse(START, opened({"type": "text", "text": 4})), SSE, "malformed_response"),
        (sse(START, 5), SSE, "malformed_response"),
        (b"null", "application/json", "malformed_response"),
        (b"[]", "application/json", "malformed_response"),
        (b'{"id":"m","type":"message"}', "application/json", "malformed_response"),
        (b'{"content":["text"]}', "application/json", "malformed_response"),
        (b'{"content":[{"input":' + b'{"a":' * 50_000, "application/json", "malformed_response"),
    ],
)
def test_never_a_short_or_empty_success(body: bytes, kind: str, reason: str) -> None:
    assert failure(body, kind=kind).reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'event: error\ndata: {"error":{"type":"overloaded_error","message":"m"}}\n\n', "overloaded"),
        (sse({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}), "overloaded"),
        (sse({"type": "error", "error": {"type": "api_error", "message": "m"}}), "provider_unavailable"),
        (sse({"type": "error", "error": {"type": "rate_limit_error", "message": "m"}}), "rate_limited"),
        (sse({"error": "boom"}), "provider_error"),
        (json.dumps({"type": "error", "error": {"type": "overloaded_error"}}).encode(), "overloaded"),
    ],
)
def test_an_error_in_the_answer(body: bytes, reason: str) -> None:
    assert failure(body).reason == reason


def test_what_came_before_an_error_is_kept() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "m"}, "request_id": "req_1"}
    found = events(sse(START, *HELLO[:2], error, *HELLO))
    fold = ResponseFold()
    for event in found:
        fold.add(event)
    response = fold.response
    assert (response.text, response.finish_reason) == ("hel", "error")
    assert response.usage is not None
    assert response.usage.input_tokens == 5
    assert response.error is not None
    assert (response.error.request_id, response.error.model) == ("req_1", "claude-x")


def test_request_id() -> None:
    last = events(stream(HELLO), headers={"request-id": "req_2"})[-1]
    assert isinstance(last, MessageCompleted)
    assert last.response.request_id == "req_2"


@pytest.mark.parametrize(
    ("pieces", "start", "expected"),
    [
        (['{"age"', ": 3}"], {}, '{"age": 3}'),
        ([], {"age": 3}, '{"age": 3}'),
        ([], {}, "{}"),
    ],
)
def test_the_tool_that_stands_in_for_structured_output(
    pieces: list[str], start: dict[str, Any], expected: str
) -> None:
    request = Request(model=OLDER, response_format=PERSON)
    called = block(0, {**CALL, "name": "person", "input": start}, *map(arguments, pieces))
    found = events(stream(called, reason="tool_use"), request=request)
    assert not any(isinstance(event, ToolCallStarted) for event in found)
    response = answer(stream(called, reason="tool_use"), request=request)
    assert response.message == assistant(expected)
    assert (response.finish_reason, response.raw_finish_reason) == ("stop", "tool_use")
    assert answer(stream(called, reason="max_tokens"), request=request).finish_reason == "length"


def test_other_tools_are_called_as_ever() -> None:
    request = Request(model=OLDER, response_format=PERSON)
    called = answer(stream(block(0, CALL), reason="tool_use"), request=request)
    assert (called.finish_reason, called.tool_calls[0].name) == ("tool_calls", "add")
    plain = answer(stream(block(0, {**CALL, "name": "person"}), reason="tool_use"))
    assert plain.tool_calls[0].name == "person"


def test_what_json_cannot_hold_makes_the_arguments_invalid() -> None:
    twice = whole({**CALL, "input": "X"}, reason="tool_use").replace(b'"X"', b'{"a": 1, "a": 2}')
    assert answer(twice, kind="application/json").tool_calls[0].arguments_invalid
    body = whole({**CALL, "input": "X"}, reason="tool_use").replace(b'"X"', b'{"a": NaN}')
    assert answer(body, kind="application/json").tool_calls[0].arguments_invalid
    lone = whole({**CALL, "input": "X"}, reason="tool_use").replace(b'"X"', b'{"a": "\\ud83d"}')
    assert answer(lone, kind="application/json").tool_calls[0].arguments == {"a": "\ufffd" * 3}
