"""Answers of the Responses API that no recording holds: cut streams, lying servers, odd items."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import pytest

from allm.data.content import (
    AudioPart,
    ImagePart,
    OpaquePart,
    Origin,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from allm.data.events import (
    MessageCompleted,
    MessageStarted,
    RawChunk,
    StreamFailed,
    TextDelta,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from allm.data.messages import assistant, user
from allm.data.requests import Request, ToolSpec
from allm.limits import Limits
from allm.ports import CallContext, Decoder, HttpHead
from allm.preparing import fingerprint
from allm.providers.openai.responses import OpenAIResponses
from tests.decoder_support import SSE, readers

Data = dict[str, Any]


def decoder(
    kind: str = SSE, request: Request | None = None, limits: Limits | None = None, **options: Any
) -> Decoder:
    context = CallContext(limits=limits or Limits(), adapter_options=options)
    return OpenAIResponses().decoder(request or Request(), HttpHead(200, {"content-type": kind}), context)


events, answer, failure = readers(decoder)


def line(type: str | None = None, **fields: Any) -> bytes:
    payload = {"type": type, **fields} if type else fields
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def added(index: int, **item: Any) -> bytes:
    return line("response.output_item.added", output_index=index, item=item)


def done(index: int, **item: Any) -> bytes:
    return line("response.output_item.done", output_index=index, item=item)


def said(piece: str, index: int = 0, **fields: Any) -> bytes:
    return line("response.output_text.delta", output_index=index, content_index=0, delta=piece, **fields)


def end(*output: Data, status: str = "completed", **fields: Any) -> bytes:
    response = {"id": "resp", "model": "m", "status": status, "output": list(output), **fields}
    return line(f"response.{status}", response=response)


def message(text: str, id: str = "msg", **fields: Any) -> Data:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": id, "role": "assistant", "content": content, **fields}


CREATED = line(
    "response.created", response={"id": "resp", "model": "m", "status": "in_progress", "output": []}
)
HELLO = CREATED + added(0, type="message", id="msg") + said("hello") + done(0, **message("hello")) + end()
WHOLE = json.dumps({"id": "resp", "model": "m", "status": "completed", "output": [message("hello")]}).encode()


@pytest.mark.parametrize("kind", [SSE, "application/json", "text/plain", ""])
@pytest.mark.parametrize(
    "body", [HELLO, WHOLE, b"\r\n \n" + HELLO, b"\n \n" + WHOLE, HELLO.replace(b"\n", b"\r\n")]
)
def test_the_first_bytes_decide(kind: str, body: bytes) -> None:
    response = answer(body, kind=kind)
    assert (response.text, response.finish_reason, response.error) == ("hello", "stop", None)
    assert (response.id, response.model, response.raw_finish_reason) == ("resp", "m", "completed")
    assert response == answer(*(body[at : at + 1] for at in range(len(body))), kind=kind)


def test_stream_and_whole_body_fold_alike() -> None:
    assert answer(HELLO).message == answer(WHOLE, kind="application/json").message


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", SSE, "stream_interrupted"),
        (b": ping\n\n", SSE, "stream_interrupted"),
        (b"data: [DONE]\n\n", SSE, "stream_interrupted"),
        (CREATED + said("a"), SSE, "stream_interrupted"),
        (CREATED + said("a") + done(0, **message("a")) + b"data: [DONE]\n\n", SSE, "stream_interrupted"),
        (b"  \n", "application/json", "protocol_error"),
        (b"<html>", "text/html", "protocol_error"),
        (b"null", "application/json", "malformed_response"),
        (b"{}", "application/json", "malformed_response"),
        (WHOLE[:-5], "application/json", "malformed_response"),
        (b"data: {oops\n\n", SSE, "malformed_response"),
        (b"data: 5\n\n", SSE, "malformed_response"),
        (line("response.output_text.delta", delta=5), SSE, "malformed_response"),
        (line("response.audio.delta", delta="#"), SSE, "malformed_response"),
        (b'data: {"type":"response.created","response":' + b"[" * 100_000, SSE, "malformed_response"),
        (line("error", code="rate_limit_exceeded", message="slow"), SSE, "rate_limited"),
        (line("error", error={"code": "insufficient_quota", "message": "m"}), SSE, "quota_exceeded"),
        (b"event: error\n" + line(code="server_error", message="m"), SSE, "provider_unavailable"),
        (line(error={"code": 502, "message": "m"}), SSE, "provider_unavailable"),
        (line("error", input=[{}], error={"code": 429, "message": "m"}), SSE, "rate_limited"),
        (b'{"error":{"message":"m","code":503}}', SSE, "overloaded"),
        (b'{"detail":"m"}', "application/json", "provider_error"),
        (b'[{"error":{"message":"m","code":401}}]', "application/json", "authentication_failed"),
        (end(status="failed"), SSE, "provider_error"),
        (end(status="failed", error={"code": "server_error", "message": "m"}), SSE, "provider_unavailable"),
        (end(status="cancelled"), SSE, "cancelled"),
        (json.dumps({"status": "failed", "output": []}).encode(), "application/json", "provider_error"),
    ],
)
def test_never_an_empty_success(body: bytes, kind: str, reason: str) -> None:
    info = failure(body, kind=kind)
    assert info.reason == reason
    assert len(info.message) < 700
    assert failure(*(body[at : at + 64] for at in range(0, len(body), 64)), kind=kind) == info


def test_an_error_ends_the_answer_once() -> None:
    body = CREATED + line("error", code="server_error", message="m") + end(status="failed")
    assert [type(event) for event in events(body)] == [MessageStarted, StreamFailed]


def test_text_and_usage_of_a_failed_answer_are_kept_and_its_calls_are_not_run() -> None:
    call = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f"}
    body = CREATED + said("hel") + added(1, **call)
    body += line("response.function_call_arguments.delta", output_index=1, delta="{}")
    body += end(message("hello"), {**call, "arguments": "{}"}, status="failed", usage={"input_tokens": 3})
    response = answer(body)
    assert (response.text, response.finish_reason) == ("hello", "error")
    assert response.tool_calls[0].arguments_invalid is True
    assert response.usage is not None
    assert response.usage.input_tokens == 3


@pytest.mark.parametrize(
    ("status", "details", "finish", "raw"),
    [
        ("completed", None, "stop", "completed"),
        ("incomplete", {"reason": "max_output_tokens"}, "length", "incomplete:max_output_tokens"),
        ("incomplete", {"reason": "content_filter"}, "content_filter", "incomplete:content_filter"),
        ("incomplete", {"reason": "steered"}, "other", "incomplete:steered"),
        ("incomplete", None, "other", "incomplete"),
        ("queued", None, "other", "queued"),
        ("in_progress", None, "other", "in_progress"),
        ("brand_new", None, "other", "brand_new"),
    ],
)
def test_finish(status: str, details: Any, finish: str, raw: str) -> None:
    body = {"status": status, "incomplete_details": details, "output": [message("a")]}
    response = answer(json.dumps(body).encode(), kind="application/json")
    assert (response.finish_reason, response.raw_finish_reason) == (finish, raw)
    assert response.metadata.get("incomplete_details") == details


def test_a_last_event_without_a_response_ends_too() -> None:
    response = answer(CREATED + said("a") + line("response.completed"))
    assert (response.text, response.finish_reason) == ("a", "stop")


def test_event_lines_may_lie_or_name_what_the_data_does_not() -> None:
    lying = b"event: response.failed\n" + said("a")
    named = b"event: response.output_text.delta\n" + line(delta="b", output_index=0, content_index=0)
    assert answer(CREATED + lying + named + end()).text == "ab"


def test_unknown_events_pass() -> None:
    odd = [line("response.brand_new", delta={"a": 1}), line("response.keepalive"), line("x", item=5)]
    found = events(CREATED, *odd, HELLO[len(CREATED) :])
    shown = [event.data for event in found if isinstance(event, RawChunk)]
    assert [data["type"] for data in shown] == ["response.brand_new", "response.keepalive", "x"]
    assert isinstance(found[-1], MessageCompleted)


def test_started_comes_once_and_first() -> None:
    again = CREATED + line("response.in_progress", response={"id": "resp"}) + HELLO[len(CREATED) :]
    assert [type(event) for event in events(again)].count(MessageStarted) == 1
    late = events(said("a") + end())
    assert MessageStarted not in [type(event) for event in late]
    assert answer(said("a") + end()).id == "resp"


def test_the_rest_that_no_delta_brought_is_shown() -> None:
    pieces = [event.text for event in events(CREATED + said("hel") + done(0, **message("hello")) + end())
              if isinstance(event, TextDelta)]  # fmt: skip
    assert pieces == ["hel", "lo"]
    assert answer(CREATED + said("x") + done(0, **message("hello")) + end()).text == "hello"
    finished = line("response.output_text.done", output_index=0, content_index=0, text="hello")
    assert answer(CREATED + finished + end()).text == "hello"


def test_items_that_come_only_in_the_last_event() -> None:
    call = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"}
    response = answer(CREATED + end(message("hello"), call))
    assert (response.text, response.finish_reason) == ("hello", "tool_calls")
    assert response.tool_calls[0].id == "c"


def test_what_comes_after_an_item_is_done_is_not_taken_twice() -> None:
    cited = line("response.output_text.annotation.added", output_index=0, annotation={"type": "x"})
    late = line("response.output_text.done", output_index=0, content_index=0, text="hello")
    late += said("hello") + cited + line("response.refusal.delta", output_index=0, delta="no")
    late += call_delta(1, "{}") + done(0, **message("hello"))
    body = CREATED + said("hello") + done(0, **message("hello")) + done(1, **function(1, arguments="{}"))
    response = answer(body + late + end())
    assert (response.text, response.refusal, response.metadata) == ("hello", None, {})
    assert len(response.tool_calls) == 1
    finished = done(0, **reasoning(summary=[{"text": "r"}]))
    assert answer(CREATED + finished + thought("reasoning_text", "r") + end()).reasoning == "r"


def test_events_without_their_item_pass() -> None:
    body = line("response.output_item.added", output_index=0) + line("response.output_item.done")
    assert answer(CREATED + body + end(message("a"))).text == "a"


def test_unknown_content_is_shown() -> None:
    odd = {"type": "output_hologram", "data": 1}
    found = events(CREATED + end({"type": "message", "content": [odd, 5]}))
    assert [event.data for event in found if isinstance(event, RawChunk)] == [odd, 5]


def test_ids_that_change_make_no_second_item() -> None:
    body = CREATED + added(0, type="message", id="a") + said("hel", item_id="b") + said("lo", item_id="c")
    response = answer(body + done(0, **message("hello", id="d")) + end(message("hello", id="e")))
    assert response.text == "hello"
    assert response.message.parts[0].provider_data == {"item_id": "d"}


def test_items_are_told_by_id_where_there_is_no_place() -> None:
    def piece(text: str, id: str) -> bytes:
        return line("response.output_text.delta", item_id=id, delta=text)

    body = CREATED + piece("a", "x") + piece("1", "y") + piece("b", "x") + piece("2", "y") + end()
    assert [part.text for part in answer(body).message.parts if isinstance(part, TextPart)] == ["ab", "12"]


def call_delta(index: int, piece: str) -> bytes:
    return line("response.function_call_arguments.delta", output_index=index, item_id="any", delta=piece)


def function(index: int, **fields: Any) -> Data:
    return {"type": "function_call", "id": f"fc{index}", "call_id": f"c{index}", "name": "f", **fields}


def test_interleaved_calls() -> None:
    body = CREATED + added(0, **function(0)) + added(1, **function(1, name="g"))
    body += call_delta(0, '{"x"') + call_delta(1, '{"y":2}') + call_delta(0, ":1}")
    body += done(1, **function(1, name="g", arguments='{"y":2}')) + done(
        0, **function(0, arguments='{"x":1}')
    )
    first, second = answer(body + end()).tool_calls
    assert (first.id, first.name, first.arguments) == ("c0", "f", {"x": 1})
    assert (second.id, second.name, second.arguments) == ("c1", "g", {"y": 2})
    assert second.provider_data == {"item_id": "fc1"}


def test_a_call_that_is_named_late() -> None:
    found = events(CREATED + call_delta(0, '{"x":1}') + done(0, **function(0, arguments='{"x":1}')) + end())
    kinds = [type(event) for event in found if "ToolCall" in type(event).__name__]
    assert kinds == [ToolCallStarted, ToolCallDelta, ToolCallCompleted]
    nameless = events(CREATED + call_delta(0, "{}") + end())
    assert not any(isinstance(event, ToolCallStarted | ToolCallCompleted) for event in nameless)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_call_without_a_name_is_a_call(name: Any) -> None:
    """The loop tells the model that there is no such tool; the turn is not taken for an empty answer."""
    item = function(0, name=name, arguments='{"x":1}')
    found = answer(
        CREATED + added(0, **function(0, name=name)) + call_delta(0, '{"x"') + done(0, **item) + end()
    )
    assert [(call.id, call.name, call.arguments) for call in found.tool_calls] == [("c0", "", {"x": 1})]
    assert found.finish_reason == "tool_calls"


def test_arguments_broken_missing_or_as_an_object() -> None:
    broken = function(0, arguments='{"x":', status="incomplete")
    output = (broken, function(1, arguments=None), function(2, arguments={"x": 1}))
    first, second, third = answer(CREATED + end(*output)).tool_calls
    assert (first.arguments_invalid, first.raw_arguments) == (True, '{"x":')
    assert (second.arguments, second.arguments_invalid) == ({}, False)
    assert third.arguments == {"x": 1}


def test_calls_get_ids_of_their_own_where_the_thread_has_them() -> None:
    used = (user("q"), assistant([ToolCall("c0", "f")]))
    same = function(0, arguments="{}")
    body = CREATED + end(same, {**same, "id": "fc9"}, {**same, "call_id": ""})
    ids = [call.id for call in answer(body, request=Request(messages=used)).tool_calls]
    assert len({*ids, "c0"}) == 4


def test_custom_calls() -> None:
    item = {"type": "custom_tool_call", "id": "ctc", "call_id": "c", "name": "sql"}
    piece = line("response.custom_tool_call_input.delta", output_index=0, delta="SELECT")
    (call,) = answer(
        CREATED + added(0, **item) + piece + done(0, **item, input="SELECT 1") + end()
    ).tool_calls
    assert (call.kind, call.raw_arguments, call.arguments) == ("custom", "SELECT 1", {"input": "SELECT 1"})


def test_a_caller_goes_along() -> None:
    item = function(0, arguments="{}", caller={"type": "program", "caller_id": "p"}, namespace="n")
    (call,) = answer(CREATED + end(item)).tool_calls
    assert call.provider_data == {"item_id": "fc0", "caller": item["caller"], "namespace": "n"}


def thought(kind: str, piece: str) -> bytes:
    return line(f"response.{kind}.delta", output_index=0, delta=piece)


def reasoning(**fields: Any) -> Data:
    return {"type": "reasoning", "id": "rs", "summary": [], **fields}


def test_reasoning() -> None:
    request = Request(
        model="gpt-6-luna",
        messages=(user("q"),),
        system="s",
        tools=(ToolSpec("f", schema={"type": "object"}),),
    )
    summary = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    item = reasoning(summary=summary, encrypted_content="whole")
    body = CREATED + added(0, **reasoning(encrypted_content="half"))
    body += thought("reasoning_summary_text", "a") + thought("reasoning_summary_text", "b")
    (part,) = answer(
        body + done(0, **item) + end(reasoning(encrypted_content="other")), request=request
    ).message.parts
    assert isinstance(part, ReasoningPart)
    assert (part.text, part.id, part.provider_data) == ("ab", "rs", {"item": item})
    prefix = fingerprint(request.messages, request.system, request.tools)
    assert part.origin == Origin("openai", "responses", "gpt-6-luna", prefix)


def test_reasoning_in_both_places() -> None:
    both = reasoning(
        summary=[{"type": "summary_text", "text": "short"}],
        content=[{"type": "reasoning_text", "text": "long"}],
    )
    assert answer(CREATED + end(both)).reasoning == "short"
    pieces = thought("reasoning_text", "lo") + thought("reasoning_summary_text", "short")
    assert answer(CREATED + pieces + done(0, **both) + end()).reasoning == "long"


def test_empty_reasoning_still_goes_back() -> None:
    (part,) = answer(CREATED + end(reasoning(encrypted_content="e"))).message.parts
    assert part.provider_data["item"]["encrypted_content"] == "e"


def test_refusals() -> None:
    def piece(text: str) -> bytes:
        return line("response.refusal.delta", output_index=0, content_index=0, delta=text)

    response = answer(CREATED + piece("No") + piece(".") + end())
    assert (response.refusal, response.text) == ("No.", "")
    item = {"type": "message", "id": "m", "content": [{"type": "refusal", "refusal": "No."}]}
    response = answer(CREATED + piece("No") + done(0, **item) + end())
    assert response.refusal == "No."
    assert response.message.parts[0].provider_data == {"item_id": "m", "refusal": "No."}


def test_phase_goes_along() -> None:
    response = answer(
        CREATED + end(message("a", phase="commentary"), message("b", "m2", phase="final_answer"))
    )
    assert [part.provider_data for part in response.message.parts] == [
        {"item_id": "msg", "phase": "commentary"},
        {"item_id": "m2", "phase": "final_answer"},
    ]


def test_text_without_an_id_is_plain() -> None:
    plain = {"type": "message", "content": "hello"}
    assert answer(CREATED + end(plain)).message.content == "hello"


def test_annotations_and_logprobs() -> None:
    cited = {"type": "url_citation", "url": "u"}
    added_ = line("response.output_text.annotation.added", output_index=0, annotation=cited)
    assert answer(CREATED + said("a") + added_ + end()).metadata["annotations"] == [cited]
    piece = {"type": "output_text", "text": "a", "annotations": [cited], "logprobs": [{"token": "a"}]}
    response = answer(CREATED + said("a") + added_ + done(0, type="message", content=[piece]) + end())
    assert response.metadata == {"annotations": [cited], "logprobs": [{"token": "a"}]}


def test_items_of_the_providers_own_tools() -> None:
    search = {"type": "web_search_call", "id": "ws", "status": "completed"}
    body = CREATED + added(0, type="web_search_call", id="ws") + said("a", 1) + done(0, **search) + end()
    first, _ = answer(body).message.parts
    assert isinstance(first, OpaquePart)
    assert first.data == search
    assert first.origin == Origin("openai", "responses", "m")
    unfinished = answer(CREATED + added(0, type="brand_new", id="x") + end()).message.parts
    assert [part.data for part in unfinished if isinstance(part, OpaquePart)] == [
        {"type": "brand_new", "id": "x"}
    ]


def test_pictures() -> None:
    item = {"type": "image_generation_call", "id": "ig", "result": "YWJj", "output_format": "webp",
            "revised_prompt": "p"}  # fmt: skip
    partial = line("response.image_generation_call.partial_image", partial_image_b64="YQ==")
    found = events(CREATED + partial + done(0, **item) + end())
    assert any(isinstance(event, RawChunk) and event.part is None for event in found)
    opaque, picture = answer(CREATED + end(item)).message.parts
    assert isinstance(opaque, OpaquePart)
    assert isinstance(picture, ImagePart)
    assert (picture.image.data, picture.image.mime_type) == (b"abc", "image/webp")
    assert picture.image.revised_prompt == "p"
    for result in ("a", None):
        assert len(answer(CREATED + end({**item, "result": result})).message.parts) == 1


def test_sound() -> None:
    body = CREATED + line("response.audio.delta", delta="YWJj") + line("response.audio.delta", delta="ZA==")
    body += line("response.audio.transcript.delta", delta="hi") + end()
    (part,) = answer(body, request=Request(options={"audio": {"format": "mp3"}})).message.parts
    assert isinstance(part, AudioPart)
    assert (part.data, part.format, part.transcript) == (b"abcd", "mp3", "hi")


def test_usage() -> None:
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
        "cost": 0.5,
    }
    found = events(CREATED + end(usage=usage))
    assert [type(event) for event in found[-2:]] == [UsageReported, MessageCompleted]
    counted = answer(CREATED + end(usage=usage)).usage
    assert counted is not None
    assert (counted.input_tokens, counted.cached_input_tokens, counted.cache_write_input_tokens) == (10, 4, 3)
    assert (counted.output_tokens, counted.reasoning_tokens, counted.total_tokens) == (5, 2, 15)
    assert (counted.total_cost, counted.raw) == (0.5, usage)
    odd = answer(CREATED + end(usage={"input_tokens": -1, "output_tokens": 3.0, "cost": "?"})).usage
    assert odd is not None
    assert (odd.input_tokens, odd.output_tokens, odd.total_cost) == (None, 3, None)
    assert answer(CREATED + end()).usage is None


def test_metadata_and_what_the_provider_removed() -> None:
    removed = [{"type": "reasoning", "id": "rs", "action": "removed", "reason": "model_mismatch"}]
    response = answer(
        CREATED + end(service_tier="flex", conversation={"id": "c"}, input_transformations=removed)
    )
    assert response.metadata == {
        "service_tier": "flex", "conversation": {"id": "c"}, "input_transformations": removed,
    }  # fmt: skip
    assert response.warnings == ("the provider removed a reasoning item of the request: model_mismatch",)


def test_state_is_kept_where_the_provider_keeps_the_answer() -> None:
    state = {"provider": "openai", "endpoint": "responses", "response_id": "resp"}
    assert answer(HELLO).message.metadata == {}
    assert answer(HELLO, stateful=True).message.metadata == {"provider_state": state}
    stored = Request(options={"store": True})
    assert answer(HELLO, request=stored).message.metadata == {"provider_state": state}
    assert answer(HELLO, request=Request(options={"store": False}), stateful=True).message.metadata == {}


def test_lenient_second_reading() -> None:
    odd = (
        b'data: {"type":"response.output_text.delta","output_index":"0","unused":NaN,"delta":"a\\ud800b"}\n\n'
    )
    answer(CREATED + odd + end()).text.encode()


def test_caps() -> None:
    assert failure(b"data: " + b"x" * 200, limits=Limits(event=100)).reason == "limit_exceeded"
    assert failure(WHOLE, kind="application/json", limits=Limits(body=20)).reason == "limit_exceeded"


def seconds(count: int) -> float:
    body = CREATED + said("x") * count + call_delta(1, "x") * count + end()
    start = process_time()
    assert len(answer(*(body[at : at + 1000] for at in range(0, len(body), 1000))).text) == count
    return process_time() - start


def test_linear_time() -> None:
    small = min(seconds(1_000) for _ in range(3))
    assert min(seconds(4_000) for _ in range(3)) < 8 * small
