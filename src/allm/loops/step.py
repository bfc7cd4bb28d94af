"""One round trip and the tools it asks for, as a sans-IO generator."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import iscoroutinefunction
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

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
from allm.data.freeform import json_value
from allm.data.messages import Message, Thread
from allm.data.responses import Response, StepResult
from allm.errors import AllmError
from allm.folds import RunFold
from allm.loops.effects import Loop, NextTool, StartTool, ToolDone, ask
from allm.loops.generate import generate
from allm.loops.plan import Plan, next_request
from allm.tools import (
    AskUser,
    Halt,
    Outcome,
    Tool,
    ToolContext,
    encode_result,
    error_message,
    failed,
    invocation,
    outcome,
    unknown_tool,
)

_UNSAFE = ("length", "content_filter", "paused", "error", "cancelled")


def step(plan: Plan, thread: Thread, fold: RunFold, run_id: str, index: int) -> Loop[StepResult]:
    """Ask the model once; in mode `auto` run the tools it asked for. Ends with `step_completed`."""
    place = f"{run_id}/{plan.revision + index}"
    response = yield from generate(plan, next_request(plan, thread), fold, f"{place}/model")
    calls = response.tool_calls if response.finish_reason not in _UNSAFE else ()
    if not calls:
        result = StepResult(response=response, done=True)
    elif plan.mode == "manual":
        result = StepResult(response=response, metadata={"mode": "manual"})
    else:
        result = yield from _with_tools(plan, response, calls, fold, place)
    base = thread if fold.layer == "step" else None
    event = StepCompleted(replace(result, base=base))
    fold.add(event)
    yield event
    return result


def _with_tools(
    plan: Plan, response: Response, calls: Sequence[ToolCall], fold: RunFold, place: str
) -> Loop[StepResult]:
    manual = [call for call in calls if (tool := plan.tools.get(call.name)) is not None and tool.manual]
    automatic = [call for call in calls if call not in manual]
    phase = _Phase(plan, automatic, fold, place)
    yield from phase.run()
    metadata = phase.halting()
    if manual and "halted_reason" not in metadata:
        metadata = {
            "halted_reason": "manual_tool_calls",
            "manual_tool_calls": [call.id for call in manual],
            **metadata,
        }
    return StepResult(
        response=response,
        tool_results=tuple([phase.messages[i] for i in range(len(automatic))]),
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


class _Phase:
    """The tools of one step: bounded parallel, results in call order, events as they finish."""

    def __init__(self, plan: Plan, calls: Sequence[ToolCall], fold: RunFold, place: str) -> None:
        self.plan = plan
        self.calls = calls
        self.fold = fold
        self.place = place
        encoder = plan.tool_result_encoder
        self.encode = encode_result if encoder is None else encoder.encode
        self.messages: dict[int, Message] = {}
        self.settled: dict[int, _Settled] = {}

    def run(self) -> Loop[None]:
        waiting = list(range(len(self.calls)))
        limit = self.plan.max_concurrency or len(waiting)
        running = 0
        while waiting or running:
            while waiting and running < limit:
                running += yield from self._start(waiting.pop(0))
            if running:
                done = yield from ask(NextTool())
                running -= 1
                yield from self._finish(done)

    def _start(self, position: int) -> Loop[int]:
        """Start one call; returns 1 where it runs, 0 where it was answered without running."""
        call = self.calls[position]
        tool = self.plan.tools.get(call.name)
        effect_id = f"{self.place}/tool/{position}"
        if tool is None:
            return (yield from self._unrunnable(position, unknown_tool(call, tuple(self.plan.tools))))
        if call.arguments_invalid:
            text = f"the arguments of {call.name!r} are not a JSON object; call it again with valid JSON"
            info = ErrorInfo(
                reason="tool_failed", code="invalid_arguments", message=text, call_id=call.id, phase="tool"
            )
            return (yield from self._unrunnable(position, info))
        started = ToolExecutionStarted(call)
        try:
            invoke = self._invocation(tool, call, effect_id)
        except AllmError as error:
            yield started
            yield from self._finish(ToolDone(position, None, error, 0.0))
            return 0
        self.fold.add(started)
        yield started
        timeout = tool.timeout if tool.timeout is not None else self.plan.tool_timeout
        is_async = self._is_async(tool)
        yield from ask(StartTool(effect_id, position, call, invoke, is_async, timeout, tool.isolation))
        return 1

    def _invocation(self, tool: Tool, call: ToolCall, effect_id: str) -> Any:
        plan = self.plan
        context = ToolContext(
            context=plan.context,
            session_id=plan.session_id,
            request_id=plan.request_id,
            run_id=self.place.partition("/")[0],
            call=call,
            engine=plan.engine,
            idempotency_key=effect_id,
        )
        if plan.tool_executor is not None:
            return lambda: plan.tool_executor.execute(tool, call, context)
        return invocation(tool, call, context)

    def _is_async(self, tool: Tool) -> bool:
        executor = self.plan.tool_executor
        return tool.is_async or (executor is not None and iscoroutinefunction(executor.execute))

    def _unrunnable(self, position: int, info: ErrorInfo) -> Loop[int]:
        """A call that cannot run is answered to the model, which can mend it."""
        yield from self._show(position, _Settled(error_message(self.calls[position], info)))
        return 0

    def _finish(self, done: ToolDone) -> Loop[None]:
        call = self.calls[done.position]
        tool = self.plan.tools[call.name]
        settled = self._settle(tool, call, done)
        yield ToolExecutionCompleted(call.id, call.name, settled.message.is_error, done.elapsed)
        yield from self._show(done.position, settled)

    def _show(self, position: int, settled: _Settled) -> Loop[None]:
        self.settled[position] = settled
        self.messages[position] = settled.message
        event = ToolResultEncoded(settled.message)
        self.fold.add(event)
        yield event
        call = self.calls[position]
        if settled.ask is not None:
            asked = AskUserRequested(call.id, settled.ask.question, tuple(settled.ask.choices))
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
        """`on_tool_error`: answer the model, stop, or let the user's function decide."""
        policy = self.plan.on_tool_error
        message = error_message(call, info)
        if policy == "continue":
            return _Settled(message)
        if policy == "halt":
            return _Settled(message, "tool_error", info.message)
        try:
            decided = policy(call, info)
        except Exception as error:
            return _Settled(
                message, "tool_error", info.message, policy_error=f"{type(error).__name__}: {error}"
            )
        if decided is None or decided == "continue":
            return _Settled(message)
        if decided == "halt" or isinstance(decided, Halt):
            return _Settled(message, "tool_error", info.message)
        replaced = outcome(self.plan.tools[call.name], call, decided, self.encode)
        return _halting(replaced) if replaced.error is None else _Settled(message, "tool_error", info.message)

    def halting(self) -> dict[str, Any]:
        """Metadata of the step where a tool ended the loop: ask first, then error, then own words."""
        ordered = [(self.calls[i], self.settled[i]) for i in sorted(self.settled)]
        for call, settled in ordered:
            if settled.ask is not None:
                return {
                    "halted_reason": "ask_user",
                    "pending_question": settled.ask.question,
                    "pending_tool_call_id": call.id,
                    "ask_user_options": {"choices": list(settled.ask.choices), **settled.ask.options},
                }
        for wanted in (True, False):
            for call, settled in ordered:
                reason = settled.halted_reason
                if reason is not None and (reason == "tool_error") is wanted:
                    found = {
                        "halted_reason": reason,
                        "halt_tool_call_id": call.id,
                        "halt_result": settled.value,
                    }
                    if settled.policy_error is not None:
                        found["on_tool_error_exception"] = settled.policy_error
                    return found
        return {}


def _halting(result: Outcome) -> _Settled:
    value = json_value(result.halt_value) if result.halt_reason is not None else None
    return _Settled(result.message, result.halt_reason, value, result.ask)
