"""The blocking ports: what a loop asks for, done with blocking calls and daemon threads."""

from __future__ import annotations

import contextvars
import os
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError as FutureCancelled
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final

from msgspec.structs import replace

from allm.data.events import Event
from allm.drivers.pace import FRAME_SECONDS, Pace, StopFlag, least
from allm.drivers.toolwork import Put, ToolWork, awaited
from allm.drivers.transports import transport_of
from allm.errors import AllmError, CancelledError, ConfigurationError, DeadlineExceededError
from allm.keys import KeyRing, Secret, missing_key
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
from allm.ports import Body, HttpHead, HttpRequest


class ThreadPorts:
    """Performs the effects of one run and owns what they open. `close` releases it, `cancel` (from any
    thread) ends a wait."""

    __slots__ = ("_beside", "began", "body", "events", "opening", "pace", "plan", "ring", "stopped")

    effect, batch = Effect, Batch

    def __init__(self, plan: Plan, ring: KeyRing) -> None:
        self.plan = plan
        self.ring = ring
        self.pace = Pace(plan.timeouts)
        self.began = time.monotonic()
        self.stopped = StopFlag()
        self.body: Body | None = None
        self.opening: Any = None
        self.events: Iterator[Event] | None = None
        self._beside: _Beside | None = None

    @property
    def beside(self) -> _Beside:
        """What goes on beside the loop; made when the first of it begins, as most runs have none."""
        if self._beside is None:
            self._beside = _Beside()
        return self._beside

    def perform(self, effect: Effect[Any]) -> Any:
        """The reply to `effect`. Raises `CancelledError` once `cancel` was called."""
        if self.stopped.is_set():
            raise CancelledError("the stream was cancelled")
        try:
            return _PERFORM[type(effect)](self, effect)
        except DeadlineExceededError as error:
            raise self.pace.named(error) from error.__cause__

    def _open_http(self, effect: OpenHttp) -> HttpHead:
        self._close_body(None)
        timeouts = self.pace.opening(effect.timeouts)
        plan, ring = routed(self.plan, self.ring, effect.route)
        transport = transport_of(plan.engine.transport, "blocking")
        request = keyed(plan, effect.request)
        key = key_header(ring, request)
        if key is not None and not isinstance(key[1], str):
            key[1].close() if hasattr(key[1], "close") else None
            raise ConfigurationError("the key source is async; use it with allm.aio")
        self.body = transport.open(request, timeouts, finished_key(request, key), self._opened)
        if self.stopped.is_set():
            raise CancelledError("the stream was cancelled")
        return self.body.head

    def _opened(self, cancel: Callable[[], None]) -> None:
        """The transport tells how to end the wait for the connection that it has just made."""
        self.opening = cancel
        if self.stopped.is_set():
            cancel()

    def _read_body(self, effect: ReadBody) -> bytes:
        assert self.body is not None
        return self.body.read(least(self.pace.remaining(effect.progress), effect.within))

    def _close_body(self, effect: CloseBody | None) -> None:
        body, self.body, self.opening = self.body, None, None
        if body is not None:
            if effect is not None and effect.whole:
                _read_frame(body)
            body.close()
        events, self.events = self.events, None
        if events is not None and hasattr(events, "close"):
            events.close()

    def _open_events(self, effect: OpenEvents) -> None:
        adapter = effect.adapter
        _, ring = routed(self.plan, self.ring, effect.route)
        ctx = replace(effect.ctx, cancelled=self.stopped.is_set, api_key=_adapter_key(ring, adapter))
        if hasattr(adapter, "stream"):
            self.events = iter(adapter.stream(effect.request, ctx))
        elif hasattr(adapter, "complete"):
            self.events = iter(effect.unfold(adapter.complete(effect.request, ctx)))
        else:
            raise ConfigurationError(f"the adapter {adapter.name!r} can only be awaited; use allm.aio")

    def _next_events(self, effect: NextEvents) -> list[Event] | None:
        assert self.events is not None
        for event in self.events:
            return [event]
        return None

    def _start_tool(self, effect: StartTool) -> None:
        beside = self.beside
        start = beside.coroutines.start if effect.is_async else beside.tools.start
        try:
            abandon = start(effect, self._put)
        except Exception as error:
            abandon = _nothing
            self._put(effect, ToolDone(effect.position, None, error, 0.0))
        beside.tools.add(effect, abandon)

    def _put(self, effect: StartTool, done: ToolDone) -> None:
        self.beside.finished.put((effect, done))

    def _next_tool(self, effect: NextTool) -> ToolDone:
        beside = self.beside
        while True:
            try:
                found = beside.finished.get(timeout=beside.tools.wait(self.pace.run_remaining()))
            except queue.Empty:
                overdue = beside.tools.overdue()
                if overdue is not None:
                    return overdue
                continue
            if found is None:
                raise CancelledError("the stream was cancelled")
            if beside.tools.take(found[0]):
                return found[1]

    def _start_run(self, effect: StartRun) -> None:
        beside, ports = self.beside, ThreadPorts(self.plan, self.ring)
        beside.ports.append(ports)
        context = contextvars.copy_context()

        def main() -> None:
            value, error = None, None
            try:
                value = context.run(_driven, effect.loop, ports)
            except BaseException as caught:
                error = caught
            ports.close()
            beside.runs.put(RunDone(effect.position, value, error))

        threading.Thread(target=main, daemon=True, name=f"allm-run-{effect.position}").start()

    def _next_run(self, effect: NextRun) -> RunDone:
        try:
            done = self.beside.runs.get(timeout=self.pace.run_remaining())
        except queue.Empty:
            raise self.pace.passed() from None
        if done is None:
            raise CancelledError("the stream was cancelled")
        return done

    def _call_hook(self, effect: CallHook) -> Any:
        answer = effect.call()
        if not isawaitable(answer):
            return answer
        beside = self.beside
        beside.hook = hook = beside.coroutines.submit(_result_of(answer))
        try:
            return self._hooked(hook)
        finally:
            beside.hook = None
            hook.cancel()

    def _hooked(self, hook: Any) -> Any:
        """What an async hook answers; the run's deadline and its cancelling end the wait."""
        if self.stopped.is_set():
            raise CancelledError("the stream was cancelled")
        try:
            return hook.result(self.pace.run_remaining())
        except TimeoutError:
            if hook.done():  # its own
                raise
            raise self.pace.passed() from None
        except FutureCancelled:
            raise CancelledError("the stream was cancelled") from None

    def _elapsed(self, effect: Elapsed) -> float:
        return time.monotonic() - self.began

    def _sleep(self, effect: Sleep) -> None:
        run = self.pace.run_remaining()
        if run is not None and run < effect.seconds:
            self.stopped.wait(run)
            raise self.pace.passed()
        if self.stopped.wait(effect.seconds):
            raise CancelledError("the stream was cancelled")

    def _draw(self, effect: Draw) -> float:
        return random.random()

    def _new_id(self, effect: NewId) -> str:
        return os.urandom(16).hex()

    def cancel(self) -> None:
        self.stopped.set()
        beside = self._beside
        if beside is not None:  # what is begun from now on sees that the run is stopped, before it waits
            beside.cancel()
        body, opening = self.body, self.opening
        if body is not None:
            body.cancel()
        elif opening is not None:
            opening()

    def close(self) -> None:
        self.stopped.set()
        try:
            self._close_body(None)
        finally:
            if self._beside is not None:
                self._beside.close()


_PERFORM: Final[dict[type[Any], Callable[[ThreadPorts, Any], Any]]] = {
    OpenHttp: ThreadPorts._open_http,
    ReadBody: ThreadPorts._read_body,
    CloseBody: ThreadPorts._close_body,
    OpenEvents: ThreadPorts._open_events,
    NextEvents: ThreadPorts._next_events,
    StartRun: ThreadPorts._start_run,
    NextRun: ThreadPorts._next_run,
    StartTool: ThreadPorts._start_tool,
    NextTool: ThreadPorts._next_tool,
    CallHook: ThreadPorts._call_hook,
    Elapsed: ThreadPorts._elapsed,
    Sleep: ThreadPorts._sleep,
    Draw: ThreadPorts._draw,
    NewId: ThreadPorts._new_id,
}


def _driven(loop: Loop[Any], ports: ThreadPorts) -> Any:
    """Drive a loop that nobody watches to its end."""
    try:
        item = next(loop)
        while True:
            if not isinstance(item, Effect):
                item = next(loop)
                continue
            try:
                reply = ports.perform(item)
            except CancelledError:
                loop.close()
                raise
            except Exception as error:
                item = loop.throw(error)
            else:
                item = loop.send(reply)
    except StopIteration as stop:
        return stop.value


def _read_frame(body: Body) -> None:
    """Read what may be left of a complete answer."""
    until = time.monotonic() + FRAME_SECONDS
    with suppress(AllmError):
        while (left := until - time.monotonic()) > 0 and body.read(left):
            pass


def routed(plan: Plan, ring: KeyRing, route: int) -> tuple[Plan, KeyRing]:
    """Whose request it is: the plan and the keys of the first engine, or of a fallback."""
    return (plan.fallbacks[route - 1], ring.fallbacks[route - 1]) if route else (plan, ring)


def keyed(plan: Plan, request: HttpRequest) -> HttpRequest:
    """The request with the rule of its key, unless the engine's transport (a replay) asks nobody."""
    return replace(request, key=None) if getattr(plan.engine.transport, "keyless", False) else request


def key_header(ring: KeyRing, request: HttpRequest) -> tuple[str, Any] | None:
    """The header that carries the key, and the key (or an awaitable of it), found just now."""
    rule = request.key
    if rule is None:
        return None
    scheme, _, rest = request.url.partition("://")
    found = ring.find(rule, f"{scheme}://{rest.partition('/')[0]}")
    return None if found is None else (rule.header, found)


def finished_key(request: HttpRequest, key: tuple[str, str] | None) -> tuple[str, str] | None:
    """Header and value as they go on the wire; raises `MissingKeyError` for a key that must be there."""
    rule = request.key
    if key is None or not key[1]:
        if rule is not None and rule.required:
            raise missing_key(rule)
        return None
    assert rule is not None
    return key[0], Secret(rule.prefix + key[1])


def _adapter_key(ring: KeyRing, adapter: Any) -> str | None:
    rule = getattr(adapter, "key", None)
    found = None if rule is None else ring.find(rule, "")
    return found if isinstance(found, str) else None


def _nothing() -> None: ...


async def _result_of(work: Awaitable[Any]) -> Any:
    return await work


class _Beside:
    """What goes on beside the loop of a run: handlers, hooks that are awaited, other loops."""

    __slots__ = ("coroutines", "finished", "hook", "ports", "runs", "tools")

    def __init__(self) -> None:
        self.tools = ToolWork()
        self.finished: queue.SimpleQueue[tuple[StartTool, ToolDone] | None] = queue.SimpleQueue()
        self.coroutines = _Coroutines()
        self.hook: Any = None  # the future of one that is waited for
        self.ports: list[ThreadPorts] = []
        self.runs: queue.SimpleQueue[RunDone | None] = queue.SimpleQueue()

    def cancel(self) -> None:
        """End every wait; from any thread."""
        self.finished.put(None)
        self.runs.put(None)
        hook = self.hook
        if hook is not None:
            hook.cancel()
        for ports in self.ports:
            ports.cancel()

    def close(self) -> None:
        for ports in self.ports:
            ports.cancel()
        self.tools.abandon_all()
        self.coroutines.close()


class _Coroutines:
    """One private asyncio loop on one daemon thread for the async handlers and hooks of a blocking run."""

    def __init__(self) -> None:
        self._loop: Any = None
        self._thread: threading.Thread | None = None

    def start(self, effect: StartTool, put: Put) -> Callable[[], Any]:
        """Run an async handler on the loop; returns what cancels it."""
        loop = self._running()
        tasks: list[Any] = []

        def begin() -> None:
            tasks.append(loop.create_task(awaited(effect, put)))

        def cancel() -> None:
            tasks[0].cancel()

        loop.call_soon_threadsafe(begin)
        return lambda: loop.call_soon_threadsafe(cancel)  # which comes after `begin`, at any time

    def submit(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The future of what is awaited on the loop."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self._running())

    def _running(self) -> Any:
        """The loop, which is started for the first that needs it."""
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_serve, args=(self._loop,), daemon=True, name="allm-async-tools"
            )
            self._thread.start()
        return self._loop

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        import asyncio

        async def cancel_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            loop.stop()

        asyncio.run_coroutine_threadsafe(cancel_all(), loop)
        assert self._thread is not None
        self._thread.join(timeout=1.0)


def _serve(loop: Any) -> None:
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
