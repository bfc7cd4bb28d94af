"""A resumable conversation as data: `Session`, the outcome of a turn of it, how far a cut turn had come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from allm.data import Data
from allm.data.content import Part, ToolCall
from allm.data.events import ToolResultEncoded
from allm.data.failure import ErrorInfo
from allm.data.freeform import normalise, tupled
from allm.data.messages import Message, Thread, tool_result, user
from allm.data.responses import ChatResult, Response, StepResult
from allm.errors import SessionError, ValidationError

STATUSES: Final = ("idle", "awaiting_user", "awaiting_tools", "completed", "error", "interrupted")


class Progress(Data, frozen=True, kw_only=True):
    """A step that is not over, so that its turn goes on there: it was cut, or calls of it were approved.

    `revision` is the one in the ids of its effects; `turns` how many steps of the turn are finished, with
    their messages in the thread. `asked` is what was said to the model for this step alone, `response` the
    answer, `None` where it has not come; `halted` what the first pass came to, where this is the second.
    `started` are the ids of the calls whose handlers have begun, `ended` what came of those that are done,
    `results` what answers calls already: nothing of it is asked or run again. `approved` are calls that may
    run, with the arguments that were decided on. `then` is what the user has said since: it follows the step.
    """

    revision: int = 0
    turns: int = 0
    asked: tuple[Message, ...] = ()
    response: Response | None = None
    started: tuple[str, ...] = ()
    results: tuple[ToolResultEncoded, ...] = ()
    approved: tuple[ToolCall, ...] = ()
    halted: str | None = None
    ended: tuple[ToolResultEncoded, ...] = ()
    then: tuple[Message, ...] = ()
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.extra:
            normalise(self, "extra")
        tupled(self, "asked", "started", "results", "approved", "ended", "then")

    @property
    def opening(self) -> tuple[Message, ...]:
        """What follows the thread before the model answers."""
        return self.asked if self.response is not None else (*self.asked, *self.then)


class Session(Data, frozen=True, kw_only=True):
    """A conversation that is saved and resumed. `status` is one of `STATUSES`.

    `revision` grows with every change, by one for each model call, message or batch of tool results, so that
    two writers are noticed. `progress` is the step that is to be gone on with. `context` is the caller's own,
    handed to tools.
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
    progress: Progress | None = None
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.context or self.metadata or self.extra:
            normalise(self, "context", "metadata", "extra")
        if type(self.pending_tool_calls) is not tuple:
            tupled(self, "pending_tool_calls")

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.thread.messages

    @property
    def base_revision(self) -> int:
        """The revision in the ids of the next effects; a step that is gone on with keeps its own."""
        return self.revision if self.progress is None else self.progress.revision

    def append(self, message: Message) -> Session:
        """The session with a message more. It follows a step that is not over, so the thread does not have it
        until that step is."""
        revision, progress = self.revision + 1, self.progress
        if progress is not None and (progress.response is not None or progress.opening):
            progress = replace(progress, then=(*progress.then, message))
            return replace(self, progress=progress, revision=revision)
        return replace(self, thread=self.thread.add_message(message), revision=revision)

    def append_user(self, content: str | Iterable[Part]) -> Session:
        return self.append(user(content))

    def submit_tool_result(self, call_id: str, value: Any, *, is_error: bool = False) -> Session:
        """Answer one pending call; text and parts go as they are, all else as JSON."""
        return self.submit_tool_results([(call_id, value)], is_error=is_error)

    def submit_tool_results(
        self, results: Mapping[str, Any] | Iterable[tuple[str, Any]], *, is_error: bool = False
    ) -> Session:
        """Answer pending calls, all or none: values by call id.

        Raises `SessionError` that names every call which is not pending, and `ValidationError` for a value
        that JSON cannot hold, or for results of another shape; the session stays as it is.
        """
        given = _pairs(results)
        if not given:
            return self
        self._check_pending([call_id for call_id, _ in given])
        answered = {call_id for call_id, _ in given}
        pending = tuple([call for call in self.pending_tool_calls if call.id not in answered])
        messages = [tool_result(id, _content(id, value), is_error=is_error) for id, value in given]
        return replace(
            self,
            thread=self.thread.add_messages(messages),
            pending_tool_calls=pending,
            status="awaiting_tools" if pending else "idle",
            revision=self.revision + 1,
        )

    def _check_pending(self, ids: list[str]) -> None:
        pending = [call.id for call in self.pending_tool_calls]
        unknown = [id for id in dict.fromkeys(ids) if id not in pending]
        twice = [id for id in dict.fromkeys(ids) if id in pending and ids.count(id) > 1]
        problems = [(id, "not_pending") for id in unknown] + [(id, "answered_twice") for id in twice]
        if problems:
            listed = "; ".join(f"{id!r}: {reason}" for id, reason in problems)
            text = f"nothing was submitted: {listed} (pending: {', '.join(pending) or 'none'})"
            raise SessionError(
                ErrorInfo(
                    reason="session_invalid",
                    code="unknown_tool_call_id",
                    message=text,
                    call_id=problems[0][0],
                    problems=tuple(problems),
                )
            )


def _pairs(results: Any) -> list[tuple[str, Any]]:
    """Call ids and values, however they were given."""
    wanted = "must_be_a_mapping_or_pairs_of_call_id_and_value"
    if isinstance(results, str | bytes) or not isinstance(results, Iterable):
        problem = ("results", f"{wanted}: not {type(results).__name__}")
        raise ValidationError.of("nothing was submitted", problem)
    pairs = list(results.items() if isinstance(results, Mapping) else results)
    wrong = [
        (f"results[{index}]", f"{wanted}: not {type(pair).__name__}")
        for index, pair in enumerate(pairs)
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str))
    ]
    if wrong:
        raise ValidationError.of("nothing was submitted", *wrong)
    return [(call_id, value) for call_id, value in pairs]


def _content(call_id: str, value: Any) -> str | tuple[Part, ...]:
    if isinstance(value, str):
        return value
    items = value if isinstance(value, list | tuple) else (value,)
    if items and all(isinstance(item, Part) for item in items):
        return tuple(items)
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        problem = (f"results[{call_id!r}]", f"not_json ({error})")
        raise ValidationError.of("nothing was submitted", problem) from error


class Decision(Data, frozen=True, kw_only=True):
    """What a person says to the call of that digest (see `allm.approvals`). `arguments` run instead of the
    model's own; `reason` is told to the model where the call is denied."""

    digest: str
    approved: bool
    arguments: dict[str, Any] | None = None
    reason: str = ""
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "arguments", "extra")


class SessionTurn(Data, frozen=True):
    """What a session operation returns: `session, result = sessions.reply(...)` unpacks it."""

    session: Session
    result: ChatResult | StepResult

    def __iter__(self) -> Iterator[Any]:
        return iter((self.session, self.result))

    @property
    def text(self) -> str:
        return self.result.text
