"""The account of one run against its `Budget`, and the generators that ask it. Loaded where one is set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from allm.budget import Budget
from allm.data.events import Event, RawChunk, ReasoningDelta, TextDelta, ToolCallDelta, UsageReported
from allm.data.failure import ErrorInfo
from allm.data.responses import Response, Usage
from allm.errors import raised
from allm.loops.effects import Elapsed, Loop, ask
from allm.prices import Price, in_full, priced

CHARACTERS: Final = 4  # of a token, roughly; used until the provider reports
UNPRICED: Final = (
    "Budget.cost: not all that this answer cost is known (see allm.Price): "
    "cached tokens count as the rest of the prompt does, all else as nothing"
)


class Meter:
    """What the run has spent. `count` takes the events of the answer that is coming, `close` ends it."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.tokens = 0
        self.cost = 0.0
        self.seconds = 0.0
        self._told: set[str] = set()
        self.open()

    def open(self, price: Price | None = None) -> None:
        """An answer of a model with that price begins; what a failed attempt had brought is forgotten."""
        self._price = None if price is None else in_full(price)
        self._characters = 0
        self._usage: Usage | None = None

    def count(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, (TextDelta, ReasoningDelta, ToolCallDelta)):
                self._characters += len(event.text)
            elif type(event) is UsageReported:
                self._usage = event.usage

    def close(self, usage: Usage | None) -> None:
        """The answer is whole; what its provider reports holds over the estimate."""
        usage = usage or self._usage
        self.tokens += _tokens(usage, 0 if usage is not None else self._characters // CHARACTERS)
        self.cost += _cost(usage, self._price)
        self.open()

    @property
    def spent(self) -> dict[str, float]:
        open_tokens = _tokens(self._usage, self._characters // CHARACTERS)
        return {
            "tokens": self.tokens + open_tokens,
            "cost": self.cost + _cost(self._usage, self._price),
            "seconds": self.seconds,
        }

    def reached(self, share: float) -> list[tuple[str, float, float]]:
        """The bounds of which that share is spent: name, spent, limit."""
        spent = self.spent
        limits = self.budget.limits.items()
        return [(name, spent[name], limit) for name, limit in limits if spent[name] >= share * limit]

    def soft(self) -> list[RawChunk]:
        """The events of the soft limits that were reached since this was asked last."""
        new = [found for found in self.reached(self.budget.soft) if found[0] not in self._told]
        self._told.update([name for name, _, _ in new])
        return [
            RawChunk({"type": "budget", "kind": name, "spent": spent, "limit": limit})
            for name, spent, limit in new
        ]

    def warned(self) -> Loop[None]:
        """The events of soft limits; the clock is asked where the budget has one."""
        if self.budget.seconds is not None:
            self.seconds = yield from ask(Elapsed())
        yield from self.soft()

    def exceeded(self, *kinds: str) -> ErrorInfo | None:
        """The failure of a run whose budget is spent; `None` while it is not. `kinds`: only those."""
        for name, spent, limit in self.reached(1.0):
            if not kinds or name in kinds:
                text = f"the budget is spent: {spent:g} of {limit:g} {_UNITS[name]} (Budget.{name})"
                extra = {"budget": {"kind": name, "spent": spent, "limit": limit}}
                return ErrorInfo(reason="limit_exceeded", code="budget", message=text, extra=extra)
        return None

    def watched(self, events: Iterable[Event], begun: bool) -> Loop[None]:
        """Count what came of the open answer; raises `LimitExceededError` where a bound is reached.

        Where content has `begun`, a report of tokens alone ends nothing: it comes last, and the answer is
        as good as whole.
        """
        before = self._characters
        self.count(events)
        yield from self.warned()
        grows = self._characters > before or not begun
        info = self.exceeded() if grows else self.exceeded("seconds")
        if info is not None:
            raise raised(info)

    def between(self) -> Loop[ErrorInfo | None]:
        """Asked before a further turn."""
        yield from self.warned()
        return self.exceeded()

    def cause(self, info: ErrorInfo) -> Loop[ErrorInfo]:
        """The failure as it counts: a deadline that passed because the seconds are over is the budget's."""
        if info.reason != "timeout" or self.budget.seconds is None:
            return info
        self.seconds = yield from ask(Elapsed())
        return self.exceeded() or info

    def accounted(self, response: Response) -> Loop[Response]:
        """The whole response, with a warning where its cost is not known or only in part."""
        yield from self.warned()
        if self.budget.cost is None or _is_priced(response.usage):
            return response
        return replace(response, warnings=(*response.warnings, UNPRICED))


def _tokens(usage: Usage | None, estimate: int) -> int:
    if usage is None:
        return estimate
    if usage.input_tokens is None and usage.output_tokens is None and usage.total_tokens is not None:
        return max(usage.total_tokens, estimate)
    return (usage.input_tokens or 0) + max(usage.output_tokens or 0, estimate)


def _cost(usage: Usage | None, price: Price | None) -> float:
    """US dollars, as far as they are known: what the provider reports, or whoever filled the usage in, and
    what the price gives for the rest."""
    if usage is None:
        return 0.0
    if price is not None:
        usage = priced(usage, price)
    if usage.total_cost is not None:
        return usage.total_cost
    return (usage.input_cost or 0.0) + (usage.output_cost or 0.0)


def _is_priced(usage: Usage | None) -> bool:
    """Whether all that it cost is known."""
    if usage is None:
        return False
    return usage.total_cost is not None or None not in (usage.input_cost, usage.output_cost)


_UNITS: Final = {"tokens": "tokens", "cost": "US dollars", "seconds": "seconds"}
