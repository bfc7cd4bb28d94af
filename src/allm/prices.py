"""What tokens cost: prices as data, and usage with its costs filled in. Pure; loaded where a run has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from allm.data.events import MessageCompleted, UsageReported
from allm.data.requests import ModelRef
from allm.data.responses import Usage
from allm.errors import ValidationError

_MILLION = 1_000_000


class Price(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """US dollars for a million tokens: of the prompt, of the answer, of what is read from a cache and what is
    written to it. `None` is not known, and so is the cost of a call that used such tokens.

    `Engine(..., prices={"openai:gpt-6-luna": Price(input=0.25, output=2, cache_read=0.025)})`, or with a
    call; a bare model id stands for that model at any provider. The costs are on `Usage`; those that a
    provider reports itself stay. Raises `ValidationError` for what is no price.
    """

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        problems = [
            (name, "must_be_a_number_not_below_0")
            for name, value in given.items()
            if value is not None and not _is_price(value)
        ]
        if problems:
            raise ValidationError.of("invalid price", *problems)


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and isfinite(value) and value >= 0


def price_of(levels: Iterable[Mapping[str, Price] | None], ref: ModelRef) -> Price | None:
    """The price of a model on the first level that has one."""
    for prices in levels:
        found = prices and (prices.get(str(ref)) or prices.get(ref.id))
        if found:
            return found
    return None


def in_full(price: Price) -> Price:
    """The price with that of the prompt for cached tokens that have none of their own: what is read from a
    cache costs no more."""
    read = price.input if price.cache_read is None else price.cache_read
    written = price.input if price.cache_write is None else price.cache_write
    return replace(price, cache_read=read, cache_write=written)


def priced(usage: Usage, price: Price) -> Usage:
    """The usage with its costs; those that it has stay, those that cannot be known are `None`."""
    if usage.total_cost is not None:
        return usage
    input_cost = _input_cost(usage, price) if usage.input_cost is None else usage.input_cost
    output_cost = _cost(usage.output_tokens, price.output) if usage.output_cost is None else usage.output_cost
    total_cost = _sum([input_cost, output_cost])
    return replace(usage, input_cost=input_cost, output_cost=output_cost, total_cost=total_cost)


def _input_cost(usage: Usage, price: Price) -> float | None:
    """The parts of the prompt, each at its own price; parts that were not used need none."""
    if usage.input_tokens is None:
        return _cost(None, price.input)
    read, written = usage.cached_input_tokens or 0, usage.cache_write_input_tokens or 0
    parts = (
        (usage.input_tokens - read - written, price.input),
        (read, price.cache_read),
        (written, price.cache_write),
    )
    return _sum([_cost(tokens, rate) for tokens, rate in parts if tokens])


def _sum(costs: list[float | None]) -> float | None:
    """The whole, unless one is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _cost(tokens: int | None, rate: float | None) -> float | None:
    """What is free costs nothing, however much it was."""
    if rate == 0:
        return 0.0
    return None if tokens is None or rate is None else tokens * rate / _MILLION


def with_costs(events: list[Any], price: Price) -> list[Any]:
    """The events of an answer, with costs on the usage that they report."""
    return [_with_cost(event, price) for event in events]


def _with_cost(event: Any, price: Price) -> Any:
    kind = type(event)
    if kind is UsageReported:
        return UsageReported(priced(event.usage, price))
    if kind is MessageCompleted and event.response.usage is not None:
        usage = priced(event.response.usage, price)
        return replace(event, response=replace(event.response, usage=usage))
    return event
