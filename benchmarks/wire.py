"""Answers as the four services send them, built here so that counting needs no server and no recording.

Shapes: API references and recorded traffic, read 2026-11. The same arguments give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

DIALECTS: Final = ("chat", "responses", "messages", "generate")

_CHAT: Final = {
    "id": "chatcmpl-CountedAnswer00000000000000000",
    "object": "chat.completion.chunk",
    "created": 1_793_500_000,
    "model": "gpt-4.1-mini-2025-04-14",
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
_CHAT_USAGE: Final = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}
_TOKENS: Final = {"input_tokens": 19, "output_tokens": 10}
_CALL_ID: Final = "call_Counted0000000000000"


def words(n: int) -> list[str]:
    """`n` pieces of text of about the length of a token."""
    return [f" w{number % 97:03d}" for number in range(n)]


def arguments(size: int) -> str:
    """The JSON text of a tool's arguments, about `size` characters of it."""
    row = {"id": 1, "path": "src/part/file.py", "text": 'a line\nand a "quoted" one'}
    return _json({"file": "out.json", "rows": [row] * max(1, size // (len(_json(row)) + 1))})


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def text_stream(dialect: str, texts: Sequence[str]) -> list[bytes]:
    """A streamed answer of text, one server-sent event an item."""
    return _STREAMS[dialect](texts)


def chat_call_stream(name: str, parts: Iterable[str]) -> list[bytes]:
    """A streamed Chat answer with one tool call, whose arguments come in `parts`."""
    first = {"index": 0, "id": _CALL_ID, "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": part}} for part in parts]
    deltas = [{"role": "assistant", "content": None, "tool_calls": [first]}]
    return _chat([*deltas, *[{"tool_calls": [call]} for call in rest]], "tool_calls")


def chat_body(text: str | None, call: tuple[str, str] | None = None) -> bytes:
    """A whole Chat answer: text, or a call as (name, arguments)."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    if call is not None:
        function = {"name": call[0], "arguments": call[1]}
        message["tool_calls"] = [{"id": _CALL_ID, "type": "function", "function": function}]
    finish = "stop" if call is None else "tool_calls"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return _json({**_CHAT, "object": "chat.completion", "choices": [choice], "usage": _CHAT_USAGE}).encode()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _event(value: dict[str, Any], end: str = "\n\n", *, named: bool = False) -> bytes:
    name = f"event: {value['type']}\n" if named else ""
    return f"{name}data: {_json(value)}{end}".encode()


def _chat(deltas: Iterable[dict[str, Any]], finish: str) -> list[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**_CHAT, "choices": [choice], "usage": None, "obfuscation": "abcdef"})

    usage = _event({**_CHAT, "choices": [], "usage": _CHAT_USAGE})
    return [*map(chunk, deltas), chunk({}, finish), usage, b"data: [DONE]\n\n"]


def _chat_text(texts: Sequence[str]) -> list[bytes]:
    start = {"role": "assistant", "content": "", "refusal": None}
    return _chat([start, *[{"content": text} for text in texts]], "stop")


def _responses_text(texts: Sequence[str]) -> list[bytes]:
    place = {"item_id": "msg_counted", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    whole = {**part, "text": "".join(texts)}
    item = {"id": "msg_counted", "type": "message", "role": "assistant"}
    started = {**item, "status": "in_progress", "content": []}
    done = {**item, "status": "completed", "content": [whole]}
    answer = {"id": "resp_counted", "object": "response", "model": "gpt-4.1-mini-2025-04-14", "error": None}
    deltas = [{"delta": text, "logprobs": [], "obfuscation": "abcdef"} for text in texts]
    events: list[tuple[str, dict[str, Any]]] = [
        ("created", {"response": {**answer, "status": "in_progress", "output": [], "usage": None}}),
        ("output_item.added", {"output_index": 0, "item": started}),
        ("content_part.added", {**place, "part": part}),
        *[("output_text.delta", {**place, **delta}) for delta in deltas],
        ("output_text.done", {**place, "text": whole["text"], "logprobs": []}),
        ("content_part.done", {**place, "part": whole}),
        ("output_item.done", {"output_index": 0, "item": done}),
        ("completed", {"response": {**answer, "status": "completed", "output": [done], "usage": _TOKENS}}),
    ]
    return [
        _event({"type": f"response.{name}", "sequence_number": number, **fields}, named=True)
        for number, (name, fields) in enumerate(events)
    ]


def _messages_text(texts: Sequence[str]) -> list[bytes]:
    message: dict[str, Any] = {
        "id": "msg_counted",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "stop_reason": None,
        "usage": _TOKENS,
    }
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": _TOKENS},
        {"type": "message_stop"},
    ]
    return [_event(event, named=True) for event in events]


def _generate_text(texts: Sequence[str]) -> list[bytes]:
    events = []
    for number, text in enumerate(texts, 1):
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        if number == len(texts):
            candidate["finishReason"] = "STOP"
        counts = {"promptTokenCount": 8, "candidatesTokenCount": number, "totalTokenCount": number + 8}
        events.append(
            {
                "candidates": [candidate],
                "usageMetadata": counts,
                "modelVersion": "gemini-2.5-flash",
                "responseId": "counted",
            }
        )
    return [_event(event, "\r\n\r\n") for event in events]


_STREAMS: Final = {
    "chat": _chat_text,
    "responses": _responses_text,
    "messages": _messages_text,
    "generate": _generate_text,
}
