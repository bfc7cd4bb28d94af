"""The traps of the parity table that no other test names: what is easy to get wrong, and what we do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import allm
from allm.data.events import Event
from allm.drivers.pace import Pace
from allm.ext.store import SQLiteStore
from allm.folds import RunFold
from allm.loops.chat import chat_run
from allm.loops.effects import NewId, NextTool, StartTool, ToolDone
from allm.loops.plan import make_plan
from allm.providers import resolve
from tests.faces import Face
from tests.parity.support import ANSWER, SSE, Body, Transport, wired
from tests.test_loop import DONE, HELLO, calls, double, fake, named, requests


def test_t01_text_is_shown_while_the_server_still_sends() -> None:
    seen: list[str] = []

    class Slow(Body):
        """Sends the next piece only after the one before it was shown."""

        def read(self, timeout: float | None) -> bytes:
            read = len(ANSWER) - len(self.reads)
            assert seen == ["Hel", "lo"][:read]
            return super().read(timeout)

    class Slowly(Transport):
        def open(self, *args: Any, **options: Any) -> Body:
            super().open(*args, **options)
            return Slow(self, 200, SSE, ANSWER)

    with allm.stream(wired(Slowly()), "hi", api_key="k") as stream:
        for piece in stream.text():
            seen.append(piece)
    assert seen == ["Hel", "lo"]


def test_t09_tools_wait_for_the_end_of_the_answer(face: Face) -> None:
    """Usage that comes after the calls is not lost, and no tool runs before it."""
    ran: list[str] = []
    told: list[Event] = []

    def handler(arguments: dict[str, Any]) -> str:
        ran.append("ran")
        assert any(isinstance(event, allm.MessageCompleted) for event in told)
        return "ok"

    script = [*calls(("a", "t", {})), {"usage": {"input_tokens": 7}}]
    result = face.chat(fake(script, DONE, tools=[named("t", handler)]), "go", on_event=told.append)
    assert ran == ["ran"]
    assert result.steps[0].response.usage == allm.Usage(input_tokens=7)


def test_t14_silence_is_counted_from_event_to_event(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("allm.drivers.pace.time.monotonic", lambda: now)
    pace = Pace(allm.Timeouts())
    pace.opening(allm.Timeouts(first_event=10.0, idle=3.0, request=None))
    pace.remaining(True)  # the headers have come
    for _ in range(20):  # an event every two seconds: longer than `idle` in all, never over
        now += 2.0
        assert pace.remaining(True) == 3.0
    now += 2.0
    assert pace.remaining(False) == 1.0  # a keep-alive is no event
    now += 1.0
    with pytest.raises(allm.DeadlineExceededError) as caught:
        pace.remaining(False)
    assert caught.value.info.code == "idle"


def test_t16_a_tool_that_waits_for_its_place_has_not_started() -> None:
    """The driver counts a timeout from `StartTool`; with one place the second comes after the first ended."""
    engine = fake(calls(("a", "double", {"n": 1}), ("b", "double", {"n": 2})), DONE, tools=[double])
    plan, _ = make_plan(engine, "go", {"max_concurrency": 1, "tool_timeout": 5.0})
    run = chat_run(plan, RunFold("chat", plan.base))
    log: list[Any] = []
    item = next(run)
    while not isinstance(item, allm.ChatCompleted):
        reply: Any = None
        if type(item) is NewId:
            reply = "r"
        elif type(item) is StartTool:
            log.append((item.position, item.timeout))
        elif type(item) is NextTool:
            reply = ToolDone(log[-1][0], "ok", None, 0.0)
            log.append("waits")
        item = run.send(reply)
    assert log == [(0, 5.0), "waits", (1, 5.0), "waits"]


@pytest.mark.parametrize("answer", [KeyError("policy"), object(), {1, object()}])
def test_t20_the_policy_is_not_asked_about_itself(face: Face, answer: Any) -> None:
    asked: list[str | None] = []

    def policy(call: allm.ToolCall, error: allm.ErrorInfo) -> Any:
        asked.append(error.code)
        if isinstance(answer, Exception):
            raise answer
        return answer

    engine = fake(calls(("a", "t", {})), tools=[named("t", lambda _: 1 / 0)])
    result = face.chat(engine, "go", on_tool_error=policy)
    assert (result.halted_reason, asked) == ("tool_error", ["handler_raised"])


def test_t23_a_step_that_asks_does_not_add_the_question() -> None:
    ask = named("ask", lambda _: allm.AskUser("Which?", ["x"]))
    script = calls(("a", "ask", {}))
    step = allm.step(fake(script, tools=[ask]), "go")
    assert [message.role for message in step.thread.messages] == ["user", "assistant", "tool"]
    assert step.metadata["pending_question"] == "Which?"
    chat = allm.chat(fake(script, tools=[ask]), "go")
    assert chat.thread.messages[-1].text == "Which?"
    assert chat.thread_after(0) == step.thread


def test_t28_one_turn_with_a_call_is_one_request_and_its_tools() -> None:
    engine = fake(calls(("a", "double", {"n": 2})), DONE, tools=[double])
    result = allm.chat(engine, "go", max_turns=1)
    assert (result.halted_reason, len(requests(engine))) == ("max_turns", 1)
    assert [message.text for message in result.steps[0].tool_results] == ["4"]


def test_t34_no_default_is_shared() -> None:
    one, other = allm.Request(), allm.Request()
    one.options["a"] = one.metadata["b"] = 1
    assert (other.options, other.metadata) == ({}, {})
    first, second = allm.Engine("openai:m"), allm.Engine("openai:m")
    first.params["seed"] = 1
    assert second.params == {}


@pytest.mark.parametrize("field", ["temperature", "top_p", "max_tokens"])
@pytest.mark.parametrize("value", [True, float("nan"), "1"])
def test_t35_what_only_looks_like_a_number_is_refused(field: str, value: Any) -> None:
    with pytest.raises(allm.ValidationError, match=field):
        allm.chat(fake(DONE), "hi", **{field: value})


def test_t36_links_are_not_fetched() -> None:
    image = allm.Image.from_url("https://example.invalid/a.png")
    transport = Transport()
    allm.generate(wired(transport), allm.user([allm.ImagePart(image)]), api_key="k")
    assert len(transport.requests) == 1
    (part,) = transport.sent[0]["messages"][0]["content"]
    assert part["image_url"]["url"] == image.url


@pytest.mark.usefixtures("clean")
def test_t39_keys_are_read_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Transport()
    engine = wired(transport)
    with pytest.raises(allm.MissingKeyError):
        allm.stream(engine, "hi")
    for value in ("one", "two"):
        monkeypatch.setenv("OPENAI_API_KEY", value)
        allm.generate(engine, "hi")
    assert transport.keys == [("authorization", "Bearer one"), ("authorization", "Bearer two")]


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens: 99999 > 8192, which is the maximum allowed",
        "Invalid value for max_tokens",
        "max_tokens is bad",
    ],
)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "groq"])
def test_t48_a_wrong_parameter_is_no_full_context(provider: str, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    assert resolve(provider).explain(400, {}, body).reason == "invalid_request"


def test_t51_no_choice_and_the_choice_of_none_differ() -> None:
    transport = Transport()
    engine = wired(transport, tools=[double])
    allm.generate(engine, "hi", api_key="k")
    allm.generate(engine, "hi", api_key="k", tool_choice="none")
    engine = engine.put_param("tool_choice", "required")
    allm.generate(engine, "hi", api_key="k")
    allm.generate(engine, "hi", api_key="k", tool_choice=None)
    assert [body.get("tool_choice", "absent") for body in transport.sent] == [
        "absent", "none", "required", "absent",
    ]  # fmt: skip


def test_t59_a_provider_that_streams_gives_the_whole_answer(face: Face) -> None:
    class Pieces:
        name = "pieces"

        def complete(self, request: Any, ctx: Any) -> allm.Response:
            raise NotImplementedError

        def stream(self, request: Any, ctx: Any) -> Iterator[Event]:
            yield allm.TextDelta("a")
            yield allm.TextDelta("b")
            yield allm.ToolCallStarted("c", "t", 1)
            yield allm.ToolCallCompleted(allm.ToolCall("c", "t"))
            yield allm.UsageReported(allm.Usage(output_tokens=2))
            yield allm.MessageCompleted(allm.Response(finish_reason="tool_calls"))

    response = face.generate(allm.Engine(adapter=Pieces()), "hi")
    assert (response.text, [call.id for call in response.tool_calls]) == ("ab", ["c"])
    assert response.usage == allm.Usage(output_tokens=2)


def test_t66_after_an_error_the_fake_says_nothing_more() -> None:
    script = [{"text": "a"}, {"error": "overloaded"}, {"text": "b"}]
    events = list(allm.stream(fake(script), "hi", raise_on_error=False))
    assert isinstance(events[-1], allm.StreamFailed)
    assert allm.fold(events, allm.Thread()).text == "a"
    assert allm.chat(fake(HELLO), "hi").text == "Hello"


def test_t60_no_name_of_a_session_becomes_a_path(tmp_path: Path) -> None:
    """The one place where names that others choose and files meet: a name is a key in one database."""
    folder = tmp_path / "data"
    folder.mkdir()
    store = SQLiteStore(folder / "sessions.db")
    names = ["../outside", str(tmp_path / "database"), "a/../../b", "..", "C:\\x", "a\x00b"]
    for name in names:
        store.save(allm.Session(id=name))
        assert store.load(name).id == name
    assert {entry.id for entry in store.list()} == set(names)
    assert [path for path in tmp_path.rglob("*") if path.parent != folder and path != folder] == []
    assert all(path.name.startswith("sessions.db") for path in folder.iterdir())
