"""Layer C, blocking: stateless verbs that take the engine. Each is a fold over its stream.

`input` is a string, a message, messages, a `Thread` or a `Request`; options are `CallOptions`. Mistakes
of the caller raise at once; a failed run raises an `AllmError` with `.partial`.
"""

from __future__ import annotations

from typing import Any, Unpack

from allm.data.responses import ChatResult, Response, StepResult
from allm.drivers import run
from allm.drivers.stream import Stream
from allm.engine import Engine
from allm.options import CallOptions


def stream_generate(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> Stream[Response]:
    """One model call as a stream of events; no tool is run."""
    return run(Stream, "response", engine, input, options)


def generate(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> Response:
    """One model call; no tool is run."""
    with stream_generate(engine, input, **options) as events:
        return events.result()


def stream_step(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> Stream[StepResult]:
    """One model call and the tools it asks for, as a stream."""
    return run(Stream, "step", engine, input, options)


def step(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> StepResult:
    """One model call and the tools it asks for."""
    with stream_step(engine, input, **options) as events:
        return events.result()


def stream(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> Stream[ChatResult]:
    """A whole chat, model and tools in turns until it is done, as a stream."""
    return run(Stream, "chat", engine, input, options)


def chat(engine: Engine, input: Any, **options: Unpack[CallOptions]) -> ChatResult:
    """A whole chat, model and tools in turns until it is done."""
    with stream(engine, input, **options) as events:
        return events.result()
