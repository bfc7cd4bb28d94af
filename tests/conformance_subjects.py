"""The adapters that conformance proves, and the bodies of their providers: one table entry each.

To add a dialect: write its bodies with `sse` and `whole`, and add a `Subject` to `SUBJECTS`.
"""

from __future__ import annotations

import json
from typing import Any

from allm.providers.anthropic.messages import Anthropic
from allm.providers.compatible import adapter
from allm.providers.fake import FakeAdapter
from allm.providers.gemini.generate import Gemini
from allm.providers.openai.chat import OpenAIChat
from allm.providers.openai.responses import OpenAIResponses
from allm.testing.conformance import STATUSES, Sample, Subject

TEXT = "Grüezi mitenand"
OSLO: tuple[str, dict[str, Any]] = ("weather", {"city": "Oslo"})
BERN: tuple[str, dict[str, Any]] = ("weather", {"city": "Bern", "days": 2})


def whole(value: Any) -> bytes:
    return json.dumps(value).encode()


def sse(*events: Any, named: bool = False, end: str = "") -> bytes:
    """Server-sent events of JSON payloads. `named`: with `event:` lines from their `type`; `end`: a last
    payload that is not JSON; text among the events is sent as it is."""
    blocks = []
    for event in events:
        if isinstance(event, str):
            blocks.append(event)
            continue
        name = f"event: {event['type']}\n" if named else ""
        blocks.append(f"{name}data: {json.dumps(event, ensure_ascii=False)}")
    return "".join(f"{block}\n\n" for block in [*blocks, *([f"data: {end}"] if end else [])]).encode()


# ---- Chat Completions (its recorded streams and error bodies are the pattern) --------------------------

CHAT_USAGE = {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11}


def chat_chunk(delta: Any = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **fields}


def chat_call(index: int, id: str | None = None, name: str | None = None, text: str = "") -> dict[str, Any]:
    call: dict[str, Any] = {"index": index, "function": {"arguments": text}}
    if id is not None:
        call |= {"id": id, "type": "function"}
        call["function"]["name"] = name
    return {"tool_calls": [call]}


def chat_stream(*deltas: Any, finish: str = "stop") -> bytes:
    first, usage = chat_chunk({"role": "assistant", "content": ""}), chat_chunk(usage=CHAT_USAGE)
    return sse(first, *map(chat_chunk, deltas), chat_chunk({}, finish), usage, end="[DONE]")


def chat_error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> bytes:
    return whole({"error": {"message": message, "type": kind, "param": None, "code": code}})


CHAT_SAMPLES = {
    "text": Sample(body=chat_stream({"content": "Grüezi "}, {"content": "mitenand"}), text=TEXT),
    "text_whole": Sample(
        body=whole(
            {
                "id": "c1", "object": "chat.completion", "model": "m", "usage": CHAT_USAGE,
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}
                ],
            }
        ),
        content_type="application/json",
        text=TEXT,
    ),
    "call": Sample(
        body=chat_stream(
            {"content": "Let me see."},
            chat_call(0, "call_1", "weather"),
            chat_call(0, text='{"city":'),
            chat_call(0, text='"Oslo"}'),
            finish="tool_calls",
        ),
        text="Let me see.",
        calls=(OSLO,),
    ),
    "parallel": Sample(
        body=chat_stream(
            chat_call(0, "call_1", "weather"),
            chat_call(0, text='{"city":"Oslo"}'),
            chat_call(1, "call_2", "weather"),
            chat_call(1, text='{"city":"Bern","days":2}'),
            finish="tool_calls",
        ),
        calls=(OSLO, BERN),
    ),
    "unknown": Sample(
        body=sse(
            ": a comment",
            "event: heartbeat\nid: 7\nretry: 10\ndata: {}",
            chat_chunk({"role": "assistant", "content": "Grüezi ", "mood": [1]}, novelty={"a": None}),
            chat_chunk(moderation={"flagged": False}),
            chat_chunk({"content": "mitenand"}, "because"),
            chat_chunk(usage={**CHAT_USAGE, "novel_tokens": 3}),
            end="[DONE]",
        ),
        text=TEXT,
        finish="other",
    ),
    "broken": Sample(
        body=sse(
            chat_chunk({"content": "Grüezi "}),
            {"error": {"message": "Overloaded", "type": "overloaded_error"}},
        ),
        text="Grüezi ",
        usage=False,
        error="overloaded",
    ),
}  # fmt: skip
CHAT_REFUSALS = {
    400: chat_error("Invalid type for 'messages[0].content'.", code="invalid_type"),
    401: chat_error("Incorrect API key provided: sk-abc*****xyz.", code="invalid_api_key"),
    403: chat_error("Project does not have access to this model."),
    404: chat_error("The model 'm' does not exist.", code="model_not_found"),
    408: chat_error("Request timed out.", "timeout"),
    413: chat_error("Request too large."),
    429: chat_error("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: chat_error("The server had an error.", "server_error"),
    503: chat_error("The engine is overloaded.", "engine_overloaded"),
    529: chat_error("Overloaded, try again.", "overloaded_error"),
}

# ---- Responses -----------------------------------------------------------------------------------------

RESPONSES_USAGE = {"input_tokens": 8, "output_tokens": 3, "total_tokens": 11}


def response_of(*output: Any, status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {
        "id": "r1",
        "object": "response",
        "model": "m",
        "status": status,
        "output": list(output),
        **fields,
    }


def message_item(text: str) -> dict[str, Any]:
    said = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said],
    }  # fmt: skip


def call_item(number: int, arguments: str) -> dict[str, Any]:
    ids = {"id": f"fc_{number}", "call_id": f"call_{number}"}
    return {"type": "function_call", **ids, "name": "weather", "arguments": arguments, "status": "completed"}


def text_item_events(index: int, *pieces: str) -> list[Any]:
    item, place = message_item("".join(pieces)), {"item_id": "msg_1", "output_index": index}
    deltas = [
        {"type": "response.output_text.delta", **place, "content_index": 0, "delta": piece}
        for piece in pieces
    ]
    empty = {**item, "content": [], "status": "in_progress"}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": empty},
        *deltas,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def call_item_events(index: int, number: int, *pieces: str) -> list[Any]:
    item, place = call_item(number, "".join(pieces)), {"item_id": f"fc_{number}", "output_index": index}
    deltas = [{"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in pieces]
    return [
        {"type": "response.output_item.added", "output_index": index, "item": {**item, "arguments": ""}},
        *deltas,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def responses_stream(*events: Any, output: tuple[Any, ...] = ()) -> bytes:
    first = {"type": "response.created", "response": response_of(status="in_progress")}
    last = {"type": "response.completed", "response": response_of(*output, usage=RESPONSES_USAGE)}
    return sse(first, *events, last, named=True)


RESPONSES_SAMPLES = {
    "text": Sample(
        body=responses_stream(*text_item_events(0, "Grüezi ", "mitenand"), output=(message_item(TEXT),)),
        text=TEXT,
    ),
    "text_whole": Sample(
        body=whole(response_of(message_item(TEXT), usage=RESPONSES_USAGE)),
        content_type="application/json",
        text=TEXT,
    ),
    "call": Sample(
        body=responses_stream(
            *text_item_events(0, "Let me see."), *call_item_events(1, 1, '{"city":', '"Oslo"}')
        ),
        text="Let me see.",
        calls=(OSLO,),
    ),
    "parallel": Sample(
        body=responses_stream(
            *call_item_events(0, 1, '{"city":"Oslo"}'), *call_item_events(1, 2, '{"city":"Bern","days":2}')
        ),
        calls=(OSLO, BERN),
    ),
    "unknown": Sample(
        body=responses_stream(
            ": a comment",
            {"type": "response.mood.changed", "mood": [1]},
            *text_item_events(0, "Grüezi ", "mitenand"),
            {"type": "response.output_item.added", "output_index": 1, "item": {"type": "novelty", "id": "n"}},
            {"type": "response.output_item.done", "output_index": 1, "item": {"type": "novelty", "id": "n"}},
        ),
        text=TEXT,
    ),
    "broken": Sample(
        body=sse(
            *text_item_events(0, "Grüezi ")[:2],
            {"type": "error", "code": "server_error", "message": "Overloaded", "param": None},
            named=True,
        ),
        text="Grüezi ",
        usage=False,
        error="provider_unavailable",
    ),
}

# ---- Anthropic -----------------------------------------------------------------------------------------

MESSAGES_USAGE = {"input_tokens": 8, "output_tokens": 3}


def block_events(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[Any]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


def text_block(index: int, *pieces: str) -> list[Any]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block_events(index, {"type": "text", "text": ""}, *deltas)


def tool_block(index: int, number: int, *pieces: str) -> list[Any]:
    block = {"type": "tool_use", "id": f"toolu_{number}", "name": "weather", "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block_events(index, block, *deltas)


def messages_start() -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    return {"type": "message_start", "message": {**message, "usage": {**MESSAGES_USAGE, "output_tokens": 1}}}


def messages_stream(*events: Any, stop: str = "end_turn") -> bytes:
    last = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 3}}
    return sse(messages_start(), {"type": "ping"}, *events, last, {"type": "message_stop"}, named=True)


def messages_error(kind: str, message: str) -> bytes:
    return whole({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})


MESSAGES_SAMPLES = {
    "text": Sample(body=messages_stream(*text_block(0, "Grüezi ", "mitenand")), text=TEXT),
    "text_whole": Sample(
        body=whole(
            {
                "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
                "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn",
                "usage": MESSAGES_USAGE,
            }
        ),
        content_type="application/json",
        text=TEXT,
    ),
    "call": Sample(
        body=messages_stream(
            *text_block(0, "Let me see."), *tool_block(1, 1, "", '{"city":', '"Oslo"}'), stop="tool_use"
        ),
        text="Let me see.",
        calls=(OSLO,),
    ),
    "parallel": Sample(
        body=messages_stream(
            *tool_block(0, 1, '{"city":"Oslo"}'),
            *tool_block(1, 2, '{"city":"Bern","days":2}'),
            stop="tool_use",
        ),
        calls=(OSLO, BERN),
    ),
    "unknown": Sample(
        body=messages_stream(
            ": a comment",
            {"type": "mood", "mood": [1]},
            *text_block(0, "Grüezi "),
            *block_events(1, {"type": "novelty", "id": "n"}),
            *text_block(2, "mitenand"),
            stop="because",
        ),
        text=TEXT,
        finish="other",
    ),
    "broken": Sample(
        body=sse(
            messages_start(),
            *text_block(0, "Grüezi ")[:2],
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            named=True,
        ),
        text="Grüezi ",
        error="overloaded",
    ),
}  # fmt: skip
MESSAGES_REFUSALS = {
    400: messages_error("invalid_request_error", "messages: Input should be a valid list"),
    401: messages_error("authentication_error", "invalid x-api-key"),
    403: messages_error("permission_error", "Your key may not use this resource."),
    404: messages_error("not_found_error", "model: m"),
    408: messages_error("timeout_error", "Request timed out."),
    413: messages_error("request_too_large", "Request exceeds the maximum size"),
    429: messages_error("rate_limit_error", "This request would exceed the rate limit."),
    500: messages_error("api_error", "Internal server error"),
    503: messages_error("overloaded_error", "Overloaded"),
    529: messages_error("overloaded_error", "Overloaded"),
}

# ---- Gemini --------------------------------------------------------------------------------------------

GENERATE_USAGE = {"promptTokenCount": 8, "candidatesTokenCount": 3, "totalTokenCount": 11}


def generate_chunk(*parts: Any, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate], "modelVersion": "m", "responseId": "r1", "usageMetadata": GENERATE_USAGE,
        **fields,
    }  # fmt: skip


def generate_call(name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": args}}


def generate_error(code: int, status: str, message: str) -> bytes:
    return whole({"error": {"code": code, "message": message, "status": status}})


GENERATE_SAMPLES = {
    "text": Sample(
        body=sse(generate_chunk({"text": "Grüezi "}), generate_chunk({"text": "mitenand"}, finish="STOP")),
        text=TEXT,
    ),
    "text_whole": Sample(
        body=whole(generate_chunk({"text": TEXT}, finish="STOP")), content_type="application/json", text=TEXT
    ),
    "call": Sample(
        body=sse(
            generate_chunk({"text": "Let me see."}), generate_chunk(generate_call(*OSLO), finish="STOP")
        ),
        text="Let me see.",
        calls=(OSLO,),
    ),
    "parallel": Sample(
        body=sse(generate_chunk(generate_call(*OSLO), generate_call(*BERN), finish="STOP")),
        calls=(OSLO, BERN),
    ),
    "unknown": Sample(
        body=sse(
            ": a comment",
            generate_chunk({"text": "Grüezi "}, novelty={"a": None}),
            generate_chunk({"novelPart": {"mood": [1]}}),
            generate_chunk({"text": "mitenand"}, finish="BECAUSE"),
        ),
        text=TEXT,
        finish="other",
    ),
    "broken": Sample(
        body=sse(
            generate_chunk({"text": "Grüezi "}),
            {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}},
        ),
        text="Grüezi ",
        error="overloaded",
    ),
}
GENERATE_REFUSALS = {
    400: generate_error(400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: generate_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: generate_error(403, "PERMISSION_DENIED", "The caller does not have permission."),
    404: generate_error(404, "NOT_FOUND", "models/m is not found for API version v1."),
    408: generate_error(408, "DEADLINE_EXCEEDED", "Deadline expired."),
    413: generate_error(413, "INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    429: generate_error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted."),
    500: generate_error(500, "INTERNAL", "An internal error has occurred."),
    503: generate_error(503, "UNAVAILABLE", "The model is overloaded."),
    529: generate_error(529, "UNAVAILABLE", "Overloaded."),
}

SUBJECTS: dict[str, Subject] = {
    "openai.chat": Subject(make=OpenAIChat, samples=CHAT_SAMPLES, refusals=CHAT_REFUSALS),
    "openai.responses": Subject(make=OpenAIResponses, samples=RESPONSES_SAMPLES, refusals=CHAT_REFUSALS),
    "anthropic": Subject(make=Anthropic, samples=MESSAGES_SAMPLES, refusals=MESSAGES_REFUSALS),
    "gemini": Subject(make=Gemini, samples=GENERATE_SAMPLES, refusals=GENERATE_REFUSALS),
    "deepseek": Subject(make=lambda: adapter("deepseek"), samples=CHAT_SAMPLES, refusals=CHAT_REFUSALS),
    "fake": Subject(
        make=lambda: FakeAdapter([[{"text": ["Hel", "lo"]}, {"usage": {"input_tokens": 1}}]]),
        says="Hello",
        failing=lambda: FakeAdapter([[{"text": "Hel"}, {"error": "overloaded"}]]),
    ),
}
assert set(CHAT_REFUSALS) == set(STATUSES)
