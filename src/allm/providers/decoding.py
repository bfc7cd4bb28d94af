"""What the decoders of all dialects share: framing, lenient reading, and the parts of a message.

`AnswerDecoder` is the decoder of the port: it tells a stream from one JSON body, cuts a stream into
payloads and turns every way of going wrong into the one event `StreamFailed`. A dialect is a `Turn`: it
reads payloads. Nothing here knows a provider.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from allm.data.content import (
    AudioPart,
    ImagePart,
    OpaquePart,
    Origin,
    ReasoningPart,
    TextPart,
    ToolCall,
    parsed_call,
)
from allm.data.events import (
    Event,
    RawChunk,
    ReasoningCompleted,
    ReasoningDelta,
    StreamFailed,
    TextCompleted,
    TextDelta,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from allm.data.freeform import json_value
from allm.data.requests import Request
from allm.data.responses import Response, Usage
from allm.errors import LimitExceededError, ValidationError
from allm.limits import Limits
from allm.ports import HttpHead
from allm.providers.refusals import Refusal, redacted, refused, request_id
from allm.providers.sse import EventSplitter, server_event

T = TypeVar("T")

_SSE_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")


def read(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """One payload, strictly; where that fails, once more leniently.

    Lenient: lone surrogates become U+FFFD, NaN passes where it is not used, numbers may be text.
    Raises `ValueError` (of which msgspec's errors are a kind) or `RecursionError`.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError):
        value: T = msgspec.convert(_lenient(data), decoder.type, strict=False)
        return value


def builtins(data: bytes) -> Any:
    """A payload as plain data, leniently; raises as `read` does."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError):
        return _lenient(data)


def plain(value: Any) -> Any:
    """`value` as JSON data, or `None` where it holds what JSON cannot."""
    try:
        return json_value(value)
    except (ValidationError, RecursionError):
        return None


def counted(raw: dict[str, Any], **counts: Any) -> Usage:
    """What a provider reports, as these counts; its `raw` is left out where it holds what JSON cannot."""
    try:
        return Usage(raw=raw, **counts)
    except (ValidationError, RecursionError):
        return Usage(**counts)


def count(counts: dict[str, Any], *names: str) -> int | None:
    """The first member of these names that is a number of tokens."""
    for name in names:
        found = counts.get(name)
        if type(found) is float and found.is_integer():
            found = int(found)
        if type(found) is int and 0 <= found < 2**53:
            return found
    return None


def amount(value: Any) -> float | None:
    """A sum of money, where this is one."""
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def answered(**fields: Any) -> Response:
    """The response of a whole answer; a map of it that holds what JSON cannot is left out."""
    try:
        return Response(**fields)
    except (ValidationError, RecursionError):
        maps = {name: plain(fields.get(name)) or {} for name in ("provider_data", "metadata")}
        return Response(**{**fields, **maps})


def excerpt(data: bytes) -> str:
    """The first characters of a payload, fit for a message."""
    return redacted(data[:800].decode("utf-8", "replace"), 200)


def _lenient(data: bytes) -> Any:
    import json

    return _encodable(json.loads(data.decode("utf-8")))


def _encodable(value: Any) -> Any:
    """`value` with lone surrogates replaced, so that all of its text can be encoded."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if _lone(value) else value
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


def _lone(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


class OpenPart:
    """A part of text or reasoning that is still growing. `index` is its position in the message."""

    __slots__ = ("delta", "index", "kind", "pieces")

    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind  # "text" or "reasoning"
        self.delta: Any = TextDelta if kind == "text" else ReasoningDelta
        self.index = index
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, piece: str, events: list[Event]) -> None:
        if piece:
            self.pieces.append(piece)
            events.append(self.delta(piece, self.index))

    def close(self, events: list[Event], part: TextPart | ReasoningPart | None = None) -> None:
        """The part is whole; `part` is given where it holds more than text."""
        kind: Any = TextCompleted if self.kind == "text" else ReasoningCompleted
        events.append(kind(self.text, self.index, part))


class OpenCall:
    """A tool call that is still growing."""

    __slots__ = ("id", "index", "name", "pieces")

    def __init__(self, id: str, name: str, index: int) -> None:
        self.id = id
        self.name = name
        self.index = index
        self.pieces: list[str] = []

    def add(self, piece: str, events: list[Event]) -> None:
        """A piece of the text of the arguments."""
        if piece:
            self.pieces.append(piece)
            events.append(ToolCallDelta(self.id, piece))

    def close(
        self,
        events: list[Event],
        provider_data: dict[str, Any] | None = None,
        origin: Origin | None = None,
        *,
        kind: str = "function",
    ) -> None:
        """The call is whole. A `custom` tool's input is text and becomes `{"input": text}`."""
        raw, data = "".join(self.pieces), plain(provider_data) or {}
        origin = origin if data else None
        if kind == "function":
            call = parsed_call(self.id, self.name, raw, provider_data=data, origin=origin)
        else:
            call = ToolCall(
                self.id, self.name, {"input": raw}, raw, kind=kind, provider_data=data, origin=origin
            )
        events.append(ToolCallCompleted(call, self.index))


class Turn(ABC):
    """What one answer has said so far: the base of each dialect's reader.

    A dialect implements `read` for a payload of a stream, `read_whole` for one JSON body, `missing` and
    `complete`. Reading may raise what `read` above raises. It sets `done` when the provider has said that
    the answer is whole, and `failure` when it has said that it went wrong. Nearly all payloads of a stream
    are the next piece of a part that is open: `grow`, which takes those, is the hot path of a dialect.
    """

    __slots__ = ("_parts", "_used", "done", "failure", "id", "model", "provider", "request")

    def __init__(self, provider: str, request: Request) -> None:
        self.provider = provider
        self.request = request
        self.id: str | None = None
        self.model: str | None = None
        self.done = False
        self.failure: Refusal | None = None
        self._parts = 0
        self._used: set[str] | None = None

    def grow(self, blocks: Iterator[bytes], events: list[Event]) -> bytes | None:
        """Take blocks that are no more than a piece of an open part, in the one spelling that servers send;
        gives the first block that is anything else, for `read`, or `None` at the end."""
        return next(blocks, None)

    @abstractmethod
    def read(self, name: str | None, data: bytes) -> list[Event]:
        """The events of one payload; `name` is the name of the server-sent event."""

    @abstractmethod
    def read_whole(self, data: bytes) -> list[Event]:
        """The events of an answer that came as one JSON body."""

    @property
    def may_end(self) -> bool:
        """Whether all that an answer needs has come, though the provider has not marked its end."""
        return False

    @abstractmethod
    def missing(self, marked: bool) -> str | None:
        """Why the answer is not whole although the body has ended, or `None` where it is.

        `marked`: the body ended with `[DONE]`."""

    @abstractmethod
    def complete(self, request_id: str | None) -> list[Event]:
        """The events that end a whole answer."""

    def reported(self) -> list[UsageReported]:
        """What was used so far, where it is known: told of failed answers too."""
        return []

    def next_index(self) -> int:
        """The position of a new part in the message."""
        self._parts += 1
        return self._parts - 1

    def open(self, kind: str) -> OpenPart:
        """A new part of `text` or `reasoning`."""
        return OpenPart(kind, self.next_index())

    def call(self, id: str, name: str, events: list[Event]) -> OpenCall:
        """A new tool call; where the provider gave no id, or one that the thread has, it gets one."""
        call = OpenCall(self.unique_id(id), name, self.next_index())
        events.append(ToolCallStarted(call.id, name, call.index))
        return call

    def unique_id(self, id: str) -> str:
        """`id`, or one made from the place in the thread where it is empty or taken."""
        if self._used is None:
            self._used = {
                part.id
                for message in self.request.messages
                if type(message.content) is tuple
                for part in message.content
                if type(part) is ToolCall
            }
        number = 0
        while not id or id in self._used:
            id = f"call_{len(self.request.messages)}_{number}"
            number += 1
        self._used.add(id)
        return id

    def whole(self, data: Any, part: OpaquePart | ImagePart | AudioPart, events: list[Event]) -> None:
        """A part that comes at once and has no event of its own."""
        events.append(RawChunk(data, self.next_index(), part))


class AnswerDecoder:
    """Decodes one answer. Whether it is a stream or one body is seen from its first bytes."""

    __slots__ = ("_body", "_head", "_limits", "_mode", "_over", "_size", "_splitter", "_start", "_turn")

    def __init__(self, turn: Turn, head: HttpHead, limits: Limits) -> None:
        self._turn = turn
        self._head = head
        self._limits = limits
        self._mode = ""  # "sse", "json" or "text", once known
        self._start = b""
        self._body: list[bytes] = []
        self._size = 0
        self._splitter: EventSplitter  # of a stream: made once it is known to be one
        self._over = False

    @property
    def _type(self) -> str:
        return self._head.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def may_end(self) -> bool:
        """See `allm.ports.Decoder`."""
        return self._mode == "sse" and not self._over and self._turn.may_end

    def feed(self, data: bytes) -> list[Event]:
        if self._over:
            return []
        if self._mode == "sse":
            return self._stream(self._splitter.feed, data)
        return self._undecided(data) if not self._mode else self._collect(data)

    def end(self) -> list[Event]:
        if self._over:
            return []
        events: list[Event] = []
        if not self._mode and self._start:
            self._decide(final=True)
            events = self.feed(self._take_start())
        return events + self._ended()

    def _ended(self) -> list[Event]:
        if self._over:
            return []
        if not self._mode:
            return self._nothing()
        return self._last() if self._mode == "sse" else self._whole()

    def _last(self) -> list[Event]:
        events = self._stream(self._splitter.end)
        return events if self._over else events + self._stream_ended()

    def _take_start(self) -> bytes:
        data, self._start = self._start, b""
        return data

    def _undecided(self, data: bytes) -> list[Event]:
        self._start = (self._start + data).removeprefix(b"\xef\xbb\xbf").lstrip()
        self._decide(final=False)
        return self.feed(self._take_start()) if self._mode else []

    def _decide(self, final: bool) -> None:
        start = self._start
        if not start or (len(start) < 3 and b"\xef\xbb\xbf".startswith(start) and not final):
            return
        if start.startswith((b"{", b"[")):
            self._mode = "json"
        elif start.startswith(b"<"):
            self._mode = "text"
        elif start.startswith(_SSE_STARTS) or self._type == "text/event-stream":
            self._mode, self._splitter = "sse", EventSplitter(self._limits.event)
        elif final or len(start) >= 6:
            self._mode = "json" if self._type.endswith("json") else "text"

    def _collect(self, data: bytes) -> list[Event]:
        self._size += len(data)
        if self._size > self._limits.body:
            self._body = []
            return self._failed("limit_exceeded", f"the answer is larger than {self._limits.body} bytes")
        self._body.append(data)
        return []

    def _nothing(self) -> list[Event]:
        if self._type == "text/event-stream" and self._head.status != 204:
            return self._failed("stream_interrupted", "the stream ended before its first event")
        return self._failed("protocol_error", f"an empty answer with status {self._head.status}")

    def _whole(self) -> list[Event]:
        data = b"".join(self._body)
        if self._mode == "text":
            kind = self._type or "no content type"
            text = f"the answer is neither JSON nor a stream ({kind}): {excerpt(data)}"
            return self._failed("protocol_error", text)
        try:
            events = self._turn.read_whole(data)
        except (ValueError, RecursionError) as error:
            return self._malformed(error, data)
        return events + self._settled(final=True)

    def _stream(self, split: Callable[..., list[bytes]], *data: bytes) -> list[Event]:
        try:
            blocks = iter(split(*data))
        except LimitExceededError as error:
            return self._failed("limit_exceeded", error.info.message)
        events: list[Event] = []
        turn = self._turn
        while (block := turn.grow(blocks, events)) is not None:
            event = server_event(block)
            if event is None:
                continue
            name, payload = event
            if payload == b"[DONE]" or payload.strip() == b"[DONE]":
                return events + self._stream_ended(marked=True)
            try:
                events += turn.read(name, payload)
            except (ValueError, RecursionError) as error:
                return events + self._malformed(error, payload)
            if turn.done or turn.failure is not None:
                return events + self._settled()
        return events

    def _stream_ended(self, marked: bool = False) -> list[Event]:
        missing = self._turn.missing(marked)
        return self._failed("stream_interrupted", missing) if missing else self._settled(final=True)

    def _settled(self, final: bool = False) -> list[Event]:
        """The last events, once the turn is done or has failed, or the body has ended."""
        failure = self._turn.failure
        if failure is not None:
            return self._fail(failure)
        if not (self._turn.done or final):
            return []
        self._over = True
        return self._turn.complete(request_id(self._head.headers))

    def _malformed(self, error: Exception, data: bytes) -> list[Event]:
        why = str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__
        return self._failed("malformed_response", f"{redacted(why, 200)}: {excerpt(data)}")

    def _failed(self, reason: str, message: str) -> list[Event]:
        return self._fail(Refusal(message, reason=reason))

    def _fail(self, refusal: Refusal) -> list[Event]:
        self._over = True
        turn = self._turn
        info = refused(turn.provider, self._head.status, self._head.headers, refusal, "stream")
        return [*turn.reported(), StreamFailed(replace(info, model=turn.model or turn.request.model))]
