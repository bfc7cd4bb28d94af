"""Where files of the user's belong on this platform. The directories may not exist yet."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data_dir() -> Path:
    """`ALLM_DATA`, else the user's data directory."""
    return _chosen("ALLM_DATA") or _usual("Application Support", "XDG_DATA_HOME", ".local/share")


def cache_dir() -> Path:
    """`ALLM_CACHE`, else the user's cache directory."""
    return _chosen("ALLM_CACHE") or _usual("Caches", "XDG_CACHE_HOME", ".cache")


def _chosen(variable: str) -> Path | None:
    chosen = os.environ.get(variable)
    return Path(chosen).expanduser() if chosen else None


def _usual(library: str, variable: str, default: str) -> Path:
    """Our part of a directory: `library` of macOS, elsewhere `variable` or what stands for it at home."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "allm"
    if sys.platform == "darwin":
        return Path.home() / "Library" / library / "allm"
    return Path(os.environ.get(variable) or Path.home() / default) / "allm"
