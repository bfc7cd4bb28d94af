"""Costs from prices, for a million tokens, on the usage of every answer; not known is `None`, never 0."""

from __future__ import annotations

import json
from typing import Any

import pytest

import allm
from allm.data.events import MessageCompleted, UsageReported
from allm.prices import price_of, priced
from tests.faces import Face
from tests.test_loop import DONE, Script, calls, double, fake

PRICE = allm.Price(input=2, output=10, cache_read=0.5, cache_write=4)
USAGE: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 500}


@pytest.mark.parametrize(
    ("price", "usage", "costs"),
    [
        (PRICE, USAGE, (0.002, 0.005, 0.007)),
        (PRICE, {**USAGE, "cached_input_tokens": 400}, (0.0014, 0.005, 0.0064)),
        (PRICE, {**USAGE, "cache_write_input_tokens": 100}, (0.0022, 0.005, 0.0072)),
        (PRICE, {**USAGE, "cached_input_tokens": 1000}, (0.0005, 0.005, 0.0055)),
        (PRICE, {**USAGE, "reasoning_tokens": 300}, (0.002, 0.005, 0.007)),
        (PRICE, {"input_tokens": 1000}, (0.002, None, None)),
        (PRICE, {"output_tokens": 500}, (None, 0.005, None)),
        (PRICE, {}, (None, None, None)),
        (allm.Price(input=2), USAGE, (0.002, None, None)),
        (allm.Price(output=10), USAGE, (None, 0.005, None)),
        (allm.Price(input=2, output=10), {**USAGE, "cached_input_tokens": 1}, (None, 0.005, None)),
        (allm.Price(input=2, output=10), {**USAGE, "cached_input_tokens": 0}, (0.002, 0.005, 0.007)),
        (allm.Price(input=2, output=0), {"input_tokens": 1000}, (0.002, 0.0, 0.002)),
        (allm.Price(input=0, output=0), {}, (0.0, 0.0, 0.0)),
        (PRICE, {**USAGE, "input_cost": 1.0}, (1.0, 0.005, 1.005)),
        (PRICE, {**USAGE, "total_cost": 3.0}, (None, None, 3.0)),
    ],
)
def test_f060_costs(price: allm.Price, usage: dict[str, Any], costs: tuple[float | None, ...]) -> None:
    found = priced(allm.Usage(**usage), price)
    assert (found.input_cost, found.output_cost, found.total_cost) == pytest.approx(costs)
    assert found.input_tokens == usage.get("input_tokens")


def answer(**usage: Any) -> Script:
    return [{"text": "Hi"}, {"usage": usage}]


def test_the_usage_of_an_answer_has_its_costs(face: Face) -> None:
    call: Script = [*calls(("c", "double", {"n": 1})), {"usage": USAGE}]
    engine = fake(call, answer(**USAGE), tools=[double], model="m", prices={"m": PRICE})
    seen = face.events(engine, "go")
    reported = [event.usage.total_cost for event in seen.events if isinstance(event, UsageReported)]
    completed = [
        event.response.usage.total_cost
        for event in seen.events
        if isinstance(event, MessageCompleted) and event.response.usage
    ]
    assert reported == completed == pytest.approx([0.007, 0.007])
    assert seen.result.usage.total_cost == pytest.approx(0.014)
    assert allm.fold(seen.events, seen.result.base) == seen.result
    assert face.generate(fake(answer(**USAGE)), "hi").usage.total_cost is None  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["openai:gpt-x", "gpt-x"])
def test_a_price_is_found_by_model_with_or_without_its_provider(name: str) -> None:
    ref = allm.ModelRef("openai", "gpt-x")
    assert price_of([None, {}, {name: PRICE}], ref) == PRICE
    assert price_of([{name: PRICE}, {"gpt-x": allm.Price()}], ref) == PRICE
    assert price_of([{"groq:gpt-x": PRICE, "gpt": PRICE}], ref) is None


def test_the_call_wins_over_the_engine_and_that_over_the_application() -> None:
    def cost(**options: Any) -> float | None:
        engine = fake(answer(**USAGE), model="m", prices={"m": allm.Price(input=1, output=0)})
        usage = allm.generate(engine, "hi", **options).usage
        assert usage is not None
        return usage.total_cost

    allm.configure(prices={"m": PRICE, "n": allm.Price(input=3, output=0)})
    try:
        assert cost() == pytest.approx(0.001)
        assert cost(prices={"m": allm.Price(input=5, output=0)}) == pytest.approx(0.005)
        assert cost(prices={"other": PRICE}) == pytest.approx(0.001)
        assert cost(model="n") == pytest.approx(0.003)
    finally:
        allm.configure()


def test_a_budget_of_money_counts_by_the_prices(face: Face) -> None:
    call: Script = [*calls(("c", "double", {"n": 1})), {"usage": USAGE}]
    engine = fake(*[call] * 5, tools=[double], model="m", prices={"m": PRICE})
    result = face.chat(engine, "go", budget=allm.Budget(cost=0.01))
    assert (result.halted_reason, len(result.steps)) == ("budget", 2)
    assert result.metadata["budget"] == {"kind": "cost", "spent": pytest.approx(0.014), "limit": 0.01}
    assert [step.response.warnings for step in result.steps] == [(), ()]


CACHED: dict[str, Any] = {"input_tokens": 1_000_000, "output_tokens": 10, "cached_input_tokens": 1}


def test_a_budget_of_money_holds_where_cached_tokens_have_no_price(face: Face) -> None:
    call: Script = [*calls(("c", "double", {"n": 1})), {"usage": CACHED}]
    engine = fake(*[call] * 5, tools=[double], model="m", prices={"m": allm.Price(input=3, output=15)})
    result = face.chat(engine, "go", budget=allm.Budget(cost=1.0))
    assert (result.halted_reason, len(result.steps), result.usage.total_cost) == ("budget", 1, None)
    assert result.metadata["budget"]["spent"] == pytest.approx(3.00015)
    assert ["Budget.cost" in line for line in result.steps[0].response.warnings] == [True]


@pytest.mark.parametrize(
    ("price", "spent"), [(allm.Price(input=3), 3.0), (allm.Price(output=0), 0.0), (allm.Price(), 0.0)]
)
def test_a_cost_that_is_known_in_part_counts_and_is_warned_of(price: allm.Price, spent: float) -> None:
    engine = fake([{"text": "Hi"}, {"usage": CACHED}], model="m", prices={"m": price})
    told: list[Any] = []
    result = allm.chat(engine, "go", budget=allm.Budget(cost=3.1), on_event=told.append)
    assert ["Budget.cost" in line for line in result.steps[0].response.warnings] == [True]
    soft = [event.data["spent"] for event in told if isinstance(event, allm.RawChunk)]
    assert soft == ([pytest.approx(spent)] if spent else [])


def test_a_fallback_has_the_price_of_its_own_model(face: Face) -> None:
    other = fake(answer(**USAGE), model="n")
    prices = {"m": PRICE, "n": allm.Price(input=1, output=0)}
    engine = fake([{"error": "overloaded"}], model="m", fallbacks=[other])
    response = face.generate(engine, "hi", prices=prices, retry=False)
    assert response.usage is not None
    assert response.usage.total_cost == pytest.approx(0.001)


def test_prices_are_stored_with_the_engine() -> None:
    engine = allm.Engine("fake:m", prices={"m": PRICE}).merge(prices={"n": allm.Price(input=1)})
    loaded = allm.Engine.from_data(json.loads(json.dumps(engine.to_data())))
    assert loaded.prices == engine.prices == {"m": PRICE, "n": allm.Price(input=1)}
    with pytest.raises(allm.ValidationError, match="stored engine"):
        allm.Engine.from_data({"model": "fake:m", "prices": {"m": {"input": -1}}})


def test_embeddings_have_a_price_too() -> None:
    engine = allm.Engine(embed_adapter="fake", prices={"fake": allm.Price(input=1, output=0)})
    usage = allm.embed(engine, ["a", "b"]).usage
    assert usage is not None
    assert usage.total_cost == pytest.approx((usage.input_tokens or 0) / 1e6)


def test_answers_without_usage_stay_without(face: Face) -> None:
    engine = fake(DONE, model="m", prices={"m": PRICE})
    assert face.generate(engine, "hi").usage is None
