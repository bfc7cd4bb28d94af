"""Which transport does the work: what `Engine(transport=...)` means on one face."""

from __future__ import annotations

import functools
from typing import Any, Final

from allm.errors import ConfigurationError

_BEST_FIRST: Final = {
    "blocking": ("httptools", "httpx2"),
    "asyncio": ("httptools", "httpx2"),
    "trio": ("httpx2",),
}
_LEAST: Final = {"httptools": (0, 7)}  # the version that has all that is used; httpx2 is always there


def transport_of(wanted: Any, face: str) -> Any:
    """The transport for `face`, which is "blocking" or "awaited".

    `wanted` is "auto" (or `None`), the name of a package, or a transport of one's own, or an object that
    holds one under the face's name. Raises `ConfigurationError` for one that cannot serve this face.
    """
    if wanted is None or isinstance(wanted, str):
        return _named(wanted or "auto", face)
    chosen = getattr(wanted, face, wanted)
    if hasattr(chosen, "aclose") == (face == "awaited"):
        return chosen
    kind, way = ("a blocking", "without") if face == "awaited" else ("an awaited", "with")
    raise ConfigurationError(
        f"the transport is {kind} one and cannot be used on the {face} face; use it {way} allm.aio"
    )


def _named(name: str, face: str) -> Any:
    import allm.drivers.http as http

    if face == "blocking":
        return http.transport_for(kind=_kind(name, face))
    from allm.drivers.http.awaited import in_trio

    return http.async_transport_for(kind=_kind(name, "trio" if in_trio() else "asyncio"))


@functools.cache
def _kind(name: str, face: str) -> str:
    """The package that `name` stands for on blocking calls, asyncio or trio."""
    kinds = _BEST_FIRST[face]
    if name == "auto":
        return next(kind for kind in kinds if _installed(kind))
    known = sorted({kind for kinds in _BEST_FIRST.values() for kind in kinds})
    if name not in known:
        raise ConfigurationError(f"there is no transport {name!r}; use 'auto' or one of {', '.join(known)}")
    if name not in kinds:
        raise ConfigurationError(f"the transport {name!r} does not run on {face}; use 'auto' or 'httpx2'")
    if not _installed(name):
        least = ".".join(map(str, _LEAST[name]))
        raise ConfigurationError(
            f'the transport {name!r} needs {name} {least} or newer: pip install "pyallm[fast]"'
        )
    return name


def _installed(kind: str) -> bool:
    """Whether the package is there, new enough, and can be imported: its binary may be another system's."""
    if kind not in _LEAST:
        return True
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(kind).split(".")
        import_module(kind)
    except (PackageNotFoundError, ImportError):
        return False
    numbers = tuple(int(part) if part.isdigit() else 0 for part in found[:2])
    return numbers >= _LEAST[kind]
