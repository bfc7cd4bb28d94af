"""Call > request > engine > application > library: for model, params, tools and options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

import pytest

import allm
from allm.loops.plan import Plan, make_plan
from allm.providers.fake import FakeAdapter
from tests.test_loop import HELLO, named

LEVELS = ("call", "request", "engine", "application")


def planned(
    model_: Any = "fake:m", given: Any = "hi", engine: dict[str, Any] | None = None, **options: Any
) -> Plan:
    return make_plan(allm.Engine(model_, **(engine or {})), given, options)[0]


def subsets(levels: Iterable[str]) -> list[tuple[str, ...]]:
    every = tuple(levels)
    return [some for size in range(len(every) + 1) for some in combinations(every, size)]


def settled(where: tuple[str, ...], field: str, value: Callable[[str], Any], base: Any) -> Plan:
    """A plan with `field` set to `value(level)` on the levels named."""
    if "application" in where:
        allm.configure(params={field: value("application")})
    request = {field: value("request")} if "request" in where else {}
    engine = {"params": {field: value("engine")}} if "engine" in where else {}
    call = {field: value("call")} if "call" in where else {}
    given = allm.Request(messages=(allm.user("hi"),), **request)
    return planned(given=given, engine=engine, **call)


VALUES: dict[str, tuple[Callable[[str], Any], Any]] = {
    "temperature": (lambda level: LEVELS.index(level) / 10, None),
    "max_tokens": (lambda level: LEVELS.index(level) + 1, None),
    "system": (str, None),
    "seed": (LEVELS.index, None),
    "stop": (lambda level: (level,), ()),
    "tool_choice": (lambda level: ("auto", "none", "auto", "none")[LEVELS.index(level)], None),
    "reasoning": (lambda level: ("low", "medium", "high", "minimal")[LEVELS.index(level)], None),
}


@pytest.mark.parametrize("where", subsets(LEVELS), ids="+".join)
@pytest.mark.parametrize("field", VALUES)
def test_params(field: str, where: tuple[str, ...]) -> None:
    value, library = VALUES[field]
    plan = settled(where, field, value, library)
    expected = next((value(level) for level in LEVELS if level in where), library)
    assert getattr(plan.request, field) == expected


@pytest.mark.parametrize("where", subsets(LEVELS), ids="+".join)
def test_provider_options_are_merged_key_by_key(where: tuple[str, ...]) -> None:
    plan = settled(where, "options", lambda level: {"shared": level, level: 1}, {})
    first = next((level for level in LEVELS if level in where), None)
    assert plan.request.options == ({"shared": first} if first else {}) | dict.fromkeys(where, 1)


@pytest.mark.parametrize("where", subsets(LEVELS)[1:], ids="+".join)
def test_model(where: tuple[str, ...]) -> None:
    if "application" in where:
        allm.configure(model="fake:application")
    given = allm.Request(messages=(allm.user("hi"),), model="fake:request" if "request" in where else None)
    call: dict[str, Any] = {"model": "fake:call"} if "call" in where else {}
    plan = planned("fake:engine" if "engine" in where else None, given, **call)
    assert plan.request.model == next(level for level in LEVELS if level in where)
    assert plan.ref.provider == "fake"


def test_no_model_anywhere() -> None:
    with pytest.raises(allm.ConfigurationError, match="no model"):
        planned(None)


def test_a_bare_id_belongs_to_the_provider_below() -> None:
    request = allm.Request(messages=(allm.user("hi"),), model="small")
    assert planned(given=request).ref.provider == planned(model="small").ref.provider == "fake"
    assert planned(given=request).request.model == "small"
    allm.configure(adapter="fake")
    assert str(planned("large").ref) == "fake:large"


def test_the_engines_provider_wins_over_the_applications_adapter() -> None:
    allm.configure(adapter="openai")
    assert str(planned("fake:m").ref) == "fake:m"
    assert isinstance(planned("fake:m").adapter, FakeAdapter)


def test_what_was_sent_can_be_sent_again() -> None:
    adapter = FakeAdapter([HELLO, HELLO])
    engine = allm.Engine("m", adapter=adapter, system="Be brief.", params={"temperature": 0.5})
    allm.generate(engine, "hi", max_tokens=3)
    allm.generate(engine, adapter.requests[0])
    assert adapter.requests[0] == adapter.requests[1]


LOOP: dict[str, tuple[Callable[[str], Any], Any]] = {
    "max_turns": (lambda level: LEVELS.index(level) + 1, 8),
    "mode": (lambda level: ("manual", "", "auto", "manual")[LEVELS.index(level)], "auto"),
    "on_tool_error": (lambda level: ("halt", "", "continue", "halt")[LEVELS.index(level)], "continue"),
    "tool_timeout": (lambda level: LEVELS.index(level) + 1.0, 30.0),
    "max_concurrency": (lambda level: LEVELS.index(level) + 1, None),
}
WITHOUT_REQUEST = ("call", "engine", "application")


@pytest.mark.parametrize("where", subsets(WITHOUT_REQUEST), ids="+".join)
@pytest.mark.parametrize("field", LOOP)
def test_options_of_the_loop(field: str, where: tuple[str, ...]) -> None:
    value, library = LOOP[field]
    plan = settled(where, field, value, library)
    assert getattr(plan, field) == next((value(level) for level in LEVELS if level in where), library)


@pytest.mark.parametrize("where", subsets(WITHOUT_REQUEST), ids="+".join)
def test_view(where: tuple[str, ...]) -> None:
    plan = settled(where, "include_raw_chunks", lambda level: level != "engine", False)
    assert plan.view.include_raw_chunks is next((s != "engine" for s in LEVELS if s in where), False)


POLICIES: dict[str, Callable[[str], Any]] = {
    "retry": lambda level: allm.RetryPolicy(attempts=LEVELS.index(level) + 5),
    "timeouts": lambda level: allm.Timeouts(idle=LEVELS.index(level) + 5.0),
    "limits": lambda level: allm.Limits(event=LEVELS.index(level) + 5),
}


@pytest.mark.parametrize("where", subsets(WITHOUT_REQUEST), ids="+".join)
@pytest.mark.parametrize("field", POLICIES)
def test_policies(field: str, where: tuple[str, ...]) -> None:
    value = POLICIES[field]
    if "application" in where:
        allm.configure(**{field: value("application")})
    engine = {field: value("engine")} if "engine" in where else {}
    plan = planned(engine=engine, **({field: value("call")} if "call" in where else {}))
    expected = next((value(level) for level in LEVELS if level in where), None)
    assert getattr(plan, field) == (expected or type(getattr(plan, field))())


WHOLE: dict[str, Callable[[str], Any]] = {
    "budget": lambda level: allm.Budget(tokens=LEVELS.index(level) + 1),
    "fallbacks": lambda level: (f"fake:{level}",),
}


def chosen(plan: Plan, field: str) -> Any:
    if field == "budget":
        return plan.budget
    return tuple([str(fallback.ref) for fallback in plan.fallbacks]) or None


@pytest.mark.parametrize("where", subsets(WITHOUT_REQUEST), ids="+".join)
@pytest.mark.parametrize("field", WHOLE)
def test_budget_and_fallbacks(field: str, where: tuple[str, ...]) -> None:
    value = WHOLE[field]
    if "application" in where:
        allm.configure(**{field: value("application")})
    engine = {field: value("engine")} if "engine" in where else {}
    plan = planned(engine=engine, **({field: value("call")} if "call" in where else {}))
    assert chosen(plan, field) == next((value(level) for level in LEVELS if level in where), None)


@pytest.mark.parametrize("field", WHOLE)
def test_a_call_may_do_without(field: str) -> None:
    allm.configure(**{field: WHOLE[field]("application")})
    plan = planned(engine={field: WHOLE[field]("engine")}, **{field: None})
    assert chosen(plan, field) is None


def test_an_engine_may_do_without_fallbacks() -> None:
    allm.configure(fallbacks=["fake:application"])
    assert planned(engine={"fallbacks": ()}).fallbacks == ()


def test_the_seconds_of_a_budget_are_a_deadline_of_the_run() -> None:
    assert planned(budget=allm.Budget(seconds=5)).timeouts.run == 5
    tighter = planned(budget=allm.Budget(seconds=5), timeouts=allm.Timeouts(run=2))
    assert tighter.timeouts.run == tighter.ctx.timeouts.run == 2


class Hook:
    def __init__(self, level: str) -> None:
        self.level = level

    def before_model(self, request: allm.Request, ctx: allm.HookContext) -> None: ...


@pytest.mark.parametrize("where", subsets(WITHOUT_REQUEST), ids="+".join)
def test_middleware_adds_up_with_the_calls_own_innermost(where: tuple[str, ...]) -> None:
    if "application" in where:
        allm.configure(middleware=[Hook("application")])
    engine = {"middleware": [Hook("engine")]} if "engine" in where else {}
    plan = planned(engine=engine, **({"middleware": [Hook("call")]} if "call" in where else {}))
    order = ("application", "engine", "call")
    assert [hook.level for hook in plan.middleware] == [level for level in order if level in where]


def test_what_wraps_the_loop_is_stored_with_the_engine() -> None:
    second = allm.Engine("groq:b", base_url="https://example.com/v1", tools=[named("t", str)])
    engine = allm.Engine("fake:m", budget=allm.Budget(tokens=5), fallbacks=["groq:a", second])
    loaded = allm.Engine.from_data(json.loads(json.dumps(engine.to_data())))
    assert (loaded.budget, loaded.to_data()) == (engine.budget, engine.to_data())
    name, other = loaded.fallbacks or ()
    assert isinstance(other, allm.Engine)
    assert (name, other.ref.id) == ("groq:a", "b")
    assert (loaded.trusted, other.trusted) == (True, False)
    assert allm.Engine.from_data(allm.Engine("fake:m", fallbacks=[]).to_data()).fallbacks == ()


def test_an_engine_with_middleware_is_not_stored() -> None:
    with pytest.raises(allm.ConfigurationError, match=r"Hook.*attach it after loading"):
        allm.Engine("fake:m", middleware=[Hook("engine")]).to_data()


def test_a_stored_budget_is_checked() -> None:
    with pytest.raises(allm.ValidationError, match="stored engine"):
        allm.Engine.from_data({"model": "fake:m", "budget": {"tokens": -1}})


@pytest.mark.parametrize("where", subsets(WITHOUT_REQUEST), ids="+".join)
def test_adapter_options(where: tuple[str, ...]) -> None:
    if "application" in where:
        allm.configure(adapter_options={"shared": "application", "application": 1})
    engine = {"adapter_options": {"shared": "engine", "engine": 1}} if "engine" in where else {}
    call = {"adapter_options": {"shared": "call", "call": 1}} if "call" in where else {}
    first = next((level for level in LEVELS if level in where), None)
    expected = ({"shared": first} if first else {}) | dict.fromkeys(where, 1)
    assert planned(engine=engine, **call).ctx.adapter_options == expected


def test_tools_replace_by_name_in_place_and_new_ones_follow() -> None:
    def tools(level: str, *names: str) -> list[allm.Tool]:
        return [named(name, str, description=level) for name in names]

    allm.configure(tools=tools("application", "z", "a"))
    plan = planned(engine={"tools": tools("engine", "a", "b", "c")}, tools=tools("call", "b", "d"))
    expected = [("z", "application"), ("a", "engine"), ("b", "call"), ("c", "engine"), ("d", "call")]
    assert [(tool.name, tool.description) for tool in plan.request.tools] == expected
    assert list(plan.tools) == [name for name, _ in expected]


def test_context_is_merged() -> None:
    plan, _ = make_plan(
        allm.Engine("fake:m", context={"a": 0, "b": 0, "c": 0}),
        "hi",
        {"context": {"c": 2}},
        session_context={"b": 1, "c": 1},
    )
    assert plan.context == {"a": 0, "b": 1, "c": 2}


def test_library_options_never_reach_the_request() -> None:
    plan = planned(
        mode="manual", max_turns=3, tool_timeout=1.0, context={"a": 1}, request_id="r", session_id="s"
    )
    assert plan.request == planned().request


def test_library_defaults() -> None:
    plan = planned()
    assert (plan.max_turns, plan.mode, plan.on_tool_error, plan.tool_timeout) == (8, "auto", "continue", 30.0)
    assert plan.retry == allm.RetryPolicy()
    assert plan.request.max_tokens is None


def test_configure_without_arguments_clears() -> None:
    allm.configure(model="fake:a", params={"seed": 1})
    allm.configure()
    with pytest.raises(allm.ConfigurationError):
        planned(None)


UNKNOWN: list[tuple[Callable[[], Any], str]] = [
    (lambda: planned(temprature=1), "did you mean 'temperature'"),
    (lambda: planned(engine={"tols": []}), "did you mean 'tools'"),
    (lambda: planned(engine={"params": {"max_token": 1}}), "did you mean 'max_tokens'"),
    (lambda: allm.configure(modl="x"), "did you mean 'model'"),
    (lambda: allm.configure(params={"sed": 1}), "did you mean 'seed'"),
    (lambda: planned(xyzzy=1), "known: "),
    (lambda: allm.Engine("fake:m").merge(retrys=1), "did you mean 'retry'"),
]


@pytest.mark.parametrize(("work", "hint"), UNKNOWN)
def test_unknown_options_name_the_nearest(work: Callable[[], Any], hint: str) -> None:
    with pytest.raises(allm.UnknownOptionError, match=hint) as caught:
        work()
    assert isinstance(caught.value, TypeError)


def test_an_address_stays_with_the_provider_that_its_level_names() -> None:
    """Else a key would reach a host that is not its provider's."""
    engine = {"base_url": "http://engine", "adapter_options": {"endpoint": "chat"}}

    def address(level: dict[str, Any], model: str | None) -> str | None:
        options = {"api_key": "k"} if model is None else {"api_key": "k", "model": model}
        return make_plan(allm.Engine(**level), "hi", options)[0].ctx.base_url

    assert address({"model": "openai:a", **engine}, None) == "http://engine"
    assert address({"model": "openai:a", **engine}, "openai:b") == "http://engine"
    assert address({"model": "openai:a", **engine}, "groq:b") is None
    assert address(engine, "groq:b") == "http://engine"
    allm.configure(model="openai:a", base_url="http://application")
    assert address({}, None) == "http://application"
    assert address({}, "groq:b") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_concurrency", "x"), ("max_concurrency", True), ("max_concurrency", 0), ("tool_timeout", "x"),
        ("tool_timeout", -1), ("tool_timeout", True), ("retry", 3), ("retry", True),
    ],
)  # fmt: skip
def test_options_of_the_wrong_kind_are_named_before_anything_is_sent(name: str, value: Any) -> None:
    with pytest.raises(allm.ValidationError) as caught:
        allm.stream(allm.Engine("fake"), "hi", **{name: value})
    assert [path for path, _ in caught.value.errors] == [name]


def test_every_level_is_read_anew_for_each_call_of_an_engine() -> None:
    """What an engine decides by itself is kept with it; the levels around it may have changed since."""
    engine = allm.Engine("fake:m", params={"seed": 1})

    def temperature(given: Any = "hi", **options: Any) -> float | None:
        plan = make_plan(engine, given, options)[0]
        assert plan.request.seed == 1
        return plan.request.temperature

    assert temperature() is None
    assert temperature(temperature=0.5) == 0.5
    assert temperature(allm.Request(messages=(allm.user("hi"),), temperature=0.25)) == 0.25
    allm.configure(params={"temperature": 0.75})
    assert temperature() == 0.75
    allm.configure()
    assert temperature() is None
    assert make_plan(engine.merge(params={"seed": 2}), "hi", {})[0].request.seed == 2
    assert engine == allm.Engine("fake:m", params={"seed": 1})


def test_a_provider_that_is_registered_anew_is_asked_by_engines_that_have_called_the_old_one() -> None:
    engine = allm.Engine("changing:m")
    for adapter in (FakeAdapter([HELLO]), FakeAdapter([HELLO])):
        allm.register_provider("changing", [adapter].pop)
        assert make_plan(engine, "hi", {})[0].adapter is adapter


def test_calls_of_an_engine_share_no_context() -> None:
    engine = allm.Engine("fake:m", context={"tenant": "a"})
    make_plan(engine, "hi", {})[0].context["tenant"] = "b"
    assert make_plan(engine, "hi", {"context": {"user": "c"}})[0].context == {"tenant": "a", "user": "c"}
    assert make_plan(engine, "hi", {"session_id": "s"})[0].session_id == "s"
    assert make_plan(engine, "hi", {})[0].context == {"tenant": "a"}
    assert make_plan(engine, "hi", {})[0].session_id is None
