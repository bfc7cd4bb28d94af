"""Rows E of the parity table: steps, the chat loop, tools."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import allm
from tests.faces import PATIENCE
from tests.test_loop import DONE, HELLO, Script, calls, double, fake, named, requests

PERSON = allm.Tool(name="person", manual=True)


def asks(arguments: dict[str, Any]) -> allm.AskUser:
    return allm.AskUser("Which?")


def halts(arguments: dict[str, Any]) -> allm.Halt:
    return allm.Halt("enough")


def fails(arguments: dict[str, Any]) -> None:
    raise ValueError("broken")


def test_f084_a_step_asks_once_and_runs_the_tools() -> None:
    engine = fake(calls(("a", "double", {"n": 2})), DONE, tools=[double])
    result = allm.step(engine, "go")
    assert len(requests(engine)) == 1
    assert (result.done, [message.text for message in result.tool_results]) == (False, ["4"])


def test_f090_eight_turns_unless_said() -> None:
    turns: list[Script] = [calls((str(i), "double", {"n": i})) for i in range(20)]
    assert len(allm.chat(fake(*turns, tools=[double]), "go").steps) == 8
    assert len(allm.chat(fake(*turns, tools=[double]), "go", max_turns=3).steps) == 3
    assert len(allm.chat(fake(*turns, tools=[double], params={"max_turns": 2}), "go").steps) == 2


@pytest.mark.parametrize("wrong", [0, -1, "3", 2.0, True, None])
def test_f091_a_wrong_bound_of_turns_raises(wrong: Any) -> None:
    with pytest.raises(allm.ValidationError, match="max_turns"):
        allm.chat(fake(DONE), "go", max_turns=wrong)


# What holds beside what, in the order in which the conditions are asked; each script has both of a pair.
TOOLS = {"ask": asks, "fail": fails, "halt": halts}
PAIRS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("ask_user", ["fail", "ask"], {"on_tool_error": "halt"}),
    ("tool_error", ["halt", "fail"], {"on_tool_error": "halt"}),
    ("enough", ["person", "halt"], {}),
    ("ask_user", ["person", "ask"], {}),
    ("manual_tool_calls", ["person", "double"], {"halt_when": lambda step: True, "max_turns": 1}),
    ("manual_tool_calls", ["double"], {"mode": "manual", "halt_when": lambda step: True, "max_turns": 1}),
    ("halt_when", ["double"], {"halt_when": lambda step: True, "max_turns": 1}),
    ("max_turns", ["double"], {"halt_when": lambda step: False, "max_turns": 1}),
]


@pytest.mark.parametrize(("reason", "names", "options"), PAIRS)
def test_f094_the_order_of_what_ends_a_loop(reason: str, names: list[str], options: dict[str, Any]) -> None:
    tools = [PERSON, double, *[named(name, handler) for name, handler in TOOLS.items()]]
    script = calls(*[(f"c{i}", name, {"n": 1}) for i, name in enumerate(names)])
    assert allm.chat(fake(script, tools=tools), "go", **options).halted_reason == reason


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_f095_an_answer_that_was_cut_is_complete_for_the_loop(finish: str) -> None:
    result = allm.chat(fake([{"text": "Hel"}, {"finish": finish}]), "go")
    assert result.halted_reason == "completed"
    assert result.final_response is not None
    assert result.final_response.finish_reason == finish


def test_f096_without_calls_there_is_no_further_turn() -> None:
    engine = fake([{"text": "x"}, {"finish": "other"}], DONE)
    result = allm.chat(engine, "go")
    assert (result.halted_reason, result.text, len(requests(engine))) == ("completed", "x", 1)


def test_f099_the_bare_value_is_sent() -> None:
    tool = named("weather", lambda _: {"forecast": "sunny"})
    engine = fake(calls(("a", "weather", {})), DONE, tools=[tool])
    allm.chat(engine, "go")
    assert requests(engine)[1].messages[-1].content == '{"forecast":"sunny"}'


def test_f101_text_is_sent_as_it_is() -> None:
    engine = fake(calls(("a", "t", {})), DONE, tools=[named("t", lambda _: 'say "hi"')])
    allm.chat(engine, "go")
    assert requests(engine)[1].messages[-1].content == 'say "hi"'


class Unencodable:
    def encode(self, value: Any) -> str:
        raise KeyError("no")


@pytest.mark.parametrize(
    ("code", "handler", "encoder"),
    [
        ("not_found", None, None),
        ("encoding_failed", lambda _: {1, object()}, None),
        ("encoding_failed", lambda _: 1, Unencodable()),
        ("handler_raised", fails, None),
        ("handler_exit", lambda _: exit(3), None),
        ("invalid_return", lambda _: allm.Halt("completed"), None),
        ("timeout", lambda _: threading.Event().wait(PATIENCE), None),
    ],
)
def test_f110_f112_every_failure_of_a_tool_goes_to_the_policy(code: str, handler: Any, encoder: Any) -> None:
    asked: list[tuple[str | None, str | None, Any]] = []

    def policy(call: allm.ToolCall, error: allm.ErrorInfo) -> str:
        asked.append((error.code, error.call_id, error.extra.get("tool_name")))
        return "continue"

    timeout = 0.01 if code == "timeout" else None
    engine = fake(calls(("a", "t", {})), DONE, tools=[named("t", handler, timeout=timeout)])
    assert allm.chat(engine, "go", on_tool_error=policy, tool_result_encoder=encoder).text == "Done"
    assert asked == [(code, "a", "t")]


def test_f118_the_first_halt_by_order_of_calls_wins_and_all_run() -> None:
    ran = threading.Event()

    def late(arguments: dict[str, Any]) -> allm.Halt:
        assert ran.wait(PATIENCE)
        return allm.Halt("first")

    def third(arguments: dict[str, Any]) -> str:
        ran.set()
        return "ran"

    tools = [named("late", late), named("halt", halts), named("third", third)]
    script = calls(("a", "late", {}), ("b", "halt", {}), ("c", "third", {}))
    result = allm.chat(fake(script, tools=tools), "go")
    assert (result.halted_reason, result.metadata["halt_tool_call_id"]) == ("first", "a")
    assert [message.text for message in result.steps[0].tool_results] == ["null", "null", "ran"]


def test_f120_the_mode_belongs_to_the_call() -> None:
    engine = fake(calls(("a", "double", {"n": 1})), calls(("b", "double", {"n": 1})), DONE, tools=[double])
    assert allm.chat(engine, "go", mode="manual").halted_reason == "manual_tool_calls"
    assert allm.chat(engine, "go").text == "Done"


def test_f121_manual_tools_alone() -> None:
    engine = fake(calls(("a", "person", {}), ("b", "person", {})), tools=[PERSON, double])
    result = allm.chat(engine, "go")
    assert result.halted_reason == "manual_tool_calls"
    assert result.metadata == {"manual_tool_calls": ["a", "b"], "manual_turn_index": 0}
    assert result.steps[0].tool_results == ()


def test_f124_a_tool_starts_after_its_event() -> None:
    seen: list[str] = []

    def note(event: Any) -> None:
        if isinstance(
            event, allm.ToolExecutionStarted | allm.ToolExecutionCompleted | allm.ToolResultEncoded
        ):
            seen.append(type(event).__name__)

    tool = named("t", lambda _: seen.append("ran"))
    allm.chat(fake(calls(("a", "t", {})), DONE, tools=[tool]), "go", on_event=note)
    assert seen == ["ToolExecutionStarted", "ran", "ToolExecutionCompleted", "ToolResultEncoded"]


def test_f126_a_finish_reason_that_speaks_of_calls_where_there_are_none() -> None:
    result = allm.chat(fake([{"text": "x"}, {"finish": "tool_calls"}]), "go")
    assert (result.halted_reason, result.text, len(result.steps)) == ("completed", "x", 1)
    assert (
        allm.chat(
            fake([*calls(("a", "double", {"n": 1})), {"finish": "stop"}], HELLO, tools=[double]), "go"
        ).text
        == "Hello"
    )
