"""A conversation kept short enough for its model: middleware that puts a summary in place of old messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import blake2b
from inspect import isawaitable
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import AudioPart, FilePart, ImagePart, Part, ReasoningPart, TextPart, ToolCall
from allm.data.messages import Message
from allm.data.requests import Request
from allm.engine import Engine
from allm.errors import AllmError, ConfigurationError, ValidationError
from allm.middleware import HookContext

INSTRUCTIONS: Final = (
    "You are given the beginning of a conversation between a user and an assistant that uses tools. Write a"
    " summary from which the assistant can go on: what the user wants, decisions, facts, names, numbers and"
    " file paths that still matter, what was done and what is open. Write nothing else."
)
_HEAD: Final = "Summary of the conversation so far:\n"
_NO_SUMMARY: Final = "[Earlier messages were left out.]"
_MARK: Final = "compaction"  # the key in the metadata of a message that stands for others
_CHARACTERS: Final = 4  # of a token, roughly
_MEDIA: Final[dict[type[Any], int]] = {ImagePart: 1000, AudioPart: 500, FilePart: 3000}
_REMEMBERED: Final = 256  # summaries
_QUOTED: Final = 2000  # characters of one result or argument that the summariser is shown

Summarise = Callable[[tuple[Message, ...]], str | Awaitable[str]]


class Compaction:
    """Middleware: where a request's messages are more than `max_tokens` (estimated: four characters a token,
    fixed sizes for media), the oldest are sent as one summary.

    System messages at the front and the last `keep` messages stay, and calls are never parted from their
    results, for which more may stay. `summarise` is an `Engine` or `provider:model` that writes the summary
    (with stored keys; a key per tenant needs a function), or a function of the messages, sync or async;
    without it, and where it fails with an `AllmError`, old messages are left out with a word that says so.
    Where a provider refuses a request as too long, all but the newest is compacted and it is asked once more.

    The stored thread keeps everything; summaries are remembered by what they stand for, so a longer thread is
    summarised from the last summary on, and one that was compacted already is left as it is. A `raw_chunk`
    tells: `{"type": "compaction", "messages": 34, "tokens_before": .., "tokens_after": .., "summary": true}`;
    so does a line of `Response.warnings`. Thinking bound to the old messages is dropped by `prepare`.
    """

    def __init__(
        self,
        max_tokens: int,
        *,
        keep: int = 10,
        summarise: Engine | str | Summarise | None = None,
        instructions: str = INSTRUCTIONS,
    ) -> None:
        problems = [
            (name, "must_be_a_positive_integer")
            for name, value in (("max_tokens", max_tokens), ("keep", keep))
            if type(value) is not int or value < 1
        ]
        if problems:
            raise ValidationError.of("invalid compaction", *problems)
        if isinstance(summarise, str):
            summarise = Engine(summarise)
        if summarise is not None and not isinstance(summarise, Engine) and not callable(summarise):
            raise ConfigurationError("summarise takes an Engine, 'provider:model' or a function of messages")
        self.max_tokens = max_tokens
        self.keep = keep
        self.summarise = summarise
        self.instructions = instructions
        self._known: OrderedDict[bytes, Message] = OrderedDict()

    def before_model(self, request: Request, ctx: HookContext) -> Any:
        return self._compacted(request, ctx, self.max_tokens)

    def on_model_error(self, error: AllmError, request: Request, ctx: HookContext) -> Any:
        return self._compacted(request, ctx, 0) if error.info.reason == "context_length_exceeded" else None

    def compact(self, messages: Iterable[Message]) -> tuple[Message, ...]:
        """The messages as they would be sent, for a thread that you want to store short. Blocking.

        Raises what `summarise` raises; `ConfigurationError` where that is async.
        """
        given = tuple(messages)
        cut = self._cut(given, self.max_tokens)
        if cut is None:
            return given
        text = self._summary(cut.old) if cut.old else None
        if isawaitable(text):
            text.close() if hasattr(text, "close") else None
            raise ConfigurationError("the summariser is async; compact() takes a blocking one")
        return self._joined(cut, text)

    def _compacted(self, request: Request, ctx: HookContext, limit: int) -> Any:
        """The shorter request, or `None`; an awaitable of it where the summariser is async."""
        cut = self._cut(request.messages, limit)
        if cut is None:
            return None
        if not cut.old:
            return self._told(request, ctx, cut, None)
        try:
            text = self._summary(cut.old)
        except AllmError as error:
            return self._told(request, ctx, cut, error)
        if isawaitable(text):
            return self._later(request, ctx, cut, text)
        return self._told(request, ctx, cut, text)

    async def _later(self, request: Request, ctx: HookContext, cut: _Cut, text: Awaitable[str]) -> Request:
        try:
            return self._told(request, ctx, cut, await text)
        except AllmError as error:
            return self._told(request, ctx, cut, error)

    def _summary(self, messages: tuple[Message, ...]) -> str | Awaitable[str] | None:
        if not isinstance(self.summarise, Engine):
            return None if self.summarise is None else self.summarise(messages)
        from allm.calls import generate

        return generate(self.summarise, transcript(messages), system=self.instructions).text

    def _told(self, request: Request, ctx: HookContext, cut: _Cut, text: str | AllmError | None) -> Request:
        failed = isinstance(text, AllmError)
        messages = self._joined(cut, None if isinstance(text, AllmError) else text, remember=not failed)
        before, after = estimated_tokens(request.messages), estimated_tokens(messages)
        summary = messages[len(cut.head)].metadata[_MARK]
        told = {"type": _MARK, "tokens_before": before, "tokens_after": after, **summary}
        ctx.tell(told)
        how = "are sent as a summary" if summary["summary"] else "were left out"
        if isinstance(text, AllmError):
            how += f" (the summary failed: {text.info.reason})"
        ctx.warn(f"compaction: {summary['messages']} old messages {how}")
        return replace(request, messages=messages)

    def _cut(self, messages: tuple[Message, ...], limit: int) -> _Cut | None:
        """What may go, or `None` where nothing has to or can."""
        if estimated_tokens(messages) <= limit:
            return None
        start = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        head, body = messages[:start], messages[start:]
        chain = _digests(body)
        count = max((i for i in range(1, len(body) + 1) if chain[i] in self._known), default=0)
        known = (self._known[chain[count]],) if count else ()
        shorter = _Cut(head, (), known, body[count:], count, chain[count])
        if count and estimated_tokens((*head, *known, *body[count:])) <= limit:
            return shorter
        end = _last_place(body, self.keep)
        old = (*known, *body[count:end])
        if end <= count or (len(old) == 1 and _MARK in old[0].metadata):
            return shorter if count else None
        return _Cut(head, old, (), body[end:], end, chain[end])

    def _joined(self, cut: _Cut, text: str | None, remember: bool = True) -> tuple[Message, ...]:
        if not cut.old:
            return (*cut.head, *cut.known, *cut.kept)
        content = _NO_SUMMARY if text is None else _HEAD + text
        stood = sum(message.metadata.get(_MARK, {}).get("messages", 1) for message in cut.old)
        mark = {"messages": stood, "summary": text is not None}
        message = Message("user", content, metadata={_MARK: mark})
        if remember:
            self._known[cut.digest] = message
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return (*cut.head, message, *cut.kept)


class _Cut(Struct, frozen=True):
    """A thread in pieces: system messages, what goes, or the summary that stands for it, and what stays.
    `count` messages after the head are gone; `digest` is theirs."""

    head: tuple[Message, ...]
    old: tuple[Message, ...]
    known: tuple[Message, ...]
    kept: tuple[Message, ...]
    count: int
    digest: bytes


def _digests(body: Sequence[Message]) -> list[bytes]:
    """Digests of nothing, of the first message, of the first two ..."""
    state = blake2b(digest_size=16)
    found = [state.digest()]
    for message in body:
        state.update(msgspec.msgpack.encode(message))
        found.append(state.digest())
    return found


def _last_place(body: Sequence[Message], keep: int) -> int:
    """The last place, `keep` messages before the end, at which no call is cut off from its result."""
    open_calls: dict[str, list[int]] = {}
    parted: set[int] = set()
    for place, message in enumerate(body):
        for call in message.tool_calls:
            open_calls.setdefault(call.id, []).append(place)
        calls = open_calls.get(message.tool_call_id or "") if message.role == "tool" else None
        if calls:
            parted.update(range(calls.pop() + 1, place + 1))
    return next((place for place in range(len(body) - keep, 0, -1) if place not in parted), 0)


def estimated_tokens(messages: Iterable[Message]) -> int:
    """About how many tokens the messages are: four characters each, fixed sizes for media."""
    return sum(4 + sum(map(_size, message.parts)) for message in messages)


def _size(part: Part) -> int:
    if type(part) in _MEDIA:
        return _MEDIA[type(part)]
    if isinstance(part, TextPart | ReasoningPart):
        return len(part.text) // _CHARACTERS
    if isinstance(part, ToolCall):
        return (len(part.name) + len(part.raw_arguments or "")) // _CHARACTERS
    return len(msgspec.json.encode(part)) // _CHARACTERS


def transcript(messages: Iterable[Message]) -> str:
    """A conversation as plain text: what a summariser is shown. Thinking and media are left out."""
    lines: list[str] = []
    for message in messages:
        who = "result" if message.role == "tool" else message.role
        if message.text:
            lines.append(f"{who}: {_short(message.text) if message.role == 'tool' else message.text}")
        lines += [f"call: {call.name}({_short(call.raw_arguments or '')})" for call in message.tool_calls]
    return "\n\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}... ({len(text)} characters)"
