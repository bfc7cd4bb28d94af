"""The multi-turn loop: ask the model, run its tools, and again, until something ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import ToolCall
from allm.data.events import ChatCompleted, Event, StreamFailed
from allm.data.failure import ErrorInfo
from allm.data.messages import Message, Thread
from allm.data.responses import ChatResult, StepResult
from allm.errors import AllmError
from allm.folds import RunFold
from allm.loops.effects import Loop, NewId
from allm.loops.exchange import failed
from allm.loops.generate import generate
from allm.loops.plan import Plan, next_request
from allm.loops.step import step

if TYPE_CHECKING:
    from allm.tools import Tool

UNTIL_TOOL, RETRY, FINALIZE = "until_tool", "output_retry", "structured_finalize"
_OWN: Final = frozenset({UNTIL_TOOL, RETRY, FINALIZE})  # in the metadata of what the loop itself says
_GO_ON: Final = "Go on. When all is done, call the tool {}."


def chat_run(plan: Plan, fold: RunFold) -> Loop[None]:
    """A chat as a whole run: its events, its failures, one terminal event."""
    plan = _metered(plan)
    last: Event
    try:
        run_id = yield from _run_id(plan)
        if plan.output is None:
            ended = yield from turns(plan, fold, run_id, plan.base, 0)
        else:
            from allm.loops.structured import answered

            ended = yield from answered(plan, fold, run_id)
        last = ChatCompleted(_chat_result(plan, fold, ended.result, ended.reason, ended.metadata))
    except AllmError as error:
        info = yield from _cause(plan, error)
        halted = _halt_of(info)
        last = StreamFailed(info) if halted is None else ChatCompleted(fold.stopped(*halted))
    fold.add(last)
    yield last


def step_run(plan: Plan, fold: RunFold) -> Loop[None]:
    """One step as a whole run. It cannot halt: a budget that is spent is its failure."""
    plan = _metered(plan)
    try:
        run_id = yield from _run_id(plan)
        yield from step(plan, plan.base, fold, run_id, 0)
    except AllmError as error:
        yield from failed(fold, (yield from _cause(plan, error)))


def generate_run(plan: Plan, fold: RunFold) -> Loop[None]:
    """One model turn as a whole run, which cannot halt either."""
    plan = _metered(plan)
    try:
        run_id = yield from _run_id(plan)
        request = next_request(plan, plan.base)
        yield from generate(plan, request, fold, f"{run_id}/{plan.revision}/model")
    except AllmError as error:
        yield from failed(fold, (yield from _cause(plan, error)))


RUNS = {"response": generate_run, "step": step_run, "chat": chat_run}


def _metered(plan: Plan) -> Plan:
    """The plan with an account, where there is a budget to hold it against."""
    if plan.budget is None:
        return plan
    from allm.loops.budget import Meter

    return replace(plan, meter=Meter(plan.budget))


def _cause(plan: Plan, error: AllmError) -> Loop[ErrorInfo]:
    return error.info if plan.meter is None else (yield from plan.meter.cause(error.info))


def _run_id(plan: Plan) -> Loop[str]:
    return plan.session_id or (yield NewId())


class Ended(Struct, frozen=True):
    """Turns that have come to their end: the last result, why, the thread after it, the next step's index."""

    result: StepResult
    reason: str
    metadata: dict[str, Any]
    thread: Thread
    index: int


def turns(
    plan: Plan, fold: RunFold, run_id: str, thread: Thread, index: int, asked: tuple[Message, ...] = ()
) -> Loop[Ended]:
    """Steps until something ends them. `asked`: what the loop itself says before the first of them; what the
    user has said since a cut is said before the second."""
    before = plan.progress.turns if plan.progress is not None else 0
    while True:
        result = yield from step(plan, thread, fold, run_id, index, asked)
        after = thread.add_messages(result.messages)
        asked = _said_since(plan, index) or _nudge(plan, result, after)
        goes_on = bool(asked) or not result.done
        halted = yield from _halted(plan, thread, result, before + index, goes_on)
        thread, index = after, index + 1
        if halted is not None:
            return Ended(result, *halted, thread, index)


def _said_since(plan: Plan, index: int) -> tuple[Message, ...]:
    """What the user has said since the step was cut that this run has begun with."""
    begun = plan.progress
    return begun.then if begun is not None and index == 0 and begun.response is not None else ()


def _nudge(plan: Plan, last: StepResult, thread: Thread) -> tuple[Message, ...]:
    """What a model is told that has ended without the call which `until_tool` waits for; what was refused is
    ended."""
    if plan.until_tool is None or not last.done or last.response.refusal:
        return ()
    if last.response.finish_reason not in ("stop", "length", "other", None):
        return ()
    tool = plan.tools[plan.until_tool]
    if any(_fits(tool, call) for message in of_turn(thread) for call in message.tool_calls):
        return ()
    return (Message("user", _GO_ON.format(tool.name), metadata={UNTIL_TOOL: tool.name}),)


def _fits(tool: Tool, call: ToolCall) -> bool:
    """Whether it is a call of the tool, and one that was not refused for its arguments."""
    if call.name != tool.name:
        return False
    try:
        tool.bind_arguments(call)
    except Exception:  # the code of argument types is the user's
        return False
    return True


def of_turn(thread: Thread) -> tuple[Message, ...]:
    """What came after the last message of the user's; what the loop itself has said is none of them. So a
    run that goes on sees what the ones before it had done."""
    messages = thread.messages
    for at in range(len(messages) - 1, -1, -1):
        if messages[at].role == "user" and _OWN.isdisjoint(messages[at].metadata):
            return messages[at:]
    return messages


def _halt_of(info: ErrorInfo) -> tuple[str, dict[str, Any]] | None:
    """What a spent budget or a refusing hook halts a chat with; `None` for failures."""
    if info.reason == "limit_exceeded" and info.code == "budget":
        return "budget", info.extra
    if info.reason == "permission_denied" and info.code == "refused":
        return "refused", {"refuse_reason": info.message, **info.extra}
    return None


def _halted(
    plan: Plan, thread: Thread, result: StepResult, index: int, goes_on: bool
) -> Loop[tuple[str, dict[str, Any]] | None]:
    """Why the loop ends here, with its metadata, or `None`. The first of these that holds:

    `ask_user`, `tool_error`, a tool's own word, manual tools (`_with_tools` has put these four in order);
    mode `manual`; an answer after which nothing `goes_on`: one without calls, whatever its finish reason
    says (`completed`; `cancelled` and `error` where the provider ended it so); `halt_when`; the budget;
    `max_turns`.
    """
    found = result.metadata
    if "halted_reason" in found:
        metadata = {name: value for name, value in found.items() if name != "halted_reason"}
        if found["halted_reason"] == "manual_tool_calls":
            metadata["manual_turn_index"] = index
        return found["halted_reason"], metadata
    if found.get("mode") == "manual":
        return "manual_tool_calls", {"mode": "manual", "manual_turn_index": index}
    if not goes_on:
        finish = result.response.finish_reason
        return finish if finish in ("cancelled", "error") else "completed", {}
    if plan.halt_when is not None and plan.halt_when(replace(result, base=thread)):
        return "halt_when", {"halt_when_step_index": index}
    if plan.meter is not None and (info := (yield from plan.meter.between())) is not None:
        return _halt_of(info)
    if index + 1 >= plan.max_turns:
        return "max_turns", {"max_turns": plan.max_turns}
    return None


def _chat_result(
    plan: Plan, fold: RunFold, last: StepResult, reason: str, metadata: dict[str, Any]
) -> ChatResult:
    return ChatResult(
        base=plan.base,
        steps=tuple(fold.steps),
        halted_reason=reason,
        pending_question=last.metadata.get("pending_question"),
        pending_tool_call_id=last.metadata.get("pending_tool_call_id"),
        metadata=metadata,
    )
