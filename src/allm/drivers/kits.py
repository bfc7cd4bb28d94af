"""The few words that asyncio and trio spell differently: sleep, events, tasks, threads calling back."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from allm.errors import ConfigurationError

T = TypeVar("T")


def current_kit() -> Any:
    """The kit of the event loop that runs now."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            return TrioKit()
    import asyncio

    try:
        return AsyncioKit(asyncio.get_running_loop())
    except RuntimeError:
        raise ConfigurationError(
            "allm.aio needs a running asyncio or trio loop; use allm.* without one"
        ) from None


class AsyncioKit:
    """Tasks belong to the stream and are awaited when it closes."""

    __slots__ = ("loop", "tasks")

    needs_scope = False

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.tasks: set[Any] | None = None  # made for the first one: most streams start none

    async def enter(self) -> None: ...

    async def exit(self, *exc: Any) -> None: ...

    async def sleep(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)

    def event(self) -> Any:
        import asyncio

        return asyncio.Event()

    async def wait(self, event: Any, timeout: float | None) -> bool:
        """Whether `event` was set within `timeout` seconds."""
        import asyncio

        try:
            async with asyncio.timeout(timeout):  # `wait_for` of 3.11 may swallow a cancellation
                await event.wait()
        except TimeoutError:
            return False
        return True

    def from_thread(self, call: Callable[[], Any]) -> None:
        """Run `call` on the loop, soon; from any thread. A loop that has ended needs nothing any more."""
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            return

    def spawn(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Any]:
        """Start a task; returns what cancels it."""
        task = self.loop.create_task(work())
        if self.tasks is None:
            self.tasks = set()
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        cancel: Callable[[], Any] = task.cancel
        return cancel

    async def join(self) -> None:
        """Wait for all other tasks, even while this one is being cancelled."""
        if not self.tasks:
            return
        import asyncio

        while others := self.tasks - {asyncio.current_task()}:
            waiting = asyncio.ensure_future(asyncio.wait(others))
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                await waiting
                raise

    async def shielded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` to its end even while this task is being cancelled."""
        import asyncio

        inner = asyncio.ensure_future(work())
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError:
            await inner
            raise

    async def interruptible(
        self, work: Callable[[], Awaitable[T]], hold: Callable[[Callable[[], None]], None]
    ) -> T | None:
        """What `work` gives; `None` where the function that `hold` was given is called, on the loop,
        before it has ended."""
        import asyncio

        task: Any = asyncio.current_task()
        others = task.cancelling()
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            if not interrupted:
                interrupted = True
                task.cancel()

        hold(interrupt)
        try:
            return await work()
        except asyncio.CancelledError:
            if not interrupted or task.cancelling() > others + 1:  # somebody else cancelled the task, too
                raise
            return None
        finally:
            hold(_nothing)
            if interrupted:
                task.uncancel()

    def later(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` when nobody can await it: the stream was dropped."""
        if not self.loop.is_closed():
            self.from_thread(lambda: self.spawn(work))


class TrioKit:
    """Tasks live in the nursery that `async with` opened."""

    needs_scope = True

    def __init__(self) -> None:
        import trio

        self.trio = trio
        self.token = trio.lowlevel.current_trio_token()
        self.manager: Any = None
        self.nursery: Any = None

    async def enter(self) -> None:
        self.needs_scope = False
        self.manager = self.trio.open_nursery()
        self.nursery = await self.manager.__aenter__()

    async def exit(self, *exc: Any) -> None:
        self.nursery.cancel_scope.cancel()
        try:
            await self.manager.__aexit__(*exc)
        except BaseExceptionGroup as group:
            meant = self._meant(group)
            if meant not in exc:  # else it goes on by itself, with its cause
                raise meant from None

    def _meant(self, group: BaseExceptionGroup[Any]) -> BaseException:
        """What the body raised, or the cancellation; groups are for those who open nurseries themselves."""
        rest = group.split(self.trio.Cancelled)[1]
        found: BaseException = group if rest is None else rest
        while isinstance(found, BaseExceptionGroup) and (rest is None or len(found.exceptions) == 1):
            found = found.exceptions[0]
        return found

    async def sleep(self, seconds: float) -> None:
        await self.trio.sleep(seconds)

    def event(self) -> Any:
        return self.trio.Event()

    async def wait(self, event: Any, timeout: float | None) -> bool:
        with self.trio.move_on_after(float("inf") if timeout is None else max(0.0, timeout)):
            await event.wait()
            return True
        return False

    def from_thread(self, call: Callable[[], Any]) -> None:
        try:
            self.token.run_sync_soon(call)
        except self.trio.RunFinishedError:
            return

    def spawn(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Any]:
        scope = self.trio.CancelScope()

        async def scoped() -> None:
            with scope:
                await work()

        self.nursery.start_soon(scoped)
        cancel: Callable[[], Any] = scope.cancel
        return cancel

    async def join(self) -> None: ...

    async def interruptible(
        self, work: Callable[[], Awaitable[T]], hold: Callable[[Callable[[], None]], None]
    ) -> T | None:
        with self.trio.CancelScope() as scope:
            hold(scope.cancel)
            try:
                return await work()
            finally:
                hold(_nothing)
        return None

    async def shielded(self, work: Callable[[], Awaitable[None]]) -> None:
        with self.trio.CancelScope(shield=True):
            await work()

    def later(self, work: Callable[[], Awaitable[None]]) -> None: ...


def _nothing() -> None: ...
