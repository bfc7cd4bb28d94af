"""The exceptions. Each is made from an `ErrorInfo`, pickles, and may carry the partial result.

`raised(info)` turns a failure that arrived as data into the exception of its class; `TABLE` is the
one place that maps reasons to classes.
"""

from __future__ import annotations

from typing import Any, Final

from allm.data.failure import ErrorInfo


class AllmError(Exception):
    """Anything this library raises. `.info` is the failure as data, `.partial` what had arrived."""

    reason: str = "provider_error"

    def __init__(self, info: ErrorInfo | str, partial: Any = None) -> None:
        if isinstance(info, str):
            info = ErrorInfo(reason=self.reason, message=info)
        super().__init__(info)
        self.info = info
        self.partial = partial

    def __str__(self) -> str:
        info = self.info
        where = " ".join(str(part) for part in (info.provider, info.model, info.status) if part is not None)
        text = f"{info.reason}: {info.message}" if info.message else info.reason
        return f"{where}: {text}" if where else text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.info, self.partial)


class ConfigurationError(AllmError):
    """The engine or the call is set up in a way that cannot work; nothing was sent."""

    reason = "configuration"


class MissingKeyError(ConfigurationError):
    """No API key on any level; the message names the variable and the levels searched."""


class UnknownProviderError(ConfigurationError):
    """No adapter of that name is built in, registered or installed."""


class UnknownOptionError(ConfigurationError, TypeError):
    """An option nobody knows; the message names the nearest right one."""


class ValidationError(AllmError, ValueError):
    """Input that cannot be used. `.errors` holds every problem as a (path, reason) pair."""

    reason = "invalid_input"

    @property
    def errors(self) -> tuple[tuple[str, str], ...]:
        return self.info.problems

    @classmethod
    def of(cls, message: str, *problems: tuple[str, str]) -> ValidationError:
        """Build the error from its problems; they are listed in the message as well."""
        listed = "; ".join(f"{path or 'input'}: {reason}" for path, reason in problems)
        text = f"{message}: {listed}" if listed else message
        return cls(ErrorInfo(reason=cls.reason, message=text, problems=problems, phase="input"))


class UnsupportedError(ValidationError):
    """The model or provider cannot do what the request asks for."""

    reason = "unsupported"


class ProviderError(AllmError):
    """The provider answered, and the answer was no."""


class AuthenticationError(ProviderError):
    reason = "authentication_failed"


class PermissionDeniedError(ProviderError):
    reason = "permission_denied"


class NotFoundError(ProviderError):
    reason = "not_found"


class InvalidRequestError(ProviderError):
    reason = "invalid_request"


class ContextLengthError(InvalidRequestError):
    reason = "context_length_exceeded"


class ContentFilteredError(ProviderError):
    reason = "content_filter"


class RateLimitError(ProviderError):
    reason = "rate_limited"


class QuotaExceededError(ProviderError):
    reason = "quota_exceeded"


class OverloadedError(ProviderError):
    reason = "overloaded"


class ServerError(ProviderError):
    reason = "provider_unavailable"


class TransportError(AllmError):
    """The connection failed before, during or after the request."""

    reason = "network_error"


class ConnectionFailedError(TransportError):
    pass


class TLSError(TransportError):
    reason = "tls_error"


class DeadlineExceededError(TransportError, TimeoutError):
    reason = "timeout"


class StreamInterruptedError(TransportError):
    """The stream ended before the provider said that the answer was complete."""

    reason = "stream_interrupted"


class RedirectRefusedError(TransportError):
    reason = "redirect_refused"


class CancelledError(AllmError):
    """The stream was cancelled with `.cancel()` while somebody waited for its result."""

    reason = "cancelled"


class WireError(AllmError):
    """An answer nobody can read."""

    reason = "malformed_response"


class LimitExceededError(WireError):
    """A cap on size or count was crossed."""

    reason = "limit_exceeded"


class OutputError(AllmError, ValueError):
    """Structured output that does not fit its schema: `.errors` says where and why, `.text` is the answer."""

    reason = "output_invalid"

    @property
    def errors(self) -> tuple[tuple[str, str], ...]:
        return self.info.problems

    @property
    def text(self) -> str:
        return str(self.info.extra.get("text", ""))


class ToolError(AllmError):
    """A tool failed and the policy was to stop."""

    reason = "tool_failed"


class SessionError(AllmError):
    """The operation does not fit the session's status, or a stored document cannot be loaded."""

    reason = "session_invalid"


TABLE: Final[dict[str, type[AllmError]]] = {
    "rate_limited": RateLimitError,
    "quota_exceeded": QuotaExceededError,
    "authentication_failed": AuthenticationError,
    "permission_denied": PermissionDeniedError,
    "not_found": NotFoundError,
    "invalid_request": InvalidRequestError,
    "context_length_exceeded": ContextLengthError,
    "content_filter": ContentFilteredError,
    "overloaded": OverloadedError,
    "provider_unavailable": ServerError,
    "provider_error": ProviderError,
    "network_error": ConnectionFailedError,
    "tls_error": TLSError,
    "timeout": DeadlineExceededError,
    "stream_interrupted": StreamInterruptedError,
    "redirect_refused": RedirectRefusedError,
    "protocol_error": WireError,
    "malformed_response": WireError,
    "limit_exceeded": LimitExceededError,
    "output_invalid": OutputError,
    "tool_failed": ToolError,
    "session_invalid": SessionError,
    "configuration": ConfigurationError,
    "invalid_input": ValidationError,
    "unsupported": UnsupportedError,
    "cancelled": CancelledError,
}


def raised(info: ErrorInfo, partial: Any = None) -> AllmError:
    """The exception for a failure: `raise raised(info, fold)`."""
    return TABLE.get(info.reason, AllmError)(info, partial)


KINDS: Final[dict[str, str]] = {
    "stream_interrupted": "truncated",
    "malformed_response": "decode",
    "protocol_error": "protocol",
    "network_error": "connect",
    "tls_error": "tls",
    "timeout": "timeout",
    "limit_exceeded": "limit",
    "redirect_refused": "redirect",
    "tool_failed": "tool",
    "cancelled": "cancelled",
}
"""The coarse word for a reason, as fault matrices and dashboards group failures; absent ones are `status`."""
