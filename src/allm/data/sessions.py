"""A resumable conversation as data: `Session` and the outcome of one turn of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from allm.data import Data
from allm.data.content import Part, ToolCall
from allm.data.failure import ErrorInfo
from allm.data.freeform import normalise, tupled
from allm.data.messages import Message, Thread, tool_result, user
from allm.data.responses import ChatResult, StepResult
from allm.errors import SessionError

STATUSES: Final = ("idle", "awaiting_user", "awaiting_tools", "completed", "error")


class Session(Data, frozen=True, kw_only=True):
    """A conversation that is saved and resumed. `status` is one of `STATUSES`.

    `revision` grows with every turn, by the model calls made, so that two writers are noticed. `context` is
    the caller's own, handed to tools.
    """

    id: str | None = None
    thread: Thread = Thread()
    status: str = "idle"
    pending_tool_calls: tuple[ToolCall, ...] = ()
    pending_question: str | None = None
    pending_tool_call_id: str | None = None
    revision: int = 0
    error: ErrorInfo | None = None
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "context", "metadata", "extra")
        tupled(self, "pending_tool_calls")

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.thread.messages

    def append(self, message: Message) -> Session:
        return msgspec.structs.replace(self, thread=self.thread.add_message(message))

    def append_user(self, content: str | Iterable[Part]) -> Session:
        return self.append(user(content))

    def submit_tool_result(self, call_id: str, value: Any, *, is_error: bool = False) -> Session:
        """Answer one pending call; text goes as it is, all else as JSON."""
        return self.submit_tool_results([(call_id, value)], is_error=is_error)

    def submit_tool_results(self, results: Iterable[tuple[str, Any]], *, is_error: bool = False) -> Session:
        """Answer pending calls, all or none. Raises `SessionError` for a call that is not pending."""
        pending = {call.id: call for call in self.pending_tool_calls}
        added = []
        for call_id, value in results:
            if pending.pop(call_id, None) is None:
                known = ", ".join(call.id for call in self.pending_tool_calls) or "none"
                raise SessionError(
                    ErrorInfo(
                        reason="session_invalid",
                        code="unknown_tool_call_id",
                        message=f"no call {call_id!r} is pending (pending: {known})",
                        call_id=call_id,
                    )
                )
            added.append(tool_result(call_id, _result_text(value), is_error=is_error))
        if not added:
            return self
        return msgspec.structs.replace(
            self,
            thread=self.thread.add_messages(added),
            pending_tool_calls=tuple(pending.values()),
            status="awaiting_tools" if pending else "idle",
        )


def _result_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class SessionTurn(Data, frozen=True):
    """What a session operation returns: `session, result = sessions.reply(...)` unpacks it."""

    session: Session
    result: ChatResult | StepResult

    def __iter__(self) -> Any:
        return iter((self.session, self.result))

    @property
    def text(self) -> str:
        return self.result.text
