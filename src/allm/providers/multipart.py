"""Bodies of `multipart/form-data`: text fields and files, by RFC 7578. Pure: equal parts give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from allm.errors import ValidationError


class File(Struct, frozen=True):
    """A part that is a file."""

    name: str
    filename: str
    mime_type: str
    data: bytes


def multipart(fields: Mapping[str, Any], files: Iterable[File]) -> tuple[str, bytes]:
    """Content type and body of a form, its fields before its files.

    A field is JSON data: `true` and `false` for booleans, `name[key]` for each entry of a map, `name[]` for
    each item of a list, and none at all for `None`. The boundary is a digest of the content. Raises
    `ValidationError` for what cannot stand in a header and for text that cannot be encoded.
    """
    parts = [(_head(name), _encoded(text)) for name, text in _flat("", fields)]
    parts += [(_file_head(file), file.data) for file in files]
    digest = sha256()
    for head, data in parts:
        digest.update(head)
        digest.update(data)
    boundary = digest.hexdigest()[:32]
    line = b"--" + boundary.encode()
    pieces = [piece for head, data in parts for piece in (line, b"\r\n", head, b"\r\n\r\n", data, b"\r\n")]
    return f"multipart/form-data; boundary={boundary}", b"".join([*pieces, line, b"--\r\n"])


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A field as pairs of name and text."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}[{key}]" if name else str(key), item)
    elif isinstance(value, list):
        for item in value:
            yield from _flat(f"{name}[]", item)
    elif isinstance(value, str):
        yield name, value
    elif value is not None:
        yield name, msgspec.json.encode(value).decode()


def _head(name: str) -> bytes:
    return f'Content-Disposition: form-data; name="{_safe(name)}"'.encode()


def _file_head(file: File) -> bytes:
    rest = f'; filename="{_safe(file.filename)}"\r\nContent-Type: {_safe(file.mime_type)}'
    return _head(file.name) + rest.encode()


def _safe(text: str) -> str:
    if not text.isprintable() or '"' in text:
        raise ValidationError.of("a form cannot be made", (f"{text[:80]!r}", "not_for_a_header"))
    return text


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValidationError.of("text that cannot be encoded", ("prompt", "lone_surrogate")) from None
