"""The answers of Gemini's `generateContent` into events: server-sent events, a JSON array, or one JSON body.

Every payload is a whole response that holds what is new; the end is the last one with a finish reason, and
nothing marks it. Sources: google-genai 3.4.0, read 2026-11, and recorded traffic.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from allm.data.content import AudioPart, Image, ImagePart, OpaquePart, Origin, ReasoningPart, TextPart
from allm.data.events import Event, MessageCompleted, MessageStarted, RawChunk, UsageReported
from allm.data.requests import Request
from allm.data.responses import Usage
from allm.preparing import SIGNATURE
from allm.providers.decoding import (
    OpenCall,
    OpenPart,
    Turn,
    answered,
    builtins,
    count,
    counted,
    excerpt,
    plain,
)
from allm.providers.gemini.partial_args import PartialArg, assembled
from allm.providers.refusals import Refusal, read_refusal


class _Call(Struct, gc=False, rename="camel"):
    id: str | None = None
    name: str | None = None
    args: Raw = Raw()
    partial_args: list[PartialArg] | None = None
    will_continue: bool | None = None


class _Blob(Struct, gc=False, rename="camel"):
    mime_type: str | None = None
    data: str | None = None


class _Part(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Call | None = None
    inline_data: _Blob | None = None


class _Content(Struct, gc=False):
    parts: list[_Part] | None = None


class _Citations(Struct, gc=False, rename="camel"):
    citations: list[Any] | None = None  # Vertex
    citation_sources: list[Any] | None = None  # the Developer API


class _Candidate(Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: Any = None
    index: int | None = None
    citation_metadata: _Citations | None = None
    grounding_metadata: dict[str, Any] | None = None
    url_context_metadata: Any = None
    safety_ratings: Any = None
    avg_logprobs: Any = None
    logprobs_result: Any = None
    continuation_token: str | None = None


class _Feedback(Struct, gc=False, rename="camel"):
    block_reason: str | None = None
    block_reason_message: Any = None
    safety_ratings: Any = None


class _Chunk(Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: dict[str, Any] | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


class _Piece(Struct, gc=False, rename="camel"):
    text: str
    thought: bool | None = None
    thought_signature: None = None


class _PieceContent(Struct, gc=False):
    parts: tuple[_Piece]


class _PieceCandidate(Struct, gc=False, rename="camel"):
    content: _PieceContent
    finish_reason: None = None
    finish_message: None = None
    index: int | None = None
    citation_metadata: None = None
    grounding_metadata: None = None
    url_context_metadata: None = None
    safety_ratings: None = None
    avg_logprobs: None = None
    logprobs_result: None = None
    continuation_token: None = None


class _Counts(Struct, gc=False):
    """Usage that is not read yet."""


class _PieceChunk(Struct, gc=False, rename="camel"):
    """A chunk that only brings the next piece of text or thinking: one that says more does not fit."""

    candidates: tuple[_PieceCandidate]
    usage_metadata: _Counts | None = None
    prompt_feedback: None = None
    error: None = None


_PIECE = msgspec.json.Decoder(_PieceChunk)
_PIECE_STARTS: Final = b"data: "
_CHUNK = msgspec.json.Decoder(_Chunk)
_CHUNKS = msgspec.json.Decoder(list[_Chunk])

_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "paused",
    **dict.fromkeys(
        (
            "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED",
        ),
        "content_filter",
    ),
    **dict.fromkeys(
        ("UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE"), "error"
    ),
}  # fmt: skip
"""Others (OTHER, NO_IMAGE, IMAGE_OTHER, MODEL_ARMOR, unspecified, words to come) are `other`."""

_MALFORMED = ("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE")

_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}


class _Streamed:
    """A call whose arguments come in pieces, addressed by JSON paths (Vertex)."""

    __slots__ = ("call", "data", "pieces")

    def __init__(self, call: OpenCall, data: dict[str, Any]) -> None:
        self.call = call
        self.data = data
        self.pieces: list[PartialArg] = []


class GenerateTurn(Turn):
    """What the chunks of one answer have said so far."""

    __slots__ = (
        "_blocked", "_counted", "_has_calls", "_index", "_metadata", "_open", "_pieces", "_started",
        "_streamed", "_token", "_usage", "finish",
    )  # fmt: skip

    def __init__(self, provider: str, request: Request) -> None:
        super().__init__(provider, request)
        self.finish: str | None = None
        self._blocked: str | None = None
        self._started = False
        self._pieces = False  # whether chunks may be pieces of what is open
        self._index = 0  # of the candidate that is folded: the first that comes
        self._has_calls = False
        self._open: OpenPart | None = None
        self._streamed: _Streamed | None = None
        self._usage: dict[str, Any] | None = None
        self._counted = b""  # the payload of the last piece with usage, where that is newer
        self._token: str | None = None
        self._metadata: dict[str, Any] = {}

    def grow(self, blocks: Iterator[bytes], events: list[Event]) -> bytes | None:
        """A server whose chunks say more than fits into a piece is not tried again until a part begins."""
        if not self._pieces:
            return next(blocks, None)
        decode, start = _PIECE.decode, len(_PIECE_STARTS)
        for block in blocks:
            part = self._open
            if part is None or not block.startswith(_PIECE_STARTS):
                return block
            data = block[start:]
            try:
                chunk = decode(data)
            except (ValueError, RecursionError):
                self._pieces = False
                return block
            candidate = chunk.candidates[0]
            piece = candidate.content.parts[0]
            kind = "reasoning" if piece.thought else "text"
            if kind != part.kind or (candidate.index or 0) != self._index:
                return block
            if chunk.usage_metadata is not None:
                self._counted = data
            part.add(piece.text, events)
        return None

    def read(self, name: str | None, data: bytes) -> list[Event]:
        return self._payload(data)

    def read_whole(self, data: bytes) -> list[Event]:
        """One JSON body: an answer, or a stream that came as an array (no `alt=sse`)."""
        events = self._payload(data)
        if self.failure is not None:
            return events
        if not (self._started or self._blocked):
            text = f"the answer has no candidates: {excerpt(data)}"
            self.failure = Refusal(text, reason="malformed_response")
        elif data.startswith(b"["):
            missing = self.missing(False)
            self.failure = Refusal(missing, reason="stream_interrupted") if missing else None
        return events

    @property
    def may_end(self) -> bool:
        return self.finish is not None or self._blocked is not None

    def missing(self, marked: bool) -> str | None:
        return None if self.may_end else "the stream ended without a finish reason"

    def _payload(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        for number, chunk in enumerate(_chunks(data)):
            self._chunk(chunk, data, number, events)
            if chunk.error:
                error = builtins(data)
                self.failure = read_refusal(error[number] if isinstance(error, list) else error)
            if self.failure is not None:
                break
        return events

    def _chunk(self, chunk: _Chunk, data: bytes, number: int, events: list[Event]) -> None:
        self.id = self.id or chunk.response_id
        self.model = self.model or chunk.model_version
        if chunk.usage_metadata is not None:
            self._usage, self._counted = chunk.usage_metadata, b""  # cumulative: the last one holds
        if chunk.prompt_feedback is not None:
            self._feedback(chunk.prompt_feedback)
        if not chunk.candidates:
            if chunk.usage_metadata is None and chunk.prompt_feedback is None and not chunk.error:
                events.append(RawChunk(plain(builtins(data))))
            return
        if not self._started:
            self._started = True
            self._index = chunk.candidates[0].index or 0
            events.append(MessageStarted(self.id, self.model))
        further = False
        for position, candidate in enumerate(chunk.candidates):
            if (candidate.index or 0) != self._index:
                further = True
                continue
            parts = candidate.content.parts if candidate.content is not None else None
            for index, part in enumerate(parts or ()):
                if not self._part(part, events):
                    self._other(_raw_part(data, number, position, index), part, events)
            self._about(candidate)
        if further:  # shown, not folded
            events.append(RawChunk(plain(builtins(data))))

    def _feedback(self, feedback: _Feedback) -> None:
        if feedback.block_reason:
            self._blocked = feedback.block_reason
            said = {"block_reason": feedback.block_reason, "message": feedback.block_reason_message}
            self._metadata["prompt_feedback"] = {key: value for key, value in said.items() if value}
        if feedback.safety_ratings:
            self._metadata["safety_ratings"] = feedback.safety_ratings

    def _about(self, candidate: _Candidate) -> None:
        """What a candidate says beside its content. Later words hold; lists of sources grow."""
        about = self._metadata
        if candidate.finish_message:
            about["finish_message"] = candidate.finish_message
        if candidate.finish_reason:
            self._finished(candidate.finish_reason)
        if candidate.continuation_token:
            self._token = candidate.continuation_token
        if candidate.grounding_metadata:
            about.setdefault("grounding", {}).update(candidate.grounding_metadata)
        cited = candidate.citation_metadata
        if cited is not None:
            about.setdefault("citations", []).extend(cited.citations or cited.citation_sources or ())
        if candidate.url_context_metadata:
            about["url_context"] = candidate.url_context_metadata
        if candidate.safety_ratings:
            about["safety_ratings"] = candidate.safety_ratings
        if candidate.avg_logprobs is not None:
            about["avg_logprobs"] = candidate.avg_logprobs
        if candidate.logprobs_result:
            about.setdefault("logprobs", []).append(candidate.logprobs_result)

    def _finished(self, word: str) -> None:
        self.finish = word
        if word in _MALFORMED:
            text = self._metadata.get("finish_message") or "the model's output could not be read"
            self.failure = Refusal(str(text), code=word, reason="provider_error")

    def _part(self, part: _Part, events: list[Event]) -> bool:
        """Take a part; false where it is of no kind known here."""
        if part.text is not None:
            self._text(part.text, bool(part.thought), part.thought_signature, events)
        elif part.function_call is not None:
            self._call(part.function_call, part.thought_signature, events)
        elif part.inline_data is not None and not part.thought:
            return self._inline(part.inline_data, part.thought_signature, events)
        else:
            return False
        return True

    def _text(self, text: str, thought: bool, signature: str | None, events: list[Event]) -> None:
        """A piece of text. One with a signature is a part of its own, even where it is empty."""
        kind = "reasoning" if thought else "text"
        if signature or (text and (self._open is None or self._open.kind != kind)):
            self._close(events)
            self._open = self.open(kind)
            self._pieces = True
        if self._open is not None:
            self._open.add(text, events)
        if signature:
            self._close(events, signature)

    def _close(self, events: list[Event], signature: str | None = None) -> None:
        """The open part, if any, is whole; it carries `signature`."""
        self._end_streamed(events)
        open_part, self._open = self._open, None
        if open_part is None:
            return
        if open_part.kind == "reasoning":
            thought = ReasoningPart(open_part.text, provider_data=_signed(signature), origin=self._origin())
            open_part.close(events, thought)
        elif signature:
            said = TextPart(open_part.text, provider_data=_signed(signature), origin=self._origin())
            open_part.close(events, said)
        else:
            open_part.close(events)

    def _call(self, call: _Call, signature: str | None, events: list[Event]) -> None:
        """A call: whole, or begun with its name and continued without until `willContinue` is gone."""
        if call.name or self._streamed is None:
            self._close(events)
            self._has_calls = True
            data: dict[str, Any] = _signed(signature) if call.id else {**_signed(signature), "made_id": True}
            begun = self.call(call.id or "", call.name or "", events)
            if not (call.will_continue or call.partial_args):
                begun.add(_arguments(call.args), events)
                begun.close(events, data, self._origin())
                return
            self._streamed = _Streamed(begun, data)
        streamed = self._streamed
        streamed.data.update(_signed(signature))
        streamed.pieces += call.partial_args or ()
        if not call.will_continue:
            self._end_streamed(events)

    def _end_streamed(self, events: list[Event]) -> None:
        streamed, self._streamed = self._streamed, None
        if streamed is not None:
            streamed.call.add(assembled(streamed.pieces), events)
            streamed.call.close(events, streamed.data, self._origin())

    def _inline(self, blob: _Blob, signature: str | None, events: list[Event]) -> bool:
        mime_type = blob.mime_type or ""
        kind, _, format = mime_type.partition("/")
        try:
            data = b64decode(blob.data or "", validate=True)
        except ValueError:
            return False
        if not data or kind not in ("image", "audio"):
            return False
        self._close(events)
        part: ImagePart | AudioPart
        if kind == "image":
            image = Image.from_bytes(data, mime_type)
            part = ImagePart(image, provider_data=_signed(signature), origin=self._origin())
        else:
            format = _FORMATS.get(format, format)
            part = AudioPart(data, format, provider_data=_signed(signature), origin=self._origin())
        self.whole({"type": kind, "mime_type": mime_type}, part, events)
        return True

    def _other(self, raw: dict[str, Any], part: _Part, events: list[Event]) -> None:
        """A part of no kind known here goes back as it came; an unsigned thought is only shown."""
        data = {key: value for key, value in raw.items() if key != SIGNATURE and value is not None}
        if part.thought_signature or (data and not part.thought):
            self._close(events)
            signed = _signed(part.thought_signature)
            kept = OpaquePart(plain(data) or {}, provider_data=signed, origin=self._origin())
            self.whole(plain(raw), kept, events)
        elif data.keys() - {"thought"}:
            events.append(RawChunk(plain(raw)))

    def _origin(self) -> Origin:
        return Origin(self.provider, "generate", self.request.model or self.model or "")

    def complete(self, request_id: str | None) -> list[Event]:
        events: list[Event] = []
        self._close(events)
        reported = self.reported()
        raw = self.finish
        if raw is None and self._blocked is not None:
            raw = f"blockReason:{self._blocked}"
        paused = self.finish == "CONTINUATION" and self._token is not None
        response = answered(
            id=self.id,
            request_id=request_id,
            provider=self.provider,
            model=self.model or self.request.model,
            finish_reason=self._finish_reason(),
            raw_finish_reason=raw,
            usage=reported[0].usage if reported else None,
            provider_data={"continuation_token": self._token} if paused else {},
            metadata=self._said(),
        )
        return [*events, *reported, MessageCompleted(response)]

    def _finish_reason(self) -> str:
        if self.finish is None and self._blocked is not None:
            return "content_filter"
        word = _FINISH.get(self.finish or "", "other")
        return "tool_calls" if self._has_calls and word in ("stop", "other") else word

    def _said(self) -> dict[str, Any]:
        """The metadata of the response; `annotations` are its sources: citations, then grounding chunks."""
        metadata = dict(self._metadata)
        chunks = metadata.get("grounding", {}).get("groundingChunks")
        sources = [*metadata.pop("citations", ()), *(chunks if isinstance(chunks, list) else ())]
        if sources:
            metadata["annotations"] = sources
        tier = (self._counts() or {}).get("serviceTier")
        if tier:
            metadata["service_tier"] = tier
        return metadata

    def reported(self) -> list[UsageReported]:
        counts = self._counts()
        return [] if counts is None else [UsageReported(usage_of(counts))]

    def _counts(self) -> dict[str, Any] | None:
        """The last usage that can be read."""
        data, self._counted = self._counted, b""
        if data:
            with suppress(ValueError, RecursionError):  # damaged text that a piece does not look at
                self._usage = builtins(data)["usageMetadata"]
        return self._usage


def usage_of(raw: dict[str, Any]) -> Usage:
    """The counts of a `usageMetadata` object in the meaning of `Usage`."""
    candidates = count(raw, "candidatesTokenCount", "responseTokenCount")
    thoughts = count(raw, "thoughtsTokenCount")
    return counted(
        raw,
        input_tokens=_sum(count(raw, "promptTokenCount"), count(raw, "toolUsePromptTokenCount")),
        output_tokens=_sum(candidates, thoughts),
        cached_input_tokens=count(raw, "cachedContentTokenCount"),
        reasoning_tokens=thoughts,
        total_tokens=count(raw, "totalTokenCount"),
    )


def _arguments(raw: Raw) -> str:
    """The arguments as they came, on one line: a stream and a JSON body give the same text."""
    try:
        return msgspec.json.format(bytes(raw), indent=-1).decode() if bytes(raw) else ""
    except msgspec.DecodeError:
        return bytes(raw).decode()


def _chunks(payload: bytes) -> list[_Chunk]:
    """The responses in a payload: strictly, or where that fails once more leniently, as `read` does."""
    many = payload.startswith(b"[")
    try:
        return _CHUNKS.decode(payload) if many else [_CHUNK.decode(payload)]
    except (msgspec.DecodeError, UnicodeError):
        value = _raw_arguments(builtins(payload))
        return msgspec.convert(value if many else [value], list[_Chunk], strict=False)


def _raw_arguments(value: Any) -> Any:
    """Decoded JSON with the arguments of calls as text again: `convert` makes no `Raw` of its own."""
    if isinstance(value, list):
        return [_raw_arguments(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _raw_arguments(item) for key, item in value.items()}
    call = value.get("functionCall")
    if isinstance(call, dict) and "args" in call:
        call["args"] = Raw(json.dumps(call["args"]).encode())
    return value


def _raw_part(payload: bytes, chunk: int, candidate: int, part: int) -> dict[str, Any]:
    """A part as it came: rare, so the payload is read again."""
    value = builtins(payload)
    value = value[chunk] if isinstance(value, list) else value
    raw: dict[str, Any] = value["candidates"][candidate]["content"]["parts"][part]
    return raw


def _sum(first: int | None, second: int | None) -> int | None:
    return first if second is None else second + (first or 0)


def _signed(signature: str | None) -> dict[str, Any]:
    return {SIGNATURE: signature} if signature else {}
