"""Refusals of all providers as `ErrorInfo`: one reading, one table of words.

Shapes read: `{"error": {...}}` (OpenAI, Anthropic, Gemini), `{"error": "text"}`, `{"message", "type",
"code"}` without `error` (Mistral), `{"detail"}` (FastAPI), a list of one of these (Gemini), and
OpenRouter's upstream error as JSON text in `error.metadata.raw`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from allm.data.failure import RETRYABLE, ErrorInfo

MAX_MESSAGE = 1000
_LONGEST_WAIT = 1e9  # seconds; an infinite Retry-After is still a number

_KEYS = re.compile(
    r"\b(?:sk|rk|pk|gsk|xai|pplx|csk|fw|tgp|r8|hf|nvapi)[-_][\w*.-]{8,}"
    r"|\bAIza[\w*-]{16,}|\bya29\.[\w*-]{8,}|\beyJ[\w-]{16,}(?:\.[\w-]+)*"
)
_LABELLED = re.compile(r"(?i)(\bbearer\s+|\bapi[ _-]?key(?:\s+provided)?['\"]?\s*[:=]\s*['\"]?)[^\s'\",;]+")
_CONTEXT = re.compile(
    r"(?i)context[ _-]?(?:length|window|size|limit)|prompt is too long|input is too long"
    r"|too many (?:input )?tokens|maximum (?:number of )?(?:input )?tokens? (?:allowed|exceeded)"
    r"|max allowed tokens per submitted batch"
)
_QUOTA = re.compile(r"(?i)insufficient[ _](?:quota|balance|credits?|funds)|exceeded your current quota")
_BAD_KEY = re.compile(r"(?i)api key not valid|incorrect api key|invalid api key|api_key_invalid")

_WORDS = {
    "context_length_exceeded": "context_length_exceeded",
    "max_tokens_per_request": "context_length_exceeded",  # of an embedding request, all inputs together
    "insufficient_quota": "quota_exceeded",
    "billing_hard_limit_reached": "quota_exceeded",
    "billing_not_active": "quota_exceeded",
    "invalid_api_key": "authentication_failed",
    "authentication_error": "authentication_failed",
    "permission_error": "permission_denied",
    "permission_denied": "permission_denied",
    "unsupported_country_region_territory": "permission_denied",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
    "responsibleaipolicyviolation": "content_filter",
    "moderation_blocked": "content_filter",
    "bio_policy": "content_filter",
    "misalignment_policy_violation": "content_filter",
    "image_content_policy_violation": "content_filter",
    "vector_store_timeout": "timeout",
    "model_not_found": "not_found",
    "deploymentnotfound": "not_found",
    "not_found_error": "not_found",
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
    "too_many_requests": "rate_limited",
    "overloaded_error": "overloaded",
    "engine_overloaded": "overloaded",
    "billing_error": "quota_exceeded",
    "enforced_spend_limit_reached": "quota_exceeded",
    "contract_spend_limit_reached": "quota_exceeded",
    "linked_organization_spend_limit_reached": "quota_exceeded",
    "timeout_error": "timeout",
    "deadline_exceeded": "timeout",
    "unauthenticated": "authentication_failed",
    "api_key_invalid": "authentication_failed",
    "not_found": "not_found",
    "resource_exhausted": "rate_limited",
    "unavailable": "overloaded",
    "internal": "provider_unavailable",
    "server_error": "provider_unavailable",
    "internal_server_error": "provider_unavailable",
    "api_error": "provider_unavailable",
}
_STATUSES = {
    401: "authentication_failed",
    402: "quota_exceeded",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    429: "rate_limited",
    498: "overloaded",
    503: "overloaded",
    529: "overloaded",
}


class Refusal(Struct, frozen=True):
    """An error object, whatever its shape. `status` is the HTTP status named inside it.

    `detail` is a finer word than `code` or `kind` where there is one; `wait` is seconds; `reason` is
    set where it is known without looking at the words; `request_id` is the one in the body.
    """

    message: str = ""
    code: str | None = None
    kind: str | None = None
    status: int | None = None
    wait: float | None = None
    detail: str | None = None
    reason: str | None = None
    request_id: str | None = None


def redacted(text: str, limit: int = MAX_MESSAGE) -> str:
    """`text` without what looks like a key, at most `limit` characters."""
    text = _LABELLED.sub(r"\1[redacted]", _KEYS.sub("[redacted]", text[: limit * 4]))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_refusal(value: Any) -> Refusal:
    """The facts in a decoded error body or error chunk."""
    if isinstance(value, list):
        value = value[0] if value else {}
    if not isinstance(value, dict):
        return Refusal(_text(value))
    error = value.get("error")
    if not isinstance(error, dict):
        flat = {"message": error, "code": value.get("code"), "type": value.get("type")}
        error = flat if error else value
    id = value.get("request_id")
    return _from_object(error, id[:200] if isinstance(id, str) and id else None)


def _from_object(error: dict[str, Any], request_id: str | None) -> Refusal:
    message = _text(
        error.get("message")
        or error.get("detail")
        or error.get("errors")
        or error.get("error")
        or error.get("msg")
    )
    upstream = _upstream(error.get("metadata"))
    if upstream and upstream not in message:
        message = f"{message} ({upstream})" if message else upstream
    code = error.get("code")
    inner = error.get("innererror")
    if code is None and isinstance(inner, dict):
        code = inner.get("code")
    status = next((n for n in map(_status, (error.get("status_code"), error.get("status"), code)) if n), None)
    kind = error.get("type") or error.get("status")
    return Refusal(
        message,
        None if code in (None, "") else str(code),
        kind if isinstance(kind, str) else None,
        status,
        _retry_info(error.get("details")),
        _detail(error.get("details")),
        request_id=request_id,
    )


def _detail(details: Any) -> str | None:
    """Anthropic's `details.error_code`; the `reason` in Google's list of details."""
    for detail in details if isinstance(details, list) else (details,):
        if isinstance(detail, dict):
            word = detail.get("error_code") or detail.get("reason")
            if isinstance(word, str):
                return word
    return None


def _text(value: Any) -> str:
    """The readable part of a message that may be text, an object, or a list of problems."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_text, value[:5])))
    if isinstance(value, dict):
        text = _text(value.get("message") or value.get("msg") or value.get("detail"))
        where = value.get("loc")
        return f"{'.'.join(map(str, where))}: {text}" if isinstance(where, list) and text else text
    return "" if value is None else str(value)


def _upstream(metadata: Any) -> str:
    if not isinstance(metadata, dict):
        return ""
    raw = metadata.get("raw")
    if isinstance(raw, str):
        with suppress(msgspec.DecodeError, RecursionError, UnicodeError):
            raw = msgspec.json.decode(raw)
    text = raw if isinstance(raw, str) else read_refusal(raw).message if raw else ""
    name = metadata.get("provider_name")
    return f"{name}: {text}" if text and name else text


def _status(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if type(value) is int and 400 <= value <= 599 else None


def _retry_info(details: Any) -> float | None:
    """Seconds from Google's `RetryInfo`, which its OpenAI endpoint passes on."""
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and delay.endswith("s"):
            return _seconds(delay[:-1])
    return None


def classify(refusal: Refusal, status: int) -> str:
    """The `reason`: by the provider's own words first, then by phrases, then by the status."""
    for word in (refusal.detail, refusal.code, refusal.kind):
        found = _WORDS.get(word.lower()) if word else None
        if found == "not_found" and status == 400:  # OpenAI's Responses, of a model's name
            return "invalid_request"
        if found is not None:
            return found
    message = refusal.message
    if status in (200, 400, 413, 422) and _CONTEXT.search(message):
        return "context_length_exceeded"
    if _QUOTA.search(message):
        return "quota_exceeded"
    if status == 400 and _BAD_KEY.search(message):
        return "authentication_failed"
    return by_status(status)


def by_status(status: int) -> str:
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= 500:
        return "provider_unavailable"
    if status >= 400:
        return "invalid_request"
    return "protocol_error" if status >= 300 else "provider_error"


def explained(provider: str, status: int, headers: Mapping[str, str], body: bytes) -> ErrorInfo:
    """An HTTP refusal as `ErrorInfo`; `headers` may be in any case."""
    try:
        value: Any = msgspec.json.decode(body) if body.strip() else None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        value = _plain_text(body)
    return refused(provider, status, {k.lower(): v for k, v in headers.items()}, read_refusal(value))


def refused(
    provider: str, status: int, headers: Mapping[str, str], refusal: Refusal, phase: str = "response"
) -> ErrorInfo:
    """The failure for a refusal; one inside a 200 answer takes the status that it names itself."""
    effective = refusal.status or status if status < 400 else status
    reason = refusal.reason or classify(refusal, effective)
    wait = retry_after(headers) if refusal.reason is None else None
    if wait is None:
        wait = refusal.wait
    retryable = reason in RETRYABLE or effective == 409
    hint = headers.get("x-should-retry")
    if hint in ("true", "false"):
        retryable = hint == "true"
    return ErrorInfo(
        reason=reason,
        message=redacted(refusal.message) or f"HTTP status {effective} with no explanation",
        provider=provider,
        status=effective,
        code=redacted(refusal.code, 100) if refusal.code else None,
        request_id=request_id(headers) or refusal.request_id,
        retry_after=wait,
        retryable=retryable,
        phase=phase,
    )


def _plain_text(body: bytes) -> str:
    text = body[:4000].decode("utf-8", "replace").strip()
    return "an HTML page" if text.startswith("<") else text[:500]


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's id of the request; header names in lower case."""
    for name in (
        "x-request-id",
        "request-id",
        "apim-request-id",
        "x-groq-request-id",
        "x-generation-id",
        "cf-ray",
    ):
        if headers.get(name):
            return headers[name][:200]
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait from `retry-after-ms` or `retry-after` (seconds or a date); nonsense is `None`."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is not None or not value or len(value) > 64:
        return seconds
    return _until(value, headers.get("date"))


def _seconds(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    if number == float("inf"):
        return _LONGEST_WAIT
    return min(number, _LONGEST_WAIT) if isfinite(number) and number > 0 else None


def _until(moment: str, now: str | None) -> float | None:
    """Seconds between two HTTP dates; `now` is the answer's own, or the time the driver noted."""
    from email.utils import parsedate_to_datetime

    try:
        then = parsedate_to_datetime(moment).timestamp()
        start = parsedate_to_datetime(now or "").timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    wait = then - start
    return wait if wait > 0 else None
