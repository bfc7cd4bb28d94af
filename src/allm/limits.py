"""Deadlines and caps as data. Durations are seconds, sizes are bytes; `None` means no bound."""

from __future__ import annotations

from msgspec import Struct


class Timeouts(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`first_event`: from the request sent to the first event. `idle`: between two events, bytes that
    make no event (keep-alives) do not count. `request`: one model call with all its reading.
    `run`: everything, tools and retries included. `tool`: each tool that has no timeout of its own.
    """

    connect: float | None = 10.0
    first_event: float | None = 120.0
    idle: float | None = 60.0
    request: float | None = 600.0
    run: float | None = None
    tool: float | None = 30.0


class Limits(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a server may make us hold. `event`: one SSE event or line; `body`: one whole answer;
    `error_body`: what is read of a refusal."""

    event: int = 32 * 1024 * 1024
    body: int = 256 * 1024 * 1024
    error_body: int = 256 * 1024
