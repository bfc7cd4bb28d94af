"""Answers that no recording holds: wrong bodies, cut streams, hostile payloads, odd tool calls."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import pytest

from allm.data.content import AudioPart, ImagePart, ToolCall
from allm.data.events import MessageCompleted, ToolCallStarted
from allm.data.messages import assistant, user
from allm.data.requests import Request
from allm.limits import Limits
from allm.ports import CallContext, Decoder, HttpHead
from allm.providers.openai.chat import OpenAIChat
from tests.decoder_support import SSE, readers


def decoder(
    kind: str = SSE, status: int = 200, request: Request | None = None, limits: Limits | None = None
) -> Decoder:
    head = HttpHead(status, {"content-type": kind})
    return OpenAIChat().decoder(request or Request(), head, CallContext(limits=limits or Limits()))


events, answer, failure = readers(decoder)


def stream(*deltas: dict[str, Any], finish: str | None = "stop", done: bool = True) -> bytes:
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta} for delta in deltas]
    if finish is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    lines = [
        b"data: " + json.dumps({"id": "i", "choices": [choice]}).encode() + b"\n\n" for choice in choices
    ]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


HELLO = stream({"content": "hello"})
WHOLE = b'{"id":"i","choices":[{"index":0,"message":{"content":"hello"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    "kind", [SSE, "application/json", "text/plain", "", "TEXT/EVENT-STREAM;charset=UTF-8"]
)
@pytest.mark.parametrize(
    "body", [HELLO, WHOLE, b"\r\n  \n" + HELLO, b"\n \n" + WHOLE, b"\xef\xbb\xbf" + HELLO]
)
def test_the_first_bytes_decide(kind: str, body: bytes) -> None:
    response = answer(body, kind=kind)
    assert (response.text, response.finish_reason, response.error) == ("hello", "stop", None)
    assert response == answer(*(body[at : at + 1] for at in range(len(body))), kind=kind)


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", SSE, "stream_interrupted"),
        (b": ping\n\n", SSE, "stream_interrupted"),
        (b"data: [DONE]\n\n", SSE, "stream_interrupted"),
        (stream({"content": "a"}, finish=None), SSE, "stream_interrupted"),
        (stream({"content": "a"}, finish=None, done=False), SSE, "stream_interrupted"),
        (b"", "application/json", "protocol_error"),
        (b"  \n", "application/json", "protocol_error"),
        (b"<!doctype html><p>hi", SSE, "protocol_error"),
        (b"<html>", "text/html", "protocol_error"),
        (b"hello there", "text/plain", "protocol_error"),
        (b"null", "application/json", "malformed_response"),
        (b"{}", "application/json", "malformed_response"),
        (b'{"choices":[]}', "application/json", "malformed_response"),
        (WHOLE[:-5], "application/json", "malformed_response"),
        (b"data: {oops\n\n", SSE, "malformed_response"),
        (b"data: 5\n\n", SSE, "malformed_response"),
        (b"data: null\n\n", SSE, "malformed_response"),
        (b'data: {"choices":[{"delta":{"content":5}}]}\n\n', SSE, "malformed_response"),
        (b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n', SSE, "malformed_response"),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', SSE, "malformed_response"),
        (b'data: {"error":' + b"[" * 100_000 + b"\n\n", SSE, "malformed_response"),
        (b'data: {"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n", SSE, "malformed_response"),
        (b'data: {"error":"slow down"}\n\n', SSE, "provider_error"),
        (b'data: {"object":"error","message":"m","code":429}\n\n', SSE, "rate_limited"),
        (b'data: {"message":"m","code":"insufficient_quota"}\n\n', SSE, "quota_exceeded"),
        (b'{"error":{"message":"m","code":503}}', SSE, "overloaded"),
        (b'[{"error":{"message":"m","code":401}}]', "application/json", "authentication_failed"),
        (stream({"content": "a"}, finish="error"), SSE, "provider_error"),
    ],
)
def test_never_an_empty_success(body: bytes, kind: str, reason: str) -> None:
    info = failure(body, kind=kind)
    assert info.reason == reason
    assert len(info.message) < 700
    assert failure(*(body[at : at + 64] for at in range(0, len(body), 64)), kind=kind) == info


def test_no_content_status() -> None:
    assert failure(kind=SSE, status=204).reason == "protocol_error"


def test_done_ends_at_once() -> None:
    decoder = OpenAIChat().decoder(Request(), HttpHead(200, {"content-type": SSE}), CallContext())
    assert isinstance(decoder.feed(HELLO)[-1], MessageCompleted)


def test_lenient_second_reading() -> None:
    chunk = b'data: {"id":7,"unused":NaN,"choices":[{"index":"0","delta":{"content":"a\\ud800b"}}]}\n\n'
    response = answer(chunk, stream())
    assert response.text == "a\ufffdb" or response.text == "a???b" or "\ud800" not in response.text
    response.text.encode()
    assert response.id == "7"


def test_unicode_separators_are_text() -> None:
    text = "a\u2028b\u2029c\u0085d"
    chunk = {"choices": [{"delta": {"content": text}}]}
    assert (
        answer(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n" + stream()).text == text
    )


def test_caps() -> None:
    assert failure(b"data: " + b"x" * 200, limits=Limits(event=100)).reason == "limit_exceeded"
    assert failure(WHOLE, kind="application/json", limits=Limits(body=20)).reason == "limit_exceeded"


def call(**fields: Any) -> dict[str, Any]:
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    return {"tool_calls": [{**fields, "function": function}]}


def test_interleaved_calls() -> None:
    body = stream(
        call(index=0, id="a", name="f", arguments=""),
        call(index=1, id="b", name="g", arguments='{"y"'),
        call(index=0, arguments='{"x":1}'),
        call(index=1, arguments=":2}"),
    )
    calls = answer(body).tool_calls
    assert [(c.id, c.name, c.arguments) for c in calls] == [("a", "f", {"x": 1}), ("b", "g", {"y": 2})]
    assert answer(body).finish_reason == "tool_calls"


def test_calls_without_ids_or_with_used_ones_get_their_own() -> None:
    used = (user("q"), assistant([ToolCall("a", "f"), ToolCall("call_2_1", "f")]))
    body = stream(
        call(index=0, name="f", arguments="{}"),
        call(index=0, name="f", arguments="{}"),
        call(id="a", name="f"),
    )
    ids = [c.id for c in answer(body, request=Request(messages=used)).tool_calls]
    assert len({*ids, "a", "call_2_1"}) == 5
    assert ids[0] == "call_2_0"


def test_name_and_id_in_every_delta() -> None:
    body = stream(*(call(index=0, id="a", name="f", arguments=piece) for piece in ('{"x"', ":1", "}")))
    assert [c.arguments for c in answer(body).tool_calls] == [{"x": 1}]


def test_arguments_as_an_object_and_broken_ones() -> None:
    body = stream(
        call(index=0, id="a", name="f", arguments={"x": 1}), call(index=1, id="b", name="g", arguments="{")
    )
    first, second = answer(body).tool_calls
    assert (first.arguments, first.arguments_invalid) == ({"x": 1}, False)
    assert (second.arguments, second.arguments_invalid, second.raw_arguments) == ({}, True, "{")


def test_custom_call() -> None:
    delta = {
        "tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "run", "input": "ls"}}]
    }
    (found,) = answer(stream(delta)).tool_calls
    assert (found.kind, found.name, found.raw_arguments) == ("custom", "run", "ls")


def test_positions_are_those_of_first_appearance() -> None:
    body = stream({"reasoning": "r"}, {"content": "t"}, call(index=0, id="a", name="f"), {"content": "u"})
    response = answer(body)
    assert [type(part).__name__ for part in response.message.parts] == [
        "ReasoningPart", "TextPart", "ToolCall", "TextPart",
    ]  # fmt: skip
    assert [event.index for event in events(body) if isinstance(event, ToolCallStarted)] == [2]


def test_images_and_audio_become_parts() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}
    sound = {"audio": {"id": "s", "data": "YWJj", "transcript": "hi"}}
    parts = answer(stream({"content": "a"}, {"images": [image]}, sound, sound)).message.parts
    assert isinstance(parts[1], ImagePart)
    assert parts[1].image.data == b"abc"
    assert isinstance(parts[2], AudioPart)
    assert (parts[2].data, parts[2].transcript) == (b"abcabc", "hihi")


def test_partial_text_and_usage_survive_an_error() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n'
    response = answer(
        stream({"content": "hel"}, finish=None, done=False) + usage + b'data: {"error":"no"}\n\n'
    )
    assert (response.text, response.finish_reason) == ("hel", "error")
    assert response.usage is not None
    assert response.usage.input_tokens == 3


def seconds(count: int) -> float:
    body = stream(*[{"content": "x"}] * count)
    start = process_time()
    assert len(answer(*(body[at : at + 1000] for at in range(0, len(body), 1000))).text) == count
    return process_time() - start


def test_linear_time() -> None:
    small = min(seconds(2_000) for _ in range(3))
    assert min(seconds(8_000) for _ in range(3)) < 8 * small


def test_done_after_usage_ends_an_answer_that_never_had_a_finish_reason() -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
    start = stream({"content": "Hello"}, finish=None, done=False)
    whole = answer(start + usage + b"data: [DONE]\n\n")
    assert (whole.text, whole.finish_reason, whole.raw_finish_reason) == ("Hello", "other", None)
    assert failure(start + b"data: [DONE]\n\n").reason == "stream_interrupted"
    assert failure(start + usage).reason == "stream_interrupted"
