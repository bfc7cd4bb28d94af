"""Layer D, pure: which operation is legal when, and what a run makes of its session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec.structs import replace

from allm.approvals import Decision, decide
from allm.data.events import Event, ToolResultEncoded
from allm.data.failure import ErrorInfo
from allm.data.messages import Message, Thread, user
from allm.data.responses import ChatResult, Response, StepResult
from allm.data.sessions import Progress, Session, SessionTurn
from allm.engine import Engine, application, as_tools, merge_tools
from allm.errors import SessionError, ValidationError
from allm.folds import RunFold
from allm.loops.plan import check_engine, read_input
from allm.tools import answers_of


def begun(input: Any, id: str | None) -> Session:
    """A new session from a thread, messages or text; a session that is idle or completed is taken on."""
    if id is not None and not isinstance(id, str):
        raise ValidationError.of("invalid session", ("id", f"not_a_string: {type(id).__name__}"))
    if isinstance(input, Session):
        _require(input, "start", "idle", "completed")
        _require_something(input, "start")
        ready = _ready(input)
        return ready if id is None else replace(ready, id=id)
    return Session(id=id, thread=read_input(input)[1])


def replied(session: Session, content: Any) -> Session:
    """The session with the user's answer or next message appended. A step that was cut ends as it stands."""
    _require(session, "reply", "idle", "completed", "awaiting_user", "error", "interrupted")
    ready = _ready(session)
    ended = _ended(ready.progress) if ready.progress is not None else []
    return replace(ready, thread=ready.thread.add_messages([*ended, _message(content)]), progress=None)


def _message(content: Any) -> Message:
    return content if isinstance(content, Message) else user(content)


def resumed(session: Session, message: Any = None) -> Session:
    """The session made ready to go on, with a message appended if one is given: after approved calls, which
    run first; anything else that was cut ends as it stands."""
    _require(
        session, "resume", "idle", "completed", "awaiting_user", "awaiting_tools", "error", "interrupted"
    )
    if session.status == "awaiting_tools" and (session.pending_tool_calls or message is not None):
        ids = ", ".join(call.id for call in session.pending_tool_calls)
        how = "submit_tool_result, or decide on them with sessions.submit(decisions=...)"
        raise _refused(session, "resume", f"answer the pending calls first with {how} ({ids})")
    if message is not None and session.progress is not None and session.progress.approved:
        return _ready(session.append(_message(message)))
    if message is not None:
        return replied(session, message)
    if session.status == "awaiting_user":
        raise _refused(session, "resume", "the user was asked something: pass the answer, or use reply")
    _require_something(session, "resume")
    return _ready(session)


def stepped(session: Session) -> Session:
    """The session made ready for one step; one that was cut is finished first."""
    _require(session, "step", "idle", "completed", "error", "interrupted")
    _require_something(session, "step")
    return _ready(session)


def submit(
    engine: Engine,
    session: Session,
    *,
    results: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    decisions: Iterable[Decision] = (),
    tools: Iterable[Any] = (),
) -> Session:
    """The session with pending calls answered, all or none; nothing is run, `resume` does that.

    `results` are values by call id, `decisions` say which calls the tools may run: those of the engine and
    of the application, and the `tools` that the call will be given beside them. Raises `SessionError` that
    names all results, or `ValidationError` that names all decisions which do not fit.
    """
    _check(session, "submit")
    check_engine(engine)
    answered, given = session.submit_tool_results(results), _decisions(decisions)
    if not given:
        return answered
    known = merge_tools(merge_tools(application.get("tools", ()), engine.tools), as_tools(tools))
    decided = decide(answered.thread, answered.pending_tool_calls, given, known)
    approved = [ready.call for ready in decided.run]
    progress = session.progress or Progress(revision=session.revision, turns=-1)  # its turn is over
    return replace(
        answered,
        thread=answered.thread.add_messages(decided.denied),
        pending_tool_calls=decided.waiting,
        status="awaiting_tools" if decided.waiting else "idle",
        revision=session.revision + 1,
        progress=replace(progress, approved=(*progress.approved, *approved)),
    )


def _decisions(given: Any) -> list[Decision]:
    """What was given as decisions, if it is a list of some."""
    wanted = "must_be_a_list_of_what_allm.approve_or_allm.deny_give"
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ValidationError.of("invalid decisions", ("decisions", f"{wanted}: not {type(given).__name__}"))
    decisions = list(given)
    wrong = [(i, item) for i, item in enumerate(decisions) if not isinstance(item, Decision)]
    if wrong:
        found = [(f"decisions[{i}]", f"{wanted}: not {type(item).__name__}") for i, item in wrong]
        raise ValidationError.of("invalid decisions", *found)
    return decisions


def _ready(session: Session) -> Session:
    """The session as a turn begins with it: nothing pending, an unfinished step out of its thread."""
    progress, thread = session.progress, session.thread
    if progress is not None and progress.response is None and progress.approved:
        at = max(index for index, message in enumerate(thread.messages) if message.role == "assistant")
        asked, *since = thread.messages[at:]
        progress = replace(
            progress,
            response=Response(message=asked, finish_reason="tool_calls"),
            results=tuple([ToolResultEncoded(message) for message in since if message.role == "tool"]),
            then=tuple([message for message in since if message.role != "tool"]),
        )
        thread = replace(thread, messages=thread.messages[:at])
    return replace(
        session,
        thread=thread,
        progress=progress,
        status="idle",
        pending_question=None,
        pending_tool_call_id=None,
        error=None,
    )


def _ended(progress: Progress) -> list[Message]:
    """The messages of a step that is not gone on with: each call without a result is answered so."""
    if progress.response is None:
        return [*progress.then]
    given = [result.message for result in (*progress.ended, *progress.results)]
    answers = answers_of(progress.response.tool_calls, given, progress.started)
    return [*progress.asked, progress.response.message, *answers, *progress.then]


def _check(session: Session, operation: str) -> None:
    if not isinstance(session, Session):
        raise SessionError(f"{operation} takes a Session, not {type(session).__name__!r}")


def _require(session: Session, operation: str, *allowed: str) -> None:
    _check(session, operation)
    if session.status not in allowed:
        raise _refused(session, operation, f"it is legal from {', '.join(allowed)}")


def _require_something(session: Session, operation: str) -> None:
    """A turn that has ended with an answer is not asked for again."""
    messages = session.messages
    if session.status != "completed" or session.progress is not None or not messages:
        return
    if messages[-1].role == "assistant" and not messages[-1].tool_calls:
        why = "the model has answered, and there is nothing to go on with; use reply with the next message"
        raise _refused(session, operation, why)


def _refused(session: Session, operation: str, why: str) -> SessionError:
    text = f"cannot {operation} a session whose status is {session.status}: {why}"
    return SessionError(
        ErrorInfo(reason="session_invalid", code="invalid_status_for_operation", message=text)
    )


class SessionFold:
    """The events of one turn of a session, folded: the event stream is the checkpoint.

    `session` is the one that the turn began with, `message` what `reply` or `resume` was given beside it,
    `layer` is `step` for the events of a step. Raises `SessionError` where such a turn is not legal.
    """

    def __init__(
        self, session: Session, message: Any = None, layer: Literal["step", "chat"] = "chat"
    ) -> None:
        self._before = session
        self._ready = stepped(session) if layer == "step" else resumed(session, message)
        self._fold = RunFold(layer, self._ready.thread, self._ready.progress)

    def add(self, event: Event) -> None:
        self._fold.add(event)

    @property
    def session(self) -> Session:
        """The session as it stands: until the turn ends `interrupted`, and `resume` goes on exactly there."""
        if self._fold.complete or self._fold.error is not None:
            return self.result().session
        return _cut(self._ready, self._fold, "interrupted")

    def result(self) -> SessionTurn:
        """What the verb returns; of a turn that was cut it holds the session as it was before."""
        return turned(self._before, self._ready, self._fold)


def turned(before: Session, ready: Session, fold: RunFold) -> SessionTurn:
    """What the run made of the session. A cancelled run leaves it as it was before."""
    result: ChatResult | StepResult = fold.result()
    if fold.error is not None:
        return SessionTurn(_failed(ready, fold), result)
    if not fold.complete:
        return SessionTurn(before, result)
    spent = isinstance(result, ChatResult) and result.halted_reason == "budget"
    if spent and (fold.in_turn or fold.owes):
        return SessionTurn(_cut(ready, fold, "interrupted"), result)
    return SessionTurn(_done(ready, result, fold), result)


def _failed(ready: Session, fold: RunFold) -> Session:
    """The session after a failure. What tools had done is kept, and what was said to the model for the turn;
    else the model is asked anew. An answer that did not fit is none."""
    unfit = fold.error is not None and fold.error.phase == "output"
    if fold.in_tools or (fold.owes and not unfit):
        return _cut(ready, fold, "error")
    between = bool(fold.steps) and not fold.in_turn and not unfit
    finished = fold.steps if between else fold.finished
    anew = replace(fold.progress, revision=ready.base_revision + len(finished), response=None)
    said = anew.opening or anew.halted is not None
    return replace(
        ready,
        thread=_after(fold, finished),
        status="error",
        revision=ready.revision + max(1, len(fold.steps) + fold.broken),
        progress=anew if said and not between else None,
        error=fold.error,
    )


def _cut(ready: Session, fold: RunFold, status: str) -> Session:
    """The session in the middle of a step. It has the revision that it will have after this step, so that
    of two who go on from one session the second is noticed at its first save."""
    finished = len(fold.finished)
    return replace(
        ready,
        thread=_after(fold, fold.finished),
        status=status,
        revision=ready.revision + finished + 1,
        progress=replace(fold.progress, revision=ready.base_revision + finished),
        error=fold.error,
    )


def _after(fold: RunFold, steps: list[StepResult]) -> Thread:
    return fold.base.add_messages([message for step in steps for message in step.messages])


def _done(ready: Session, result: ChatResult | StepResult, fold: RunFold) -> Session:
    """The session after a run that came to its end, with what the result waits for."""
    found = result.metadata
    if isinstance(result, ChatResult):
        steps, reason = len(result.steps), result.halted_reason
    else:
        steps, reason = 1, _step_reason(result)
    kept = {name: value for name, value in ready.metadata.items() if name not in _OF_A_TURN}
    session = replace(
        ready,
        thread=result.thread.add_messages(fold.progress.then),
        status=_STATUS.get(reason, "completed"),
        revision=ready.revision + steps,  # one a model call: no effect of a later turn has its id
        progress=None,
        metadata={**kept, **found},
    )
    if reason == "manual_tool_calls":
        return replace(session, pending_tool_calls=result.pending_tool_calls)
    if reason == "ask_user":
        question, call_id = found.get("pending_question"), found.get("pending_tool_call_id")
        return replace(session, pending_question=question, pending_tool_call_id=call_id)
    if reason == "tool_error":
        text = str(found.get("halt_result") or "a tool failed")
        error = ErrorInfo(reason="tool_failed", message=text, call_id=found.get("halt_tool_call_id"))
        return replace(session, error=error)
    return session


_OF_A_TURN = frozenset(
    {
        "approvals", "ask_user_options", "budget", "halt_result", "halt_tool_call_id", "halt_when_step_index",
        "halted_reason", "manual_tool_calls", "manual_turn_index", "max_turns", "mode",
        "on_tool_error_exception", "pending_question", "pending_tool_call_id", "questions", "refuse_reason",
        "structured_finalize",
    }
)  # fmt: skip
"""What a result's metadata say of its own end; the next turn that ends takes them out of the session's."""

_STATUS = {
    "ask_user": "awaiting_user",
    "manual_tool_calls": "awaiting_tools",
    "tool_error": "error",
    "continue": "idle",
}


def _step_reason(result: StepResult) -> str:
    if result.metadata.get("mode") == "manual":
        return "manual_tool_calls"
    return str(result.metadata.get("halted_reason", "completed" if result.done else "continue"))
