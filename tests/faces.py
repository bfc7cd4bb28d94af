"""One vocabulary for the three faces, so that a test is written once: blocking, asyncio, trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import trio

import allm
from allm.data.events import Event

PATIENCE = 10.0  # seconds that a test waits for what must come; never waited in full when all is well


class Seen(NamedTuple):
    """What a stream gave: its events, then its result or the exception that it raised."""

    events: list[Event]
    result: Any = None
    error: BaseException | None = None

    @property
    def kinds(self) -> list[str]:
        return [type(event).__struct_config__.tag for event in self.events]  # type: ignore[misc]


class Face:
    """The blocking face; the awaited ones override `_call` and `_consume`."""

    name = "blocking"

    def chat(self, engine: allm.Engine, input: Any, **options: Any) -> allm.ChatResult:
        return self.call("chat", engine, input, **options)  # type: ignore[no-any-return]

    def generate(self, engine: allm.Engine, input: Any, **options: Any) -> allm.Response:
        return self.call("generate", engine, input, **options)  # type: ignore[no-any-return]

    def step(self, engine: allm.Engine, input: Any, **options: Any) -> allm.StepResult:
        return self.call("step", engine, input, **options)  # type: ignore[no-any-return]

    def session(self, verb: str, engine: allm.Engine, *args: Any, **options: Any) -> allm.SessionTurn:
        return self.call(f"sessions.{verb}", engine, *args, **options)  # type: ignore[no-any-return]

    def events(self, engine: allm.Engine, *args: Any, verb: str = "stream", **options: Any) -> Seen:
        """All events of a stream, and what its `result()` gives or raises after them."""
        events: list[Event] = []
        first = _error(
            lambda: self.consume(engine, *args, verb=verb, body=lambda _, e: events.append(e), **options)
        )
        stream = self.last
        second = _error(lambda: self.result(stream))
        assert first is second, "result() raises what the iteration raised"
        return Seen(events, None if second else self.result(stream), second)

    last: Any = None

    def consume(
        self, *args: Any, verb: str = "stream", body: Callable[[Any, Event], Any], **options: Any
    ) -> Any:
        """Read a stream in its `with`, calling `body(stream, event)`; it ends the reading by `True`."""
        self.last = stream = _verb(allm, verb)(*args, **options)
        with stream:
            for event in stream:
                if body(stream, event):
                    break
        return stream

    def call(self, verb: str, *args: Any, **options: Any) -> Any:
        return _verb(allm, verb)(*args, **options)

    def result(self, stream: Any) -> Any:
        return stream.result()

    def text(self, stream: Any) -> list[str]:
        return list(stream.text())

    def make(self, verb: str, *args: Any, **options: Any) -> Any:
        """A stream that was not started."""
        return _verb(allm, verb)(*args, **options)

    async def forever(self) -> None:
        """What an async handler does that must be cancelled."""
        await asyncio.Event().wait()

    def cancelled_once(self, stream: Any, wait: Callable[[], Any]) -> None:
        """Read `stream`, which another thread cancels as soon as `wait()` has returned."""

        def cancel() -> None:
            wait()
            stream.cancel()

        other = threading.Thread(target=cancel)
        other.start()
        try:
            with pytest.raises(allm.CancelledError):
                self.result(stream)
        finally:
            other.join(PATIENCE)

    def cancelled_by(self, stream: Any, ready: threading.Event) -> BaseException:
        """Read `stream` in a task that is cancelled once `ready`; what the reader raised."""
        raise NotImplementedError


class AwaitedFace(Face):
    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        raise NotImplementedError

    def call(self, verb: str, *args: Any, **options: Any) -> Any:
        return self.run(lambda: _verb(allm.aio, verb)(*args, **options))

    def consume(
        self, *args: Any, verb: str = "stream", body: Callable[[Any, Event], Any], **options: Any
    ) -> Any:
        self.last = stream = _verb(allm.aio, verb)(*args, **options)

        async def work() -> Any:
            async with stream:
                async for event in stream:
                    if body(stream, event):
                        break
            return stream

        return self.run(work)

    def result(self, stream: Any) -> Any:
        async def work() -> Any:
            async with stream:
                return await stream.result()

        return self.run(work)

    def text(self, stream: Any) -> list[str]:
        async def work() -> list[str]:
            async with stream:
                return [piece async for piece in stream.text()]

        return self.run(work)  # type: ignore[no-any-return]

    def make(self, verb: str, *args: Any, **options: Any) -> Any:
        return _verb(allm.aio, verb)(*args, **options)


class AsyncioFace(AwaitedFace):
    name = "asyncio"

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            try:
                return await work()
            finally:
                left = asyncio.all_tasks() - {asyncio.current_task()}
                assert not left, f"tasks left: {left}"

        return asyncio.run(main())

    def cancelled_by(self, stream: Any, ready: threading.Event) -> BaseException:
        async def work() -> BaseException:
            async def read() -> None:
                async with stream:
                    await stream.result()

            task = asyncio.create_task(read())
            await asyncio.to_thread(ready.wait, PATIENCE)
            task.cancel()
            try:
                await task
            except BaseException as error:
                return error
            raise AssertionError("the task ended")

        return asyncio.run(work())


class TrioFace(AwaitedFace):
    name = "trio"

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        return trio.run(work)

    async def forever(self) -> None:
        await trio.sleep_forever()

    def cancelled_by(self, stream: Any, ready: threading.Event) -> BaseException:
        seen: list[BaseException] = []

        async def work() -> None:
            async def read() -> None:
                try:
                    async with stream:
                        await stream.result()
                except BaseException as error:
                    seen.append(error)
                    raise

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.to_thread.run_sync(ready.wait, PATIENCE)
                nursery.cancel_scope.cancel()

        trio.run(work)
        return seen[0]


FACES = (Face(), AsyncioFace(), TrioFace())


class Way(NamedTuple):
    """A face, and the transport under it by name."""

    face: Face
    transport: str

    def __str__(self) -> str:
        return f"{self.face.name}-{self.transport}"


WAYS = (*(Way(face, "httpx2") for face in FACES), *(Way(face, "httptools") for face in FACES[:2]))
"""Every transport of the library on every face that it serves."""


def _error(work: Callable[[], Any]) -> allm.AllmError | None:
    try:
        work()
    except allm.AllmError as error:
        return error
    return None


def _verb(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root


@contextmanager
def no_threads_left() -> Iterator[None]:
    """Threads that the block started end with it; those of trio's own pool are kept by trio."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("Trio"):
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"thread left: {thread.name}"
