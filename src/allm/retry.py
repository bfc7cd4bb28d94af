"""When to try again, and after how long: policy as data, the decision a pure function."""

from __future__ import annotations

from math import isfinite

from msgspec import Struct

from allm.data.failure import RETRYABLE, ErrorInfo
from allm.errors import ValidationError


def _waited(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and isfinite(value) and value >= 0


class RetryPolicy(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`attempts` in total. Delays are seconds: `base_delay` doubles up to `max_delay`, of which a
    random share is waited (full jitter), plus up to `added_jitter`. A server's own wait is honoured up
    to `max_retry_after`; a longer one is not waited for and surfaces on the error. Raises
    `ValidationError` for what cannot be waited for or counted."""

    attempts: int = 3
    base_delay: float = 0.5
    max_delay: float = 8.0
    added_jitter: float = 0.0
    respect_retry_after: bool = True
    max_retry_after: float = 60.0
    retry_on: frozenset[str] = RETRYABLE

    def __post_init__(self) -> None:
        problems = [
            (name, "must_be_seconds_not_below_0")
            for name in ("base_delay", "max_delay", "added_jitter", "max_retry_after")
            if not _waited(getattr(self, name))
        ]
        if type(self.attempts) is not int or self.attempts < 1:
            problems.append(("attempts", "must_be_a_positive_integer: 1 is a single attempt"))
        if type(self.respect_retry_after) is not bool:
            problems.append(("respect_retry_after", "must_be_true_or_false"))
        if not isinstance(self.retry_on, frozenset | set):
            problems.append(("retry_on", "must_be_a_set_of_reasons"))
        if problems:
            raise ValidationError.of("invalid retry policy", *problems)


NO_RETRY = RetryPolicy(attempts=1)


def delay_before_next(policy: RetryPolicy, attempt: int, error: ErrorInfo, draw: float) -> float | None:
    """Seconds to wait after failed attempt `attempt` (1-based), or `None` to give up.

    `draw` is a random number in [0, 1).
    """
    if attempt >= policy.attempts or error.reason not in policy.retry_on or not error.retryable:
        return None
    extra = policy.added_jitter * draw
    if policy.respect_retry_after and error.retry_after is not None and error.retry_after > 0:
        return error.retry_after + extra if error.retry_after <= policy.max_retry_after else None
    return float(min(policy.max_delay, policy.base_delay * 2.0 ** (attempt - 1)) * draw) + extra
