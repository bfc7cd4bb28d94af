"""The loop on every face: events and their order, tools, halts, retries, failures, and how runs end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

import allm
from allm.data.events import Event
from allm.loops.effects import Sleep
from allm.providers.fake import FakeAdapter
from tests.faces import FACES, PATIENCE, Face

Script = list[dict[str, Any]]
HELLO: Script = [
    {"text": ["Hel", "lo"]},
    {"usage": {"input_tokens": 3, "output_tokens": 2}},
    {"finish": "stop"},
]
DONE: Script = [{"text": "Done"}]
PLAIN = [
    "message_started",
    "text_delta",
    "text_completed",
    "message_completed",
    "step_completed",
    "chat_completed",
]
CALLED = [
    "message_started",
    "tool_call_started",
    "tool_call_delta",
    "tool_call_completed",
    "message_completed",
]
RAN = ["tool_execution_started", "tool_execution_completed", "tool_result_encoded"]
AT_ONCE = allm.RetryPolicy(base_delay=0)


def fake(*scripts: Script, **fields: Any) -> allm.Engine:
    return allm.Engine(adapter=FakeAdapter(list(scripts)), **fields)


def calls(*named: tuple[str, str, dict[str, Any]]) -> Script:
    """A turn that calls tools: (id, name, arguments) each."""
    return [{"tool_call": {"id": id, "name": name, "arguments": given}} for id, name, given in named]


def requests(engine: allm.Engine) -> list[allm.Request]:
    return engine.adapter.requests  # type: ignore[no-any-return]


def named(name: str, handler: Callable[..., Any], **options: Any) -> allm.Tool:
    """A tool around a handler that ignores its arguments."""
    return allm.Tool(name=name, handler=handler, schema={"type": "object"}, **options)


@allm.tool
def double(n: int) -> int:
    """Twice the number."""
    return 2 * n


# Events


def test_hello(face: Face) -> None:
    engine = allm.Engine("fake", adapter_options={"script": [{"text": "Hello"}, {"finish": "stop"}]})
    response = face.generate(engine, "hi")
    assert response.output_text == "Hello"
    assert response.finish_reason == "stop"


def test_events_of_a_plain_answer(face: Face) -> None:
    seen = face.events(fake(HELLO), "hi")
    assert seen.kinds == [
        "message_started", "text_delta", "text_delta", "usage", "text_completed", "message_completed",
        "step_completed", "chat_completed",
    ]  # fmt: skip
    assert seen.result == face.chat(fake(HELLO), "hi") == seen.events[-1].result  # type: ignore[union-attr]
    assert seen.result.text == "Hello"
    assert seen.result.usage.input_tokens == 3
    assert [m.role for m in seen.result.thread.messages] == ["user", "assistant"]


def test_each_layer_ends_with_its_own_result(face: Face) -> None:
    generated = face.events(fake(HELLO), "hi", verb="stream_generate")
    assert generated.kinds[-1] == "message_completed"
    assert generated.result == generated.events[-1].response  # type: ignore[union-attr]
    assert generated.result == face.generate(fake(HELLO), "hi")
    stepped = face.events(fake(HELLO), "hi", verb="stream_step")
    assert stepped.kinds[-1] == "step_completed"
    assert stepped.result == stepped.events[-1].result == face.step(fake(HELLO), "hi")  # type: ignore[union-attr]
    assert stepped.result.done
    assert [m.role for m in stepped.result.thread.messages] == ["user", "assistant"]


def test_a_stream_is_lazy(face: Face) -> None:
    engine = fake(HELLO)
    stream = face.make("stream", engine, "hi")
    assert requests(engine) == []
    assert face.result(stream).text == "Hello"
    assert len(requests(engine)) == 1


def test_text_gives_only_the_text_and_the_result_comes_after_it(face: Face) -> None:
    stream = face.make("stream", fake([{"reasoning": "Hm"}, *HELLO]), "hi")
    assert face.text(stream) == ["Hel", "lo"]
    first, second = face.result(stream), face.result(stream)
    assert first == second
    assert first.final_response.reasoning == "Hm"


def test_result_after_iteration_and_twice(face: Face) -> None:
    stream = face.consume(fake(HELLO), "hi", body=lambda *_: None)
    assert face.result(stream) == face.result(stream)
    assert face.result(stream).text == "Hello"


# Tools


def test_tool_turn(face: Face) -> None:
    engine = fake(calls(("c1", "double", {"n": 21})), DONE, tools=[double])
    seen = face.events(engine, "double 21")
    assert seen.kinds == [*CALLED, *RAN, "step_completed", *PLAIN]
    assert seen.events[5] == allm.ToolExecutionStarted(seen.events[3].call)  # type: ignore[union-attr]
    assert seen.result.text == "Done"
    assert seen.result.halted_reason == "completed"
    assert len(seen.result.steps) == 2
    assert [m.role for m in seen.result.thread.messages] == ["user", "assistant", "tool", "assistant"]
    assert requests(engine)[1].messages == seen.result.thread.messages[:3]
    assert requests(engine)[1].messages[-1] == allm.tool_result("c1", "42")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_handlers_of_both_kinds_run_on_every_face(face: Face, kind: str) -> None:
    def plain(arguments: dict[str, Any]) -> str:
        return "sync"

    async def awaited(arguments: dict[str, Any]) -> str:
        return "async"

    engine = fake(calls(("c1", "t", {})), DONE, tools=[named("t", plain if kind == "sync" else awaited)])
    assert face.chat(engine, "go").steps[0].tool_results[0].text == kind


def test_parallel_tools_complete_in_their_time_and_are_stored_in_call_order(face: Face) -> None:
    second_ran = threading.Event()

    def first(arguments: dict[str, Any]) -> str:
        assert second_ran.wait(PATIENCE)
        return "one"

    async def second(arguments: dict[str, Any]) -> str:
        return "two"

    engine = fake(
        calls(("a", "first", {}), ("b", "second", {})),
        DONE,
        tools=[named("first", first), named("second", second)],
    )

    def watch(event: Event) -> None:
        if isinstance(event, allm.ToolResultEncoded):
            second_ran.set()

    seen = face.events(engine, "go", on_event=watch)
    assert [e.call.id for e in seen.events if isinstance(e, allm.ToolExecutionStarted)] == ["a", "b"]
    assert [e.id for e in seen.events if isinstance(e, allm.ToolExecutionCompleted)] == ["b", "a"]
    assert [m.text for m in seen.result.steps[0].tool_results] == ["one", "two"]
    assert [m.tool_call_id for m in requests(engine)[1].messages[2:]] == ["a", "b"]


def test_max_concurrency(face: Face) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def handler(arguments: dict[str, Any]) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return "ok"

    script = calls(*[(f"c{i}", "t", {}) for i in range(6)])
    seen = face.events(fake(script, DONE, tools=[named("t", handler)]), "go", max_concurrency=1)
    assert most == 1
    assert (
        seen.kinds[15:-7] == ["message_completed"] + RAN * 6
        or [kind for kind in seen.kinds if kind in RAN] == RAN * 6
    )


def test_tool_context(face: Face) -> None:
    got: list[allm.ToolContext] = []

    @allm.tool
    def look(ctx: allm.ToolContext) -> str:
        """Look."""
        got.append(ctx)
        return "seen"

    engine = fake(calls(("c1", "look", {})), DONE, tools=[look], context={"a": 1, "b": 1})
    face.chat(engine, "go", context={"b": 2}, session_id="s", request_id="r")
    (ctx,) = got
    assert ctx.context == {"a": 1, "b": 2}
    assert (ctx.session_id, ctx.request_id, ctx.run_id) == ("s", "r", "s")
    assert ctx.call == allm.ToolCall("c1", "look", {}, "{}")
    assert ctx.engine is engine
    assert ctx.idempotency_key == "s/0/tool/0"


def test_ask_user(face: Face) -> None:
    engine = fake(
        calls(("a", "ask", {}), ("b", "double", {"n": 1})),
        tools=[named("ask", lambda _: allm.AskUser("Which?", ["x", "y"], hint=1)), double],
    )
    seen = face.events(engine, "go")
    assert allm.AskUserRequested("a", "Which?", ("x", "y")) in seen.events
    result = seen.result
    assert result.halted_reason == "ask_user"
    assert (result.pending_question, result.pending_tool_call_id) == ("Which?", "a")
    assert result.metadata["ask_user_options"] == {"choices": ["x", "y"], "hint": 1}
    assert [m.text for m in result.steps[0].tool_results] == ["<awaiting user response>", "2"]
    assert result.thread.messages[-1].text == "Which?"
    assert result.thread.messages[-1].role == "assistant"
    assert len(requests(engine)) == 1


def test_halt(face: Face) -> None:
    engine = fake(calls(("a", "stop", {})), tools=[named("stop", lambda _: allm.Halt("enough", {"n": 1}))])
    seen = face.events(engine, "go")
    assert seen.kinds[-3:] == ["tool_halt", "step_completed", "chat_completed"]
    assert seen.events[-3] == allm.ToolHalt("a", "enough", {"n": 1})
    assert seen.result.halted_reason == "enough"
    assert seen.result.metadata == {"halt_tool_call_id": "a", "halt_result": {"n": 1}}
    assert seen.result.steps[0].tool_results[0].text == '{"n":1}'


def test_halt_with_a_reserved_word_is_a_tool_error(face: Face) -> None:
    engine = fake(calls(("a", "stop", {})), DONE, tools=[named("stop", lambda _: allm.Halt("completed"))])
    result = face.chat(engine, "go")
    assert result.text == "Done"
    assert result.steps[0].tool_results[0].is_error


def failing(arguments: dict[str, Any]) -> str:
    raise ValueError("broken")


def test_tool_error_is_told_to_the_model(face: Face) -> None:
    engine = fake(calls(("a", "t", {})), DONE, tools=[named("t", failing)])
    seen = face.events(engine, "go")
    (message,) = seen.result.steps[0].tool_results
    assert (message.is_error, message.text) == (True, '{"error":"ValueError: broken"}')
    assert [e.is_error for e in seen.events if isinstance(e, allm.ToolExecutionCompleted)] == [True]


def test_tool_error_halts(face: Face) -> None:
    engine = fake(calls(("a", "t", {}), ("b", "double", {"n": 1})), tools=[named("t", failing), double])
    result = face.chat(engine, "go", on_tool_error="halt")
    assert result.halted_reason == "tool_error"
    assert result.metadata["halt_tool_call_id"] == "a"
    assert [m.text for m in result.steps[0].tool_results] == ['{"error":"ValueError: broken"}', "2"]


@pytest.mark.parametrize(
    ("answer", "halted", "content"),
    [
        ("continue", "completed", '{"error":"ValueError: broken"}'),
        (None, "completed", '{"error":"ValueError: broken"}'),
        ({"instead": 1}, "completed", '{"instead":1}'),
        ("halt", "tool_error", '{"error":"ValueError: broken"}'),
    ],
)
def test_tool_error_policy_function(face: Face, answer: Any, halted: str, content: str) -> None:
    asked: list[tuple[str, str | None]] = []

    def policy(call: allm.ToolCall, error: allm.ErrorInfo) -> Any:
        asked.append((call.id, error.code))
        return answer

    engine = fake(calls(("a", "t", {})), DONE, tools=[named("t", failing)])
    result = face.chat(engine, "go", on_tool_error=policy)
    assert asked == [("a", "handler_raised")]
    assert result.halted_reason == halted
    assert result.steps[0].tool_results[0].text == content


def test_tool_error_policy_that_fails_halts_and_is_not_asked_again(face: Face) -> None:
    def policy(call: allm.ToolCall, error: allm.ErrorInfo) -> Any:
        raise KeyError("policy")

    engine = fake(calls(("a", "t", {})), tools=[named("t", failing)])
    result = face.chat(engine, "go", on_tool_error=policy)
    assert result.halted_reason == "tool_error"
    assert "KeyError" in result.metadata["on_tool_error_exception"]


def test_unknown_tool_is_answered_to_the_model(face: Face) -> None:
    engine = fake(calls(("a", "nothing", {})), DONE, tools=[double])
    seen = face.events(engine, "go")
    assert "tool_execution_started" not in seen.kinds
    assert "there is no tool 'nothing'" in seen.result.steps[0].tool_results[0].text
    assert seen.result.text == "Done"


@pytest.mark.parametrize("raw", ['{"n": "many"}', '{"n": 1', "[]", "{}"])
def test_invalid_arguments_go_back_to_the_model(face: Face, raw: str) -> None:
    ran: list[int] = []

    @allm.tool
    def count(n: int) -> int:
        """Count."""
        ran.append(n)
        return n

    script: Script = [{"tool_call": {"id": "a", "name": "count", "raw_arguments": raw}}]
    result = face.chat(fake(script, DONE, tools=[count]), "go")
    assert ran == []
    assert result.steps[0].tool_results[0].is_error
    assert result.text == "Done"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_tool_timeout(face: Face, kind: str) -> None:
    release, cancelled = threading.Event(), threading.Event()

    def waiting(arguments: dict[str, Any]) -> str:
        release.wait(PATIENCE)
        return "late"

    begun = threading.Event()

    async def stuck(arguments: dict[str, Any]) -> str:
        begun.set()
        try:
            await face.forever()
        finally:
            cancelled.set()
        return "late"

    handler = waiting if kind == "sync" else stuck
    try:
        quick = named("quick", lambda arguments: "2", timeout=60.0)  # its own time goes before the run's
        engine = fake(calls(("a", "t", {}), ("b", "quick", {})), DONE, tools=[named("t", handler), quick])
        result = face.chat(engine, "go", tool_timeout=0.01)
    finally:
        release.set()
    assert "gave no result within 0.01 s" in result.steps[0].tool_results[0].text
    assert result.steps[0].tool_results[1].text == "2"
    assert cancelled.is_set() == begun.is_set()  # on a slow machine the timeout may pass before it begins


def test_a_late_result_is_not_taken_for_that_of_a_later_call(face: Face) -> None:
    release, ended = threading.Event(), threading.Event()

    @allm.tool(timeout=0.01)
    def slow() -> str:
        """Late."""
        release.wait(PATIENCE)
        return "late"

    @allm.tool
    def next_one() -> str:
        """Right."""
        release.set()
        late = [
            t
            for t in threading.enumerate()
            if t.name == "allm-tool-0" and t is not threading.current_thread()
        ]
        for thread in late:
            thread.join(PATIENCE)
        ended.set()
        return "right"

    engine = fake(calls(("a", "slow", {})), calls(("b", "next_one", {})), DONE, tools=[slow, next_one])
    result = face.chat(engine, "go")
    assert ended.is_set()
    assert result.steps[1].tool_results[0].text == "right"


def test_executor_and_encoder(face: Face) -> None:
    class Executor:
        def execute(self, tool: Any, call: allm.ToolCall, context: Any) -> Any:
            return (call.name, call.arguments)

    class AsyncExecutor:
        async def execute(self, tool: Any, call: allm.ToolCall, context: Any) -> Any:
            return "awaited"

    class Encoder:
        def encode(self, value: Any) -> str:
            return f"<{value}>"

    engine = fake(calls(("a", "double", {"n": 1})), DONE, tools=[double], tool_executor=Executor())
    result = face.chat(engine, "go", tool_result_encoder=Encoder())
    assert result.steps[0].tool_results[0].text == "<('double', {'n': 1})>"
    engine = fake(calls(("a", "double", {"n": 1})), DONE, tools=[double], tool_result_encoder="<{}>".format)
    assert face.chat(engine, "go").steps[0].tool_results[0].text == "<2>"
    engine = fake(calls(("a", "double", {"n": 1})), DONE, tools=[double], tool_executor=AsyncExecutor())
    assert face.chat(engine, "go").steps[0].tool_results[0].text == "awaited"


# What ends the loop


def test_max_turns(face: Face) -> None:
    engine = fake(calls(("a", "double", {"n": 1})), calls(("b", "double", {"n": 2})), DONE, tools=[double])
    result = face.chat(engine, "go", max_turns=2)
    assert result.halted_reason == "max_turns"
    assert result.metadata == {"max_turns": 2}
    assert len(result.steps) == len(requests(engine)) == 2


def test_max_turns_is_checked_at_once(face: Face) -> None:
    with pytest.raises(allm.ValidationError, match="max_turns"):
        face.make("stream", fake(), "go", max_turns=0)


def test_halt_when_is_asked_before_max_turns_and_only_where_the_loop_would_go_on(face: Face) -> None:
    asked: list[int] = []

    def enough(step: allm.StepResult) -> bool:
        asked.append(len(step.thread.messages))
        return True

    engine = fake(calls(("a", "double", {"n": 1})), tools=[double])
    result = face.chat(engine, "go", halt_when=enough, max_turns=1)
    assert (result.halted_reason, result.metadata) == ("halt_when", {"halt_when_step_index": 0})
    assert asked == [3]
    assert face.chat(fake(HELLO), "go", halt_when=enough).halted_reason == "completed"
    assert asked == [3]


def test_halt_when_that_raises_ends_the_run(face: Face) -> None:
    engine = fake(calls(("a", "double", {"n": 1})), tools=[double])
    with pytest.raises(ZeroDivisionError):
        face.chat(engine, "go", halt_when=lambda step: bool(1 / 0))


def test_manual_mode(face: Face) -> None:
    engine = fake(calls(("a", "double", {"n": 1})), DONE, tools=[double])
    seen = face.events(engine, "go", mode="manual")
    assert seen.kinds == [*CALLED, "step_completed", "chat_completed"]
    result = seen.result
    assert result.halted_reason == "manual_tool_calls"
    assert result.metadata == {"mode": "manual", "manual_turn_index": 0}
    (call,) = result.final_response.tool_calls
    thread = result.thread.add_message(allm.tool_result(call.id, "2"))
    assert face.chat(engine, thread, mode="manual").text == "Done"


def test_manual_tools_beside_automatic_ones(face: Face) -> None:
    manual = allm.Tool(name="person", schema={"type": "object"}, manual=True)
    engine = fake(calls(("a", "person", {}), ("b", "double", {"n": 1})), tools=[manual, double])
    result = face.chat(engine, "go")
    assert result.halted_reason == "manual_tool_calls"
    assert result.metadata == {"manual_tool_calls": ["a"], "manual_turn_index": 0}
    assert [(m.tool_call_id, m.text) for m in result.steps[0].tool_results] == [("b", "2")]


def test_a_tool_that_halts_wins_over_manual_ones(face: Face) -> None:
    manual = allm.Tool(name="person", schema={"type": "object"}, manual=True)
    stop = named("stop", lambda _: allm.Halt("enough"))
    result = face.chat(fake(calls(("a", "person", {}), ("b", "stop", {})), tools=[manual, stop]), "go")
    assert result.halted_reason == "enough"


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_no_tool_runs_after_an_unsafe_end(face: Face, finish: str) -> None:
    engine = fake([*calls(("a", "double", {"n": 1})), {"finish": finish}], tools=[double])
    seen = face.events(engine, "go")
    assert "tool_execution_started" not in seen.kinds
    assert seen.result.halted_reason == "completed"


# Failures


def test_retry_then_success(face: Face) -> None:
    engine = fake([{"error": "rate_limited"}], [{"error": "overloaded"}], HELLO, retry=AT_ONCE)
    seen = face.events(engine, "hi")
    assert seen.kinds[:3] == ["retrying", "retrying", "message_started"]
    assert seen.kinds.count("message_started") == 1
    assert [(e.attempt, e.error.reason) for e in seen.events[:2]] == [(1, "rate_limited"), (2, "overloaded")]  # type: ignore[union-attr]
    assert seen.result.text == "Hello"


def test_retry_gives_up_after_its_attempts(face: Face) -> None:
    failed: list[Script] = [[{"error": "rate_limited"}]] * 3
    seen = face.events(fake(*failed, HELLO, retry=AT_ONCE), "hi")
    assert seen.kinds == ["retrying", "retrying", "error"]
    assert isinstance(seen.error, allm.RateLimitError)
    assert seen.error.info.attempts == 3


@pytest.mark.parametrize(("reason", "retry"), [("invalid_request", AT_ONCE), ("rate_limited", False)])
def test_what_is_not_retried(face: Face, reason: str, retry: Any) -> None:
    seen = face.events(fake([{"error": reason}], HELLO), "hi", retry=retry)
    assert seen.kinds == ["error"]


@pytest.mark.parametrize("content", [{"text": "Hel"}, {"reasoning": "Hm"}, *calls(("a", "double", {}))])
def test_no_retry_after_content(face: Face, content: dict[str, Any]) -> None:
    engine = fake([content, {"error": "overloaded"}], HELLO, retry=AT_ONCE)
    seen = face.events(engine, "hi")
    assert "retrying" not in seen.kinds
    assert seen.kinds[-1] == "error"
    assert len(requests(engine)) == 1


def test_usage_before_the_failure_is_no_content(face: Face) -> None:
    engine = fake([{"usage": {"input_tokens": 1}}, {"error": "overloaded"}], HELLO, retry=AT_ONCE)
    assert face.events(engine, "hi").kinds[:2] == ["retrying", "message_started"]


def test_failure_in_mid_stream(face: Face) -> None:
    seen = face.events(fake([{"text": "Hel"}, {"error": "overloaded"}]), "hi")
    assert seen.kinds == ["message_started", "text_delta", "error"]
    assert isinstance(seen.error, allm.OverloadedError)
    partial = seen.error.partial
    assert partial.halted_reason == "error"
    assert partial.error.reason == "overloaded"
    assert partial.text == "Hel"
    assert partial.final_response.finish_reason == "error"
    assert partial.thread.messages == (allm.user("hi"),)


def test_failure_of_a_later_turn_keeps_the_thread(face: Face) -> None:
    engine = fake(calls(("a", "double", {"n": 1})), [{"error": "invalid_request"}], tools=[double])
    with pytest.raises(allm.InvalidRequestError) as caught:
        face.chat(engine, "hi")
    assert [m.role for m in caught.value.partial.thread.messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("verb", ["generate", "step", "chat"])
def test_blocking_verbs_raise_with_the_fold(face: Face, verb: str) -> None:
    with pytest.raises(allm.OverloadedError) as caught:
        face.call(verb, fake([{"text": "Hel"}, {"error": "overloaded"}]), "hi")
    assert caught.value.partial.text == "Hel"


def test_text_raises_after_what_came(face: Face) -> None:
    stream = face.make("stream", fake([{"text": "Hel"}, {"error": "overloaded"}]), "hi")
    with pytest.raises(allm.OverloadedError):
        face.text(stream)
    with pytest.raises(allm.OverloadedError):
        face.result(stream)


def test_raise_on_error_off_returns_the_fold(face: Face) -> None:
    script: Script = [{"text": "Hel"}, {"error": "overloaded"}]
    seen = face.events(fake(script), "hi", raise_on_error=False)
    assert seen.kinds[-1] == "error"
    assert seen.error is None
    assert (seen.result.halted_reason, seen.result.text) == ("error", "Hel")
    assert face.generate(fake(script), "hi", raise_on_error=False).finish_reason == "error"


def test_the_error_has_the_place(face: Face) -> None:
    seen = face.events(fake([{"error": "invalid_request"}]), "hi", model="m")
    assert isinstance(seen.error, allm.AllmError)
    assert (seen.error.info.provider, seen.error.info.model, seen.error.info.attempts) == ("fake", "m", 1)


# What is shown


def test_filters_change_what_is_seen_and_never_the_result(face: Face) -> None:
    script: Script = [*HELLO[:1], {"raw_chunk": {"x": 1}}, *calls(("a", "double", {"n": 1}))]
    whole = face.events(fake(script, DONE, tools=[double]), "hi", include_raw_chunks=True)
    assert {"text_delta", "tool_call_delta", "raw_chunk"} <= set(whole.kinds)
    told: list[Event] = []
    options: dict[str, Any] = {"emit_text_deltas": False, "emit_tool_deltas": False, "on_event": told.append}
    less = face.events(fake(script, DONE, tools=[double]), "hi", **options)
    hidden = {"text_delta", "tool_call_delta", "raw_chunk"}
    assert less.kinds == [kind for kind in whole.kinds if kind not in hidden]
    assert less.result == whole.result
    assert len(told) == len(whole.events)


def test_on_event_that_raises_ends_the_run(face: Face) -> None:
    def watch(event: Event) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        face.chat(fake(HELLO), "hi", on_event=watch)


def test_observers_see_everything_and_cannot_break_a_run(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    class Sees:
        def __init__(self) -> None:
            self.events: list[Event] = []

        def event(self, event: Event, ctx: Any) -> None:
            self.events.append(event)
            raise RuntimeError("observer")

    mine, engines = Sees(), Sees()
    face.chat(fake(HELLO, observers=[engines]), "hi", observers=[mine], emit_text_deltas=False)
    assert len(mine.events) == len(engines.events) == 8
    assert len([record for record in caplog.records if record.name == "allm"]) == 2


# How a run ends before its time


class Counted:
    """An in-process adapter that counts how often its stream was let go."""

    name = "counted"

    def __init__(self) -> None:
        self.closed = 0
        self.ended = threading.Event()

    def complete(self, request: Any, ctx: Any) -> Any:
        raise NotImplementedError

    def stream(self, request: Any, ctx: Any) -> Iterator[Event]:
        try:
            yield allm.MessageStarted()
            for _ in range(1000):
                yield allm.TextDelta("x")
        finally:
            self.closed += 1
            self.ended.set()


def on_text(action: Callable[[Any], Any]) -> Callable[[Any, Event], Any]:
    return lambda stream, event: isinstance(event, allm.TextDelta) and action(stream)


class Stop(Exception):
    pass


def stop(stream: Any) -> None:
    raise Stop


def test_break_lets_go_once(face: Face) -> None:
    adapter = Counted()
    stream = face.consume(allm.Engine(adapter=adapter), "hi", body=on_text(lambda _: True))
    assert adapter.closed == 1
    with pytest.raises(allm.CancelledError) as caught:
        face.result(stream)
    assert caught.value.partial.halted_reason == "cancelled"
    assert caught.value.partial.text == "x"


def test_exception_in_the_consumer_lets_go_once(face: Face) -> None:
    adapter = Counted()
    with pytest.raises(Stop):
        face.consume(allm.Engine(adapter=adapter), "hi", body=on_text(stop))
    assert adapter.closed == 1


def test_cancel_in_the_consumer(face: Face) -> None:
    adapter = Counted()
    told: list[Event] = []
    engine = allm.Engine(adapter=adapter)
    with pytest.raises(allm.CancelledError) as caught:
        face.consume(engine, "hi", body=on_text(lambda stream: stream.cancel()), on_event=told.append)
    assert adapter.closed == 1
    assert caught.value.partial.text == "x"
    assert not any(isinstance(event, allm.ChatCompleted | allm.StreamFailed) for event in told)


def test_cancel_before_the_start(face: Face) -> None:
    engine = fake(HELLO)
    stream = face.make("stream", engine, "hi")
    stream.cancel()
    with pytest.raises(allm.CancelledError):
        face.result(stream)
    assert requests(engine) == []


def test_cancel_after_the_end_changes_nothing(face: Face) -> None:
    stream = face.consume(fake(HELLO), "hi", body=lambda *_: None)
    stream.cancel()
    assert face.result(stream).text == "Hello"


def test_cancel_from_another_thread(face: Face) -> None:
    """The reader waits for a tool that never ends; somebody else ends the run."""
    started, release = threading.Event(), threading.Event()

    def waiting(arguments: dict[str, Any]) -> str:
        started.set()
        release.wait(PATIENCE)
        return "late"

    stream = face.make("stream", fake(calls(("a", "t", {})), DONE, tools=[named("t", waiting)]), "go")
    try:
        face.cancelled_once(stream, lambda: started.wait(PATIENCE))
    finally:
        release.set()


def test_cancel_ends_the_wait_before_a_retry(face: Face) -> None:
    engine = fake([{"error": "overloaded"}], HELLO, retry=allm.RetryPolicy(base_delay=1e6, max_delay=1e6))
    timer = threading.Thread(target=lambda: stream.cancel())
    stream: Any = face.make("stream", engine, "go", on_event=lambda event: timer.start())
    with pytest.raises(allm.CancelledError):
        face.result(stream)
    timer.join(PATIENCE)
    assert len(requests(engine)) == 1


class Stuck:
    """An async handler that never ends, and a quick one that ends when the first has begun."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.begun = threading.Event()
        self.stopped = 0
        self.engine = fake(
            calls(("a", "stuck", {}), ("b", "quick", {})),
            DONE,
            tools=[named("stuck", self.stuck), named("quick", self.quick)],
        )

    async def stuck(self, arguments: dict[str, Any]) -> None:
        self.begun.set()
        try:
            await self.face.forever()
        finally:
            self.stopped += 1

    def quick(self, arguments: dict[str, Any]) -> str:
        assert self.begun.wait(PATIENCE)
        return "quick"


def test_break_stops_the_tools_once(face: Face) -> None:
    stuck = Stuck(face)
    face.consume(stuck.engine, "go", body=lambda _, event: isinstance(event, allm.ToolExecutionCompleted))
    assert stuck.stopped == 1


def test_exception_in_the_consumer_stops_the_tools_once(face: Face) -> None:
    stuck = Stuck(face)

    def body(stream: Any, event: Event) -> None:
        if isinstance(event, allm.ToolExecutionCompleted):
            raise Stop

    with pytest.raises(Stop):
        face.consume(stuck.engine, "go", body=body)
    assert stuck.stopped == 1


def test_run_deadline_stops_the_tools_once(face: Face) -> None:
    stuck = Stuck(face)
    seen = face.events(stuck.engine, "go", timeouts=allm.Timeouts(run=0.2))
    assert seen.kinds[-1] == "error"
    assert isinstance(seen.error, allm.DeadlineExceededError)
    assert seen.error.info.code == "run"
    assert stuck.stopped == 1


def test_run_deadline_ends_a_wait_of_the_provider(face: Face) -> None:
    seen = face.events(fake([{"text": "a"}, {"delay": 1e6}]), "go", timeouts=allm.Timeouts(run=0.01))
    assert isinstance(seen.error, allm.DeadlineExceededError)
    assert seen.error.partial.text == "a"


@pytest.mark.parametrize("face", FACES[1:], indirect=True, ids=["asyncio", "trio"])
def test_task_cancellation_stops_the_tools_once(face: Face) -> None:
    stuck = Stuck(face)
    stream = face.make("stream", stuck.engine, "go")
    error = face.cancelled_by(stream, stuck.begun)
    assert type(error).__name__ in ("CancelledError", "Cancelled")
    assert not isinstance(error, allm.AllmError)
    assert stuck.stopped == 1


def test_garbage_collection_lets_go() -> None:
    adapter = Counted()
    stream = allm.stream(allm.Engine(adapter=adapter), "hi")
    next(stream)
    del stream
    gc.collect()
    assert adapter.closed == 1


def test_garbage_collection_lets_go_on_asyncio() -> None:
    import asyncio

    adapter = Counted()

    async def main() -> None:
        stream = allm.aio.stream(allm.Engine(adapter=adapter), "hi")
        await anext(stream)
        del stream
        gc.collect()
        await asyncio.to_thread(adapter.ended.wait, PATIENCE)

    asyncio.run(main())
    assert adapter.closed == 1


def test_close_is_quiet_and_final() -> None:
    stream = allm.stream(fake(HELLO), "hi")
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    with pytest.raises(allm.CancelledError):
        stream.result()


def test_trio_needs_the_async_with() -> None:
    async def main() -> None:
        with pytest.raises(allm.ConfigurationError, match="async with"):
            async for _ in allm.aio.stream(fake(HELLO), "hi"):
                pass

    trio.run(main)


def test_the_awaited_face_needs_a_loop() -> None:
    coroutine = allm.aio.chat(fake(HELLO), "hi")
    with pytest.raises(allm.ConfigurationError, match="running asyncio or trio loop"):
        coroutine.send(None)


def test_a_delay_is_an_effect_of_the_loop() -> None:
    engine = fake([{"delay": 5}, {"text": "a"}])
    played = list(engine.adapter.play(allm.Request(), None))
    assert [effect.seconds for effect in played if isinstance(effect, Sleep)] == [5.0]


# Mistakes of the caller raise when the stream is built


@pytest.mark.parametrize("verb", ["stream", "stream_step", "stream_generate"])
def test_mistakes_raise_at_once(face: Face, verb: str) -> None:
    with pytest.raises(allm.ValidationError):
        face.make(verb, fake(), 3)
    with pytest.raises(allm.UnknownOptionError, match="did you mean 'max_tokens'"):
        face.make(verb, fake(), "hi", max_token=3)
    with pytest.raises(allm.ConfigurationError):
        face.make(verb, "fake", "hi")
