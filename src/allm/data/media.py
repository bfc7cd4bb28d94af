"""Images and embeddings as data: what is asked for and what comes back."""

from __future__ import annotations

from typing import Any

from allm.data import Data
from allm.data.content import Image
from allm.data.freeform import normalise, tupled
from allm.data.responses import Usage


class ImageRequest(Data, frozen=True, kw_only=True):
    """`operation` is `generate`, `edit` or `variation`; `size` is `auto`, `1024x1024` and the like."""

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


class ImageResponse(Data, frozen=True, kw_only=True):
    id: str | None = None
    request_id: str | None = None
    model: str | None = None
    images: tuple[Image, ...] = ()
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    provider_data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "provider_data", "metadata", "extra")
        tupled(self, "images", "warnings")


class EmbeddingRequest(Data, frozen=True, kw_only=True):
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


class EmbeddingResponse(Data, frozen=True, kw_only=True):
    """`vectors` are in the order of the input."""

    vectors: tuple[tuple[float, ...], ...] = ()
    model: str | None = None
    request_id: str | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "metadata", "extra")
        tupled(self, "vectors", "warnings")
