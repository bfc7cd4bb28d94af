"""OpenAI's Images API and the servers that speak it: requests and refusals.

A generation is JSON; an edit is a form with the images as files, or JSON where one of them is a URL, which
OpenAI then reads itself. OpenAI retired the endpoint of variations: at its own address a variation is an
edit of the image with a fixed prompt (`VARIATION`); other servers may still have the endpoint. A field that
a model does not know is left out and named in the warnings. Sources: the types of OpenAI's client 3.54, its
OpenAPI description, and recorded traffic, read in November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from msgspec import Struct

from allm.data.content import Image
from allm.data.media import ImageRequest
from allm.errors import UnsupportedError, ValidationError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest
from allm.providers.encoding import VARIATION, HttpAdapter, body_of
from allm.providers.multipart import File, multipart
from allm.providers.openai import OPENAI_KEY, OPENAI_URL, api_url, is_openai, wire_headers

_PATHS: Final = {
    "generate": "/images/generations",
    "edit": "/images/edits",
    "variation": "/images/variations",
}


class Rules(Struct, frozen=True):
    """What the models that fit `pattern` take. `fields` are those of `quality`, `style`, `background` that
    they know, `qualities` their words for other models' words; `bytes_only`: they give no URLs."""

    pattern: str
    operations: tuple[str, ...]
    fields: tuple[str, ...]
    qualities: Mapping[str, str]
    bytes_only: bool


def _gpt(pattern: str, **qualities: str) -> Rules:
    qualities = {"standard": "medium", "hd": "high", **qualities}
    return Rules(pattern, ("generate", "edit"), ("quality", "background"), qualities, True)


_DALL_E_3: Final = {"low": "standard", "medium": "standard", "high": "hd", "xhigh": "hd", "max": "hd"}

RULES: Final = (
    _gpt("gpt-image-1*", xhigh="high", max="high"),
    _gpt("gpt-image-2", xhigh="high", max="high"),
    _gpt("gpt-image-2-*", xhigh="high", max="high"),
    _gpt("gpt-image-*"),  # from 2.5 on they know `xhigh` and `max`
    _gpt("chatgpt-image-*"),
    # OpenAI retired these in May 2026; other servers may have them.
    Rules("dall-e-2", ("generate", "edit", "variation"), (), {}, False),
    Rules("dall-e-3", ("generate",), ("quality", "style"), _DALL_E_3, False),
)
"""As of 2026-11-01; the first that fits holds. All passes for a model that none fits."""

_ANY: Final = Rules("*", tuple(_PATHS), ("quality", "style", "background"), {}, False)


class OpenAIImages(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    The answer is a stream where `options` have `partial_images` (how many previews) or `stream`, or with
    `adapter_options={"streaming": True}`. A field is taken out of the request by `None` in `options`:
    `{"response_format": None}` for a GPT image model behind a name that does not show it.
    """

    name = "openai"
    base_url = OPENAI_URL
    key = OPENAI_KEY

    def encode(self, request: ImageRequest, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `UnsupportedError` for what the model or the server cannot do, and
        `ValidationError` for images that cannot be sent."""
        own = is_openai(api_url(self.name, ctx, self.base_url, ""))
        rules = _rules(request.model or "")
        operation = _operation(request, rules, own)
        warnings: list[str] = []
        if operation != request.operation:
            warnings.append("the variation is asked for as an edit, with a fixed prompt")
        streaming = _streams(request, ctx)
        fields = _fields(request, operation, rules, warnings)
        if streaming:
            fields["stream"] = True
        fields.update(request.options)
        fields = {name: value for name, value in fields.items() if value is not None}
        headers = wire_headers({**ctx.adapter_options, "streaming": streaming})
        if operation == "generate":
            body = body_of(fields)
        else:
            kind, body = self._with_images(request, fields, own)
            headers["content-type"] = kind
        url = api_url(self.name, ctx, self.base_url, _PATHS[operation])
        return HttpRequest(url, body, headers, self.key, warnings=tuple(warnings))

    def decoder(self, request: ImageRequest, head: HttpHead, ctx: CallContext) -> Decoder:
        from allm.providers.decoding import AnswerDecoder
        from allm.providers.openai.images_stream import ImagesTurn

        return AnswerDecoder(ImagesTurn(self.name, request), head, ctx.limits)

    def _with_images(self, request: ImageRequest, fields: dict[str, Any], own: bool) -> tuple[str, bytes]:
        """Content type and body of a request with images in it."""
        images = {f"input_images[{i}]": _given(image) for i, image in enumerate(request.input_images)}
        mask = None if request.mask is None else _given(request.mask)
        placed = images if mask is None else {**images, "mask": mask}
        linked = [place for place, image in placed.items() if image.url is not None]
        if not linked:
            name = "image" if len(images) == 1 else "image[]"
            files = [_file(name, "image", image) for image in images.values()]
            return multipart(fields, files if mask is None else [*files, _file("mask", "mask", mask)])
        if not own:
            problems = [(place, "pass_its_bytes: Image.from_bytes(...)") for place in linked]
            raise UnsupportedError.of(
                f"{self.name} takes no images by URL, and they are not fetched", *problems
            )
        fields["images"] = [_reference(image) for image in images.values()]
        if mask is not None:
            fields["mask"] = _reference(mask)
        return "application/json", body_of(fields)


def _rules(model: str) -> Rules:
    """The rules for a model, which may be named with its vendor: `openai/gpt-image-2`."""
    name = model.rpartition("/")[2]
    return next((rules for rules in RULES if fnmatchcase(name, rules.pattern)), _ANY)


def _operation(request: ImageRequest, rules: Rules, own: bool) -> str:
    """What is really asked of the server. Raises `UnsupportedError` where model or server cannot do it."""
    wanted = request.operation
    operation = wanted
    if wanted == "variation" and (own or wanted not in rules.operations):
        operation = "edit"
    if operation not in rules.operations:
        reason = f"{wanted!r} is not one of {', '.join(rules.operations)}"
        raise UnsupportedError.of(f"{request.model} cannot do this", ("operation", reason))
    if request.mask is not None and operation != "edit":
        raise ValidationError.of("a mask is for edits", ("mask", f"not_allowed_for_operation {wanted!r}"))
    return operation


def _streams(request: ImageRequest, ctx: CallContext) -> bool:
    options = request.options
    wanted = ctx.adapter_options.get("streaming", "partial_images" in options)
    return bool(options.get("stream", wanted))


def _fields(request: ImageRequest, operation: str, rules: Rules, warnings: list[str]) -> dict[str, Any]:
    """The text fields, `None` where one is not set."""
    fields: dict[str, Any] = {"model": request.model}
    if operation != "variation":
        fields["prompt"] = VARIATION if request.operation == "variation" else request.prompt
    fields["n"] = request.n if request.n != 1 else None
    fields["size"] = _size(request.size)
    for name in ("quality", "style", "background"):
        value = getattr(request, name)
        if value is not None and name not in rules.fields:
            warnings.append(f"{name}={value!r} is not sent: {request.model} has no such setting")
        elif value is not None:
            fields[name] = value
    sent = rules.qualities.get(request.quality or "")
    if sent is not None:
        fields["quality"] = sent
        warnings.append(f"quality={request.quality!r} is sent as {sent!r} to {request.model}")
    fields["response_format"] = _response_format(request, rules)
    return fields


def _size(size: str | None) -> str | None:
    if size is None or size == "auto":
        return size
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        rule = f"{size!r:.60} is not 'auto' or WIDTHxHEIGHT in pixels, as '1536x1024'"
        raise ValidationError.of("no size of an image here", ("size", rule))
    return size


def _response_format(request: ImageRequest, rules: Rules) -> str | None:
    if not rules.bytes_only:
        return "url" if request.response_format == "url" else "b64_json"
    if request.response_format == "url":
        text = f"{request.model} gives bytes, never a URL: leave response_format out"
        raise UnsupportedError.of(text, ("response_format", "url_refused"))
    return None


def _given(image: Image) -> Image:
    """The image, with the bytes of a `data:` URL."""
    url = image.url
    return Image.from_data_uri(url) if url is not None and url.startswith("data:") else image


def _file(name: str, stem: str, image: Image) -> File:
    data = image.to_bytes()
    if image.mime_type is None:
        raise ValidationError.of("an image cannot be sent", (stem, "missing_mime_type"))
    return File(name, f"{stem}.{image.mime_type.rpartition('/')[2]}", image.mime_type, data)


def _reference(image: Image) -> dict[str, str]:
    return {"image_url": image.to_data_uri() if image.url is None else image.url}
