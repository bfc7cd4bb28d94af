"""Tools: schemas from signatures, binding of arguments, results as data."""

from __future__ import annotations

import asyncio
import copy
import enum
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest.mock import AsyncMock, MagicMock

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import allm
from allm.data.content import Image, ImagePart, TextPart, ToolCall, parsed_call
from allm.data.failure import ErrorInfo
from allm.data.requests import ToolSpec
from allm.errors import ConfigurationError, ToolError, ValidationError
from allm.schemas import unknown_keywords
from allm.tools import (
    AskUser,
    FunctionTool,
    Halt,
    Tool,
    ToolContext,
    encode_result,
    error_message,
    failed,
    from_object,
    invocation,
    outcome,
    read_docstring,
    timed_out,
    tool,
    unknown_tool,
)


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Place(msgspec.Struct):
    city: str
    zip: int | None = None


@dataclass
class Area:
    centre: Place
    radius: float = 1.0


@tool
def weather(
    place: Place,
    unit: Unit = Unit.C,
    days: Annotated[int, msgspec.Meta(ge=1, le=7)] = 1,
    areas: list[Area] | None = None,
    mode: Annotated[Literal["short", "long"], "how much to say"] = "short",
    *,
    ctx: ToolContext,
) -> str:
    """Tell the weather
    of a place.

    More for programmers.

    Args:
        place: where
            exactly.
        unit (Unit): of the temperature.
    """
    return f"{place.city} {unit.value} {days} {ctx.session_id}"


@tool(name="slow-sum", timeout=2.5, on_interrupted="retry", metadata={"a": 1})
async def slow(a: int, b: int = 2) -> int:
    return a + b


@tool
def positional(a: int, b: int = 5, /, **rest: int) -> list[int]:
    return [a, b, *rest.values()]


class Shop:
    def __init__(self, stock: int) -> None:
        self.stock = stock

    @tool
    def count(self, sort: str) -> int:
        """How many."""
        return self.stock

    @tool
    @classmethod
    def kind(cls, a: int) -> str:
        return cls.__name__

    @staticmethod
    @tool
    def free(a: int) -> int:
        return a

    @property
    def broken(self) -> int:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shop) and self.stock == other.stock


def plain(arguments: dict[str, Any]) -> Any:
    return arguments


def with_context(arguments: dict[str, Any], context: ToolContext) -> Any:
    return arguments, context.run_id


def call(name: str = "t", /, **arguments: Any) -> ToolCall:
    return ToolCall("c1", name, arguments)


def run(item: Tool, /, **arguments: Any) -> Any:
    return invocation(item, call(item.name, **arguments), ToolContext(session_id="s", run_id="r"))()


def refused(item: Tool, /, **arguments: Any) -> ErrorInfo:
    with pytest.raises(ToolError) as caught:
        item.bind_arguments(call(item.name, **arguments))
    info = caught.value.info
    assert (info.reason, info.code, info.call_id) == ("tool_failed", "invalid_arguments", "c1")
    return info


def test_schema_from_the_signature() -> None:
    schema = weather.schema
    jsonschema.Draft202012Validator.check_schema(schema)
    assert unknown_keywords(schema) == []
    assert weather.name == "weather"
    assert weather.description == "Tell the weather of a place."
    assert list(schema["properties"]) == ["place", "unit", "days", "areas", "mode"]
    assert schema["required"] == ["place"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["place"]["description"] == "where exactly."
    assert schema["properties"]["place"]["type"] == "object"
    assert schema["properties"]["unit"]["enum"] == ["celsius", "fahrenheit"]
    assert schema["properties"]["unit"]["default"] == "celsius"
    assert schema["properties"]["days"] == {"type": "integer", "minimum": 1, "maximum": 7, "default": 1}
    assert schema["properties"]["mode"]["description"] == "how much to say"
    assert set(schema["$defs"]) == {"Area", "Place"}


def test_options() -> None:
    assert slow.spec == ToolSpec(
        name="slow-sum",
        schema=slow.schema,
        timeout=2.5,
        on_interrupted="retry",
        handler=f"{__name__}:slow",
        metadata={"a": 1},
    )
    assert slow.is_async
    assert not weather.is_async
    assert Tool(name="x", handler=slow.handler and (lambda a: a)).spec.handler is None


def test_stays_callable() -> None:
    assert weather(Place("Rome"), ctx=ToolContext()) == "Rome celsius 1 None"
    assert asyncio.run(slow(1)) == 3
    assert slow.__name__ == "slow"


def test_conversion_and_context() -> None:
    bound = weather.bind_arguments(
        call(place={"city": "Oslo"}, unit="fahrenheit", areas=[{"centre": {"city": "A"}}])
    )
    assert bound == {"place": Place("Oslo"), "unit": Unit.F, "areas": [Area(Place("A"))]}
    assert run(weather, place={"city": "Oslo"}, days=2.0) == "Oslo celsius 2 s"
    assert asyncio.run(run(slow, a=1, b=5)) == 6
    assert run(positional, a=1) == [1, 5]
    assert run(positional, a=1, b=2, c=3) == [1, 2, 3]


def test_problems_are_all_named() -> None:
    info = refused(weather, place={"zip": 1}, unit="kelvin", days=9, ctx=1)
    assert [path for path, _ in info.problems] == ["place.city", "unit", "days", "ctx"]
    assert 'must be one of "celsius", "fahrenheit", got "kelvin"' in info.message
    assert refused(slow).problems == (("a", "required, but missing"),)
    assert refused(slow, a="1").problems == (("a", "expected integer, got string"),)
    assert refused(slow, a=True).problems
    assert refused(positional, a=1, c="x").problems == (("c", "expected integer, got string"),)


def test_invalid_json_never_reaches_a_handler() -> None:
    bad = parsed_call("c1", "t", '{"a": ')
    with pytest.raises(ToolError) as caught:
        slow.bind_arguments(bad)
    assert caught.value.info.code == "invalid_arguments"
    assert '{"a": ' in caught.value.info.message


def test_made_by_hand() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    one = Tool(name="one", description="d", schema=schema, handler=plain)
    two = Tool(name="two", schema=schema, handler=with_context)
    arguments = call("one", a=[1])
    assert run(one, a=1) == {"a": 1}
    assert run(two, a=1) == ({"a": 1}, "r")
    assert refused(one, a="x").problems == (("a", "expected integer, got string"),)
    free = Tool(name="free", handler=plain)
    free.bind_arguments(arguments)["a"].append(2)
    assert arguments.arguments == {"a": [1]}
    with pytest.raises(ToolError) as caught:
        run(Tool(name="empty", manual=True))
    assert caught.value.info.code == "not_found"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": ""}, ("name", "empty")),
        ({"name": "auto"}, ("name", "reserved_tool_name: 'auto'")),
        ({"name": "a b"}, ("name", "invalid_format: 'a b'")),
        ({"name": "a" * 90}, ("name", f"invalid_format: '{'a' * 65}'")),
        ({"description": 1}, ("description", "not_a_string")),
        ({"schema": []}, ("schema", "not_a_map")),
        ({"schema": {"type": "array"}}, ("schema", "type_must_be_object")),
        ({"timeout": 0}, ("timeout", "must_be_positive")),
        ({"timeout": True}, ("timeout", "must_be_positive")),
        ({"on_interrupted": "x"}, ("on_interrupted", "must_be_report_or_retry")),
        ({"isolation": "x"}, ("isolation", "must_be_thread_or_process")),
    ],
)
def test_wrong_arguments(options: dict[str, Any], problem: tuple[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Tool(**{"name": "t", **options})
    assert caught.value.errors == (problem,)


def test_wrong_handlers() -> None:
    handlers: list[Any] = [lambda: 1, lambda a, b, c: 1, lambda a, *, b: 1, 5, weather]
    for handler in handlers:
        with pytest.raises(ConfigurationError):
            Tool(name="t", handler=handler)
    with pytest.raises(ConfigurationError):
        Tool(name="t", handler=lambda a: a, isolation="process")
    with pytest.raises(ConfigurationError):
        tool(name="t", isolation="process")(lambda a: a)
    assert Tool(name="t", handler=plain, isolation="process").isolation == "process"


def test_wrong_annotations() -> None:
    def bad(a: complex) -> None: ...
    def unknown(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function in (bad, unknown):
        with pytest.raises(ConfigurationError, match=r"'a'|Missing"):
            tool(function)


def test_classes_of_a_function_are_found() -> None:
    class Local(msgspec.Struct):
        a: int

    @tool
    def local(item: Local) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return item.a

    assert run(local, item={"a": 3}) == 3


def test_methods() -> None:
    shop = Shop(7)
    assert run(shop.count, sort="x") == 7
    assert shop.count("x") == 7
    assert Shop.count(shop, "x") == 7
    assert shop.count.schema["required"] == ["sort"]
    assert run(shop.kind, a=1) == run(Shop.kind, a=1) == "Shop"
    assert run(Shop.free, a=4) == 4
    with pytest.raises(ConfigurationError):
        run(Shop.count, sort="x")


def test_from_object() -> None:
    assert [item.name for item in from_object(Shop(1))] == ["count", "kind", "free"]
    assert [item.name for item in from_object(Shop)] == ["kind", "free"]
    assert [item.name for item in from_object(sys.modules[__name__])] == ["weather", "slow-sum", "positional"]
    assert from_object(object()) == []


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        (Shop(1), ["count", "kind", "free"]),
        (Shop, ["kind", "free"]),
        (sys.modules[__name__], ["weather", "slow-sum", "positional"]),
    ],
)
def test_a_list_of_tools_takes_what_holds_some(entry: Any, names: list[str]) -> None:
    engine = allm.Engine("fake", tools=[entry, allm.Tool(name="last")])
    assert [item.name for item in engine.tools] == [*names, "last"]
    with pytest.raises(allm.ConfigurationError, match="is not a tool"):
        engine.put_tool(object())


@pytest.mark.parametrize(
    "item",
    [
        weather,
        slow,
        positional,
        Tool(name="t", handler=plain),
        Shop(3).count,
        Shop.kind,
        Shop.free,
        Shop.count,
    ],
    ids=repr,
)
def test_pickle_and_copies(item: Tool) -> None:
    for twin in (pickle.loads(pickle.dumps(item)), copy.deepcopy(item), copy.copy(item)):
        assert twin == item
        assert type(twin) is type(item)
        assert twin.is_async == item.is_async
    assert item.schema is not copy.deepcopy(item).schema


def test_frozen_and_compared() -> None:
    with pytest.raises(AttributeError):
        weather.handler = None
    assert Tool(name="a", handler=plain) == Tool(name="a", handler=plain)
    assert Tool(name="a", handler=plain) != Tool(name="a", handler=with_context)
    assert Tool.from_spec(weather.spec).handler is None
    assert isinstance(weather, FunctionTool)
    local = copy.deepcopy(tool(name="d")(lambda a: a * 2))
    assert run(local, a=2) == 4


def test_callables_of_any_kind() -> None:
    class Caller:
        def __call__(self, q: str) -> str:
            return q

    assert run(tool(name="caller")(Caller()), q="x") == "x"
    assert run(tool(name="half")(partial(lambda a, b: a + b, b=2)), a=1) == 3
    assert run(tool(len), obj=[1, 2]) == 2
    assert run(Tool(name="mock", handler=MagicMock(return_value=3)), a=1) == 3
    assert not Tool(name="mock", handler=MagicMock()).is_async
    assert Tool(name="mock", handler=AsyncMock()).is_async


GOOGLE = """Find it.

    Args:
        q (dict[str, int]): what: really
            long.
        *more: rest

    Returns:
        nothing: at all
    """
NUMPY = """Find it.

    Parameters
    ----------
    q : str
        what: really
        long.
    more
        rest

    Returns
    -------
    nothing : at all
    """
SPHINX = """Find it.

    :param str q: what: really
        long.
    :param more: rest
    :returns: nothing
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX])
def test_docstrings(text: str) -> None:
    assert read_docstring(text) == ("Find it.", {"q": "what: really long.", "more": "rest"})


@given(st.text("aA: \n\t-(),*\\rgsParmetsx"))
def test_any_docstring_is_read(text: str) -> None:
    read_docstring(text)
    read_docstring("Args:\n" + text)
    read_docstring("Parameters\n-----\n" + text)


class Model:
    def model_dump_json(self) -> str:
        return '{"a":1}'

    def model_dump(self, mode: str) -> dict[str, int]:
        return {"a": 1}


PICTURE = Image(data=b"x", mime_type="image/png")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (None, "null"),
        ({"a": Decimal("1.5")}, '{"a":"1.5"}'),
        ({1}, "[1]"),
        (Path("a/b"), '"a/b"'),
        (Place("x"), '{"city":"x","zip":null}'),
        (Unit.C, '"celsius"'),
        (range(2), "[0,1]"),
        (Model(), '{"a":1}'),
        ([Model()], '[{"a":1}]'),
        ({"a": "\ud800"}, '{"a":"\\ud800"}'),
        ("a\ud800", "a\ufffd"),
        (2**70, str(2**70)),
        ([], "[]"),
        (PICTURE, (ImagePart(PICTURE),)),
        (["see", PICTURE], (TextPart("see"), ImagePart(PICTURE))),
        (TextPart("a"), (TextPart("a"),)),
    ],
)
def test_encoding(value: Any, expected: Any) -> None:
    assert encode_result(value) == expected


def test_what_cannot_be_encoded() -> None:
    loop: list[Any] = []
    loop.append(loop)
    values: list[Any] = [object(), loop, (x for x in "a"), [object(), "\ud800"]]
    for value in values:
        with pytest.raises(ToolError) as caught:
            encode_result(value)
        assert caught.value.info.code == "encoding_failed"
        result = outcome(weather, call(), value)
        assert result.is_error
        assert result.error is not None
        assert (result.error.code, result.error.call_id) == ("encoding_failed", "c1")


def test_outcomes() -> None:
    result = outcome(weather, call(), {"a": 1})
    assert (result.message.content, result.message.tool_call_id, result.is_error) == ('{"a":1}', "c1", False)
    asked = outcome(weather, call(), AskUser("Which?", ["a", "b"], urgent=True))
    assert asked.message.content == "<awaiting user response>"
    assert asked.ask == AskUser("Which?", ("a", "b"), urgent=True)
    halted = outcome(weather, call(), Halt("done", Place("x")))
    assert (halted.halt_reason, halted.halt_value) == ("done", {"city": "x", "zip": None})
    assert halted.message.content == '{"city":"x","zip":null}'
    for reason in ("completed", "", 5):
        reserved = outcome(weather, call(), Halt(reason))  # type: ignore[arg-type]
        assert reserved.error is not None
        assert reserved.error.code == "invalid_return"
        assert reserved.halt_reason is None
        assert reserved.message.is_error
    coroutine = asyncio.sleep(0)
    assert outcome(weather, call(), coroutine).is_error
    coroutine.close()


@pytest.mark.parametrize(
    "error", [ValueError("too far"), ToolError(ErrorInfo(reason="tool_failed", message="too far"))]
)
def test_an_error_that_is_returned_is_one(error: Exception) -> None:
    result = outcome(weather, call(), error)
    assert (result.is_error, result.message.is_error) == (True, True)
    assert "too far" in result.message.text
    assert result.error == failed("weather", call(), error)


def test_encoders_of_the_user() -> None:
    def crash(value: Any) -> str:
        raise KeyError(value)

    assert outcome(weather, call(), 1, lambda value: f"<{value}>").message.content == "<1>"
    encoders: list[Callable[[Any], Any]] = [crash, lambda value: 5]
    for encoder in encoders:
        info = outcome(weather, call(), 1, encoder).error
        assert info is not None
        assert info.code == "encoding_failed"


def test_failures() -> None:
    info = failed("t", call(), ZeroDivisionError("division by zero"))
    assert (info.reason, info.code, info.call_id, info.phase) == (
        "tool_failed",
        "handler_raised",
        "c1",
        "tool",
    )
    assert info.extra == {"tool_name": "t", "exception": "builtins.ZeroDivisionError"}
    message = error_message(call(), info)
    assert message.is_error
    assert message.content == '{"error":"ZeroDivisionError: division by zero"}'
    assert failed("t", call(), SystemExit(1)).code == "handler_exit"
    assert failed("t", call(), ToolError("own words")).message == "own words"
    assert failed("t", call(), ErrorInfo(reason="timeout", code="timeout")).call_id == "c1"
    assert timed_out("t", call(), 0.5).code == "timeout"
    assert "weather" in unknown_tool(call("x"), ["weather"]).message
    assert len(str(error_message(call(), failed("t", call(), ValueError("\ud800" * 9999))).content)) < 5000


def test_values_pickle() -> None:
    for value in (AskUser("q", ["a"], level=1), Halt("w", {"a": 1}), ToolContext(context={"a": 1})):
        assert pickle.loads(pickle.dumps(value)) == value
        assert copy.deepcopy(value) == value
    with pytest.raises(AttributeError):
        AskUser("q").question = "x"
    with pytest.raises(ValidationError):
        AskUser("q", "abc")
