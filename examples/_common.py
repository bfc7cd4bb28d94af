"""What the examples share: which provider is asked, and a picture to show it.

ALLM_PROVIDER is `openai` (the default), `anthropic` or `gemini`, ALLM_MODEL one of its models. Without the
provider's key a scripted server on this machine answers, in the provider's own wire format.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import allm

KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
}
CHAT = {"openai": "gpt-6-luna", "anthropic": "claude-haiku-5-5", "gemini": "gemini-3.8-flash"}
IMAGES = {"openai": "gpt-image-2", "gemini": "gemini-3.1-flash-image"}

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How a picture begins: PNG, or JPEG from some models of Gemini."""


def provider() -> str:
    return os.environ.get("ALLM_PROVIDER", "openai")


@contextmanager
def asking(slot: str, models: Mapping[str, str], script: list[Any]) -> Iterator[allm.Engine]:
    """An engine for the provider, its model in `slot`; `script` is played where there is no key."""
    name = provider()
    if name not in models:
        raise SystemExit(f"this example is for {' and '.join(models)}, not for {name}")
    model = str(allm.ModelRef.parse(os.environ.get("ALLM_MODEL", models[name]), name))
    fields: Any = {slot: model}
    if any(os.environ.get(variable) for variable in KEYS[name]):
        yield allm.Engine(**fields)
        return
    with allm.testing.scripted(script) as server:
        yield server.engine(**fields)


def square(red: int, green: int, blue: int, alpha: int = 255, size: int = 256) -> bytes:
    """A PNG of one colour."""
    row = b"\0" + bytes((red, green, blue, alpha)) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    pixels = zlib.compress(row * size)
    return SIGNATURES[0] + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
