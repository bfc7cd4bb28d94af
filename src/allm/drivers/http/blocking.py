"""Blocking HTTP/1.1, for any number of threads.

Choosing, keeping and closing connections is done here and not in a client's pool, because a stream
wants what a pool for short requests does not give: a deadline for each read, an end from another
thread, sockets that close at once, no scan of a thousand busy connections.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import httpcore2
import httpx2

from allm.drivers.http import core
from allm.drivers.http.calls import Call
from allm.drivers.http.codings import Inflate, inflate_for
from allm.drivers.http.direct_blocking import DirectLine
from allm.drivers.http.failures import STALE, explain
from allm.drivers.http.idle import Idle, recent
from allm.drivers.http.messages import Target, Wire, head_of, headers_of, wire_of
from allm.drivers.http.routes import HttpSettings, Routes
from allm.drivers.http.sockets import Line, readable
from allm.errors import AllmError
from allm.limits import Timeouts
from allm.ports import HttpHead, HttpRequest

OPEN: weakref.WeakSet[HttpTransport] = weakref.WeakSet()
"""Every blocking transport of this process, for the child of a fork to let go of."""

Dial = Callable[[HttpSettings, Target, httpx2.Proxy | None, Call], Line]


class CoreLine(Line, httpcore2.NetworkBackend):
    """A connection of httpcore2 on a socket of ours, for hosts behind a proxy."""

    def __init__(
        self, settings: HttpSettings, target: Target, proxy: httpx2.Proxy | None, call: Call
    ) -> None:
        super().__init__(target.origin, call, core.handshakes(target, proxy))
        options = core.options_of(settings, target, proxy) | {"network_backend": self}
        factory: Any = httpcore2.ConnectionPool
        if proxy is not None:
            factory = httpcore2.SOCKSProxy if core.is_socks(proxy) else httpcore2.HTTPProxy
        self._connection = factory(**options).create_connection(target.url.origin)
        self._stream: Any = None
        self._body: core.Pieces | Iterator[bytes] = iter(())
        self._joint = core.Joint()

    def exchange(self, wire: Wire) -> HttpHead:
        self._joint = core.Joint(wire)
        response = self._connection.handle_request(core.request_of(wire))
        self._stream = response.stream
        state = core.parser_of(self._connection)
        self._body = iter(self._stream) if state is None else core.Pieces(state)
        return head_of(response.status, headers_of(response.headers), wire.target)

    def more(self) -> bytes:
        body = self._body
        if not isinstance(body, core.Pieces):
            return next((data for data in body if data), b"")
        while not (data := body.take()) and not body.ended:
            body.feed(self.receive())
        return data

    def settle(self) -> bool:
        # The engine's stream refers to its request, key and all: an idle connection must not.
        stream, self._stream, self._body = self._stream, None, iter(())
        stream.close()
        return core.spent(self._connection)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        self.connect(host, port)
        return _Bytes(self)


class _Bytes(httpcore2.NetworkStream):
    """A line's bytes for the engine, whose own timeouts are not used."""

    __slots__ = ("_line",)

    def __init__(self, line: CoreLine) -> None:
        self._line = line

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._line.receive(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if data := self._line._joint.joined(buffer):
            self._line.transmit(data)

    def close(self) -> None:
        self._line.kill()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        self._line.secure(ssl_context, server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        sock = self._line._sock
        if info == "ssl_object":
            return sock if hasattr(sock, "selected_alpn_protocol") else None
        if info == "socket":
            return sock
        return readable(sock) if info == "is_readable" else None


class HttpBody:
    """An answer over the blocking transport; see `allm.ports.Body`.

    `read` raises StreamInterruptedError, DeadlineExceededError, CancelledError or WireError, and the
    connection is closed by then. `cancel` may come from any thread, the rest from one.
    """

    __slots__ = ("_call", "_closed", "_inflate", "_line", "_transport", "head")

    def __init__(self, transport: HttpTransport, line: Line, call: Call, head: HttpHead) -> None:
        self.head = head
        self._transport, self._line, self._call = transport, line, call
        self._inflate: Inflate | str | None = ""  # not looked at yet
        self._closed = False
        call.phase = "stream"

    def read(self, timeout: float | None = None) -> bytes:
        if self._closed:
            if self._call.cancelled:
                raise self._call.ended()
            return b""
        self._call.reading(timeout)
        failure: AllmError | None = None
        try:
            data = self._pull()
            if data:
                return data
            self._closed = True
            self._transport.keep(self._line)
        except BaseException as exc:
            self._line.kill()
            self._closed = True
            failure = explain(exc, self._call)
            if failure is None:
                raise
        if failure is None and self._call.cancelled:
            failure = self._call.ended()
        if failure is not None:
            raise failure
        return b""

    def _pull(self) -> bytes:
        if self._inflate == "":
            self._inflate = inflate_for(self.head)
        inflate = self._inflate
        if not isinstance(inflate, Inflate):
            return self._line.more()
        while not (piece := inflate.piece()):
            raw = self._line.more()
            if not raw:
                inflate.end()
                return b""
            inflate.feed(raw)
        return piece

    def close(self) -> None:
        """Close the connection unless the body was read to its end. Never raises."""
        if not self._closed:
            self._closed = True
            self._line.kill()

    def cancel(self) -> None:
        self._call.cancel()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


class HttpTransport:
    """See `allm.ports.Transport`. `dial` makes the connections that no proxy is needed for."""

    def __init__(self, settings: HttpSettings | None = None, dial: Dial = DirectLine) -> None:
        self.settings = settings or HttpSettings()
        self._dial = dial
        self._routes = Routes(self.settings)
        self._idle: Idle[Line] = Idle(self.settings.max_keepalive)
        self._lock = threading.Lock()
        self._closed = False
        OPEN.add(self)

    def open(
        self,
        request: HttpRequest,
        timeouts: Timeouts,
        key_header: tuple[str, str] | None = None,
        on_connection: Callable[[Callable[[], None]], None] | None = None,
    ) -> HttpBody:
        """Send the request and wait for status and headers.

        `timeouts.connect` bounds name, TCP and TLS together; `idle` each write; `first_event` the wait
        for headers; `request` all of it. `on_connection(cancel)` is called first; `cancel()`, from any
        thread, makes this raise CancelledError. Any other failure is an AllmError too.
        """
        call = Call(timeouts)
        if on_connection is not None:
            on_connection(call.cancel)
        wire = wire_of(request, key_header)
        failure: AllmError | None = None
        try:
            return self._exchange(wire, call)
        except BaseException as exc:
            failure = explain(exc, call)
            if failure is None:
                raise
        raise failure  # outside the handler: the engine's exception and its frames are not kept

    def _exchange(self, wire: Wire, call: Call) -> HttpBody:
        line = self._reuse(wire.target.origin)
        if line is not None:
            line.take(call)
            try:
                return self._answer(line, wire, call)
            except STALE:
                if call.received or call.cancelled:
                    raise
                # The server had closed the idle connection; nobody has seen the request.
        call.begin()
        line = self._line(wire.target, call)
        line.take(call)
        return self._answer(line, wire, call)

    def _line(self, target: Target, call: Call) -> Line:
        proxy = self._routes.proxy(target)
        dial = self._dial if proxy is None else CoreLine
        return dial(self.settings, target, proxy, call)

    def _answer(self, line: Line, wire: Wire, call: Call) -> HttpBody:
        try:
            call.left()
            head = line.exchange(wire)
            if call.cancelled:
                raise call.ended()
            return HttpBody(self, line, call, head)
        except BaseException:
            line.kill()
            raise

    def _reuse(self, origin: str) -> Line | None:
        while True:
            with self._lock:
                line = self._idle.take(origin)
            if line is None or (recent(line) and line.fit()):
                return line
            line.kill()

    def keep(self, line: Line) -> None:
        """Take back a connection whose answer was read to the end."""
        if not line.settle() or line.call.cancelled:
            line.kill()
            return
        with self._lock:
            gone = [line] if self._closed else self._idle.put(line)
        for old in gone:
            old.kill()

    def close(self) -> None:
        """Close the idle connections now and the busy ones when their answer ends."""
        with self._lock:
            self._closed = True
            idle = self._idle.clear()
        for line in idle:
            line.kill()

    def forked(self) -> None:
        """In the child of a fork: forget the connections, which are the parent's."""
        self._lock = threading.Lock()
        for line in self._idle.clear():
            line.drop()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()
