"""A thread made fit for a target: one conversation goes from provider to provider and back.

`prepare` is pure. What a provider gave for itself (signed thinking, server-tool items, signatures, item
ids) stays with the provider, endpoint and model it came from and is left out for all others; the stored
thread keeps everything. Call ids, results and media are put as the target takes them. The report says
what was done.

What the dialects refuse, read in November 2026: OpenAI takes call ids of up to 64 characters and Mistral of
exactly nine letters and digits; Anthropic takes ids of letters, digits, `_` and `-`, and thinking only
after the very conversation it was made in; Gemini 3 and later want a signature on the first call of a
model turn, and name a word to send for a call that another model made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from allm.data import Data
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

NO_RESULT: Final = "No result was provided for this call."
SIGNATURE: Final = "thoughtSignature"
UNSIGNED_CALL: Final = {SIGNATURE: "skip_thought_signature_validator"}
"""What Gemini documents for a call that carries no signature of its own."""

P = TypeVar("P", bound=Part)


class _Rules(Struct, frozen=True, kw_only=True):
    """What a dialect takes. Ids that do not fit are made anew: `id_prefix` and a hash, `id_length` long.

    `hangs_on_reasoning`: provider data that is refused once the turn's reasoning is left out; with
    `items_hang` so are the items of server tools. `system_first`: system messages are sent before all
    others, wherever they stand. `own_media`: what the target itself drew stays in its turn.
    """

    call_id: re.Pattern[str]
    id_prefix: str = "call_"
    id_length: int = 29
    assistant_media: tuple[type[Part], ...] = ()
    result_media: tuple[type[Part], ...] = (ImagePart, FilePart)
    signed_reasoning: bool = False
    hangs_on_reasoning: tuple[str, ...] = ()
    items_hang: bool = False
    system_first: bool = False
    own_media: bool = False


_ANY_ID: Final = re.compile(r"(?s).+")
_SHORT_ID: Final = re.compile(r"[!-~]{1,64}")
_MEDIA: Final = (ImagePart, FilePart, AudioPart)
_HANDLES: Final[dict[type[Part], str]] = {AudioPart: "id", FilePart: "file_id"}

_NEUTRAL: Final = _Rules(call_id=_ANY_ID, assistant_media=_MEDIA, result_media=_MEDIA)
_RULES: Final = {
    "chat": _Rules(call_id=_SHORT_ID, result_media=()),
    "responses": _Rules(call_id=_SHORT_ID, hangs_on_reasoning=("item_id",), items_hang=True, own_media=True),
    "messages": _Rules(call_id=re.compile(r"[a-zA-Z0-9_-]{1,64}"), signed_reasoning=True, system_first=True),
    "generate": _Rules(call_id=_ANY_ID, assistant_media=(ImagePart, FilePart), result_media=_MEDIA),
}
_MISTRAL: Final = replace(_RULES["chat"], call_id=re.compile(r"[a-zA-Z0-9]{9}"), id_prefix="", id_length=9)
_OLD_GEMINI: Final = replace(_RULES["generate"], result_media=())
_ENDPOINTS: Final = {"openai": "responses", "anthropic": "messages", "gemini": "generate"}


class Target(Struct, frozen=True):
    """Who the thread is for. An empty `model` stands for every model of the provider."""

    provider: str
    endpoint: str
    model: str = ""

    @classmethod
    def of(cls, target: Target | Origin | ModelRef | str) -> Target:
        """From `"provider:model"` and the like; the endpoint is the provider's usual one where none is said.

        Raises `ConfigurationError` for a string that names no provider.
        """
        if isinstance(target, Target):
            return target
        if isinstance(target, Origin):
            endpoint = target.endpoint or _ENDPOINTS.get(target.provider, "chat")
            return cls(target.provider, endpoint, target.model)
        if not isinstance(target, ModelRef | str):
            raise ValidationError.of("no such target", ("target", f"invalid_type {type(target).__name__}"))
        ref = ModelRef.parse(target)
        return cls(ref.provider, _ENDPOINTS.get(ref.provider, "chat"), ref.id)

    @property
    def origin(self) -> Origin:
        """The origin of what the target answers."""
        return Origin(self.provider, self.endpoint, self.model)

    def owns(self, origin: Origin | None) -> bool:
        """Whether what came from `origin` may go back to this target."""
        if origin is None or origin.provider != self.provider:
            return False
        if origin.endpoint and origin.endpoint != self.endpoint:
            return False
        return not (origin.model and self.model) or same_model(origin.model, self.model)

    @property
    def _rules(self) -> _Rules:
        if self.endpoint == "chat" and self.provider == "mistral":
            return _MISTRAL
        if self.endpoint == "generate" and not self._wants_signatures:
            return _OLD_GEMINI
        return _RULES.get(self.endpoint, _NEUTRAL)

    @property
    def _wants_signatures(self) -> bool:
        return self.endpoint == "generate" and _UNSIGNED_MODELS.match(self.model) is None


_UNSIGNED_MODELS: Final = re.compile(r"(models/)?(gemini-[12](?!\d)|gemma)")
_VERSION: Final = re.compile(r"[-@](\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


def same_model(one: str, other: str) -> bool:
    """Whether two ids name the same model: a date or `latest` at the end of one makes no difference."""
    if one == other:
        return True
    dated = [found for found in map(_VERSION.search, (one, other)) if found is not None]
    if len(dated) == 2 and "latest" not in (dated[0][1], dated[1][1]):
        return False
    return _VERSION.sub("", one) == _VERSION.sub("", other)


class Change(Data, frozen=True):
    """One thing that `prepare` did. `path` points into the messages that were given.

    `action` is `dropped`, `reduced`, `answered`, `moved`, `rewritten` or `added`; `what` names the part
    (`reasoning`, `opaque`, `signature`, `call_id` ...), `reason` is a word. A rewritten call id stands for
    the id of its result too.
    """

    path: str
    action: str
    what: str
    reason: str


class Report(Data, frozen=True):
    """What `prepare` did: calls and results first, then part by part in the order of the thread."""

    changes: tuple[Change, ...] = ()

    @property
    def lossless(self) -> bool:
        """Whether the target is told all that the thread says."""
        return not any(map(_loses, self.changes))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was lost, a line for each kind, with its count."""
        counts: dict[tuple[str, str, str], int] = {}
        for change in filter(_loses, self.changes):
            kind = (change.action, change.what, change.reason)
            counts[kind] = counts.get(kind, 0) + 1
        return tuple([_warning(*kind, count) for kind, count in counts.items()])


_NOTHING: Final = Report()
_HARMLESS: Final = frozenset({"handle", "item_id", "placeholder"})
_NAMES: Final = {
    "reasoning": "reasoning part",
    "opaque": "item of the provider's own",
    "provider_data": "part's provider data",
    "signature": "signature",
    "result": "tool result",
    "call": "tool call",
    "audio": "audio part",
    "file": "file",
}
_ACTIONS: Final = {"reduced": "turned into text", "answered": "answered with an error"}
_REASONS: Final = {
    "foreign_origin": "made by another provider, endpoint or model",
    "no_origin": "it is not known which provider made it",
    "prefix_changed": "the conversation before it was changed",
    "unsigned": "it carries no signature",
    "orphan_call": "it has no result",
    "orphan_result": "its call is not in the thread",
    "repeated_result": "its call was answered before",
}


def _loses(change: Change) -> bool:
    return change.action in ("dropped", "reduced", "answered") and change.what not in _HARMLESS


def _warning(action: str, what: str, reason: str, count: int) -> str:
    return f"{_ACTIONS.get(action, action)}: {count} x {_NAMES[what]} ({_REASONS[reason]})"


def fingerprint(
    messages: Iterable[Message], system: str | None = None, tools: Iterable[ToolSpec] = ()
) -> str:
    """A digest of what a model is shown, `<system and tools>:<messages>`, for `Origin.prefix`.

    Roles, visible text, calls, results and media count. Ids, reasoning, provider data and metadata do
    not, so the digest outlives a stored session and a handoff.
    """
    chain = _Chain()
    chain.add(messages)
    return f"{_head(system, tools)}:{chain.digest()}"


class _Chain:
    """The digest of messages that come one after the other: each makes a new one of the one before it."""

    __slots__ = ("_now", "_row", "_speaking")

    def __init__(self) -> None:
        self._now = _digest(b"")
        self._speaking = False
        self._row = ""  # the digest before all that the assistant says in a row

    def add(self, messages: Iterable[Message]) -> None:
        for message in messages:
            speaks = message.role == "assistant"
            if speaks and not self._speaking:
                self._row = self._now
            self._speaking = speaks
            self._now = _linked(self._now, message)

    def digest(self) -> str:
        return self._now

    def digests(self) -> tuple[str, str]:
        """The digest, and that without what the assistant has said last, in a row."""
        return self._now, self._row if self._speaking else self._now


def _linked(before: str, message: Message) -> str:
    """The digest after a message, which keeps it, with the one that it came behind."""
    link: tuple[str, str] | None = message._link
    if link is None or link[0] != before:
        shown = _shown(message)
        link = message.__dict__["_link"] = before, _digest(_bytes(before + shown)) if shown else before
    return link[1]


def _head(system: str | None, tools: Iterable[ToolSpec]) -> str:
    shown = [_frame("s", system or "")]
    for tool in tools:
        shown += (_frame("n", tool.name), _frame("d", tool.description), _frame("p", _json(tool.schema)))
    return _digest(_bytes("".join(shown)))


def _shown(message: Message) -> str:
    """A message as the model sees it; each field says its length, so that no two read alike."""
    content, role = message.content, message.role
    if isinstance(content, str):
        shown = f"t{len(content)}:{content}" if content else ""
    else:
        shown = "".join([_shown_part(part) for part in content])
    if not shown and role != "tool":
        return ""
    return f"m{len(role)}:{role}{'!' if message.is_error else ''}{shown}"


def _shown_part(part: Part) -> str:
    if type(part) is TextPart:
        return _frame("t", part.text) if part.text else ""
    if type(part) is ToolCall:
        exact = part.arguments_invalid or part.kind != "function"
        arguments = _json(part.arguments) if not exact or part.raw_arguments is None else part.raw_arguments
        return _frame("c", part.name) + _frame("a", arguments)
    if type(part) is ImagePart:
        image = part.image
        return _frame("i", _source(image.data, image.url or image.path))
    if type(part) is AudioPart:
        return _frame("h", _source(part.data, part.transcript))
    if type(part) is FilePart:
        return _frame("f", _source(part.data, part.url or part.file_id))
    return ""


def _frame(tag: str, text: str) -> str:
    return f"{tag}{len(text)}:{text}"


def _source(data: bytes | None, name: str | None) -> str:
    return _digest(data) if data else name or ""


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, order="deterministic").decode()
    except UnicodeEncodeError:  # a lone surrogate, which an encoder refuses by name
        import json

        return json.dumps(value, sort_keys=True)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.blake2b(data, digest_size=12).hexdigest()


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
    behind them."""

    messages: tuple[Message, ...]
    changes: tuple[Change, ...] = ()
    ids: frozenset[str] = frozenset()
    made: dict[str, int] = {}

    @property
    def report(self) -> Report:
        return Report(self.changes) if self.changes else _NOTHING


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
    head = None if system is None and tools is None else _head(system, tools or ())
    work = _Preparation(target, given, head, before or Ready(()))
    rows = enumerate(new, count) if is_paired(new) else _paired(new, orphans, work.changes)
    for source, message in rows:
        work.add(source, message)
    work.end()
    messages = tuple(work.done) if work.changes else given
    return Ready(messages, tuple(work.changes), frozenset(work.ids), work.made)


def _is_plain(messages: Sequence[Message]) -> bool:
    """Whether there is nothing but text, which any target takes."""
    for index, message in enumerate(messages):
        if type(message) is not Message:
            raise ValidationError.of("cannot be prepared", (f"messages[{index}]", "invalid_type"))
        if type(message.content) is not str or message.role == "tool":
            return False
    return True


def _calls(message: Message) -> list[ToolCall]:
    if message.role != "assistant" or type(message.content) is str:
        return []
    return [part for part in message.content if type(part) is ToolCall]


def is_paired(messages: Sequence[Message]) -> bool:
    """Whether each turn's calls are answered right after it, each once and nothing else."""
    waiting: set[str] = set()
    for message in messages:
        if message.role == "tool":
            id = message.tool_call_id or ""
            if id not in waiting:
                return False
            waiting.remove(id)
        elif waiting:
            return False
        elif type(message.content) is not str and message.role == "assistant":
            ids = [part.id for part in message.content if type(part) is ToolCall]
            waiting = set(ids)
            if len(waiting) != len(ids):
                return False
    return not waiting


class _Turn:
    """An assistant message and the results of its calls, each with its place among the given messages."""

    __slots__ = ("message", "results", "source")

    def __init__(self, source: int, message: Message) -> None:
        self.source = source
        self.message = message
        self.results: list[tuple[int, Message]] = []

    def unanswered(self) -> Iterator[tuple[int, ToolCall]]:
        """Calls without a result, with their place in the message; of equal ids the first has the first."""
        answered: dict[str, int] = {}
        for _, result in self.results:
            id = result.tool_call_id or ""
            answered[id] = answered.get(id, 0) + 1
        for index, part in enumerate(self.message.content):
            if type(part) is ToolCall:
                left = answered[part.id] = answered.get(part.id, 0) - 1
                if left < 0:
                    yield index, part


def _paired(
    messages: Sequence[Message], orphans: str, changes: list[Change]
) -> Iterator[tuple[int, Message]]:
    """The messages with every result right after its call; what is missing or too much is mended."""
    turns: list[_Turn] = []
    waiting: dict[str, list[_Turn]] = {}  # a turn stands here once for each open call, the newest last
    seen: set[str] = set()
    problems: list[tuple[str, str]] = []
    for source, message in enumerate(messages):
        if message.role != "tool":
            turns.append(_Turn(source, message))
            for call in _calls(message):
                waiting.setdefault(call.id, []).append(turns[-1])
                seen.add(call.id)
            continue
        id, path = message.tool_call_id or "", f"messages[{source}]"
        if waiting.get(id):
            turn = waiting[id].pop()
            turn.results.append((source, message))
            if turn is not turns[-1]:
                changes.append(Change(path, "moved", "result", "not_after_its_call"))
        elif id in seen:
            problems.append((path, "repeated_result"))
            changes.append(Change(path, "dropped", "result", "repeated_result"))
        else:
            problems.append((path, "orphan_result"))
            changes.append(Change(path, "reduced", "result", "orphan_result"))
            turns.append(_Turn(source, _quoted(message)))
    for turn in turns:
        for index, call in turn.unanswered() if _calls(turn.message) else ():
            path = f"messages[{turn.source}].content[{index}]"
            problems.append((path, "orphan_call"))
            changes.append(Change(path, "answered", "call", "orphan_call"))
            turn.results.append((turn.source, _no_result(call)))
    if problems and orphans == "refuse":
        raise ValidationError.of("calls and results do not fit together", *problems)
    return ((source, row) for turn in turns for source, row in ((turn.source, turn.message), *turn.results))


def _no_result(call: ToolCall) -> Message:
    return Message("tool", NO_RESULT, tool_call_id=call.id, is_error=True)


def _quoted(result: Message) -> Message:
    """A result without its call, as something the user says."""
    said = "\n".join([f"> {line}" for line in result.text.splitlines()])
    kind = "The error" if result.is_error else "The result"
    text = TextPart(f"{kind} of a tool call that is not in this conversation:\n{said}")
    return Message("user", (text, *[part for part in result.parts if type(part) is not TextPart]))


class _Preparation:
    """One run of `prepare`: rows go in one by one, `done` and `changes` come out.

    A row is a message with its place among those given; the results of a turn follow it directly. `before` is
    what an earlier run made of the messages before the first row.
    """

    def __init__(self, target: Target, given: Sequence[Message], head: str | None, before: Ready) -> None:
        self.changes = [*before.changes]
        self.done = [*before.messages]
        self.ids = {*before.ids}
        self.made = {**before.made}
        self._target = target
        self._rules = target._rules
        self._given = given
        self._head = head
        self._chain: _Chain | None = None  # over the first `_chained` messages of `done`
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
        if kept is None or type(kept) not in _MEDIA or self._takes(kept, role, stale):
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
                id = (self._rules.id_prefix + _digest(_bytes(f"{count}:{old}")))[: self._rules.id_length]
        self.ids.add(id)
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
        if self._head is not None and any(head != self._head for head, _, _ in halves):
            return True
        return self._follows_new_system(source) or not self._holds(
            source, {before for _, _, before in halves}
        )

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
        self._chain = self._chain or _Chain()
        self._chain.add(self.done[self._chained :])
        self._chained = len(self.done)
        now = self._chain.digests()
        self._bound = dict(zip(now, now, strict=True))
        if not digests <= self._bound.keys() and source > self._horizon:
            if self._stored is None:
                self._stored = _digests(self._given)
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


def _digests(messages: Sequence[Message]) -> dict[int, tuple[str, str]]:
    """For each turn made of parts, the digests of what is before it."""
    chain, added, found = _Chain(), 0, {}
    for index, message in enumerate(messages):
        if message.role == "assistant" and type(message.content) is not str:
            chain.add(messages[added:index])
            added = index
            found[index] = chain.digests()
    return found


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
