"""HTTP for the drivers. Here: the transports of this process and of its event loops, and their end.

| module | what it has |
|---|---|
| `calls`, `failures` | deadlines and cancelling of one exchange; what went wrong as an error of the library |
| `messages`, `routes`, `codings` | requests and heads; certificates and proxies; compressed bodies |
| `sockets`, `idle` | blocking sockets that any thread can end; idle connections |
| `blocking`, `awaited` | the transports of both faces |
| `direct_blocking`, `direct_asyncio` | connections of our own, where no proxy is needed |
| `answers`, `framing` | what reads their answers: h11 the heads; bodies out of their framing |
| `fast` | what reads both with the extra `fast`: httptools |
| `core` | httpcore2's connections, for proxies and for trio; `blocking` and `awaited` have them |

Import it lazily: it brings an HTTP client.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial
from typing import Any

from allm.drivers.http.answers import Answer, H11Answer
from allm.drivers.http.awaited import AsyncCoreLine, AsyncDial, AsyncHttpTransport, in_trio, turn
from allm.drivers.http.blocking import OPEN, Dial, HttpTransport
from allm.drivers.http.direct_blocking import DirectLine
from allm.drivers.http.routes import HttpSettings

__all__ = ["HttpSettings", "aclose", "async_transport_for", "close", "transport_for"]


def transport_for(settings: HttpSettings | None = None, kind: str = "httpx2") -> HttpTransport:
    """The blocking transport of these settings in this process; `kind` is httpx2 or httptools."""
    settings = settings or HttpSettings()
    key = (settings, kind, os.getpid())
    with _LOCK:
        transport = _BLOCKING.get(key)
        if transport is None:
            transport = _BLOCKING[key] = HttpTransport(settings, _dial(kind))
        return transport


def async_transport_for(settings: HttpSettings | None = None, kind: str = "httpx2") -> AsyncHttpTransport:
    """The transport of these settings in the running loop; it ends with the loop. httptools is for asyncio.

    Raises RuntimeError outside a loop.
    """
    key = (settings or HttpSettings(), kind)
    loop = _here()
    if loop is None:
        raise RuntimeError("no event loop is running")
    _sweep()
    home = _HOMES.get(id(loop))
    if home is None:
        home = _HOMES[id(loop)] = _Home(loop)
    transport = home.transports.get(key)
    if transport is None:
        transport = home.transports[key] = AsyncHttpTransport(key[0], _async_dial(kind))
    return transport


def _dial(kind: str) -> Dial:
    return partial(DirectLine, answers=_answers(kind))


def _async_dial(kind: str) -> AsyncDial:
    if in_trio():
        return AsyncCoreLine
    from allm.drivers.http.direct_asyncio import AsyncDirectLine

    return partial(AsyncDirectLine, answers=_answers(kind))


def _answers(kind: str) -> type[Answer]:
    if kind == "httpx2":
        return H11Answer
    from allm.drivers.http.fast import FastAnswer

    return FastAnswer


class _Home:
    """The transports of one loop, and the generator whose closing tells that the loop ends."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop  # an asyncio loop, or a trio token
        self.transports: dict[tuple[HttpSettings, str], AsyncHttpTransport] = {}
        self.guard = self._until_the_end()
        # Started by hand, as this is no coroutine; both libraries close such generators before a loop ends.
        with suppress(StopIteration):
            self.guard.__anext__().send(None)

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _HOMES.pop(id(self.loop), None)
            await self._sever_inside()

    def sever(self) -> None:
        transports, self.transports = self.transports, {}
        for transport in transports.values():
            transport.sever()

    async def _sever_inside(self) -> None:
        self.sever()
        await turn()

    def ended(self) -> bool:
        closed = getattr(self.loop, "is_closed", None)
        return bool(closed is not None and closed())

    def release(self) -> None:
        """Sever from whatever thread this is."""
        later = getattr(self.loop, "call_soon_threadsafe", None) or getattr(self.loop, "run_sync_soon", None)
        if self.ended() or later is None or self.loop is _here():
            self.sever()
        elif getattr(self.loop, "is_running", lambda: True)():
            with suppress(Exception):  # the loop ended meanwhile and took its sockets along
                later(self.sever)
        else:
            with suppress(RuntimeError):
                self.loop.run_until_complete(self._sever_inside())


_LOCK = threading.Lock()
_BLOCKING: dict[tuple[HttpSettings, str, int], HttpTransport] = {}
_HOMES: dict[int, _Home] = {}
_PARENTS: list[Any] = []  # a parent's asyncio objects: closing them would touch what the two share


def _here() -> Any:
    """The running asyncio loop or trio token; None outside."""
    if in_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def _sweep() -> None:
    """Drop what belongs to loops that were closed without closing their generators."""
    for key, home in list(_HOMES.items()):
        if home.ended():
            _HOMES.pop(key, None)
            home.sever()


def _close_blocking() -> None:
    with _LOCK:
        transports = list(_BLOCKING.values())
        _BLOCKING.clear()
    for transport in transports:
        transport.close()


def close() -> None:
    """Close every transport here; those of running loops are told to and close there."""
    _close_blocking()
    _sweep()
    for home in list(_HOMES.values()):
        home.release()


async def aclose() -> None:
    """As `close`; the running loop's idle sockets are closed when it returns."""
    close()
    await turn()


def _after_fork() -> None:
    """In the child: forget the parent's transports, and let no lock held at the fork be waited for."""
    global _LOCK
    _LOCK = threading.Lock()
    _BLOCKING.clear()
    for transport in list(OPEN):
        transport.forked()
    _PARENTS.extend(_HOMES.values())
    _HOMES.clear()


atexit.register(_close_blocking)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
