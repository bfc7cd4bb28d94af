"""The handlers of a run: on daemon threads, in processes, or awaited; late results dropped, abandoned
threads counted."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable
from inspect import isawaitable
from queue import SimpleQueue
from typing import Any

from allm.data.content import ToolCall
from allm.data.failure import ErrorInfo
from allm.drivers.files import loaded_result
from allm.errors import ToolError
from allm.loops.effects import StartTool, ToolDone
from allm.tools import timed_out

MAX_ABANDONED = 32
Put = Callable[[StartTool, ToolDone], None]


class _Abandoned:
    """Threads nobody waits for any more but that still run, over the whole process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.alive: set[threading.Thread] = set()

    def add(self, thread: threading.Thread) -> None:
        with self.lock:
            self.alive.add(thread)

    def count(self) -> int:
        if not self.alive:
            return 0
        with self.lock:
            self.alive = {thread for thread in self.alive if thread.is_alive()}
            return len(self.alive)


abandoned = _Abandoned()


class ToolWork:
    """The handlers that were started and have not answered, each with its deadline and how it is let go."""

    def __init__(self) -> None:
        self._running: dict[StartTool, tuple[float | None, Callable[[], Any]]] = {}
        self._idle: list[_Worker] = []

    def start(self, effect: StartTool, put: Put) -> Callable[[], None]:
        """Run a handler that is not awaited: on a daemon thread, or in a process where its tool says so.

        `put` gets what came of it; returns what lets go of it: a thread is abandoned, a process killed.
        """
        if effect.isolation == "process":
            from allm.drivers.processes import start_process

            return start_process(effect, put)
        if abandoned.count() > MAX_ABANDONED:
            text = f"more than {MAX_ABANDONED} timed-out handlers still run; give them timeouts of their own"
            raise ToolError(
                ErrorInfo(reason="tool_failed", code="too_many_abandoned", message=text, phase="tool")
            )
        worker = self._idle.pop() if self._idle else _Worker(self._idle, effect.position)
        return worker.run(_Job(effect, put))

    def add(self, effect: StartTool, abandon: Callable[[], Any]) -> None:
        deadline = None if effect.timeout is None else time.monotonic() + effect.timeout
        self._running[effect] = deadline, abandon

    def take(self, effect: StartTool) -> bool:
        """Whether the answer of this handler is still waited for; it is not, from now on."""
        return self._running.pop(effect, None) is not None

    def wait(self, run: float | None) -> float | None:
        """Seconds until the next deadline; `run` is what is left of the run's own."""
        now = time.monotonic()
        waits = [deadline - now for deadline, _ in self._running.values() if deadline is not None]
        if run is not None:
            waits.append(run)
        return max(0.0, min(waits)) if waits else None

    def overdue(self) -> ToolDone | None:
        """The answer for a handler whose timeout has passed, which is let go."""
        now = time.monotonic()
        for effect, (deadline, abandon) in self._running.items():
            if deadline is not None and deadline <= now:
                del self._running[effect]
                abandon()
                assert effect.timeout is not None
                return ToolDone(effect.position, None, too_late(effect.call, effect.timeout), effect.timeout)
        return None

    def abandon_all(self) -> None:
        """Let go of all handlers; the threads that have none end."""
        running, self._running = self._running, {}
        for _, abandon in running.values():
            abandon()
        self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def __del__(self) -> None:
        self._end_idle()


class _Job:
    """One handler on its thread, with the context variables of whoever started it.

    Who comes first, the handler that ends or the run that lets go of it, has the `claim`.
    """

    __slots__ = ("_claim", "_context", "_effect", "_put")

    def __init__(self, effect: StartTool, put: Put) -> None:
        self._effect = effect
        self._put = put
        self._context = contextvars.copy_context()
        self._claim = [True]

    def claimed(self) -> bool:
        """Whether nobody was before; true once."""
        try:
            return self._claim.pop()
        except IndexError:
            return False

    def outcome(self) -> ToolDone:
        began = time.monotonic()
        value, error = None, None
        try:
            value = loaded_result(self._context.run(self._effect.invoke))
        except BaseException as caught:  # a handler that exits ends its call, not the process
            error = caught
        return ToolDone(self._effect.position, value, error, time.monotonic() - began)

    def answer(self, done: ToolDone) -> None:
        self._put(self._effect, done)


class _Worker:
    """A daemon thread that runs the handlers of a run, one after another: to start one for each would cost
    more than most handlers do. It serves no more once one of them was abandoned."""

    __slots__ = ("_jobs", "_thread")

    def __init__(self, idle: list[_Worker], position: int) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._serve, args=(idle,), daemon=True, name=f"allm-tool-{position}"
        )

    def run(self, job: _Job) -> Callable[[], None]:
        """Have the handler run; returns what lets it go."""
        self._jobs.put(job)
        if self._thread.ident is None:  # started with its first handler, it need not wait for that
            self._thread.start()

        def let_go() -> None:
            if job.claimed():
                abandoned.add(self._thread)

        return let_go

    def end(self) -> None:
        self._jobs.put(None)

    def _serve(self, idle: list[_Worker]) -> None:
        while (job := self._jobs.get()) is not None:
            done = job.outcome()
            kept = job.claimed()
            if kept:
                idle.append(self)  # before the answer, so that the next handler finds it
            job.answer(done)
            del job, done  # an idle thread keeps no run alive
            if not kept:
                return


async def awaited(effect: StartTool, put: Put) -> None:
    """Run an async handler; `put` gets what came of it, also where it cancels itself."""
    began = time.monotonic()
    value: Any = None
    error: BaseException | None = None
    try:
        value = effect.invoke()
        if isawaitable(value):
            value = await value
        value = loaded_result(value)
    except BaseException as caught:
        error = caught
        if _ends_task(caught):  # cancelled, by us or by itself
            put(effect, ToolDone(effect.position, None, caught, time.monotonic() - began))
            raise
    put(effect, ToolDone(effect.position, value, error, time.monotonic() - began))


def _ends_task(error: BaseException) -> bool:
    """Whether it is meant for the event loop, and no failure of a handler."""
    if isinstance(error, Exception | SystemExit):
        return False
    import asyncio

    trio = sys.modules.get("trio")
    cancelled = (asyncio.CancelledError, *((trio.Cancelled,) if trio is not None else ()))
    return isinstance(error, (*cancelled, KeyboardInterrupt, GeneratorExit))


def too_late(call: ToolCall, seconds: float) -> ToolError:
    """What a call ends with when its timeout passes first."""
    return ToolError(timed_out(call.name, call, seconds))
