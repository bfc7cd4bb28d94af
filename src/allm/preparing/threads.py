"""A thread made fit for a target, message by message and part by part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import (
    AudioPart,
    FilePart,
    ImagePart,
    OpaquePart,
    Origin,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from allm.data.messages import Message
from allm.data.requests import ModelRef, ToolSpec
from allm.errors import ValidationError
from allm.preparing.fingerprints import Chain, digest_of, digests_before, encoded, head_of
from allm.preparing.pairing import is_paired, paired
from allm.preparing.reports import Change, Report
from allm.preparing.targets import MEDIA, SIGNATURE, UNSIGNED_CALL, Target

P = TypeVar("P", bound=Part)

_HANDLES: Final[dict[type[Part], str]] = {AudioPart: "id", FilePart: "file_id"}

_NOTHING: Final = Report()


def prepare(
    messages: Iterable[Message],
    target: Target | Origin | ModelRef | str,
    *,
    system: str | None = None,
    tools: Iterable[ToolSpec] | None = None,
    orphans: str = "answer",
) -> tuple[tuple[Message, ...], Report]:
    """The messages as the target can take them, and what was changed; what fits is the same object.

    `system` and `tools` are what is sent along: thinking made under others is left out. Without both only
    the messages are compared. `orphans="answer"` tells the model of a call without a result so; with
    `"refuse"` such a call, and a result without its call, is a `ValidationError` that names every path.
    """
    ready = readied(tuple(messages), Target.of(target), system, tools, orphans)
    return ready.messages, ready.report


class Ready(Struct, frozen=True):
    """Messages as a target takes them, with what was changed; `ids` and `made` have to be known to go on
    behind them. `head` is the digest of system prompt and tools, where something in them hangs on these."""

    messages: tuple[Message, ...]
    changes: tuple[Change, ...] = ()
    ids: tuple[str, ...] = ()
    made: dict[str, int] = {}
    head: str = ""

    @property
    def report(self) -> Report:
        return Report(self.changes) if self.changes else _NOTHING

    def since(self, before: Ready) -> Ready:
        """What is new in it, where it went on behind `before`."""
        return Ready(
            self.messages[len(before.messages) :],
            self.changes[len(before.changes) :],
            self.ids[len(before.ids) :],
            dict(self.made.items() - before.made.items()),
            self.head,
        )

    @classmethod
    def joined(cls, pieces: Sequence[Ready]) -> Ready:
        """All of them, where each is what was new `since` the one before."""
        messages: list[Message] = []
        changes: list[Change] = []
        ids: list[str] = []
        made: dict[str, int] = {}
        for piece in pieces:
            messages += piece.messages
            changes += piece.changes
            ids += piece.ids
            made.update(piece.made)
        return cls(tuple(messages), tuple(changes), tuple(ids), made, pieces[-1].head)


def readied(
    given: tuple[Message, ...],
    target: Target,
    system: str | None,
    tools: Iterable[ToolSpec] | None,
    orphans: str = "answer",
    *,
    count: int = 0,
    before: Ready | None = None,
) -> Ready:
    """`prepare`, going on behind the first `count` messages, of which an earlier run made `before`.

    What follows them has its calls and results to itself (`is_paired`) and holds no system message, so that
    nothing of it belongs among them; nor has `before` media that wait for the next to speak.
    """
    if orphans not in ("answer", "refuse"):
        raise ValidationError.of("invalid option", ("orphans", "must_be_answer_or_refuse"))
    new = given[count:]
    if not count and _is_plain(new):
        return Ready(given)
    work = _Preparation(target, given, system, tools, before or Ready(()))
    rows = enumerate(new, count) if count or is_paired(new) else paired(new, orphans, work.changes)
    for source, message in rows:
        work.add(source, message)
    work.end()
    messages = tuple(work.done) if work.changes else given
    return Ready(messages, tuple(work.changes), tuple(work.ids), work.made, work.head)


def _is_plain(messages: Sequence[Message]) -> bool:
    """Whether there is nothing but text, which any target takes."""
    for index, message in enumerate(messages):
        if type(message) is not Message:
            raise ValidationError.of("cannot be prepared", (f"messages[{index}]", "invalid_type"))
        if type(message.content) is not str or message.role == "tool":
            return False
    return True


class _Preparation:
    """One run of `prepare`: rows go in one by one, `done` and `changes` come out.

    A row is a message with its place among those given; the results of a turn follow it directly. `before` is
    what an earlier run made of the messages before the first row.
    """

    def __init__(
        self,
        target: Target,
        given: Sequence[Message],
        system: str | None,
        tools: Iterable[ToolSpec] | None,
        before: Ready,
    ) -> None:
        self.changes = [*before.changes]
        self.done = [*before.messages]
        self.ids = dict.fromkeys(before.ids)  # in the order of the calls
        self.made = {**before.made}
        self.head = before.head
        self._target = target
        self._rules = target._rules
        self._given = given
        self._system = system
        self._tools = tools
        self._chain: Chain | None = None  # over the first `_chained` messages of `done`
        self._chained = 0
        self._stored: dict[int, tuple[str, str]] | None = None  # digests of what was given before a turn
        self._bound: dict[str, str] = {}  # what the turn's parts may be bound to, and how that is sent
        self._last_system: int | None = None
        self._horizon = -1  # the farthest place that a result so far came from
        self._turn: dict[str, list[ToolCall]] = {}  # calls of the latest turn by their old ids
        self._moved: list[Part] = []  # media that wait for the next user message
        self._place = (0, 0)

    def add(self, source: int, message: Message) -> None:
        role = message.role
        if role == "tool":
            self.done.append(self._result(source, message))
            return
        if role != "user" and self._moved:
            self.end()
        kept: Message | None = message
        if type(message.content) is not str:
            self._turn = {}
            parts = self._parts(source, message)
            if parts is not message.content:
                kept = replace(message, content=parts) if _says_something(parts) else None
        if self._moved and role == "user":
            said = kept or Message("user")
            kept = replace(said, content=(*self._moved, *said.parts))
            self._moved = []
        if kept is not None:
            self.done.append(kept)

    def end(self) -> None:
        """Media that found no user message get one of their own."""
        if self._moved:
            self.done.append(Message("user", tuple(self._moved)))
            self._moved = []

    def _result(self, source: int, message: Message) -> Message:
        self._horizon = max(self._horizon, source)
        call = self._turn[message.tool_call_id or ""].pop(0)
        fields: dict[str, Any] = {}
        if call.id != message.tool_call_id:
            fields["tool_call_id"] = call.id
        if type(message.content) is not str:
            waiting = len(self._moved)
            parts = self._parts(source, message)
            if parts is not message.content:
                moved = self._moved[waiting:]
                fields["content"] = _pointing(parts, moved) if moved else parts or ""
                if moved:
                    self._moved.insert(waiting, TextPart(f"From the result of the call to {call.name}:"))
        return replace(message, **fields) if fields else message

    def _parts(self, source: int, message: Message) -> tuple[Part, ...]:
        """The parts that the target takes here; the tuple that was given where it takes them all."""
        given = message.parts
        role = message.role
        self._bound = {}
        stale = role == "assistant" and self._is_stale(source, given)
        waiting = len(self._moved)
        kept: list[Part] = []
        same = True
        for index, part in enumerate(given):
            if type(part) is TextPart and not part.provider_data:
                kept.append(part)
                continue
            self._place = (source, index)
            new = self._part(part, role, stale)
            same = same and new is part
            if new is not None:
                kept.append(new)
        if role == "assistant" and len(self._moved) > waiting:
            self._moved.insert(waiting, TextPart("From the assistant's last message:"))
        return given if same else tuple(kept)

    def _note(self, action: str, what: str, reason: str) -> None:
        source, index = self._place
        self.changes.append(Change(f"messages[{source}].content[{index}]", action, what, reason))

    def _part(self, part: Part, role: str, stale: bool) -> Part | None:
        if isinstance(part, ReasoningPart | OpaquePart):
            return self._private(part, stale)
        if role == "assistant":
            if type(part) is ToolCall:
                return self._call(part, stale)
            if type(part) is AudioPart and not self._target.owns(part.origin):
                return self._transcript(part)
        kept = _with(part, self._stripped(part, stale))
        if kept is None or type(kept) not in MEDIA or self._takes(kept, role, stale):
            return kept
        self._note("moved", _what(kept), "not_taken_there")
        self._moved.append(kept)
        return None

    def _takes(self, part: Part, role: str, stale: bool) -> bool:
        if role == "assistant":
            own = self._rules.own_media and not stale and self._target.owns(part.origin)
            return own or type(part) is AudioPart or type(part) in self._rules.assistant_media
        return role != "tool" or type(part) in self._rules.result_media

    def _private(self, part: ReasoningPart | OpaquePart, stale: bool) -> Part | None:
        """What only its own provider can read: as it is, or not at all."""
        reason = self._refusal(part, stale)
        if not reason:
            return _with(part, self._rebound(part))
        self._note("dropped", _what(part), reason)
        return None

    def _refusal(self, part: ReasoningPart | OpaquePart, stale: bool) -> str:
        if not self._target.owns(part.origin):
            return _stranger(part)
        if isinstance(part, OpaquePart):
            bound = part.origin is not None and part.origin.prefix
            return "prefix_changed" if stale and (bound or self._hangs(part)) else ""
        if stale:
            return "prefix_changed"
        signed = part.signature or part.redacted or not self._rules.signed_reasoning
        return "" if signed else "unsigned"

    def _hangs(self, part: OpaquePart) -> bool:
        """Whether an item is refused without the reasoning beside it; a compaction stands alone."""
        data = part.data
        return self._rules.items_hang and not (isinstance(data, dict) and data.get("type") == "compaction")

    def _transcript(self, part: AudioPart) -> Part | None:
        """What the assistant said aloud, for a target that does not hold the sound."""
        if AudioPart in self._rules.assistant_media and part.data:
            return _with(part, self._stripped(part, False))
        if not part.transcript:
            self._note("dropped", "audio", _stranger(part))
            return None
        self._note("reduced", "audio", _stranger(part))
        return TextPart(part.transcript)

    def _call(self, call: ToolCall, stale: bool) -> ToolCall:
        fields = self._stripped(call, stale)
        id = self._call_id(call.id)
        if id != call.id:
            fields["id"] = id
        data = fields.get("provider_data", call.provider_data)
        if not self._turn and self._target._wants_signatures and SIGNATURE not in data:
            self._note("added", "placeholder", "unsigned")
            fields["provider_data"] = {**data, **UNSIGNED_CALL}
            if not data:
                fields["origin"] = self._target.origin
        kept = replace(call, **fields) if fields else call
        self._turn.setdefault(call.id, []).append(kept)
        return kept

    def _call_id(self, id: str) -> str:
        """The id if it fits and is new in the thread, else one made of it and of nothing that follows."""
        fits = self._rules.call_id.fullmatch(id) is not None
        if not fits or id in self.ids:
            self._note("rewritten", "call_id", "id_repeated" if fits else "id_grammar")
            old = id
            while id in self.ids or self._rules.call_id.fullmatch(id) is None:
                count = self.made[old] = self.made.get(old, 0) + 1
                id = (self._rules.id_prefix + digest_of(encoded(f"{count}:{old}")))[: self._rules.id_length]
        self.ids[id] = None
        return id

    def _stripped(self, part: Part, stale: bool) -> dict[str, Any]:
        """The fields of a part to change so that it carries nothing the target would refuse."""
        data, origin = part.provider_data, part.origin
        if not data and origin is None:
            return {}
        owned = self._target.owns(origin)
        fields: dict[str, Any] = {}
        if data and not owned:
            self._note("dropped", _kind(data), _stranger(part))
            fields = {"provider_data": {}, "origin": None}
        elif data and stale:
            fields = self._loosened(part)
        elif data:
            fields = self._rebound(part)
        handle = _HANDLES.get(type(part))
        if handle is not None and not owned and origin is not None and getattr(part, handle) is not None:
            fields[handle] = None
            void = _is_void(replace(part, **fields))
            self._note("dropped", _what(part) if void else "handle", "foreign_origin")
        return fields

    def _loosened(self, part: Part) -> dict[str, Any]:
        """What to change of an own part whose turn has lost its thinking."""
        data = part.provider_data
        if part.origin is not None and part.origin.prefix:
            self._note("dropped", _kind(data), "prefix_changed")
            return {"provider_data": {}, "origin": None}
        lost = data.keys() & self._rules.hangs_on_reasoning
        if not lost:
            return {}
        self._note("dropped", _kind(dict.fromkeys(lost)), "prefix_changed")
        return {"provider_data": {name: data[name] for name in data if name not in lost}}

    def _is_stale(self, source: int, parts: Iterable[Part]) -> bool:
        """Whether a part of the turn is bound to another conversation than the one before it now."""
        prefixes = [
            part.origin.prefix
            for part in parts
            if part.origin is not None
            and part.origin.prefix
            and (part.provider_data or isinstance(part, ReasoningPart | OpaquePart))
            and self._target.owns(part.origin)
        ]
        if not prefixes:
            return False
        halves = [prefix.partition(":") for prefix in prefixes]
        if not self._has_heads({head for head, _, _ in halves}):
            return True
        return self._follows_new_system(source) or not self._holds(
            source, {before for _, _, before in halves}
        )

    def _has_heads(self, heads: set[str]) -> bool:
        """Whether they are the digest of the system prompt and the tools; without both, any is."""
        if self._system is None and self._tools is None:
            return True
        self.head = self.head or head_of(self._system, self._tools or ())
        return heads == {self.head}

    def _follows_new_system(self, source: int) -> bool:
        """Whether a system message that came after the turn is now sent before it."""
        if self._last_system is None:
            places = [place for place, message in enumerate(self._given) if message.role == "system"]
            self._last_system = places[-1] if places and self._rules.system_first else -1
        return source < self._last_system

    def _holds(self, source: int, digests: set[str]) -> bool:
        """A part may be bound to the messages as they were sent or as they are stored; either before its own
        message or before all that the assistant says there in a row.

        As stored counts only where nothing has come from behind the turn to before it since.
        """
        self._chain = self._chain or Chain()
        self._chain.add(self.done[self._chained :])
        self._chained = len(self.done)
        now = self._chain.digests()
        self._bound = dict(zip(now, now, strict=True))
        if not digests <= self._bound.keys() and source > self._horizon:
            if self._stored is None:
                self._stored = digests_before(self._given)
            self._bound = {**dict(zip(self._stored[source], now, strict=True)), **self._bound}
        return digests <= self._bound.keys()

    def _rebound(self, part: Part) -> dict[str, Any]:
        """The origin of a kept part, bound to the messages as they are sent."""
        origin = part.origin
        if origin is None or not origin.prefix or not self._bound:
            return {}
        head, _, before = origin.prefix.partition(":")
        prefix = f"{head}:{self._bound[before]}"
        if prefix == origin.prefix:
            return {}
        self._note("rewritten", "prefix", "conversation_mended")
        return {"origin": replace(origin, prefix=prefix)}


def _with(part: P, fields: dict[str, Any]) -> P | None:
    """The part with other fields; `None` where nothing is left of it."""
    if not fields:
        return part
    new = replace(part, **fields)
    return None if _is_void(new) else new


def _is_void(part: Part) -> bool:
    if type(part) is TextPart:
        return not part.text and not part.provider_data
    if type(part) is AudioPart:
        return not part.data and part.id is None
    return type(part) is FilePart and part.data is None and part.url is None and part.file_id is None


def _says_something(parts: Iterable[Part]) -> bool:
    return not all(map(_is_void, parts))


def _pointing(parts: tuple[Part, ...], moved: Sequence[Part]) -> tuple[Part, ...]:
    """What is left of a result whose media went to the message after it."""
    if any(type(part) is TextPart and part.text for part in parts):
        return parts
    word = {ImagePart: "an image", AudioPart: "audio"}.get(type(moved[0]), "a file")
    return (TextPart(f"The result is {word}; it follows."), *parts)


def _stranger(part: Part) -> str:
    return "no_origin" if part.origin is None else "foreign_origin"


def _what(part: Part) -> str:
    """The tag of a part: the word that a `Change` names it by."""
    return str(part.__struct_config__.tag)


def _kind(data: dict[str, Any]) -> str:
    """What provider data is, in a word."""
    if data == UNSIGNED_CALL:
        return "placeholder"
    if data.keys() == {"item_id"}:
        return "item_id"
    return "signature" if SIGNATURE in data else "provider_data"
