"""Scripted turns as the answers of real services, streamed or whole: one renderer a dialect, all pure.

Shapes: API references and recorded traffic, read 2026-11; the image in a Chat answer is OpenRouter's. An
error that comes after content is sent inside the stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from msgspec.structs import replace

from allm.data.content import base64_text
from allm.data.media import packed
from allm.data.responses import Usage
from allm.errors import ConfigurationError
from allm.ports import HttpHead
from allm.testing.played import Answer
from allm.testing.scripts import Call, Fault, Item, Picture, Text, Thought, Turn, as_json
from allm.testing.wire_requests import Asked

CREATED: Final = 1_793_500_000  # seconds since 1970: the answers are the same on every day

_JSON: Final = {"content-type": "application/json"}
_SSE: Final = {"content-type": "text/event-stream; charset=utf-8"}


def rendered(turn: Turn, asked: Asked) -> Answer:
    """The answer to what was asked. Raises `ConfigurationError` for what its dialect cannot say."""
    render, takes = _RENDERERS[asked.dialect]
    for item in turn.items:
        if type(item) not in takes:
            text = f"the turn has an entry {item.entry!r}, which {asked.path} has no place for"
            raise ConfigurationError(text)
    if turn.fault is not None and not (asked.streaming and turn.items):
        return refused(turn.fault, asked)
    if asked.dialect != "images":  # no other dialect shows a picture that is being made
        turn = replace(turn, items=tuple([item for item in turn.items if not _is_partial(item)]))
    return render(turn, asked)


def _is_partial(item: Item) -> bool:
    return isinstance(item, Picture) and item.partial


def refused(fault: Fault, asked: Asked) -> Answer:
    """An HTTP refusal, with the error body of the dialect."""
    head = HttpHead(fault.status, {**_JSON, **fault.headers})
    return Answer(head, (as_json(_fault_body(fault, asked)).encode(),))


def _fault_body(fault: Fault, asked: Asked) -> dict[str, Any]:
    if asked.dialect == "messages":
        error = {"type": fault.code or _ANTHROPIC_TYPES.get(fault.status, "api_error"), "message": fault.text}
        return {"type": "error", "error": error, "request_id": f"req_{asked.number}"}
    if asked.dialect in ("generate", "batch_embeddings"):
        status = fault.code or _GOOGLE_STATUSES.get(fault.status, "INTERNAL")
        return {"error": {"code": fault.status, "message": fault.text, "status": status}}
    kind = "server_error" if fault.status >= 500 else "invalid_request_error"
    code = fault.code or _OPENAI_CODES.get(fault.status)
    return {"error": {"message": fault.text, "type": kind, "param": None, "code": code}}


_OPENAI_CODES: Final = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_GOOGLE_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _whole(value: Any) -> Answer:
    return Answer(HttpHead(200, _JSON), (as_json(value).encode(),))


def _stream(events: Iterable[dict[str, Any]], *, named: bool = False, end: bytes = b"") -> Answer:
    """Server-sent events, one a read; `named` ones repeat their type as the event's name."""
    reads = []
    for event in events:
        name = f"event: {event['type']}\n" if named else ""
        reads.append(f"{name}data: {as_json(event)}\n\n".encode())
    return Answer(HttpHead(200, _SSE), (*reads, *filter(None, [end])))


def _total(usage: Usage) -> int:
    counted = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    return counted if usage.total_tokens is None else usage.total_tokens


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]


# -- Chat Completions ----------------------------------------------------------------------------------


def chat(turn: Turn, asked: Asked) -> Answer:
    head = {"id": f"chatcmpl-{asked.number}", "created": CREATED, "model": asked.model}
    usage = _chat_usage(turn.usage)
    if not asked.streaming:
        choice = {"index": 0, "message": _chat_message(turn), "logprobs": None, "finish_reason": turn.finish}
        return _whole({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "object": "chat.completion.chunk", "choices": [choice]}

    events = [chunk({"role": "assistant", "content": ""}), *map(chunk, _chat_deltas(turn))]
    if turn.fault is not None:
        return _stream([*events, _fault_body(turn.fault, asked)])
    events.append(chunk({}, turn.finish))
    if (asked.body.get("stream_options") or {}).get("include_usage"):
        events.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    return _stream(events, end=b"data: [DONE]\n\n")


def _chat_message(turn: Turn) -> dict[str, Any]:
    text = "".join([item.whole for item in turn.of(Text)])
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if turn.of(Thought):
        message["reasoning_content"] = "".join([item.whole for item in turn.of(Thought)])
    if turn.of(Call):
        message["tool_calls"] = [_chat_call(item, item.arguments) for item in turn.of(Call)]
    if turn.of(Picture):
        message["images"] = [_chat_image(item) for item in turn.of(Picture)]
    return message


def _chat_deltas(turn: Turn) -> Iterator[dict[str, Any]]:
    calls = 0
    for item in turn.items:
        match item:
            case Thought(pieces):
                yield from ({"reasoning_content": piece} for piece in pieces)
            case Text(pieces):
                yield from ({"content": piece} for piece in pieces)
            case Picture():
                yield {"images": [_chat_image(item)]}
            case Call():
                yield {"tool_calls": [{"index": calls, **_chat_call(item, "")}]}
                for piece in _halves(item.arguments):
                    yield {"tool_calls": [{"index": calls, "function": {"arguments": piece}}]}
                calls += 1


def _chat_call(call: Call, arguments: str) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _chat_image(picture: Picture) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": picture.image.to_data_uri()}}


def _chat_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens or 0,
        "completion_tokens": usage.output_tokens or 0,
        "total_tokens": _total(usage),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }


# -- Responses -----------------------------------------------------------------------------------------

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_Events = Iterator[dict[str, Any]]


def responses(turn: Turn, asked: Asked) -> Answer:
    output = [_item(item, f"{asked.number}_{index}") for index, item in enumerate(turn.items)]
    begun = _response(turn, asked, [], None)
    ended = _response(turn, asked, output, _INCOMPLETE.get(turn.finish, "completed"))
    if not asked.streaming:
        return _whole(ended)
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(turn.items):
        done = output[index]
        events.append(_item_event("added", index, {**done, **_EMPTY[done["type"]], "status": "in_progress"}))
        events += _item_events(item, {"item_id": done["id"], "output_index": index})
        events.append(_item_event("done", index, done))
    if turn.fault is None:
        events.append({"type": f"response.{ended['status']}", "response": ended})
    else:
        error = _fault_body(turn.fault, asked)["error"]
        code = error["code"] or error["type"]
        events.append({"type": "error", "code": code, "message": error["message"], "param": None})
    numbered = ({**event, "sequence_number": number} for number, event in enumerate(events))
    return _stream(numbered, named=True)


def _response(turn: Turn, asked: Asked, output: list[Any], ended: str | None) -> dict[str, Any]:
    """The response object. `ended` is `completed`, why it is incomplete, or `None` while it is made."""
    incomplete = ended not in (None, "completed")
    return {
        "id": f"resp_{asked.number}",
        "object": "response",
        "created_at": CREATED,
        "status": "incomplete" if incomplete else ended or "in_progress",
        "error": None,
        "incomplete_details": {"reason": ended} if incomplete else None,
        "instructions": None,
        "metadata": {},
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": _responses_usage(turn.usage) if ended else None,
    }


_EMPTY: Final[dict[str, dict[str, Any]]] = {
    "message": {"content": []},
    "reasoning": {"summary": []},
    "function_call": {"arguments": ""},
    "image_generation_call": {"result": None},
}
"""What an item lacks when it is added."""


def _item(item: Item, place: str) -> dict[str, Any]:
    match item:
        case Thought():
            summary = [{"type": "summary_text", "text": item.whole}]
            return {"id": f"rs_{place}", "type": "reasoning", "summary": summary}
        case Text():
            own = {"id": f"msg_{place}", "type": "message", "status": "completed", "role": "assistant"}
            return {**own, "content": [_output_text(item.whole)]}
        case Call(id, name, arguments):
            own = {"id": f"fc_{place}", "type": "function_call", "status": "completed"}
            return {**own, "call_id": id, "name": name, "arguments": arguments}
        case Picture():
            own = {"id": f"ig_{place}", "type": "image_generation_call", "status": "completed"}
            made = {"result": item.base64, "output_format": item.format}
            return {**own, **made, "revised_prompt": item.image.revised_prompt}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item_event(what: str, index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}


def _item_events(item: Item, where: dict[str, Any]) -> _Events:
    """What is sent between the start of an item and its end."""
    match item:
        case Thought(pieces):
            where = {**where, "summary_index": 0}
            for piece in pieces:
                yield {"type": "response.reasoning_summary_text.delta", **where, "delta": piece}
            yield {"type": "response.reasoning_summary_text.done", **where, "text": item.whole}
        case Text(pieces):
            where = {**where, "content_index": 0}
            yield {"type": "response.content_part.added", **where, "part": _output_text("")}
            for piece in pieces:
                yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
            yield {"type": "response.output_text.done", **where, "text": item.whole, "logprobs": []}
            yield {"type": "response.content_part.done", **where, "part": _output_text(item.whole)}
        case Call():
            named = {**where, "name": item.name, "arguments": item.arguments}
            for piece in _halves(item.arguments):
                yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
            yield {"type": "response.function_call_arguments.done", **named}
        case Picture():
            yield {"type": "response.image_generation_call.completed", **where}


def _responses_usage(usage: Usage) -> dict[str, Any]:
    cached = {"cached_tokens": usage.cached_input_tokens or 0}
    written = {"cache_write_tokens": usage.cache_write_input_tokens or 0}
    return {
        "input_tokens": usage.input_tokens or 0,
        "input_tokens_details": {**cached, **written},
        "output_tokens": usage.output_tokens or 0,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": _total(usage),
    }


# -- Messages ------------------------------------------------------------------------------------------

_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "paused": "pause_turn",
}
_SIGNATURE: Final = "c2NyaXB0ZWQ="


def messages(turn: Turn, asked: Asked) -> Answer:
    stop = {"stop_reason": _STOP_REASONS.get(turn.finish, turn.finish), "stop_sequence": None}
    usage = _messages_usage(turn.usage)
    message: dict[str, Any] = {
        "id": f"msg_{asked.number}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": [],
        **stop,
        "usage": usage,
    }
    if not asked.streaming:
        return _whole({**message, "content": [_block(item, _input) for item in turn.items]})
    unsaid: dict[str, Any] = {"stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {**message, **unsaid}}]
    for index, item in enumerate(turn.items):
        events += [{**event, "index": index} for event in _block_events(item)]
    if turn.fault is not None:
        return _stream([*events, _fault_body(turn.fault, asked)], named=True)
    events += [{"type": "message_delta", "delta": stop, "usage": usage}, {"type": "message_stop"}]
    return _stream(events, named=True)


def _block(item: Item, arguments: Callable[[Call], Any]) -> dict[str, Any]:
    match item:
        case Thought():
            return {"type": "thinking", "thinking": item.whole, "signature": _SIGNATURE}
        case Text():
            return {"type": "text", "text": item.whole, "citations": None}
        case Call():
            return {"type": "tool_use", "id": item.id, "name": item.name, "input": arguments(item)}
    raise AssertionError("kept out by _RENDERERS")


def _block_events(item: Item) -> _Events:
    block, deltas = _block(item, lambda call: {}), []
    match item:
        case Thought(pieces):
            block |= {"thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
            deltas.append({"type": "signature_delta", "signature": _SIGNATURE})
        case Text(pieces):
            block |= {"text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
        case Call():
            pieces = _halves(item.arguments)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    yield {"type": "content_block_start", "content_block": block}
    yield from ({"type": "content_block_delta", "delta": delta} for delta in deltas)
    yield {"type": "content_block_stop"}


def _input(call: Call) -> Any:
    """Arguments as the object that is sent; services that send objects send no broken ones."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        text = f"the arguments of {call.name!r} are not JSON, and here an object is sent"
        raise ConfigurationError(f"{text}: only APIs that send text, and streams of Messages, can") from None


def _messages_usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts what the cache read or wrote apart."""
    read, written = usage.cached_input_tokens or 0, usage.cache_write_input_tokens or 0
    return {
        "input_tokens": (usage.input_tokens or 0) - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens or 0,
    }


# -- generateContent -----------------------------------------------------------------------------------

_FINISH_REASONS: Final = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "paused": "CONTINUATION",
}


def generate(turn: Turn, asked: Asked) -> Answer:
    head = {"modelVersion": asked.model, "responseId": f"answer-{asked.number}"}
    usage = {"usageMetadata": _generate_usage(turn.usage)}
    parts = [part for item in turn.items for part in _parts(item, streaming=asked.streaming)]
    finish = {"finishReason": _FINISH_REASONS.get(turn.finish, turn.finish), "index": 0}

    def chunk(parts: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": parts, "role": "model"}, **rest}], **usage, **head}

    if not asked.streaming:
        return _whole(chunk(parts, **finish))
    events = [chunk([part], index=0) for part in parts]
    if turn.fault is not None:
        return _stream([*events, _fault_body(turn.fault, asked)])
    return _stream([*events, chunk([{"text": ""}], **finish)])


def _parts(item: Item, *, streaming: bool) -> list[dict[str, Any]]:
    match item:
        case Thought():
            return [{**part, "thought": True} for part in _text_parts(item, streaming)]
        case Text():
            return _text_parts(item, streaming)
        case Call():
            return [{"functionCall": {"id": item.id, "name": item.name, "args": _input(item)}}]
        case Picture():
            return [{"inlineData": {"mimeType": f"image/{item.format}", "data": item.base64}}]


def _text_parts(text: Text, streaming: bool) -> list[dict[str, Any]]:
    return [{"text": piece} for piece in (text.pieces if streaming else [text.whole])]


def _generate_usage(usage: Usage) -> dict[str, Any]:
    """Gemini counts thoughts apart, and leaves out what is nothing."""
    thoughts, cached = usage.reasoning_tokens or 0, usage.cached_input_tokens or 0
    counts = {
        "promptTokenCount": usage.input_tokens or 0,
        "candidatesTokenCount": (usage.output_tokens or 0) - thoughts,
        "totalTokenCount": _total(usage),
    }
    some = {"thoughtsTokenCount": thoughts, "cachedContentTokenCount": cached}
    return {**counts, **{name: count for name, count in some.items() if count}}


# -- Images, embeddings --------------------------------------------------------------------------------


def images(turn: Turn, asked: Asked) -> Answer:
    """The Images API of OpenAI; what is partial is sent in streams only."""
    pictures: list[Picture] = turn.of(Picture)
    final = [picture for picture in pictures if not picture.partial]
    about: dict[str, Any] = {
        "background": "opaque",
        "output_format": (final or pictures)[0].format if pictures else "png",
        "quality": "medium",
        "size": str(asked.body.get("size") or "1024x1024"),
    }
    usage = _image_usage(turn.usage)
    if not asked.streaming:
        data = [_image_data(picture) for picture in final]
        return _whole({"created": CREATED, **about, "data": data, "usage": usage})
    about = {"created_at": CREATED, **about}
    kind = "image_edit" if asked.request.operation == "edit" else "image_generation"
    events: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        made = {"b64_json": picture.base64, **about}
        if picture.partial:
            events.append({"type": f"{kind}.partial_image", **made, "partial_image_index": index})
        else:
            events.append({"type": f"{kind}.completed", **made, "usage": usage})
    if turn.fault is not None:
        events.append({"type": "error", **_fault_body(turn.fault, asked)})
    return _stream(events, named=True)


def _image_data(picture: Picture) -> dict[str, Any]:
    data: dict[str, Any] = {"b64_json": picture.base64}
    revised = picture.image.revised_prompt
    return {**data, "revised_prompt": revised} if revised else data


def _image_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens or 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": usage.input_tokens or 0},
        "output_tokens": usage.output_tokens or 0,
        "total_tokens": _total(usage),
    }


def embeddings(turn: Turn, asked: Asked) -> Answer:
    """The Embeddings API of OpenAI; base64 is float32, little-endian."""
    in_base64 = asked.body.get("encoding_format") == "base64"
    data = []
    for index, row in enumerate(turn.vectors):
        vector = base64_text(packed([row])) if in_base64 else row
        data.append({"object": "embedding", "index": index, "embedding": vector})
    count = turn.usage.input_tokens or 0
    usage = {"prompt_tokens": count, "total_tokens": count}
    return _whole({"object": "list", "data": data, "model": asked.model, "usage": usage})


def batch_embeddings(turn: Turn, asked: Asked) -> Answer:
    return _whole({"embeddings": [{"values": row} for row in turn.vectors]})


_SAID: Final = (Text, Thought, Call)
_RENDERERS: Final[dict[str, tuple[Callable[[Turn, Asked], Answer], tuple[Any, ...]]]] = {
    "chat": (chat, (*_SAID, Picture)),
    "responses": (responses, (*_SAID, Picture)),
    "messages": (messages, _SAID),
    "generate": (generate, (*_SAID, Picture)),
    "images": (images, (Picture,)),
    "embeddings": (embeddings, ()),
    "batch_embeddings": (batch_embeddings, ()),
}
"""The renderer of each dialect, and what it can say."""
