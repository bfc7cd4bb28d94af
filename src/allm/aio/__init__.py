"""The verbs of `allm`, awaited: the same names, inputs, options and results, on asyncio or trio.

The `stream` verbs are plain functions whose `AsyncStream` is used with `async with` and `async for`.
"""

from __future__ import annotations

from typing import Any, Unpack

from allm.aio import sessions
from allm.data.responses import ChatResult, Response, StepResult
from allm.drivers import run
from allm.drivers.stream import AsyncStream
from allm.engine import Engine
from allm.options import CallOptions

__all__ = ["aclose", "chat", "generate", "sessions", "step", "stream", "stream_generate", "stream_step"]


def stream_generate(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> AsyncStream[Response]:
    """One model call as a stream of events; no tool is run."""
    return run(AsyncStream, "response", engine, input, options)


async def generate(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> Response:
    """One model call; no tool is run."""
    async with stream_generate(engine, input, **options) as events:
        return await events.result()


def stream_step(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> AsyncStream[StepResult]:
    """One model call and the tools it asks for, as a stream."""
    return run(AsyncStream, "step", engine, input, options)


async def step(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> StepResult:
    """One model call and the tools it asks for."""
    async with stream_step(engine, input, **options) as events:
        return await events.result()


def stream(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> AsyncStream[ChatResult]:
    """A whole chat, model and tools in turns until it is done, as a stream."""
    return run(AsyncStream, "chat", engine, input, options)


async def chat(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> ChatResult:
    """A whole chat, model and tools in turns until it is done."""
    async with stream(engine, input, **options) as events:
        return await events.result()


async def aclose() -> None:
    """Close the pooled connections of this event loop."""
    import sys

    http = sys.modules.get("allm.drivers.http")
    if http is not None:
        await http.aclose()
