"""Answers of `generateContent` that no recording holds: odd parts, pauses, cut streams, hostile payloads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allm.data.content import AudioPart, ImagePart, OpaquePart, Origin, ReasoningPart, TextPart, ToolCall
from allm.data.events import (
    MessageCompleted,
    MessageStarted,
    RawChunk,
    StreamFailed,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
)
from allm.data.messages import assistant, user
from allm.data.requests import Request
from allm.data.responses import Response
from allm.ports import CallContext, Decoder, HttpHead
from allm.providers.gemini.generate import Gemini
from tests.decoder_support import SSE, folded, readers

MODEL = "gemini-3.8-flash"
OWN = Origin("gemini", "generate", MODEL)
SIGNED = {"thoughtSignature": "c2ln"}
GEMINI = Gemini()


def decoder(kind: str = SSE, status: int = 200, request: Request | None = None) -> Decoder:
    head = HttpHead(status, {"content-type": kind})
    return GEMINI.decoder(request or Request(model=MODEL), head, CallContext())


events, answer, failure = readers(decoder)


def chunk(*parts: Any, finish: str | None = None, candidate: Any = None, **fields: Any) -> dict[str, Any]:
    """A response as it comes in one payload; `candidate` and `fields` add to it."""
    said: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, **(candidate or {})}
    if finish is not None:
        said["finishReason"] = finish
    return {"candidates": [said], **fields}


def sse(*chunks: Any) -> bytes:
    return b"".join([b"data: " + json.dumps(value).encode() + b"\r\n\r\n" for value in chunks])


def said(*parts: Any, finish: str | None = "STOP", candidate: Any = None, **fields: Any) -> Response:
    """The answer made of these parts, the same as a stream, as an array and as one body."""
    whole = chunk(*parts, finish=finish, candidate=candidate, **fields)
    responses = [
        answer(sse(whole)),
        answer(json.dumps([whole], indent=2).encode(), kind="application/json"),
        answer(json.dumps(whole).encode(), kind="application/json"),
    ]
    assert responses[0] == responses[1] == responses[2]
    return responses[0]


def test_one_payload_per_part_or_all_in_one() -> None:
    parts = [{"text": "hm", "thought": True}, {"text": "a"}, {"text": "b"}, {"functionCall": {"name": "f"}}]
    streamed = answer(sse(*map(chunk, parts), chunk(finish="STOP")))
    assert streamed == said(*parts)
    assert streamed.message.parts == (
        ReasoningPart("hm", origin=OWN),
        TextPart("ab"),
        ToolCall("call_0_0", "f", {}, "", provider_data={"made_id": True}, origin=OWN),
    )


def test_a_signed_part_stands_alone() -> None:
    response = said(
        {"text": "a"},
        {"text": "b", **SIGNED},
        {"text": "c"},
        {"text": "", **SIGNED},
        {"text": "d"},
        {"text": "t", "thought": True, **SIGNED},
    )
    assert response.message.parts == (
        TextPart("a"),
        TextPart("b", provider_data=SIGNED, origin=OWN),
        TextPart("c"),
        TextPart("", provider_data=SIGNED, origin=OWN),
        TextPart("d"),
        ReasoningPart("t", provider_data=SIGNED, origin=OWN),
    )
    assert (response.text, response.reasoning) == ("abcd", "t")


def test_a_call_is_three_events() -> None:
    call = {"id": "g1", "name": "add", "args": {"b": 1, "a": 2.0}}
    found = events(sse(chunk({"functionCall": call}, finish="STOP")))
    done = ToolCall("g1", "add", {"b": 1, "a": 2.0}, '{"b":1,"a":2.0}')
    assert found[:-1] == [
        MessageStarted(),
        ToolCallStarted("g1", "add", 0),
        ToolCallDelta("g1", '{"b":1,"a":2.0}'),
        ToolCallCompleted(done, 0),
    ]
    assert folded(found).finish_reason == "tool_calls"


def test_ids_are_unique_in_the_thread() -> None:
    earlier = assistant([ToolCall("call_2_0", "f"), ToolCall("g1", "f")])
    request = Request(model=MODEL, messages=(user("hi"), earlier))
    calls = [{"functionCall": {"name": "f"}}, {"functionCall": {"name": "f"}}]
    taken = {"functionCall": {"name": "f", "id": "g1"}}
    response = answer(sse(chunk(*calls, taken, finish="STOP")), request=request)
    assert [call.id for call in response.tool_calls] == ["call_2_1", "call_2_2", "call_2_3"]
    assert ["made_id" in call.provider_data for call in response.tool_calls] == [True, True, False]


@pytest.mark.parametrize(
    ("args", "arguments", "invalid"),
    [
        ("null", {}, False),
        ("[1]", {}, True),
        ('{"a":1,"a":2}', {}, True),
        ('{"a":9e999}', {}, True),
        ('{"a":NaN}', {}, True),
    ],
)
def test_odd_arguments(args: str, arguments: dict[str, Any], invalid: bool) -> None:
    body = json.dumps(chunk({"functionCall": {"name": "f", "args": "ARGS"}}, finish="STOP"))
    (call,) = answer(body.replace('"ARGS"', args).encode()).tool_calls
    assert (call.arguments, call.arguments_invalid) == (arguments, invalid)


def streamed(*pieces: dict[str, Any]) -> ToolCall:
    """The call whose arguments come in these pieces, a payload each."""
    calls: list[dict[str, Any]] = [{"name": "f", "willContinue": True}]
    calls += [{"partialArgs": [piece], "willContinue": True} for piece in pieces]
    parts = [{"functionCall": call} for call in [*calls, {}]]
    response = answer(sse(*map(chunk, parts), chunk({"text": ""}, finish="STOP")))
    (call,) = response.tool_calls
    return call


def test_streamed_arguments() -> None:
    call = streamed(
        {"jsonPath": "$.a", "stringValue": "x", "willContinue": True},
        {"jsonPath": "$.a", "stringValue": "y"},
        {"jsonPath": "$.list[0]['b c']", "numberValue": 1},
        {"jsonPath": '$.list[0]["d\\u00e9"]', "boolValue": False},
        {"jsonPath": "$.list[1]", "nullValue": "NULL_VALUE"},
        {"jsonPath": "$['it\\'s \"']", "numberValue": 0.5},
        {"jsonPath": "$.a2", "stringValue": "x"},
        {"jsonPath": "$.a2", "stringValue": "z"},
    )
    assert call.arguments == {
        "a": "xy",
        "list": [{"b c": 1, "dé": False}, None],
        "it's \"": 0.5,
        "a2": "z",
    }
    assert list(call.arguments) == ["a", "list", "it's \"", "a2"]


@pytest.mark.parametrize(
    "path", ["$", "a", "$.", "$..a", "$[*]", "$[-1]", "$.l[999999999]", "$.l[99999999999]", "$.s.t", "$[0]"]
)
def test_a_path_that_leads_nowhere_makes_the_arguments_invalid(path: str) -> None:
    call = streamed({"jsonPath": "$.s", "stringValue": "x"}, {"jsonPath": path, "stringValue": "y"})
    assert call.arguments_invalid
    assert '"y"' in (call.raw_arguments or "")


def test_a_path_that_is_too_deep_makes_the_arguments_invalid() -> None:
    assert streamed({"jsonPath": "$" + ".a" * 50_000, "numberValue": 1}).arguments_invalid


def test_what_ends_a_streamed_call() -> None:
    begun = {"functionCall": {"name": "f", "willContinue": True}, **SIGNED}
    piece = {"functionCall": {"partialArgs": [{"jsonPath": "$.a", "numberValue": 1}], "willContinue": True}}
    last = {"functionCall": {"partialArgs": [{"jsonPath": "$.a", "numberValue": 1}]}}
    whole = {"functionCall": {"name": "g", "args": {"b": 2}}}
    data = {**SIGNED, "made_id": True}
    done = ToolCall("call_0_0", "f", {"a": 1}, '{"a":1}', provider_data=data, origin=OWN)
    for after in ([last], [piece, whole], [piece, {"text": "so"}], [piece]):
        assert said(begun, *after).message.parts[0] == done


def test_media() -> None:
    response = said(
        {"text": "here"},
        {"inlineData": {"mimeType": "image/png", "data": "aQ=="}, **SIGNED},
        {"inlineData": {"mimeType": "audio/mpeg", "data": "YQ=="}},
        {"inlineData": {"mimeType": "video/mp4", "data": "dg=="}},
        {"inlineData": {"mimeType": "image/png", "data": "not base64"}},
        {"inlineData": {"mimeType": "image/png"}},
    )
    text, image, sound, *others = response.message.parts
    assert text == TextPart("here")
    assert isinstance(image, ImagePart)
    assert (image.image.data, image.image.mime_type, image.provider_data) == (b"i", "image/png", SIGNED)
    assert sound == AudioPart(b"a", "mp3", origin=OWN)
    assert [type(part) for part in others] == [OpaquePart] * 3
    assert others[0] == OpaquePart(data={"inlineData": {"mimeType": "video/mp4", "data": "dg=="}}, origin=OWN)


def test_parts_of_unknown_kinds_are_kept() -> None:
    response = said(
        {"hologram": {"x": [1]}, **SIGNED}, {}, {"text": None}, {"fileData": {"fileUri": "gs://a"}}, SIGNED
    )
    assert response.message.parts == (
        OpaquePart(data={"hologram": {"x": [1]}}, provider_data=SIGNED, origin=OWN),
        OpaquePart(data={"fileData": {"fileUri": "gs://a"}}, origin=OWN),
        OpaquePart(data={}, provider_data=SIGNED, origin=OWN),
    )


def test_an_image_that_is_only_a_thought_is_shown_and_not_kept() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aQ=="}, "thought": True}
    found = events(sse(chunk(image, {"thought": True}, {"text": "x"}, finish="STOP")))
    assert [event for event in found if isinstance(event, RawChunk)] == [RawChunk(image)]
    assert folded(found).message.content == "x"
    assert said({**image, **SIGNED}).message.parts == (
        OpaquePart(data=image, provider_data=SIGNED, origin=OWN),
    )


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "paused"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("IMAGE_PROHIBITED_CONTENT", "content_filter"),
        ("IMAGE_RECITATION", "content_filter"),
        ("ESCALATION", "content_filter"),
        ("PUP_LIMITED_DISABLED", "content_filter"),
        ("UNEXPECTED_TOOL_CALL", "error"),
        ("TOO_MANY_TOOL_CALLS", "error"),
        ("MISSING_THOUGHT_SIGNATURE", "error"),
        ("MODEL_ARMOR", "other"),
        ("OTHER", "other"),
        ("NO_IMAGE", "other"),
        ("IMAGE_OTHER", "other"),
        ("FINISH_REASON_UNSPECIFIED", "other"),
        ("A_NEW_WORD", "other"),
    ],
)
def test_finish_reasons(word: str, reason: str) -> None:
    response = said({"text": "x"}, finish=word, candidate={"finishMessage": "why"})
    assert (response.finish_reason, response.raw_finish_reason, response.error) == (reason, word, None)
    assert response.metadata == {"finish_message": "why"}


@pytest.mark.parametrize("word", ["MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE"])
def test_output_that_gemini_could_not_read_is_a_failure(word: str) -> None:
    broken = sse(chunk({"text": "x"}), chunk(finish=word, candidate={"finishMessage": "Malformed call: f("}))
    response = answer(broken)
    assert response.text == "x"
    assert response.error is not None
    assert (response.error.reason, response.error.code) == ("provider_error", word)
    assert response.error.message == "Malformed call: f("


@pytest.mark.parametrize("word", ["STOP", "OTHER"])
def test_calls_are_seen_in_the_content(word: str) -> None:
    assert said({"functionCall": {"name": "f"}}, finish=word).finish_reason == "tool_calls"
    assert said({"functionCall": {"name": "f"}}, finish="MAX_TOKENS").finish_reason == "length"


def test_a_pause_brings_its_token() -> None:
    response = answer(
        sse(
            chunk({"text": "a"}, candidate={"continuationToken": "MQ=="}),
            chunk({"text": "b"}, finish="CONTINUATION", candidate={"continuationToken": "Mg=="}),
        )
    )
    assert (response.finish_reason, response.text) == ("paused", "ab")
    assert response.provider_data == {"continuation_token": "Mg=="}
    again = GEMINI.resume(Request(model=MODEL), response, CallContext())
    assert again is not None
    assert again.options == {"continuationToken": "Mg=="}


def test_a_token_of_an_answer_that_ended_is_of_no_use() -> None:
    assert said({"text": "a"}, candidate={"continuationToken": "MQ=="}).provider_data == {}
    assert said({"text": "a"}, finish="CONTINUATION").provider_data == {}


def test_a_blocked_prompt() -> None:
    feedback = {"blockReason": "SAFETY", "blockReasonMessage": "no", "safetyRatings": [{"category": "X"}]}
    blocked = {"promptFeedback": feedback, "usageMetadata": {"promptTokenCount": 3}, "responseId": "r"}
    for body in (sse(blocked), json.dumps(blocked).encode(), json.dumps([blocked]).encode()):
        response = answer(body)
        assert (response.finish_reason, response.raw_finish_reason) == (
            "content_filter",
            "blockReason:SAFETY",
        )
        assert (response.id, response.text, response.error) == ("r", "", None)
        assert response.usage is not None
        assert response.usage.input_tokens == 3
        assert response.metadata == {
            "prompt_feedback": {"block_reason": "SAFETY", "message": "no"},
            "safety_ratings": [{"category": "X"}],
        }


@pytest.mark.parametrize(
    "content",
    [{}, {"content": None}, {"content": {}}, {"content": {"parts": None}}, {"content": {"parts": []}}],
)
def test_nothing_said(content: dict[str, Any]) -> None:
    response = answer(sse({"candidates": [{**content, "finishReason": "STOP"}]}))
    assert (response.message.content, response.finish_reason) == ("", "stop")


def test_the_finish_reason_may_come_early_and_the_end_is_the_end_of_the_body() -> None:
    response = answer(sse(chunk({"text": "a"}, finish="STOP"), chunk({"text": "b"}), {"usageMetadata": {}}))
    assert (response.text, response.finish_reason) == ("ab", "stop")
    assert answer(sse(chunk({"text": "a"}, finish="STOP")) + b"data: [DONE]\n\n").text == "a"


@pytest.mark.parametrize("ending", [b"", b"data: [DONE]\n\n"])
def test_a_stream_without_a_finish_reason_is_cut(ending: bytes) -> None:
    body = sse(chunk({"text": "a"}, usageMetadata={"promptTokenCount": 2}))
    response = answer(body + ending)
    assert response.error is not None
    assert (response.error.reason, response.error.retryable) == ("stream_interrupted", True)
    assert response.text == "a"
    assert response.usage is not None
    assert failure(json.dumps([chunk({"text": "a"})]).encode()).reason == "stream_interrupted"


def test_one_body_without_a_finish_reason_is_whole() -> None:
    response = answer(json.dumps(chunk({"text": "a"})).encode())
    assert (response.text, response.finish_reason, response.raw_finish_reason) == ("a", "other", None)


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"candidates":[]}', b'[{"usageMetadata":{}}]', b'{"x":1}'])
def test_a_body_without_candidates_is_no_answer(body: bytes) -> None:
    assert failure(body).reason == "malformed_response"


ERROR = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
LIMITED = {
    "error": {
        "code": 429,
        "message": "quota",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}],
    }
}


@pytest.mark.parametrize(
    "error",
    [
        sse(ERROR),
        sse([ERROR]),
        json.dumps(ERROR).encode() + b"\r\n",
        json.dumps([ERROR], indent=2).encode(),
        b"event: error\r\n" + sse(ERROR),
    ],
)
def test_an_error_after_the_first_words(error: bytes) -> None:
    response = answer(sse(chunk({"text": "a"})) + error)
    assert response.text == "a"
    assert response.error is not None
    assert (response.error.reason, response.error.status, response.error.code) == ("overloaded", 503, "503")
    assert response.error.message == "The model is overloaded."


@pytest.mark.parametrize("body", [json.dumps(LIMITED), json.dumps([LIMITED]), json.dumps([chunk(), LIMITED])])
def test_an_error_in_a_body_that_began_well(body: str) -> None:
    info = failure(body.encode(), kind="application/json")
    assert (info.reason, info.status, info.retry_after) == ("rate_limited", 429, 7.0)


def test_usage_is_overwritten_not_added() -> None:
    first = {"promptTokenCount": 5, "candidatesTokenCount": 1, "totalTokenCount": 6}
    last = {
        "promptTokenCount": 5,
        "toolUsePromptTokenCount": 4,
        "cachedContentTokenCount": 3,
        "candidatesTokenCount": 2,
        "thoughtsTokenCount": 7,
        "totalTokenCount": 18,
        "serviceTier": "flex",
    }
    chunks = (chunk({"text": "a"}, usageMetadata=first), chunk(finish="STOP", usageMetadata=last))
    response = answer(sse(*chunks))
    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (9, 9, 7)
    assert (usage.cached_input_tokens, usage.cache_write_input_tokens, usage.total_tokens) == (3, None, 18)
    assert usage.raw == last
    assert response.metadata == {"service_tier": "flex"}


@pytest.mark.parametrize(
    ("raw", "counts"),
    [
        ({}, (None, None)),
        ({"toolUsePromptTokenCount": 4}, (4, None)),
        ({"thoughtsTokenCount": 4}, (None, 4)),
        ({"responseTokenCount": 4.0}, (None, 4)),
        ({"promptTokenCount": -1, "candidatesTokenCount": "9"}, (None, None)),
    ],
)
def test_counts_that_were_not_sent_are_none(
    raw: dict[str, Any], counts: tuple[int | None, int | None]
) -> None:
    usage = said({"text": "a"}, usageMetadata=raw).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == counts


def test_sources_and_the_like_are_metadata() -> None:
    grounding = {"groundingChunks": [{"web": {"uri": "u"}}], "webSearchQueries": ["q"]}
    response = answer(
        sse(
            chunk({"text": "a"}, candidate={"groundingMetadata": {}, "citationMetadata": {}}),
            chunk(
                {"text": "b"},
                finish="STOP",
                candidate={
                    "groundingMetadata": grounding,
                    "citationMetadata": {"citationSources": [{"uri": "c"}]},
                    "urlContextMetadata": {"urlMetadata": []},
                    "safetyRatings": [{"category": "X"}],
                    "avgLogprobs": -0.5,
                    "logprobsResult": {"topCandidates": []},
                },
            ),
        )
    )
    assert response.metadata == {
        "annotations": [{"uri": "c"}, {"web": {"uri": "u"}}],
        "grounding": grounding,
        "url_context": {"urlMetadata": []},
        "safety_ratings": [{"category": "X"}],
        "avg_logprobs": -0.5,
        "logprobs": [{"topCandidates": []}],
    }


def test_further_candidates_are_shown_and_not_folded() -> None:
    first = {"index": 0, "content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}
    second = {"index": 1, "content": {"parts": [{"text": "b"}]}, "finishReason": "MAX_TOKENS"}
    both = {"candidates": [first, second]}
    found = events(sse(both))
    assert [event for event in found if isinstance(event, RawChunk)] == [RawChunk(both)]
    response = folded(found)
    assert (response.text, response.finish_reason) == ("a", "stop")


def test_payloads_of_unknown_shape_pass() -> None:
    strange = {"futureField": {"a": 1}, "responseId": "r"}
    found = events(sse(strange, {"candidates": None}, chunk({"text": "a"}, finish="STOP")))
    assert [event for event in found if isinstance(event, RawChunk)] == [
        RawChunk(strange),
        RawChunk({"candidates": None}),
    ]
    assert folded(found).text == "a"
    assert folded(found).id == "r"


@pytest.mark.parametrize(
    "part", [{"text": 42}, {"text": ["x"]}, {"functionCall": "f"}, {"functionCall": {"name": {}}}, "text", 1]
)
def test_wrong_types_are_never_an_answer(part: Any) -> None:
    body = sse(chunk({"text": "a"}), chunk(part), chunk(finish="STOP"))
    response = answer(body)
    assert response.text == "a"
    assert response.error is not None
    assert response.error.reason == "malformed_response"


def test_half_a_surrogate_is_replaced() -> None:
    parts = ({"text": "x\ud83d"}, {"functionCall": {"name": "f", "args": {"a": "y\ud83d"}}})
    response = answer(sse(chunk(*parts, finish="STOP")))
    assert response.text.rstrip("\ufffd") == "x"
    assert str(response.tool_calls[0].arguments["a"]).rstrip("\ufffd") == "y"


def test_depth_is_a_failure_and_not_a_crash() -> None:
    deep = b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"a":%s}}}]}}]}'
    assert failure(deep % (b"[" * 100_000 + b"]" * 100_000)).reason == "malformed_response"


def test_the_model_that_was_asked_owns_the_parts() -> None:
    body = sse(chunk({"text": "a", **SIGNED}, finish="STOP", modelVersion="gemini-3.8-flash-001"))
    (part,) = answer(body).message.parts
    assert part.origin == OWN
    response = answer(body, request=Request())
    assert response.message.parts[0].origin == Origin("gemini", "generate", "gemini-3.8-flash-001")
    assert response.model == "gemini-3.8-flash-001"


def test_one_ending_and_usage_before_it() -> None:
    found = events(sse(chunk({"text": "a"}, finish="STOP", usageMetadata={"promptTokenCount": 1})))
    assert [type(event).__name__ for event in found][-2:] == ["UsageReported", "MessageCompleted"]
    assert sum(isinstance(event, MessageCompleted | StreamFailed) for event in found) == 1
