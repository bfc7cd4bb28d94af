"""One round trip and the tools it asks for, as a sans-IO generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from allm.approvals import ReadyCall, approval_digest, told
from allm.data.content import ToolCall
from allm.data.events import (
    AskUserRequested,
    StepCompleted,
    ToolExecutionCompleted,
    ToolExecutionStarted,
    ToolHalt,
    ToolResultEncoded,
)
from allm.data.failure import ErrorInfo
from allm.data.messages import Message, Thread
from allm.data.responses import Response, StepResult
from allm.data.sessions import Progress
from allm.errors import ToolError, raised
from allm.folds import RunFold
from allm.loops.effects import Loop, NextTool, StartTool, ToolDone
from allm.loops.generate import generate
from allm.loops.plan import Plan, next_request
from allm.providers.refusals import redacted
from allm.tools import (
    AskUser,
    Halt,
    Outcome,
    Tool,
    ToolContext,
    encode_result,
    error_message,
    failed,
    interrupted,
    invocation,
    is_async,
    outcome,
    unknown_tool,
)

MAX_CALLS: Final = 128  # of one turn; a model that asks for more has lost its way
MAX_PARALLEL: Final = 8  # where `max_concurrency` is not given
_MAX_SHOWN: Final = 1024  # characters of an exception's text that leave the run
_AT_ITS_BEGINNING: Final = Progress()
_UNSAFE: Final = ("length", "content_filter", "paused", "error", "cancelled")


def step(
    plan: Plan, thread: Thread, fold: RunFold, run_id: str, index: int, asked: tuple[Message, ...] = ()
) -> Loop[StepResult]:
    """Ask the model once; in mode `auto` run the tools it asked for. Ends with `step_completed`.

    `asked` is what the loop itself says to the model first; it becomes part of the step. The first step of a
    run that was cut goes on from `plan.progress`.
    """
    place = f"{run_id}/{plan.revision + index}"
    begun = plan.progress if index == 0 and plan.progress is not None else _AT_ITS_BEGINNING
    asked, response = asked or begun.opening, begun.response
    if response is None:
        fold.say(asked, plan.halted)
        request = next_request(plan, thread.add_messages(asked) if asked else thread)
        response = yield from generate(plan, request, fold, f"{place}/model")
    calls = response.tool_calls if response.finish_reason not in _UNSAFE else ()
    if not calls:
        result = StepResult(response=response, done=True)
    elif plan.mode == "manual" and not begun.approved:
        result = StepResult(response=response, metadata={"mode": "manual"})
    else:
        result = yield from _with_tools(plan, response, calls, fold, place, begun)
    result = replace(result, asked=asked) if asked else result
    event = StepCompleted(replace(result, base=thread) if fold.layer == "step" else result)
    fold.add(event)
    yield event
    return result


def _with_tools(
    plan: Plan, response: Response, calls: Sequence[ToolCall], fold: RunFold, place: str, begun: Progress
) -> Loop[StepResult]:
    if len(calls) > MAX_CALLS:
        text = f"the model asked for {len(calls)} tool calls in one turn; at most {MAX_CALLS} are run"
        raise raised(ErrorInfo(reason="limit_exceeded", code="tool_calls", message=text, phase="tool"))
    approved = {call.id: call for call in begun.approved}
    ready = [ReadyCall(i, call, approved.get(call.id, call)) for i, call in enumerate(calls)]
    phase = _Phase(plan, ready, fold, place, begun=begun)
    yield from phase.run()
    metadata = {**phase.pending(), **phase.halting()}
    return StepResult(
        response=response,
        tool_results=phase.messages,
        done="halted_reason" in metadata,
        metadata=metadata,
    )


class _Settled(Struct):
    """What came of one call: the message that answers it, and whether it ends the loop."""

    message: Message
    halted_reason: str | None = None
    value: Any = None
    ask: AskUser | None = None
    policy_error: str | None = None

    @property
    def ends(self) -> bool:
        """Whether the loop ends here."""
        return self.ask is not None or self.halted_reason is not None

    def event(self) -> ToolResultEncoded:
        halt: dict[str, Any] = {}
        if self.ask is not None:
            asked = self.ask
            halt = {"question": asked.question, "choices": asked.choices, "options": asked.options}
        elif self.halted_reason is not None:
            halt = {"reason": self.halted_reason, "value": self.value, "policy_error": self.policy_error}
        return ToolResultEncoded(self.message, halt)

    @classmethod
    def of(cls, event: ToolResultEncoded) -> _Settled:
        """What the event of a run that was cut says of its call."""
        message, halt = event.message, event.halt
        if "question" in halt:
            return cls(message, ask=AskUser(halt["question"], halt["choices"], **halt["options"]))
        return cls(message, halt.get("reason"), halt.get("value"), policy_error=halt.get("policy_error"))


class _Phase:
    """The tools of one step: bounded parallel, results in call order, events as they finish.

    A call of a manual tool waits for the caller, one that needs approval for that.
    """

    def __init__(
        self,
        plan: Plan,
        calls: Sequence[ReadyCall],
        fold: RunFold,
        place: str,
        begun: Progress = _AT_ITS_BEGINNING,
    ) -> None:
        self.plan = plan
        self.asked = {ready.position: ready for ready in calls}
        self.calls = {ready.position: ready.call for ready in calls}  # as they run, after the hooks
        self.fold = fold
        self.place = place
        encoder = plan.tool_result_encoder
        self.encode = encode_result if encoder is None else getattr(encoder, "encode", encoder)
        done = {result.message.tool_call_id: _Settled.of(result) for result in begun.results}
        self.settled = {ready.position: done[ready.call.id] for ready in calls if ready.call.id in done}
        self.ended = {result.message.tool_call_id: _Settled.of(result) for result in begun.ended}
        self.interrupted = frozenset(begun.started)
        self.approved = frozenset(call.id for call in begun.approved)
        self.waiting: list[str] = []  # ids
        self.approvals: dict[str, str] = {}  # id to digest

    def run(self) -> Loop[None]:
        queued = [position for position in self.calls if position not in self.settled]
        limit = self.plan.max_concurrency or MAX_PARALLEL
        running = 0
        while queued or running:
            while queued and running < limit:
                running += yield from self._start(queued.pop(0))
            if running:
                done: ToolDone = yield NextTool()
                running -= 1
                yield from self._finish(done)

    def _start(self, position: int) -> Loop[int]:
        """Start one call; gives 1 where it runs, 0 where it waits or was answered without running."""
        call = self.calls[position]
        tool = self.plan.tools.get(call.name)
        if call.id in self.ended:
            answer = self._show if tool is None else self._answer
            yield from answer(position, self.ended[call.id])
            return 0
        if tool is None:
            info = unknown_tool(call, tuple(self.plan.tools))
            yield from self._show(position, _Settled(error_message(call, info)))
            return 0
        if call.id in self.interrupted and tool.spec.on_interrupted == "report":
            yield from self._finish(ToolDone(position, None, ToolError(interrupted(call)), 0.0))
            return 0
        try:
            if self._waits(tool, call):
                return 0
        except Exception as error:  # the rule is the user's
            yield from self._answer(position, self._not_run(call, error))
            return 0
        if self.plan.middleware and not (yield from self._admitted(position, tool)):
            return 0
        return (yield from self._begun(position, tool))

    def _waits(self, tool: Tool, call: ToolCall) -> bool:
        """Whether the caller runs it, or is asked first. Raises `ToolError` where it could not run at all."""
        rule = tool.requires_approval if call.id not in self.approved else False
        if rule is not False:
            tool.bind_arguments(call)
        if not (tool.manual or rule is True or (callable(rule) and rule(call))):
            return False
        self.waiting.append(call.id)
        if not tool.manual:
            self.approvals[call.id] = approval_digest(call)
        return True

    def _admitted(self, position: int, tool: Tool) -> Loop[bool]:
        """Whether the hooks let the call run, as they leave it; else they have answered it."""
        from allm.loops.middleware import before_tool

        call = self.calls[position]
        changed = yield from before_tool(self.plan, tool, call, position, self._id(position))
        if isinstance(changed, ToolDone):
            yield from self._answer(position, self._settle(tool, call, changed))
            return False
        self.calls[position] = changed
        return True

    def _begun(self, position: int, tool: Tool) -> Loop[int]:
        call = self.calls[position]
        try:
            invoke = self._invocation(tool, call, position)
        except Exception as error:  # the code of argument types is the user's
            yield from self._answer(position, self._not_run(call, error))
            return 0
        started = ToolExecutionStarted(call)
        self.fold.add(started)
        yield started
        yield self._effect(tool, call, position, invoke)
        return 1

    def _id(self, position: int) -> str:
        return f"{self.place}/tool/{position}"

    def _invocation(self, tool: Tool, call: ToolCall, position: int) -> Callable[[], Any]:
        """What runs the call. Raises `ToolError` where its arguments do not fit, whoever runs it."""
        plan = self.plan
        context = ToolContext(
            context=plan.context,
            session_id=plan.session_id,
            request_id=plan.request_id,
            run_id=self.place.partition("/")[0],
            call=call,
            engine=plan.engine if self._isolation(tool) == "thread" else None,
            idempotency_key=self._id(position),
        )
        if plan.tool_executor is None:
            return invocation(tool, call, context)
        tool.bind_arguments(call)
        return partial(plan.tool_executor.execute, tool, call, context)

    def _isolation(self, tool: Tool) -> str:
        return tool.isolation if self.plan.tool_executor is None else "thread"

    def _effect(self, tool: Tool, call: ToolCall, position: int, invoke: Callable[[], Any]) -> StartTool:
        timeout = tool.timeout if tool.timeout is not None else self.plan.tool_timeout
        isolation, executor = self._isolation(tool), self.plan.tool_executor
        awaited = tool.is_async or (executor is not None and is_async(executor.execute))
        awaited = awaited and isolation == "thread"
        return StartTool(self._id(position), position, call, invoke, awaited, timeout, isolation)

    def _not_run(self, call: ToolCall, error: Exception) -> _Settled:
        info = failed(call.name, call, error)
        if info.code == "invalid_arguments":  # the model can mend that, whatever the policy
            return _Settled(error_message(call, info))
        return self._by_policy(call, info)

    def _finish(self, done: ToolDone) -> Loop[None]:
        call = self.calls[done.position]
        settled = self._settle(self.plan.tools[call.name], call, done)
        ended = ToolExecutionCompleted(
            call.id, call.name, settled.message.is_error, done.elapsed, settled.event()
        )
        self.fold.add(ended)
        yield ended
        yield from self._answer(done.position, settled)

    def _answer(self, position: int, settled: _Settled) -> Loop[None]:
        """Show what came of the call, as the hooks leave it."""
        if self.plan.middleware and settled.ask is None:
            from allm.loops.middleware import after_tool

            call = self.calls[position]
            message = yield from after_tool(
                self.plan, self.plan.tools[call.name], call, settled.message, self._id(position)
            )
            if isinstance(message, ErrorInfo):
                settled = self._by_policy(call, message)
            else:
                settled.message = message
        yield from self._show(position, settled)

    def _show(self, position: int, settled: _Settled) -> Loop[None]:
        call = self.calls[position]
        if settled.ask is None:
            settled.message = told(self.asked[position], settled.message)
        self.settled[position] = settled
        event = settled.event()
        self.fold.add(event)
        yield event
        if settled.ask is not None:
            asked = AskUserRequested(call.id, settled.ask.question, settled.ask.choices)
            self.fold.add(asked)
            yield asked
        elif settled.halted_reason is not None:
            yield ToolHalt(call.id, settled.halted_reason, settled.value)

    def _settle(self, tool: Tool, call: ToolCall, done: ToolDone) -> _Settled:
        if done.error is not None:
            return self._by_policy(call, failed(call.name, call, done.error))
        result = outcome(tool, call, done.value, self.encode)
        if result.error is not None:
            return self._by_policy(call, result.error)
        return _halting(result)

    def _by_policy(self, call: ToolCall, info: ErrorInfo) -> _Settled:
        """`on_tool_error`: answer the model, stop, or let the user's function decide, once."""
        policy = self.plan.on_tool_error
        info = replace(info, message=redacted(info.message, _MAX_SHOWN))
        message = error_message(call, info)
        if policy == "continue":
            return _Settled(message)
        stopped = _Settled(message, "tool_error", info.message)
        if isinstance(policy, str):
            return stopped
        try:
            decided = policy(call, info)
        except Exception as error:
            stopped.policy_error = redacted(f"{type(error).__name__}: {error}", _MAX_SHOWN)
            return stopped
        if decided is None or decided == "continue":
            return _Settled(message)
        if decided == "halt" or isinstance(decided, Halt):
            return stopped
        replaced = outcome(self.plan.tools[call.name], call, decided, self.encode)
        if replaced.error is None:
            return _halting(replaced)
        stopped.policy_error = redacted(replaced.error.message, _MAX_SHOWN)
        return stopped

    @property
    def messages(self) -> tuple[Message, ...]:
        """The answers so far, in call order."""
        return tuple([self.settled[position].message for position in sorted(self.settled)])

    def pending(self) -> dict[str, Any]:
        """Metadata of the step where calls wait for the caller."""
        if not self.waiting:
            return {}
        found: dict[str, Any] = {"halted_reason": "manual_tool_calls", "manual_tool_calls": self.waiting}
        return {**found, "approvals": self.approvals} if self.approvals else found

    def halting(self) -> dict[str, Any]:
        """Metadata of the step where a tool ended the loop: ask first, then error, then own words; of
        several the first in call order."""
        ends = [(self.calls[i], self.settled[i]) for i in sorted(self.settled) if self.settled[i].ends]
        if questions := [(call, settled.ask) for call, settled in ends if settled.ask is not None]:
            return _asking(questions)
        if not ends:
            return {}
        call, settled = min(ends, key=lambda end: end[1].halted_reason != "tool_error")
        found = {
            "halted_reason": settled.halted_reason,
            "halt_tool_call_id": call.id,
            "halt_result": settled.value,
        }
        if settled.policy_error is not None:
            found["on_tool_error_exception"] = settled.policy_error
        return found


def _asking(questions: list[tuple[ToolCall, AskUser]]) -> dict[str, Any]:
    """The first question is the pending one; `questions` has all where there are several."""

    def options(asked: AskUser) -> dict[str, Any]:
        return {"choices": list(asked.choices), **asked.options}

    call, first = questions[0]
    found: dict[str, Any] = {
        "halted_reason": "ask_user",
        "pending_question": first.question,
        "pending_tool_call_id": call.id,
        "ask_user_options": options(first),
    }
    if len(questions) > 1:
        found["questions"] = [
            {"call_id": call.id, "question": asked.question, "options": options(asked)}
            for call, asked in questions
        ]
    return found


def _halting(result: Outcome) -> _Settled:
    return _Settled(result.message, result.halt_reason, result.halt_value, result.ask)
