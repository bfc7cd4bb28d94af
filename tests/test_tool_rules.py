"""Every rule of the tools in a run, on every face. The `f` numbers are rows of the feature checklist, `trap`
numbers its traps; what is plainly seen in a whole run is in `test_loop.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import pytest

import allm
from allm.data.events import Event
from allm.drivers import pace
from allm.folds import RunFold, fold
from allm.loops.chat import chat_run
from allm.loops.effects import NewId, NextTool, StartTool, ToolDone
from allm.loops.plan import make_plan
from allm.loops.step import MAX_CALLS, MAX_PARALLEL
from allm.middleware import Refuse
from allm.tools import RESERVED_REASONS, from_object
from tests.faces import PATIENCE, Face
from tests.test_loop import DONE, Script, calls, double, fake, named, requests

ONE = calls(("a", "t", {}))


def returning(value: Any, **options: Any) -> allm.Tool:
    return named("t", lambda _: value, **options)


def raising(error: BaseException) -> allm.Tool:
    def handler(arguments: dict[str, Any]) -> None:
        raise error

    return named("t", handler)


class Foreign(BaseException):
    """No `Exception`, and none that ends a task or the program."""


def raising_async(error: BaseException) -> allm.Tool:
    async def handler(arguments: dict[str, Any]) -> None:
        raise error

    return named("t", handler)


class Encoder:
    def encode(self, value: Any) -> Any:
        raise KeyError("encoder")


class Executor:
    """It runs nothing and says what it was given."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer

    def execute(self, tool: allm.Tool, call: allm.ToolCall, context: allm.ToolContext) -> Any:
        return self.answer(tool, call, context)


class AsyncExecutor(Executor):
    async def execute(self, tool: allm.Tool, call: allm.ToolCall, context: allm.ToolContext) -> Any:
        return self.answer(tool, call, context)


class Policy:
    """An `on_tool_error` that answers `answer`, or raises it, and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[allm.ErrorInfo] = []

    def __call__(self, call: allm.ToolCall, error: allm.ErrorInfo) -> Any:
        self.asked.append(error)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


# What a handler returns


@pytest.mark.parametrize(
    ("value", "text"),
    [({"forecast": "sunny"}, '{"forecast":"sunny"}'), ("plain", "plain"), (None, "null"), ((1, 2), "[1,2]")],
)
def test_f099_f101_trap19_values_are_encoded_bare(face: Face, value: Any, text: str) -> None:
    engine = fake(ONE, DONE, tools=[returning(value)])
    face.chat(engine, "go")
    assert requests(engine)[1].messages[-1] == allm.tool_result("a", text)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value", [object(), b"bytes", {"a": bytearray(2)}, float("nan"), [float("inf")], CYCLE]
)
def test_what_json_cannot_hold_is_told(face: Face, value: Any) -> None:
    policy = Policy(None)
    result = face.chat(fake(ONE, DONE, tools=[returning(value)]), "go", on_tool_error=policy)
    (message,) = result.steps[0].tool_results
    assert message.is_error
    assert "cannot be encoded" in message.text
    assert "0x" not in message.text
    assert [info.code for info in policy.asked] == ["encoding_failed"]
    assert result.text == "Done"


def test_a_result_that_is_too_large_is_told(face: Face) -> None:
    for tool, fits in (
        (returning("é" * 5, max_result=10), True),
        (returning("é" * 5, max_result=9), False),
        (returning(["é" * 5, allm.Image(data=b"x" * 99, mime_type="image/png")], max_result=10), True),
        (returning(allm.Halt("enough", "é" * 5), max_result=9), False),
        (returning("x" * (256 * 1024 + 1)), False),
    ):
        policy = Policy(None)
        result = face.chat(fake(ONE, DONE, tools=[tool]), "go", on_tool_error=policy)
        assert result.steps[0].tool_results[0].is_error is not fits
        assert [info.code for info in policy.asked] == ([] if fits else ["result_too_large"])
    assert "has 262145 bytes, more than the 262144" in result.steps[0].tool_results[0].text


async def _coroutine() -> None: ...


# tool, options of the call, code of the failure
FAILURES: list[tuple[Callable[[], allm.Tool], dict[str, Any], str]] = [
    (lambda: raising(ValueError("broken")), {}, "handler_raised"),
    (lambda: raising(SystemExit(1)), {}, "handler_exit"),
    (lambda: raising_async(SystemExit(1)), {}, "handler_exit"),
    (lambda: raising(Foreign()), {}, "handler_raised"),
    (lambda: raising_async(Foreign()), {}, "handler_raised"),
    (lambda: raising(allm.ToolError(allm.ErrorInfo(reason="tool_failed", code="mine"))), {}, "mine"),
    (lambda: named("t", lambda _: _coroutine()), {}, "invalid_return"),
    (lambda: returning(allm.Halt("")), {}, "invalid_return"),
    (lambda: returning(object()), {}, "encoding_failed"),
    (lambda: returning(1), {"tool_result_encoder": Encoder()}, "encoding_failed"),
    (lambda: allm.Tool(name="t"), {}, "not_found"),
    (lambda: returning(1), {"tool_executor": Executor(lambda *_: 1 / 0)}, "handler_raised"),
    (lambda: returning(1), {"tool_executor": AsyncExecutor(lambda *_: 1 / 0)}, "handler_raised"),
]
FAILURE_IDS = [f"{code}{number}" for number, (_, _, code) in enumerate(FAILURES)]


@pytest.mark.parametrize(("make", "options", "code"), FAILURES, ids=FAILURE_IDS)
def test_f106_f110_f112_f113_each_failure_has_its_code_and_is_told(
    face: Face, make: Callable[[], allm.Tool], options: dict[str, Any], code: str
) -> None:
    policy = Policy(None)
    result = face.chat(fake(ONE, DONE, tools=[make()]), "go", on_tool_error=policy, **options)
    (info,) = policy.asked
    assert (info.reason, info.code, info.call_id, info.extra["tool_name"]) == ("tool_failed", code, "a", "t")
    assert result.steps[0].tool_results[0].is_error
    assert (result.text, result.halted_reason) == ("Done", "completed")


@pytest.mark.parametrize(("make", "options", "code"), FAILURES, ids=FAILURE_IDS)
def test_f107_each_failure_halts_where_it_should(
    face: Face, make: Callable[[], allm.Tool], options: dict[str, Any], code: str
) -> None:
    result = face.chat(fake(ONE, tools=[make()]), "go", on_tool_error="halt", **options)
    assert (result.halted_reason, result.metadata["halt_tool_call_id"]) == ("tool_error", "a")
    assert result.thread.messages[-1].is_error


@pytest.mark.parametrize("word", sorted(RESERVED_REASONS))
def test_f117_trap21_reserved_words_are_no_reasons(word: str) -> None:
    policy = Policy(None)
    result = allm.chat(fake(ONE, DONE, tools=[returning(allm.Halt(word))]), "go", on_tool_error=policy)
    (info,) = policy.asked
    assert (info.code, info.extra["reserved_halt"]) == ("invalid_return", word)
    assert result.halted_reason == "completed"


def test_a_halt_whose_value_is_a_number_that_data_cannot_hold(face: Face) -> None:
    result = face.chat(fake(ONE, tools=[returning(allm.Halt("enough", {"n": 2**70}))]), "go")
    assert (result.halted_reason, result.metadata["halt_result"]) == ("enough", f'{{"n":{2**70}}}')


def test_f116_own_words_end_the_loop_with_the_result_in_the_thread(face: Face) -> None:
    result = face.chat(fake(ONE, tools=[returning(allm.Halt("enough", "so"))]), "go")
    assert (result.halted_reason, result.thread.messages[-1].text) == ("enough", "so")


def test_f115_all_questions_are_kept_in_call_order(face: Face) -> None:
    first = named("first", lambda _: allm.AskUser("Where?", ["x"], level=1))
    script = calls(("a", "double", {"n": 1}), ("b", "t", {}), ("c", "first", {}))
    result = face.chat(fake(script, tools=[double, returning(allm.AskUser("When?")), first]), "go")
    assert (result.pending_question, result.pending_tool_call_id) == ("When?", "b")
    assert result.metadata["questions"] == [
        {"call_id": "b", "question": "When?", "options": {"choices": []}},
        {"call_id": "c", "question": "Where?", "options": {"choices": ["x"], "level": 1}},
    ]
    assert [m.text for m in result.thread.messages[-3:]] == [*["<awaiting user response>"] * 2, "When?"]


def test_trap23_a_step_does_not_add_the_question(face: Face) -> None:
    result = face.step(fake(ONE, tools=[returning(allm.AskUser("When?"))]), "go")
    assert result.metadata["pending_question"] == "When?"
    assert result.thread.messages[-1].text == "<awaiting user response>"


# What becomes of failures


def test_f109_trap20_a_policy_that_fails_is_asked_once(face: Face) -> None:
    cases = [(Policy(KeyError("policy")), "KeyError: 'policy'"), (Policy(object()), "cannot be encoded")]
    for policy, why in cases:
        result = face.chat(fake(ONE, tools=[raising(ValueError("broken"))]), "go", on_tool_error=policy)
        assert len(policy.asked) == 1
        assert result.halted_reason == "tool_error"
        assert why in result.metadata["on_tool_error_exception"]
        assert result.steps[0].tool_results[0].text == '{"error":"ValueError: broken"}'


@pytest.mark.parametrize(
    ("answer", "reason", "text"),
    [
        ("instead", "completed", "instead"),
        (allm.Halt("own"), "tool_error", '{"error":"ValueError: broken"}'),
        (allm.AskUser("What now?"), "ask_user", "<awaiting user response>"),
    ],
)
def test_f108_a_policy_may_answer_as_a_handler_does(face: Face, answer: Any, reason: str, text: str) -> None:
    result = face.chat(
        fake(ONE, DONE, tools=[raising(ValueError("broken"))]), "go", on_tool_error=Policy(answer)
    )
    assert (result.halted_reason, result.steps[0].tool_results[0].text) == (reason, text)


async def waiting_policy(call: allm.ToolCall, error: allm.ErrorInfo) -> None: ...


@pytest.mark.parametrize("policy", [lambda: None, lambda a, b, c: None, waiting_policy, "stop", 3])
def test_a_wrong_policy_is_a_mistake_of_the_caller(face: Face, policy: Any) -> None:
    """Nothing is asked of the provider."""
    engine = fake(ONE, DONE, tools=[returning(1)])
    with pytest.raises((allm.ConfigurationError, allm.ValidationError), match="on_tool_error"):
        face.chat(engine, "go", on_tool_error=policy)
    assert requests(engine) == []


def test_trap24_a_method_without_its_instance_is_a_mistake_of_the_caller(face: Face) -> None:
    class Shop:
        @allm.tool
        def count(self) -> int:
            """How many."""
            return 1

    engine = fake(calls(("a", "count", {})), DONE)
    with pytest.raises(allm.ConfigurationError, match="pass it from an instance"):
        face.chat(engine, "go", tools=[Shop.count])
    assert requests(engine) == []
    with pytest.raises(allm.ConfigurationError, match="pass it from an instance"):
        engine.put_tool(Shop.count)


def test_keys_in_an_exception_go_nowhere(face: Face) -> None:
    key = "sk-proj-" + "a1B2" * 10
    policy = Policy("halt")
    seen = face.events(fake(ONE, tools=[raising(ValueError(f"refused {key}"))]), "go", on_tool_error=policy)
    assert key not in str(allm.to_json(seen.result))
    assert key not in "".join(str(allm.to_json(event)) for event in seen.events)
    assert key not in policy.asked[0].message
    long = face.chat(fake(ONE, DONE, tools=[raising(ValueError("x" * 9999))]), "go")
    assert len(long.steps[0].tool_results[0].text) < 1100


# Arguments and names


@pytest.mark.parametrize("on_tool_error", ["continue", "halt", Policy("halt")])
@pytest.mark.parametrize(
    "raw", ['{"n": 1', "[1]", '"1"', '{"n": 1, "n": 2}', '{"n": "x"}', '{"n": 1, "m": 2}', "{}"]
)
def test_trap26_arguments_that_do_not_fit_go_back_whatever_the_policy(raw: str, on_tool_error: Any) -> None:
    script: Script = [{"tool_call": {"id": "a", "name": "double", "raw_arguments": raw}}]
    executor = Executor(lambda *_: pytest.fail("it ran"))
    more: list[dict[str, Any]] = [{}, {"tool_executor": executor}]
    for options in more:
        seen = Face().events(fake(script, DONE, tools=[double]), "go", on_tool_error=on_tool_error, **options)
        (message,) = seen.result.steps[0].tool_results
        assert message.is_error
        assert message.text.startswith('{"error":"invalid arguments for double: ')
        assert "tool_execution_started" not in seen.kinds
        assert seen.result.text == "Done"


@pytest.mark.parametrize("name", ["nothing", "", "__class__", "x" * 5000, "\x1b[31m", "Double"])
def test_f111_trap25_unknown_tools_are_answered_to_the_model(name: str) -> None:
    result = allm.chat(fake(calls(("a", name, {})), DONE, tools=[double]), "go", on_tool_error="halt")
    (message,) = result.steps[0].tool_results
    assert message.is_error
    assert message.text.endswith('the tools are: double"}')
    assert len(message.text) < 200
    assert "\x1b" not in message.text
    assert result.text == "Done"


def test_arguments_are_a_copy_of_the_calls() -> None:
    def change(arguments: dict[str, Any]) -> None:
        arguments["list"].append(2)

    result = allm.chat(fake(calls(("a", "t", {"list": [1]})), DONE, tools=[named("t", change)]), "go")
    assert result.steps[0].response.tool_calls[0].arguments == {"list": [1]}


def test_an_argument_whose_own_code_fails_is_told(face: Face) -> None:
    import msgspec

    class Even(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            raise ZeroDivisionError("in the type")

    @allm.tool
    def count(even: Even) -> int:
        """Count."""
        return even.n

    result = face.chat(fake(calls(("a", "count", {"even": {"n": 2}})), DONE, tools=[count]), "go")
    assert "in the type" in result.steps[0].tool_results[0].text


# Side by side


def test_f102_tools_run_at_the_same_time(face: Face) -> None:
    barrier = threading.Barrier(MAX_PARALLEL)
    meet = named("t", lambda _: barrier.wait(PATIENCE) >= 0)
    script = calls(*[(f"c{i}", "t", {}) for i in range(MAX_PARALLEL)])
    result = face.chat(fake(script, DONE, tools=[meet]), "go")
    assert [m.text for m in result.steps[0].tool_results] == ["true"] * MAX_PARALLEL


def driven(engine: allm.Engine, **options: Any) -> list[str]:
    """What the loop asks of its driver, which ends the tool that was started last first."""
    plan, _ = make_plan(engine, "go", options)
    loop = chat_run(plan, RunFold("chat", plan.base))
    asked: list[str] = []
    running: list[StartTool] = []
    reply: Any = None
    while True:
        try:
            item = loop.send(reply)
        except StopIteration:
            return asked
        reply = None
        if isinstance(item, NewId):
            reply = "run"
        elif isinstance(item, StartTool):
            running.append(item)
            asked.append(item.id)
        elif isinstance(item, NextTool):
            asked.append("next")
            reply = ToolDone(running.pop().position, 1, None, 0.0)


def test_f103_trap16_no_more_run_than_allowed_and_a_tool_starts_when_there_is_room() -> None:
    engine = fake(calls(*[(f"c{i}", "t", {}) for i in range(3)]), DONE, tools=[returning(1)])
    assert driven(engine, max_concurrency=2) == [
        "run/0/tool/0", "run/0/tool/1", "next", "run/0/tool/2", "next", "next",
    ]  # fmt: skip
    many = fake(calls(*[(f"c{i}", "t", {}) for i in range(12)]), DONE, tools=[returning(1)])
    assert driven(many).index("next") == MAX_PARALLEL


def test_f104_trap17_results_are_in_call_order_whichever_ends_first() -> None:
    engine = fake(calls(*[(f"c{i}", "t", {}) for i in range(4)]), DONE, tools=[returning(1)])
    driven(engine)
    assert [m.tool_call_id for m in requests(engine)[1].messages[2:]] == ["c0", "c1", "c2", "c3"]


def test_f118_trap18_the_first_halt_in_call_order_wins_and_the_others_end(face: Face) -> None:
    second_halted, ended = threading.Event(), []

    def first(arguments: dict[str, Any]) -> allm.Halt:
        assert second_halted.wait(PATIENCE)
        return allm.Halt("first", 1)

    def third(arguments: dict[str, Any]) -> str:
        assert second_halted.wait(PATIENCE)
        ended.append(1)
        return "third"

    def watch(event: Event) -> None:
        if isinstance(event, allm.ToolHalt):
            second_halted.set()

    tools = [named("first", first), named("t", lambda _: allm.Halt("second", 2)), named("third", third)]
    script = calls(("a", "first", {}), ("b", "t", {}), ("c", "third", {}))
    seen = face.events(fake(script, tools=tools), "go", on_event=watch)
    assert [e.reason for e in seen.events if isinstance(e, allm.ToolHalt)] == ["second", "first"]
    assert (seen.result.halted_reason, seen.result.metadata["halt_result"]) == ("first", 1)
    assert ended == [1]
    assert [m.text for m in seen.result.steps[0].tool_results] == ["1", "2", "third"]


def test_too_many_calls_end_the_run_before_any_of_them(face: Face) -> None:
    script = calls(*[(f"c{i}", "t", {}) for i in range(MAX_CALLS + 1)])
    tool = named("t", lambda _: pytest.fail("it ran"))
    with pytest.raises(allm.LimitExceededError, match="129 tool calls") as caught:
        face.chat(fake(script, tools=[tool]), "go")
    assert caught.value.partial.thread == allm.Thread().add_user("go")


# Who runs it, and with what


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize("kind", ["sync", "async", "executor", "async executor"])
def test_context_variables_are_carried_in(face: Face, kind: str) -> None:
    async def awaited(arguments: dict[str, Any]) -> str:
        return VARIABLE.get()

    tool = named("t", awaited if kind == "async" else lambda _: VARIABLE.get())
    executors = {"executor": Executor, "async executor": AsyncExecutor}
    executor = executors[kind](lambda *_: VARIABLE.get()) if kind in executors else None
    token = VARIABLE.set("set")
    try:
        result = face.chat(fake(ONE, DONE, tools=[tool]), "go", tool_executor=executor)
    finally:
        VARIABLE.reset(token)
    assert result.steps[0].tool_results[0].text == "set"


def test_f113_the_calls_executor_and_encoder_win(face: Face) -> None:
    class Brackets:
        def __init__(self, mark: str) -> None:
            self.mark = mark

        def encode(self, value: Any) -> str:
            return f"{self.mark}{value}"

    got: list[tuple[str, str | None]] = []

    def answer(tool: allm.Tool, call: allm.ToolCall, context: allm.ToolContext) -> str:
        got.append((tool.name, context.idempotency_key))
        return "call"

    wrong = Executor(lambda *_: pytest.fail("the engine's"))
    engine = fake(
        ONE, DONE, tools=[returning(1)], tool_executor=wrong, tool_result_encoder=Brackets("engine ")
    )
    options: dict[str, Any] = {"tool_executor": Executor(answer), "tool_result_encoder": Brackets("of ")}
    result = face.chat(engine, "go", session_id="s", **options)
    assert result.steps[0].tool_results[0].text == "of call"
    assert got == [("t", "s/0/tool/0")]


def test_f100_the_context_in_a_second_argument(face: Face) -> None:
    def handler(arguments: dict[str, Any], context: allm.ToolContext) -> list[Any]:
        assert context.call is not None
        return [context.context, context.session_id, context.request_id, context.call.id]

    engine = fake(ONE, DONE, tools=[allm.Tool(name="t", handler=handler)], context={"k": 1})
    result = face.chat(engine, "go", session_id="s", request_id="r")
    assert result.steps[0].tool_results[0].text == '[{"k":1},"s","r","a"]'


def test_tools_of_an_instance_and_of_a_module(face: Face) -> None:
    class Shop:
        def __init__(self) -> None:
            self.sold: list[str] = []

        @allm.tool
        def sell(self, thing: str) -> int:
            """Sell it."""
            self.sold.append(thing)
            return len(self.sold)

    shop, module = Shop(), ModuleType("shop")
    module.double = double  # type: ignore[attr-defined]
    script = calls(("a", "sell", {"thing": "x"}), ("b", "double", {"n": 2}))
    result = face.chat(fake(script, DONE, tools=[*from_object(shop), *from_object(module)]), "go")
    assert [m.text for m in result.steps[0].tool_results] == ["1", "4"]
    assert shop.sold == ["x"]


class Hooks:
    """Middleware around tools."""

    def __init__(self, before: Any = None, after: Any = None) -> None:
        self.before = before
        self.after = after

    def before_tool(self, call: allm.ToolCall, ctx: Any) -> Any:
        return self.before and self.before(call)

    def after_tool(self, call: allm.ToolCall, message: allm.Message, ctx: Any) -> Any:
        return self.after and self.after(message)


def test_hooks_stand_around_the_handler(face: Face) -> None:
    def before(call: allm.ToolCall) -> Any:
        if call.id == "a":
            return allm.ToolCall("x", "x", {"n": 10})
        return Refuse("no") if call.id == "b" else None

    script = calls(*[(id, "double", {"n": 1}) for id in "abc"])
    hooks = Hooks(before, lambda message: f"<{message.text}>")
    seen = face.events(fake(script, DONE, tools=[double], middleware=[hooks]), "go")
    started = [e.call for e in seen.events if isinstance(e, allm.ToolExecutionStarted)]
    assert [(call.id, call.arguments) for call in started] == [("a", {"n": 10}), ("c", {"n": 1})]
    refusal = '<{"error":"the call was refused: no"}>'
    assert [m.text for m in seen.result.steps[0].tool_results] == ["<20>", refusal, "<2>"]


def test_a_hook_may_mend_arguments_and_what_it_makes_of_them_is_checked(face: Face) -> None:
    for made, text in (({"n": 4}, "8"), ({"n": "x"}, "expected integer")):
        hooks = Hooks(lambda call, made=made: allm.ToolCall("a", "double", made))
        engine = fake(calls(("a", "double", {})), DONE, tools=[double], middleware=[hooks])
        assert text in face.chat(engine, "go").steps[0].tool_results[0].text


def test_a_refused_result_goes_through_the_policy(face: Face) -> None:
    hooks = Hooks(after=lambda message: Refuse("secret"))
    engine = fake(calls(("a", "double", {"n": 1})), tools=[double], middleware=[hooks])
    result = face.chat(engine, "go", on_tool_error="halt")
    assert result.halted_reason == "tool_error"
    assert result.steps[0].tool_results[0].text == '{"error":"the call was refused: secret"}'


# Manual


def test_f119_f120_manual_is_of_one_call(face: Face) -> None:
    script = calls(("a", "double", {"n": 1}))
    engine = fake(script, script, DONE, tools=[double])
    first = face.chat(engine, "go", mode="manual")
    assert (first.halted_reason, len(first.steps[0].tool_results)) == ("manual_tool_calls", 0)
    thread = first.thread.add_message(allm.tool_result("a", "2"))
    assert face.chat(engine, thread).text == "Done"


def test_f121_f122_trap22_manual_tools_have_no_placeholder(face: Face) -> None:
    person = allm.Tool(name="person", manual=True)
    alone = face.chat(fake(calls(("a", "person", {}), ("b", "person", {})), tools=[person]), "go")
    assert alone.metadata == {"manual_tool_calls": ["a", "b"], "manual_turn_index": 0}
    assert alone.steps[0].tool_results == ()
    mixed = calls(("a", "double", {"n": 1}), ("b", "person", {}), ("c", "double", {"n": 2}))
    result = face.chat(fake(mixed, tools=[person, double]), "go")
    assert [m.tool_call_id for m in result.steps[0].tool_results] == ["a", "c"]
    assert "b" not in [m.tool_call_id for m in result.thread.messages]
    with pytest.raises(allm.ValidationError, match="manual"):
        allm.Tool(name="t", manual=None)  # type: ignore[arg-type]


def test_f123_a_question_wins_over_manual_calls(face: Face) -> None:
    person = allm.Tool(name="person", manual=True)
    script = calls(("a", "person", {}), ("b", "t", {}))
    result = face.chat(fake(script, tools=[person, returning(allm.AskUser("When?"))]), "go")
    assert result.halted_reason == "ask_user"


def test_f126_a_finish_of_tool_calls_without_calls_ends_the_loop(face: Face) -> None:
    result = face.chat(fake([{"text": "Hm"}, {"finish": "tool_calls"}]), "go")
    assert (result.halted_reason, result.text) == ("completed", "Hm")


# A failure while tools run keeps what they did


class Clock:
    """It stands for `time` in a driver; `jump` puts it a million seconds ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def jump(self, event: Event | None = None) -> None:
        """At once, or as `on_event` when a result has been told."""
        if event is None or isinstance(event, allm.ToolResultEncoded):
            self.ahead = 1e6

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a run whose deadline passes when the first result has been told."""
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return {"timeouts": allm.Timeouts(run=1e5), "on_event": clock.jump}


class Bank:
    """Two tools: one pays at once, the other never ends; `paid` tells when the payment was told."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.payments = 0
        self.script = calls(("a", "stuck", {}), ("b", "pay", {}))
        self.tools = [named("stuck", self.stuck), named("pay", self.pay)]

    async def stuck(self, arguments: dict[str, Any]) -> None:
        await self.face.forever()

    def pay(self, arguments: dict[str, Any]) -> str:
        self.payments += 1
        return "paid"

    def kept(self, thread: allm.Thread) -> bool:
        return [(m.role, m.tool_call_id) for m in thread.messages[1:]] == [("assistant", None), ("tool", "b")]


def test_a_deadline_while_tools_run_keeps_their_results(face: Face, late: dict[str, Any]) -> None:
    bank = Bank(face)
    seen = face.events(fake(bank.script, tools=bank.tools), "go", **late)
    assert isinstance(seen.error, allm.DeadlineExceededError)
    partial = seen.error.partial
    assert (partial.halted_reason, partial.error) == ("error", seen.error.info)
    assert bank.kept(partial.thread)
    (step,) = partial.steps
    assert step.response.tool_calls[1].id == "b"
    assert (step.metadata, step.response.error) == ({"halted_reason": "error"}, seen.error.info)
    assert fold(seen.events, partial.base) == partial
    engine = fake(DONE, tools=bank.tools)
    assert face.chat(engine, partial.thread).text == "Done"
    assert bank.payments == 1


@pytest.mark.parametrize("verb", ["start", "step"])
def test_the_session_of_a_failure_while_tools_run_goes_on(
    face: Face, late: dict[str, Any], verb: str
) -> None:
    bank = Bank(face)
    session = allm.Session(id="s", thread=allm.Thread().add_user("go"))
    with pytest.raises(allm.DeadlineExceededError) as caught:
        face.session(verb, fake(bank.script, tools=bank.tools), session, **late)
    session = caught.value.partial.session
    assert (session.status, session.error) == ("error", caught.value.info)
    assert bank.kept(caught.value.partial.result.thread)
    after, _ = face.session("resume", fake(DONE, tools=bank.tools), session)
    assert (after.status, bank.payments) == ("completed", 1)


def test_cancelling_while_tools_run_keeps_their_results(face: Face) -> None:
    bank = Bank(face)
    engine = fake(bank.script, tools=bank.tools)

    def body(stream: Any, event: Event) -> None:
        if isinstance(event, allm.ToolResultEncoded):
            stream.cancel()

    with pytest.raises(allm.CancelledError) as caught:
        face.consume(engine, "go", body=body)
    partial = caught.value.partial
    assert partial.halted_reason == "cancelled"
    assert bank.kept(partial.thread)


def test_halting_keeps_all_results(face: Face) -> None:
    tools = [raising(ValueError("broken")), double]
    script = calls(("a", "t", {}), ("b", "double", {"n": 1}))
    session, result = face.session("start", fake(script, tools=tools), "go", on_tool_error="halt")
    assert [m.tool_call_id for m in result.steps[0].tool_results] == ["a", "b"]
    assert session.thread == result.thread
    assert session.thread.messages[-1].text == "2"


def test_results_of_a_broken_step_are_in_call_order() -> None:
    script = calls(("a", "t", {}), ("b", "double", {"n": 1}))
    events = Face().events(fake(script, tools=[double, returning(1)]), "go").events
    told = [event for event in events if isinstance(event, allm.ToolResultEncoded)]
    before = events[: events.index(told[0])]
    second, first = sorted(told, key=lambda event: str(event.message.tool_call_id), reverse=True)
    failed = allm.StreamFailed(allm.ErrorInfo(reason="timeout"))
    result = fold([*before, second, first, failed])
    assert isinstance(result, allm.ChatResult)
    assert [m.tool_call_id for m in result.steps[0].tool_results] == ["a", "b"]
