"""The answers of the Responses API into events: server-sent events, or one JSON body.

An answer is a list of items: messages, reasoning, calls, and what the provider's own tools did. Events
say by `output_index` which item they belong to; ids may change on the way. The copy of an item that comes
when it is done holds; the list in the last event fills in what no event had brought.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import AudioPart, Image, ImagePart, OpaquePart, Origin, ReasoningPart, TextPart
from allm.data.events import Event, MessageCompleted, MessageStarted, RawChunk, UsageReported
from allm.data.messages import Message
from allm.data.requests import Request
from allm.data.responses import Usage
from allm.preparing import fingerprint
from allm.providers.decoding import (
    OpenCall,
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


class _Answer(Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[dict[str, Any]] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    incomplete_details: Any = None
    conversation: Any = None
    input_transformations: Any = None
    moderation: Any = None
    reasoning: Any = None
    service_tier: Any = None
    tool_usage: Any = None


class _Event(Struct, gc=False):
    type: str | None = None
    delta: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    item_id: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    input: str | None = None
    annotation: Any = None
    item: dict[str, Any] | None = None
    response: _Answer | None = None
    error: Any = None


class _TextPiece(Struct, gc=False, tag_field="type", tag="response.output_text.delta"):
    delta: str
    output_index: int
    content_index: int


class _ArgumentsPiece(Struct, gc=False, tag_field="type", tag="response.function_call_arguments.delta"):
    delta: str
    output_index: int


_TEXT_PIECE = msgspec.json.Decoder(_TextPiece)
_TEXT_STARTS: Final = b"event: response.output_text.delta\ndata: "
_ARGUMENTS_PIECE = msgspec.json.Decoder(_ArgumentsPiece)
_ARGUMENTS_START: Final = b"event: response.function_call_arguments.delta\ndata: "
_EVENT = msgspec.json.Decoder(_Event)
_WHOLE = msgspec.json.Decoder(_Answer)

_FINISH = {
    "completed": "stop",
    "incomplete:max_output_tokens": "length",
    "incomplete:max_tokens": "length",
    "incomplete:content_filter": "content_filter",
}
_METADATA = (
    "conversation", "incomplete_details", "input_transformations", "moderation", "reasoning", "service_tier",
    "tool_usage",
)  # fmt: skip
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_CALL_DATA = ("namespace", "caller")  # what must go back with a call


class _Item:
    """An item of the answer that is still growing: what its kind needs of these."""

    __slots__ = (
        "annotations",
        "announced",
        "call",
        "data",
        "done",
        "field",
        "index",
        "kind",
        "part",
        "pieces",
        "refusals",
        "texts",
    )

    def __init__(self, kind: str, data: dict[str, Any]) -> None:
        self.kind = kind
        self.data = data
        self.done = False
        self.announced = True  # by an event of its own, before its pieces
        self.texts: dict[int, OpenPart] = {}  # of a message, by content index
        self.refusals: dict[int, str] = {}
        self.annotations: list[Any] = []
        self.part: OpenPart | None = None  # of reasoning
        self.field = ""  # where its text comes from: summary or content
        self.call: OpenCall | None = None
        self.pieces: list[str] = []  # of the arguments, before the call's name is known
        self.index: int | None = None  # of all other items


class ResponsesTurn(Turn):
    """What the events of one answer have said so far.

    `stored`: the provider keeps the answer, so that the next request may go on from its id.
    """

    __slots__ = (
        "_annotations", "_bound", "_by_key", "_end", "_has_calls", "_items", "_logprobs", "_refusal",
        "_sound", "_started", "_stored", "_transcript", "_usage",
    )  # fmt: skip

    def __init__(self, provider: str, request: Request, *, stored: bool = False) -> None:
        super().__init__(provider, request)
        self._stored = stored
        self._started = False
        self._items: list[_Item] = []
        self._by_key: dict[Any, _Item] = {}  # by output index and by id
        self._end = _Answer()
        self._usage: dict[str, Any] | None = None
        self._has_calls = False
        self._refusal: list[str] = []
        self._annotations: list[Any] = []
        self._logprobs: list[Any] = []
        self._sound: list[bytes] = []
        self._transcript: list[str] = []
        self._bound: Origin | None = None

    def grow(self, blocks: Iterator[bytes], events: list[Event]) -> bytes | None:
        items = self._by_key
        part: OpenPart | OpenCall | None
        for block in blocks:
            try:
                if block.startswith(_TEXT_STARTS):
                    text = _TEXT_PIECE.decode(block[len(_TEXT_STARTS) :])
                    piece, item = text.delta, items.get(text.output_index)
                    part = item.texts.get(text.content_index) if item is not None else None
                elif block.startswith(_ARGUMENTS_START):
                    arguments = _ARGUMENTS_PIECE.decode(block[len(_ARGUMENTS_START) :])
                    piece, item = arguments.delta, items.get(arguments.output_index)
                    part = item.call if item is not None and item.kind == "function_call" else None
                else:
                    return block
            except (ValueError, RecursionError):
                return block
            if item is None or part is None or item.done:
                return block
            part.add(piece, events)
        return None

    def read(self, name: str | None, data: bytes) -> list[Event]:
        try:
            event = read(_EVENT, data)
        except ValueError:
            value = builtins(data)
            kind = str(value.get("type") or name) if isinstance(value, dict) else ""
            if not kind or kind in _READERS:
                raise
            return self._unread(kind, value)
        kind = event.type or name or ""
        reader = _READERS.get(kind)
        if reader is None:
            return [] if kind in _SILENT else self._unread(kind, builtins(data))
        events: list[Event] = []
        reader(self, event, events)
        return events

    def _unread(self, kind: str, value: dict[str, Any]) -> list[Event]:
        """An event that no item grows by: an error, or something new."""
        if kind == "error" or (not value.get("type") and value.get("error")):
            self.failure = read_refusal(value)
            return []
        return [RawChunk(plain(value))]

    def read_whole(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if data.startswith(b"["):
            self.failure = read_refusal(builtins(data))
            return events
        answer = read(_WHOLE, data)
        if answer.output is None:
            self._not_an_answer(answer, data)
            return events
        self._start(answer, events)
        self._ended(answer, events)
        return events

    def _not_an_answer(self, answer: _Answer, data: bytes) -> None:
        value = builtins(data)
        if answer.error or "message" in value or "detail" in value:
            self.failure = read_refusal(value)
        else:
            text = f"the answer has no output: {excerpt(data)}"
            self.failure = Refusal(text, reason="malformed_response")

    def missing(self, marked: bool) -> str | None:
        return None if self.done else "the stream ended before the response was completed"

    # Lifecycle

    def _lifecycle(self, event: _Event, events: list[Event]) -> None:
        if event.response is not None:
            self._start(event.response, events)

    def _start(self, answer: _Answer, events: list[Event]) -> None:
        self.id = self.id or answer.id
        self.model = self.model or answer.model
        if not self._started and not self._parts:
            events.append(MessageStarted(self.id, self.model))
        self._started = True

    def _terminal(self, event: _Event, events: list[Event]) -> None:
        answer = event.response or _Answer()
        if answer.status is None:
            answer.status = (event.type or "").removeprefix("response.") or None
        self._start(answer, events)
        self._ended(answer, events)

    def _ended(self, answer: _Answer, events: list[Event]) -> None:
        """The last word: the status, and the items that no event had brought."""
        self._end = answer
        self._usage = answer.usage
        self.failure = _failure(answer)
        self._match(answer.output or [])
        for item in self._items:
            broken = self.failure is not None and item.kind not in ("message", "reasoning")
            if not (item.done or broken):  # a call of a failed answer is never whole
                self._finish(item, item.data, events)
        self.done = True

    def _match(self, output: list[dict[str, Any]]) -> None:
        """Give the items what the last word says of them: by their ids, and where those have changed the
        n-th of a kind is the n-th of that kind that came before."""
        left = list(self._items)
        unknown = []
        for data in output:
            item = next((item for item in left if item.data.get("id") == data.get("id") is not None), None)
            if item is None or item.kind != _kind(data):
                unknown.append(data)
            else:
                left.remove(item)
                item.data = data
        for data in unknown:
            item = next((item for item in left if item.kind == _kind(data)), None)
            if item is None:
                item = self._new(data, None)
            else:
                left.remove(item)
            item.data = data
        if output and not all(item.announced or item.done for item in left) and self.failure is None:
            text = "a piece of an item that is not in the answer"
            self.failure = Refusal(text, reason="malformed_response")

    # Items

    def _new(self, data: dict[str, Any], index: int | None) -> _Item:
        item = _Item(_kind(data), data)
        self._items.append(item)
        for key in (index, data.get("id")):
            if isinstance(key, int | str):
                self._by_key[key] = item
        return item

    def _find(self, kind: str, index: int | None, id: str | None) -> _Item | None:
        """The item of `kind` at that place, else with that id."""
        for key in (index, id):
            item = self._by_key.get(key)
            if item is not None and item.kind == kind:
                return item
        return None

    def _at(self, event: _Event, kind: str) -> _Item | None:
        """The item of `kind` that an event belongs to; a new one where none was announced, and `None`
        where it is whole already."""
        item = self._find(kind, event.output_index, event.item_id)
        if item is None:
            item = self._new({"type": kind, "id": event.item_id}, event.output_index)
            item.announced = False
            return item
        return None if item.done else item

    def _added(self, event: _Event, events: list[Event]) -> None:
        data = event.item
        if data is None:
            return
        item = self._new(data, event.output_index)
        if item.kind == "reasoning":
            item.part = self.open("reasoning")
        elif item.kind in _CALLS:
            self._started_call(item, data, events)
        elif item.kind != "message":
            item.index = self.next_index()

    def _done(self, event: _Event, events: list[Event]) -> None:
        data = event.item
        if data is None:
            return
        item = self._find(_kind(data), event.output_index, data.get("id"))
        item = item or self._new(data, event.output_index)
        if not item.done:
            self._finish(item, data, events)

    def _finish(self, item: _Item, data: dict[str, Any], events: list[Event]) -> None:
        item.done = True
        if item.kind == "message":
            self._finish_message(item, data, events)
        elif item.kind == "reasoning":
            self._finish_reasoning(item, data, events)
        elif item.kind in _CALLS:
            self._finish_call(item, data, events)
        else:
            self._finish_other(item, data, events)

    # Messages

    def _text(self, event: _Event, events: list[Event]) -> None:
        item = self._at(event, "message")
        if item is not None and event.delta:
            self._text_at(item, event.content_index).add(event.delta, events)

    def _text_at(self, item: _Item, index: int | None) -> OpenPart:
        part = item.texts.get(index or 0)
        if part is None:
            part = item.texts[index or 0] = self.open("text")
        return part

    def _whole_text(self, event: _Event, events: list[Event]) -> None:
        item = self._at(event, "message")
        if item is not None and event.text:
            _settle(self._text_at(item, event.content_index), event.text, events)

    def _refused(self, event: _Event, events: list[Event]) -> None:
        item, index = self._at(event, "message"), event.content_index or 0
        if item is not None:
            item.refusals[index] = event.refusal or item.refusals.get(index, "") + (event.delta or "")

    def _annotated(self, event: _Event, events: list[Event]) -> None:
        item = self._at(event, "message")
        if item is not None:
            item.annotations.append(event.annotation)

    def _finish_message(self, item: _Item, data: dict[str, Any], events: list[Event]) -> None:
        content = data.get("content")
        if isinstance(content, str):
            content = [{"type": "output_text", "text": content}]
        annotations = []
        pieces = content if isinstance(content, list) else []
        # Servers that count otherwise in their deltas mean the same pieces in the same order.
        strange = sorted(item.texts) if not item.texts.keys() & set(range(len(pieces))) else []
        for index, piece in enumerate(pieces):
            kind = piece.get("type") if isinstance(piece, dict) else None
            if kind == "refusal":
                item.refusals[index] = str(piece.get("refusal") or "")
            elif kind in ("output_text", "text") and isinstance(piece.get("text"), str):
                if piece["text"]:
                    place = strange.pop(0) if strange else index
                    _settle(self._text_at(item, place), piece["text"], events)
                annotations += _list(piece.get("annotations"))
                self._logprobs += _list(piece.get("logprobs"))
            else:
                events.append(RawChunk(plain(piece)))
        self._annotations += annotations or item.annotations
        self._close_message(item, data, events)

    def _close_message(self, item: _Item, data: dict[str, Any], events: list[Event]) -> None:
        own = {"item_id": data.get("id"), "phase": data.get("phase")}
        own = {name: value for name, value in own.items() if isinstance(value, str)}
        for part in item.texts.values():
            text = TextPart(part.text, provider_data=own, origin=self._origin()) if own else None
            part.close(events, text)
        for refusal in item.refusals.values():
            self._refusal.append(refusal)
            refused = TextPart("", provider_data={**own, "refusal": refusal}, origin=self._origin())
            self.open("text").close(events, refused)

    # Reasoning

    def _summary(self, event: _Event, events: list[Event]) -> None:
        self._thought(event, "summary", events)

    def _thinking(self, event: _Event, events: list[Event]) -> None:
        self._thought(event, "content", events)

    def _thought(self, event: _Event, field: str, events: list[Event]) -> None:
        """Where an item has both a summary and the text itself, the one that came first is its text."""
        item = self._at(event, "reasoning")
        if item is None:
            return
        item.field = item.field or field
        if item.field == field:
            self._thought_part(item).add(event.delta or "", events)

    def _thought_part(self, item: _Item) -> OpenPart:
        if item.part is None:
            item.part = self.open("reasoning")
        return item.part

    def _finish_reasoning(self, item: _Item, data: dict[str, Any], events: list[Event]) -> None:
        part = self._thought_part(item)
        for field in (item.field,) if item.field else ("summary", "content"):
            _settle(part, _joined(data.get(field)), events)
            if part.pieces:
                break
        id = data.get("id")
        raw = plain(data) or {}
        part.close(
            events,
            ReasoningPart(
                part.text,
                id=id if isinstance(id, str) else None,
                provider_data={"item": raw},
                origin=self._bound_origin(),
            ),
        )

    # Calls

    def _started_call(self, item: _Item, data: dict[str, Any], events: list[Event]) -> None:
        """A call begins when it has a name; one that never has is told so by the loop."""
        if data.get("name"):
            item.call = self._opened_call(item, data, events)

    def _opened_call(self, item: _Item, data: dict[str, Any], events: list[Event]) -> OpenCall:
        self._has_calls = True
        name = data.get("name")
        id = str(data.get("call_id") or data.get("id") or "")
        call = self.call(id, name if isinstance(name, str) else "", events)
        call.add("".join(item.pieces), events)
        return call

    def _argument(self, event: _Event, events: list[Event]) -> None:
        self._argue(self._at(event, "function_call"), event.delta, events)

    def _custom_input(self, event: _Event, events: list[Event]) -> None:
        self._argue(self._at(event, "custom_tool_call"), event.delta, events)

    def _argue(self, item: _Item | None, piece: str | None, events: list[Event]) -> None:
        if item is None or not piece:
            return
        if item.call is not None:
            item.call.add(piece, events)
        else:
            item.pieces.append(piece)

    def _finish_call(self, item: _Item, data: dict[str, Any], events: list[Event]) -> None:
        if not item.announced and "name" not in data:  # pieces of a call of which nothing else was sent
            events.append(RawChunk(plain(data)))
            return
        call = item.call or self._opened_call(item, data, events)
        text = data.get(_CALLS[item.kind])
        if isinstance(text, dict):
            text = msgspec.json.encode(text).decode()
        if isinstance(text, str):
            _settle(call, text, events)
        own = {"item_id": data.get("id"), **{name: data.get(name) for name in _CALL_DATA}}
        own = {name: value for name, value in own.items() if value is not None}
        kind = "function" if item.kind == "function_call" else "custom"
        call.close(events, own, self._origin(), kind=kind)

    # All else

    def _finish_other(self, item: _Item, data: dict[str, Any], events: list[Event]) -> None:
        raw = plain(data) or {}
        if item.index is None:
            item.index = self.next_index()
        events.append(RawChunk(raw, item.index, OpaquePart(raw, origin=self._origin())))
        if item.kind == "image_generation_call":
            image = _image(data)
            if image is not None:
                shown = {"type": "image", "mime_type": image.mime_type}
                self.whole(shown, ImagePart(image, origin=self._origin()), events)

    def _audio(self, event: _Event, events: list[Event]) -> None:
        self._sound.append(b64decode(event.delta or "", validate=True))

    def _said(self, event: _Event, events: list[Event]) -> None:
        self._transcript.append(event.delta or "")

    # The end

    def complete(self, request_id: str | None) -> list[Event]:
        events: list[Event] = []
        if self._sound or self._transcript:
            self._finish_audio(events)
        end = self._end
        reported = self.reported()
        events += reported
        raw = _raw_finish(end)
        word = _FINISH.get(raw or "", "other")
        response = answered(
            message=Message("assistant", metadata=self._state()),
            id=self.id,
            request_id=request_id,
            provider=self.provider,
            model=self.model or self.request.model,
            finish_reason="tool_calls" if self._has_calls and word in ("stop", "other") else word,
            raw_finish_reason=raw,
            usage=reported[0].usage if reported else None,
            refusal="".join(self._refusal) or None,
            warnings=_removed(end.input_transformations),
            metadata=self._metadata(),
        )
        return [*events, MessageCompleted(response)]

    def _finish_audio(self, events: list[Event]) -> None:
        asked = self.request.options.get("audio")
        sound = str(asked.get("format") or "wav") if isinstance(asked, dict) else "wav"
        transcript = "".join(self._transcript) or None
        part = AudioPart(b"".join(self._sound), sound, transcript=transcript, origin=self._origin())
        self.whole({"type": "audio"}, part, events)

    def _state(self) -> dict[str, Any]:
        id = self._end.id or self.id
        if not (self._stored and id):
            return {}
        state = {"provider": self.provider, "endpoint": "responses", "response_id": id}
        return {"provider_state": state}

    def _metadata(self) -> dict[str, Any]:
        metadata = {name: value for name in _METADATA if (value := getattr(self._end, name)) is not None}
        if self._annotations:
            metadata["annotations"] = self._annotations
        if self._logprobs:
            metadata["logprobs"] = self._logprobs
        return metadata

    def reported(self) -> list[UsageReported]:
        return [UsageReported(usage_of(self._usage))] if self._usage else []

    def _origin(self) -> Origin:
        return Origin(self.provider, "responses", self.request.model or self.model or "")

    def _bound_origin(self) -> Origin:
        """The origin of reasoning, which the provider takes back only behind the same conversation."""
        if self._bound is None:
            request, origin = self.request, self._origin()
            prefix = fingerprint(request.messages, request.system, request.tools)
            self._bound = Origin(origin.provider, origin.endpoint, origin.model, prefix)
        return self._bound


_READERS: dict[str, Callable[[ResponsesTurn, _Event, list[Event]], None]] = {
    "response.output_text.delta": ResponsesTurn._text,
    "response.output_text.done": ResponsesTurn._whole_text,
    "response.output_text.annotation.added": ResponsesTurn._annotated,
    "response.refusal.delta": ResponsesTurn._refused,
    "response.refusal.done": ResponsesTurn._refused,
    "response.reasoning_summary_text.delta": ResponsesTurn._summary,
    "response.reasoning_text.delta": ResponsesTurn._thinking,
    "response.function_call_arguments.delta": ResponsesTurn._argument,
    "response.custom_tool_call_input.delta": ResponsesTurn._custom_input,
    "response.audio.delta": ResponsesTurn._audio,
    "response.audio.transcript.delta": ResponsesTurn._said,
    "response.output_item.added": ResponsesTurn._added,
    "response.output_item.done": ResponsesTurn._done,
    "response.created": ResponsesTurn._lifecycle,
    "response.queued": ResponsesTurn._lifecycle,
    "response.in_progress": ResponsesTurn._lifecycle,
    "response.completed": ResponsesTurn._terminal,
    "response.incomplete": ResponsesTurn._terminal,
    "response.failed": ResponsesTurn._terminal,
    "response.cancelled": ResponsesTurn._terminal,
}
# Copies of what other events bring.
_SILENT = frozenset(
    {
        "response.content_part.added", "response.content_part.done", "response.function_call_arguments.done",
        "response.custom_tool_call_input.done", "response.reasoning_text.done",
        "response.reasoning_summary_text.done", "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done", "response.reasoning_part.added",
        "response.reasoning_part.done", "response.audio.done", "response.audio.transcript.done",
    }
)  # fmt: skip


def _kind(data: dict[str, Any]) -> str:
    return str(data.get("type") or "")


def _settle(part: OpenPart | OpenCall, text: str, events: list[Event]) -> None:
    """Make `text`, the whole of a part, hold: the end of it that no delta had brought is shown."""
    shown = "".join(part.pieces)
    if not text or text == shown:
        return
    if text.startswith(shown):
        part.add(text[len(shown) :], events)
    else:
        part.pieces = [text]


def _joined(pieces: Any) -> str:
    return "".join([str(piece.get("text") or "") for piece in _list(pieces) if isinstance(piece, dict)])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _image(data: dict[str, Any]) -> Image | None:
    result, prompt = data.get("result"), data.get("revised_prompt")
    if not isinstance(result, str) or not result:
        return None
    try:
        image = Image.from_bytes(b64decode(result), f"image/{data.get('output_format') or 'png'}")
    except ValueError:
        return None
    return replace(image, revised_prompt=prompt if isinstance(prompt, str) else None)


def _failure(answer: _Answer) -> Refusal | None:
    """Why a response that has ended is not an answer."""
    if answer.status == "cancelled":
        return Refusal("the provider says that the response was cancelled", reason="cancelled")
    if answer.error:
        return read_refusal({"error": answer.error})
    if answer.status == "failed":
        return Refusal("the provider says that the response failed, not why", reason="provider_error")
    return None


def _raw_finish(answer: _Answer) -> str | None:
    details = answer.incomplete_details
    reason = details.get("reason") if isinstance(details, dict) else None
    return f"{answer.status}:{reason}" if answer.status == "incomplete" and reason else answer.status


def _removed(transformations: Any) -> tuple[str, ...]:
    """What the provider left out of the request, such as reasoning of another model."""
    return tuple(
        [
            f"the provider removed a {item.get('type')} item of the request: {item.get('reason')}"
            for item in _list(transformations)
            if isinstance(item, dict) and item.get("action") == "removed"
        ]
    )


def usage_of(raw: dict[str, Any]) -> Usage:
    """The counts of a `usage` object in the meaning of `Usage`."""
    return counted(
        raw,
        input_tokens=count(raw, "input_tokens"),
        output_tokens=count(raw, "output_tokens"),
        cached_input_tokens=_detail(raw, "input_tokens_details", "cached_tokens"),
        cache_write_input_tokens=_detail(raw, "input_tokens_details", "cache_write_tokens"),
        reasoning_tokens=_detail(raw, "output_tokens_details", "reasoning_tokens"),
        total_tokens=count(raw, "total_tokens"),
        total_cost=amount(raw.get("cost")),
    )


def _detail(raw: dict[str, Any], object: str, name: str) -> int | None:
    details = raw.get(object)
    return count(details, name) if isinstance(details, dict) else None
