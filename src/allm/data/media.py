"""Images and embeddings as data: what is asked for and what comes back."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from allm.data.content import Image
from allm.data.responses import Usage


class ImageRequest(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
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


class ImageResponse(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    id: str | None = None
    request_id: str | None = None
    model: str | None = None
    images: tuple[Image, ...] = ()
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    provider_data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}


class EmbeddingRequest(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    input: tuple[str, ...] = ()
    model: str | None = None
    dimensions: int | None = None
    task_type: str | None = None
    truncate: bool | None = None
    options: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}


class EmbeddingResponse(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """`vectors` are in the order of the input."""

    vectors: tuple[tuple[float, ...], ...] = ()
    model: str | None = None
    request_id: str | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}
