"""Images and embeddings as data: what is asked for and what comes back."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from allm.data import Data
from allm.data.content import Image, ImagePart
from allm.data.failure import ErrorInfo
from allm.data.freeform import normalise, tupled
from allm.data.responses import Usage
from allm.errors import ConfigurationError, ValidationError


class ImageRequest(Data, frozen=True, kw_only=True):
    """`operation` is `generate`, `edit` or `variation`; `size` is `auto`, `1024x1024` and the
    like; for Gemini also an aspect ratio (`16:9`) or `2K`."""

    operation: str = "generate"
    model: str | None = None
    prompt: str = ""
    n: int = 1
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    response_format: str = "binary"
    input_images: tuple[Image, ...] = ()
    mask: Image | None = None
    options: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "options", "metadata", "extra")
        tupled(self, "input_images")


class ImageResponse(Data, frozen=True, kw_only=True, tag_field="type", tag="image_response"):
    """The images of one call, in order, and what the model said beside them in `text`.

    `finish_reason` is a word of `Response.finish_reason`; `error` is set where the call failed on the
    way: partial images up to there are kept in `images`.
    """

    images: tuple[Image, ...] = ()
    text: str = ""
    id: str | None = None
    request_id: str | None = None
    provider: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    error: ErrorInfo | None = None
    provider_data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "provider_data", "metadata", "extra")
        tupled(self, "images", "warnings")

    @property
    def image(self) -> Image:
        """The first image. Raises `ValidationError` where there is none."""
        if not self.images:
            raise ValidationError.of("no image", ("images", self.finish_reason or "empty"))
        return self.images[0]


class EmbeddingRequest(Data, frozen=True, kw_only=True):
    """`task_type` is `search_document`, `search_query`, `classification`, `clustering` or `similarity`;
    `truncate` says whether a text that is too long is cut (`True`) or refused."""

    input: tuple[str, ...] = ()
    model: str | None = None
    dimensions: int | None = None
    task_type: str | None = None
    truncate: bool | None = None
    options: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "options", "metadata", "extra")
        tupled(self, "input")


class EmbeddingResponse(Data, frozen=True, kw_only=True, tag_field="type", tag="embedding_response"):
    """Vectors in the order of the input, packed: little-endian float32, one after the other.

    `len(r)` is their number, `r[i]` one of them, `r.vectors()` all as lists, `r.array()` all as a NumPy
    array without a copy. `error` is set where the call failed on the way: what came before is kept.
    """

    data: bytes = b""
    dimensions: int = 0
    request_id: str | None = None
    provider: str | None = None
    model: str | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    error: ErrorInfo | None = None
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "metadata", "extra")
        tupled(self, "warnings")
        if len(self.data) % (4 * self.dimensions or 1):
            raise ValidationError.of("invalid embeddings", ("data", "not_whole_vectors"))

    def __len__(self) -> int:
        return len(self.data) // (4 * self.dimensions) if self.dimensions else 0

    def __bool__(self) -> bool:
        return True  # an answer, also where it holds no vector

    def __getitem__(self, index: int) -> list[float]:
        place = range(len(self))[index] * 4 * self.dimensions
        return _floats(self.data[place : place + 4 * self.dimensions])

    def vectors(self) -> list[list[float]]:
        return [self[index] for index in range(len(self))]

    def array(self) -> Any:
        """A NumPy array of shape (vectors, dimensions), float32, read-only, over `data` itself.

        Raises `ConfigurationError` where NumPy is not installed.
        """
        try:
            import numpy
        except ImportError:
            text = "array() needs NumPy: pip install numpy, or use vectors()"
            raise ConfigurationError(text) from None
        return numpy.frombuffer(self.data, dtype="<f4").reshape(len(self), self.dimensions)


def packed(rows: Iterable[Sequence[float]]) -> bytes:
    """Vectors as `EmbeddingResponse.data` holds them. Raises `OverflowError` for what float32 cannot hold."""
    from struct import pack

    return b"".join([pack(f"<{len(row)}f", *row) for row in rows])


def _floats(data: bytes) -> list[float]:
    from array import array

    numbers = array("f", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


class MediaProgress(Data, frozen=True, tag_field="type", tag="media_progress"):
    """How far a call has come: `done` of `total` chunks or images. `part` is a partial image."""

    done: int
    total: int | None = None
    part: ImagePart | None = None


class MediaCompleted(Data, frozen=True, tag_field="type", tag="media_completed"):
    """The call is whole; the last event of it."""

    result: ImageResponse | EmbeddingResponse


MEDIA_EVENTS = (MediaProgress, MediaCompleted)
"""The events that only the verbs for images and embeddings give."""
