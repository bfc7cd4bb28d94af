"""Events into results: pure. What a stream gives and what a blocking call returns are one fold.

`RunFold` is the fold that loops and streams use; `ResponseFold` and `ChatFold` are its two plain uses.
Folding is by kind of event, never by generic merging, and costs one list append a delta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Any, Final, Literal

from msgspec.structs import replace

from allm.data.content import Part, ReasoningPart, TextPart, ToolCall
from allm.data.events import (
    ChatCompleted,
    Event,
    MessageCompleted,
    MessageStarted,
    RawChunk,
    ReasoningCompleted,
    ReasoningDelta,
    Retrying,
    StepCompleted,
    StreamFailed,
    TextCompleted,
    TextDelta,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
    ToolExecutionCompleted,
    ToolExecutionStarted,
    ToolResultEncoded,
    UsageReported,
)
from allm.data.failure import ErrorInfo
from allm.data.messages import Message, Thread
from allm.data.responses import ChatResult, Response, StepResult, Usage
from allm.data.sessions import Progress

Result = Response | StepResult | ChatResult


class _OpenPart:
    """A text, reasoning or call part whose deltas are still coming."""

    __slots__ = ("call", "kind", "pieces")

    def __init__(self, kind: type[Any], call: ToolCallStarted | None = None) -> None:
        self.kind = kind
        self.call = call
        self.pieces: list[str] = []

    def part(self) -> Part | None:
        text = "".join(self.pieces)
        if self.call is not None:
            return ToolCall(self.call.id, self.call.name, {}, text, True)
        part: Part | None = self.kind(text) if text else None
        return part


class ResponseFold:
    """The events of one model turn into its `Response`. `response` may be asked at any time."""

    __slots__ = ("_calls", "_done", "_open", "ended", "error", "started", "usage")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._done: dict[int, Part] = {}
        self._open: dict[int, _OpenPart] = {}
        self._calls: dict[str, int] = {}
        self.started: MessageStarted | None = None
        self.ended: Response | None = None
        self.usage: Usage | None = None
        self.error: ErrorInfo | None = None

    def add(self, event: Event) -> None:
        """Take one event; kinds that belong to other layers are ignored."""
        take = _TAKERS.get(type(event))
        if take is not None:
            take(self, event)
        elif type(event) is StreamFailed:
            self.error = event.error

    def extend(self, events: Iterable[Event]) -> None:
        """Take events that came together: nearly all of them are text of a part that is open."""
        parts = self._open
        for event in events:
            part = parts.get(event.index) if type(event) is TextDelta else None
            if part is not None:
                part.pieces.append(event.text)  # type: ignore[union-attr]  # a TextDelta
            else:
                self.add(event)

    def _text(self, event: TextDelta) -> None:
        part = self._open.get(event.index)
        if part is None:
            part = self._open[event.index] = _OpenPart(TextPart)
        part.pieces.append(event.text)

    def _reasoning(self, event: ReasoningDelta) -> None:
        part = self._open.get(event.index)
        if part is None:
            part = self._open[event.index] = _OpenPart(ReasoningPart)
        part.pieces.append(event.text)

    def _text_completed(self, event: TextCompleted) -> None:
        self._close(event.index, event.part or TextPart(event.text))

    def _reasoning_completed(self, event: ReasoningCompleted) -> None:
        self._close(event.index, event.part or ReasoningPart(event.text))

    def _call_started(self, event: ToolCallStarted) -> None:
        self._calls[event.id] = event.index
        self._open[event.index] = _OpenPart(ToolCall, event)

    def _call_delta(self, event: ToolCallDelta) -> None:
        index = self._calls.get(event.id)
        if index is not None and index in self._open:
            self._open[index].pieces.append(event.text)

    def _call_completed(self, event: ToolCallCompleted) -> None:
        index = self._calls.get(event.call.id, event.index)
        self._close(self.next_index if index is None else index, event.call)

    def _raw(self, event: RawChunk) -> None:
        if event.part is not None:
            self._close(self.next_index if event.index is None else event.index, event.part)

    def _retrying(self, event: Retrying) -> None:
        if event.error.reason == "output_invalid":  # of all retries the one that comes after content
            self._begin()

    def _started(self, event: MessageStarted) -> None:
        self.started = event

    def _usage(self, event: UsageReported) -> None:
        self.usage = event.usage

    def _completed(self, event: MessageCompleted) -> None:
        self.ended = event.response

    def _close(self, index: int, part: Part) -> None:
        self._open.pop(index, None)
        self._done[index] = part

    @property
    def next_index(self) -> int:
        """The position after all parts so far."""
        return max((*self._done, *self._open), default=-1) + 1

    @property
    def message(self) -> Message:
        """The assistant message so far; a lone plain text part is a plain string."""
        parts = dict(self._done)
        for index, open_part in self._open.items():
            part = open_part.part()
            if part is not None:
                parts[index] = part
        return assistant_message([parts[index] for index in sorted(parts)])

    @property
    def response(self) -> Response:
        if self.ended is not None and self.error is None:
            return self.completed(self.ended)
        started = self.started or MessageStarted()
        return Response(
            id=started.id,
            model=started.model,
            message=self.message,
            finish_reason="cancelled" if self.error is None else "error",
            usage=self.usage,
            error=self.error,
            provider=self.error.provider if self.error is not None else None,
        )

    def completed(self, ended: Response, **settled: Any) -> Response:
        """`ended` with the message and the usage that were folded, where it has none itself, and with the
        fields that are `settled`."""
        message, usage = ended.message, ended.usage
        if not message.content and (self._done or self._open):
            message = replace(message, content=self.message.content)
        if usage is None:
            usage = self.usage
        if message is ended.message and usage is ended.usage and not settled:
            return ended
        return replace(ended, message=message, usage=usage, **settled)


_TAKERS: Final[dict[type[Any], Callable[[ResponseFold, Any], None]]] = {
    TextDelta: ResponseFold._text,
    ReasoningDelta: ResponseFold._reasoning,
    ToolCallDelta: ResponseFold._call_delta,
    TextCompleted: ResponseFold._text_completed,
    ReasoningCompleted: ResponseFold._reasoning_completed,
    ToolCallStarted: ResponseFold._call_started,
    ToolCallCompleted: ResponseFold._call_completed,
    RawChunk: ResponseFold._raw,
    Retrying: ResponseFold._retrying,
    MessageStarted: ResponseFold._started,
    UsageReported: ResponseFold._usage,
    MessageCompleted: ResponseFold._completed,
}


def assistant_message(parts: Iterable[Part]) -> Message:
    """Parts as an assistant message: nothing is `""`, one plain text part is a string."""
    kept = tuple(parts)
    if not kept:
        return Message("assistant")
    if len(kept) == 1 and type(kept[0]) is TextPart and kept[0] == TextPart(kept[0].text):
        return Message("assistant", kept[0].text)
    return Message("assistant", kept)


class _Step:
    """What is known of a step that is not over. `begun` is how far it had come in a run that was cut."""

    __slots__ = ("approved", "asked", "ended", "halted", "response", "results", "started", "then")

    def __init__(self, begun: Progress) -> None:
        self.asked = begun.asked
        self.response = begun.response
        self.started = begun.started
        self.results = begun.results
        self.approved = begun.approved
        self.halted = begun.halted
        self.ended = begun.ended
        self.then = begun.then

    def progress(self, turns: int, response: Response | None) -> Progress:
        """The step as data; `turns` is the number of those before it."""
        answered = {result.message.tool_call_id for result in self.results}
        return Progress(
            turns=turns,
            asked=self.asked,
            response=response,
            started=self.started,
            results=self.results,
            approved=self.approved,
            halted=self.halted,
            ended=tuple([end for end in self.ended if end.message.tool_call_id not in answered]),
            then=self.then,
        )


_AT_ITS_BEGINNING: Final = Progress()
_NONE_LEFT: Final[Iterator[Event]] = iter(())


class RunFold:
    """The events of a whole run. `layer` says what `result()` is; `base` is the thread it began with,
    `begun` the step that a run which goes on after a cut began with. The events of a cut run and of the one
    that went on may be folded one after the other.

    Of a run that broke off, the result is `cancelled`, or `error` where it failed; what the last turn
    had brought is in the last step; where its tools were running, so are their results, and it counts.
    """

    __slots__ = (
        "_given", "_last", "_left", "_said", "_step", "_turn", "_turns", "base", "chat", "error", "in_turn",
        "layer", "steps",
    )  # fmt: skip

    def __init__(
        self,
        layer: Literal["response", "step", "chat"] = "chat",
        base: Thread | None = None,
        begun: Progress | None = None,
    ) -> None:
        begun = begun or _AT_ITS_BEGINNING
        self.layer = layer
        self.base = Thread() if base is None else base
        self._turn = ResponseFold()
        self._turn.ended = begun.response
        self._given: Sequence[Event] = ()
        self._left = _NONE_LEFT
        self._step = _Step(begun)
        self._last: _Step | None = None  # the one before, which ended
        self.steps: list[StepResult] = []
        self.chat: ChatResult | None = None
        self.error: ErrorInfo | None = None
        self.in_turn = begun.response is not None
        self._turns = begun.turns
        self._said: tuple[tuple[Message, ...], str | None] = ((), None)

    @property
    def turn(self) -> ResponseFold:
        """The turn so far."""
        taken = len(self._given) - length_hint(self._left)
        if taken:
            self._turn.extend(self._given[:taken])
            self._given = self._given[taken:]
        return self._turn

    def follow(self, events: list[Event]) -> Iterator[Event]:
        """Events of the open turn as somebody takes them, who may stop at any: those taken are folded.
        `settle` folds all of them."""
        self._given, self._left = events, iter(events)
        return self._left

    def settle(self) -> None:
        self._turn.extend(self._given)
        self._given, self._left = (), _NONE_LEFT

    def add(self, event: Event) -> None:
        kind = type(event)
        if kind is TextDelta and self.in_turn:  # the one kind that comes by the thousand
            self._turn._text(event)  # type: ignore[arg-type]  # by its kind
        elif kind in _RUN_TAKERS:
            _RUN_TAKERS[kind](self, event)
        elif kind in _TAKERS:
            if not self.in_turn:
                if kind is Retrying or kind is RawChunk:  # of no turn: it comes between two
                    return
                self._new_turn(begun=True)
            _TAKERS[kind](self._turn, event)

    def _message_started(self, event: MessageStarted) -> None:
        self._new_turn(begun=True)
        self._step.asked, self._step.halted = event.asked, event.halted
        self._turn._started(event)

    def _tool_started(self, event: ToolExecutionStarted) -> None:
        self._step.started += (event.call.id,)

    def _tool_ended(self, event: ToolExecutionCompleted) -> None:
        if event.result is not None:
            self._step.ended += (event.result,)

    def _tool_answered(self, event: ToolResultEncoded) -> None:
        self._step.results += (event,)

    def _chat_completed(self, event: ChatCompleted) -> None:
        self.chat = event.result

    def say(self, asked: tuple[Message, ...], halted: str | None) -> None:
        """What the turn that is about to begin will say of itself in its first event."""
        self._said = (asked, halted)

    def opened(self, event: MessageStarted) -> MessageStarted:
        """The first event of a turn, with what was said for it."""
        asked, halted = self._said
        return replace(event, asked=asked, halted=halted) if asked or halted is not None else event

    def _new_turn(self, begun: bool) -> None:
        self._turn = ResponseFold()
        self._step = _Step(_AT_ITS_BEGINNING)
        self.in_turn = begun

    def _step_completed(self, event: StepCompleted) -> None:
        result = event.result
        if not self.in_turn and self.steps:  # a run that went on says again how its step ended
            self.steps[-1] = result
            return
        self._last = ended = self._step
        ended.asked, ended.response = result.asked, result.response
        self.steps.append(result)
        self._new_turn(begun=False)

    def _fail(self, event: StreamFailed) -> None:
        self.error = event.error
        if not self.in_tools:
            self.turn.add(event)

    @property
    def complete(self) -> bool:
        """Whether the terminal event of the layer has come."""
        if self.error is not None:
            return False
        if self.layer == "chat":
            return self.chat is not None
        return bool(self.steps) if self.layer == "step" else self.turn.ended is not None

    @property
    def in_tools(self) -> bool:
        """Whether the model's turn is over and its tools are running: then what it said stands."""
        return self.in_turn and self.turn.ended is not None and self.called

    @property
    def called(self) -> bool:
        """Whether tools of the step were called, or may be."""
        return bool(self._step.started or self._step.results or self._step.approved)

    @property
    def halted(self) -> str | None:
        """What the first pass of a structured chat halted with, in the turn of the second."""
        return self._step.halted

    @property
    def broken(self) -> bool:
        """Whether the run ends in a step that is not whole; a failure for what an answer says is none."""
        return self.in_turn or (self.error is not None and self.error.phase != "output")

    @property
    def owes(self) -> bool:
        """Whether the run stands between two steps of which the loop itself, or the user, begins the second:
        the first had ended the turn of the model."""
        if self.in_turn or self._last is None:
            return False
        return self.steps[-1].done or bool(self._last.then)

    @property
    def finished(self) -> list[StepResult]:
        """The steps that are behind the run; until the next one begins the last is not, it may be the end."""
        return self.steps if self.in_turn else self.steps[:-1]

    @property
    def progress(self) -> Progress:
        """The step after the finished ones, as data: how far it has come."""
        if not self.in_turn and self._last is not None:
            return self._last.progress(self._turns + len(self.steps) - 1, self._last.response)
        response = self.turn.response if self.turn.ended is not None else None
        return self._step.progress(self._turns + len(self.steps), response)

    def result(self) -> Any:
        if self.layer == "chat":
            return self.chat if self.chat is not None else self._broken_chat()
        if self.layer == "step":
            return self.steps[-1] if self.steps else self._broken_step(base=self.base)
        return self.turn.response

    def _broken_step(self, base: Thread | None = None) -> StepResult:
        step, response, metadata = self._step, self.turn.response, {}
        if self.error is not None and self.in_tools:
            response, metadata = replace(response, error=self.error), {"halted_reason": "error"}
        place = {call.id: position for position, call in enumerate(response.tool_calls)}
        known = {result.message.tool_call_id: result.message for result in (*step.ended, *step.results)}
        return StepResult(
            response=response,
            asked=step.asked,
            tool_results=tuple(sorted(known.values(), key=lambda m: place.get(m.tool_call_id or "", -1))),
            done=True,
            base=base,
            metadata=metadata,
        )

    def stopped(self, reason: str, metadata: dict[str, Any]) -> ChatResult:
        """The result of a chat that is ended in the middle. Its thread holds whole turns: a call without a
        result is answered so."""
        from allm.tools import answers_of

        result = self._broken_chat()
        steps = list(result.steps)
        if self.in_turn and self.turn.ended is not None:
            answers = answers_of(steps[-1].response.tool_calls, steps[-1].tool_results, self._step.started)
            steps[-1] = replace(steps[-1], tool_results=answers)
        return replace(result, steps=tuple(steps), halted_reason=reason, metadata=metadata)

    def _broken_chat(self) -> ChatResult:
        steps = self.steps if not self.broken else [*self.steps, self._broken_step()]
        return ChatResult(
            base=self.base,
            steps=tuple(steps),
            halted_reason="cancelled" if self.error is None else "error",
            error=self.error,
        )


_RUN_TAKERS: Final[dict[type[Any], Callable[[RunFold, Any], None]]] = {
    MessageStarted: RunFold._message_started,
    ToolExecutionStarted: RunFold._tool_started,
    ToolExecutionCompleted: RunFold._tool_ended,
    ToolResultEncoded: RunFold._tool_answered,
    StepCompleted: RunFold._step_completed,
    ChatCompleted: RunFold._chat_completed,
    StreamFailed: RunFold._fail,
}


class ChatFold(RunFold):
    """The events of a chat into its `ChatResult`: `fold = ChatFold(thread); fold.add(event)`."""

    __slots__ = ()

    def __init__(self, base: Thread | None = None) -> None:
        super().__init__("chat", base)


def fold(events: Iterable[Event], base: Thread | None = None) -> Result:
    """The result of the outermost layer seen: a `Response`, a `StepResult` or a `ChatResult`.

    `base` is the thread the run began with; only a run that broke off needs it.
    """
    state = RunFold("chat", base)
    for event in events:
        state.add(event)
    if state.chat is None:
        if not state.steps and not state.called:
            state.layer = "response"
        elif len(state.steps) <= 1 and not state.in_turn:
            state.layer = "step"
    result: Result = state.result()
    return result


def unfold(response: Response) -> list[Event]:
    """The events that fold to `response`: for adapters that answer whole."""
    events: list[Event] = [MessageStarted(response.id, response.model)]
    for index, part in enumerate(response.message.parts):
        if type(part) is TextPart:
            events += [TextDelta(part.text, index), TextCompleted(part.text, index, part)]
        elif type(part) is ReasoningPart:
            events += [ReasoningDelta(part.text, index), ReasoningCompleted(part.text, index, part)]
        elif type(part) is ToolCall:
            events += [ToolCallStarted(part.id, part.name, index), ToolCallCompleted(part, index)]
        else:
            events.append(RawChunk(None, index, part))  # type: ignore[arg-type]  # the other kinds
    if response.usage is not None:
        events.append(UsageReported(response.usage))
    return [*events, MessageCompleted(response)]
