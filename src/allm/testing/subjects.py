"""What a conformance run is about: the adapter, samples of its provider, and the cases made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from msgspec import Struct

from allm.data.content import TextPart, ToolCall
from allm.data.events import (
    Event,
    MessageCompleted,
    MessageStarted,
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
from allm.data.messages import Message, assistant, tool_result, user
from allm.data.requests import Request, ToolSpec
from allm.data.responses import Response, Usage
from allm.folds import ResponseFold
from allm.limits import Limits
from allm.ports import CallContext

KEY: Final = "sk-conformance-0123456789abcdef"
"""The key that cases use; it must never come back."""

SAMPLES: Final = ("text", "text_whole", "call", "parallel", "unknown")
STATUSES: Final = (400, 401, 403, 404, 408, 413, 429, 500, 503, 529)
FINISHES: Final = frozenset(
    {"stop", "length", "tool_calls", "content_filter", "paused", "error", "cancelled", "other"}
)
_ADAPTERS_OWN: Final = (
    MessageStarted, TextDelta, TextCompleted, ReasoningDelta, ReasoningCompleted, ToolCallStarted,
    ToolCallDelta, ToolCallCompleted, UsageReported, RawChunk, MessageCompleted, StreamFailed,
)  # fmt: skip


class Sample(Struct, frozen=True, kw_only=True):
    """An answer with status 200 as the provider sends it, and what it must fold to.

    `calls` are (name, arguments) pairs; `images` are bytes, or a URL where the provider gives one;
    `vectors` are held against the answer's to five decimals. `usage`: it reports tokens. `error`: the
    reason with which it must fail after all that. `finish`: if empty, `tool_calls` where there are calls,
    else `stop`.
    """

    body: bytes
    content_type: str = "text/event-stream"
    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    images: tuple[bytes | str, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    usage: bool = True
    finish: str = ""
    error: str | None = None


HISTORY_TOOL: Final = ToolSpec(
    "look_up",
    "Looks up 4711.",
    {"properties": {"town_4712": {"type": "string"}}, "type": "object"},  # in the order in which it is stored
)


def history() -> tuple[Message, ...]:
    """A chat with a call of `HISTORY_TOOL`; every text in it has a number of its own."""
    call = ToolCall("call_4713", HISTORY_TOOL.name, {"town_4712": "Oslo-4714"}, '{"town_4712": "Oslo-4714"}')
    return (
        user("First 4715"),
        assistant([TextPart("Thinking 4716"), call]),
        tool_result("call_4713", "Sunny 4717"),
        assistant("Answer 4718"),
        user("Last 4719"),
    )


class Subject(Struct, frozen=True, kw_only=True):
    """An adapter and what is needed to prove it. `make()` gives an adapter that nobody has used.

    For a wire adapter (`encode`, `decoder`, `explain`): `samples` by name, those of `SAMPLES` and any
    others (`text` streams a text of two words or more, `text_whole` is one JSON body, `call` and `parallel`
    stream one tool call and two, `unknown` is a stream with events, fields and words that nobody knows);
    `refusals`, the error bodies by HTTP status, for those of `STATUSES`; `reasons` where the provider means
    something of its own by a status; `without` names samples and statuses that the provider does not have.

    For one in this process (`complete`, `stream`, `acomplete`, `astream`): `says` is its answer to "Hi", if
    that is certain; `failing()` gives an adapter that raises or fails when it is asked.
    """

    needs: ClassVar[dict[str, str | None]] = dict.fromkeys(SAMPLES)
    """The samples that prove a wire adapter, and the error that one must have."""
    slot: ClassVar[str] = "adapter"
    verb: ClassVar[str] = "stream_generate"

    make: Callable[[], Any]
    model: str = "model"
    base_url: str | None = None
    adapter_options: dict[str, Any] = {}
    samples: dict[str, Sample] = {}
    refusals: dict[int, bytes] = {}
    reasons: dict[int, str] = {}
    without: frozenset[str] = frozenset()
    says: str | None = None
    failing: Callable[[], Any] | None = None

    @property
    def shown(self) -> tuple[str, int]:
        """The sample that goes through an engine, and after how many of its events a reader leaves early."""
        return "text", 2

    def request(self, **fields: Any) -> Any:
        return Request(model=self.model, **{"messages": (user("Hi"),), **fields})

    def saying(self, text: str) -> Any:
        """A request with this text in it."""
        return self.request(messages=(user(text),))

    def full(self) -> Any:
        """A request with something of everything."""
        return self.request(messages=history(), tools=(HISTORY_TOOL,), temperature=0.5)

    def context(self, limits: Limits | None = None) -> CallContext:
        return CallContext(
            id="run/1/model",
            base_url=self.base_url,
            adapter_options=self.adapter_options,
            limits=limits or Limits(),
        )

    def fold(self, events: list[Any]) -> Any:
        """The result of all events of an answer; of a failed one what came, and its `error`."""
        fold = ResponseFold()
        for event in events:
            fold.add(event)
        return fold.response

    def check(self, events: list[Any], *, damaged: bool = False) -> None:
        """The rules for the events of every answer, whole, failed or `damaged`."""
        check_order(events, damaged=damaged)

    def check_result(self, result: Any) -> None:
        """The rules for every whole answer of an adapter in this process."""
        need(isinstance(result, Response), f"the answer is a {type(result).__name__}, not a Response")
        same("the role of the message", result.message.role, "assistant")
        need(result.finish_reason in FINISHES, f"finish_reason {result.finish_reason!r} is not a known word")
        if self.says is not None:
            same("the text", result.text, self.says)

    def said(self, result: Any) -> Any:
        """What an answer says, as values that can be compared."""
        return result.text, result.tool_calls

    def agree(self, result: Any, sample: Sample) -> None:
        """The result is what the sample must fold to."""
        same("the text", result.text, sample.text)
        same("the calls", tuple((call.name, call.arguments) for call in result.tool_calls), sample.calls)
        if sample.error is None:
            finish = sample.finish or ("tool_calls" if sample.calls else "stop")
            same("finish_reason", result.finish_reason, finish)
            need(result.raw_finish_reason, "raw_finish_reason, the provider's own word, is empty")

    def counted(self, usage: Usage) -> bool:
        """Whether the usage has what every provider reports."""
        return usage.input_tokens is not None and usage.output_tokens is not None


class Case(Struct, frozen=True):
    """One thing to prove. `about` says what holds where it passes."""

    name: str
    about: str
    work: Callable[[], None]

    def __str__(self) -> str:
        return self.name

    def run(self) -> None:
        """Raise `AssertionError` where the case does not hold, or anything else was raised."""
        try:
            self.work()
        except Exception as error:
            why = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{self.name} ({self.about}): {why}") from error


def need(condition: object, text: str) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(text)


def same(what: str, found: Any, wanted: Any) -> None:
    need(found == wanted, f"{what} is {found!r:.300}, not {wanted!r:.300}")


def kinds(events: list[Any]) -> list[str]:
    return [str(type(event).__struct_config__.tag) for event in events]


def check_events(events: list[Any], own: tuple[type[Any], ...], completed: type[Any]) -> None:
    """All events are of the types `own`, they are data, and one ends them: `completed` or a failure."""
    from allm.data.codec import to_json

    shown = kinds(events)
    foreign = [name for event, name in zip(events, shown, strict=True) if type(event) not in own]
    need(not foreign, f"events that are not an adapter's to give: {foreign}")
    ends = [at for at, event in enumerate(events) if type(event) in (completed, StreamFailed)]
    need(ends == [len(events) - 1], f"the one terminal event must be the last: {shown[-20:]}")
    for event in events:
        to_json(event)  # no lone surrogates, nothing that JSON cannot hold


def check_order(events: list[Event], *, damaged: bool = False) -> None:
    """The rules that hold for the events of every model turn, whole or failed. Of a `damaged` answer the
    whole of a part may say something else than its deltas."""
    check_events(events, _ADAPTERS_OWN, MessageCompleted)
    shown = kinds(events)
    need(shown.count("message_started") <= 1, "message_started came twice")
    content = [at for at, name in enumerate(shown) if name.startswith(("text", "reasoning", "tool_call"))]
    need(not content or "message_started" not in shown[content[0] :], "message_started came after content")
    _Parts(damaged).check(events)


class _Parts:
    """Texts and calls that are open: what is started is completed once, with what its deltas said."""

    def __init__(self, damaged: bool) -> None:
        self.damaged = damaged
        self.said: dict[Any, list[str]] = {}
        self.done: set[Any] = set()

    def check(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TextDelta | ReasoningDelta):
                self._delta((type(event) is TextDelta, event.index), event.text)
            elif isinstance(event, TextCompleted | ReasoningCompleted):
                self._completed((type(event) is TextCompleted, event.index), event.text)
            elif isinstance(event, ToolCallStarted):
                need(event.id and event.id not in self.said, f"the call id {event.id!r} is not its own")
                self.said[event.id] = []
            elif isinstance(event, ToolCallDelta):
                need(event.id in self.said, f"a delta for the call {event.id!r}, which was not started")
                self._delta(event.id, event.text)
            elif isinstance(event, ToolCallCompleted):
                need(event.call.id in self.said, f"the call {event.call.id!r} was not started")
                self._completed(event.call.id, event.call.raw_arguments)
        if isinstance(events[-1], MessageCompleted):
            need(not self.said.keys() - self.done, f"never completed: {self.said.keys() - self.done}")

    def _delta(self, part: Any, text: str) -> None:
        need(part not in self.done, f"a delta after the end of part {part}")
        self.said.setdefault(part, []).append(text)

    def _completed(self, part: Any, text: str | None) -> None:
        need(part not in self.done, f"part {part} was completed twice")
        self.done.add(part)
        said = self.said.setdefault(part, [])
        if said and text is not None and not self.damaged:
            same(f"part {part} when completed", text, "".join(said))
