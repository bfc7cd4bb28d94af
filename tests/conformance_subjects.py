"""The adapters that conformance proves, and the bodies of their providers: one table entry each.

To add a dialect: write its bodies with `sse` and `whole`, and add a `Subject` to `SUBJECTS`.
"""

from __future__ import annotations

import json
from typing import Any

from allm.providers.compatible import adapter
from allm.providers.fake import FakeAdapter
from allm.providers.openai.chat import OpenAIChat
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

SUBJECTS: dict[str, Subject] = {
    "openai.chat": Subject(make=OpenAIChat, samples=CHAT_SAMPLES, refusals=CHAT_REFUSALS),
    "deepseek": Subject(make=lambda: adapter("deepseek"), samples=CHAT_SAMPLES, refusals=CHAT_REFUSALS),
    "fake": Subject(
        make=lambda: FakeAdapter([[{"text": ["Hel", "lo"]}, {"usage": {"input_tokens": 1}}]]),
        says="Hello",
        failing=lambda: FakeAdapter([[{"text": "Hel"}, {"error": "overloaded"}]]),
    ),
}
assert set(CHAT_REFUSALS) == set(STATUSES)
