"""The helpers for users' tests, and engines as data."""

from __future__ import annotations

import json
from typing import Any

import pytest

import allm
from allm.testing import collect, fake, text, tool_calls

CALL = [{"tool_call": {"id": "c1", "name": "add", "arguments": {"a": 1, "b": 2}}}]


@allm.tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def test_the_strict_fake_records_what_was_asked_and_wants_all_to_be_played() -> None:
    with fake(CALL, [{"text": ["Hel", "lo"]}]) as model:
        events = collect(allm.stream(allm.Engine(adapter=model, tools=[add]), "Hi"))
    assert text(events) == "Hello"
    assert [call.arguments for call in tool_calls(events)] == [{"a": 1, "b": 2}]
    assert [len(request.messages) for request in model.requests] == [1, 3]
    with pytest.raises(allm.ConfigurationError, match="1 of 2 scripts"), fake([], []) as model:
        allm.chat(allm.Engine(adapter=model), "Hi")


def test_a_script_that_ran_out_is_an_error() -> None:
    with fake([{"text": "Hi"}]) as model:
        engine = allm.Engine(adapter=model)
        allm.chat(engine, "Hi")
        with pytest.raises(allm.InvalidRequestError, match="no script for call 2"):
            allm.chat(engine, "Hi")


def test_an_engine_as_data_comes_back_without_handlers_and_without_trust() -> None:
    engine = allm.Engine(
        "openai:m", base_url="http://127.0.0.1:1/v1", tools=[add], params={"temperature": 0.5, "stop": ["x"]}
    )
    loaded = allm.Engine.from_data(json.loads(json.dumps(engine.to_data())))
    assert (loaded.model, loaded.base_url, loaded.params, loaded.id) == (
        engine.model,
        engine.base_url,
        engine.params,
        engine.id,
    )
    assert loaded.tools[0].handler is None
    assert allm.bind(loaded, [add]).tools[0].handler is not None
    allm.keys.put("openai", "stored-key")
    try:
        with pytest.raises(allm.MissingKeyError):
            allm.stream(loaded, "Hi")
        allm.stream(loaded.trust_base_url(), "Hi")
    finally:
        allm.keys.delete("openai")


@pytest.mark.parametrize("bad", [{"retry": 7}, {"tools": [{"name": 1}]}, {"modell": "x"}])
def test_a_stored_engine_that_is_wrong_says_so(bad: dict[str, object]) -> None:
    with pytest.raises((allm.ValidationError, allm.UnknownOptionError)):
        allm.Engine.from_data({"model": "openai:m", **bad})


@pytest.mark.parametrize(
    "data", [5, "x", None, [], {5: 1}, {"fallbacks": 5}, {"fallbacks": [5]}, {"adapter_options": 5}]
)
def test_what_is_no_stored_engine_says_so(data: Any) -> None:
    with pytest.raises(allm.ValidationError, match="the stored engine cannot be loaded: engine: Expected"):
        allm.Engine.from_data(data)


def test_binding_a_tool_that_the_engine_does_not_have_names_the_nearest() -> None:
    engine = allm.Engine("openai:m", tools=[add])
    with pytest.raises(allm.UnknownOptionError, match="did you mean 'add'"):
        allm.bind(engine, [allm.Tool(name="ad", schema={"type": "object"}, handler=lambda arguments: 1)])
