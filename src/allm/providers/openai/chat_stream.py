"""The answers of Chat Completions into events: server-sent events, or one JSON body.

Typed structs name the fields that are used and nothing else; unknown fields, words and items pass.
What servers of this dialect do differently from each other is handled here by looking at the data,
never by the name of the server.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from allm.data.content import AudioPart, Image, ImagePart, Origin, ReasoningPart, ToolCall, parsed_call
from allm.data.events import (
    Event,
    MessageCompleted,
    MessageStarted,
    RawChunk,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from allm.data.requests import Request
from allm.data.responses import Usage
from allm.errors import ValidationError
from allm.providers.decoding import (
    OpenPart,
    Turn,
    amount,
    answered,
    builtins,
    count,
    counted,
    excerpt,
    plain,
    read,
)
from allm.providers.refusals import Refusal, read_refusal


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None  # of a custom tool


class _Call(Struct, gc=False):
    index: int | None = None
    id: Any = None
    type: str | None = None
    function: _Function | None = None
    custom: _Function | None = None
    extra_content: Any = None  # Gemini's signatures, which must go back


class _Delta(Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    refusal: str | None = None
    images: list[Any] | None = None
    audio: Any = None
    annotations: Any = None
    executed_tools: Any = None
    extra_content: Any = None


class _Choice(Struct, gc=False):
    index: int | None = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    error: Any = None


class _Groq(Struct, gc=False):
    usage: dict[str, Any] | None = None


class _Chunk(Struct, gc=False):
    id: Any = None
    model: Any = None
    object: Any = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    x_groq: _Groq | None = None
    error: Any = None
    citations: Any = None
    search_results: Any = None
    service_tier: Any = None
    system_fingerprint: Any = None


class _PieceFunction(Struct, gc=False):
    arguments: str
    name: None = None


class _PieceCall(Struct, gc=False):
    index: int
    function: _PieceFunction
    id: None = None
    extra_content: None = None


class _PieceDelta(Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[_PieceCall] | None = None
    reasoning: None = None
    reasoning_details: None = None
    function_call: None = None
    refusal: None = None
    images: None = None
    audio: None = None
    annotations: None = None
    executed_tools: None = None
    extra_content: None = None


class _PieceChoice(Struct, gc=False):
    delta: _PieceDelta
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None
    error: None = None


class _Piece(Struct, gc=False):
    """A chunk that brings just the next piece of text, thinking or arguments: no other one fits.

    What every chunk repeats is read in the first and the last ones.
    """

    choices: tuple[_PieceChoice]
    usage: None = None
    x_groq: None = None
    error: None = None
    citations: None = None
    search_results: None = None


_PIECE = msgspec.json.Decoder(_Piece)
_PIECE_STARTS: Final = b"data: "
_CHUNK = msgspec.json.Decoder(_Chunk)

_FINISH = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}
_METADATA = ("citations", "search_results", "service_tier")


class _Part(OpenPart):
    """An open part, and where on the wire its reasoning stood."""

    __slots__ = ("details", "field")

    def __init__(self, kind: str, index: int) -> None:
        super().__init__(kind, index)
        self.details: list[dict[str, Any]] = []
        self.field = ""


class _Slot:
    """An open tool call."""

    __slots__ = ("data", "id", "index", "kind", "name", "pieces", "started", "wire_id")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.wire_id = ""
        self.name = ""
        self.kind = "function"
        self.pieces: list[str] = []
        self.data: dict[str, Any] = {}
        self.started = False

    def add(self, piece: str, events: list[Event]) -> None:
        """A piece of the text of the arguments; it is shown once the call has started."""
        if piece:
            self.pieces.append(piece)
            if self.started:
                events.append(ToolCallDelta(self.id, piece))


def _is_refusal(data: bytes) -> bool:
    """Whether a payload without choices is an error that lacks the `error` key."""
    value = builtins(data)
    return isinstance(value, dict) and ("detail" in value or ("message" in value and "code" in value))


_BROKEN_OFF = Refusal("the provider ended the answer with the finish reason 'error'", reason="provider_error")


class ChatTurn(Turn):
    """What the chunks of one answer have said so far."""

    __slots__ = (
        "_audio", "_by_index", "_calls", "_metadata", "_open", "_pieces", "_provider_data", "_refusal",
        "_started", "_usage", "finish",
    )  # fmt: skip

    def __init__(self, provider: str, request: Request) -> None:
        super().__init__(provider, request)
        self.finish: str | None = None
        self._started = False
        self._pieces = False  # whether chunks may be pieces of what is open
        self._open: _Part | None = None
        self._calls: list[_Slot] = []
        self._by_index: dict[int, _Slot] = {}
        self._usage: dict[str, Any] | None = None
        self._refusal: list[str] = []
        self._audio: dict[str, Any] | None = None
        self._provider_data: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}

    def grow(self, blocks: Iterator[bytes], events: list[Event]) -> bytes | None:
        """A server whose chunks say more than fits into a piece is not tried again until a part begins."""
        if not self._pieces:
            return next(blocks, None)
        decode, start = _PIECE.decode, len(_PIECE_STARTS)
        for block in blocks:
            if not block.startswith(_PIECE_STARTS):
                return block
            try:
                delta = decode(block[start:]).choices[0].delta
            except (ValueError, RecursionError):
                self._pieces = False
                return block
            part, text, thought, calls = self._open, delta.content, delta.reasoning_content, delta.tool_calls
            if text and part is not None and part.kind == "text" and not (thought or calls):
                part.add(text, events)
            elif thought and part is not None and part.kind == "reasoning" and not (text or calls):
                part.add(thought, events)
            elif calls and not (text or thought):
                slot = self._by_index.get(calls[0].index)
                if slot is None or not slot.started:
                    return block
                slot.add(calls[0].function.arguments, events)
            else:
                return block
        return None

    def read(self, name: str | None, data: bytes) -> list[Event]:
        if name == "error":
            self.failure = read_refusal(builtins(data))
            return []
        return self._take(read(_CHUNK, data), data, whole=False)

    def read_whole(self, data: bytes) -> list[Event]:
        if data.startswith(b"["):
            self.failure = read_refusal(builtins(data))
            return []
        chunk = read(_CHUNK, data)
        events = self._take(chunk, data, whole=True)
        if self.failure is None and not chunk.choices:
            text = f"the answer has no choices: {excerpt(data)}"
            self.failure = Refusal(text, reason="malformed_response")
        elif self.finish == "error":
            self.failure = _BROKEN_OFF
        return events

    @property
    def may_end(self) -> bool:
        return self.finish is not None and self._usage is not None

    def missing(self, marked: bool) -> str | None:
        """After a usage report `[DONE]` is an end too: some servers behind OpenRouter and Snowflake
        never send a finish reason (recorded traffic, read 2026-11)."""
        if self.finish == "error":
            self.failure = _BROKEN_OFF
        whole = self.finish is not None or (marked and self.reported())
        return None if whole else "the stream ended without a finish reason"

    def _take(self, chunk: _Chunk, data: bytes, whole: bool) -> list[Event]:
        if chunk.error is not None and chunk.error != {} and chunk.error != "":
            events = self._chunk(chunk, data, whole)
            self.failure = read_refusal(builtins(data))
            return events
        if not chunk.choices and (chunk.object == "error" or (chunk.choices is None and _is_refusal(data))):
            self.failure = read_refusal(builtins(data))
            return []
        return self._chunk(chunk, data, whole)

    def _chunk(self, chunk: _Chunk, data: bytes, whole: bool) -> list[Event]:
        if not self.id and chunk.id:
            self.id = str(chunk.id)
        if not self.model and chunk.model:
            self.model = str(chunk.model)
        if chunk.usage:
            self._usage = chunk.usage
        elif chunk.x_groq is not None and chunk.x_groq.usage:
            self._usage = chunk.x_groq.usage
        for name in _METADATA:
            value = getattr(chunk, name)
            if value:
                self._metadata[name] = value
        if chunk.system_fingerprint:
            self._provider_data["system_fingerprint"] = chunk.system_fingerprint
        events: list[Event] = []
        if not chunk.choices:
            if not (whole or chunk.usage or chunk.x_groq is not None or chunk.error is not None):
                events.append(RawChunk(plain(builtins(data))))
            return events
        if not self._started:
            self._started = True
            events.append(MessageStarted(self.id, self.model))
        others = False
        for choice in chunk.choices:
            if choice.index:
                others = True
            else:
                self._choice(choice, whole, events)
        if others and self.failure is None:
            events.append(RawChunk(plain(builtins(data))))  # a second choice: shown as it came, not folded
        return events

    def _choice(self, choice: _Choice, whole: bool, events: list[Event]) -> None:
        delta = choice.delta
        if delta is None and (whole or not self._parts):
            delta = choice.message
        if delta is not None:
            self._delta(delta, events)
        if choice.finish_reason or (whole and choice.finish_reason is not None):
            self.finish = choice.finish_reason
        if choice.error is not None and choice.error != {}:
            self.failure = read_refusal({"error": choice.error})
        if choice.logprobs is not None:
            self._extend("logprobs", _logprobs(choice.logprobs))

    def _delta(self, delta: _Delta, events: list[Event]) -> None:
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning or delta.reasoning_details:
            field = "reasoning_content" if delta.reasoning_content else "reasoning"
            self._reasoning(reasoning or "", field, delta.reasoning_details, events)
        content = delta.content
        if content:
            if isinstance(content, str):
                self._text(content, events)
            else:
                self._items(content, events)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._call(call, events)
        if delta.function_call is not None:
            self._legacy_call(delta.function_call, events)
        if delta.refusal:
            self._refusal.append(delta.refusal)
        if delta.images:
            for item in delta.images:
                self._image(item, events)
        self._rare(delta, events)

    def _rare(self, delta: _Delta, events: list[Event]) -> None:
        if isinstance(delta.audio, dict):
            self._audio_piece(delta.audio)
        if delta.annotations:
            self._extend("annotations", delta.annotations)
        if delta.executed_tools:
            self._extend("executed_tools", delta.executed_tools)
        if delta.extra_content:
            self._provider_data["extra_content"] = delta.extra_content

    def _extend(self, name: str, items: Any) -> None:
        if isinstance(items, list):
            self._metadata.setdefault(name, []).extend(items)

    def _part(self, kind: str, events: list[Event]) -> _Part:
        """The open part of `kind`; another kind that is open ends here."""
        part = self._open
        if part is None or part.kind != kind:
            self._close(events)
            part = self._open = _Part(kind, self.next_index())
            self._pieces = True
        return part

    def _text(self, text: str, events: list[Event]) -> None:
        self._part("text", events).add(text, events)

    def _reasoning(
        self, text: str, field: str, details: list[dict[str, Any]] | None, events: list[Event]
    ) -> None:
        if not text and details:
            text = "".join([_detail_text(detail) for detail in details])
        part = self._part("reasoning", events)
        part.field = part.field or field
        for detail in details or ():
            _merge_detail(part.details, detail)
        part.add(text, events)

    def _items(self, items: list[Any], events: list[Event]) -> None:
        """Content as a list of parts: Mistral's thinking, text and references."""
        for item in items:
            kind = item.get("type") if isinstance(item, dict) else None
            if isinstance(item, str):
                self._text(item, events)
            elif kind in ("text", "output_text") and isinstance(item.get("text"), str):
                if item["text"]:
                    self._text(item["text"], events)
            elif kind == "thinking":
                text = _thinking(item.get("thinking"))
                if text:
                    self._reasoning(text, "thinking", None, events)
            elif kind == "image_url":
                self._image(item, events)
            else:
                events.append(RawChunk(plain(item)))

    def _image(self, item: Any, events: list[Event]) -> None:
        source = item.get("image_url") if isinstance(item, dict) else None
        url = source.get("url") if isinstance(source, dict) else source
        if not isinstance(url, str) or not url:
            events.append(RawChunk(plain(item)))
            return
        try:
            image = Image.from_data_uri(url) if url.startswith("data:") else Image.from_url(url)
        except ValidationError:
            events.append(RawChunk(plain(item)))
            return
        self._close(events)
        part = ImagePart(image, origin=self._origin())
        events.append(RawChunk({"type": "image", "mime_type": image.mime_type}, self.next_index(), part))

    def _audio_piece(self, piece: dict[str, Any]) -> None:
        """Sound comes in pieces, each encoded for itself; an empty object is a placeholder."""
        if not any(piece.get(name) for name in ("id", "data", "transcript")):
            return
        audio = self._audio
        if audio is None:
            audio = self._audio = {"index": self.next_index(), "id": None, "data": b"", "transcript": ""}
        audio["id"] = audio["id"] or piece.get("id")
        try:
            audio["data"] += b64decode(piece.get("data") or "", validate=True)
        except (Base64Error, ValueError, TypeError):
            self._metadata["audio_undecodable"] = True
        audio["transcript"] += str(piece.get("transcript") or "")

    def _legacy_call(self, function: _Function, events: list[Event]) -> None:
        if function.name or function.arguments:
            self._call(_Call(index=-1, function=function), events)

    def _call(self, call: _Call, events: list[Event]) -> None:
        custom = call.function is None and call.custom is not None
        function = (call.custom if custom else call.function) or _Function()
        wire_id = str(call.id) if call.id not in (None, "") else ""
        text = function.input if custom else function.arguments
        if isinstance(text, dict):
            text = msgspec.json.encode(text).decode()
        slot = self._slot(call.index, wire_id, function.name or "", text or "", events)
        if custom:
            slot.kind = "custom"
        if call.extra_content:
            slot.data["extra_content"] = call.extra_content
        if not slot.started and slot.name:
            self._start(slot, events)
        slot.add(text or "", events)

    def _slot(self, index: int | None, wire_id: str, name: str, text: str, events: list[Event]) -> _Slot:
        """The call that a delta belongs to, by its index, its id, or its place.

        Servers leave out the index, the id or both; repeat id and name in every delta; give several
        calls one index. A delta with a name of its own and another id starts another call, and so
        does one without id whose predecessor is whole.
        """
        slot = self._by_index.get(index) if index is not None else None
        if index is None and self._calls:
            same = [known for known in self._calls if wire_id and known.wire_id == wire_id]
            slot = same[0] if same else self._calls[-1]
        if slot is not None and name and slot.name and self._is_another(slot, wire_id, text, index):
            slot = None
        if slot is None:
            self._close(events)
            slot = _Slot(self.next_index())
            self._calls.append(slot)
        if index is not None:
            self._by_index[index] = slot
        slot.wire_id = slot.wire_id or wire_id
        slot.name = slot.name or name
        return slot

    def _is_another(self, slot: _Slot, wire_id: str, text: str, index: int | None) -> bool:
        if wire_id and slot.wire_id:
            return wire_id != slot.wire_id
        if index is None:
            return True
        return (
            text.lstrip().startswith("{")
            and parsed_call("", "", "".join(slot.pieces)).arguments_invalid is False
        )

    def _start(self, slot: _Slot, events: list[Event]) -> None:
        slot.id = self.unique_id(slot.wire_id)
        slot.started = self._pieces = True
        events.append(ToolCallStarted(slot.id, slot.name, slot.index))
        if slot.pieces:
            events.append(ToolCallDelta(slot.id, "".join(slot.pieces)))

    def _origin(self) -> Origin:
        return Origin(self.provider, "chat", self.request.model or self.model or "")

    def _close(self, events: list[Event]) -> None:
        part, self._open = self._open, None
        if part is None:
            return
        if part.kind == "text":
            part.close(events)
            return
        data: dict[str, Any] = {"field": part.field}
        signature = None
        if part.details:
            data["reasoning_details"] = [d for d in map(plain, part.details) if d is not None]
            signature = next(
                (d["signature"] for d in part.details if isinstance(d.get("signature"), str)), None
            )
        part.close(events, ReasoningPart(part.text, signature, provider_data=data, origin=self._origin()))

    def complete(self, request_id: str | None) -> list[Event]:
        events: list[Event] = []
        self._close(events)
        for slot in self._calls:
            if not slot.started:
                self._start(slot, events)
            events.append(ToolCallCompleted(self._finished(slot), slot.index))
        if self._audio is not None:
            events.append(self._finished_audio(self._audio))
        reported = self.reported()
        usage = reported[0].usage if reported else None
        response = answered(
            id=self.id,
            request_id=request_id,
            provider=self.provider,
            model=self.model or self.request.model,
            finish_reason=self._finish_reason(),
            raw_finish_reason=self.finish,
            usage=usage,
            refusal="".join(self._refusal) or None,
            provider_data=self._provider_data,
            metadata=self._metadata,
        )
        return [*events, *reported, MessageCompleted(response)]

    def _finish_reason(self) -> str:
        word = _FINISH.get(self.finish or "", "other")
        return "tool_calls" if self._calls and word in ("stop", "other") else word

    def _finished(self, slot: _Slot) -> ToolCall:
        raw = "".join(slot.pieces)
        data = plain(slot.data) or {}
        origin = self._origin() if data else None
        if slot.kind == "custom":
            return ToolCall(
                slot.id, slot.name, {"input": raw}, raw, kind="custom", provider_data=data, origin=origin
            )
        return parsed_call(slot.id, slot.name, raw, provider_data=data, origin=origin)

    def _finished_audio(self, audio: dict[str, Any]) -> Event:
        asked = self.request.options.get("audio")
        sound = str(asked.get("format") or "wav") if isinstance(asked, dict) else "wav"
        id = str(audio["id"]) if audio["id"] else None
        part = AudioPart(audio["data"], sound, id, audio["transcript"] or None, origin=self._origin())
        return RawChunk({"type": "audio", "id": id}, audio["index"], part)

    def reported(self) -> list[UsageReported]:
        return [UsageReported(usage_of(self._usage))] if self._usage else []


def usage_of(raw: dict[str, Any]) -> Usage:
    """The counts of a `usage` object in the meaning of `Usage`."""
    prompt_details, details = _object(raw, "prompt_tokens_details"), _object(raw, "completion_tokens_details")
    prompt, output = count(raw, "prompt_tokens"), count(raw, "completion_tokens")
    total = count(raw, "total_tokens")
    reasoning = count(details, "reasoning_tokens")
    if reasoning is None:
        reasoning = count(raw, "reasoning_tokens")
    # xAI leaves the reasoning out of the completion count, and only the total tells.
    if reasoning and output is not None and total == (prompt or 0) + output + reasoning:
        output += reasoning
    cached = count(prompt_details, "cached_tokens")
    if cached is None:
        cached = count(raw, "prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")
    written = count(prompt_details, "cache_write_tokens")
    if written is None:
        written = count(raw, "cache_creation_input_tokens")
    cost = raw.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    return counted(
        raw,
        input_tokens=prompt,
        output_tokens=output,
        cached_input_tokens=cached,
        cache_write_input_tokens=written,
        reasoning_tokens=reasoning,
        total_tokens=total,
        total_cost=amount(cost),
    )


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _logprobs(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else None


def _thinking(value: Any) -> str:
    if isinstance(value, str):
        return value
    items = value if isinstance(value, list) else []
    return "".join([str(item.get("text") or "") for item in items if isinstance(item, dict)])


def _detail_text(detail: dict[str, Any]) -> str:
    for name in ("text", "summary"):
        value = detail.get(name)
        if isinstance(value, str):
            return value
    return ""


def _merge_detail(details: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    """Append a piece of `reasoning_details`; pieces of the same item in a row are one item.

    OpenRouter streams an item as pieces with the same type and index, the signature with the last.
    """
    last = details[-1] if details else None
    if last is None or any(last.get(key) != piece.get(key) for key in ("type", "index")):
        details.append(dict(piece))
        return
    for name, value in piece.items():
        known = last.get(name)
        if name in ("text", "summary", "data") and isinstance(known, str) and isinstance(value, str):
            last[name] = known + value
        elif value is not None:
            last[name] = value
