"""One call on each face (blocking, asyncio, and trio where it is installed), for conformance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any, Final

from msgspec import Struct

from allm.data.events import Event
from allm.errors import AllmError
from allm.testing.subjects import KEY, Subject

FACES: Final = ("blocking", "asyncio", *(("trio",) if find_spec("trio") else ()))


class Seen(Struct):
    """The events of a stream, then its result or what it raised."""

    events: list[Event]
    result: Any = None
    error: AllmError | None = None


def ask(face: str, subject: Subject, adapter: Any, *, transport: Any = "auto", stop: int = 0) -> Seen:
    """Stream one call of the subject's verb; leave after `stop` events where that is not 0."""
    from allm import aio, calls
    from allm.engine import Engine

    engine = Engine(
        subject.model,
        **{subject.slot: adapter},
        base_url=subject.base_url,
        adapter_options=subject.adapter_options,
        transport=transport,
        retry=False,
    )
    verb = getattr(calls if face == "blocking" else aio, subject.verb)

    def opened() -> Any:
        return verb(engine, subject.request(), api_key=KEY)

    if face == "blocking":
        return _blocking(opened, stop)
    seen: Seen = _run(face, lambda: _awaited(opened, stop))
    return seen


def on_face(face: str, verb: str, *args: Any, **options: Any) -> Any:
    """What a verb gives on a face."""
    from allm import aio, calls

    if face == "blocking":
        return getattr(calls, verb)(*args, **options)
    return _run(face, lambda: getattr(aio, verb)(*args, **options))


def _run(face: str, work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    if face == "trio":
        import trio

        return trio.run(main)
    import asyncio

    return asyncio.run(main())


def _blocking(opened: Callable[[], Any], stop: int) -> Seen:
    seen = Seen([])
    try:
        with opened() as stream:
            for event in stream:
                seen.events.append(event)
                if len(seen.events) == stop:
                    return seen
            seen.result = stream.result()
    except AllmError as error:
        seen.error = error
    return seen


async def _awaited(opened: Callable[[], Any], stop: int) -> Seen:
    seen = Seen([])
    try:
        async with opened() as stream:
            async for event in stream:
                seen.events.append(event)
                if len(seen.events) == stop:
                    return seen
            seen.result = await stream.result()
    except AllmError as error:
        seen.error = error
    return seen
