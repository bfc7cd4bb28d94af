"""When to try again, and after how long: policy as data, the decision a pure function."""

from __future__ import annotations

from msgspec import Struct

from allm.data.failure import RETRYABLE, ErrorInfo


class RetryPolicy(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`attempts` in total. Delays are seconds: `base_delay` doubles up to `max_delay`, of which a
    random share is waited (full jitter), plus up to `added_jitter`. A server's own wait is honoured up
    to `max_retry_after`; a longer one is not waited for and surfaces on the error."""

    attempts: int = 3
    base_delay: float = 0.5
    max_delay: float = 8.0
    added_jitter: float = 0.0
    respect_retry_after: bool = True
    max_retry_after: float = 60.0
    retry_on: frozenset[str] = RETRYABLE


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
