"""An asyncio connection of our own, for hosts that need no proxy. What reads its answers can be chosen.

Bytes are parsed where they arrive. Whoever waits is woken once for all that a turn of the loop brought.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import httpcore2
import httpx2

from allm.drivers.http.answers import Answer, H11Answer
from allm.drivers.http.awaited import abort
from allm.drivers.http.calls import Call, failure
from allm.drivers.http.messages import Target, Wire, bytes_of, head_of
from allm.drivers.http.routes import HttpSettings, tls_context
from allm.drivers.http.sockets import WRITE, numeric, readable, tune
from allm.ports import HttpHead

AHEAD: Final = 256 * 1024  # bytes that may wait for their reader before the socket has to
HEAD_START: Final = 0.25  # seconds that an address has before the next one is tried beside it


class AsyncDirectLine(asyncio.Protocol):
    """A connection without a proxy, and the call that uses it now; `answers` reads what comes."""

    def __init__(
        self,
        settings: HttpSettings,
        target: Target,
        proxy: httpx2.Proxy | None,
        call: Call,
        answers: type[Answer] = H11Answer,
    ) -> None:
        self.key = target.origin
        self.call = call
        self.since = 0.0
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._answers = answers
        self._answer: Answer  # of the request that was sent last
        self._whole = True  # whether the request was sent to its end
        self._unread = 0
        self._paused = False
        self._full = False  # the transport takes no more bytes for now
        self._lost: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0  # when the timer does
        self._process = os.getpid()

    async def exchange(self, wire: Wire) -> HttpHead:
        self._answer = answer = self._answers(bodiless=wire.method == "HEAD")
        if self._transport is None:
            await self._open(wire.target)
        await self._transmit(bytes_of(wire))
        while not answer.opened:
            why = answer.fault or self._lost
            if why is not None:
                raise why
            await self._wait()
        return head_of(answer.status, answer.headers, wire.target)

    async def more(self) -> bytes:
        answer = self._answer
        while not (data := answer.take()) and not answer.ended:
            if self._lost is not None:
                raise self._lost
            await self._wait()
        self._unread = 0
        if self._paused and not answer.ended:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def settle(self) -> bool:
        return self._whole and self._answer.reusable

    async def abandon(self) -> None:
        """Nothing is left to end where the socket is closed."""

    def fit(self) -> bool:
        return (
            self._lost is None
            and self._answer.reusable
            and not self._paused  # what is held back may be more than the answer
            and not self._transport.is_closing()
            and not readable(self._transport.get_extra_info("socket"))
        )

    def take(self, call: Call) -> None:
        self.call = call
        call.begin()

    def kill(self) -> None:
        """Close the socket at once; from the loop's own thread. The child of a fork leaves it alone."""
        if self._process != os.getpid():
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            abort(self._transport)
        self._end(httpcore2.ReadError("closed here"))

    async def _open(self, target: Target) -> None:
        """One deadline is for name, TCP and TLS."""
        context = tls_context(self._settings) if target.secure else None
        async with asyncio.timeout(self.call.left()):
            sock = await self._connect(await self._addresses(target))
            try:
                await self._loop.create_connection(
                    lambda: self, sock=sock, ssl=context, server_hostname=target.bare if context else None
                )
            except BaseException:
                sock.close()
                raise

    async def _connect(self, addresses: Sequence[Any]) -> socket.socket:
        """To the first address that answers; another is tried where one fails or is slow (RFC 8305)."""
        if len(addresses) == 1:
            return await self._dial(addresses[0])
        rest = deque(addresses)
        dials: set[asyncio.Task[socket.socket]] = set()
        last: BaseException | None = None
        try:
            while rest or dials:
                if rest:
                    dials.add(self._loop.create_task(self._dial(rest.popleft())))
                done, _ = await asyncio.wait(
                    dials, timeout=HEAD_START if rest else None, return_when=asyncio.FIRST_COMPLETED
                )
                for dial in done:
                    dials.remove(dial)
                    last = dial.exception()
                    if last is None:
                        return dial.result()
        finally:
            for dial in dials:
                dial.cancel()
                dial.add_done_callback(_drop)
        raise httpcore2.ConnectError("no address answered") from last

    async def _dial(self, found: Any) -> socket.socket:
        family, kind, proto, _, address = found
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            await self._loop.sock_connect(sock, address)
            tune(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _addresses(self, target: Target) -> Sequence[Any]:
        """As getaddrinfo tells them; no thread is asked about what is an address already."""
        if known := numeric(target.bare, target.port):
            return known
        try:
            return await self._loop.getaddrinfo(target.bare, target.port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            raise failure("network_error", "the host name cannot be resolved", "connect") from None

    async def _transmit(self, data: memoryview) -> None:
        """Send until there is an answer: a server may answer, and close, before it has read the request."""
        call, answer = self.call, self._answer
        while data:
            call.writing()
            self._transport.write(data[:WRITE])
            data = data[WRITE:]
            if data:
                await asyncio.sleep(0)  # for an answer to be read before the next write fails
            while self._full and not (self._lost or answer.fault or answer.opened):
                await self._wait()
            if self._full or self._transport.is_closing() or answer.fault or (data and answer.opened):
                self._whole = False
                break
        call.waiting()

    async def _wait(self) -> None:
        """Until something has come, by the call's deadline."""
        self._watch(self.call.left())
        self._waiter = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _watch(self, rest: float | None) -> None:
        """Have a timer ring by the deadline. One that rings earlier stays: it looks at the deadline anew,
        which costs less than a timer for each wait."""
        if rest is None:
            return
        moment = time.monotonic() + rest
        if self._timer is not None and self._rings > moment:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._rings = moment
            self._timer = self._loop.call_later(rest, self._ring)

    def _ring(self) -> None:
        self._timer = None
        waiter, deadline = self._waiter, self.call.deadline
        if waiter is None or waiter.done() or deadline is None:
            return
        rest = deadline - time.monotonic()
        if rest > 0:
            self._watch(rest)
        else:
            waiter.set_exception(TimeoutError())

    def _end(self, why: Exception) -> None:
        if self._lost is None:
            self._lost = why
        self._wake()

    # What the loop calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._lost is not None:
            abort(transport)

    def data_received(self, data: bytes) -> None:
        self.call.received += len(data)
        self._answer.feed(data)
        self._unread += len(data)
        if self._unread > AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._answer.feed(b"")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        lost = httpcore2.ReadError("the connection was lost")
        lost.__cause__ = exc
        self._end(lost)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()


def _drop(dial: asyncio.Task[socket.socket]) -> None:
    """Close a connection that came too late."""
    if not dial.cancelled() and dial.exception() is None:
        dial.result().close()
