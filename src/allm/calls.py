"""Layer C, blocking: stateless verbs that take the engine. Each is a fold over its stream.

Of the chat verbs `input` is a string, a message, messages, a `Thread` or a `Request`. Mistakes of the
caller raise at once; a failed run raises an `AllmError` with `.partial`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from allm.data.responses import ChatResult, Response, StepResult
from allm.drivers import media_run, run
from allm.drivers.stream import Stream
from allm.engine import Engine
from allm.options import CallOptions, EmbedOptions, ImageOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allm.data.content import Image
    from allm.data.media import EmbeddingRequest, EmbeddingResponse, ImageRequest, ImageResponse


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


def stream_generate_image(
    engine: Engine, prompt: str | ImageRequest, **options: Unpack[ImageOptions]
) -> Stream[ImageResponse]:
    """Images from a prompt, as a stream: `MediaProgress` with partial images where the provider sends
    them, then `MediaCompleted`."""
    from allm.loops.media import image_request

    return media_run(Stream, image_request("generate", prompt), engine, options)


def generate_image(
    engine: Engine, prompt: str | ImageRequest, **options: Unpack[ImageOptions]
) -> ImageResponse:
    """Images from a prompt, by the engine's `image_adapter`."""
    with stream_generate_image(engine, prompt, **options) as events:
        return events.result()


def stream_edit_image(
    engine: Engine,
    image: Image | Iterable[Image],
    prompt: str,
    mask: Image | None = None,
    **options: Unpack[ImageOptions],
) -> Stream[ImageResponse]:
    """One or several images changed after a prompt, as a stream."""
    from allm.loops.media import image_request

    return media_run(Stream, image_request("edit", prompt, image, mask), engine, options)


def edit_image(
    engine: Engine,
    image: Image | Iterable[Image],
    prompt: str,
    mask: Image | None = None,
    **options: Unpack[ImageOptions],
) -> ImageResponse:
    """One or several images changed after a prompt; `mask` is transparent where the image may change."""
    with stream_edit_image(engine, image, prompt, mask, **options) as events:
        return events.result()


def stream_image_variations(
    engine: Engine, image: Image, **options: Unpack[ImageOptions]
) -> Stream[ImageResponse]:
    """Images like `image`, as a stream."""
    from allm.loops.media import image_request

    return media_run(Stream, image_request("variation", "", image), engine, options)


def image_variations(engine: Engine, image: Image, **options: Unpack[ImageOptions]) -> ImageResponse:
    """Images like `image`; an edit with the image as reference where the provider has no variations."""
    with stream_image_variations(engine, image, **options) as events:
        return events.result()


def stream_embed(
    engine: Engine, input: str | Iterable[str] | EmbeddingRequest, **options: Unpack[EmbedOptions]
) -> Stream[EmbeddingResponse]:
    """Vectors for texts, as a stream: `MediaProgress` after each request that the input needs."""
    from allm.loops.media import embedding_request

    return media_run(Stream, embedding_request(input), engine, options)


def embed(
    engine: Engine, input: str | Iterable[str] | EmbeddingRequest, **options: Unpack[EmbedOptions]
) -> EmbeddingResponse:
    """Vectors for texts, by the engine's `embed_adapter`, in as many requests as they need.

    Where a request fails the error's `.partial` holds what came before, and its `info.extra` says how
    far the call had come: `completed_chunks`, `completed_inputs`.
    """
    with stream_embed(engine, input, **options) as events:
        return events.result()
