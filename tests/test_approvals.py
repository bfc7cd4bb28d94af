"""Approvals: which calls wait, what names them, what decisions do, and that they bind to what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm.approvals import Decided, ReadyCall, decide, told
from tests.faces import Face
from tests.test_loop import DONE, calls, double, fake

ran: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    yield
    ran.clear()


@allm.tool(requires_approval=True)
def pay(amount: int, to: str) -> str:
    """Pay somebody."""
    ran.append({"amount": amount, "to": to})
    return f"paid {amount}"


CALL = allm.ToolCall("a", "pay", {"amount": 5, "to": "Ann"})
TWICE = calls(("a", "pay", {"amount": 5, "to": "Ann"}), ("b", "pay", {"amount": 5, "to": "Ann"}))


# Which calls wait


def test_a_call_waits_and_is_named_by_its_digest(face: Face) -> None:
    script = calls(("a", "pay", {"amount": 5, "to": "Ann"}), ("b", "double", {"n": 1}))
    result = face.chat(fake(script, tools=[pay, double]), "go")
    assert ran == []
    assert result.halted_reason == "manual_tool_calls"
    assert [(m.tool_call_id, m.text) for m in result.steps[0].tool_results] == [("b", "2")]
    expected = {"a": allm.approval_digest(CALL)}
    assert result.metadata == {"manual_tool_calls": ["a"], "approvals": expected, "manual_turn_index": 0}
    assert result.steps[0].metadata["approvals"] == expected
    session, _ = face.session("start", fake(script, tools=[pay, double]), "go")
    assert [call.id for call in session.pending_tool_calls] == ["a"]


def ruled(rule: Callable[[allm.ToolCall], bool]) -> allm.Tool:
    """`pay` with a rule."""
    return allm.tool(requires_approval=rule)(pay.__wrapped__)


def test_a_rule_tells_which_calls_wait(face: Face) -> None:
    large = allm.tool(name="pay", requires_approval=lambda call: call.arguments["amount"] > 10)(
        pay.__wrapped__
    )
    script = calls(("a", "pay", {"amount": 5, "to": "Ann"}), ("b", "pay", {"amount": 50, "to": "Ann"}))
    result = face.chat(fake(script, tools=[large]), "go")
    assert list(result.metadata["approvals"]) == ["b"]
    assert ran == [{"amount": 5, "to": "Ann"}]


def test_a_rule_that_fails_lets_nothing_run(face: Face) -> None:
    broken = ruled(lambda call: call.arguments["sum"] > 10)
    engine = fake(calls(("a", "pay", {"amount": 5, "to": "Ann"})), DONE, tools=[broken])
    result = face.chat(engine, "go")
    assert ran == []
    assert result.steps[0].tool_results[0].text == """{"error":"KeyError: 'sum'"}"""


def test_nobody_is_asked_about_a_call_that_cannot_run(face: Face) -> None:
    result = face.chat(fake(calls(("a", "pay", {"amount": "many"})), DONE, tools=[pay]), "go")
    assert result.text == "Done"
    assert "expected integer" in result.steps[0].tool_results[0].text


def test_the_model_s_own_call_waits_before_any_hook(face: Face) -> None:
    class Doubled:
        def before_tool(self, call: allm.ToolCall, ctx: Any) -> allm.ToolCall:
            return replace(call, arguments={**call.arguments, "amount": 10})

    engine = fake(calls(("a", "pay", {"amount": 5, "to": "Ann"})), tools=[pay], middleware=[Doubled()])
    result = face.chat(engine, "go")
    assert result.metadata["approvals"] == {"a": allm.approval_digest(CALL)}


def test_a_waiting_call_gives_way_to_a_question(face: Face) -> None:
    ask = allm.Tool(name="ask", handler=lambda _: allm.AskUser("Which?"))
    script = calls(("a", "pay", {"amount": 5, "to": "Ann"}), ("b", "ask", {}))
    assert face.chat(fake(script, tools=[pay, ask]), "go").halted_reason == "ask_user"
    assert ran == []


def test_the_flag_survives_storing_and_rules_become_all() -> None:
    assert allm.Tool.from_spec(pay.spec).requires_approval is True
    assert allm.Tool.from_spec(ruled(lambda call: False).spec).requires_approval is True
    assert allm.Tool.from_spec(double.spec).requires_approval is False


async def rule(call: allm.ToolCall) -> bool:
    return True


@pytest.mark.parametrize("wrong", [{"requires_approval": 1}, {"requires_approval": rule}])
def test_wrong_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(allm.ValidationError, match="requires_approval"):
        allm.Tool(name="t", **wrong)


def test_a_manual_tool_cannot_wait_for_approval() -> None:
    with pytest.raises(allm.ValidationError, match="a_manual_tool_is_run_by_the_caller"):
        allm.Tool(name="t", manual=True, requires_approval=True)


# Digests


@pytest.mark.parametrize(
    "other",
    [
        replace(CALL, id="b"),
        replace(CALL, name="pay2"),
        replace(CALL, arguments={"amount": 6, "to": "Ann"}),
        replace(CALL, arguments={"amount": "5", "to": "Ann"}),
    ],
)
def test_a_digest_is_of_one_call_alone(other: allm.ToolCall) -> None:
    assert allm.approval_digest(other) != allm.approval_digest(CALL)


def test_a_digest_is_of_what_is_meant() -> None:
    turned = replace(CALL, arguments={"to": "Ann", "amount": 5}, raw_arguments="{}", provider_data={"x": 1})
    stored = allm.from_json(allm.to_json(CALL))
    assert allm.approval_digest(turned) == allm.approval_digest(stored) == allm.approval_digest(CALL)
    assert allm.approval_digest(CALL) == "34322ed632cf822b628be6e5fd0de66c50e75377420dd46090485846212c9e7a"


def test_decisions_are_data() -> None:
    digest = allm.approval_digest(CALL)
    assert allm.approve(CALL) == allm.approve(digest) == allm.Decision(digest=digest, approved=True)
    assert allm.deny(CALL, "no") == allm.Decision(digest=digest, approved=False, reason="no")
    edited = allm.approve(CALL, {"amount": 1})
    assert allm.from_json(allm.to_json(edited)) == allm.from_msgpack(allm.to_msgpack(edited)) == edited
    with pytest.raises(allm.ValidationError):
        allm.approve(CALL, {"amount": object()})
    with pytest.raises(AttributeError):
        allm.deny(CALL).approved = True  # type: ignore[misc]


# Decisions


def waiting(*script: Any, tools: Any = (pay, double)) -> tuple[allm.Thread, tuple[allm.ToolCall, ...]]:
    """Thread and pending calls of a session that waits."""
    session, _ = allm.sessions.start(fake(*(script or (TWICE,)), tools=tools), "go")
    assert session.status == "awaiting_tools"
    return session.thread, session.pending_tool_calls


def test_what_follows_from_decisions() -> None:
    thread, (first, second) = waiting()
    assert decide(thread, (first, second), [], [pay]) == Decided(waiting=(first, second))
    decided = decide(thread, (first, second), [allm.approve(second), allm.deny(first, "too much")], [pay])
    assert decided.run == (ReadyCall(1, second, second),)
    assert decided.waiting == ()
    (denied,) = decided.denied
    assert (denied.tool_call_id, denied.is_error) == ("a", True)
    assert denied.text == '{"error":"the user did not allow this call: too much"}'
    assert decide(thread, (first, second), [allm.approve(first)], [pay]).waiting == (second,)


def test_a_decision_is_for_one_of_two_equal_calls() -> None:
    thread, pending = waiting()
    decided = decide(thread, pending, [allm.approve(pending[0])], [pay])
    assert [ready.call.id for ready in decided.run] == ["a"]


def test_edited_arguments_run_instead() -> None:
    thread, (first, second) = waiting()
    edited = allm.approve(first, {"amount": 1, "to": "Bob"})
    (ready,) = decide(thread, (first, second), [edited], [pay]).run
    assert ready.asked == first
    assert (ready.call.id, ready.call.arguments) == ("a", {"amount": 1, "to": "Bob"})
    same = decide(thread, (first, second), [allm.approve(first, dict(first.arguments))], [pay]).run[0]
    assert same.call == first


def refused(work: Any) -> tuple[tuple[str, str], ...]:
    with pytest.raises(allm.ValidationError) as caught:
        work()
    return caught.value.errors


def test_a_digest_of_other_arguments_is_refused() -> None:
    thread, pending = waiting()
    other = allm.approve(replace(pending[0], arguments={"amount": 500, "to": "Ann"}))
    ((path, why),) = refused(lambda: decide(thread, pending, [allm.approve(pending[1]), other], [pay]))
    assert path == "decisions[1].digest"
    assert "may have changed" in why


def test_pending_calls_that_are_not_the_threads_are_refused() -> None:
    thread, (first, second) = waiting()
    forged = replace(first, arguments={"amount": 500, "to": "Eve"})
    found = refused(lambda: decide(thread, (forged, second), [allm.approve(forged)], [pay]))
    assert found == (("pending[0]", "not_a_call_of_the_thread_without_result: a"),)
    answered = thread.add_message(allm.tool_result("a", "done"))
    assert refused(lambda: decide(answered, (first,), [allm.approve(first)], [pay]))
    assert refused(lambda: decide(allm.Thread(), (first,), [], [pay]))


def test_every_problem_is_named() -> None:
    thread, (first, second) = waiting()
    person = allm.Tool(name="person", manual=True)
    decisions = [
        allm.approve(first, {"amount": "all", "to": "Eve", "x": 1}),
        allm.approve(second),
        allm.deny(second),
    ]
    paths = [path for path, _ in refused(lambda: decide(thread, (first, second), decisions, [pay]))]
    assert paths == ["decisions[0].arguments.amount", "decisions[0].arguments.x", "decisions[2].digest"]
    assert refused(lambda: decide(thread, (first,), [allm.approve(first)], [])) == (
        ("decisions[0]", "unknown_tool: pay"),
    )
    manual, pending = waiting(calls(("a", "person", {})), tools=[person])
    assert refused(lambda: decide(manual, pending, [allm.approve(pending[0])], [person])) == (
        ("decisions[0]", "a_manual_tool_is_run_by_the_caller: person"),
    )


@pytest.mark.parametrize("decisions", [5, None, "x", ["x"], [None], {"a": 1}, allm.approve("x")])
def test_decisions_of_another_shape(decisions: Any) -> None:
    session, engine = allm.Session(status="awaiting_tools"), fake(tools=[pay])
    with pytest.raises(allm.ValidationError, match="must_be_a_list_of_what"):
        allm.sessions.submit(engine, session, decisions=decisions)


def test_what_a_decision_is_made_of_is_checked() -> None:
    with pytest.raises(allm.ValidationError, match="arguments: must_be_a_dict: not list"):
        allm.approve("x", [1])  # type: ignore[arg-type]
    with pytest.raises(allm.ValidationError, match="reason: not_a_string: int"):
        allm.deny("x", 5)  # type: ignore[arg-type]


def test_tools_of_the_call_can_be_approved(face: Face) -> None:
    engine = fake(TWICE, DONE)
    session = face.session("start", engine, "hi", tools=[pay]).session
    decisions = [allm.approve(call) for call in session.pending_tool_calls]
    with pytest.raises(allm.ValidationError, match="unknown_tool: pay"):
        allm.sessions.submit(engine, session, decisions=decisions)
    session = allm.sessions.submit(engine, session, decisions=decisions, tools=[pay])
    assert face.session("resume", engine, session, tools=[pay]).result.text == "Done"
    assert len(ran) == 2


# What was approved


def test_an_approved_call_may_halt(face: Face) -> None:
    stop = allm.Tool(name="stop", handler=lambda _: allm.Halt("enough"), requires_approval=True)
    session, _ = face.session("start", fake(calls(("a", "stop", {})), tools=[stop]), "hi")
    engine = fake(DONE, tools=[stop])
    (call,) = session.pending_tool_calls
    session = allm.sessions.submit(engine, session, decisions=[allm.approve(call)])
    after, result = face.session("resume", engine, session)
    assert (after.status, result.halted_reason) == ("completed", "enough")


def test_what_ran_is_told_before_its_result() -> None:
    ready = ReadyCall(0, CALL, replace(CALL, arguments={"amount": 1, "to": "Bob"}))
    assert told(ready, allm.tool_result("a", "paid 1")).text == (
        'The user changed the arguments of this call; it ran with {"amount":1,"to":"Bob"}. Its result:\n'
        "paid 1"
    )


def test_what_ran_is_told_beside_parts() -> None:
    ready = ReadyCall(0, CALL, replace(CALL, arguments={"amount": 1, "to": "Bob"}))
    picture = allm.ImagePart(allm.Image(data=b"x", mime_type="image/png"))
    message = told(ready, allm.tool_result("a", [picture]))
    assert message.parts[1] == picture
    assert json.dumps(ready.call.arguments, separators=(",", ":")) in message.text
