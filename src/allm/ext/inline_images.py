"""Pictures in terminals that can show them: the protocols of kitty and of iTerm2.

Sources: "Terminal graphics protocol" (sw.kovidgoyal.net/kitty) and "Inline Images Protocol"
(iterm2.com), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from allm.data.content import Image, base64_text

WIDEST: Final = 60  # columns

_PIECE: Final = 4096  # characters of base64 that kitty takes at once
_LIKE_KITTY: Final = ("xterm-kitty", "xterm-ghostty")
_LIKE_ITERM: Final = ("iTerm.app", "WezTerm")


def inline_image(image: Image, environment: Mapping[str, str], columns: int) -> str:
    """What shows the picture in the terminal that `environment` tells of; empty where nothing does.

    `columns` is the terminal's width. Inside a multiplexer, which would swallow it, nothing is shown.
    """
    terminal = environment.get("TERM", "")
    if image.data is None or "TMUX" in environment or terminal.startswith(("screen", "tmux")):
        return ""
    width = min(columns, WIDEST)
    if environment.get("KITTY_WINDOW_ID") or terminal in _LIKE_KITTY:
        return _kitty(image.data, width) if image.mime_type == "image/png" else ""
    if environment.get("TERM_PROGRAM") in _LIKE_ITERM:
        size = f"size={len(image.data)};width={width}"
        return f"\x1b]1337;File=inline=1;{size}:{base64_text(image.data)}\x07"
    return ""


def _kitty(data: bytes, width: int) -> str:
    """A PNG in pieces; `q=2` asks for no answer, which would end up in the user's input."""
    text = base64_text(data)
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    shown = []
    for index, piece in enumerate(pieces):
        control = f"a=T,f=100,q=2,c={width}," if index == 0 else ""
        more = int(index < len(pieces) - 1)
        shown.append(f"\x1b_G{control}m={more};{piece}\x1b\\")
    return "".join(shown)
