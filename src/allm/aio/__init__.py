"""The verbs of `allm`, awaited: the same names, inputs, options and results, on asyncio or trio.

The `stream` verbs are plain functions whose `AsyncStream` is used with `async with` and `async for`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from allm.aio import sessions
from allm.data.responses import ChatResult, Response, StepResult
from allm.drivers import media_run, run
from allm.drivers.stream import AsyncStream
from allm.engine import Engine
from allm.options import CallOptions, EmbedOptions, ImageOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allm.data.content import Image
    from allm.data.media import EmbeddingRequest, EmbeddingResponse, ImageRequest, ImageResponse

__all__ = [
    "aclose", "chat", "edit_image", "embed", "generate", "generate_image", "image_variations", "sessions",
    "step", "stream", "stream_edit_image", "stream_embed", "stream_generate", "stream_generate_image",
    "stream_image_variations", "stream_step",
]  # fmt: skip


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


def stream_generate_image(
    engine: Engine, prompt: str | ImageRequest, **options: Unpack[ImageOptions]
) -> AsyncStream[ImageResponse]:
    """Images from a prompt, as a stream: `MediaProgress` with partial images where the provider sends
    them, then `MediaCompleted`."""
    from allm.loops.media import image_request

    return media_run(AsyncStream, image_request("generate", prompt), engine, options)


async def generate_image(
    engine: Engine, prompt: str | ImageRequest, **options: Unpack[ImageOptions]
) -> ImageResponse:
    """Images from a prompt, by the engine's `image_adapter`."""
    async with stream_generate_image(engine, prompt, **options) as events:
        return await events.result()


def stream_edit_image(
    engine: Engine,
    image: Image | Iterable[Image],
    prompt: str,
    mask: Image | None = None,
    **options: Unpack[ImageOptions],
) -> AsyncStream[ImageResponse]:
    """One or several images changed after a prompt, as a stream."""
    from allm.loops.media import image_request

    return media_run(AsyncStream, image_request("edit", prompt, image, mask), engine, options)


async def edit_image(
    engine: Engine,
    image: Image | Iterable[Image],
    prompt: str,
    mask: Image | None = None,
    **options: Unpack[ImageOptions],
) -> ImageResponse:
    """One or several images changed after a prompt; `mask` is transparent where the image may change."""
    async with stream_edit_image(engine, image, prompt, mask, **options) as events:
        return await events.result()


def stream_image_variations(
    engine: Engine, image: Image, **options: Unpack[ImageOptions]
) -> AsyncStream[ImageResponse]:
    """Images like `image`, as a stream."""
    from allm.loops.media import image_request

    return media_run(AsyncStream, image_request("variation", "", image), engine, options)


async def image_variations(engine: Engine, image: Image, **options: Unpack[ImageOptions]) -> ImageResponse:
    """Images like `image`; an edit with the image as reference where the provider has no variations."""
    async with stream_image_variations(engine, image, **options) as events:
        return await events.result()


def stream_embed(
    engine: Engine, input: str | Iterable[str] | EmbeddingRequest, **options: Unpack[EmbedOptions]
) -> AsyncStream[EmbeddingResponse]:
    """Vectors for texts, as a stream: `MediaProgress` after each request that the input needs."""
    from allm.loops.media import embedding_request

    return media_run(AsyncStream, embedding_request(input), engine, options)


async def embed(
    engine: Engine, input: str | Iterable[str] | EmbeddingRequest, **options: Unpack[EmbedOptions]
) -> EmbeddingResponse:
    """Vectors for texts, by the engine's `embed_adapter`, in as many requests as they need.

    Where a request fails the error's `.partial` holds what came before, and its `info.extra` says how
    far the call had come: `completed_chunks`, `completed_inputs`.
    """
    async with stream_embed(engine, input, **options) as events:
        return await events.result()


async def aclose() -> None:
    """Close the pooled connections of this event loop."""
    import sys

    http = sys.modules.get("allm.drivers.http")
    if http is not None:
        await http.aclose()
