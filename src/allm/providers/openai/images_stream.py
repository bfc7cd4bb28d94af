"""The answers of the Images API: one JSON body, or a stream of previews and images.

Each image of a stream ends with an event of its own, `image_generation.completed` or
`image_edit.completed`; no other mark follows. Sources: the types of OpenAI's client 3.54 and recorded
traffic, read in November 2026.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import Image, ImagePart
from allm.data.events import Event, RawChunk, UsageReported
from allm.data.media import ImageRequest, ImageResponse, MediaCompleted, MediaProgress
from allm.data.requests import Request
from allm.providers.decoding import Turn, builtins, excerpt, plain, read
from allm.providers.openai.responses_stream import usage_of
from allm.providers.refusals import Refusal, read_refusal

_PARTIAL: Final = frozenset({"image_generation.partial_image", "image_edit.partial_image"})
_COMPLETED: Final = frozenset({"image_generation.completed", "image_edit.completed"})
_ABOUT: Final = ("created", "background", "output_format", "quality", "size", "svg_usage")
_TYPES: Final = {"svg": "image/svg+xml", "jpg": "image/jpeg"}


class _Item(Struct):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class _About(Struct):
    """What is said of all images of an answer, or of the one of an event."""

    created: Any = None
    background: Any = None
    output_format: str | None = None
    quality: Any = None
    size: Any = None
    svg_usage: Any = None
    usage: dict[str, Any] | None = None
    error: Any = None


class _Answer(_About):
    data: list[_Item] | None = None


class _Event(_About):
    type: str = ""
    created_at: Any = None
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    partial_image_index: int | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_EVENT = msgspec.json.Decoder(_Event)


class ImagesTurn(Turn):
    """What one answer has shown so far."""

    __slots__ = ("_about", "_images", "_usage", "_wanted")

    def __init__(self, provider: str, request: ImageRequest) -> None:
        super().__init__(provider, Request(model=request.model))
        self._wanted = _count(request)
        self._images: list[Image] = []
        self._usage: dict[str, Any] | None = None
        self._about: dict[str, Any] = {}

    def read(self, name: str | None, data: bytes) -> list[Event]:
        event = read(_EVENT, data)
        if event.error or event.type == "error":
            self.failure = read_refusal(builtins(data))
            return []
        if event.type in _PARTIAL:
            return self._preview(event)
        if event.type in _COMPLETED:
            return self._completed(event)
        return [RawChunk(plain(builtins(data)))]

    def read_whole(self, data: bytes) -> list[Event]:
        answer = read(_ANSWER, data)
        if answer.error:
            self.failure = read_refusal(builtins(data))
        elif answer.data is None:
            self.failure = Refusal(f"the answer has no images: {excerpt(data)}", reason="malformed_response")
        else:
            self._take(answer, answer.data)
            if not self._images and self.failure is None:
                text = "the answer holds no image: the provider's filter kept it back"
                self.failure = Refusal(text, reason="content_filter")
        return []

    def missing(self, marked: bool) -> str | None:
        came, wanted = len(self._images), self._wanted
        if came >= wanted or (came and marked):
            return None
        return f"the stream ended after {came} of {wanted} images"

    def _preview(self, event: _Event) -> list[Any]:
        image = self._image(_Item(event.b64_json, event.url), event.output_format)
        if image is None:
            return []
        if event.partial_image_index is not None:
            image = replace(image, metadata={"partial_image_index": event.partial_image_index})
        return [MediaProgress(len(self._images), self._wanted, ImagePart(image))]

    def _completed(self, event: _Event) -> list[Any]:
        """An image is whole; where others follow it is shown at once."""
        event.created = event.created_at
        before = len(self._images)
        self._take(event, [_Item(event.b64_json, event.url, event.revised_prompt)])
        self.done = len(self._images) >= self._wanted
        if self.done or len(self._images) == before:
            return []
        return [MediaProgress(len(self._images), self._wanted, ImagePart(self._images[-1]))]

    def _take(self, about: _About, items: list[_Item]) -> None:
        self._usage = about.usage or self._usage  # the last one holds
        said = {name: getattr(about, name) for name in _ABOUT}
        self._about.update({name: value for name, value in said.items() if value is not None})
        for item in items:
            image = self._image(item, about.output_format)
            if image is not None:
                self._images.append(image)

    def _image(self, item: _Item, format: str | None) -> Image | None:
        """The image of an item, or `None` where it has none; the type is told by its bytes first."""
        text, url = item.b64_json, item.url
        if not text and url and url.startswith("data:"):
            text, url = url, None
        if text:
            try:
                data = b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
            except ValueError:
                self.failure = Refusal("an image that is not base64", reason="malformed_response")
                return None
            image = Image.from_bytes(data)
            if image.mime_type is None:
                kind = format or "png"
                image = replace(image, mime_type=_TYPES.get(kind, f"image/{kind}"))
        elif url:
            image = Image.from_url(url)
        else:
            return None
        return replace(image, revised_prompt=item.revised_prompt)

    def complete(self, request_id: str | None) -> list[Any]:
        usage = self.reported()
        came, wanted = len(self._images), self._wanted
        response = ImageResponse(
            images=tuple(self._images),
            request_id=request_id,
            provider=self.provider,
            model=self.request.model,
            finish_reason="stop",
            usage=usage[0].usage if usage else None,
            warnings=() if came >= wanted else (f"{came} of {wanted} images came",),
            metadata=plain(self._about) or {},
        )
        return [*usage, MediaCompleted(response)]

    def reported(self) -> list[UsageReported]:
        return [] if self._usage is None else [UsageReported(usage_of(self._usage))]


def _count(request: ImageRequest) -> int:
    """How many images were asked for."""
    wanted = request.options.get("n", request.n)
    return wanted if type(wanted) is int and wanted > 0 else 1
