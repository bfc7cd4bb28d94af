"""What goes wrong with a call, as data and as the message that tells the model."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, Final

import msgspec

from allm.data.content import ToolCall
from allm.data.failure import ErrorInfo
from allm.data.messages import Message
from allm.errors import AllmError, ToolError

MAX_NAME: Final = 64
_MAX_MESSAGE: Final = 4000  # characters of an error's text that the model sees


def failure(name: str, call: ToolCall, code: str, message: str, **extra: Any) -> ErrorInfo:
    """The failure of a call, with reason `tool_failed` and its ids."""
    return ErrorInfo(
        reason="tool_failed",
        code=code,
        message=_clean(message),
        call_id=call.id,
        phase="tool",
        extra={"tool_name": name, **extra},
    )


def failed(tool_name: str, call: ToolCall, error: BaseException | ErrorInfo) -> ErrorInfo:
    """A failed execution as data, with reason `tool_failed` and the ids of the call.

    The code is the `ToolError`'s own, `handler_exit` for `SystemExit`, else `handler_raised`.
    """
    if isinstance(error, ToolError):
        error = error.info
    if isinstance(error, ErrorInfo):
        return msgspec.structs.replace(
            error,
            call_id=error.call_id or call.id,
            phase=error.phase or "tool",
            extra={"tool_name": tool_name, **error.extra},
        )
    code = "handler_exit" if isinstance(error, SystemExit) else "handler_raised"
    kind = type(error)
    try:
        text = error.info.message if isinstance(error, AllmError) else str(error)
    except Exception:  # an exception's own code may fail
        text = ""
    message = f"{kind.__name__}: {text}" if text else kind.__name__
    return failure(tool_name, call, code, message, exception=f"{kind.__module__}.{kind.__qualname__}")


def timed_out(tool_name: str, call: ToolCall, seconds: float) -> ErrorInfo:
    """The failure of a handler that did not end in time."""
    return failure(tool_name, call, "timeout", f"the tool {tool_name} gave no result within {seconds:g} s")


def interrupted(call: ToolCall) -> ErrorInfo:
    """The failure of a call of which nobody knows whether it ran: its run was cut and resumed."""
    text = (
        f"the run was interrupted while the tool {call.name} was running: it may or may not have taken "
        "effect, and was not run again"
    )
    return failure(call.name, call, "interrupted", text)


def not_run(call: ToolCall) -> ErrorInfo:
    """The failure of a call that was not run: its run was cut and not resumed."""
    return failure(call.name, call, "not_run", f"the tool {call.name} was not run: the run was interrupted")


def unknown_tool(call: ToolCall, names: Sequence[str]) -> ErrorInfo:
    """The failure of a call to a tool that does not exist; `names` are those that do."""
    known, name = ", ".join(names) or "none", call.name[:MAX_NAME]
    return failure(name, call, "not_found", f"there is no tool {name!r}; the tools are: {known}")


def invalid_arguments(name: str, call: ToolCall, found: list[tuple[str, str]]) -> ToolError:
    """The error for arguments with these problems: pairs of a path and a reason."""
    listed = "; ".join(f"{path}: {reason}" if path else reason for path, reason in found)
    info = failure(name, call, "invalid_arguments", f"invalid arguments for {name}: {listed}")
    return ToolError(msgspec.structs.replace(info, problems=tuple(found)))


def error_message(call: ToolCall, info: ErrorInfo) -> Message:
    """The tool message that tells the model: `{"error": "..."}`."""
    text = _clean(info.message or info.code or info.reason)
    content = msgspec.json.encode({"error": text}).decode()
    return Message("tool", content, tool_call_id=call.id, is_error=True)


def answers_of(
    calls: Sequence[ToolCall], given: Iterable[Message], started: Container[str]
) -> tuple[Message, ...]:
    """A message for each call of a step that is not gone on with, in call order: what is `given`, else that
    nobody knows whether it ran, where it had `started`, or that it was not run."""
    answers = {message.tool_call_id: message for message in given}
    return tuple(
        [
            answers.get(call.id)
            or error_message(call, interrupted(call) if call.id in started else not_run(call))
            for call in calls
        ]
    )


def _clean(text: str) -> str:
    return sendable(text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "...")


def sendable(text: str) -> str:
    """`text` with lone surrogates replaced: file names may hold some, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
