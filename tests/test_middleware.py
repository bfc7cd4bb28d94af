"""Hooks around model calls and tool calls, on every face, sync and async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm import sessions
from allm.loops.effects import CallHook, ToolDone
from allm.loops.middleware import after_tool, before_tool
from allm.loops.plan import make_plan
from tests.faces import PATIENCE, Face
from tests.test_loop import DONE, HELLO, calls, double, fake, requests

Hook = Callable[..., Any]


class Hooks:
    """Middleware of the hooks given; `asynchronous` makes each of them awaited."""

    def __init__(self, asynchronous: bool = False, **hooks: Hook) -> None:
        for name, hook in hooks.items():
            setattr(self, name, awaited(hook) if asynchronous else hook)


def awaited(hook: Hook) -> Hook:
    async def later(*arguments: Any) -> Any:
        return hook(*arguments)

    return later


def one_hook(name: str, hook: Hook, asynchronous: bool = False) -> Hooks:
    hooks = Hooks()
    setattr(hooks, name, awaited(hook) if asynchronous else hook)
    return hooks


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def briefly(request: allm.Request, ctx: allm.HookContext) -> allm.Request:
    return replace(request, system="Be brief.")


def shout(response: allm.Response, ctx: allm.HookContext) -> allm.Response:
    return replace(response, message=allm.assistant(response.text.upper()))


# Model calls


def test_a_hook_changes_what_is_asked_and_what_is_taken(face: Face, asynchronous: bool) -> None:
    engine = fake(HELLO, middleware=[Hooks(asynchronous, before_model=briefly, after_model=shout)])
    seen = face.events(engine, "hi")
    assert requests(engine)[0].system == "Be brief."
    assert seen.result.text == seen.result.thread.messages[-1].text == "HELLO"
    assert [e.text for e in seen.events if isinstance(e, allm.TextDelta)] == ["Hel", "lo"]
    assert allm.fold(seen.events) == seen.result


def test_a_hook_that_only_looks_changes_nothing(face: Face, asynchronous: bool) -> None:
    seen: list[str] = []
    hooks = Hooks(
        asynchronous,
        before_model=lambda request, ctx: seen.append("before"),
        after_model=lambda response, ctx: seen.append(response.text),
    )
    assert face.events(fake(HELLO, middleware=[hooks]), "hi").events == face.events(fake(HELLO), "hi").events
    assert seen == ["before", "Hello"]


@pytest.mark.parametrize("verb", ["stream_generate", "stream_step", "stream"])
def test_a_hook_answers_instead_of_the_model(face: Face, asynchronous: bool, verb: str) -> None:
    cached = allm.Response(message=allm.assistant("From the cache"))
    engine = fake(middleware=[Hooks(asynchronous, before_model=lambda request, ctx: cached)])
    seen = face.events(engine, "hi", verb=verb)
    assert requests(engine) == []
    assert seen.kinds[:4] == ["message_started", "text_delta", "text_completed", "message_completed"]
    assert seen.result.text == "From the cache"
    completed = seen.events[3]
    assert isinstance(completed, allm.MessageCompleted)
    assert completed.response.finish_reason == "stop"
    assert allm.fold(seen.events) == seen.result


def test_calls_that_a_hook_answers_with_are_run(face: Face) -> None:
    answers = [
        allm.Response(message=allm.assistant([allm.ToolCall("c", "double", {"n": 4})])),
        allm.Response(message=allm.assistant("8")),
    ]
    engine = fake(tools=[double], middleware=[Hooks(before_model=lambda request, ctx: answers.pop(0))])
    result = face.chat(engine, "go")
    assert (result.text, result.steps[0].tool_results[0].text) == ("8", "8")


def test_the_first_is_outermost(face: Face) -> None:
    order: list[str] = []

    def hooks(name: str) -> Hooks:
        return Hooks(
            before_model=lambda request, ctx: order.append(f"before {name}"),
            after_model=lambda response, ctx: order.append(f"after {name}"),
        )

    allm.configure(middleware=[hooks("application")])
    face.generate(fake(HELLO, middleware=[hooks("engine")]), "hi", middleware=[hooks("call")])
    assert order == [f"before {n}" for n in ("application", "engine", "call")] + [
        f"after {n}" for n in ("call", "engine", "application")
    ]


def test_what_is_inside_an_answering_hook_is_not_asked(face: Face) -> None:
    order: list[str] = []
    cached = allm.Response(message=allm.assistant("Hit"))
    outer = Hooks(after_model=lambda response, ctx: order.append(response.text))
    answering = Hooks(
        before_model=lambda request, ctx: cached, after_model=lambda response, ctx: order.append("own")
    )
    inner = Hooks(
        before_model=lambda request, ctx: order.append("in"),
        after_model=lambda response, ctx: order.append("out"),
    )
    face.generate(fake(), "hi", middleware=[outer, answering, inner])
    assert order == ["Hit"]


@pytest.mark.parametrize("name", ["before_model", "after_model"])
def test_refusing_halts_a_chat(face: Face, asynchronous: bool, name: str) -> None:
    engine = fake(HELLO, middleware=[one_hook(name, lambda *_: allm.Refuse("not today"), asynchronous)])
    seen = face.events(engine, "hi")
    assert seen.kinds[-1] == "chat_completed"
    assert seen.result.halted_reason == "refused"
    assert seen.result.metadata == {
        "refuse_reason": "not today", "refused_by": "Hooks", "refused_in": name
    }  # fmt: skip
    assert seen.result.thread.messages == (allm.user("hi"),)
    assert len(requests(engine)) == (name == "after_model")


@pytest.mark.parametrize("verb", ["generate", "step"])
def test_refusing_raises_where_there_is_no_halt(face: Face, verb: str) -> None:
    engine = fake(HELLO, middleware=[Hooks(before_model=lambda request, ctx: allm.Refuse("no"))])
    with pytest.raises(allm.PermissionDeniedError, match="no") as caught:
        face.call(verb, engine, "hi")
    assert caught.value.info.code == "refused"


def test_a_refused_session_can_go_on() -> None:
    engine = fake(HELLO)
    refuse = Hooks(before_model=lambda request, ctx: allm.Refuse("no"))
    turn = sessions.start(engine, "hi", middleware=[refuse])
    assert isinstance(turn.result, allm.ChatResult)
    assert (turn.result.halted_reason, turn.session.status) == ("refused", "completed")
    assert sessions.resume(engine, turn.session).result.text == "Hello"


def test_an_allm_error_of_a_hook_fails_the_run(face: Face, asynchronous: bool) -> None:
    def refuse(request: allm.Request, ctx: allm.HookContext) -> None:
        raise allm.ContentFilteredError("a secret in the prompt")

    seen = face.events(fake(HELLO, middleware=[Hooks(asynchronous, before_model=refuse)]), "hi")
    assert seen.kinds == ["error"]
    assert isinstance(seen.error, allm.ContentFilteredError)


def test_any_other_exception_is_the_users_own(face: Face, asynchronous: bool) -> None:
    engine = fake(HELLO, middleware=[Hooks(asynchronous, before_model=lambda request, ctx: 1 / 0)])
    with pytest.raises(ZeroDivisionError):
        face.chat(engine, "hi")


@pytest.mark.parametrize(
    ("name", "answer"), [("before_model", "text"), ("after_model", "text"), ("on_model_error", 5)]
)
def test_what_a_hook_may_not_return_is_named(face: Face, name: str, answer: Any) -> None:
    script = [{"error": "invalid_request"}] if name == "on_model_error" else HELLO
    engine = fake(script, middleware=[one_hook(name, lambda *_: answer)])
    with pytest.raises(allm.ConfigurationError, match=f"Hooks.{name}"):
        face.chat(engine, "hi")


def test_a_request_that_a_hook_makes_is_checked(face: Face) -> None:
    broken = Hooks(before_model=lambda request, ctx: replace(request, temperature=-1.0))
    with pytest.raises(allm.ValidationError, match="temperature"):
        face.chat(fake(HELLO, middleware=[broken]), "hi")


def test_an_emptied_answer_stays_empty(face: Face) -> None:
    empty = Hooks(after_model=lambda response, ctx: replace(response, message=allm.assistant("")))
    seen = face.events(fake(HELLO, middleware=[empty]), "hi")
    assert seen.result.text == ""
    assert allm.fold(seen.events) == seen.result


def test_a_hook_knows_the_call_and_tells_what_it_did(face: Face, asynchronous: bool) -> None:
    got: list[allm.HookContext] = []

    def look(request: allm.Request, ctx: allm.HookContext) -> None:
        got.append(ctx)
        ctx.tell({"looked": len(request.messages)})
        ctx.warn("looked")

    engine = fake(
        [*calls(("a", "double", {"n": 1})), {"usage": {"input_tokens": 3}}], DONE, tools=[double],
        context={"tenant": "t"}, middleware=[Hooks(asynchronous, before_model=look)],
    )  # fmt: skip
    seen = face.events(engine, "go", session_id="s", request_id="r", include_raw_chunks=True)
    assert [ctx.id for ctx in got] == ["s/0/model/before_model/0", "s/1/model/before_model/0"]
    assert [ctx.usage.input_tokens for ctx in got] == [None, 3]
    first = got[0]
    assert (first.context, first.session_id, first.request_id) == ({"tenant": "t"}, "s", "r")
    assert (first.provider, first.engine) == ("fake", engine)
    raw = [event.data for event in seen.events if isinstance(event, allm.RawChunk)]
    assert raw == [{"looked": 1}, {"looked": 3}]
    assert [step.response.warnings for step in seen.result.steps] == [("looked",)] * 2


def test_hooks_are_around_retries(face: Face) -> None:
    asked: list[int] = []
    hooks = Hooks(before_model=lambda request, ctx: asked.append(1))
    engine = fake([{"error": "overloaded"}], HELLO, middleware=[hooks], retry=allm.RetryPolicy(base_delay=0))
    assert face.generate(engine, "hi").text == "Hello"
    assert asked == [1]


def test_a_failed_call_is_mended_once(face: Face, asynchronous: bool) -> None:
    told: list[str] = []

    def mend(error: allm.AllmError, request: allm.Request, ctx: allm.HookContext) -> allm.Request:
        told.append(error.info.reason)
        return replace(request, max_tokens=5)

    failing = [{"error": "invalid_request"}]
    engine = fake(failing, HELLO, middleware=[Hooks(asynchronous, on_model_error=mend)])
    assert face.generate(engine, "hi").text == "Hello"
    assert [request.max_tokens for request in requests(engine)] == [None, 5]
    engine = fake(failing, failing, HELLO, middleware=[Hooks(asynchronous, on_model_error=mend)])
    with pytest.raises(allm.InvalidRequestError):
        face.generate(engine, "hi")
    assert told == ["invalid_request"] * 2


def test_a_failed_call_is_answered_by_a_hook(face: Face) -> None:
    sorry = allm.Response(message=allm.assistant("Sorry"))
    engine = fake([{"error": "invalid_request"}], middleware=[Hooks(on_model_error=lambda *_: sorry)])
    assert face.chat(engine, "hi").text == "Sorry"


def test_nothing_is_mended_after_content(face: Face) -> None:
    mend = Hooks(on_model_error=lambda error, request, ctx: request)
    engine = fake([{"text": "Hel"}, {"error": "invalid_request"}], HELLO, middleware=[mend])
    with pytest.raises(allm.InvalidRequestError):
        face.chat(engine, "hi")
    assert len(requests(engine)) == 1


@pytest.mark.parametrize("wrong", [object(), Hooks])
def test_what_is_no_middleware_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(allm.ConfigurationError, match="middleware"):
        allm.stream(fake(HELLO), "hi", middleware=[wrong])


WANTED = {
    "before_model": "request, ctx",
    "after_model": "response, ctx",
    "on_model_error": "error, request, ctx",
    "before_tool": "call, ctx",
    "after_tool": "call, message, ctx",
}


@pytest.mark.parametrize("name", WANTED)
def test_a_hook_that_cannot_be_called_is_refused_before_the_model_is_asked(face: Face, name: str) -> None:
    wrong: list[Any] = [lambda: None, lambda *, ctx: None, lambda a, b, c, d: None]
    for hook in wrong:
        engine = fake(HELLO, middleware=[Hooks(**{name: hook})])
        with pytest.raises(allm.ConfigurationError) as caught:
            face.chat(engine, "hi")
        assert f"Hooks.{name} cannot be called as {name}({WANTED[name]})" in str(caught.value)
        assert requests(engine) == []


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, *given: Any) -> None: ...

    def before_model(self, request: allm.Request, ctx: Any, more: int = 0) -> None: ...


def test_what_can_be_called_is_taken(face: Face) -> None:
    told: list[Any] = []
    hooks = [Unhashable(), Hooks(before_model=Unhashable(), after_model=lambda *given: None)]
    for _ in range(2):
        result = face.chat(fake(HELLO), "hi", middleware=hooks, on_event=told.append, halt_when=Unhashable())
        assert result.text == "Hello"
    assert told


# How a hook that waits ends


def test_cancelling_ends_the_wait_for_an_async_hook(face: Face) -> None:
    entered, stopped = threading.Event(), threading.Event()

    async def stuck(request: allm.Request, ctx: allm.HookContext) -> None:
        entered.set()
        try:
            await face.forever()
        finally:
            stopped.set()

    stream = face.make("stream", fake(HELLO), "hi", middleware=[Hooks(before_model=stuck)])
    face.cancelled_once(stream, lambda: entered.wait(PATIENCE))
    assert stopped.wait(PATIENCE)


def test_the_deadline_of_the_run_ends_the_wait_for_an_async_hook(face: Face) -> None:
    async def stuck(request: allm.Request, ctx: allm.HookContext) -> None:
        await face.forever()

    with pytest.raises(allm.DeadlineExceededError):
        face.chat(fake(HELLO), "hi", middleware=[Hooks(before_model=stuck)], timeouts=allm.Timeouts(run=0.01))


def test_a_timeout_of_the_hook_itself_is_its_own(face: Face) -> None:
    async def late(request: allm.Request, ctx: allm.HookContext) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        face.chat(fake(HELLO), "hi", middleware=[Hooks(before_model=late)])


def test_blocking_hooks_do_not_hold_up_a_loop() -> None:
    """Under asyncio a blocking hook may wait for what the loop does meanwhile."""
    released = threading.Event()

    def wait(request: allm.Request, ctx: allm.HookContext) -> None:
        assert released.wait(PATIENCE)

    async def main() -> str:
        async def release() -> None:
            released.set()

        stream = allm.aio.chat(fake(HELLO), "hi", middleware=[Hooks(before_model=wait)])
        return (await asyncio.gather(stream, release()))[0].text

    assert asyncio.run(main()) == "Hello"


# Tool calls, in a chat


def test_tool_hooks_edit_answer_refuse_and_review(face: Face, asynchronous: bool) -> None:
    ran: list[int] = []

    @allm.tool
    def count(n: int) -> int:
        """Count."""
        ran.append(n)
        return n

    def decide(call: allm.ToolCall, ctx: allm.HookContext) -> Any:
        if call.id == "edited":
            return replace(call, arguments={"n": 5})
        return {"answered": "cached", "refused": allm.Refuse("too dear")}.get(call.id)

    def review(call: allm.ToolCall, message: allm.Message, ctx: allm.HookContext) -> Any:
        return None if message.is_error else f"<{message.text}>"

    script = calls(*[(id, "count", {"n": 1}) for id in ("plain", "edited", "answered", "refused")])
    hooks = Hooks(asynchronous, before_tool=decide, after_tool=review)
    seen = face.events(fake(script, DONE, tools=[count], middleware=[hooks]), "go")
    plain, edited, answered, refused = seen.result.steps[0].tool_results
    assert sorted(ran) == [1, 5]
    assert (plain.text, answered.text) == ("<1>", "<cached>")
    assert "<5>" in edited.text
    assert (refused.is_error, refused.text) == (True, '{"error":"the call was refused: too dear"}')
    assert seen.kinds.count("tool_execution_started") == 2
    assert seen.kinds.count("tool_result_encoded") == 4
    assert seen.result.text == "Done"
    assert allm.fold(seen.events) == seen.result


def test_edited_arguments_are_checked_like_the_models_own(face: Face) -> None:
    spoil = Hooks(before_tool=lambda call, ctx: replace(call, arguments={"n": "many"}))
    engine = fake(calls(("a", "double", {"n": 1})), DONE, tools=[double], middleware=[spoil])
    assert face.chat(engine, "go").steps[0].tool_results[0].is_error


def test_a_hook_may_ask_the_user_or_halt(face: Face) -> None:
    asking = Hooks(before_tool=lambda call, ctx: allm.AskUser("May I?"))
    engine = fake(calls(("a", "double", {"n": 1})), tools=[double], middleware=[asking])
    assert face.chat(engine, "go").pending_question == "May I?"


@pytest.mark.parametrize("name", ["before_tool", "after_tool"])
def test_a_refused_call_goes_through_the_policy(face: Face, name: str) -> None:
    refuser = one_hook(name, lambda *_: allm.Refuse("no"))
    engine = fake(calls(("a", "double", {"n": 1})), tools=[double], middleware=[refuser])
    result = face.chat(engine, "go", on_tool_error="halt")
    assert (result.halted_reason, result.metadata["halt_tool_call_id"]) == ("tool_error", "a")


# Tool hooks, one by one, driven by hand


def decided(middleware: list[Any], helper: Callable[..., Generator[Any, Any, Any]], *arguments: Any) -> Any:
    """What a tool hook's generator gives, driven by hand, with the events on the way."""
    plan, _ = make_plan(fake(tools=[double], middleware=middleware), "go", {})
    run, seen, reply = helper(plan, double, *arguments), [], None
    try:
        while True:
            item = run.send(reply)
            reply = None
            if isinstance(item, CallHook):
                try:
                    reply = item.call()
                except allm.AllmError as error:
                    run.throw(error)
            else:
                seen.append(item)
    except StopIteration as stop:
        return stop.value, seen


CALL = allm.ToolCall("c", "double", {"n": 4})
RESULT = allm.tool_result("c", "8")


def before(*hooks: Hook) -> Any:
    return decided([Hooks(before_tool=hook) for hook in hooks], before_tool, CALL, 2, "s/0/tool/2")[0]


def after(*hooks: Hook) -> Any:
    return decided([Hooks(after_tool=hook) for hook in hooks], after_tool, CALL, RESULT, "s/0/tool/2")[0]


def fail(*_: Any) -> Any:
    raise allm.ToolError("too dear")


def test_before_tool_may_let_it_pass_or_edit_it() -> None:
    assert before(lambda call, ctx: None) is CALL
    edited = before(
        lambda call, ctx: allm.ToolCall("other", "other", {"n": 5}),
        lambda call, ctx: replace(call, arguments={"n": call.arguments["n"] + 1}),
    )
    assert (edited.id, edited.name, edited.arguments) == ("c", "double", {"n": 6})


def test_before_tool_may_answer() -> None:
    done = before(lambda call, ctx: {"cached": 8}, fail)
    assert isinstance(done, ToolDone)
    assert (done.position, done.value, done.error) == (2, {"cached": 8}, None)


@pytest.mark.parametrize(
    ("hook", "message"),
    [(lambda call, ctx: allm.Refuse("no"), "the call was refused: no"), (fail, "too dear")],
)
def test_before_tool_may_refuse(hook: Hook, message: str) -> None:
    done = before(hook)
    assert (done.value, done.error.info.code, done.error.info.message) == (None, "refused", message)


def test_after_tool_goes_from_the_last_to_the_first() -> None:
    message = after(
        lambda call, message, ctx: f"[{message.text}]",
        lambda call, message, ctx: allm.tool_result("other", message.text + "!", is_error=True),
    )
    assert (message.text, message.tool_call_id, message.is_error) == ("[8!]", "c", True)
    assert after(lambda call, message, ctx: None) is RESULT


def test_after_tool_may_refuse() -> None:
    assert after(lambda *_: allm.Refuse("secret")).message == "the call was refused: secret"
    assert after(fail).message == "too dear"
    with pytest.raises(allm.ConfigurationError, match="after_tool"):
        after(lambda *_: 5)


def test_a_tool_hook_knows_its_tool_and_tells() -> None:
    got: list[allm.HookContext] = []

    def look(call: allm.ToolCall, ctx: allm.HookContext) -> None:
        got.append(ctx)
        ctx.tell({"looked": call.id})
        ctx.warn("careful")

    _, seen = decided([Hooks(before_tool=look)], before_tool, CALL, 2, "s/0/tool/2")
    assert (got[0].id, got[0].tool) == ("s/0/tool/2/before_tool/0", double)
    assert [event.data for event in seen] == [
        {"looked": "c"}, {"type": "warning", "message": "careful"}
    ]  # fmt: skip
