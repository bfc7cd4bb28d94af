"""Scripts: what a scripted server is to answer, as entries, and read into turns.

A turn is a list of entries. Each is a dict with exactly one of

`text`, `reasoning`: a string, or a list of strings, one a delta; `tool_call`: `{id, name, arguments}`, or
`raw_arguments` instead: JSON text as it is, broken too (Messages: in streams; generateContent: never);
`image`, `partial_image`: its bytes, or fields of `Image`; `vectors`: a list of lists of numbers; `usage`:
fields of `Usage`; `finish`: the finish reason; `error`: an HTTP status, or `{status, message, code,
headers}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from allm.data.content import Image, base64_text
from allm.data.responses import Usage
from allm.errors import ConfigurationError
from allm.options import listed

Entry = Mapping[str, Any]

USAGE: Final = Usage(input_tokens=12, output_tokens=5)
"""What a turn without `usage` reports."""

_MESSAGES: Final = {
    400: "the request is not valid",
    401: "the API key is not valid",
    404: "the model does not exist",
    429: "too many requests",
}


class Text(Struct, frozen=True):
    entry: ClassVar[str] = "text"
    pieces: tuple[str, ...]

    @property
    def whole(self) -> str:
        return "".join(self.pieces)


class Thought(Text, frozen=True):
    entry: ClassVar[str] = "reasoning"


class Call(Struct, frozen=True):
    """`arguments` is JSON text."""

    entry: ClassVar[str] = "tool_call"
    id: str
    name: str
    arguments: str


class Picture(Struct, frozen=True):
    entry: ClassVar[str] = "image"
    image: Image
    partial: bool = False

    @property
    def base64(self) -> str:
        return base64_text(self.image.data or b"")

    @property
    def format(self) -> str:
        return (self.image.mime_type or "image/png").removeprefix("image/")


class Fault(Struct, frozen=True):
    status: int
    message: str = ""
    code: str | None = None
    headers: dict[str, str] = {}

    @property
    def text(self) -> str:
        return self.message or _MESSAGES.get(self.status, "the service has failed")


Item = Text | Call | Picture


class Turn(Struct, frozen=True):
    """A turn that was read. `finish` is a word of `Response.finish_reason`, or the provider's own."""

    items: tuple[Item, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    finish: str = "stop"
    usage: Usage = USAGE
    fault: Fault | None = None

    def of(self, kind: Any) -> list[Any]:
        return [item for item in self.items if type(item) is kind]


def read_turn(entries: Sequence[Any]) -> Turn:
    """The entries of a turn. Raises `ConfigurationError` that names the one that cannot be read."""
    if not listed(entries):
        raise ConfigurationError(f"a turn is a list of entries, not {type(entries).__name__}")
    items: list[Item] = []
    rest: dict[str, Any] = {}
    for entry in entries:
        if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in _READERS:
            raise ConfigurationError(f"the entry {entry!r} is not a dict with one of {', '.join(_READERS)}")
        ((kind, value),) = entry.items()
        try:
            read = _READERS[kind](value)
        except (KeyError, TypeError, ValueError) as error:  # msgspec's own errors are ValueErrors
            raise ConfigurationError(f"the entry {kind!r} cannot be read: {error!r}") from None
        if kind in _FIELDS:
            rest[_FIELDS[kind]] = read
        else:
            items.append(read)
    rest.setdefault("finish", "tool_calls" if any(type(item) is Call for item in items) else "stop")
    return Turn(tuple(items), **rest)


def _pieces(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _call(value: Mapping[str, Any]) -> Call:
    raw = value.get("raw_arguments")
    return Call(value["id"], value["name"], as_json(value.get("arguments", {})) if raw is None else raw)


def _image(value: bytes | Mapping[str, Any]) -> Image:
    if isinstance(value, bytes):
        return Image.from_bytes(value)
    return Image(**{"mime_type": Image.from_bytes(value["data"]).mime_type, **value})


def _fault(value: int | Mapping[str, Any]) -> Fault:
    return Fault(value) if isinstance(value, int) else Fault(**value)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "text": lambda value: Text(_pieces(value)),
    "reasoning": lambda value: Thought(_pieces(value)),
    "tool_call": _call,
    "image": lambda value: Picture(_image(value)),
    "partial_image": lambda value: Picture(_image(value), partial=True),
    "vectors": lambda value: tuple([tuple(map(float, row)) for row in value]),
    "usage": lambda value: msgspec.convert(dict(value), Usage),
    "finish": str,
    "error": _fault,
}
_FIELDS: Final = {"vectors": "vectors", "usage": "usage", "finish": "finish", "error": "fault"}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
