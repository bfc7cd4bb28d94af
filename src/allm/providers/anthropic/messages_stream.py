"""The answers of Anthropic Messages into events: server-sent events, or one JSON body.

A message is a list of blocks, each opened, grown and closed under its index; a JSON body is read as the
same blocks, opened and closed at once. Typed structs name the fields that are used and nothing else.
Shapes: SDK types of the version `2026-10-21` and recorded traffic, read 2026-11.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from allm.data.content import OpaquePart, Origin, ReasoningPart, TextPart
from allm.data.events import Event, MessageCompleted, MessageStarted, RawChunk, TextCompleted, UsageReported
from allm.data.messages import Message
from allm.data.requests import Request
from allm.data.responses import Usage
from allm.preparing import fingerprint
from allm.providers.decoding import (
    OpenCall,
    OpenPart,
    Turn,
    answered,
    builtins,
    counted,
    excerpt,
    plain,
    read,
)
from allm.providers.refusals import Refusal, read_refusal


class _Delta(Struct, gc=False):
    """The delta of a block, or the one that ends the message."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: Any = None
    content: Any = None  # of a compaction
    encrypted_content: Any = None
    stop_reason: str | None = None
    stop_sequence: Any = None
    stop_details: Any = None
    container: Any = None


class _Event(Struct, gc=False):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    usage: Any = None
    error: Any = None
    context_management: Any = None
    input_transformations: Any = None


class _TextPiece(Struct, gc=False, tag_field="type", tag="text_delta"):
    piece: str = field(name="text")


class _ThinkingPiece(Struct, gc=False, tag_field="type", tag="thinking_delta"):
    piece: str = field(name="thinking")


class _InputPiece(Struct, gc=False, tag_field="type", tag="input_json_delta"):
    piece: str = field(name="partial_json")


class _Growth(Struct, gc=False, tag_field="type", tag="content_block_delta"):
    """The next piece of an open block."""

    index: int
    delta: _TextPiece | _ThinkingPiece | _InputPiece


class _TextBlock(Struct, gc=False):
    text: str | None = None
    citations: list[Any] | None = None


class _ThinkingBlock(Struct, gc=False):
    thinking: str | None = None
    signature: str | None = None


class _RedactedBlock(Struct, gc=False):
    data: str


class _CallBlock(Struct, gc=False):
    id: Any = None
    name: str | None = None
    input: Any = None
    caller: Any = None
    toolset_name: Any = None


class _Written(Struct, gc=False):
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _WrittenBlocks(Struct, gc=False):
    content: list[_Written] = []
    content_block: _Written | None = None


_EVENT = msgspec.json.Decoder(_Event)
_GROWTH = msgspec.json.Decoder(_Growth)
_GROWTH_STARTS: Final = b"event: content_block_delta\ndata: "
_WRITTEN = msgspec.json.Decoder(_WrittenBlocks)

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "paused",
    "compaction": "paused",
    "refusal": "content_filter",
}
_EVENTS = (
    "message_start",
    "content_block_start",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
)
_DELTAS = (
    "text_delta",
    "citations_delta",
    "thinking_delta",
    "signature_delta",
    "input_json_delta",
    "compaction_delta",
)
_METADATA = ("stop_sequence", "stop_details", "context_management", "input_transformations", "diagnostics")


class _Block(Protocol):
    """An open block. Each kind takes the deltas it knows and says whether it did; all that it does with those
    of the kind `grows_by` is to add their text to `part`."""

    @property
    def grows_by(self) -> type[Struct] | None: ...
    @property
    def part(self) -> Any: ...
    def add(self, delta: _Delta, events: list[Event]) -> bool: ...
    def close(self, events: list[Event]) -> None: ...


class _Text:
    __slots__ = ("citations", "part", "turn")
    grows_by = _TextPiece

    def __init__(self, turn: MessagesTurn, block: _TextBlock, events: list[Event]) -> None:
        self.turn = turn
        self.part = turn.open("text")
        self.citations = list(block.citations or ())
        self.part.add(block.text or "", events)

    def add(self, delta: _Delta, events: list[Event]) -> bool:
        if delta.type == "text_delta":
            self.part.add(delta.text or "", events)
        elif delta.type == "citations_delta":
            self.citations.append(delta.citation)
        else:
            return False
        return True

    def close(self, events: list[Event]) -> None:
        citations = [found for found in map(plain, self.citations) if found is not None]
        if not citations:
            self.part.close(events)
            return
        self.turn.annotations += citations
        data = {"citations": citations}
        self.part.close(events, TextPart(self.part.text, provider_data=data, origin=self.turn.origin))


class _Thinking:
    __slots__ = ("part", "signature", "turn")
    grows_by = _ThinkingPiece

    def __init__(self, turn: MessagesTurn, block: _ThinkingBlock, events: list[Event]) -> None:
        self.turn = turn
        self.part = turn.open("reasoning")
        self.signature = block.signature
        self.part.add(block.thinking or "", events)

    def add(self, delta: _Delta, events: list[Event]) -> bool:
        if delta.type == "thinking_delta":
            self.part.add(delta.thinking or "", events)
        elif delta.type == "signature_delta":
            self.signature = delta.signature
        else:
            return False
        return True

    def close(self, events: list[Event]) -> None:
        part = ReasoningPart(self.part.text, self.signature or None, origin=self.turn.bound_origin())
        self.part.close(events, part)


class _Redacted:
    __slots__ = ("block", "part", "turn")
    grows_by = None

    def __init__(self, turn: MessagesTurn, block: _RedactedBlock) -> None:
        self.turn = turn
        self.block = block
        self.part = turn.open("reasoning")

    def add(self, delta: _Delta, events: list[Event]) -> bool:
        return False

    def close(self, events: list[Event]) -> None:
        self.part.close(events, ReasoningPart(redacted=self.block.data, origin=self.turn.bound_origin()))


class _Call:
    """A client tool's call. Its input comes as JSON text in pieces, or whole with the start."""

    __slots__ = ("block", "part", "turn")
    grows_by = _InputPiece

    def __init__(self, turn: MessagesTurn, block: _CallBlock, events: list[Event]) -> None:
        self.turn = turn
        self.block = block
        self.part: OpenCall = turn.call(str(block.id or ""), block.name or "", events)

    def add(self, delta: _Delta, events: list[Event]) -> bool:
        if delta.type != "input_json_delta":
            return False
        self.part.add(delta.partial_json or "", events)
        return True

    def close(self, events: list[Event]) -> None:
        if not self.part.pieces and self.block.input:
            self.part.add(_json(self.block.input), events)
        data = {name: getattr(self.block, name) for name in ("caller", "toolset_name")}
        known = {name: value for name, value in data.items() if value is not None}
        self.part.close(events, known, self.turn.origin)


class _Answer:
    """The call of the tool that stands in for structured output: its input is the text of the answer."""

    __slots__ = ("block", "part")
    grows_by = _InputPiece

    def __init__(self, turn: MessagesTurn, block: _CallBlock) -> None:
        self.block = block
        self.part: OpenPart = turn.open("text")

    def add(self, delta: _Delta, events: list[Event]) -> bool:
        if delta.type != "input_json_delta":
            return False
        self.part.add(delta.partial_json or "", events)
        return True

    def close(self, events: list[Event]) -> None:
        if not self.part.pieces:
            self.part.add(_json(self.block.input or {}), events)
        self.part.close(events)


class _Item:
    """A block that goes back as it came: server tools and their results, compactions, unknown kinds."""

    __slots__ = ("data", "index", "input", "lost", "turn")
    grows_by = None
    part = None

    def __init__(self, turn: MessagesTurn, data: dict[str, Any]) -> None:
        self.turn = turn
        self.data = data
        self.index = turn.next_index()
        self.input: list[str] = []
        self.lost = False

    def add(self, delta: _Delta, events: list[Event]) -> bool:
        if delta.type == "input_json_delta":
            self.input.append(delta.partial_json or "")
        elif delta.type == "compaction_delta":
            self.data["content"] = delta.content
            if delta.encrypted_content is not None:
                self.data["encrypted_content"] = delta.encrypted_content
        elif delta.type == "text_delta":
            self.data["text"] = (self.data.get("text") or "") + (delta.text or "")
        elif delta.type == "signature_delta":
            self.data["signature"] = delta.signature
        else:
            self.lost = True
            return False
        return True

    def close(self, events: list[Event]) -> None:
        raw = "".join(self.input)
        if raw.strip():
            self.data["input"] = _parsed(raw)
        data = plain(self.data)
        if data is None or self.lost:  # a part of it is missing: sent back it would be refused
            kind = str(self.data.get("type"))[:100]
            self.turn.warnings.append(f"a block of the type {kind!r} could not be read and is not kept")
            events.append(RawChunk(data))
        else:
            events.append(RawChunk(data, self.index, OpaquePart(data=data, origin=self.turn.origin)))


class MessagesTurn(Turn):
    """What the events of one answer have said so far.

    `structured` is the name of the tool that stands in for structured output, where there is one.
    """

    __slots__ = (
        "_abandoned", "_answered", "_blocks", "_bound", "_calls", "_container", "_finish", "_metadata",
        "_started", "_structured", "_system", "_usage", "annotations", "warnings",
    )  # fmt: skip

    def __init__(
        self, provider: str, request: Request, system: str | None = None, structured: str | None = None
    ) -> None:
        super().__init__(provider, request)
        self.annotations: list[Any] = []
        self.warnings: list[str] = []
        self._system = system
        self._structured = structured
        self._blocks: dict[int | None, _Block] = {}
        self._started = False
        self._finish: str | None = None
        self._calls = False
        self._answered = False
        self._usage: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}
        self._container: Any = None
        self._bound: Origin | None = None
        self._abandoned = 0

    @property
    def origin(self) -> Origin:
        return Origin(self.provider, "messages", self.request.model or self.model or "")

    def bound_origin(self) -> Origin:
        """The origin of thinking, which Anthropic binds to the conversation before the assistant's turn."""
        if self._bound is None:
            before = self.request.messages
            while before and before[-1].role == "assistant":  # the turn itself, where it is continued
                before = before[:-1]
            prefix = fingerprint(before, self._system, self.request.tools)
            self._bound = replace(self.origin, prefix=prefix)
        return self._bound

    def grow(self, blocks: Iterator[bytes], events: list[Event]) -> bytes | None:
        open_blocks, decode, start = self._blocks, _GROWTH.decode, len(_GROWTH_STARTS)
        for block in blocks:
            if not block.startswith(_GROWTH_STARTS):
                return block
            try:
                growth = decode(block[start:])
            except (ValueError, RecursionError):
                return block
            grown, delta = open_blocks.get(growth.index), growth.delta
            if grown is None or grown.grows_by is not type(delta):
                return block
            grown.part.add(delta.piece, events)
        return None

    def read(self, name: str | None, data: bytes) -> list[Event]:
        if name == "error":
            self.failure = read_refusal(builtins(data))
            return []
        try:
            event = read(_EVENT, data)
        except msgspec.ValidationError:
            if _is_known(builtins(data)):
                raise
            return [RawChunk(plain(builtins(data)))]
        kind = event.type
        events: list[Event] = []
        if kind == "content_block_delta":
            self._delta(event, data, events)
        elif kind == "content_block_start" and event.content_block is not None:
            _keep_spelling(data, [event.content_block])
            self._open_block(event.index, event.content_block, events)
        elif kind == "content_block_stop":
            self._close_block(event.index, events)
        elif kind == "message_start" and event.message is not None:
            self._start(event.message, events)
        elif kind == "message_delta":
            self._ending(event)
        elif kind == "message_stop":
            self._stop()
        elif kind == "error" or event.error is not None:
            self.failure = read_refusal(builtins(data))
        elif kind != "ping":
            events.append(RawChunk(plain(builtins(data))))
        return events

    def read_whole(self, data: bytes) -> list[Event]:
        message = builtins(data)
        content = None
        if isinstance(message, dict):
            if message.get("error") or message.get("type") == "error":
                self.failure = read_refusal(message)
                return []
            content = message.get("content")
        if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
            text = f"the answer has no content: {excerpt(data)}"
            self.failure = Refusal(text, reason="malformed_response")
            return []
        events: list[Event] = []
        self._start(message, events)
        _keep_spelling(data, content)
        for index, block in enumerate(content):
            self._open_block(index, block, events)
            self._close_block(index, events)
        self._finish = _word(message.get("stop_reason"))
        self._note(message)
        self._refuse_broken()
        return events

    @property
    def may_end(self) -> bool:
        return bool(self._finish)

    def missing(self, marked: bool) -> str | None:
        """The stop reason ends an answer; `message_stop`, which adds nothing to it, may be lost."""
        self._refuse_broken()
        return None if self._finish else "the stream ended without a stop reason"

    def _stop(self) -> None:
        self.done = True
        self._refuse_broken()
        if not self._finish:
            text = "the stream ended without a stop reason"
            self.failure = Refusal(text, reason="stream_interrupted")

    def _refuse_broken(self) -> None:
        if self._finish == "error":
            text = "the provider ended the answer with the stop reason 'error'"
            self.failure = Refusal(text, reason="provider_error")

    def _start(self, message: dict[str, Any], events: list[Event]) -> None:
        """A second start in one answer is a new try: what came before it is not part of the message."""
        if self._started:
            self._restart()
        else:
            self._started = True
            self.id = _word(message.get("id"))
            self.model = _word(message.get("model"))
            events.append(MessageStarted(self.id, self.model))
        self._count(message.get("usage"))
        self._note(message)

    def _restart(self) -> None:
        self._abandoned = max(self._abandoned, self._parts)
        self._parts = 0
        self._used = None
        self._blocks.clear()
        self._calls = self._answered = False
        self.annotations.clear()

    def _open_block(self, index: int | None, block: dict[str, Any], events: list[Event]) -> None:
        if index in self._blocks:
            self._close_block(index, events)
        self._blocks[index] = self._block(block, events)

    def _block(self, block: dict[str, Any], events: list[Event]) -> _Block:
        kind = block.get("type")
        if kind == "text":
            return _Text(self, msgspec.convert(block, _TextBlock), events)
        if kind == "thinking":
            return _Thinking(self, msgspec.convert(block, _ThinkingBlock), events)
        if kind == "redacted_thinking":
            return _Redacted(self, msgspec.convert(block, _RedactedBlock))
        if kind != "tool_use":
            return _Item(self, block)
        call = msgspec.convert(block, _CallBlock)
        if self._structured is not None and call.name == self._structured:
            self._answered = True
            return _Answer(self, call)
        self._calls = True
        return _Call(self, call, events)

    def _delta(self, event: _Event, data: bytes, events: list[Event]) -> None:
        block = self._blocks.get(event.index)
        if event.delta is not None and (block is None or not block.add(event.delta, events)):
            events.append(RawChunk(plain(builtins(data))))

    def _close_block(self, index: int | None, events: list[Event]) -> None:
        block = self._blocks.pop(index, None)
        if block is not None:
            block.close(events)

    def _ending(self, event: _Event) -> None:
        self._count(event.usage)
        for name in ("context_management", "input_transformations"):
            self._remember(name, getattr(event, name))
        delta = event.delta
        if delta is None:
            return
        self._finish = delta.stop_reason or self._finish
        for name in ("stop_sequence", "stop_details"):
            self._remember(name, getattr(delta, name))
        self._container = delta.container or self._container

    def _note(self, message: dict[str, Any]) -> None:
        for name in _METADATA:
            self._remember(name, message.get(name))
        self._container = message.get("container") or self._container

    def _remember(self, name: str, value: Any) -> None:
        if value is not None:
            self._metadata[name] = value

    def _count(self, usage: Any) -> None:
        """The counts of later events are of the whole answer: they take the place of earlier ones."""
        if isinstance(usage, dict):
            self._usage.update({name: value for name, value in usage.items() if value is not None})

    def reported(self) -> list[UsageReported]:
        return [UsageReported(usage_of(self._usage))] if self._usage else []

    def complete(self, request_id: str | None) -> list[Event]:
        events: list[Event] = []
        for index in list(self._blocks):
            self._close_block(index, events)
        for left in range(self._parts, self._abandoned):  # nothing took the place of these parts
            events.append(TextCompleted("", left))
        reported = self.reported()
        response = answered(
            message=Message("assistant", metadata=container_kept(self.provider, self._container)),
            id=self.id,
            request_id=request_id,
            provider=self.provider,
            model=self.model or self.request.model,
            finish_reason=self._finish_reason(),
            raw_finish_reason=self._finish,
            usage=reported[0].usage if reported else None,
            warnings=tuple(self.warnings),
            provider_data={"container": self._container} if self._container else {},
            metadata=self._described(),
        )
        return [*events, *reported, MessageCompleted(response)]

    def _described(self) -> dict[str, Any]:
        metadata = {**self._metadata, "service_tier": self._usage.get("service_tier")}
        if self.annotations:
            metadata["annotations"] = self.annotations
        return {name: value for name, value in metadata.items() if value is not None}

    def _finish_reason(self) -> str:
        word = _FINISH.get(self._finish or "", "other")
        if self._answered and not self._calls and word == "tool_calls":
            return "stop"
        return "tool_calls" if self._calls and word in ("stop", "other") else word


def _is_known(event: Any) -> bool:
    """Whether an event that does not fit is of a kind that must; one from a later version need not."""
    if not isinstance(event, dict):
        return True
    if event.get("type") != "content_block_delta":
        return event.get("type") in _EVENTS
    delta = event.get("delta")
    return not isinstance(delta, dict) or delta.get("type") in _DELTAS


def usage_of(raw: dict[str, Any]) -> Usage:
    """The counts of a `usage` object; Anthropic's `input_tokens` leaves out what the cache read or wrote."""
    uncached = _number(raw, "input_tokens")
    read = _number(raw, "cache_read_input_tokens")
    written = _number(raw, "cache_creation_input_tokens")
    details = raw.get("output_tokens_details")
    return counted(
        raw,
        input_tokens=None if uncached is None else uncached + (read or 0) + (written or 0),
        output_tokens=_number(raw, "output_tokens"),
        cached_input_tokens=read,
        cache_write_input_tokens=written,
        reasoning_tokens=_number(details, "thinking_tokens") if isinstance(details, dict) else None,
    )


def _number(counts: dict[str, Any], name: str) -> int | None:
    value = counts.get(name)
    return value if type(value) is int and 0 <= value < 2**53 else None


def _word(value: Any) -> str | None:
    return str(value) if value else None


def container_kept(provider: str, container: Any) -> dict[str, Any]:
    """The metadata of an assistant message: the container in which its turn may have to go on."""
    id = container.get("id") if isinstance(container, dict) else None
    return {provider: {"container": id}} if id else {}


def _keep_spelling(data: bytes, blocks: list[dict[str, Any]]) -> None:
    """Give the calls among `blocks` their input as it was written: read and written anew, a key that
    stands there twice would be lost."""
    calls = [i for i, block in enumerate(blocks) if block.get("type") == "tool_use" and block.get("input")]
    if not calls:
        return
    try:
        found = _WRITTEN.decode(data)
    except msgspec.DecodeError:  # it could be read leniently only
        return
    written = found.content or [found.content_block or _Written()]
    for i in calls:
        blocks[i]["input"] = written[i].input


def _json(value: Any) -> str:
    """`value` as JSON text; what JSON cannot hold stays visible, and the arguments are then invalid."""
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _parsed(raw: str) -> Any:
    """The input of a server tool; one that was cut off is empty."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}
