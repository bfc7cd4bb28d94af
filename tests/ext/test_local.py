"""The local model, with the real runtime and the real default weights where they can be had.

`python -m allm.ext.weights` fetches the weights; without them these tests are skipped.
"""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allm.data.content import Image, ImagePart, TextPart, ToolCall
from allm.data.events import (
    Event,
    MessageCompleted,
    MessageStarted,
    StreamFailed,
    TextCompleted,
    TextDelta,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from allm.data.messages import Message, assistant, system, tool_result, user
from allm.data.requests import Request, ToolSpec, json_schema
from allm.errors import (
    ConfigurationError,
    ContextLengthError,
    UnknownOptionError,
    UnsupportedError,
    ValidationError,
)
from allm.ext import local, weights
from allm.ports import CallContext

FRANCE = "What is the capital of France?"
STORY = "Write a long story about a dragon."
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolSpec(
    "get_weather", "Return the current weather for a city.", CITY, examples=("weather in Rome?",)
)
CLOCK = ToolSpec("clock", "Tell the time.", {"type": "object", "properties": {}})


def have_model() -> str:
    """Why the model cannot be used here; empty where it can."""
    try:
        import xllamacpp  # noqa: F401
    except ImportError:
        return "the runtime is not installed: pip install 'pyallm[local]'"
    return "" if weights.default_path() else "no default weights: python -m allm.ext.weights"


real = pytest.mark.skipif(bool(have_model()), reason=have_model() or "there")


@pytest.fixture(scope="module", autouse=True)
def unloaded() -> Iterator[None]:
    yield
    local.close()


def ask(*messages: Message | str, **fields: Any) -> Request:
    return Request(messages=tuple(user(m) if isinstance(m, str) else m for m in messages), **fields)


def events(request: Request, **context: Any) -> list[Event]:
    return list(local.LocalAdapter().stream(request, CallContext(**context)))


def kinds(seen: list[Event]) -> list[type]:
    """The types in order, a run of one type as one."""
    found: list[type] = []
    for event in seen:
        if not found or found[-1] is not type(event):
            found.append(type(event))
    return found


# -- Without a model ---------------------------------------------------------------------------------


def prompt(*messages: Message | str, **fields: Any) -> local._Prompt:
    return local._Prompt(ask(*messages, **fields))


def test_messages_become_plain_chat() -> None:
    call = assistant([ToolCall("c1", "get_weather", {"city": "Rome"})])
    made = prompt(
        system("Be kind."), "hi", call, tool_result("c1", "sunny"), assistant("Sunny."), system="Be short."
    )
    assert made.answer(Request(), None) == [
        {"role": "system", "content": "Be short.\nBe kind."},
        {"role": "user", "content": "hi\nResult of get_weather: sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]


def test_images_are_refused() -> None:
    message = user([TextPart("see"), ImagePart(Image.from_url("https://x.example/i.png"))])
    with pytest.raises(UnsupportedError, match=r"messages\[0\]\.1"):
        events(ask(message))


def test_tool_choice() -> None:
    tools = (WEATHER, CLOCK)
    made = [prompt("x", tools=tools, tool_choice=c) for c in (None, "auto", "none", "required", "clock")]
    assert [(len(p.tools), p.forced) for p in made] == [
        (2, False),
        (2, False),
        (0, False),
        (2, True),
        (1, True),
    ]
    named = prompt("x", tools=tools, tool_choice={"type": "function", "function": {"name": "clock"}})
    assert named.tools == (CLOCK,)
    with pytest.raises(ValidationError, match="tool_choice"):
        prompt("x", tools=tools, tool_choice="absent")


def test_adapter_options_are_checked() -> None:
    with pytest.raises(UnknownOptionError, match="thread"):
        events(ask("x"), adapter_options={"thread": 2})
    with pytest.raises(ConfigurationError, match="positive integer"):
        events(ask("x"), adapter_options={"threads": 0})


def test_a_missing_runtime_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "xllamacpp":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"pip install 'pyallm\[local\]'"):
        events(ask("x"))


def test_turns_wait_in_line() -> None:
    model = local.Model(None)
    model.acquire(bool)
    order: list[int] = []

    def wait(number: int) -> None:
        model.acquire(bool)
        order.append(number)
        model.release()

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while len(model._waiting) < number + 2:
            pass
    with pytest.raises(local.Cancelled):
        model.acquire(lambda: True)
    model.release()
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]
    assert not model._waiting


# -- With the model ----------------------------------------------------------------------------------


@real
def test_a_model_file_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="no model file"):
        events(ask("x", model=str(tmp_path / "absent.gguf")))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        events(ask("x", model=str(tmp_path / "bad.gguf")))
    assert capfd.readouterr() == ("", "")


@real
def test_it_answers_and_streams(capfd: pytest.CaptureFixture[str]) -> None:
    seen = events(ask(FRANCE, max_tokens=40))
    assert kinds(seen) == [MessageStarted, TextDelta, TextCompleted, UsageReported, MessageCompleted]
    text = "".join(event.text for event in seen if isinstance(event, TextDelta))
    assert "Paris" in text
    assert sum(isinstance(event, TextDelta) for event in seen) > 3
    completed, response = seen[-3], seen[-1]
    assert isinstance(completed, TextCompleted)
    assert completed.text == text
    assert isinstance(response, MessageCompleted)
    assert response.response.finish_reason == "stop"
    assert response.response.model == weights.NAME
    assert response.response.provider == "local"
    assert isinstance(seen[0], MessageStarted)
    assert response.response.id == seen[0].id
    assert capfd.readouterr() == ("", "")
    folded = local.LocalAdapter().complete(ask(FRANCE, max_tokens=40), CallContext())
    assert folded.text == text


@real
def test_usage_and_length() -> None:
    response = local.LocalAdapter().complete(ask(STORY, max_tokens=5), CallContext())
    assert (response.finish_reason, response.raw_finish_reason) == ("length", "length")
    usage = response.usage
    assert usage is not None
    assert usage.output_tokens == 5
    assert usage.input_tokens is not None
    assert 10 < usage.input_tokens < 100
    assert usage.total_tokens == usage.input_tokens + 5
    assert usage.raw["timings"]["predicted_n"] == 5


@real
def test_stop_and_seed() -> None:
    adapter = local.LocalAdapter()
    stopped = adapter.complete(ask("Count: one, two, three.", max_tokens=60, stop=(" ",)), CallContext())
    assert " " not in stopped.text
    assert stopped.finish_reason == "stop"
    hot = ask(STORY, max_tokens=12, temperature=1.0, top_p=0.9, seed=7)
    assert adapter.complete(hot, CallContext()).text == adapter.complete(hot, CallContext()).text


@real
def test_json_by_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    request = ask("Anna is 34 years old.", response_format=json_schema("person", schema))
    value = json.loads(local.LocalAdapter().complete(request, CallContext()).text)
    assert value == {"name": "Anna", "age": 34}


@real
@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_a_forced_tool_is_called(choice: str) -> None:
    seen = events(ask("What is the weather in Boston?", tools=(WEATHER,), tool_choice=choice))
    assert kinds(seen) == [
        MessageStarted, ToolCallStarted, ToolCallDelta, ToolCallCompleted, UsageReported, MessageCompleted
    ]  # fmt: skip
    call = next(event.call for event in seen if isinstance(event, ToolCallCompleted))
    assert (call.id, call.name, call.arguments) == ("call_1_0", "get_weather", {"city": "Boston"})
    assert call.raw_arguments == "".join(event.text for event in seen if isinstance(event, ToolCallDelta))
    assert isinstance(seen[-1], MessageCompleted)
    assert seen[-1].response.finish_reason == "tool_calls"


@real
def test_a_choice_among_tools_is_always_one_of_them() -> None:
    response = local.LocalAdapter().complete(
        ask("weather paris", tools=(WEATHER, CLOCK), tool_choice="required"), CallContext()
    )
    assert response.tool_calls[0].name in ("get_weather", "clock")
    assert response.usage is not None
    auto = local.LocalAdapter().complete(ask("weather paris", tools=(WEATHER, CLOCK)), CallContext())
    assert auto.finish_reason in ("stop", "tool_calls", "length")


@real
def test_a_tool_without_arguments() -> None:
    response = local.LocalAdapter().complete(ask("time?", tools=(CLOCK,), tool_choice="clock"), CallContext())
    assert response.tool_calls == (ToolCall("call_1_0", "clock", {}, "{}"),)


@real
def test_after_a_result_it_answers_in_text() -> None:
    call = assistant([ToolCall("c1", "get_weather", {"city": "Boston"})])
    thread = (user("What is the weather in Boston?"), call, tool_result("c1", '{"forecast": "sunny"}'))
    response = local.LocalAdapter().complete(ask(*thread, tools=(WEATHER,), max_tokens=40), CallContext())
    assert "sunny" in response.text
    forced = ask(*thread, tools=(WEATHER,), tool_choice="get_weather")
    assert local.LocalAdapter().complete(forced, CallContext()).tool_calls[0].id == "call_3_0"


@real
def test_cut_arguments_are_a_failure() -> None:
    seen = events(ask("Weather in Boston?", tools=(WEATHER,), tool_choice="get_weather", max_tokens=3))
    assert isinstance(seen[-1], StreamFailed)
    assert seen[-1].error.reason == "output_invalid"
    assert not any(isinstance(event, ToolCallCompleted) for event in seen)


@real
def test_a_prompt_that_is_too_long() -> None:
    request = ask("word " * 1000)
    seen = events(request, adapter_options={"context_size": 512})
    assert [type(event) for event in seen] == [StreamFailed]
    assert isinstance(seen[0], StreamFailed)
    assert seen[0].error.reason == "context_length_exceeded"
    with pytest.raises(ContextLengthError):
        local.LocalAdapter().complete(request, CallContext(adapter_options={"context_size": 512}))


def quiet_after(started: float) -> float:
    """Seconds from `started` until no turn is running any more."""
    while local._running and time.monotonic() - started < 20:
        time.sleep(0.005)
    return time.monotonic() - started


@real
def test_closing_the_iterator_stops_the_generation() -> None:
    stream = local.LocalAdapter().stream(ask(STORY, max_tokens=2000), CallContext())
    for event in stream:
        if isinstance(event, TextDelta):
            break
    started = time.monotonic()
    stream.close()  # type: ignore[attr-defined]
    assert quiet_after(started) < 1


@real
@pytest.mark.parametrize("question", [STORY, "apple word " * 1000])
def test_cancelling_stops_it(question: str) -> None:
    """While it writes, and while it reads a long prompt (some ten seconds if left alone)."""
    cancelled = threading.Event()
    stream = local.LocalAdapter().stream(
        ask(question, max_tokens=2000), CallContext(cancelled=cancelled.is_set)
    )
    assert isinstance(next(stream), MessageStarted)
    started = time.monotonic()
    cancelled.set()
    last = list(stream)[-1]
    assert time.monotonic() - started < 1
    assert isinstance(last, StreamFailed)
    assert last.error.reason == "cancelled"
    assert quiet_after(started) < 2


@real
def test_many_threads_and_interleaved_streams() -> None:
    answers: list[str] = []
    adapter = local.LocalAdapter()

    def work() -> None:
        answers.append(adapter.complete(ask(FRANCE, max_tokens=12), CallContext()).text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 4
    assert len(set(answers)) == 1
    first, second = (adapter.stream(ask(STORY, max_tokens=20), CallContext()) for _ in range(2))
    next(first)
    assert len(list(second)) > 20  # the first is not read meanwhile, and does not block it
    assert len(list(first)) > 20


@real
def test_waiting_honours_the_cancel_flag() -> None:
    adapter = local.LocalAdapter()
    busy = adapter.stream(ask(STORY, max_tokens=2000), CallContext())
    next(busy)
    started = time.monotonic()
    waiting = adapter.stream(ask("x"), CallContext(cancelled=lambda: time.monotonic() - started > 0.2))
    assert [type(event) for event in waiting] == [StreamFailed]
    assert time.monotonic() - started < 1
    busy.close()  # type: ignore[attr-defined]


def script(body: str) -> subprocess.CompletedProcess[str]:
    head = (
        "from allm.ext import local; from allm.ports import CallContext\n"
        "from allm.data.messages import user; from allm.data.requests import Request\n"
        "def ask(n): return Request(messages=(user('Tell a story.'),), max_tokens=n)\n"
        "adapter = local.LocalAdapter()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-c", head + body], capture_output=True, text=True, timeout=60, env=environment
    )


@real
def test_the_interpreter_ends_in_the_middle_of_an_answer() -> None:
    done = script("stream = adapter.stream(ask(2000), CallContext()); next(stream); print('bye')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


@real
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_loads_its_own() -> None:
    done = script(
        "import os\n"
        "before = adapter.complete(ask(4), CallContext()).text\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if adapter.complete(ask(4), CallContext()).text == before else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
