"""The threads of a run's handlers: they serve one after another, and never again once abandoned."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

import allm
from allm.drivers import toolwork
from allm.drivers.threads import _Coroutines
from allm.drivers.toolwork import ToolWork
from allm.loops.effects import StartTool, ToolDone
from tests.faces import PATIENCE

CALL = allm.ToolCall("c", "t")
WHERE: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="outside")


class Work:
    """The work of a run, and what was answered."""

    def __init__(self) -> None:
        self.work = ToolWork()
        self.answers: SimpleQueue[ToolDone] = SimpleQueue()

    def start(self, invoke: Callable[[], Any], position: int = 0) -> Callable[[], None]:
        effect = StartTool(f"r/0/tool/{position}", position, CALL, invoke, False, None)
        let_go = self.work.start(effect, lambda _, done: self.answers.put(done))
        self.work.add(effect, let_go)
        return let_go

    def answer(self) -> Any:
        done = self.answers.get(timeout=PATIENCE)
        if done.error is not None:
            raise done.error
        return done.value


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.work.abandon_all()


def test_the_next_handler_runs_on_the_same_thread(work: Work) -> None:
    threads = []
    for _ in range(3):
        work.start(threading.current_thread)
        threads.append(work.answer())
    assert len(set(threads)) == 1
    assert threads[0].daemon


def test_a_handler_that_fails_or_exits_leaves_its_thread(work: Work) -> None:
    def leave() -> None:
        raise SystemExit(1)

    work.start(threading.current_thread)
    first = work.answer()
    work.start(leave)
    with pytest.raises(SystemExit):
        work.answer()
    work.start(threading.current_thread)
    assert work.answer() is first


def test_handlers_at_one_time_have_threads_of_their_own(work: Work) -> None:
    together = threading.Barrier(3)

    def meet() -> threading.Thread:
        together.wait(PATIENCE)
        return threading.current_thread()

    for position in range(3):
        work.start(meet, position)
    assert len({work.answer() for _ in range(3)}) == 3


def test_each_handler_has_the_context_of_its_start(work: Work) -> None:
    def read_and_change() -> str:
        found = WHERE.get()
        WHERE.set("in a handler")
        return found

    for value in ("first", "second"):
        token = WHERE.set(value)
        work.start(read_and_change)
        assert work.answer() == value
        WHERE.reset(token)


def test_an_abandoned_thread_is_counted_until_it_ends_and_serves_no_more(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolwork, "abandoned", toolwork._Abandoned())
    begun, release = threading.Event(), threading.Event()
    threads = []

    def slow() -> str:
        threads.append(threading.current_thread())
        begun.set()
        release.wait(PATIENCE)
        return "late"

    let_go = work.start(slow)
    assert begun.wait(PATIENCE)
    let_go()
    assert toolwork.abandoned.count() == 1
    work.start(threading.current_thread, 1)
    assert work.answer() is not threads[0]
    release.set()
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
    assert toolwork.abandoned.count() == 0


def test_to_let_go_of_a_handler_that_has_ended_abandons_nothing(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolwork, "abandoned", toolwork._Abandoned())
    let_go = work.start(threading.current_thread)
    first = work.answer()
    let_go()
    assert toolwork.abandoned.count() == 0
    work.start(threading.current_thread)
    assert work.answer() is first


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_idle_threads_end_with_the_run(how: str) -> None:
    work = Work()
    work.start(threading.current_thread)
    thread = work.answer()
    if how == "closed":
        work.work.abandon_all()
    else:
        del work
        gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


class Foreign(BaseException):
    """As one that another library ends its tasks with."""


def answer_of_coroutine(handler: Callable[[], Any], begun: threading.Event | None = None) -> ToolDone:
    """What an async handler answers on the blocking face; one that has `begun` is let go of."""
    answers: SimpleQueue[ToolDone] = SimpleQueue()
    coroutines = _Coroutines()
    effect = StartTool("r/0/tool/0", 0, CALL, handler, True, None)
    let_go = coroutines.start(effect, lambda _, done: answers.put(done))
    if begun is not None:
        assert begun.wait(PATIENCE)
        let_go()
    done = answers.get(timeout=PATIENCE)
    coroutines.close()
    return done


def test_an_async_handler_that_is_let_go_is_cancelled() -> None:
    begun = threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    assert type(answer_of_coroutine(forever, begun).error) is asyncio.CancelledError


def test_what_an_async_handler_raises_is_its_answer_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left for asyncio to report."""

    async def broken() -> None:
        raise Foreign

    assert type(answer_of_coroutine(broken).error) is Foreign
    gc.collect()
    assert not caplog.records
