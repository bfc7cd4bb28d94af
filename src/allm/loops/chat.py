"""The multi-turn loop: ask the model, run its tools, and again, until something ends it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from allm.data.events import ChatCompleted
from allm.data.messages import Thread
from allm.data.responses import ChatResult, StepResult
from allm.folds import RunFold
from allm.loops.effects import Loop, NewId, ask
from allm.loops.exchange import guarded
from allm.loops.generate import generate
from allm.loops.plan import Plan, next_request
from allm.loops.step import step


def chat_run(plan: Plan, fold: RunFold) -> Loop[None]:
    """A chat as a whole run: its events, its failures, one terminal event."""
    return guarded(_chat(plan, fold), fold)


def step_run(plan: Plan, fold: RunFold) -> Loop[None]:
    return guarded(_one_step(plan, fold), fold)


def generate_run(plan: Plan, fold: RunFold) -> Loop[None]:
    return guarded(_one_turn(plan, fold), fold)


RUNS = {"response": generate_run, "step": step_run, "chat": chat_run}


def _run_id(plan: Plan) -> Loop[str]:
    return plan.session_id or (yield from ask(NewId()))


def _one_turn(plan: Plan, fold: RunFold) -> Loop[None]:
    run_id = yield from _run_id(plan)
    yield from generate(plan, next_request(plan, plan.base), fold, f"{run_id}/{plan.revision}/model")


def _one_step(plan: Plan, fold: RunFold) -> Loop[None]:
    run_id = yield from _run_id(plan)
    yield from step(plan, plan.base, fold, run_id, 0)


def _chat(plan: Plan, fold: RunFold) -> Loop[None]:
    run_id = yield from _run_id(plan)
    thread, index = plan.base, 0
    while True:
        result = yield from step(plan, thread, fold, run_id, index)
        halted = _halted(plan, thread, result, index)
        if halted is not None:
            break
        thread, index = thread.add_messages(result.messages), index + 1
    event = ChatCompleted(_chat_result(plan, fold, result, *halted))
    fold.add(event)
    yield event


def _halted(plan: Plan, thread: Thread, result: StepResult, index: int) -> tuple[str, dict[str, Any]] | None:
    """Why the loop ends here, with its metadata, or `None`: the conditions in their order."""
    found = result.metadata
    if "halted_reason" in found:  # a tool asked, failed, halted, or is manual
        metadata = {name: value for name, value in found.items() if name != "halted_reason"}
        if found["halted_reason"] == "manual_tool_calls":
            metadata["manual_turn_index"] = index
        return found["halted_reason"], metadata
    if found.get("mode") == "manual":
        return "manual_tool_calls", {"mode": "manual", "manual_turn_index": index}
    if result.done:
        return "completed", {}
    if plan.halt_when is not None and plan.halt_when(replace(result, base=thread)):
        return "halt_when", {"halt_when_step_index": index}
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
