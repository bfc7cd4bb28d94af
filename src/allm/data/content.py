"""What a message is made of: text, images, audio, files, reasoning, tool calls, opaque items."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from allm.data import Data
from allm.data.freeform import normalise
from allm.errors import ValidationError

if TYPE_CHECKING:
    from json import JSONDecoder
    from os import PathLike
    from pathlib import Path

_EXTENSIONS = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
}


class Origin(Data, frozen=True):
    """Where a part came from: what is bound to a provider goes back to that provider only.

    `endpoint` is the dialect (`chat`, `responses`, `messages`, `generate`), `model` the id that was
    asked for; an empty one means any. `prefix` is the digest of all that came before the part, where the
    provider binds the part to it.
    """

    provider: str
    endpoint: str = ""
    model: str = ""
    prefix: str = ""
    extra: dict[str, Any] = {}


class Image(Data, frozen=True, kw_only=True):
    """An image by exactly one of `data` (bytes), `url` (never fetched by the data layer) or `path`.

    `width` and `height` are pixels; `from_bytes` and its like read them from the bytes.
    """

    data: bytes | None = None
    url: str | None = None
    path: str | None = None
    mime_type: str | None = None
    width: int | None = None
    height: int | None = None
    prompt: str | None = None
    revised_prompt: str | None = None
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "metadata", "extra")
        if sum(source is not None for source in (self.data, self.url, self.path)) != 1:
            raise ValidationError.of("invalid image", ("image", "exactly_one_of_data_url_path"))

    @classmethod
    def from_bytes(cls, data: bytes, mime_type: str | None = None) -> Image:
        """Type (where it is not given) and size are read from the bytes: png, jpeg, gif, webp."""
        from allm.data import pictures

        data = bytes(data)
        width, height = pictures.size(data) or (None, None)
        return cls(data=data, mime_type=mime_type or pictures.media_type(data), width=width, height=height)

    @classmethod
    def from_base64(cls, text: str, mime_type: str | None = None) -> Image:
        """Raises `ValidationError` where `text` is not base64."""
        return cls.from_bytes(_base64(text), mime_type)

    @classmethod
    def from_url(cls, url: str) -> Image:
        return cls(url=url)

    @classmethod
    def from_file(cls, path: str) -> Image:
        """The file is read when the image is sent, not now; the type comes from the extension."""
        extension = str(path).rpartition(".")[2].lower()
        return cls(path=str(path), mime_type=_EXTENSIONS.get(extension))

    @classmethod
    def from_data_uri(cls, uri: str) -> Image:
        head, comma, body = uri.partition(",")
        if not head.startswith("data:") or not comma or not head.endswith(";base64"):
            raise ValidationError.of("invalid image", ("image", "not_a_base64_data_uri"))
        return cls.from_bytes(_base64(body), head[5:].partition(";")[0] or None)

    def to_data_uri(self) -> str:
        """`data:<type>;base64,...`; only of an image that holds its bytes and knows its type."""
        data = self._held("no data URI")
        if self.mime_type is None:
            raise ValidationError.of("no data URI", ("image", "missing_mime_type"))
        return f"data:{self.mime_type};base64,{base64_text(data)}"

    def to_bytes(self) -> bytes:
        """The bytes. Raises `ValidationError` where they are elsewhere: behind a URL, or in a file."""
        return self._held("no bytes")

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the bytes to `path`, whose name is taken as it is, and return it.

        The file is there whole or not at all; its directory must exist. Raises `ValidationError` where
        the bytes are elsewhere, and `OSError`.
        """
        import os
        from pathlib import Path

        data, target = self._held("nothing to save"), Path(path)
        written = target.with_name(f".{os.urandom(8).hex()}.part")
        try:
            written.write_bytes(data)
            written.replace(target)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
        return target

    def _held(self, failing: str) -> bytes:
        if self.data is None:
            where, reason = ("a URL", "remote_source") if self.url else ("a file", "file_not_read")
            raise ValidationError.of(f"{failing}: the image is {where}, not bytes", ("image", reason))
        return self.data


def base64_text(data: bytes) -> str:
    """`data` in base64, padded, on one line."""
    from base64 import b64encode

    return b64encode(data).decode()


def _base64(text: str) -> bytes:
    from base64 import b64decode

    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ValidationError.of("invalid image", ("image", "invalid_base64")) from None


class _Part(Data, frozen=True, tag_field="type", kw_only=True):
    """`provider_data` is what the provider at `origin` must see again unchanged."""

    provider_data: dict[str, Any] = {}
    origin: Origin | None = None
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.provider_data or self.extra:
            normalise(self, "provider_data", "extra")


class TextPart(_Part, frozen=True, tag="text"):
    text: str


class ImagePart(_Part, frozen=True, tag="image"):
    """`detail` is `auto`, `low` or `high`."""

    image: Image
    detail: str = "auto"


class AudioPart(_Part, frozen=True, tag="audio"):
    """Sound as bytes in `format` (`wav`, `mp3` ...); `id` refers to audio the provider still holds."""

    data: bytes = b""
    format: str = "wav"
    id: str | None = None
    transcript: str | None = None


class FilePart(_Part, frozen=True, tag="file"):
    """A document by its bytes, its URL, or the id under which the provider holds it."""

    data: bytes | None = None
    url: str | None = None
    file_id: str | None = None
    mime_type: str | None = None
    filename: str | None = None


class ReasoningPart(_Part, frozen=True, tag="reasoning"):
    """The model's thinking. `signature` and `redacted` go back to their origin unchanged."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    id: str | None = None


class ToolCall(_Part, frozen=True, tag="tool_call"):
    """The model asks for a tool. `arguments` is the parsed object.

    Where the text was not a JSON object, `arguments` is `{}`, `arguments_invalid` is true and
    `raw_arguments` keeps the text: such a call never reaches a handler.
    """

    id: str
    name: str
    arguments: dict[str, Any] = {}
    raw_arguments: str | None = None
    arguments_invalid: bool = False
    kind: str = "function"

    def __post_init__(self) -> None:
        if self.arguments or self.provider_data or self.extra:
            normalise(self, "arguments", "provider_data", "extra")


class OpaquePart(_Part, frozen=True, tag="opaque"):
    """Anything that must go back as it came: server tools, compaction items, unknown parts."""

    data: Any

    def __post_init__(self) -> None:
        normalise(self, "data", "provider_data", "extra")


Part = TextPart | ImagePart | AudioPart | FilePart | ReasoningPart | ToolCall | OpaquePart

_JSON = msgspec.json.Decoder()


def parsed_call(
    id: str, name: str, raw: str, *, provider_data: dict[str, Any] | None = None, origin: Origin | None = None
) -> ToolCall:
    """A tool call from the text of its arguments; empty text and `null` mean no arguments."""
    try:
        value = _JSON.decode(raw) if raw.strip() else {}
        value = {} if value is None else value
        if isinstance(value, dict):
            # A colon stands behind every key: where there are no more of them than keys, none comes twice.
            if raw.count(":") != len(value):
                _strict().decode(raw)  # raises
            return ToolCall(id, name, value, raw, provider_data=provider_data or {}, origin=origin)
    except (msgspec.DecodeError, ValidationError, RecursionError, ValueError):
        pass
    return ToolCall(id, name, {}, raw, True, provider_data=provider_data or {}, origin=origin)


@cache
def _strict() -> JSONDecoder:
    """A decoder that refuses an object with the same key twice, of which msgspec takes the last."""
    from json import JSONDecoder

    return JSONDecoder(object_pairs_hook=_unique)


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("an object has the same key twice")
    return result
