"""What the first bytes of a picture tell: its media type and its size in pixels.

Arithmetic on bytes, for PNG, JPEG, GIF and WebP; nothing is decoded and nothing is raised. Sources: the
W3C's PNG and GIF89a specifications, ITU-T T.81 for JPEG, RFC 9649 for WebP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Size = tuple[int, int]

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
_MOST_SEGMENTS: Final = 1000  # of a JPEG before its frame; a large profile takes some 250


def media_type(data: bytes) -> str | None:
    """The media type of a picture, or `None` where the bytes begin like none of the four."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _SIGNATURES if data.startswith(start)), None)


def size(data: bytes) -> Size | None:
    """Width and height in pixels as stored (a JPEG's rotation is not applied), or `None`."""
    read = _READERS.get(media_type(data) or "")
    found = read(data) if read is not None else None
    return found if found is not None and all(found) else None


def _png(data: bytes) -> Size | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif(data: bytes) -> Size | None:
    if len(data) < 10:
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _jpeg(data: bytes) -> Size | None:
    """The size in the first frame header; the segments before it are skipped by their lengths."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if len(data) < at + 9 or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: bytes) -> Size | None:
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8 " and len(body) == 10 and body[3:6] == b"\x9d\x01\x2a":
        return (
            int.from_bytes(body[6:8], "little") & 0x3FFF,
            int.from_bytes(body[8:10], "little") & 0x3FFF,
        )
    if kind == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    return None


_READERS: Final[dict[str, Callable[[bytes], Size | None]]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
}
