"""ErrorInfo: a failure as plain data, and the closed set of words for its `reason`."""

from __future__ import annotations

from typing import Any, Final

from allm.data import Data

REASONS: Final = frozenset(
    {
        "rate_limited", "quota_exceeded", "authentication_failed", "permission_denied", "not_found",
        "invalid_request", "context_length_exceeded", "content_filter", "overloaded", "provider_unavailable",
        "provider_error", "network_error", "tls_error", "timeout", "stream_interrupted", "redirect_refused",
        "protocol_error", "malformed_response", "limit_exceeded", "output_invalid", "tool_failed",
        "session_invalid", "configuration", "invalid_input", "unsupported", "cancelled",
    }
)  # fmt: skip

RETRYABLE: Final = frozenset(
    {"rate_limited", "overloaded", "provider_unavailable", "network_error", "timeout", "stream_interrupted"}
)


class ErrorInfo(Data, frozen=True, kw_only=True):
    """What went wrong, as data: it serialises, travels in events and becomes an exception.

    `reason` is one of `REASONS`; `message` is readable and never holds a key, a header or a raw
    body. `delay`-like fields are seconds. `phase` says how far the call had come: `connect`,
    `response` (headers awaited), `stream` (bytes were arriving), `output` (the answer was complete),
    `tool`, `input`.
    """

    reason: str
    message: str = ""
    provider: str | None = None
    model: str | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    call_id: str | None = None
    attempts: int | None = None
    elapsed: float | None = None
    retry_after: float | None = None
    retryable: bool = False
    phase: str | None = None
    problems: tuple[tuple[str, str], ...] = ()  # (path, reason) pairs of a validation
    extra: dict[str, Any] = {}
