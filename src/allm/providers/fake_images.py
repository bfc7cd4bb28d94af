"""The scripted provider of images: no network, the same events and responses as all others.

`Engine(image_adapter="fake", adapter_options={"image_script": [{"images": ["iVBORw0KGgo="]}]})` plays one
entry a call. An entry is `{"error": reason or fields of ErrorInfo}`, or a dict of

`images`: what comes, each as base64 text, a `data:` URI, a URL, bytes or an `Image`; `partial`: previews
that come before, alike; `text`: what the model says beside; `usage`: fields of `Usage`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from allm.data.content import Image, ImagePart
from allm.data.events import StreamFailed, UsageReported
from allm.data.failure import ErrorInfo
from allm.data.media import ImageRequest, ImageResponse, MediaCompleted, MediaProgress
from allm.data.responses import Usage
from allm.errors import ConfigurationError, raised
from allm.ports import CallContext
from allm.providers.fake import error_of

ENTRIES: Final = ("images", "partial", "text", "usage", "error")


class FakeImages:
    """Plays a script. `requests` records what was asked; `assert_exhausted` is the strict mode."""

    name = "fake"

    def __init__(self, script: list[dict[str, Any]] | None = None) -> None:
        self.script = script
        self.requests: list[ImageRequest] = []
        self.position = 0
        self._lock = threading.Lock()

    def play(self, request: ImageRequest, ctx: CallContext) -> Iterator[Any]:
        """The events of the next entry; raises where there is none."""
        return _play(self._next(request, ctx), request)

    def _next(self, request: ImageRequest, ctx: CallContext) -> dict[str, Any]:
        script = self._script(ctx.adapter_options)
        with self._lock:
            self.requests.append(request)
            if self.position >= len(script):
                text = (
                    f"the fake has no images for call {self.position + 1}; it was given {len(script)} entries"
                )
                raise raised(
                    ErrorInfo(
                        reason="invalid_request", code="no_scripted_image", message=text, provider="fake"
                    )
                )
            self.position += 1
            return script[self.position - 1]

    def assert_exhausted(self, adapter_options: Mapping[str, Any] | None = None) -> None:
        """Raise where entries are left over: what was not played was not asked for."""
        script = self._script(adapter_options or {})
        left = len(script) - self.position
        if left > 0:
            raise ConfigurationError(f"{left} of {len(script)} entries of the fake were not played")

    def _script(self, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        script = self.script if self.script is not None else options.get("image_script", [])
        for entry in script:
            if not isinstance(entry, dict) or not entry or not entry.keys() <= set(ENTRIES):
                text = f"the fake's entry {entry!r} is not a dict with some of {', '.join(ENTRIES)}"
                raise ConfigurationError(text)
        return list(script)


def _play(entry: dict[str, Any], request: ImageRequest) -> Iterator[Any]:
    images = tuple([_image(given) for given in entry.get("images", ())])
    for given in entry.get("partial", ()):
        yield MediaProgress(0, len(images), ImagePart(_image(given)))
    usage = msgspec.convert(entry["usage"], Usage) if "usage" in entry else None
    if usage is not None:
        yield UsageReported(usage)
    if "error" in entry:
        yield StreamFailed(error_of(entry["error"]))
        return
    yield MediaCompleted(
        ImageResponse(
            images=images,
            text=entry.get("text", ""),
            id="fake",
            provider="fake",
            model=request.model,
            finish_reason="stop",
            usage=usage,
        )
    )


def _image(given: Any) -> Image:
    if isinstance(given, Image):
        return given
    if isinstance(given, bytes):
        return Image.from_bytes(given)
    if given.startswith("data:"):
        return Image.from_data_uri(given)
    return Image.from_url(given) if "://" in given else Image.from_base64(given)
