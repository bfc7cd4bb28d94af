"""Hypothesis strategies for every layer A struct and every event, for all tests to use."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from allm.data import content, events, failure, media, messages, requests, responses, sessions

text = st.text(st.characters(codec="utf-8"), max_size=12)
words = st.one_of(st.from_regex(r"[a-z_]{1,10}", fullmatch=True), text)
integers = st.integers(-(2**63), 2**64 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.none(), st.booleans(), integers, numbers, text)
json_values: SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
maps: SearchStrategy[dict[str, Any]] = st.dictionaries(text, json_values, max_size=3)
# Keys of `extra` may be anything, the names of fields and of the envelope included.
extras: SearchStrategy[dict[str, Any]] = st.dictionaries(
    text | st.sampled_from(["type", "allm", "extra", "type_", "id", "text", "content", "data"]),
    json_values,
    max_size=2,
)


def _maybe(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


def _rows(strategy: SearchStrategy[Any], size: int = 3) -> SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=size).map(tuple)


def _build(cls: Any, **fields: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """`cls` with each field drawn or, where it has a default, left out."""
    required = {field.name for field in msgspec.structs.fields(cls) if field.required}
    needed = {name: strategy for name, strategy in fields.items() if name in required}
    optional = {name: strategy for name, strategy in fields.items() if name not in required}
    return st.fixed_dictionaries(needed, optional=optional).map(lambda given: cls(**given))


error_infos = _build(
    failure.ErrorInfo, reason=st.sampled_from(sorted(failure.REASONS)) | words, message=text, provider=text,
    model=text, status=integers, code=text, request_id=text, call_id=text, attempts=integers, elapsed=numbers,
    retry_after=numbers, retryable=st.booleans(), phase=words, problems=_rows(st.tuples(text, text)),
    extra=extras,
)  # fmt: skip

origins = _build(content.Origin, provider=text, endpoint=text, model=text, extra=extras)
_image_details = {
    "mime_type": text, "width": integers, "height": integers, "prompt": text, "revised_prompt": text,
    "metadata": maps, "extra": extras,
}  # fmt: skip
images: SearchStrategy[content.Image] = st.one_of(
    *(
        st.fixed_dictionaries({name: source}, optional=_image_details)
        for name, source in (("data", st.binary(max_size=8)), ("url", text), ("path", text))
    )
).map(lambda given: content.Image(**given))

_bound = {"provider_data": maps, "origin": _maybe(origins), "extra": extras}
text_parts = _build(content.TextPart, text=text, **_bound)
image_parts = _build(content.ImagePart, image=images, detail=words, **_bound)
audio_parts = _build(
    content.AudioPart, data=st.binary(max_size=8), format=words, id=text, transcript=text, **_bound
)
file_parts = _build(
    content.FilePart, data=_maybe(st.binary(max_size=8)), url=text, file_id=text, mime_type=text,
    filename=text, **_bound,
)  # fmt: skip
reasoning_parts = _build(content.ReasoningPart, text=text, signature=text, redacted=text, id=text, **_bound)
tool_calls = _build(
    content.ToolCall, id=text, name=text, arguments=maps, raw_arguments=text, arguments_invalid=st.booleans(),
    kind=words, **_bound,
)  # fmt: skip
# What a provider or a newer version may have sent: an object with a type, ours or another.
foreign = st.builds(
    lambda rest, word: {**rest, "type": word}, maps, words | st.sampled_from(["text", "opaque", "usage"])
)
opaque_parts = _build(content.OpaquePart, data=foreign | json_values, **_bound)
parts: SearchStrategy[content.Part] = st.one_of(
    text_parts, image_parts, audio_parts, file_parts, reasoning_parts, tool_calls, opaque_parts
)

chat_messages = _build(
    messages.Message, role=st.sampled_from(messages.ROLES) | words, content=text | _rows(parts), name=text,
    tool_call_id=text, is_error=st.booleans(), metadata=maps, extra=extras,
)  # fmt: skip
threads = _build(messages.Thread, messages=_rows(chat_messages), metadata=maps, extra=extras)

model_refs = _build(requests.ModelRef, provider=text, id=text, extra=extras)
tool_specs = _build(
    requests.ToolSpec, name=text, description=text, schema=maps, strict=st.booleans(), manual=st.booleans(),
    timeout=numbers, on_interrupted=words, examples=_rows(text), handler=text, metadata=maps, extra=extras,
)  # fmt: skip
response_formats = _build(
    requests.ResponseFormat, type=words, name=text, schema=maps, strict=st.booleans(), extra=extras
)
chat_requests = _build(
    requests.Request, messages=_rows(chat_messages), model=text, system=text, tools=_rows(tool_specs, 2),
    tool_choice=words | maps, parallel_tool_calls=st.booleans(), temperature=numbers, top_p=numbers,
    max_tokens=integers, stop=_rows(text), seed=integers, response_format=response_formats,
    reasoning=words | maps, prompt_cache=words | maps, options=maps, metadata=maps, extra=extras,
)  # fmt: skip

_COUNTERS = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_input_tokens", "reasoning_tokens",
    "total_tokens",
)  # fmt: skip
_counters = dict.fromkeys(_COUNTERS, integers)
usages = _build(
    responses.Usage, **_counters, input_cost=numbers, output_cost=numbers, total_cost=numbers, raw=maps,
    extra=extras,
)  # fmt: skip
chat_responses = _build(
    responses.Response, message=chat_messages, id=text, request_id=text, provider=text, model=text,
    finish_reason=words, raw_finish_reason=words, usage=usages, refusal=text, warnings=_rows(text),
    error=error_infos, provider_data=maps, metadata=maps, extra=extras,
)  # fmt: skip
step_results = _build(
    responses.StepResult, response=chat_responses, tool_results=_rows(chat_messages, 2), done=st.booleans(),
    base=threads, metadata=maps, extra=extras,
)  # fmt: skip
chat_results = _build(
    responses.ChatResult, base=threads, steps=_rows(step_results, 2), halted_reason=words,
    pending_question=text, pending_tool_call_id=text, error=error_infos, metadata=maps, extra=extras,
)  # fmt: skip

tool_results = _build(events.ToolResultEncoded, message=chat_messages, halt=maps)
steps_in_progress = _build(
    sessions.Progress, revision=integers, turns=integers, asked=_rows(chat_messages, 1),
    response=chat_responses, started=_rows(text), results=_rows(tool_results, 2),
    approved=_rows(tool_calls, 2), extra=extras,
)  # fmt: skip
chat_sessions = _build(
    sessions.Session, id=text, thread=threads, status=st.sampled_from(sessions.STATUSES) | words,
    pending_tool_calls=_rows(tool_calls, 2), pending_question=text, pending_tool_call_id=text,
    revision=integers, error=error_infos, context=maps, metadata=maps, progress=steps_in_progress,
    extra=extras,
)  # fmt: skip
decisions = st.builds(
    sessions.Decision, digest=text, approved=st.booleans(), arguments=st.none() | maps, reason=text,
    extra=extras,
)  # fmt: skip
session_turns = st.builds(sessions.SessionTurn, chat_sessions, chat_results | step_results)

image_requests = _build(
    media.ImageRequest, operation=words, model=text, prompt=text, n=integers, size=text, quality=words,
    style=words, background=words, response_format=words, input_images=_rows(images, 2), mask=images,
    options=maps, metadata=maps, extra=extras,
)  # fmt: skip
image_responses = _build(
    media.ImageResponse, id=text, request_id=text, provider=words, model=text, images=_rows(images, 2),
    text=text, finish_reason=words, error=error_infos, usage=usages, warnings=_rows(text),
    provider_data=maps, metadata=maps, extra=extras,
)  # fmt: skip
embedding_requests = _build(
    media.EmbeddingRequest, input=_rows(text), model=text, dimensions=integers, task_type=words,
    truncate=st.booleans(), options=maps, metadata=maps, extra=extras,
)  # fmt: skip
embedding_responses = _build(
    media.EmbeddingResponse, data=st.binary(max_size=6).map(lambda data: data * 8), dimensions=st.just(2),
    request_id=text, provider=words, model=text, usage=usages, error=error_infos, warnings=_rows(text),
    metadata=maps, extra=extras,
)  # fmt: skip

media_progress = st.builds(media.MediaProgress, integers, st.none() | integers, st.none() | image_parts)
media_completed = st.builds(media.MediaCompleted, image_responses | embedding_responses)

_streamed = {"text": text, "index": integers}
EVENTS: dict[type[events.Event], SearchStrategy[Any]] = {
    events.MessageStarted: _build(events.MessageStarted, id=text, model=text),
    events.TextDelta: _build(events.TextDelta, **_streamed),
    events.TextCompleted: _build(events.TextCompleted, **_streamed, part=text_parts),
    events.ReasoningDelta: _build(events.ReasoningDelta, **_streamed),
    events.ReasoningCompleted: _build(events.ReasoningCompleted, **_streamed, part=reasoning_parts),
    events.ToolCallStarted: _build(events.ToolCallStarted, id=text, name=text, index=integers),
    events.ToolCallDelta: _build(events.ToolCallDelta, id=text, text=text),
    events.ToolCallCompleted: _build(events.ToolCallCompleted, call=tool_calls, index=integers),
    events.UsageReported: _build(events.UsageReported, usage=usages),
    events.MessageCompleted: _build(events.MessageCompleted, response=chat_responses),
    events.ToolExecutionStarted: _build(events.ToolExecutionStarted, call=tool_calls),
    events.ToolExecutionCompleted: _build(
        events.ToolExecutionCompleted, id=text, name=text, is_error=st.booleans(), elapsed=numbers
    ),
    events.ToolResultEncoded: tool_results,
    events.AskUserRequested: _build(
        events.AskUserRequested, call_id=text, question=text, choices=_rows(text)
    ),
    events.ToolHalt: _build(events.ToolHalt, call_id=text, reason=words, value=json_values),
    events.StepCompleted: _build(events.StepCompleted, result=step_results),
    events.ChatCompleted: _build(events.ChatCompleted, result=chat_results),
    events.Retrying: _build(events.Retrying, attempt=integers, delay=numbers, error=error_infos),
    events.RawChunk: _build(events.RawChunk, data=foreign | json_values, index=integers, part=opaque_parts),
    events.StreamFailed: _build(events.StreamFailed, error=error_infos),
}
"""A strategy for each event class."""

any_event: SearchStrategy[events.Event] = st.one_of(*EVENTS.values())

STRUCTS: dict[type[Any], SearchStrategy[Any]] = {
    content.Origin: origins, content.Image: images, content.TextPart: text_parts,
    content.ImagePart: image_parts, content.AudioPart: audio_parts, content.FilePart: file_parts,
    content.ReasoningPart: reasoning_parts, content.ToolCall: tool_calls, content.OpaquePart: opaque_parts,
    failure.ErrorInfo: error_infos, messages.Message: chat_messages, messages.Thread: threads,
    requests.ModelRef: model_refs, requests.ToolSpec: tool_specs, requests.ResponseFormat: response_formats,
    requests.Request: chat_requests, responses.Usage: usages, responses.Response: chat_responses,
    responses.StepResult: step_results, responses.ChatResult: chat_results, sessions.Session: chat_sessions,
    sessions.SessionTurn: session_turns, sessions.Progress: steps_in_progress,
    sessions.Decision: decisions,
    media.ImageRequest: image_requests,
    media.ImageResponse: image_responses, media.EmbeddingRequest: embedding_requests,
    media.EmbeddingResponse: embedding_responses, media.MediaProgress: media_progress,
    media.MediaCompleted: media_completed,
}  # fmt: skip
"""A strategy for each layer A struct that is no event."""

any_struct: SearchStrategy[Any] = st.one_of(*STRUCTS.values())
any_value: SearchStrategy[Any] = st.one_of(any_struct, any_event)
