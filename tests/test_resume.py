"""A run that is cut anywhere goes on there: nothing is asked twice, no tool that has answered runs again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import allm
from allm.approvals import approve, deny
from allm.data.events import Event
from allm.providers.fake import FakeAdapter
from tests.faces import FACES, Face
from tests.test_loop import DONE, Script, calls, double, fake, named, requests

BEFORE = allm.Session(id="s", revision=4, thread=allm.Thread().add_user("one").add_assistant("1"))
POLICIES = ("report", "retry")


class Tools:
    """Tools that note what ran: the idempotency key of each call, in the order of their starts."""

    def __init__(self, on_interrupted: str = "report") -> None:
        self.keys: list[tuple[str, str | None]] = []
        self.all = [self._tool(name, on_interrupted) for name in ("work", "ask", "stop", "fail")]
        self.all.append(named("person", None, manual=True))  # type: ignore[arg-type]

    def _tool(self, name: str, on_interrupted: str) -> allm.Tool:
        def handler(arguments: dict[str, Any], context: allm.ToolContext) -> Any:
            assert context.call is not None
            self.keys.append((context.call.id, context.idempotency_key))
            if name == "ask":
                return allm.AskUser("Which?", ["x", "y"], urgent=True)
            if name == "stop":
                return allm.Halt("enough", {"n": 1})
            if name == "fail":
                raise ValueError("broken")
            return {"did": context.call.id}

        return named(name, handler, on_interrupted=on_interrupted)

    @property
    def ran(self) -> Counter[str]:
        return Counter(call_id for call_id, _ in self.keys)


class Run(NamedTuple):
    """What a turn of a session came to."""

    turn: allm.SessionTurn
    events: list[Event]
    tools: Tools
    engine: allm.Engine


def run(
    face: Face, scripts: list[Script], verb: str, *given: Any, policy: str = "report", **options: Any
) -> Run:
    """A turn on the fake, to its end or its failure; the events went through JSON."""
    tools, events = Tools(policy), list[Event]()
    engine = fake(*scripts, tools=tools.all, retry=False)
    try:
        turn = face.session(verb, engine, *given, on_event=events.append, **options)
    except allm.AllmError as error:
        turn = error.partial
    return Run(turn, [allm.from_json(allm.to_json(event)) for event in events], tools, engine)


def folded(session: allm.Session, events: list[Event], *message: Any, **layer: Any) -> allm.Session:
    """The session after these events, stored and loaded."""
    fold = allm.SessionFold(session, *message, **layer)
    for event in events:
        fold.add(event)
    stored = allm.to_json(fold.session)
    loaded = allm.from_json(stored, allm.Session)
    assert loaded == fold.session
    assert allm.to_json(loaded) == stored
    return loaded


def asked(events: list[Event]) -> int:
    """How many answers of the model are in the events."""
    return sum(isinstance(event, allm.MessageCompleted) for event in events)


def encoded(events: list[Event]) -> set[str | None]:
    return {event.message.tool_call_id for event in events if isinstance(event, allm.ToolResultEncoded)}


def ended(events: list[Event]) -> set[str]:
    """The calls whose results are known, whether or not they were shown."""
    known = {event.id for event in events if isinstance(event, allm.ToolExecutionCompleted)}
    return {*known, *filter(None, encoded(events))}


def started(events: list[Event]) -> set[str]:
    return {event.call.id for event in events if isinstance(event, allm.ToolExecutionStarted)}


def check_cut(face: Face, scripts: list[Script], whole: Run, size: int, policy: str, **options: Any) -> None:
    """Cut the run after `size` events, store it, go on: it comes to what the whole run came to."""
    prefix = whole.events[:size]
    session = folded(BEFORE, prefix, "go")
    if session.status != "interrupted":
        assert session == whole.turn.session
        return
    rest = run(face, scripts[asked(prefix) :], "resume", session, policy=policy, **options)
    open_calls = started(prefix) - ended(prefix)
    assert not set(rest.tools.ran) & ended(prefix)
    assert rest.turn.session.progress is None
    if open_calls and policy == "report":  # the run may now take another way than the whole one
        assert not set(rest.tools.ran) & open_calls
        answers = {message.tool_call_id: message for message in rest.turn.session.messages}
        told = [answers[call_id] for call_id in open_calls]
        assert all(message.is_error and "may or may not" in message.text for message in told)
        return
    after, expected = rest.turn.session, whole.turn.session
    assert rest.tools.ran == Counter((set(whole.tools.ran) - started(prefix)) | open_calls)
    assert set(rest.tools.keys) <= set(whole.tools.keys)
    assert len(requests(rest.engine)) == len(requests(whole.engine)) - asked(prefix)
    assert after.thread == expected.thread
    assert (after.status, after.pending_tool_calls, after.pending_question, after.error) == (
        expected.status, expected.pending_tool_calls, expected.pending_question, expected.error,
    )  # fmt: skip


# The property, over runs of every kind

KINDS = ("work", "ask", "stop", "fail", "person", "unknown")


@st.composite
def runs(draw: st.DrawFn) -> list[Script]:
    """Scripts of a chat: turns that call several tools at once, then an answer or a failure."""
    scripts: list[Script] = []
    for turn in range(draw(st.integers(0, 2))):
        script: Script = [{"reasoning": "Hm"}] if draw(st.booleans()) else []
        for place in range(draw(st.integers(1, 3))):
            name = draw(st.sampled_from(("work", "work", "work", *KINDS)))
            script += calls((f"t{turn}c{place}", name, {}))
        scripts.append(script)
    last: Script = [{"error": "invalid_request"}] if draw(st.integers(0, 5)) == 0 else [{"finish": "stop"}]
    return [*scripts, [{"text": ["Do", "ne"]}, {"usage": {"output_tokens": 1}}, *last]]


variants = st.fixed_dictionaries(
    {},
    optional={
        "on_tool_error": st.just("halt"),
        "max_turns": st.just(1),
        "mode": st.just("manual"),
        "max_concurrency": st.just(1),
    },
)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
@given(scripts=runs(), options=variants)
@settings(max_examples=25, deadline=None)
def test_a_run_that_is_cut_anywhere_goes_on(
    face: Face, policy: str, scripts: list[Script], options: dict[str, Any]
) -> None:
    whole = run(face, scripts, "reply", BEFORE, "go", policy=policy, **options)
    for size in range(len(whole.events) + 1):
        check_cut(face, scripts, whole, size, policy, **options)


PARALLEL = calls(("a", "work", {}), ("b", "work", {}), ("c", "work", {}))
TWO_TURNS = [PARALLEL, calls(("d", "work", {})), DONE]


def test_a_run_that_goes_on_may_be_cut_again(face: Face) -> None:
    whole = run(face, TWO_TURNS, "reply", BEFORE, "go")
    for size in range(0, len(whole.events), 3):
        prefix = whole.events[:size]
        session = folded(BEFORE, prefix, "go")
        scripts = TWO_TURNS[asked(prefix) :]
        second = run(face, scripts, "resume", session, policy="retry")
        for cut in range(len(second.events)):
            more = second.events[:cut]
            again, straight = folded(session, more), folded(BEFORE, [*prefix, *more], "go")
            assert again.progress is not None
            assert straight.progress is not None
            assert again.progress.turns == straight.progress.turns
            assert again.base_revision == straight.base_revision
            third = run(face, scripts[asked(more) :], "resume", again, policy="retry")
            assert third.turn.session.thread == whole.turn.session.thread
            assert not set(third.tools.ran) & encoded(prefix + more)
            assert set(third.tools.keys) <= set(whole.tools.keys)


def left_after(face: Face, size: int) -> tuple[allm.Session, list[Event]]:
    """The session where the reader of a stream goes away after `size` events, and these events."""
    fold, seen = allm.SessionFold(BEFORE, "go"), list[Event]()

    def read(_: Any, event: Event) -> bool:
        fold.add(event)
        seen.append(event)
        return len(seen) == size

    engine = fake(*TWO_TURNS, tools=Tools("retry").all)
    face.consume(engine, BEFORE, "go", verb="sessions.stream_reply", body=read)
    return fold.session, seen


def test_a_stream_that_is_left_goes_on(face: Face) -> None:
    """Not the events of an old run: the reader really goes away in the middle."""
    expected = run(face, TWO_TURNS, "reply", BEFORE, "go").turn.session.thread
    for size in range(1, 20):
        session, seen = left_after(face, size)
        rest = run(face, TWO_TURNS[asked(seen) :], "resume", session, policy="retry")
        assert rest.turn.session.thread == expected
        assert not set(rest.tools.ran) & encoded(seen)


def test_a_step_that_is_cut_is_finished_by_a_step(face: Face) -> None:
    idle = BEFORE.append_user("go")
    whole = run(face, TWO_TURNS, "step", idle)
    assert whole.turn.session.status == "idle"
    for size in range(len(whole.events)):
        prefix = whole.events[:size]
        session = folded(idle, prefix, layer="step")
        rest = run(face, TWO_TURNS[asked(prefix) :], "step", session, policy="retry")
        assert rest.turn.session.thread == whole.turn.session.thread
        assert rest.turn.session.status == "idle"


def test_turns_before_the_cut_count(face: Face) -> None:
    scripts = [PARALLEL, calls(("d", "work", {})), calls(("e", "work", {}))]
    whole = run(face, scripts, "reply", BEFORE, "go", max_turns=2)
    for size in range(len(whole.events)):
        prefix = whole.events[:size]
        session = folded(BEFORE, prefix, "go")
        rest = run(face, scripts[asked(prefix) :], "resume", session, policy="retry", max_turns=2)
        assert isinstance(rest.turn.result, allm.ChatResult)
        assert rest.turn.result.halted_reason == "max_turns"
        assert len(requests(rest.engine)) == 2 - asked(prefix)


def test_the_halt_of_an_answered_call_is_not_lost(face: Face) -> None:
    """Cut between the result and the event that says what it means for the run."""
    scripts = [calls(("a", "ask", {}), ("b", "work", {}))]
    whole = run(face, scripts, "reply", BEFORE, "go", max_concurrency=1)
    at = next(i for i, event in enumerate(whole.events) if isinstance(event, allm.ToolResultEncoded))
    rest = run(face, [], "resume", folded(BEFORE, whole.events[: at + 1], "go"))
    assert isinstance(rest.turn.result, allm.ChatResult)
    assert rest.turn.session.status == "awaiting_user"
    assert rest.turn.result.metadata["ask_user_options"] == {"choices": ["x", "y"], "urgent": True}
    assert rest.turn.session.thread == whole.turn.session.thread


def test_what_ran_before_a_failure_does_not_run_again(face: Face) -> None:
    """A failure while tools run is a failure of the turn; its half-done step is kept and gone on with."""
    whole = run(face, TWO_TURNS, "reply", BEFORE, "go", max_concurrency=1)
    at = next(i for i, event in enumerate(whole.events) if isinstance(event, allm.ToolResultEncoded))
    failed = allm.StreamFailed(allm.ErrorInfo(reason="timeout", message="the run took too long"))
    session = folded(BEFORE, [*whole.events[: at + 1], failed], "go")
    assert (session.status, session.error) == ("error", failed.error)
    rest = run(face, TWO_TURNS[1:], "resume", session)
    assert rest.tools.ran == Counter("bcd")
    assert rest.turn.session.thread == whole.turn.session.thread
    assert rest.turn.session.error is None


def test_a_budget_that_is_spent_in_a_step_leaves_it_to_be_gone_on_with(face: Face) -> None:
    whole = run(face, TWO_TURNS, "reply", BEFORE, "go", max_concurrency=1)
    at = next(i for i, event in enumerate(whole.events) if isinstance(event, allm.ToolResultEncoded))
    spent = allm.ChatCompleted(allm.ChatResult(halted_reason="budget"))
    session = folded(BEFORE, [*whole.events[: at + 1], spent], "go")
    assert session.status == "interrupted"
    rest = run(face, TWO_TURNS[1:], "resume", session)
    assert rest.tools.ran == Counter("bcd")
    assert rest.turn.session.thread == whole.turn.session.thread


def test_a_failure_that_is_about_a_whole_answer_asks_anew(face: Face) -> None:
    """Nothing but a tool's work is kept of a failed step: an answer that did not fit is none, so that the
    thread ends with the user's word and can be sent to every provider."""
    whole = run(face, [DONE], "reply", BEFORE, "go")
    for size in (len(whole.events) - 2, len(whole.events) - 1):
        refused = allm.StreamFailed(allm.ErrorInfo(reason="output_invalid", phase="output"))
        session = folded(BEFORE, [*whole.events[:size], refused], "go")
        assert (session.status, session.progress, len(session.messages)) == ("error", None, 3)
        assert session.revision == BEFORE.revision + 1


def test_a_retry_between_two_steps_is_no_part_of_the_next(face: Face) -> None:
    whole = run(face, TWO_TURNS, "reply", BEFORE, "go")
    at = next(i for i, event in enumerate(whole.events) if isinstance(event, allm.StepCompleted))
    retrying = allm.Retrying(1, 0.0, allm.ErrorInfo(reason="overloaded"))
    prefix = whole.events[: at + 1]
    assert folded(BEFORE, [*prefix, retrying], "go") == folded(BEFORE, prefix, "go")


# Other ways out of an interrupted turn


def interrupted(face: Face) -> allm.Session:
    """In the tools of the first step: call `a` has answered, `b` has begun, `c` waits."""
    whole = run(face, TWO_TURNS, "reply", BEFORE, "go", max_concurrency=1)
    second = [i for i, event in enumerate(whole.events) if isinstance(event, allm.ToolExecutionStarted)][1]
    return folded(BEFORE, whole.events[: second + 1], "go")


def test_a_session_in_the_middle_of_a_step(face: Face) -> None:
    session = interrupted(face)
    assert session.progress is not None
    assert (session.progress.turns, session.progress.revision, session.revision) == (0, 4, 5)
    assert session.progress.started == ("a", "b")
    assert [result.message.tool_call_id for result in session.progress.results] == ["a"]
    assert [message.text for message in session.messages] == ["one", "1", "go"]


def test_a_reply_ends_the_step_without_running_anything(face: Face) -> None:
    rest = run(face, [DONE], "reply", interrupted(face), "never mind")
    assert rest.tools.ran == Counter()
    messages = rest.turn.session.messages[2:]
    assert " ".join(message.role for message in messages) == "user assistant tool tool tool user assistant"
    assert messages[2].text == '{"did":"a"}'
    assert "may or may not" in messages[3].text
    assert "was not run" in messages[4].text
    assert (rest.turn.session.revision, rest.turn.session.progress) == (6, None)


def test_of_two_who_go_on_the_second_is_noticed(face: Face) -> None:
    """A checkpoint has the revision of the step's end: who goes on claims the session with the first."""
    session = interrupted(face)
    mine, theirs = allm.SessionFold(session), allm.SessionFold(session)
    assert mine.session.revision == theirs.session.revision == session.revision + 1
    assert mine.session.base_revision == session.base_revision
    rest = run(face, TWO_TURNS[1:], "resume", session)
    fold = allm.SessionFold(session)
    revisions = []
    for event in rest.events:
        fold.add(event)
        revisions.append(fold.session.revision)
    assert revisions == sorted(revisions)
    assert revisions[-1] == rest.turn.session.revision == session.revision + 3


# Another process

PROGRAM = """
import os, signal, sys
import allm
from allm.approvals import approve
from tests.test_loop import fake, named
from tests.test_resume import TWO_TURNS

def work(arguments, context):
    print(context.idempotency_key, file=sys.stderr, flush=True)
    if context.call.id == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"did": context.call.id}

session = allm.from_json(sys.stdin.read())
engine = fake(*TWO_TURNS[int(sys.argv[3]):], tools=[named("work", work, on_interrupted=sys.argv[2])])
with allm.sessions.stream_resume(engine, session, max_concurrency=1) as events:
    for event in events:
        print(allm.to_json(event), flush=True)
"""


def in_a_process(program: str, *arguments: str, input: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    path = os.pathsep.join([str(root), str(Path(allm.__file__).parent.parent)])
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=input,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def in_another_process(
    session: allm.Session, dies_in: str, policy: str, turn: int
) -> tuple[int, list[str], list[Event]]:
    """Exit status, keys of the tools that ran, and the events that came out."""
    done = in_a_process(PROGRAM, dies_in, policy, str(turn), input=allm.to_json(session))
    return done.returncode, done.stderr.split(), [allm.from_json(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_process_is_killed_and_another_goes_on(policy: str) -> None:
    session = BEFORE.append_user("go")
    status, keys, events = in_another_process(session, "b", policy, 0)
    assert status == -signal.SIGKILL
    assert keys == ["s/5/tool/0", "s/5/tool/1"]
    status, more, rest = in_another_process(folded(session, events), "nothing", policy, 1)
    assert status == 0
    assert more == (["s/5/tool/1"] if policy == "retry" else []) + ["s/5/tool/2", "s/6/tool/0"]
    last = rest[-1]
    assert isinstance(last, allm.ChatCompleted)
    roles = " ".join(message.role for message in last.result.thread.messages[2:])
    assert roles == "user assistant tool tool tool assistant tool assistant"


EVERY_CUT = """
import sys
import allm
from tests.faces import FACES
from tests.test_resume import TWO_TURNS, run

face = next(face for face in FACES if face.name == sys.argv[1])
for line in sys.stdin:
    turns, stored = line.split(" ", 1)
    rest = run(
        face, TWO_TURNS[int(turns):], "resume", allm.from_json(stored), policy="retry", max_concurrency=1
    )
    print(" ".join(key for _, key in rest.tools.keys))
    print(allm.to_json(rest.turn.session))
"""


def test_every_cut_goes_on_in_another_process(face: Face) -> None:
    """Cut anywhere, stored, loaded where nothing of the first run is left: same thread, each tool once."""
    whole = run(face, TWO_TURNS, "resume", BEFORE.append_user("go"), policy="retry", max_concurrency=1)
    cuts = [whole.events[:size] for size in range(len(whole.events) + 1)]
    sessions = [folded(BEFORE.append_user("go"), events) for events in cuts]
    open_ones = [place for place, session in enumerate(sessions) if session.status == "interrupted"]
    assert len(open_ones) >= len(whole.events) - 1
    lines = [f"{asked(cuts[place])} {allm.to_json(sessions[place])}" for place in open_ones]
    printed = in_a_process(EVERY_CUT, face.name, input="\n".join(lines)).stdout.splitlines()
    for place, keys, stored in zip(open_ones, printed[::2], printed[1::2], strict=True):
        assert allm.from_json(stored, allm.Session).thread == whole.turn.session.thread
        before = [key for call_id, key in whole.tools.keys if call_id in ended(cuts[place])]
        assert [*before, *keys.split()] == [key for _, key in whole.tools.keys]


# Approvals

APPROVAL = calls(("a", "send", {"to": "x"}), ("b", "double", {"n": 2}), ("c", "send", {"to": "y"}))


def mailer(sent: list[Any]) -> allm.Tool:
    def send(arguments: dict[str, Any], context: allm.ToolContext) -> str:
        sent.append((arguments["to"], context.idempotency_key))
        return "sent"

    return named("send", send, requires_approval=True, on_interrupted="retry")


def waiting(face: Face) -> allm.Session:
    engine = fake(APPROVAL, tools=[mailer([]), double])
    session = face.session("start", engine, "hi", id="s", max_turns=1).session
    assert session.status == "awaiting_tools"
    assert [call.id for call in session.pending_tool_calls] == ["a", "c"]
    return session


def test_approved_calls_run_at_the_resume(face: Face) -> None:
    sent: list[Any] = []
    engine = fake(DONE, tools=[mailer(sent), double])
    session = waiting(face)
    first, second = session.pending_tool_calls
    session = allm.sessions.submit(engine, session, decisions=[approve(first, {"to": "z"})])
    assert (session.status, session.pending_tool_calls) == ("awaiting_tools", (second,))
    with pytest.raises(allm.SessionError, match="answer the pending calls"):
        face.session("resume", engine, session)
    session = allm.sessions.submit(engine, session, decisions=[deny(second, "too late")])
    session = allm.from_json(allm.to_json(session))
    assert session.status == "idle"
    assert sent == []
    after, result = face.session("resume", engine, session, max_turns=1)
    assert sent == [("z", "s/1/tool/0")]
    assert (after.status, result.text, after.progress) == ("completed", "Done", None)
    assert [message.tool_call_id for message in after.messages[2:5]] == ["a", "b", "c"]
    assert after.messages[2].text.endswith("sent")
    assert "too late" in after.messages[4].text


def test_a_manual_run_goes_on_with_approved_calls(face: Face) -> None:
    """What stopped in mode `manual` runs here once it is approved, in that mode, too."""
    engine = fake(APPROVAL, DONE, tools=[mailer([]), double])
    session, _ = face.session("start", engine, "hi", mode="manual")
    decisions = [approve(call) for call in session.pending_tool_calls]
    session = allm.sessions.submit(engine, session, decisions=decisions)
    after, result = face.session("resume", engine, session, mode="manual")
    assert result.text == "Done"
    assert [message.text for message in after.messages[2:5]] == ["sent", "4", "sent"]


def test_results_and_decisions_go_together_all_or_nothing(face: Face) -> None:
    engine = fake(DONE, tools=[mailer([]), double])
    session = waiting(face)
    first, second = session.pending_tool_calls
    with pytest.raises(allm.ValidationError, match=r"decisions\[0\].*decisions\[1\]"):
        allm.sessions.submit(
            engine, session, results=[("a", "by hand")], decisions=[approve(first), approve("x" * 64)]
        )
    assert allm.sessions.submit(engine, session) is session
    session = allm.sessions.submit(engine, session, results=[("a", "by hand")], decisions=[approve(second)])
    assert (session.status, session.revision) == ("idle", 2)
    after, _ = face.session("resume", engine, session)
    assert [message.text for message in after.messages[2:5]] == ["by hand", "4", "sent"]


def test_approved_calls_that_are_cut_go_on(face: Face) -> None:
    def engine(sent: list[Any]) -> allm.Engine:
        return fake(DONE, tools=[mailer(sent), double])

    session = waiting(face)
    decisions = [approve(call) for call in session.pending_tool_calls]
    session = allm.sessions.submit(engine([]), session, decisions=decisions)
    events: list[Event] = []
    expected, _ = face.session("resume", engine([]), session, on_event=events.append)
    for size in range(len(events)):
        prefix = events[:size]
        sent: list[Any] = []
        resumed = folded(session, prefix)
        rest = fake(*[DONE][asked(prefix) :], tools=[mailer(sent), double])
        after, _ = face.session("resume", rest, resumed)
        assert after.thread == expected.thread
        assert len(sent) == 2 - len(ended(prefix) & {"a", "c"})


@pytest.mark.parametrize("word", ["reply", "step"])
def test_approved_calls_are_not_forgotten(face: Face, word: str) -> None:
    """A reply says that they were not run; a step runs them."""
    sent: list[Any] = []
    engine = fake(DONE, tools=[mailer(sent), double])
    session = waiting(face)
    decisions = [approve(call) for call in session.pending_tool_calls]
    session = allm.sessions.submit(engine, session, decisions=decisions)
    after, _ = face.session(word, engine, session, *(["stop"] if word == "reply" else []))
    assert len(sent) == (0 if word == "reply" else 2)
    texts = [message.text for message in after.messages if message.tool_call_id in ("a", "c")]
    assert all(("was not run" in text) == (word == "reply") for text in texts)


def test_events_of_a_resumed_run_fold_alone(face: Face) -> None:
    session = interrupted(face)
    rest = run(face, TWO_TURNS[1:], "resume", session)
    assert allm.fold(rest.events) == rest.turn.result


# What the loop itself says: nudges, corrections, the second pass


class Strict(FakeAdapter):
    """A scripted provider that passes for one which refuses a thread that ends with the model's own words."""

    def target(self, request: allm.Request, ctx: allm.ports.CallContext) -> allm.Origin:
        return allm.Origin("anthropic", "messages", request.model or "")

    def play(self, request: allm.Request, ctx: allm.ports.CallContext) -> Any:
        assert request.messages[-1].role != "assistant"
        return super().play(request, ctx)


PERSON = allm.json_schema(
    "person", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
)
WORK = calls(("u", "work", {}))
GOOD: Script = [{"text": '{"n":1}'}]
PROSE: Script = [{"text": "It is one."}]
RETRIED = {"response_format": PERSON, "output_retries": 2, "max_turns": 9}
FINALIZED = {"response_format": PERSON, "structured_finalize": True}
SAID: dict[str, tuple[list[Script], dict[str, Any]]] = {
    "until_tool": ([PROSE, WORK, DONE], {"until_tool": "work"}),
    "until_tool, twice": ([PARALLEL[:1], PROSE, PROSE, calls(("p", "stop", {}))], {"until_tool": "stop"}),
    "until_tool, after it": ([WORK, PARALLEL[1:], DONE], {"until_tool": "work"}),
    "output_retries": ([PARALLEL, PROSE, GOOD], RETRIED),
    "output_retries, twice": ([PROSE, PROSE, GOOD], RETRIED),
    "output_retries, with a tool": ([PROSE, WORK, PROSE, GOOD], RETRIED),
    "structured_finalize": ([PARALLEL, PROSE, GOOD], FINALIZED),
    "structured_finalize, out of turns": ([PARALLEL, GOOD], {**FINALIZED, "max_turns": 1}),
    "structured_finalize, mended": ([PROSE, PROSE, GOOD], {**FINALIZED, "output_retries": 1}),
    "no nudge": ([PARALLEL, PROSE, GOOD], {**FINALIZED, "structured_finalize_nudge": ""}),
}


def tell(
    face: Face, adapter: type[FakeAdapter], scripts: list[Script], verb: str, *given: Any, **options: Any
) -> Run:
    """A turn as its stream shows it to the user, by default with filters."""
    tools = Tools("retry")
    engine = allm.Engine("claude-opus-5-5", adapter=adapter(scripts), tools=tools.all, retry=False)
    seen = face.events(engine, *given, verb=f"sessions.stream_{verb}", **options)
    turn = seen.result if seen.error is None else seen.error.partial  # type: ignore[attr-defined]
    return Run(turn, [allm.from_json(allm.to_json(event)) for event in seen.events], tools, engine)


@pytest.fixture(params=[FakeAdapter, Strict], ids=["lenient", "strict"])
def adapter(request: pytest.FixtureRequest) -> type[FakeAdapter]:
    return request.param  # type: ignore[no-any-return]


# Without a nudge the second pass begins with the model's own words, which a strict provider refuses.
TOLD = [
    pytest.param(adapter, kind, id=f"{adapter.__name__}, {kind}")
    for adapter in (FakeAdapter, Strict)
    for kind in SAID
    if (adapter, kind) != (Strict, "no nudge")
]


@pytest.mark.parametrize(("adapter", "kind"), TOLD)
def test_what_the_loop_says_outlives_a_cut(face: Face, adapter: type[FakeAdapter], kind: str) -> None:
    scripts, options = SAID[kind]
    whole = tell(face, adapter, scripts, "reply", BEFORE, "go", **options)
    assert whole.turn.session.status == "completed"
    assert len(requests(whole.engine)) == len(scripts)
    for size in range(len(whole.events)):
        prefix = whole.events[:size]
        session = folded(BEFORE, prefix, "go")
        assert session.status == "interrupted"
        rest = tell(face, adapter, scripts[asked(prefix) :], "resume", session, **options)
        assert rest.turn.session.thread == whole.turn.session.thread
        assert rest.turn.session.status == "completed"
        assert rest.turn.result.metadata == whole.turn.result.metadata
        assert len(requests(rest.engine)) == len(scripts) - asked(prefix)
        assert rest.tools.ran == Counter(set(whole.tools.ran) - ended(prefix))
        assert set(rest.tools.keys) <= set(whole.tools.keys)


@pytest.mark.parametrize(("adapter", "kind"), TOLD)
def test_what_the_loop_says_outlives_a_second_cut(face: Face, adapter: type[FakeAdapter], kind: str) -> None:
    scripts, options = SAID[kind]
    whole = tell(face, adapter, scripts, "reply", BEFORE, "go", **options)
    for size in range(0, len(whole.events), 3):
        prefix = whole.events[:size]
        session, left = folded(BEFORE, prefix, "go"), scripts[asked(prefix) :]
        second = tell(face, adapter, left, "resume", session, **options)
        for cut in range(len(second.events)):
            more = second.events[:cut]
            third = tell(face, adapter, left[asked(more) :], "resume", folded(session, more), **options)
            assert third.turn.session.thread == whole.turn.session.thread
            assert not set(third.tools.ran) & ended([*prefix, *more])


@pytest.mark.parametrize(("adapter", "kind"), TOLD)
def test_what_the_loop_says_outlives_a_failure(face: Face, adapter: type[FakeAdapter], kind: str) -> None:
    """Of each turn, before its answer has begun and in the middle of it."""
    scripts, options = SAID[kind]
    options = {**options, "max_turns": 9}
    whole = tell(face, adapter, scripts, "reply", BEFORE, "go", **options)
    failure = {"error": "invalid_request"}
    for at, script in enumerate(scripts if "out of turns" not in kind else []):
        for failed in ([failure], [*script[:1], failure]):
            broken = tell(face, adapter, [*scripts[:at], failed], "reply", BEFORE, "go", **options)
            assert folded(BEFORE, broken.events, "go") == broken.turn.session
            again = tell(face, adapter, [failed], "resume", broken.turn.session, **options)
            assert folded(broken.turn.session, again.events) == again.turn.session
            assert (broken.turn.session.status, again.turn.session.status) == ("error", "error")
            for session in (broken.turn.session, again.turn.session):
                rest = tell(face, adapter, scripts[at:], "resume", session, **options)
                assert rest.turn.session.thread == whole.turn.session.thread
                assert broken.tools.ran + rest.tools.ran == whole.tools.ran


@pytest.mark.parametrize("options", [RETRIED, {**FINALIZED, "output_retries": 1}])
def test_an_answer_that_did_not_fit_is_asked_for_anew(
    face: Face, adapter: type[FakeAdapter], options: dict[str, Any]
) -> None:
    broken = tell(face, adapter, [PROSE, PROSE, PROSE], "reply", BEFORE, "go", **options)
    assert broken.turn.session.status == "error"
    session = folded(BEFORE, broken.events, "go")
    assert session == broken.turn.session
    rest = tell(face, adapter, [GOOD], "resume", session, **options)
    assert (rest.turn.session.status, rest.turn.result.text) == ("completed", '{"n":1}')
    good = tell(face, adapter, [PROSE, PROSE, GOOD], "reply", BEFORE, "go", **options)
    assert rest.turn.session.thread == good.turn.session.thread


def test_a_call_of_an_earlier_run_is_not_forgotten(face: Face) -> None:
    """`until_tool` looks at the turn of the user, however many runs it took; a new turn begins anew."""
    options: dict[str, Any] = {"until_tool": "work", "max_turns": 1}
    halted = run(face, [WORK], "reply", BEFORE, "go", **options).turn.session
    after = run(face, [DONE], "resume", halted, until_tool="work")
    assert (after.turn.session.status, after.turn.result.text) == ("completed", "Done")
    following = run(face, [PROSE, WORK, DONE], "reply", after.turn.session, "again", until_tool="work")
    assert len(requests(following.engine)) == 3


def test_a_budget_that_is_spent_before_the_loop_speaks(face: Face, adapter: type[FakeAdapter]) -> None:
    script: Script = [*PROSE, {"usage": {"output_tokens": 10}}]
    spent = tell(
        face, adapter, [script], "reply", BEFORE, "go", until_tool="work", budget=allm.Budget(tokens=5)
    )
    assert isinstance(spent.turn.result, allm.ChatResult)
    assert (spent.turn.result.halted_reason, spent.turn.session.status) == ("budget", "interrupted")
    rest = tell(face, adapter, [WORK, DONE], "resume", spent.turn.session, until_tool="work")
    roles = " ".join(message.role for message in rest.turn.session.messages[2:])
    assert roles == "user assistant user assistant tool assistant"


def test_a_turn_that_has_its_answer_is_not_asked_again(face: Face) -> None:
    done = run(face, [DONE], "reply", BEFORE, "go").turn.session
    for verb in ("resume", "step", "start"):
        engine = fake(DONE)
        with pytest.raises(allm.SessionError, match="the model has answered"):
            face.session(verb, engine, done)
        assert requests(engine) == []
    assert run(face, [DONE], "resume", done.append_user("more")).turn.result.text == "Done"


class Stamp:
    """A hook that changes results, after the tool's end was told."""

    def after_tool(self, call: allm.ToolCall, message: allm.Message, ctx: Any) -> allm.Message:
        return replace(message, content=f"{message.text} stamped")


@pytest.mark.parametrize("gone", [False, True])
def test_a_tool_whose_end_was_seen_does_not_run_again(face: Face, gone: bool) -> None:
    """Cut before its result was shown: hooks see it then, and it stands where the tool is gone."""
    scripts = [calls(("a", "work", {})), DONE]
    whole = run(face, scripts, "reply", BEFORE, "go", middleware=[Stamp()])
    at = next(i for i, event in enumerate(whole.events) if isinstance(event, allm.ToolExecutionCompleted))
    session = folded(BEFORE, whole.events[: at + 1], "go")
    assert session.progress is not None
    assert [event.message.text for event in session.progress.ended] == ['{"did":"a"}']
    ended = face.session("reply", fake(DONE), session, "no").session
    assert ended.messages[4].text == '{"did":"a"}'
    tools = Tools("retry")
    engine = fake(DONE, tools=[] if gone else tools.all)
    after = face.session("resume", engine, session, middleware=[Stamp()]).session
    assert tools.ran == Counter()
    assert after.messages[4].text == '{"did":"a"}' + ("" if gone else " stamped")


# What the user says before a cut turn is over

NEXT: Script = [{"text": "Next"}]


def test_a_message_that_was_appended_follows_the_step(face: Face, adapter: type[FakeAdapter]) -> None:
    """At every cut: behind a step that has begun, else before the answer."""
    scripts = [PARALLEL, DONE]
    whole = tell(face, adapter, scripts, "reply", BEFORE, "go")
    for size in range(len(whole.events)):
        prefix = whole.events[:size]
        session = folded(BEFORE, prefix, "go").append_user("more")
        again = allm.from_json(allm.to_json(session), allm.Session)
        answers = [*scripts[asked(prefix) :], NEXT]
        rest = tell(face, adapter, answers, "resume", again)
        roles = " ".join(message.role for message in rest.turn.session.messages[2:])
        in_first = "user assistant tool tool tool user assistant"
        assert (
            roles
            == {
                0: "user user assistant tool tool tool assistant",
                1: in_first,
                2: "user assistant tool tool tool assistant user assistant",
            }[asked(prefix)]
        )
        assert [m.text for m in rest.turn.session.messages if m.role == "user"][1:] == ["go", "more"]
        assert rest.tools.ran == Counter(set(whole.tools.ran) - ended(prefix))


@pytest.mark.parametrize("how", ["append", "resume"])
def test_a_message_after_an_approval_is_kept(face: Face, how: str) -> None:
    """What was approved runs first; cut anywhere, too."""

    def engine(sent: list[Any], *scripts: Script) -> allm.Engine:
        return fake(*scripts, tools=[mailer(sent), double])

    session = waiting(face)
    decisions = [approve(call) for call in session.pending_tool_calls]
    session = allm.sessions.submit(engine([]), session, decisions=decisions)
    given: tuple[Any, ...] = ("ALSO",)
    if how == "append":
        session, given = session.append_user("ALSO"), ()
        assert session.messages[-1].text == "ALSO"
    events: list[Event] = []
    sent: list[Any] = []
    whole = face.session("resume", engine(sent, DONE), session, *given, on_event=events.append)
    assert len(sent) == 2
    roles = " ".join(message.role for message in whole.session.messages)
    assert roles == "user assistant tool tool tool user assistant"
    assert whole.session.messages[-2].text == "ALSO"
    for size in range(len(events)):
        prefix, sent = events[:size], []
        cut = folded(session, prefix, *given)
        scripts = [DONE][asked(prefix) :]
        after = face.session("resume", engine(sent, *scripts), cut).session
        assert after.thread == whole.session.thread
        assert len(sent) == 2 - len(ended(prefix) & {"a", "c"})


def test_a_message_is_not_lost_where_the_step_ends_the_turn(face: Face) -> None:
    whole = run(face, [calls(("a", "stop", {}))], "reply", BEFORE, "go")
    session = folded(BEFORE, whole.events[:-2], "go").append_user("more")
    after = run(face, [], "resume", session).turn
    assert isinstance(after.result, allm.ChatResult)
    assert (after.result.halted_reason, after.session.messages[-1].text) == ("enough", "more")
    after = run(face, [], "reply", session, "and more", max_turns=1).turn
    assert [message.text for message in after.session.messages[-2:]] == ["more", "and more"]


def test_approved_calls_outlive_a_failure_before_them(face: Face) -> None:
    session = waiting(face)
    decisions = [approve(call) for call in session.pending_tool_calls]
    session = allm.sessions.submit(fake(tools=[mailer([]), double]), session, decisions=decisions)
    failed = folded(session, [allm.StreamFailed(allm.ErrorInfo(reason="timeout"))])
    sent: list[Any] = []
    after = face.session("resume", fake(DONE, tools=[mailer(sent), double]), failed).session
    assert (after.status, len(sent)) == ("completed", 2)


def test_a_reply_keeps_what_the_loop_had_said(face: Face) -> None:
    options: dict[str, Any] = {"response_format": PERSON, "output_retries": 1}
    whole = run(face, [PARALLEL, PROSE, GOOD], "reply", BEFORE, "go", **options)
    session = folded(BEFORE, whole.events[:-1], "go")
    after = run(face, [DONE], "reply", session, "thanks").turn.session
    assert after.messages[:-2] == whole.turn.session.messages


def test_what_was_said_before_a_cut_is_not_said_twice(face: Face) -> None:
    """The events of the cut run and of the one that went on, one after the other, as a journal has them."""
    whole = run(face, [DONE], "reply", BEFORE, "go")
    said = whole.events[:2]
    assert isinstance(said[1], allm.TextDelta)
    state = allm.ChatFold()
    for event in (*said, *said):
        state.add(event)
    assert state.result().text == "Done"
