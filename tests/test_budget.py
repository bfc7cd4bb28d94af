"""Budgets of tokens, money and time: soft events, hard halts, and what can be resumed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import allm
from allm import sessions
from allm.data.events import Event
from allm.drivers.pace import Pace
from allm.loops.chat import chat_run
from allm.loops.effects import Elapsed, NewId, NextTool, StartTool, ToolDone
from allm.loops.plan import make_plan
from tests.faces import PATIENCE, Face, Seen
from tests.test_loop import DONE, HELLO, Script, calls, double, fake, named, requests

CALL = ("d", "double", {"n": 1})


def turn(usage: dict[str, Any], id: str = "d") -> Script:
    return [*calls((id, "double", {"n": 1})), {"usage": usage}]


def soft(seen: Seen) -> list[Any]:
    return [event.data for event in seen.events if isinstance(event, allm.RawChunk)]


def test_a_soft_limit_tells_once(face: Face) -> None:
    used = {"input_tokens": 30, "output_tokens": 10}
    engine = fake(turn(used, "a"), turn(used, "b"), DONE, tools=[double])
    seen = face.events(engine, "go", budget=allm.Budget(tokens=100, soft=0.75), include_raw_chunks=True)
    assert soft(seen) == [{"type": "budget", "kind": "tokens", "spent": 80, "limit": 100}]
    assert seen.kinds.index("raw_chunk") < seen.kinds.index("message_completed", 10)
    assert seen.result.halted_reason == "completed"


def test_without_raw_chunks_on_event_still_sees_it(face: Face) -> None:
    told: list[Event] = []
    engine = fake(turn({"output_tokens": 9}), DONE, tools=[double])
    face.chat(engine, "go", budget=allm.Budget(tokens=10), on_event=told.append)
    assert [e.data["spent"] for e in told if isinstance(e, allm.RawChunk)] == [9]


@pytest.mark.parametrize(
    ("budget", "used", "found"),
    [
        (allm.Budget(tokens=100), {"input_tokens": 60, "output_tokens": 50}, ("tokens", 110, 100)),
        (allm.Budget(tokens=100), {"total_tokens": 100}, ("tokens", 100, 100)),
        (allm.Budget(cost=0.5), {"total_cost": 0.75}, ("cost", 0.75, 0.5)),
        (allm.Budget(cost=0.5), {"input_cost": 0.25, "output_cost": 0.25}, ("cost", 0.5, 0.5)),
    ],
)
def test_a_hard_limit_halts_before_the_next_turn(
    face: Face, budget: allm.Budget, used: dict[str, Any], found: tuple[str, float, float]
) -> None:
    engine = fake(turn(used), DONE, tools=[double])
    result = face.chat(engine, "go", budget=budget)
    kind, spent, limit = found
    assert result.halted_reason == "budget"
    assert result.metadata == {"budget": {"kind": kind, "spent": spent, "limit": limit}}
    assert [message.role for message in result.thread.messages] == ["user", "assistant", "tool"]
    assert len(requests(engine)) == 1
    assert face.chat(engine, result.thread).text == "Done"


def test_an_answer_that_came_whole_is_kept_whatever_it_cost(face: Face) -> None:
    result = face.chat(
        fake([{"text": "Hi"}, {"usage": {"total_tokens": 500}}]), "go", budget=allm.Budget(tokens=9)
    )
    assert (result.halted_reason, result.text) == ("completed", "Hi")


def test_an_answer_is_cut_where_it_crosses_the_bound(face: Face) -> None:
    """A provider that never ends: four characters count for a token while nothing is reported."""
    endless: Script = [{"text": ["abcd"] * 1000}]
    seen = face.events(fake(endless), "go", budget=allm.Budget(tokens=5))
    assert seen.kinds == ["message_started", *["text_delta"] * 5, "chat_completed"]
    result = seen.result
    assert (result.halted_reason, result.text) == ("budget", "abcd" * 5)
    assert result.final_response.finish_reason == "cancelled"
    assert result.thread.messages == (allm.user("go"),)
    assert allm.fold(seen.events) == result


def test_a_prompt_over_the_budget_is_cut_before_content(face: Face) -> None:
    engine = fake([{"usage": {"input_tokens": 90}}, {"text": "Hi"}])
    seen = face.events(engine, "go", budget=allm.Budget(tokens=80))
    assert seen.kinds == ["chat_completed"]
    assert seen.result.steps == ()


@pytest.mark.parametrize("verb", ["stream_generate", "stream_step"])
def test_verbs_without_a_halt_raise(face: Face, verb: str) -> None:
    seen = face.events(fake([{"text": ["abcd"] * 9}]), "go", verb=verb, budget=allm.Budget(tokens=2))
    assert seen.kinds[-1] == "error"
    assert isinstance(seen.error, allm.LimitExceededError)
    assert seen.error.info.code == "budget"
    assert seen.error.partial.text == "abcdabcd"


def test_a_cost_that_nobody_reports_is_warned_of(face: Face) -> None:
    response = face.generate(fake(HELLO), "go", budget=allm.Budget(cost=1))
    assert any("Budget.cost" in line for line in response.warnings)
    assert not face.generate(fake(HELLO), "go", budget=allm.Budget(tokens=100)).warnings


def test_pauses_and_retries_are_counted_once(face: Face) -> None:
    engine = fake(
        [{"usage": {"output_tokens": 50}}, {"error": "overloaded"}], turn({"output_tokens": 50}), DONE,
        tools=[double], retry=allm.RetryPolicy(base_delay=0),
    )  # fmt: skip
    assert face.chat(engine, "go", budget=allm.Budget(tokens=100)).halted_reason == "completed"


def test_time_ends_the_wait_for_a_tool(face: Face) -> None:
    release = threading.Event()

    def slow(arguments: dict[str, Any]) -> str:
        release.wait(PATIENCE)
        return "late"

    engine = fake(calls(CALL, ("s", "slow", {})), DONE, tools=[double, named("slow", slow, timeout=None)])
    try:
        result = face.chat(engine, "go", budget=allm.Budget(seconds=0.05), tool_timeout=None)
    finally:
        release.set()
    assert result.halted_reason == "budget"
    assert result.metadata["budget"]["kind"] == "seconds"
    assert len(requests(engine)) <= 1
    asked = [call.id for message in result.thread.messages for call in message.tool_calls]
    assert [message.tool_call_id for message in result.thread.messages if message.role == "tool"] == asked


def test_a_chat_that_is_halted_in_its_tools_holds_whole_turns(face: Face) -> None:
    fold = allm.ChatFold(allm.Thread().add_user("go"))
    engine = fake(calls(CALL, ("s", "slow", {})), tools=[double, named("slow", lambda _: "late")])
    for event in face.events(engine, "go", max_turns=1, max_concurrency=1).events:
        fold.add(event)
        if isinstance(event, allm.ToolResultEncoded):
            break
    result = fold.stopped("budget", {})
    assert [message.role for message in result.thread.messages] == ["user", "assistant", "tool", "tool"]
    assert "was not run" in result.thread.messages[-1].text


def by_hand(engine: allm.Engine, clock: list[float], **options: Any) -> allm.ChatResult:
    """A chat whose driver is this loop; `clock` is what it answers to `Elapsed`, the last one for good."""
    plan, _ = make_plan(engine, "go", options)
    fold = allm.ChatFold(plan.base)
    run = chat_run(plan, fold)
    item, started = next(run), []
    while fold.chat is None:
        reply: Any = None
        if isinstance(item, Elapsed):
            reply = clock.pop(0) if len(clock) > 1 else clock[0]
        elif isinstance(item, NewId):
            reply = "run"
        elif isinstance(item, StartTool):
            started.append(item)
        elif isinstance(item, NextTool):
            effect = started.pop(0)
            reply = ToolDone(effect.position, effect.invoke(), None, 0.0)
        item = run.send(reply)
    return fold.chat


def test_time_cuts_an_answer() -> None:
    result = by_hand(fake([{"text": ["Hal", "lo"]}]), [0.0, 5.0], budget=allm.Budget(seconds=5))
    assert (result.halted_reason, result.text) == ("budget", "Hal")
    assert result.metadata["budget"] == {"kind": "seconds", "spent": 5.0, "limit": 5}


def test_time_is_asked_before_a_further_turn() -> None:
    engine = fake(calls(CALL), DONE, tools=[double])
    clock = [0.0] * 4 + [9.0]  # the call's three events and its completion come in time, its tool does not
    result = by_hand(engine, clock, budget=allm.Budget(seconds=5))
    assert (result.halted_reason, len(result.steps)) == ("budget", 1)
    assert result.steps[0].tool_results[0].text == "2"


def test_time_is_counted_between_turns(face: Face) -> None:
    engine = fake(calls(CALL), DONE, tools=[double])
    seen = face.events(engine, "go", budget=allm.Budget(seconds=PATIENCE, soft=1e-9), include_raw_chunks=True)
    assert [data["kind"] for data in soft(seen)] == ["seconds"]
    assert seen.result.halted_reason == "completed"


def test_a_request_that_is_opened_late_in_a_run_has_no_longer_than_the_run() -> None:
    pace = Pace(allm.Timeouts(run=5))
    assert (pace.opening(allm.Timeouts()).request or 0) <= 5
    assert pace.opening(allm.Timeouts(request=2)).request == 2
    assert Pace(allm.Timeouts()).opening(allm.Timeouts(request=None)).request is None


def test_the_deadline_of_timeouts_stays_a_failure(face: Face) -> None:
    engine = fake([{"delay": PATIENCE}, {"text": "late"}], retry=False)
    options: dict[str, Any] = {"timeouts": allm.Timeouts(run=0.01), "budget": allm.Budget(seconds=60)}
    assert isinstance(face.events(engine, "go", **options).error, allm.DeadlineExceededError)


def test_a_session_goes_on_with_a_new_budget() -> None:
    engine = fake(turn({"output_tokens": 9}), DONE, tools=[double])
    halted = sessions.start(engine, "go", budget=allm.Budget(tokens=5))
    assert isinstance(halted.result, allm.ChatResult)
    assert halted.result.halted_reason == "budget"
    assert halted.session.status == "completed"
    resumed = sessions.resume(engine, halted.session)
    assert resumed.result.text == "Done"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tokens": 0},
        {"tokens": True},
        {"cost": -1.0},
        {"seconds": float("nan")},
        {"tokens": 5, "soft": 2},
    ],
)
def test_a_budget_is_checked_when_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(allm.ValidationError, match="budget"):
        allm.Budget(**fields)


def test_a_budget_is_a_budget() -> None:
    with pytest.raises(allm.ValidationError, match="budget: must_be_a_Budget_or_None: not int 100"):
        allm.chat(fake(), "go", budget=100)  # type: ignore[arg-type]
