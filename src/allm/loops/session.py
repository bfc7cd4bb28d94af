"""Layer D, pure: which operation is legal when, and what a run makes of its session."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from allm.data.failure import ErrorInfo
from allm.data.messages import Message, Thread, user
from allm.data.responses import ChatResult, StepResult
from allm.data.sessions import Session, SessionTurn
from allm.errors import SessionError
from allm.loops.plan import read_input


def begun(input: Any, id: str | None) -> Session:
    """A new session from a thread, messages or text; a session that is idle or completed is taken on."""
    if isinstance(input, Session):
        _require(input, "start", "idle", "completed")
        return input if id is None else replace(input, id=id)
    return Session(id=id, thread=read_input(input)[1])


def replied(session: Session, content: Any) -> Session:
    """The session with the user's answer or next message appended."""
    _require(session, "reply", "idle", "completed", "awaiting_user", "error")
    message = content if isinstance(content, Message) else user(content)
    return _ready(session, session.thread.add_message(message))


def resumed(session: Session, message: Any = None) -> Session:
    """The session made ready to go on, with a message appended if one is given."""
    _require(session, "resume", "idle", "completed", "awaiting_user", "awaiting_tools", "error")
    if session.status == "awaiting_tools" and (session.pending_tool_calls or message is not None):
        ids = ", ".join(call.id for call in session.pending_tool_calls)
        raise _refused(session, "resume", f"answer the pending calls first with submit_tool_result ({ids})")
    if message is None:
        if session.status == "awaiting_user":
            raise _refused(session, "resume", "the user was asked something: pass the answer, or use reply")
        return _ready(session, session.thread)
    return replied(session, message)


def stepped(session: Session) -> Session:
    _require(session, "step", "idle", "completed", "error")
    return _ready(session, session.thread)


def _ready(session: Session, thread: Thread) -> Session:
    return replace(
        session, thread=thread, status="idle", pending_question=None, pending_tool_call_id=None, error=None
    )


def _require(session: Session, operation: str, *allowed: str) -> None:
    if not isinstance(session, Session):
        raise SessionError(f"{operation} takes a Session, not {type(session).__name__!r}")
    if session.status not in allowed:
        raise _refused(session, operation, f"it is legal from {', '.join(allowed)}")


def _refused(session: Session, operation: str, why: str) -> SessionError:
    text = f"cannot {operation} a session whose status is {session.status}: {why}"
    return SessionError(
        ErrorInfo(reason="session_invalid", code="invalid_status_for_operation", message=text)
    )


def turned(before: Session, ready: Session, result: ChatResult | StepResult) -> SessionTurn:
    """What the run made of the session. A cancelled run leaves it as it was before."""
    made = 1
    if isinstance(result, StepResult):
        reason = _step_reason(result)
        thread = result.thread if result.base is not None else ready.thread
        pending = result.response.tool_calls
    else:
        reason = result.halted_reason
        thread = result.thread
        pending = result.final_response.tool_calls if result.final_response else ()
        made = max(1, len(result.steps))  # one revision a model call: no effect of a later turn has its id
    if reason == "cancelled":
        return SessionTurn(before, result)
    session = replace(
        ready, thread=thread, status=_STATUS.get(reason, "completed"), revision=ready.revision + made
    )
    if reason == "manual_tool_calls":
        named = result.metadata.get("manual_tool_calls")
        wanted = [call for call in pending if named is None or call.id in named]
        session = replace(session, pending_tool_calls=tuple(wanted))
    elif reason == "ask_user":
        session = replace(
            session,
            pending_question=result.metadata.get("pending_question"),
            pending_tool_call_id=result.metadata.get("pending_tool_call_id"),
        )
    elif reason in ("error", "tool_error"):
        session = replace(session, error=_failure(result))
    return SessionTurn(session, result)


_STATUS = {
    "ask_user": "awaiting_user",
    "manual_tool_calls": "awaiting_tools",
    "tool_error": "error",
    "error": "error",
    "continue": "idle",
}


def _step_reason(result: StepResult) -> str:
    if result.response.finish_reason in ("error", "cancelled"):
        return result.response.finish_reason
    if result.metadata.get("mode") == "manual":
        return "manual_tool_calls"
    found = result.metadata.get("halted_reason")
    return found if found is not None else "completed" if result.done else "continue"


def _failure(result: ChatResult | StepResult) -> ErrorInfo:
    error = result.error if isinstance(result, ChatResult) else result.response.error
    if error is not None:
        return error
    text = str(result.metadata.get("halt_result") or "a tool failed")
    return ErrorInfo(reason="tool_failed", message=text, call_id=result.metadata.get("halt_tool_call_id"))
