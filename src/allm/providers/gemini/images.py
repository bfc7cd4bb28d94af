"""Images by Gemini: `generateContent` that is asked for text and images, and its answers folded into one.

Edits are the same call with the images in it; a variation is an edit with a fixed prompt (`VARIATION`).
There are no masks, and pixels are chosen by the model: `size` becomes the nearest aspect ratio or a size
in K. Sources: google-genai 3.4.0 and "Image generation" on ai.google.dev, read 2026-11, and recorded
traffic.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec.structs import replace

from allm.data.content import Image, ImagePart, Part, TextPart
from allm.data.events import Event, RawChunk, TextDelta
from allm.data.media import ImageRequest, ImageResponse, MediaCompleted, MediaProgress
from allm.data.messages import Message
from allm.data.requests import Request
from allm.data.responses import Response
from allm.errors import UnsupportedError, ValidationError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest
from allm.providers.decoding import AnswerDecoder
from allm.providers.encoding import VARIATION, HttpAdapter
from allm.providers.gemini.generate import GEMINI_KEY, GEMINI_URL, Gemini
from allm.providers.gemini.generate_stream import GenerateTurn
from allm.providers.refusals import Refusal

RATIOS: Final = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
SIZES: Final = ("1K", "2K", "4K")

_PIXELS: Final = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_NEAR: Final = 0.05  # how far a size may be from an aspect ratio
_MOST_PIXELS: Final = 1_500_000  # of an image of 1K, which is what comes where no size is asked for
_MODALITIES: Final = ("TEXT", "IMAGE")


class GeminiImages(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    With `adapter_options={"streaming": True}` the images come as they are made. The options of `Gemini`
    hold here too.
    """

    name = "gemini"
    base_url = GEMINI_URL
    key = GEMINI_KEY

    def encode(self, request: ImageRequest, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `UnsupportedError` for a mask and for URLs as the answer, and
        `ValidationError` for a size that is near no aspect ratio."""
        _refuse(request)
        warnings = [
            f"{name}={getattr(request, name)!r} is not sent: Gemini has no such setting, say it in the prompt"
            for name in ("quality", "style", "background")
            if getattr(request, name) is not None
        ]
        if request.operation == "variation":
            warnings.append("the variation is asked for as an edit, with a fixed prompt")
        asked = Request(
            model=request.model,
            messages=(Message("user", _parts(request)),),
            options=_options(request, warnings),
        )
        streaming = bool(ctx.adapter_options.get("streaming"))
        ctx = replace(ctx, adapter_options={**ctx.adapter_options, "streaming": streaming})
        sent = Gemini(self.name, self.base_url, self.key).encode(asked, ctx)
        return replace(sent, warnings=(*warnings, *sent.warnings))

    def decoder(self, request: ImageRequest, head: HttpHead, ctx: CallContext) -> Decoder:
        return AnswerDecoder(ImagesTurn(self.name, request), head, ctx.limits)


def _refuse(request: ImageRequest) -> None:
    if request.mask is not None:
        text = "Gemini takes no mask: leave it out and say in the prompt what is to change"
        raise UnsupportedError.of(text, ("mask", "mask_refused"))
    if request.response_format == "url":
        text = "Gemini gives bytes, never a URL: leave response_format out"
        raise UnsupportedError.of(text, ("response_format", "url_refused"))


def _parts(request: ImageRequest) -> tuple[Part, ...]:
    prompt = VARIATION if request.operation == "variation" else request.prompt
    return (TextPart(prompt), *[ImagePart(image) for image in request.input_images])


def _options(request: ImageRequest, warnings: list[str]) -> dict[str, Any]:
    """The settings as fields of `generationConfig`; the user's own win, in `imageConfig` one by one."""
    given, config = dict(request.options), _image_config(request.size, warnings)
    for name in ("image_config", "imageConfig"):
        if isinstance(given.get(name), dict):
            config.update(given.pop(name))
    options: dict[str, Any] = {"responseModalities": list(_MODALITIES)}
    if request.n != 1:
        options["candidateCount"] = request.n
    if config:
        options["imageConfig"] = config
    return {**options, **given}


def _image_config(size: str | None, warnings: list[str]) -> dict[str, Any]:
    if size is None or size == "auto":
        return {}
    if size in RATIOS:
        return {"aspectRatio": size}
    if size.upper() in SIZES:
        return {"imageSize": size.upper()}
    pixels = _PIXELS.fullmatch(size)
    if pixels is not None:
        width, height = int(pixels[1]), int(pixels[2])
        ratio = min(RATIOS, key=lambda ratio: _distance(width / height, ratio))
        if _distance(width / height, ratio) <= _NEAR:
            if width * height > _MOST_PIXELS:
                warnings.append(f"size={size!r} is sent as {ratio} alone: Gemini chooses the pixels")
            return {"aspectRatio": ratio}
    rule = f"{size!r:.60} is near none of {', '.join(RATIOS)}, and not one of {', '.join(SIZES)}, auto"
    raise ValidationError.of("Gemini has no such size", ("size", rule))


def _distance(shape: float, ratio: str) -> float:
    """How far width by height is from a ratio, as a fraction of it."""
    width, height = map(int, ratio.split(":"))
    return abs(shape * height / width - 1)


class ImagesTurn(GenerateTurn):
    """The answer of a chat that draws, as images and the text beside them; thinking is passed by."""

    def __init__(self, provider: str, request: ImageRequest) -> None:
        super().__init__(provider, Request(model=request.model))
        self._wanted = request.n
        self._images: list[Image] = []
        self._texts: list[str] = []

    def read(self, name: str | None, data: bytes) -> list[Any]:
        return self._taken(super().read(name, data))

    def read_whole(self, data: bytes) -> list[Any]:
        self._taken(super().read_whole(data))
        return []

    def _taken(self, events: list[Event]) -> list[Any]:
        """Keep what the events of the chat bring, and show each image."""
        shown: list[Any] = []
        for event in events:
            if type(event) is TextDelta:
                self._texts.append(event.text)
            elif type(event) is RawChunk:
                images = _images(event, self._index)
                for image in images:
                    self._images.append(image)
                    shown.append(MediaProgress(len(self._images), self._wanted, ImagePart(image)))
                if not images and event.part is None:
                    shown.append(event)
        if self.failure is None and self.may_end and not self._images:
            self._missed()
        return shown

    def _missed(self) -> None:
        """An answer whose images a filter kept back is a failure."""
        if self._finish_reason() == "content_filter":
            word = self.finish or self._blocked
            said = self._metadata.get("finish_message") or word
            self.failure = Refusal(f"no image: {said}", code=word, reason="content_filter")

    def complete(self, request_id: str | None) -> list[Any]:
        ending: Any = super().complete(request_id)[-1]
        answer: Response = ending.response
        came, wanted = len(self._images), self._wanted
        response = ImageResponse(
            images=tuple(self._images),
            text="".join(self._texts),
            id=answer.id,
            request_id=answer.request_id,
            provider=answer.provider,
            model=answer.model,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            warnings=() if came >= wanted else (f"{came} of {wanted} images came",),
            metadata={**answer.metadata, "raw_finish_reason": answer.raw_finish_reason},
        )
        return [*self.reported(), MediaCompleted(response)]


def _images(chunk: RawChunk, first: int) -> list[Image]:
    """The images in what a chat only shows: its part, or those of the candidates beside the `first`."""
    if chunk.part is not None:
        return [chunk.part.image] if type(chunk.part) is ImagePart else []
    found = []
    for candidate in _list(chunk.data, "candidates"):
        if (candidate.get("index") or 0) != first:
            for part in _list(candidate.get("content"), "parts"):
                blob = part.get("inlineData")
                if blob and not part.get("thought"):
                    found.append(blob)
    return [image for image in map(_image, found) if image is not None]


def _list(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _image(blob: dict[str, Any]) -> Image | None:
    kind = blob.get("mimeType") or ""
    try:
        return Image.from_base64(blob.get("data") or "", kind) if kind.startswith("image/") else None
    except ValidationError:
        return None
