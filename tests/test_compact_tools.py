"""Compact tools: what the model is shown, what it may ask for, and that the tools work as they did."""

from __future__ import annotations

import copy
import doctest
import json
import pickle
from typing import Any

import pytest

import allm
from allm import compact_tools
from allm.compact_tools import HELP_NAME, compact, described
from allm.loops.plan import make_plan
from tests.faces import Face
from tests.test_loop import DONE, calls, double, fake, named, requests


@allm.tool(timeout=2.5, examples=["weather in Rome"], strict=True)
def weather(city: str, unit: str = "C", days: int = 1) -> str:
    """The forecast for a city. Days are counted
    from today.

    Args:
        unit: C or F.
    """
    return f"{city} {unit} {days}"


def stub_of(**fields: Any) -> allm.Tool:
    return compact([allm.Tool(**{"name": "t", **fields})])[0]


def test_a_stub_says_little() -> None:
    stub, _ = compact([weather])
    assert stub.name == "weather"
    assert stub.description == "The forecast for a city. Arguments: city [days] [unit] [compact]"
    assert stub.schema == {"type": "object"}
    assert (stub.timeout, stub.spec.strict, stub.spec.examples) == (2.5, None, ())
    assert stub.spec.handler == weather.spec.handler


@pytest.mark.parametrize(
    ("description", "summary", "line"),
    [
        ("", None, "[compact]"),
        ("One sentence", None, "One sentence [compact]"),
        ("Is it v1.2? Yes.", None, "Is it v1.2? Yes. [compact]"),
        ("First.\n  Second. Third.", None, "First. [compact]"),
        ("Long. Rest.", "In short", "In short [compact]"),
        ("Rest.", 7, "Rest. [compact]"),
        ("x" * 161, None, "x" * 157 + "... [compact]"),
        ("x" * 160, None, "x" * 160 + " [compact]"),
    ],
)
def test_the_line(description: str, summary: Any, line: str) -> None:
    metadata = {} if summary is None else {"summary": summary}
    assert stub_of(description=description, metadata=metadata).description == line


def test_arguments_are_hinted_at() -> None:
    schema = {"type": "object", "properties": {name: {} for name in "zyxb"}, "required": ["y", "z", "gone"]}
    assert stub_of(schema=schema).description == "Arguments: z y [b] [x] [compact]"


def test_help_comes_last_and_once() -> None:
    tools = compact([weather, double])
    assert [item.name for item in tools] == ["weather", "double", "tool_help"]
    assert tools[-1].spec.metadata == {"allm_builtin": "tool_help"}
    assert compact([]) == []


@pytest.mark.parametrize("names", [["weather"], ["double", "weather"], ["nothing"], []])
def test_help(names: list[str]) -> None:
    answer = compact([weather, double])[-1]({"names": names})
    for item in (weather, double):
        assert (described(item.spec) in answer) == (item.name in names)
    assert ("the compact tools are: weather, double" in answer) == (names in (["nothing"], []))


def test_the_model_asks_for_help_and_then_calls(face: Face) -> None:
    script = [
        calls(("a", "tool_help", {"names": ["weather"]})),
        calls(("b", "weather", {"city": "Rome", "days": 2})),
    ]
    engine = fake(*script, DONE, tools=compact([weather, double]))
    result = face.chat(engine, "go")
    assert [message.text for step in result.steps for message in step.tool_results] == [
        described(weather.spec),
        "Rome C 2",
    ]
    sent = [request.tools for request in requests(engine)]
    assert sent[0] == sent[1] == sent[2]
    assert [spec.schema for spec in sent[0][:2]] == [{"type": "object"}] * 2


@pytest.mark.parametrize("arguments", [{}, {"city": 7}, {"city": "Rome", "day": 1}])
def test_arguments_that_do_not_fit_come_back_with_the_help(face: Face, arguments: dict[str, Any]) -> None:
    ran: list[Any] = []
    whole = allm.Tool(name="weather", schema=weather.schema, description="Sky.", handler=ran.append)
    for item in (whole, weather):
        engine = fake(calls(("a", "weather", arguments)), DONE, tools=compact([item]))
        (message,) = face.chat(engine, "go").steps[0].tool_results
        assert message.is_error
        text = json.loads(message.text)["error"]
        assert text.startswith("invalid arguments for weather: ")
        assert text.endswith(described(item.spec))
    assert ran == []


def test_handlers_get_what_they_take(face: Face) -> None:
    @allm.tool
    async def place(ctx: allm.ToolContext, city: str) -> str:
        """Where."""
        return f"{city} {ctx.context['user']}"

    def by_hand(arguments: dict[str, Any], ctx: allm.ToolContext) -> str:
        return f"{arguments['n']} {ctx.context['user']}"

    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    hand = allm.Tool(name="hand", schema=schema, handler=by_hand)
    script = calls(("a", "place", {"city": "Rome"}), ("b", "hand", {"n": 1}))
    result = face.chat(fake(script, DONE, tools=compact([place, hand]), context={"user": "u"}), "go")
    assert [message.text for message in result.steps[0].tool_results] == ["Rome u", "1 u"]
    stub = compact([place])[0]
    assert stub.is_async
    assert stub.bind_arguments(allm.ToolCall("a", "place", {"city": "x"})) == {"city": "x"}
    with pytest.raises(allm.ToolError, match="JSON Schema"):
        stub.bind_arguments(allm.ToolCall("a", "place", {}))


def test_without_a_handler_it_is_the_callers() -> None:
    stub = stub_of(manual=True)
    assert (stub.manual, stub.handler) == (True, None)
    engine = fake(calls(("a", "t", {})), DONE, tools=compact([allm.Tool(name="t")]))
    assert "has no handler" in allm.chat(engine, "go").steps[0].tool_results[0].text


def test_manual_mode() -> None:
    tools = compact([weather])
    engine = fake(calls(("a", "tool_help", {"names": ["weather"]})), DONE, tools=tools)
    result = allm.chat(engine, "go", mode="manual")
    assert result.final_response is not None
    (call,) = result.final_response.tool_calls
    thread = result.thread.add_message(allm.tool_result(call.id, tools[-1](call.arguments)))
    assert allm.chat(engine, thread).text == "Done"
    assert requests(engine)[1].messages[-1].text == described(weather.spec)


def test_a_forced_tool_is_passed_whole() -> None:
    engine = fake(DONE, tools=compact([weather, double]))
    plan, _ = make_plan(engine, "go", {"tools": [weather], "tool_choice": "weather"})
    assert [item.name for item in plan.request.tools] == ["weather", "double", "tool_help"]
    assert plan.request.tools[0] == weather.spec
    assert plan.request.tools[1].schema == {"type": "object"}


def test_a_tool_of_the_name_of_help_is_refused() -> None:
    own = named(HELP_NAME, str)
    with pytest.raises(allm.ValidationError, match="tools: duplicate_name"):
        compact([weather, own])


def test_copies_and_engines_as_data() -> None:
    tools = compact([weather, allm.Tool(name="dump", handler=json.dumps)])
    assert tools == compact([weather, allm.Tool(name="dump", handler=json.dumps)])
    assert tools[0] != compact([double])[0]
    assert tools[0] != weather
    for twin in (
        pickle.loads(pickle.dumps(tools)),
        copy.deepcopy(tools),
        [copy.copy(item) for item in tools],
    ):
        assert twin == tools
        assert twin[0].bind_arguments(allm.ToolCall("a", "weather", {"city": "x"})) == {"city": "x"}
    loaded = allm.Engine.from_data(json.loads(json.dumps(allm.Engine("fake:m", tools=tools).to_data())))
    assert [item.spec for item in allm.bind(loaded, tools).tools] == [item.spec for item in tools]


def test_the_example() -> None:
    assert doctest.testmod(compact_tools) == (0, 4)
