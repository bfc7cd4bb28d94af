"""Sessions on every face: what is legal when, what a turn makes of a session, storing between turns."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm.providers.fake import FakeAdapter
from tests.faces import Face
from tests.test_loop import DONE, HELLO, Script, calls, double, fake, named, requests

ASK = calls(("a", "ask", {}))
CALL = calls(("c1", "double", {"n": 1}), ("c2", "double", {"n": 2}))
FAILED: Script = [{"text": "Hal"}, {"error": "invalid_request"}]
ask = named("ask", lambda _: allm.AskUser("Which?", ["x", "y"]))


def session_of(face: Face, status: str) -> allm.Session:
    """A session that a run brought to `status`."""
    if status == "idle":
        return allm.Session(id="s", thread=allm.Thread().add_user("hi"))
    if status == "completed":
        return face.session("start", fake(HELLO), "hi", id="s").session.append_user("and?")
    if status == "awaiting_user":
        return face.session("start", fake(ASK, tools=[ask]), "hi", id="s").session
    if status == "awaiting_tools":
        return face.session("start", fake(CALL, tools=[double]), "hi", id="s", mode="manual").session
    if status == "interrupted":
        return allm.SessionFold(session_of(face, "idle")).session
    with pytest.raises(allm.InvalidRequestError) as caught:
        face.session("start", fake(FAILED), "hi", id="s")
    return caught.value.partial.session  # type: ignore[no-any-return]


# status: start, reply, resume, resume with a message, step, submit
TABLE = {
    "idle": "yes yes yes yes yes no",
    "completed": "yes yes yes yes yes no",
    "awaiting_user": "no yes no yes no no",
    "awaiting_tools": "no no no no no yes",
    "error": "no yes yes yes yes no",
    "interrupted": "no yes yes yes yes no",
}
OPERATIONS = ("start", "reply", "resume", "resume with", "step", "submit")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", TABLE)
def test_what_is_legal_when(face: Face, status: str, operation: str) -> None:
    session = session_of(face, status)
    assert session.status == status
    engine = fake(DONE, tools=[double, ask])

    def work() -> allm.Session:
        match operation:
            case "submit":
                return session.submit_tool_result("c1", "2")
            case "reply":
                return face.session("reply", engine, session, "go").session
            case "resume with":
                return face.session("resume", engine, session, allm.user("go")).session
        return face.session(operation, engine, session).session

    if TABLE[status].split()[OPERATIONS.index(operation)] == "yes":
        after = work()
        assert after.status == ("awaiting_tools" if operation == "submit" else "completed")
        assert (after.pending_question, after.pending_tool_call_id, after.error) == (None, None, None)
        assert after.id == "s"
    else:
        with pytest.raises(allm.SessionError) as caught:
            work()
        assert caught.value.info.code in ("invalid_status_for_operation", "unknown_tool_call_id")
        assert requests(engine) == []


def test_start_and_reply(face: Face) -> None:
    engine = fake(HELLO, DONE)
    session, result = face.session("start", engine, "hi", id="s")
    assert (session.status, session.revision, session.id) == ("completed", 1, "s")
    assert session.thread == result.thread
    session, result = face.session("reply", engine, session, "more")
    assert result.text == "Done"
    assert session.revision == 2
    assert [m.role for m in session.messages] == ["user", "assistant", "user", "assistant"]
    assert requests(engine)[1].messages == session.messages[:3]


@pytest.mark.parametrize("given", [allm.user("hi"), [allm.user("hi")], allm.Thread().add_user("hi"), "hi"])
def test_start_takes_what_a_chat_takes(face: Face, given: Any) -> None:
    assert face.session("start", fake(HELLO), given).session.messages[0] == allm.user("hi")


def test_start_refuses_what_is_no_input(face: Face) -> None:
    with pytest.raises(allm.ValidationError):
        face.session("start", fake(HELLO), 3)


def test_asked_and_answered(face: Face) -> None:
    engine = fake(ASK, DONE, tools=[ask])
    session, result = face.session("start", engine, "hi")
    assert (session.pending_question, session.pending_tool_call_id) == ("Which?", "a")
    assert isinstance(result, allm.ChatResult)
    assert result.halted_reason == "ask_user"
    after, _ = face.session("reply", engine, session, "x")
    assert [m.role for m in after.messages] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert [m.text for m in after.messages[2:5]] == ["<awaiting user response>", "Which?", "x"]


def test_manual_cycle(face: Face) -> None:
    engine = fake(CALL, DONE, tools=[double])
    session, _ = face.session("start", engine, "hi", mode="manual")
    assert [call.id for call in session.pending_tool_calls] == ["c1", "c2"]
    session = session.submit_tool_result("c2", {"n": 4})
    assert session.status == "awaiting_tools"
    with pytest.raises(allm.SessionError, match="submit_tool_result"):
        face.session("resume", engine, session)
    session = session.submit_tool_result("c1", "2")
    assert session.status == "idle"
    session, result = face.session("resume", engine, session)
    assert (session.status, result.text) == ("completed", "Done")
    assert [(m.tool_call_id, m.text) for m in session.messages[2:4]] == [("c2", '{"n":4}'), ("c1", "2")]


def test_submitting_is_all_or_nothing(face: Face) -> None:
    session = session_of(face, "awaiting_tools")
    with pytest.raises(allm.SessionError, match=r"nothing was submitted.*pending: c1, c2") as caught:
        session.submit_tool_results([("c1", "2"), ("x", "3"), ("c1", "2"), ("y", "4"), ("c2", "4")])
    assert caught.value.info.code == "unknown_tool_call_id"
    assert caught.value.info.problems == (
        ("x", "not_pending"), ("y", "not_pending"), ("c1", "answered_twice"),
    )  # fmt: skip
    with pytest.raises(allm.ValidationError, match=r"results\['c2'\]"):
        session.submit_tool_results([("c1", "2"), ("c2", object())])
    assert session == session_of(face, "awaiting_tools")
    assert session.submit_tool_results([]) is session
    assert session.submit_tool_results([("c1", "2"), ("c2", "4")]).status == "idle"


@pytest.mark.parametrize("results", [{"c1": "2", "c2": 4}, [["c1", "2"], ("c2", 4)]])
def test_results_by_call_id(face: Face, results: Any) -> None:
    session = session_of(face, "awaiting_tools").submit_tool_results(results)
    answers = [(message.tool_call_id, message.text) for message in session.messages[-2:]]
    assert answers == [("c1", "2"), ("c2", "4")]


@pytest.mark.parametrize("results", [5, None, "c1", ["c1"], [("c1",)], [(1, "2")], {1: "2"}, ["ab"]])
def test_results_of_another_shape(face: Face, results: Any) -> None:
    """Of a text of two letters no call id and value are made."""
    session = session_of(face, "awaiting_tools")
    for submit in (session.submit_tool_results, lambda r: allm.sessions.submit(fake(), session, results=r)):
        with pytest.raises(allm.ValidationError, match=r"results.*must_be_a_mapping_or_pairs"):
            submit(results)


def test_what_a_turn_waited_for_is_not_said_after_it(face: Face) -> None:
    session = replace(session_of(face, "awaiting_tools"), metadata={"mine": 1, "mode": "manual"})
    session = session.submit_tool_results({"c1": 2, "c2": 4})
    assert face.session("resume", fake(DONE), session).session.metadata == {"mine": 1}
    asked = session_of(face, "awaiting_user")
    assert asked.metadata["pending_question"] == "Which?"
    assert face.session("reply", fake(DONE), asked, "x").session.metadata == {}


def test_calls_that_wait_are_named_by_results_too(face: Face) -> None:
    manual = face.session("start", fake(CALL, tools=[double]), "hi", mode="manual")
    assert manual.result.pending_tool_calls == manual.session.pending_tool_calls != ()
    person = allm.Tool(name="person", schema={"type": "object"}, manual=True)
    script = calls(("c1", "double", {"n": 1}), ("p", "person", {}))
    for run in (face.chat, face.step):
        waiting = run(fake(script, tools=[double, person]), "hi").pending_tool_calls
        assert [call.id for call in waiting] == ["p"]
        assert run(fake(DONE), "hi").pending_tool_calls == ()
    assert allm.ChatResult().pending_tool_calls == ()


def test_results_may_be_parts_and_errors() -> None:
    waiting = allm.Session(status="awaiting_tools", pending_tool_calls=(allm.ToolCall("a", "look"),))
    picture = allm.ImagePart(image=allm.Image.from_bytes(b"GIF89a"))
    assert waiting.submit_tool_result("a", [picture]).messages[0].content == (picture,)
    assert waiting.submit_tool_result("a", "gone", is_error=True).messages[0].is_error


def test_every_change_has_a_revision_of_its_own(face: Face) -> None:
    """What two writers make of one session cannot be mistaken for each other's successor."""
    session = session_of(face, "awaiting_tools")
    first, second = session.submit_tool_result("c1", "2"), session.submit_tool_result("c2", "4")
    assert first.revision == second.revision == session.revision + 1
    assert session.append_user("Hi").revision == session.revision + 1
    idle = first.submit_tool_result("c2", "4")
    assert face.session("resume", fake(DONE), idle).session.revision == idle.revision + 1


def test_only_the_manual_calls_are_pending(face: Face) -> None:
    person = allm.Tool(name="person", schema={"type": "object"}, manual=True)
    engine = fake(calls(("a", "person", {}), ("b", "double", {"n": 1})), DONE, tools=[person, double])
    session, _ = face.session("start", engine, "hi")
    assert [call.id for call in session.pending_tool_calls] == ["a"]
    session, _ = face.session("resume", engine, session.submit_tool_result("a", "yes"))
    assert session.status == "completed"


def test_a_failure_does_not_kill_a_conversation(face: Face) -> None:
    engine = fake(CALL, FAILED, DONE, tools=[double])
    with pytest.raises(allm.InvalidRequestError) as caught:
        face.session("start", engine, "hi")
    turn = caught.value.partial
    assert isinstance(turn, allm.SessionTurn)
    assert isinstance(turn.result, allm.ChatResult)
    assert (turn.session.status, turn.result.halted_reason) == ("error", "error")
    assert turn.session.error == caught.value.info
    assert turn.session.progress is None
    assert [m.role for m in turn.session.messages] == ["user", "assistant", "tool", "tool"]
    session, _ = face.session("resume", engine, turn.session)
    assert [m.role for m in session.messages] == ["user", "assistant", "tool", "tool", "assistant"]


def test_tool_error_under_halt(face: Face) -> None:
    def broken(arguments: dict[str, Any]) -> None:
        raise ValueError("broken")

    engine = fake(calls(("a", "t", {})), DONE, tools=[named("t", broken)])
    session, result = face.session("start", engine, "hi", on_tool_error="halt")
    assert (session.status, result.halted_reason) == ("error", "tool_error")
    assert session.error is not None
    assert (session.error.reason, session.error.call_id) == ("tool_failed", "a")
    assert face.session("reply", engine, session, "go on").session.status == "completed"


@pytest.mark.parametrize("options", [{"max_turns": 1}, {"halt_when": lambda step: True}])
def test_what_halts_is_completed(face: Face, options: dict[str, Any]) -> None:
    assert face.session("start", fake(CALL, tools=[double]), "hi", **options).session.status == "completed"


def test_step(face: Face) -> None:
    engine = fake(CALL, DONE, tools=[double])
    session, result = face.session("step", engine, allm.Session(thread=allm.Thread().add_user("hi")))
    assert isinstance(result, allm.StepResult)
    assert (session.status, result.done) == ("idle", False)
    session, result = face.session("step", engine, session)
    assert (session.status, result.done, session.revision) == ("completed", True, 2)
    assert session.messages[-1].text == "Done"


def test_step_that_asks_and_step_in_manual_mode(face: Face) -> None:
    idle = session_of(face, "idle")
    session, _ = face.session("step", fake(ASK, tools=[ask]), idle)
    assert (session.status, session.pending_question) == ("awaiting_user", "Which?")
    session, _ = face.session("step", fake(CALL, tools=[double]), idle, mode="manual")
    assert session.status == "awaiting_tools"
    assert len(session.pending_tool_calls) == 2


def test_context_and_id_reach_the_tools(face: Face) -> None:
    got: list[allm.ToolContext] = []

    @allm.tool
    def look(ctx: allm.ToolContext) -> str:
        """Look."""
        got.append(ctx)
        return "seen"

    script = calls(("a", "look", {}))
    engine = fake(script, script, DONE, tools=[look], context={"a": 0, "b": 0, "c": 0})
    session = allm.Session(id="s", thread=allm.Thread().add_user("hi"), context={"b": 1, "c": 1})
    session, _ = face.session("resume", engine, session, context={"c": 2})
    assert got[0].context == {"a": 0, "b": 1, "c": 2}
    assert session.context == {"b": 1, "c": 1}
    assert [ctx.session_id for ctx in got] == ["s", "s"]
    assert [ctx.idempotency_key for ctx in got] == ["s/0/tool/0", "s/1/tool/0"]
    assert session.revision == 3
    face.session("reply", engine.merge(adapter=fake(script, DONE).adapter), session, "again")
    assert got[2].idempotency_key == "s/3/tool/0"


def test_halting_with_an_own_word_is_completed_and_remembered(face: Face) -> None:
    stop = named("stop", lambda _: allm.Halt("enough", {"n": 1}))
    start = allm.Session(thread=allm.Thread().add_user("hi"), metadata={"mine": 1})
    session, result = face.session("start", fake(calls(("a", "stop", {})), tools=[stop]), start)
    assert (session.status, result.halted_reason) == ("completed", "enough")
    assert session.metadata == {"mine": 1, "halt_tool_call_id": "a", "halt_result": {"n": 1}}


STREAMS = ("stream_start", "stream_reply", "stream_resume", "stream_step")


@pytest.mark.parametrize("verb", STREAMS)
def test_streams_fold_to_the_same_turn(face: Face, verb: str) -> None:
    arguments = {"stream_start": ("hi",), "stream_reply": (session_of(face, "completed"), "go")}
    given = arguments.get(verb, (session_of(face, "idle"),))
    seen = face.events(fake(HELLO), *given, verb=f"sessions.{verb}")
    assert seen.result == face.session(verb.removeprefix("stream_"), fake(HELLO), *given)
    assert seen.kinds[-1] == ("step_completed" if verb == "stream_step" else "chat_completed")


@pytest.mark.parametrize("verb", ["stream_reply", "stream_step"])
def test_a_cancelled_turn_leaves_the_session_as_it_was(face: Face, verb: str) -> None:
    session = session_of(face, "completed")
    given = (session, "go") if verb == "stream_reply" else (session,)
    stream = face.consume(fake(HELLO), *given, verb=f"sessions.{verb}", body=lambda *_: True)
    with pytest.raises(allm.CancelledError) as caught:
        face.result(stream)
    assert caught.value.partial.session == session
    result = caught.value.partial.result
    assert (result.halted_reason if verb == "stream_reply" else result.response.finish_reason) == "cancelled"


@pytest.mark.parametrize("verb", STREAMS)
def test_a_fold_gives_what_the_verb_gives(face: Face, verb: str) -> None:
    """Of the original's reducer: fed with the events of a stream it makes the same turn, asked twice too."""
    before = session_of(face, "completed" if verb == "stream_reply" else "idle")
    message = "go" if verb == "stream_reply" else None
    given = (before,) if message is None else (before, message)
    seen = face.events(fake(CALL, DONE, tools=[double]), *given, verb=f"sessions.{verb}")
    fold = allm.SessionFold(before, message, "step" if verb == "stream_step" else "chat")
    for event in seen.events:
        fold.add(event)
    assert fold.result() == fold.result() == seen.result
    assert fold.session == seen.result.session


# Storing


def _kept(session: allm.Session) -> allm.Session:
    return session


def _json(session: allm.Session) -> allm.Session:
    return allm.from_json(allm.to_json(session))  # type: ignore[no-any-return]


def _msgpack(session: allm.Session) -> allm.Session:
    return allm.from_msgpack(allm.to_msgpack(session))  # type: ignore[no-any-return]


def _conversation(face: Face, store: Any) -> tuple[list[allm.Request], allm.Session]:
    """A conversation with every kind of stop in it, stored and loaded between all turns."""
    failing: Script = [{"text": "Hal"}, {"error": "invalid_request"}]
    turns = [HELLO, [{"reasoning": "Hm"}, *ASK], CALL, CALL, failing, DONE]
    engine = fake(*turns, tools=[double, ask])
    session = store(face.session("start", engine, "hi", id="s").session)
    session = store(face.session("reply", engine, session, "ask me").session)
    session = store(face.session("reply", engine, session, "x", mode="manual").session)
    session = store(session.submit_tool_result("c1", {"é": [1.5, None]}))
    session = store(session.submit_tool_result("c2", "4"))
    with pytest.raises(allm.InvalidRequestError) as caught:
        face.session("resume", engine, session)
    session = store(caught.value.partial.session)
    session = store(face.session("resume", engine, session).session)
    assert isinstance(engine.adapter, FakeAdapter)
    engine.adapter.assert_exhausted()
    return requests(engine), session


@pytest.mark.parametrize("store", [_json, _msgpack])
def test_a_stored_conversation_asks_the_same(face: Face, store: Any) -> None:
    kept, stored = _conversation(face, _kept), _conversation(face, store)
    assert stored == kept
    assert [allm.to_json(request) for request in stored[0]] == [allm.to_json(request) for request in kept[0]]
    assert kept[1].revision == 8  # six answers of the model, two results
