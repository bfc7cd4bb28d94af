"""Images and embeddings: their subjects, and the cases that only they have."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from math import isclose
from typing import Any, ClassVar, Final

from allm.data import pictures
from allm.data.content import Image, base64_text
from allm.data.events import RawChunk, StreamFailed, UsageReported
from allm.data.media import (
    MEDIA_EVENTS,
    EmbeddingRequest,
    EmbeddingResponse,
    ImageRequest,
    ImageResponse,
    MediaCompleted,
    MediaProgress,
)
from allm.data.responses import Usage
from allm.errors import ValidationError
from allm.loops.media import MediaFold
from allm.testing.adapter_cases import asked
from allm.testing.subjects import FINISHES, Case, Sample, Subject, check_events, need, same
from allm.testing.wire_cases import encoded

PICTURE: Final = Image.from_base64(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""What is edited: one pixel."""

_ADAPTERS_OWN: Final = (*MEDIA_EVENTS, RawChunk, UsageReported, StreamFailed)
_NEAR: Final = 1e-3  # how far the numbers of one text may be apart in two calls


class MediaSubject(Subject, frozen=True, kw_only=True):
    """What `ImageSubject` and `EmbeddingSubject` share."""

    kind: ClassVar[str]

    def fold(self, events: list[Any]) -> Any:
        fold = MediaFold(self.kind)
        for event in events:
            fold.add(event)
        return fold.result()

    def check(self, events: list[Any], *, damaged: bool = False) -> None:
        check_events(events, _ADAPTERS_OWN, MediaCompleted)
        done = [event.done for event in events if isinstance(event, MediaProgress)]
        need(done == sorted(done), f"progress goes back: {done}")
        if isinstance(events[-1], MediaCompleted) and not damaged:
            self.check_result(events[-1].result)


class ImageSubject(MediaSubject, frozen=True, kw_only=True):
    """An adapter for images, as `Subject` is one for chats. `edits`: it takes images, too.

    Its samples answer a request for one image: `whole` is one JSON body, `stream` a stream with a preview
    or an image before its last event, `unknown` has fields that nobody knows, and of `filtered` the
    provider's filter kept the image back.
    """

    needs: ClassVar[dict[str, str | None]] = {
        **dict.fromkeys(("whole", "stream", "unknown")),
        "filtered": "content_filter",
    }
    kind: ClassVar[str] = "image"
    verb: ClassVar[str] = "stream_generate_image"
    slot: ClassVar[str] = "image_adapter"

    edits: bool = True

    @property
    def shown(self) -> tuple[str, int]:
        return ("stream" if "stream" in self.samples else "whole"), 1

    def request(self, **fields: Any) -> ImageRequest:
        return ImageRequest(model=self.model, **{"prompt": "A kestrel", **fields})

    def saying(self, text: str) -> ImageRequest:
        return self.request(prompt=text)

    def full(self) -> ImageRequest:
        edited = {"operation": "edit", "input_images": (PICTURE,)} if self.edits else {}
        return self.request(size="1024x1024", **edited)

    def check_result(self, result: Any) -> None:
        need(isinstance(result, ImageResponse), f"the answer is a {type(result).__name__}, no ImageResponse")
        finish = result.finish_reason
        need(finish is None or finish in FINISHES, f"finish_reason {finish!r} is not a known word")
        for image in result.images:
            if image.data is not None:
                kind = pictures.media_type(image.data) or image.mime_type
                need(kind, f"nothing tells what kind of image {image.data[:8]!r}... is")
                same("the type of an image", image.mime_type, kind)

    def said(self, result: Any) -> Any:
        return tuple(image.data if image.url is None else image.url for image in result.images)

    def agree(self, result: Any, sample: Sample) -> None:
        same("the text", result.text, sample.text)
        same("the images", self.said(result), sample.images)
        if sample.error is None:
            same("finish_reason", result.finish_reason, sample.finish or "stop")


class EmbeddingSubject(MediaSubject, frozen=True, kw_only=True):
    """An adapter for embeddings, as `Subject` is one for chats.

    Its samples answer a request for `inputs`: `whole` with a vector for each, `unknown` with fields that
    nobody knows besides; in `ragged` one vector is shorter than the others, in `empty` all have no numbers,
    and in `fewer` one is missing.
    """

    needs: ClassVar[dict[str, str | None]] = {
        **dict.fromkeys(("whole", "unknown")),
        **dict.fromkeys(("ragged", "empty", "fewer"), "malformed_response"),
    }
    kind: ClassVar[str] = "embedding"
    verb: ClassVar[str] = "stream_embed"
    slot: ClassVar[str] = "embed_adapter"

    inputs: tuple[str, ...] = ("First 4711", "Second 4712", "Third 4713")

    @property
    def shown(self) -> tuple[str, int]:
        return "whole", 1

    def request(self, **fields: Any) -> EmbeddingRequest:
        return EmbeddingRequest(model=self.model, **{"input": self.inputs, **fields})

    def saying(self, text: str) -> EmbeddingRequest:
        return self.request(input=(text,))

    def full(self) -> EmbeddingRequest:
        return self.request(task_type="search_query", truncate=True)

    def check_result(self, result: Any) -> None:
        name = type(result).__name__
        need(isinstance(result, EmbeddingResponse), f"the answer is a {name}, no EmbeddingResponse")
        same("the number of vectors", len(result), len(self.inputs))

    def said(self, result: Any) -> Any:
        return result.data

    def agree(self, result: Any, sample: Sample) -> None:
        same("the vectors", _rounded(result.vectors()), _rounded(sample.vectors))

    def counted(self, usage: Usage) -> bool:
        return usage.input_tokens is not None or usage.total_tokens is not None


def _rounded(vectors: Any) -> list[list[float]]:
    return [[round(number, 5) for number in vector] for vector in vectors]


def cases(subject: MediaSubject, wire: bool) -> Iterator[Case]:
    """The cases beside those of all adapters."""
    if isinstance(subject, EmbeddingSubject):
        yield Case("max_batch", "it says how many inputs one request may hold", partial(_max_batch, subject))
        about = "a vector belongs to its text, wherever that stands"
        for verb in ("complete", "acomplete"):
            if hasattr(subject.make(), verb):
                yield Case(f"{verb}.belongs", about, partial(_belongs, subject, verb))
        if wire:
            yield Case("request.inputs", "the texts are sent, in order", partial(_inputs, subject))
            about = "more inputs than max_batch are refused, without a key"
            yield Case("request.batch", about, partial(_batch, subject))
    elif wire and isinstance(subject, ImageSubject):
        yield Case("request.prompt", "the prompt is sent", partial(_prompt, subject))
        if subject.edits:
            yield Case("request.image", "the image to edit is sent", partial(_edited, subject))


def _max_batch(subject: EmbeddingSubject) -> None:
    size = subject.make().max_batch
    need(type(size) is int and size > 0, f"max_batch is {size!r}, not a positive number")


def _belongs(subject: EmbeddingSubject, verb: str) -> None:
    forth = asked(subject, verb, subject.request()).vectors()
    back = asked(subject, verb, subject.request(input=subject.inputs[::-1])).vectors()[::-1]
    for text, one, other in zip(subject.inputs, forth, back, strict=True):
        near = len(one) == len(other) and all(map(_near, one, other))
        need(near, f"the vector of {text!r} is another one when the inputs are turned round")


def _near(one: float, other: float) -> bool:
    return isclose(one, other, abs_tol=_NEAR)


def _inputs(subject: EmbeddingSubject) -> None:
    body = encoded(subject, subject.request()).body.decode()
    for text in subject.inputs:
        need(text in body, f"{text!r} is not sent")
    for one, next_one in pairwise(subject.inputs):
        need(body.index(one) < body.index(next_one), f"{next_one!r} is sent before {one!r}")


def _batch(subject: EmbeddingSubject) -> None:
    size = subject.make().max_batch
    encoded(subject, subject.request(input=("x",) * size))
    try:
        encoded(subject, subject.request(input=("x",) * (size + 1)))
    except ValidationError as error:
        need(("input", "batch_too_large") in error.errors, f"the problem is not batch_too_large: {error}")
    else:
        raise AssertionError(f"{size + 1} inputs are sent where max_batch is {size}")


def _prompt(subject: ImageSubject) -> None:
    need(b"A kite 4714" in encoded(subject, subject.saying("A kite 4714")).body, "it is not sent")


def _edited(subject: ImageSubject) -> None:
    body, data = encoded(subject, subject.full()).body, PICTURE.to_bytes()
    need(data in body or base64_text(data).encode() in body, "its bytes are not sent")
