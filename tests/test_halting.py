"""What ends a chat: the conditions of the loop, each against its neighbour, with their metadata."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

import allm
from tests.faces import Face
from tests.test_loop import DONE, Script, calls, double, failing, fake, named, requests

ASK = named("ask", lambda _: allm.AskUser("Which?", ["x"]))
FAIL = named("fail", failing)
STOP = named("stop", lambda _: allm.Halt("enough", 7))
MANUAL = allm.Tool(name="person", schema={"type": "object"}, manual=True)
TOOLS = [ASK, FAIL, STOP, MANUAL, double]
DOUBLE = ("d", "double", {"n": 1})


def always(step: allm.StepResult) -> bool:
    return True


# Both of a pair hold in the first step; the first is what the run ends with.
NEIGHBOURS: list[tuple[str, Script, dict[str, Any], dict[str, Any]]] = [
    (
        "ask_user",
        calls(("f", "fail", {}), ("a", "ask", {})),
        {"on_tool_error": "halt"},
        {
            "pending_question": "Which?",
            "pending_tool_call_id": "a",
            "ask_user_options": {"choices": ["x"]},
        },
    ),
    (
        "tool_error",
        calls(("s", "stop", {}), ("f", "fail", {})),
        {"on_tool_error": "halt"},
        {"halt_tool_call_id": "f", "halt_result": "ValueError: broken"},
    ),
    (
        "enough",
        calls(("p", "person", {}), ("s", "stop", {})),
        {},
        {"halt_tool_call_id": "s", "halt_result": 7, "manual_tool_calls": ["p"]},
    ),
    (
        "manual_tool_calls",
        calls(("p", "person", {}), DOUBLE),
        {"halt_when": always},
        {"manual_tool_calls": ["p"], "manual_turn_index": 0},
    ),
    (
        "manual_tool_calls",
        calls(DOUBLE),
        {"mode": "manual", "halt_when": always},
        {"mode": "manual", "manual_turn_index": 0},
    ),
    ("completed", [{"text": "Done"}], {"halt_when": always, "max_turns": 1}, {}),
    (
        "halt_when",
        [*calls(DOUBLE), {"usage": {"output_tokens": 9}}],
        {"halt_when": always, "budget": allm.Budget(tokens=9), "max_turns": 1},
        {"halt_when_step_index": 0},
    ),
    (
        "budget",
        [*calls(DOUBLE), {"usage": {"output_tokens": 9}}],
        {"budget": allm.Budget(tokens=9), "max_turns": 1},
        {"budget": {"kind": "tokens", "spent": 9, "limit": 9}},
    ),
    ("max_turns", calls(DOUBLE), {"max_turns": 1}, {"max_turns": 1}),
]


@pytest.mark.parametrize(
    ("reason", "script", "options", "metadata"),
    NEIGHBOURS,
    ids=[f"{i}-{row[0]}" for i, row in enumerate(NEIGHBOURS)],
)
def test_the_first_condition_that_holds_ends_the_chat(
    face: Face, reason: str, script: Script, options: dict[str, Any], metadata: dict[str, Any]
) -> None:
    engine = fake(script, DONE, tools=TOOLS)
    seen = face.events(engine, "go", **options)
    assert (seen.result.halted_reason, seen.result.metadata) == (reason, metadata)
    assert seen.kinds.count("chat_completed") == 1
    assert seen.kinds[-1] == "chat_completed"
    assert len(requests(engine)) == 1


def test_otherwise_the_model_is_asked_again(face: Face) -> None:
    result = face.chat(fake(calls(DOUBLE), DONE, tools=TOOLS), "go", halt_when=lambda step: False)
    assert (result.halted_reason, len(result.steps)) == ("completed", 2)


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter", "other", "paused", "tool_calls"])
def test_an_answer_without_calls_completes_whatever_the_finish_says(face: Face, finish: str) -> None:
    """Also `other`, and `tool_calls` where there are none: the same thread would get the same answer."""
    engine = fake([{"text": "Hm"}, {"finish": finish}], DONE, tools=TOOLS)
    result = face.chat(engine, "go")
    assert (result.halted_reason, result.text) == ("completed", "Hm")
    assert result.final_response is not None
    assert result.final_response.finish_reason == finish
    assert len(requests(engine)) == 1


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "other"])
def test_tools_run_after_a_safe_finish(face: Face, finish: str) -> None:
    engine = fake([*calls(DOUBLE), {"finish": finish}], DONE, tools=TOOLS)
    assert face.chat(engine, "go").steps[0].tool_results[0].text == "2"


@pytest.mark.parametrize("finish", ["length", "content_filter", "paused", "cancelled"])
def test_no_tool_runs_after_an_unsafe_finish(face: Face, finish: str) -> None:
    engine = fake([*calls(DOUBLE), {"finish": finish}], DONE, tools=TOOLS)
    seen = face.events(engine, "go")
    assert "tool_execution_started" not in seen.kinds
    assert seen.result.halted_reason == (finish if finish in ("cancelled", "error") else "completed")


class Failing:
    """An in-process adapter that says in its response that it failed."""

    name = "failing"

    def __init__(self, error: allm.ErrorInfo) -> None:
        self.error = error

    def complete(self, request: Any, ctx: Any) -> allm.Response:
        return allm.Response(message=allm.assistant("Hal"), finish_reason="error", error=self.error)


def test_an_answer_that_failed_is_a_failure(face: Face) -> None:
    adapter = Failing(allm.ErrorInfo(reason="overloaded"))
    seen = face.events(allm.Engine(adapter=adapter), "go", retry=False)
    assert seen.kinds[-1] == "error"
    assert isinstance(seen.error, allm.OverloadedError)
    assert (seen.error.partial.halted_reason, seen.error.partial.text) == ("error", "Hal")


def test_halt_when_must_be_a_function() -> None:
    with pytest.raises(allm.ValidationError, match="halt_when"):
        allm.stream(fake(), "go", halt_when=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, "3", True, 1.5])
def test_max_turns_must_be_a_positive_integer(value: Any) -> None:
    with pytest.raises(allm.ValidationError, match="max_turns"):
        allm.stream(fake(), "go", max_turns=value)


@pytest.mark.parametrize(("options", "turns"), [({}, 8), ({"max_turns": 3}, 3)])
def test_turns_are_bounded(face: Face, options: dict[str, Any], turns: int) -> None:
    engine = fake(*[calls((f"c{i}", "double", {"n": i})) for i in range(9)], tools=TOOLS)
    result = face.chat(engine, "go", **options)
    assert (result.halted_reason, result.metadata) == ("max_turns", {"max_turns": turns})
    assert len(requests(engine)) == len(result.steps) == turns


def test_a_policy_function_that_fails_is_in_the_metadata(face: Face) -> None:
    def policy(call: allm.ToolCall, error: allm.ErrorInfo) -> Any:
        raise KeyError("mine")

    result = face.chat(fake(calls(("f", "fail", {})), tools=TOOLS), "go", on_tool_error=policy)
    assert result.halted_reason == "tool_error"
    assert result.metadata["on_tool_error_exception"] == "KeyError: 'mine'"
    assert result.metadata["halt_tool_call_id"] == "f"


def test_a_failure_of_a_later_turn_keeps_the_thread(face: Face) -> None:
    engine = fake(calls(DOUBLE), [{"error": "invalid_request"}], tools=TOOLS)
    result = face.chat(engine, "go", raise_on_error=False)
    assert result.halted_reason == "error"
    assert result.error is not None
    assert [message.role for message in result.thread.messages] == ["user", "assistant", "tool"]


def test_a_question_does_not_hide_what_waits_beside_it(face: Face) -> None:
    send = named("send", lambda _: "sent", requires_approval=True)
    engine = fake(calls(("a", "ask", {}), ("p", "person", {}), ("s", "send", {})), tools=[*TOOLS, send])
    result = face.chat(engine, "go")
    assert (result.halted_reason, result.pending_question) == ("ask_user", "Which?")
    assert result.metadata["manual_tool_calls"] == ["p", "s"]
    assert list(result.metadata["approvals"]) == ["s"]
    assert [call.id for call in result.pending_tool_calls] == ["p", "s"]


TALK: Script = [{"text": "Thinking."}]
HAND_IN: Script = calls(("h", "hand_in", {}))


@allm.tool
def hand_in() -> str:
    """Hand in the work."""
    return "taken"


def test_until_tool_asks_on_until_the_tool_was_called(face: Face) -> None:
    engine = fake(TALK, calls(("c", "double", {"n": 1})), TALK, HAND_IN, DONE, tools=[*TOOLS, hand_in])
    seen = face.events(engine, "go", until_tool="hand_in")
    assert (seen.result.halted_reason, seen.result.text) == ("completed", "Done")
    told = [[message.text for message in step.asked] for step in seen.result.steps]
    word = "Go on. When all is done, call the tool hand_in."
    assert told == [[], [word], [], [word], []]
    said = [message.role for message in seen.result.thread.messages]
    assert said == ["user", "assistant"] + ["user", "assistant", "tool", "assistant"] * 2
    assert requests(engine)[-1].messages == seen.result.thread.messages[:-1]
    assert allm.fold(seen.events, seen.result.base) == seen.result


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_turns": 2}, "max_turns"), ({"halt_when": lambda step: step.response.text != ""}, "halt_when")],
)
def test_until_tool_is_bounded_as_every_loop(face: Face, options: dict[str, Any], reason: str) -> None:
    engine = fake(*[TALK] * 3, tools=[hand_in])
    assert face.chat(engine, "go", until_tool="hand_in", **options).halted_reason == reason
    assert len(requests(engine)) == (2 if reason == "max_turns" else 1)


def test_a_call_that_was_refused_for_its_arguments_is_none(face: Face) -> None:
    wrong = calls(("d", "double", {"n": "two"}))
    engine = fake(wrong, TALK, calls(("e", "double", {"n": 2})), DONE, tools=[double])
    assert face.chat(engine, "go", until_tool="double").text == "Done"
    assert len(requests(engine)) == 4


@pytest.mark.parametrize("finish", ["content_filter", "error", "cancelled"])
def test_until_tool_does_not_ask_on_after_what_was_ended(face: Face, finish: str) -> None:
    engine = fake([{"text": "I"}, {"finish": finish}], tools=[hand_in])
    with suppress(allm.AllmError):
        face.chat(engine, "go", until_tool="hand_in")
    assert len(requests(engine)) == 1


def test_until_tool_waits_for_those_who_wait(face: Face) -> None:
    engine = fake(calls(("c", "double", {"n": 1})), tools=[*TOOLS, hand_in])
    assert face.chat(engine, "go", until_tool="hand_in", mode="manual").halted_reason == "manual_tool_calls"


def test_until_tool_names_a_tool_of_the_call() -> None:
    with pytest.raises(allm.ValidationError, match="until_tool: unknown_tool: 'hand_out'"):
        allm.stream(fake(tools=[hand_in]), "go", until_tool="hand_out")
