"""Deadlines and caps as data. Durations are seconds, sizes are bytes; `None` means no bound."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from msgspec import Struct

from allm.errors import ValidationError


class Timeouts(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`first_event`: from the request sent to the first event. `idle`: between two events, bytes that
    make no event (keep-alives) do not count. `request`: one model call with all its reading.
    `run`: everything, tools and retries included. `tool`: each tool that has no timeout of its own.
    Raises `ValidationError` for what is no positive number of seconds.
    """

    connect: float | None = 10.0
    first_event: float | None = 120.0
    idle: float | None = 60.0
    request: float | None = 600.0
    run: float | None = None
    tool: float | None = 30.0

    def __post_init__(self) -> None:
        _check(self, "timeouts", "must_be_positive_seconds_or_None", _seconds)


class Limits(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a server may make us hold. `event`: one SSE event or line; `body`: one whole answer;
    `error_body`: what is read of a refusal. Raises `ValidationError` for what is no positive integer."""

    event: int = 32 * 1024 * 1024
    body: int = 256 * 1024 * 1024
    error_body: int = 256 * 1024

    def __post_init__(self) -> None:
        _check(self, "limits", "must_be_a_positive_integer", lambda value: type(value) is int and value > 0)


def _check(value: Struct, what: str, words: str, fits: Callable[[Any], bool]) -> None:
    problems = [(name, words) for name in value.__struct_fields__ if not fits(getattr(value, name))]
    if problems:
        raise ValidationError.of(f"invalid {what}", *problems)


def _seconds(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and type(value) is not bool and isfinite(value) and value > 0
