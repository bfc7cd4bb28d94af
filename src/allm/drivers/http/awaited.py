"""Awaited HTTP/1.1 on asyncio and trio alike, for one event loop; `allm.drivers.http.blocking` says why."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

import anyio
import httpcore2
import httpx2

from allm.drivers.http import core
from allm.drivers.http.calls import Call
from allm.drivers.http.codings import Inflate, inflate_for
from allm.drivers.http.failures import STALE, explain
from allm.drivers.http.idle import Idle, recent
from allm.drivers.http.messages import Target, Wire, head_of, headers_of, wire_of
from allm.drivers.http.routes import HttpSettings, Routes
from allm.drivers.http.sockets import READ, WRITE, readable, tune
from allm.errors import AllmError
from allm.limits import Timeouts
from allm.ports import HttpHead, HttpRequest


def in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


async def turn() -> None:
    """Let asyncio run the callbacks in which transports close; trio closes without."""
    if not in_trio():
        import asyncio

        await asyncio.sleep(0)


class AsyncLine(Protocol):
    """A connection: where it leads, the call that uses it now, and since when it is idle."""

    key: str
    call: Call
    since: float

    async def exchange(self, wire: Wire) -> HttpHead:
        """Connect where needed, send the request and wait for the head."""

    async def more(self) -> bytes:
        """What has come of the body, in one piece; waits for the first byte; b"" at its end."""

    async def settle(self) -> bool:
        """The body has ended: whether the connection can serve again."""

    async def abandon(self) -> None:
        """Let go of what still reads; the socket is closed already."""

    def fit(self) -> bool:
        """Whether the connection, idle until now, still seems to be open, and nothing has come on it."""

    def take(self, call: Call) -> None: ...

    def kill(self) -> None:
        """Close the socket at once; from the loop's own thread. The child of a fork leaves it alone."""


AsyncDial = Callable[[HttpSettings, Target, httpx2.Proxy | None, Call], AsyncLine]


class AsyncCoreLine(httpcore2.AsyncNetworkBackend):
    """A connection of httpcore2, on either kind of loop: for hosts behind a proxy, and for all under trio."""

    def __init__(
        self, settings: HttpSettings, target: Target, proxy: httpx2.Proxy | None, call: Call
    ) -> None:
        self.key = target.origin
        self.call = call
        self.since = 0.0
        self.handshakes = core.handshakes(target, proxy)
        options = core.options_of(settings, target, proxy) | {"network_backend": self}
        factory: Any = httpcore2.AsyncConnectionPool
        if proxy is not None:
            factory = httpcore2.AsyncSOCKSProxy if core.is_socks(proxy) else httpcore2.AsyncHTTPProxy
        self._connection = factory(**options).create_connection(target.url.origin)
        self._stream: Any = None
        self._body: core.Pieces | AsyncIterator[bytes] | None = None
        self._joint = core.Joint()
        self._inner: Any = None
        self._closed = False
        self._early = b""  # of an answer that began while the request was sent
        self._process = os.getpid()

    async def exchange(self, wire: Wire) -> HttpHead:
        self._joint = core.Joint(wire)
        response = await self._connection.handle_async_request(core.request_of(wire))
        self._stream = response.stream
        state = core.parser_of(self._connection)
        self._body = aiter(self._stream) if state is None else core.Pieces(state)
        return head_of(response.status, headers_of(response.headers), wire.target)

    async def more(self) -> bytes:
        body = self._body
        assert body is not None
        if not isinstance(body, core.Pieces):
            async for data in body:
                if data:
                    return data
            return b""
        while not (piece := body.take()) and not body.ended:
            body.feed(await self.receive(READ))
        return piece

    async def settle(self) -> bool:
        # The engine's stream refers to its request, key and all: an idle connection must not.
        stream, self._stream, self._body = self._stream, None, None
        await stream.aclose()
        return core.spent(self._connection)

    async def abandon(self) -> None:
        closing = getattr(self._body, "aclose", None)
        if closing is not None:
            with suppress(Exception):  # a reader in another task ends by itself
                await closing()

    def fit(self) -> bool:
        return not _unread(self._inner)

    def take(self, call: Call) -> None:
        self.call = call
        call.begin()

    def kill(self) -> None:
        if not self._closed and self._process == os.getpid():
            self._closed = True
            _sever(self._inner)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        backend = httpcore2.TrioBackend() if in_trio() else httpcore2.AnyIOBackend()
        try:
            inner = await backend.connect_tcp(host, port, self.call.left())
        except httpcore2.TimeoutException:
            raise self.call.expired() from None
        tune(inner.get_extra_info("socket"))
        self._adopt(inner)
        return _Bytes(self)

    async def secure(self, context: ssl.SSLContext, name: str | None) -> None:
        call = self.call
        try:
            self._adopt(await self._inner.start_tls(context, name, call.left()))
        except httpcore2.TimeoutException:
            raise call.expired() from None
        self.handshakes -= 1
        call.received = 0

    def _adopt(self, inner: Any) -> None:
        self._inner = inner
        if self._closed:
            _sever(inner)

    async def receive(self, most: int) -> bytes:
        call = self.call
        data, self._early = self._early, b""
        if not data:
            try:
                data = await self._inner.read(most, call.left())
            except httpcore2.TimeoutException:
                raise call.expired() from None
        call.received += len(data)
        return data

    async def transmit(self, data: memoryview) -> None:
        call = self.call
        if self.handshakes > 0:
            await self._send(data, call)
            return
        if len(data) <= WRITE:
            call.writing()
            await self._send(data, call)
        else:
            await self._upload(data, call)
        call.waiting()

    async def _upload(self, data: memoryview, call: Call) -> None:
        """Send a long request and listen meanwhile: a server may answer, and close, before it read it all."""
        failed: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen, group.cancel_scope)
            try:
                while data:
                    call.writing()
                    await self._send(data[:WRITE], call)
                    data = data[WRITE:]
            except Exception as exc:  # kept, as a group would wrap it
                failed = exc
            group.cancel_scope.cancel()
        if data and self._early:
            call.waiting()
            raise httpcore2.WriteError("answered early")
        if failed is not None:
            raise failed

    async def _listen(self, sending: anyio.CancelScope) -> None:
        """End the sending when an answer comes. After one of 1xx, which is none yet, it goes on unheard."""
        interim = b"HTTP/1.1 1"
        with suppress(httpcore2.NetworkError):  # the sending finds out by itself
            while len(self._early) < len(interim):
                data = await self._inner.read(READ, None)
                if not data:
                    return
                self._early += data
            if not self._early.startswith(interim):
                sending.cancel()

    async def _send(self, data: memoryview, call: Call) -> None:
        try:
            await self._inner.write(data, call.left())
        except httpcore2.TimeoutException:
            if call.phase == "response" and self._inner.get_extra_info("is_readable"):
                call.waiting()
                raise httpcore2.WriteError("answered early") from None
            raise call.expired() from None
        except httpcore2.WriteError:
            call.waiting()
            raise


class _Bytes(httpcore2.AsyncNetworkStream):
    """A line's bytes for the engine, whose own timeouts are not used."""

    __slots__ = ("_line",)

    def __init__(self, line: AsyncCoreLine) -> None:
        self._line = line

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._line.receive(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if data := self._line._joint.joined(buffer):
            await self._line.transmit(data)

    async def aclose(self) -> None:
        self._line.kill()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        await self._line.secure(ssl_context, server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._line._inner.get_extra_info(info)


def _unread(inner: Any) -> bool:
    """Whether anything, or the end, has come on an httpcore2 stream and not been read from it: it may be held
    by any of its layers, which are streams of anyio or trio, or wait in the socket."""
    layer = getattr(inner, "_stream", None)
    while layer is not None:
        if _holds(layer):
            return True
        layer = getattr(layer, "transport_stream", None)
    return readable(inner.get_extra_info("socket"))


_AHEAD: Final = (("_read_bio", "pending"), ("_incoming", "pending"), ("_protocol", "read_queue"))


def _holds(layer: Any) -> bool:
    """Whether a layer has bytes that it read ahead; true as well where it hides them."""
    for place, held in _AHEAD:
        if hasattr(layer, place):
            return bool(getattr(getattr(layer, place), held, True))
    return not hasattr(layer, "socket")  # trio's socket stream does not read ahead


def _sever(inner: Any) -> None:
    """Close the socket under an httpcore2 stream now, without waiting for anything."""
    stream = getattr(inner, "_stream", None)
    while (below := getattr(stream, "transport_stream", None)) is not None:
        stream = below
    transport = getattr(stream, "_transport", None)
    if transport is not None:
        abort(transport)
        return
    with suppress(Exception):
        inner.get_extra_info("socket").close()


def abort(transport: Any) -> None:
    """An asyncio transport closes in a callback of its loop; where that has ended, it is done here."""
    loop = getattr(transport, "_loop", None)
    with suppress(Exception):
        if loop is None or not loop.is_closed():
            transport.abort()
            return
        below = getattr(transport, "_ssl_protocol", None)
        raw = transport if below is None else below._transport
        raw._call_connection_lost(None)


class AsyncHttpBody:
    """An answer over the awaited transport; see `allm.ports.AsyncBody`."""

    __slots__ = ("_call", "_closed", "_inflate", "_line", "_transport", "ended", "head")

    def __init__(self, transport: AsyncHttpTransport, line: AsyncLine, call: Call, head: HttpHead) -> None:
        self.head = head
        self.ended = False
        self._transport, self._line, self._call = transport, line, call
        self._inflate: Inflate | str | None = ""  # not looked at yet
        self._closed = False
        call.phase = "stream"

    async def read(self, timeout: float | None = None) -> bytes:
        if self._closed:
            if self._call.cancelled:
                raise self._call.ended()
            return b""
        self._call.reading(timeout)
        failure: AllmError | None = None
        try:
            data = await self._pull()
            if data:
                return data
            await self._transport.keep(self._line)
            self._closed = self.ended = True
        except BaseException as exc:
            self._abandon()
            failure = explain(exc, self._call)
            if failure is None:
                raise
        if failure is not None:
            await self._line.abandon()
            raise failure
        return b""

    async def _pull(self) -> bytes:
        if self._inflate == "":
            self._inflate = inflate_for(self.head)
        inflate = self._inflate
        if not isinstance(inflate, Inflate):
            return await self._line.more()
        while not (piece := inflate.piece()):
            raw = await self._line.more()
            if not raw:
                inflate.end()
                return b""
            inflate.feed(raw)
        return piece

    def _abandon(self) -> None:
        if not self._closed:
            self._closed = True
            self._line.kill()

    def cancel(self) -> None:
        """End a waiting `read`, which raises CancelledError; from the loop's own thread."""
        self._call.cancelled = True
        self._line.kill()

    async def aclose(self) -> None:
        """Close the connection at once unless the body was read to its end; needs no shield."""
        if not self._closed:
            self._abandon()
            await self._line.abandon()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._abandon()


class AsyncHttpTransport:
    """See `allm.ports.AsyncTransport`. One of `async_transport_for` ends with its loop; one made directly
    is to be closed before that. `dial` makes the connections that no proxy is needed for."""

    def __init__(self, settings: HttpSettings | None = None, dial: AsyncDial = AsyncCoreLine) -> None:
        self.settings = settings or HttpSettings()
        self._dial = dial
        self._routes = Routes(self.settings)
        self._idle: Idle[AsyncLine] = Idle(self.settings.max_keepalive)
        self._closed = False

    async def open(
        self, request: HttpRequest, timeouts: Timeouts, key_header: tuple[str, str] | None = None
    ) -> AsyncHttpBody:
        """As `HttpTransport.open`; a cancelled task leaves no connection behind."""
        call = Call(timeouts)
        wire = wire_of(request, key_header)
        failure: AllmError | None = None
        try:
            return await self._exchange(wire, call)
        except BaseException as exc:
            failure = explain(exc, call)
            if failure is None:
                raise
        raise failure

    async def _exchange(self, wire: Wire, call: Call) -> AsyncHttpBody:
        line = self._reuse(wire.target.origin)
        if line is not None:
            line.take(call)
            try:
                return await self._answer(line, wire, call)
            except STALE:
                if call.received:
                    raise
        call.begin()
        proxy = self._routes.proxy(wire.target)
        dial = self._dial if proxy is None else AsyncCoreLine
        return await self._answer(dial(self.settings, wire.target, proxy, call), wire, call)

    async def _answer(self, line: AsyncLine, wire: Wire, call: Call) -> AsyncHttpBody:
        try:
            return AsyncHttpBody(self, line, call, await line.exchange(wire))
        except BaseException:
            line.kill()
            raise

    def _reuse(self, origin: str) -> AsyncLine | None:
        while True:
            line = self._idle.take(origin)
            if line is None or (recent(line) and line.fit()):
                return line
            line.kill()

    async def keep(self, line: AsyncLine) -> None:
        """Take back a connection whose answer was read to the end."""
        if not await line.settle() or self._closed:
            line.kill()
            return
        for old in self._idle.put(line):
            old.kill()

    def sever(self) -> None:
        """Close the idle connections now, without awaiting; keep none from here on."""
        self._closed = True
        for line in self._idle.clear():
            line.kill()

    async def aclose(self) -> None:
        """Close the idle connections now and the busy ones when their answer ends."""
        self.sever()
        await turn()
