"""Spans: what of a run takes time, told to observers; begun and ended in pairs, whatever happens."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import allm
from allm.ports import Span
from tests.faces import Face
from tests.parity.support import ANSWER, SSE, Transport, wired
from tests.test_loop import DONE, HELLO, Counted, calls, double, failing, fake, named


class Watch:
    """An observer that keeps all it is told, in order."""

    def __init__(self) -> None:
        self.started: list[Span] = []
        self.ended: list[Span] = []
        self.order: list[str] = []

    def event(self, event: Any, ctx: Any) -> None:
        self.order.append(type(event).__name__)

    def span_started(self, span: Span) -> None:
        self.started.append(span)
        self.order.append(f"{span.kind} begins")

    def span_ended(self, span: Span) -> None:
        self.ended.append(span)
        self.order.append(f"{span.kind} ends")

    def paired(self) -> dict[str, Span]:
        """The ended spans by their ids; every one that began has ended, once."""
        assert sorted(span.id for span in self.started) == sorted(span.id for span in self.ended)
        assert all(span.elapsed is not None and span.elapsed >= 0 for span in self.ended)
        assert all(span.elapsed is span.ok is None for span in self.started)
        return {span.id: span for span in self.ended}


class Answers:
    """An in-process adapter: one answer after the other; an exception is raised."""

    name = "answers"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def complete(self, request: allm.Request, ctx: Any) -> allm.Response:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return allm.Response(message=allm.assistant(answer), finish_reason="stop")


CALL = allm.ToolCall("c", "double", {"n": 2}, '{"n":2}')
FAIL = allm.ToolCall("f", "fail", {}, "{}")


def test_f167_a_run_its_model_calls_and_its_tools(face: Face) -> None:
    watch = Watch()
    adapter = Answers([CALL, FAIL], "Four.")
    engine = allm.Engine("m", adapter=adapter, tools=[double, named("fail", failing)], observers=[watch])
    face.chat(engine, "go", session_id="s", request_id="r")
    found = watch.paired()
    assert [(id, span.kind, span.name, span.ok) for id, span in sorted(found.items())] == [
        ("s", "run", "chat", True),
        ("s/0/model", "model", "m", True),
        ("s/0/tool/0", "tool", "double", True),
        ("s/0/tool/1", "tool", "fail", False),
        ("s/1/model", "model", "m", True),
    ]
    assert {(span.run_id, span.session_id, span.request_id) for span in watch.ended} == {("s", "s", "r")}
    assert found["s/0/tool/1"].error == allm.ErrorInfo(reason="tool_failed", message="ValueError")
    assert watch.order[0] == "run begins"
    assert watch.order[-1] == "run ends"
    assert watch.order.index("model begins") < watch.order.index("MessageStarted")
    assert watch.order.index("ToolExecutionStarted") < watch.order.index("tool begins")


def test_f167_spans_of_a_run_without_a_name_have_its_id(face: Face) -> None:
    watch = Watch()
    face.generate(allm.Engine("m", adapter=Answers("Hi"), observers=[watch]), "hi")
    run, model = watch.started
    assert run.id == run.run_id == model.run_id
    assert len(run.id) > 20
    assert model.id == f"{run.id}/0/model"
    assert (run.name, run.session_id, run.request_id) == ("response", None, None)


def test_f168_a_failure_ends_its_spans(face: Face) -> None:
    watch = Watch()
    error = allm.OverloadedError("busy")
    engine = allm.Engine("m", adapter=Answers(error), observers=[watch])
    with pytest.raises(allm.OverloadedError):
        face.chat(engine, "go", session_id="s", retry=False)
    found = watch.paired()
    assert (found["s/0/model"].ok, found["s"].ok) == (False, False)
    assert found["s/0/model"].error == error.info
    failure = found["s"].error
    assert failure is not None
    assert (failure.reason, failure.attempts) == ("overloaded", 1)


def test_f168_a_mistake_of_the_caller_begins_no_span(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    watch = Watch()
    with pytest.raises(allm.MissingKeyError):
        face.chat(allm.Engine("openai:m", observers=[watch]), "go")
    assert watch.order == []


def test_every_attempt_is_a_span_with_its_status() -> None:
    watch = Watch()
    transport = Transport((503, {}, (b"{}",)), (200, SSE, ANSWER))
    at_once = allm.RetryPolicy(base_delay=0)
    allm.generate(wired(transport, observers=[watch]), "hi", api_key="k", retry=at_once)
    assert [(span.kind, span.status, span.ok) for span in watch.ended] == [
        ("model", 503, False), ("model", 200, True), ("run", None, True)
    ]  # fmt: skip


def test_a_fallback_has_its_own_model(face: Face) -> None:
    watch = Watch()
    other = allm.Engine("n", adapter=Answers("Hi"))
    engine = allm.Engine(
        "m", adapter=Answers(allm.OverloadedError("x")), observers=[watch], fallbacks=[other]
    )
    face.generate(engine, "hi", retry=False)
    assert [(span.kind, span.model) for span in watch.ended] == [
        ("model", "m"), ("model", "n"), ("run", "m")
    ]  # fmt: skip


def test_hooks_have_spans(face: Face) -> None:
    class Hook:
        def before_model(self, request: Any, ctx: Any) -> None: ...

    watch = Watch()
    face.chat(fake(HELLO, middleware=[Hook()], observers=[watch]), "hi", session_id="s")
    hook = watch.paired()[watch.ended[0].id]
    assert (hook.kind, hook.name, hook.ok) == ("hook", "before_model", True)


def test_leaving_early_ends_what_is_open(face: Face) -> None:
    watch = Watch()
    engine = allm.Engine("m", adapter=Counted(), observers=[watch])
    face.consume(engine, "hi", body=lambda stream, event: True)
    found = watch.paired()
    assert {(span.kind, span.ok) for span in found.values()} == {("run", False), ("model", False)}


def test_a_dropped_stream_ends_what_is_open() -> None:
    watch = Watch()
    stream = allm.stream(allm.Engine("m", adapter=Counted(), observers=[watch]), "hi")
    next(stream)
    del stream
    assert {span.kind for span in watch.paired().values()} == {"run", "model"}


def test_an_observer_that_fails_changes_nothing(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Watch):
        def span_started(self, span: Span) -> None:
            raise RuntimeError("observer")

    bad, good = Bad(), Watch()
    with caplog.at_level(logging.ERROR, "allm"):
        assert face.chat(fake(calls(("c", "double", {"n": 1})), DONE, tools=[double]), "go",
                         observers=[bad, good]).text == "Done"  # fmt: skip
    assert len([record for record in caplog.records if record.name == "allm"]) == 1
    good.paired()
