"""What the examples share: whom they ask, and a picture to show.

ALLM_PROVIDER is `openai` (the default), `anthropic`, `gemini` or `local`. ALLM_MODEL is the model that
talks, with or without its provider, ALLM_IMAGE_MODEL the one that draws. Without the provider's key a
scripted server on this machine answers, in the provider's own wire format.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from _checks import check_requests

import __main__
import allm

Script = list[Any]
"""Turns of a scripted server: `allm.testing.scripts`."""


class Provider(NamedTuple):
    """Its models, and the variables that may hold its key, if it needs one."""

    chat: str
    image: str = ""
    keys: tuple[str, ...] = ()
    temperature: float = 0

    @property
    def scripted(self) -> bool:
        return bool(self.keys) and not any(map(os.environ.get, self.keys))


PROVIDERS = {
    "openai": Provider("gpt-6-luna", "gpt-image-2", ("OPENAI_API_KEY",)),
    "anthropic": Provider("claude-haiku-5-5", keys=("ANTHROPIC_API_KEY",)),
    "gemini": Provider("gemini-3.8-flash", "gemini-3.1-flash-image", ("GOOGLE_API_KEY", "GEMINI_API_KEY"), 1),
    "local": Provider("default"),
}


def provider() -> str:
    """Whom to ask. An example says in `NOT_FOR` which providers cannot do what it shows, and why."""
    named = os.environ.get("ALLM_MODEL", "").partition(":")[0]
    name = os.environ.get("ALLM_PROVIDER") or (named if named in PROVIDERS else "openai")
    if name not in PROVIDERS:
        raise SystemExit(f"ALLM_PROVIDER is {name!r}; it can be {', '.join(PROVIDERS)}")
    why = getattr(__main__, "NOT_FOR", {}).get(name)
    if why is not None:
        raise SystemExit(f"this example is not for {name}: {why}")
    return name


def chat_model(name: str) -> str:
    given = os.environ.get("ALLM_MODEL")
    return str(allm.ModelRef.parse(PROVIDERS[name].chat if given in (None, "", name) else given, name))


@contextmanager
def chat_engine(script: Script, **fields: Any) -> Iterator[allm.Engine]:
    """An engine that talks, with these fields. `script` is what is answered where there is no key."""
    name = provider()
    model, chosen = chat_model(name), PROVIDERS[name]
    # A model that takes no temperature is asked without; the response has a warning then.
    fields["params"] = {"temperature": chosen.temperature}
    if not chosen.scripted:
        yield allm.Engine(model, **fields)
        return
    with allm.testing.scripted(script) as server:
        engine = server.engine(model, **fields)
        yield engine
    check_requests(server.asked, script, engine, model)


@contextmanager
def image_engine(script: Script) -> Iterator[allm.Engine]:
    """An engine that draws. `script` holds the pictures where there is no key."""
    name = provider()
    chosen = PROVIDERS[name]
    model = str(allm.ModelRef.parse(os.environ.get("ALLM_IMAGE_MODEL") or chosen.image, name))
    if not chosen.scripted:
        yield allm.Engine(image_adapter=model)
        return
    with allm.testing.scripted(script) as server:
        yield server.engine(image_adapter=model)


SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How a picture begins: PNG, or JPEG from some models of Gemini."""


def square(red: int, green: int, blue: int, alpha: int = 255, size: int = 256) -> bytes:
    """A PNG of one colour."""
    row = b"\0" + bytes((red, green, blue, alpha)) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    pixels = zlib.compress(row * size)
    return SIGNATURES[0] + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
