"""What one run may cost: the policy as data. It is counted in `allm.loops.budget`."""

from __future__ import annotations

from math import isfinite

from msgspec import Struct

from allm.errors import ValidationError


class Budget(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Bounds of one run: `tokens` (prompts and answers of all its turns), `cost` (US dollars) and `seconds`
    since it began, tools and waits included. At least one is set; what is `None` has no bound.

    At the share `soft` of a bound a `raw_chunk` tells, once for each: `{"type": "budget", "kind": "tokens",
    "spent": 850, "limit": 1000}`. At the whole of it the run ends. A chat halts with `halted_reason ==
    "budget"`: its thread holds every whole turn and can be resumed with a new budget. `generate` and `step`
    have no word for a halt and raise `LimitExceededError` (code `budget`).

    An answer that is coming is cut where it crosses a bound; one that came whole is kept, and so are the
    results of its tools. Until a provider reports, an answer counts a token for four characters. What a
    cost is not known of counts as nothing, cached tokens without a price of their own as the rest of the
    prompt; a warning on the response says so.

    Raises `ValidationError` for a bound that is not a positive number.
    """

    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    soft: float = 0.8

    def __post_init__(self) -> None:
        limits = {"tokens": self.tokens, "cost": self.cost, "seconds": self.seconds}
        given = {name: value for name, value in limits.items() if value is not None}
        problems = [
            (name, "must_be_a_positive_number") for name, value in given.items() if not _counts(value)
        ]
        if not given:
            problems.append(("budget", "needs_tokens_cost_or_seconds"))
        if not _counts(self.soft) or self.soft > 1:
            problems.append(("soft", "must_be_a_share_between_0_and_1"))
        if problems:
            raise ValidationError.of("invalid budget", *problems)

    @property
    def limits(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        limits = {"tokens": self.tokens, "cost": self.cost, "seconds": self.seconds}
        return {name: value for name, value in limits.items() if value is not None}


def _counts(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value > 0
