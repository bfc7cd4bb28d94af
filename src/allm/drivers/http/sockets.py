"""Blocking sockets with a deadline for each wait, which any thread can end."""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import select
import selectors
import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import httpcore2

from allm.drivers.http.calls import Call, failure
from allm.drivers.http.messages import Wire
from allm.ports import HttpHead

POLL: Final = 0.05  # seconds between looks at the cancel flag where a socket cannot be woken
WRITE: Final = 256 * 1024  # bytes of a request in one write, each with a timeout of its own
READ: Final = 64 * 1024
_IN_PROGRESS: Final = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR}
_PROBES: Final = {  # seconds, and how many; names differ by system
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPALIVE": 60,
    "TCP_KEEPINTVL": 60,
    "TCP_KEEPCNT": 5,
}
_OPTIONS: Final = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _PROBES.items()
        if hasattr(socket, name)
    ),
]


class Line(ABC):
    """A connection: its socket, and the call that uses it now. What reads answers is a subclass."""

    def __init__(self, key: str, call: Call, handshakes: int) -> None:
        self.key = key
        self.call = call
        self.since = 0.0
        self._handshakes = handshakes  # of TLS, before the request itself may be written
        self._sock: Any = None
        self._socks: list[socket.socket] = []  # what ends a wait when it is shut
        self._closed = False
        self._lock = threading.Lock()
        self._process = os.getpid()

    @abstractmethod
    def exchange(self, wire: Wire) -> HttpHead:
        """Connect where needed, send the request and wait for the head."""

    @abstractmethod
    def more(self) -> bytes:
        """What has come of the body, in one piece; waits for the first byte; b"" at its end."""

    @abstractmethod
    def settle(self) -> bool:
        """The body has ended: whether the connection can serve again."""

    def fit(self) -> bool:
        """Whether the connection, idle until now, still seems to be open, and nothing has come on it."""
        return self._process == os.getpid() and not readable(self._sock)

    def connect(self, host: str, port: int) -> None:
        self._adopt(_connect(_resolve(host, port, self.call), self.call))

    def secure(self, context: ssl.SSLContext, name: str | None) -> None:
        call, sock = self.call, self._sock
        if isinstance(sock, ssl.SSLSocket):
            raise failure("configuration", "https through an https:// proxy is not supported here", "input")
        handle = sock.dup()  # the handshake owns the socket; this one can still be shut down
        self._watch(sock, handle)
        try:
            sock.settimeout(call.left())
            secured = context.wrap_socket(sock, server_hostname=name)
        except TimeoutError:
            raise call.expired() from None
        except (OSError, ValueError) as exc:
            raise httpcore2.ConnectError("TLS failed") from exc
        self._adopt(secured)
        handle.close()
        self._handshakes -= 1
        call.received = 0

    def receive(self, most: int = READ) -> bytes:
        call = self.call
        try:
            self._sock.settimeout(call.left())
            data: bytes = self._sock.recv(most)
        except TimeoutError:
            raise call.expired() from None
        except OSError as exc:
            raise httpcore2.ReadError("read failed") from exc
        if call.cancelled:
            raise call.ended()
        call.received += len(data)
        return data

    def transmit(self, data: memoryview) -> None:
        call, connecting = self.call, self._handshakes > 0
        while data:
            if not connecting:
                call.writing()
            data = data[self._send(data[:WRITE], call) :]
        if not connecting:
            call.waiting()

    def _send(self, data: memoryview, call: Call) -> int:
        try:
            self._sock.settimeout(call.left())
            return int(self._sock.send(data))
        except TimeoutError:
            if call.phase == "response" and readable(self._sock):
                # The server stopped reading because it has answered: the answer is read after this error.
                call.waiting()
                raise httpcore2.WriteError("answered early") from None
            raise call.expired() from None
        except OSError as exc:
            call.waiting()
            raise httpcore2.WriteError("write failed") from exc

    def _adopt(self, sock: socket.socket) -> None:
        self._sock = sock
        self._watch(sock)

    def _watch(self, *socks: socket.socket) -> None:
        """From now on these are what `interrupt` and `kill` act on."""
        with self._lock:
            self._socks = list(socks)
            closed = self._closed
        if closed:
            self.kill()
        self.call.left()

    def take(self, call: Call) -> None:
        with self._lock:
            self.call = call
        call.begin(self)

    def interrupt(self, call: Call) -> None:
        if self._process != os.getpid():
            return  # it is the parent's call
        with self._lock:
            if self.call is call:
                for sock in self._socks:
                    _shut(sock)

    def kill(self) -> None:
        """Close the socket at once and wake its reader; in the child of a fork, `drop` it."""
        if self._process != os.getpid():
            self.drop()
            return
        with self._lock:
            self._closed = True
            socks, self._socks = self._socks, []
            for sock in socks:
                _shut(sock)
                sock.close()

    def drop(self) -> None:
        """Close this process's copy of the descriptor and say nothing to the peer."""
        self._lock = threading.Lock()
        self._closed = True
        for sock in self._socks:
            sock.close()
        self._socks = []


def tune(sock: Any) -> None:
    """Send at once, and probe: a model may think for minutes, and routers forget what is silent."""
    for option in _OPTIONS:
        with suppress(OSError):  # a system may know a name and refuse it
            sock.setsockopt(*option)


def readable(sock: Any) -> bool:
    """Whether bytes, or the end, wait in a socket."""
    try:
        if not hasattr(select, "poll"):
            return bool(select.select([sock], [], [], 0)[0])
        look = select.poll()
        look.register(sock, select.POLLIN)
        return bool(look.poll(0))
    except (OSError, ValueError):
        return True


@functools.lru_cache(maxsize=128)
def numeric(host: str, port: int) -> tuple[Any, ...]:
    """What getaddrinfo tells of a host that is an address already; nothing of a name."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return tuple(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    return ()


def _resolve(host: str, port: int, call: Call) -> Sequence[Any]:
    """Addresses of a host, by the deadline; names are looked up on a thread as that cannot be ended."""
    if known := numeric(host, port):
        return known
    answer: list[Any] = []
    done = threading.Event()

    def look() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as exc:
            answer.append(exc)
        finally:
            done.set()

    threading.Thread(target=look, name="allm-resolve", daemon=True).start()
    while not done.wait(_slice(call.left())):
        pass
    found = answer[0] if answer else OSError(0, "not resolved")
    if isinstance(found, OSError):
        raise failure("network_error", "the host name cannot be resolved", "connect")
    return list(found)


def _slice(rest: float | None) -> float:
    return POLL if rest is None else min(POLL, rest)


def _connect(addresses: Sequence[Any], call: Call) -> socket.socket:
    """The first address that answers; each gets its share of the time that is left."""
    last: OSError | None = None
    for position, (family, kind, proto, _, address) in enumerate(addresses):
        rest = call.left()
        share = None if rest is None else time.monotonic() + rest / (len(addresses) - position)
        try:
            return _dial(socket.socket(family, kind, proto), address, share, call)
        except OSError as exc:
            last = exc
    call.left()
    raise httpcore2.ConnectError("no address answered") from last


def _dial(sock: socket.socket, address: Any, until: float | None, call: Call) -> socket.socket:
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code not in _IN_PROGRESS:
            raise OSError(code, os.strerror(code))
        _await_connected(sock, until, call)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        tune(sock)
        sock.setblocking(True)
    except BaseException:
        sock.close()
        raise
    return sock


def _await_connected(sock: socket.socket, until: float | None, call: Call) -> None:
    kind = getattr(selectors, "PollSelector", selectors.SelectSelector)  # neither needs a descriptor
    with kind() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while not selector.select(_slice(call.left())):
            if until is not None and time.monotonic() >= until:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _shut(sock: socket.socket) -> None:
    """Wake whoever waits for the socket."""
    # Not `sock.shutdown`: an SSLSocket's drops its TLS state under the reader.
    with suppress(OSError, ValueError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
