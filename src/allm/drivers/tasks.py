"""The awaiting ports: what a loop asks for, done with tasks, on asyncio or trio."""

from __future__ import annotations

import contextvars
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final

from msgspec.structs import replace

from allm.data.events import Event
from allm.drivers.pace import FRAME_SECONDS, Pace, least
from allm.drivers.threads import _adapter_key, finished_key, key_header, keyed, routed
from allm.drivers.toolwork import ToolWork, awaited
from allm.drivers.transports import transport_of
from allm.errors import AllmError, CancelledError, DeadlineExceededError
from allm.keys import KeyRing
from allm.loops.effects import (
    Batch,
    CallHook,
    CloseBody,
    Draw,
    Effect,
    Elapsed,
    Loop,
    NewId,
    NextEvents,
    NextRun,
    NextTool,
    OpenEvents,
    OpenHttp,
    ReadBody,
    RunDone,
    Sleep,
    StartRun,
    StartTool,
    ToolDone,
)
from allm.loops.plan import Plan
from allm.ports import AsyncBody, HttpHead

_END = object()


class _Nobody:
    """Stands where the event of a waiting task is."""

    def set(self) -> None: ...


_NOBODY: Final = _Nobody()


class TaskPorts:
    """Performs the effects of one run and owns what they open; `aclose` releases it."""

    __slots__ = (
        "_beside", "began", "body", "events", "interrupt", "kit", "pace", "plan", "ring", "stopped", "wake",
    )  # fmt: skip

    effect, batch = Effect, Batch

    def __init__(self, plan: Plan, ring: KeyRing, kit: Any) -> None:
        self.plan = plan
        self.ring = ring
        self.kit = kit
        self.pace = Pace(plan.timeouts)
        self.began = time.monotonic()
        self.stopped = False
        self.body: AsyncBody | None = None
        self.interrupt: Callable[[], None] = _nothing
        self.events: Iterator[Event] | AsyncIterator[Event] | None = None
        self.wake: Any = _NOBODY
        self._beside: _Beside | None = None

    @property
    def beside(self) -> _Beside:
        """What goes on beside the loop; made when the first of it begins, as most runs have none."""
        if self._beside is None:
            self._beside = _Beside()
        return self._beside

    async def perform(self, effect: Effect[Any]) -> Any:
        if self.stopped:
            raise CancelledError("the stream was cancelled")
        try:
            reply = await _PERFORM[type(effect)](self, effect)
        except DeadlineExceededError as error:
            raise self.pace.named(error) from error.__cause__
        if self.stopped:
            raise CancelledError("the stream was cancelled")
        return reply

    async def _open_http(self, effect: OpenHttp) -> HttpHead:
        await self._close_body(None)
        timeouts = self.pace.opening(effect.timeouts)
        plan, ring = routed(self.plan, self.ring, effect.route)
        request = keyed(plan, effect.request)
        header = finished_key(request, await _known(key_header(ring, request)))
        if self.stopped:  # while the key was waited for
            raise CancelledError("the stream was cancelled")
        opened = await self.kit.interruptible(
            lambda: transport_of(plan.engine.transport, "awaited").open(request, timeouts, header),
            self._opening,
        )
        if opened is None:
            raise CancelledError("the stream was cancelled")
        self.body = opened
        head: HttpHead = opened.head
        return head

    def _opening(self, interrupt: Callable[[], None]) -> None:
        self.interrupt = interrupt

    def _read_body(self, effect: ReadBody) -> Awaitable[bytes]:
        assert self.body is not None
        return self.body.read(least(self.pace.remaining(effect.progress), effect.within))

    async def _close_body(self, effect: CloseBody | None) -> None:
        body, self.body = self.body, None
        if body is not None:
            try:
                if effect is not None and effect.whole:
                    await _read_frame(body)
            finally:
                await (body.aclose() if getattr(body, "ended", False) else self.kit.shielded(body.aclose))
        events, self.events = self.events, None
        if events is None:
            return
        if hasattr(events, "aclose"):
            await self.kit.shielded(events.aclose)
        elif hasattr(events, "close"):
            await self.kit.shielded(lambda: self._in_thread(events.close))

    async def _open_events(self, effect: OpenEvents) -> None:
        adapter, request = effect.adapter, effect.request
        _, ring = routed(self.plan, self.ring, effect.route)
        ctx = replace(effect.ctx, cancelled=lambda: self.stopped, api_key=_adapter_key(ring, adapter))
        if hasattr(adapter, "astream"):
            self.events = aiter(adapter.astream(request, ctx))
        elif hasattr(adapter, "acomplete"):
            self.events = iter(effect.unfold(await adapter.acomplete(request, ctx)))
        elif hasattr(adapter, "stream"):
            self.events = await self._in_thread(lambda: iter(adapter.stream(request, ctx)))
        else:
            self.events = iter(effect.unfold(await self._in_thread(lambda: adapter.complete(request, ctx))))

    async def _next_events(self, effect: NextEvents) -> list[Event] | None:
        events = self.events
        if isinstance(events, AsyncIterator):
            event: Any = await anext(events, _END)
        elif isinstance(events, Iterator):
            event = await self._in_thread(lambda: next(events, _END))
        else:
            event = _END
        return None if event is _END else [event]

    async def _in_thread(self, work: Callable[[], Any], whole_run: bool = True) -> Any:
        """Run blocking `work` on a daemon thread. When this task is cancelled, so is the run, which the work
        can see; `whole_run=False`: nobody waits for the work any more, the run goes on."""
        ready = self.kit.event()
        outcome: list[tuple[Any, BaseException | None]] = []

        def main() -> None:
            try:
                outcome.append((context.run(work), None))
            except BaseException as error:
                outcome.append((None, error))
            self.kit.from_thread(ready.set)

        context = contextvars.copy_context()
        threading.Thread(target=main, daemon=True, name="allm-adapter").start()
        try:
            await ready.wait()
        except BaseException:
            if whole_run:
                self.stopped = True
            raise
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    async def _start_tool(self, effect: StartTool) -> None:
        try:
            if effect.is_async:
                abandon = self.kit.spawn(lambda: awaited(effect, self._put))
            else:
                abandon = self.beside.tools.start(effect, self._put_from_thread)
        except Exception as error:
            abandon = _nothing
            self._put(effect, ToolDone(effect.position, None, error, 0.0))
        self.beside.tools.add(effect, abandon)

    def _put_from_thread(self, effect: StartTool, done: ToolDone) -> None:
        self.kit.from_thread(lambda: self._put(effect, done))

    def _put(self, effect: StartTool, done: ToolDone) -> None:
        self.beside.finished.append((effect, done))
        self.wake.set()

    async def _next_tool(self, effect: NextTool) -> ToolDone:
        beside = self.beside
        while True:
            while beside.finished:
                started, done = beside.finished.pop(0)
                if beside.tools.take(started):
                    return done
            overdue = beside.tools.overdue()
            if overdue is not None:
                return overdue
            self.wake = self.kit.event()
            await self.kit.wait(self.wake, beside.tools.wait(self.pace.run_remaining()))
            if self.stopped:
                raise CancelledError("the stream was cancelled")

    async def _start_run(self, effect: StartRun) -> None:
        beside, ports = self.beside, TaskPorts(self.plan, self.ring, self.kit)
        beside.ports.append(ports)

        async def main() -> None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = await _driven(effect.loop, ports)
            except Exception as caught:
                error = caught
            finally:
                await ports._close_body(None)
                beside.runs.append(RunDone(effect.position, value, error))
                self.wake.set()

        self.kit.spawn(main)

    async def _next_run(self, effect: NextRun) -> RunDone:
        beside = self.beside
        while not beside.runs:
            self.wake = self.kit.event()
            if not await self.kit.wait(self.wake, self.pace.run_remaining()):
                raise self.pace.passed()
            if self.stopped:
                raise CancelledError("the stream was cancelled")
        return beside.runs.pop(0)

    async def _call_hook(self, effect: CallHook) -> Any:
        """A blocking hook on a thread, an async one as a task; the run's deadline ends the wait."""
        outcome: list[tuple[Any, BaseException | None]] = []

        async def main() -> None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = effect.call() if effect.is_async else await self._in_thread(effect.call, False)
                if isawaitable(value):
                    value = await value
            except Exception as caught:
                error = caught
            outcome.append((value, error))
            self.wake.set()

        abandon = self.kit.spawn(main)
        try:
            while not outcome and not self.stopped:  # a tool that ends wakes it as well
                self.wake = self.kit.event()
                if not await self.kit.wait(self.wake, self.pace.run_remaining()):
                    break
        finally:
            if not outcome:
                abandon()
        if not outcome:
            raise CancelledError("the stream was cancelled") if self.stopped else self.pace.passed()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    async def _elapsed(self, effect: Elapsed) -> float:
        return time.monotonic() - self.began

    async def _sleep(self, effect: Sleep) -> None:
        run = self.pace.run_remaining()
        wait = effect.seconds if run is None else min(run, effect.seconds)
        self.wake = self.kit.event()
        await self.kit.wait(self.wake, wait)
        if run is not None and run < effect.seconds:
            raise self.pace.passed()

    async def _draw(self, effect: Draw) -> float:
        return random.random()

    async def _new_id(self, effect: NewId) -> str:
        return os.urandom(16).hex()

    def cancel(self) -> None:
        """From any task or thread: the waits end, the reading task gets `CancelledError`."""
        self.stopped = True
        self.kit.from_thread(self._cancelled)

    def _cancelled(self) -> None:
        self.wake.set()
        if self._beside is not None:
            self._beside.cancel_runs()
        if self.body is not None:
            self.body.cancel()
        else:
            self.interrupt()

    async def aclose(self) -> None:
        self.stopped = True
        if self._beside is not None:
            self._beside.close()
        try:
            await self._close_body(None)
        finally:
            await self.kit.join()

    def dropped(self) -> None:
        """The stream was garbage: close when the loop comes round."""
        self.stopped = True
        self.kit.later(self.aclose)


class _Beside:
    """What goes on beside the loop of a run: handlers and other loops, each with what has come of them."""

    __slots__ = ("finished", "ports", "runs", "tools")

    def __init__(self) -> None:
        self.tools = ToolWork()
        self.finished: list[tuple[StartTool, ToolDone]] = []
        self.ports: list[TaskPorts] = []
        self.runs: list[RunDone] = []

    def cancel_runs(self) -> None:
        for ports in self.ports:
            ports.stopped = True
            ports._cancelled()

    def close(self) -> None:
        self.tools.abandon_all()
        self.cancel_runs()


async def _known(key: tuple[str, Any] | None) -> tuple[str, Any] | None:
    """The key that an async source is asked for."""
    return (key[0], await key[1]) if key is not None and isawaitable(key[1]) else key


async def _driven(loop: Loop[Any], ports: TaskPorts) -> Any:
    """Drive a loop that nobody watches to its end."""
    try:
        item = next(loop)
        while True:
            if not isinstance(item, Effect):
                item = next(loop)
                continue
            try:
                reply = await ports.perform(item)
            except CancelledError:
                loop.close()
                raise
            except Exception as error:
                item = loop.throw(error)
            else:
                item = loop.send(reply)
    except StopIteration as stop:
        return stop.value


async def _read_frame(body: AsyncBody) -> None:
    """Read what may be left of a complete answer."""
    until = time.monotonic() + FRAME_SECONDS
    with suppress(AllmError):
        while (left := until - time.monotonic()) > 0 and await body.read(left):
            pass


def _nothing() -> None: ...


_PERFORM: Final[dict[type[Any], Callable[[TaskPorts, Any], Awaitable[Any]]]] = {
    OpenHttp: TaskPorts._open_http,
    ReadBody: TaskPorts._read_body,
    CloseBody: TaskPorts._close_body,
    OpenEvents: TaskPorts._open_events,
    NextEvents: TaskPorts._next_events,
    StartRun: TaskPorts._start_run,
    NextRun: TaskPorts._next_run,
    StartTool: TaskPorts._start_tool,
    NextTool: TaskPorts._next_tool,
    CallHook: TaskPorts._call_hook,
    Elapsed: TaskPorts._elapsed,
    Sleep: TaskPorts._sleep,
    Draw: TaskPorts._draw,
    NewId: TaskPorts._new_id,
}
