"""Tools in processes of their own, on every face: what goes in, what comes back, and that they are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import allm
from allm.data.events import Event
from allm.drivers import toolwork
from tests.drivers.process_tools import answer, awaited, moved, stuck
from tests.faces import PATIENCE, Face
from tests.test_loop import DONE, calls, fake, named
from tests.test_tool_rules import Clock


def told(face: Face, tool: allm.Tool, arguments: dict[str, Any], **options: Any) -> allm.Message:
    """The message with which the call of the tool is answered."""
    engine = fake(calls(("a", tool.name, arguments)), DONE, tools=[tool])
    return face.chat(engine, "go", **options).steps[0].tool_results[0]


def test_a_call_runs_elsewhere(face: Face) -> None:
    engine = fake(calls(("a", "moved", {"point": {"x": 3}}), ("b", "awaited", {"n": 4})), DONE)
    result = face.chat(engine, "go", tools=[moved, awaited], context={"k": [1]}, session_id="s")
    first, second = result.steps[0].tool_results
    pid, *rest = json.loads(first.text)
    assert pid != os.getpid()
    assert rest == [3, {"k": [1]}, None, "s/0/tool/0"]
    assert second.text == "4"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("raise", '{"error":"ZeroDivisionError: by zero"}'),
        ("exit", '{"error":"SystemExit: 3"}'),
        ("die", "ended with code 7 before it gave a result"),
        ("unpicklable", "a result of type function cannot leave the tool's process"),
        ("unreadable", "the result of the tool's process cannot be read: not here"),
    ],
)
def test_what_goes_wrong_there_is_told(face: Face, kind: str, text: str) -> None:
    seen: list[str | None] = []

    def policy(call: allm.ToolCall, error: allm.ErrorInfo) -> None:
        seen.append(error.code)
        assert (error.call_id, error.extra["tool_name"]) == ("a", "answer")

    message = told(face, answer, {"kind": kind}, on_tool_error=policy)
    assert message.is_error
    assert text in message.text
    codes = {"raise": "handler_raised", "exit": "handler_exit", "die": "handler_exit"}
    assert seen == [codes.get(kind, "not_picklable")]


def test_returns_that_end_the_loop_come_back() -> None:
    for kind, reason in (("ask", "ask_user"), ("halt", "enough")):
        engine = fake(calls(("a", "answer", {"kind": kind})), tools=[answer])
        assert allm.chat(engine, "go").halted_reason == reason


def test_a_large_result_comes_back_whole() -> None:
    large = allm.tool(name="large", isolation="process", max_result=400_000)(answer.__wrapped__)
    assert told(Face(), large, {"kind": "x"}).text == "x" * 300_000


def test_a_context_that_cannot_be_sent_is_told(face: Face) -> None:
    message = told(face, moved, {"point": {"x": 3}}, context={"lock": threading.Lock()})
    assert message.is_error
    assert "the arguments or the context cannot be sent to the tool's process" in message.text


def gone(pid: int) -> bool:
    """Whether there is no such process; one that was killed has been waited for as well."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Victim:
    """A tool that never ends and says which process it runs in."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "pid"

    def beside(self, *others: Callable[..., Any]) -> allm.Engine:
        """An engine that calls it, and tools of these handlers beside it."""
        script = calls(("0", "stuck", {"path": str(self.path)}))
        script += calls(*[(handler.__name__, handler.__name__, {}) for handler in others])
        tools = [named(handler.__name__, handler, timeout=PATIENCE) for handler in others]
        return fake(script, DONE, tools=[named("stuck", stuck, isolation="process"), *tools])

    def runs(self) -> None:
        """Wait until the handler runs."""
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if self.path.exists():
                return
            pause.wait(0.01)
        raise AssertionError("the handler was not started")

    def is_gone(self) -> bool:
        return gone(int(self.path.read_text()))


def waited() -> None:
    """The threads of processes end when these have ended."""
    for thread in threading.enumerate():
        if thread.name.startswith("allm-process"):
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_the_timeout_kills(face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's clock jumps once the handler runs, so that nobody waits for the timeout."""
    clock, victim = Clock(), Victim(tmp_path)
    monkeypatch.setattr(toolwork, "time", clock)

    def other(arguments: dict[str, Any]) -> None:
        victim.runs()
        clock.jump()

    result = face.chat(victim.beside(other), "go", tool_timeout=1e5)
    assert "gave no result within 100000 s" in result.steps[0].tool_results[0].text
    waited()
    assert victim.is_gone()


def test_cancelling_kills(face: Face, tmp_path: Path) -> None:
    victim = Victim(tmp_path)
    stream = face.make("stream", victim.beside(), "go")
    face.cancelled_once(stream, victim.runs)
    waited()
    assert victim.is_gone()


def test_closing_kills(face: Face, tmp_path: Path) -> None:
    victim = Victim(tmp_path)

    def quick(arguments: dict[str, Any]) -> None:
        victim.runs()

    def body(stream: Any, event: Event) -> bool:
        return isinstance(event, allm.ToolExecutionCompleted)

    face.consume(victim.beside(quick), "go", body=body)
    waited()
    assert victim.is_gone()


def test_closing_before_the_process_has_started_kills_too() -> None:
    from allm.drivers.processes import _Job, _packed
    from allm.loops.effects import StartTool, ToolDone
    from allm.tools import ToolContext, invocation

    call = allm.ToolCall("a", "answer", {"kind": "exit"})
    effect = StartTool("i", 0, call, invocation(answer, call, ToolContext()), False, None, "process")
    got: list[ToolDone] = []
    job = _Job(effect, lambda _, done: got.append(done), _packed(effect))
    job.kill()
    job.run()
    assert "before it gave a result" in str(got[0].error)


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed; the process notices."""
    path = tmp_path / "pid"
    program = (
        "import sys, allm\n"
        "from tests.test_loop import calls, fake, named\n"
        "from tests.drivers.process_tools import stuck\n"
        "if __name__ == '__main__':\n"
        "    tool = named('stuck', stuck, isolation='process')\n"
        "    allm.chat(fake(calls(('a', 'stuck', {'path': sys.argv[1]})), tools=[tool]), 'go')\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen([sys.executable, str(script), str(path)], env=environment)
    victim = Victim(tmp_path)
    try:
        victim.runs()
    finally:
        parent.kill()
        parent.wait(PATIENCE)
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if victim.is_gone():
            return
        pause.wait(0.01)
    raise AssertionError("the process outlived its parent")


# What cannot run there is refused when the tool is made


class Shop:
    def sell(self, arguments: dict[str, Any]) -> None: ...


def plain(arguments: dict[str, Any]) -> None: ...


original = plain


def plain(arguments: dict[str, Any]) -> None:  # type: ignore[no-redef]
    """Under this name there is now another function."""


@pytest.mark.parametrize("handler", [lambda a: a, Shop().sell, Shop.sell, threading.Event().set, original])
def test_only_what_can_be_imported(handler: Any) -> None:
    with pytest.raises(allm.ConfigurationError, match=r"isolation='process'|takes \(arguments\)"):
        allm.Tool(name="t", handler=handler, isolation="process")
    assert allm.Tool(name="t", handler=plain, isolation="process").isolation == "process"


PROGRAM = """
import allm
from tests.drivers.process_tools import awaited
from tests.test_loop import DONE, calls, fake
result = allm.chat(fake(calls(("a", "awaited", {"n": 4})), DONE, tools=[awaited]), "go")
print(result.steps[0].tool_results[0].text)

def here(arguments): ...
try:
    allm.Tool(name="t", handler=here, isolation="process")
except allm.ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("arguments", "text", "told"),
    [(["-c", PROGRAM], "", "4"), (["-"], PROGRAM, "a program that is read from standard input")],
    ids=["command", "standard input"],
)
def test_a_program_without_a_file(arguments: list[str], text: str, told: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=True)
    result, refused = ran.stdout.splitlines()
    assert told in result
    assert "no other process can import 'here' from a prompt, from standard input" in refused
    assert ran.stderr == ""


def test_a_decorated_function_that_lost_its_name_is_told() -> None:
    def made() -> Any:
        def plain(n: int) -> int:
            """A function that says it is at the top of this module."""
            return n

        plain.__qualname__ = "plain"
        return allm.tool(isolation="process")(plain)

    message = told(Face(), made(), {"n": 1})
    assert "is not found under its own name" in message.text
