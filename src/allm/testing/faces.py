"""One call on each face (blocking, asyncio, and trio where it is installed), for conformance."""

from __future__ import annotations

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
    """Stream one model call; leave after `stop` events where that is not 0."""
    from allm.engine import Engine

    engine = Engine(
        subject.model,
        adapter=adapter,
        base_url=subject.base_url,
        adapter_options=subject.adapter_options,
        transport=transport,
        retry=False,
    )
    if face == "blocking":
        return _blocking(engine, subject, stop)

    async def main() -> Seen:
        return await _awaited(engine, subject, stop)

    if face == "trio":
        import trio

        seen: Seen = trio.run(main)
        return seen
    import asyncio

    return asyncio.run(main())


def _blocking(engine: Any, subject: Subject, stop: int) -> Seen:
    from allm.calls import stream_generate

    seen = Seen([])
    try:
        with stream_generate(engine, subject.request(), api_key=KEY) as stream:
            for event in stream:
                seen.events.append(event)
                if len(seen.events) == stop:
                    return seen
            seen.result = stream.result()
    except AllmError as error:
        seen.error = error
    return seen


async def _awaited(engine: Any, subject: Subject, stop: int) -> Seen:
    from allm.aio import stream_generate

    seen = Seen([])
    try:
        async with stream_generate(engine, subject.request(), api_key=KEY) as stream:
            async for event in stream:
                seen.events.append(event)
                if len(seen.events) == stop:
                    return seen
            seen.result = await stream.result()
    except AllmError as error:
        seen.error = error
    return seen
