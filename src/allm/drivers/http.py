"""HTTP for the drivers, on httpx2's engine: blocking, and awaited on asyncio and trio alike.

Connections are httpcore2's; choosing, keeping and closing them is done here, because a stream wants
what a pool for short requests does not give: a deadline for each read, an end from another thread,
sockets that close at once, no scan of a thousand busy connections. Import this module lazily.

Every failure is an `allm.errors.AllmError` made here; no text in it comes from a header or a body.
"""

from __future__ import annotations

import atexit
import errno
import functools
import ipaddress
import os
import re
import selectors
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request
import weakref
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

import httpcore2
import httpx2
from msgspec import Struct

from allm.data.failure import RETRYABLE, ErrorInfo
from allm.errors import AllmError, raised
from allm.limits import Timeouts
from allm.ports import HttpHead, HttpRequest

IDLE_SECONDS: Final = 30.0  # how long an idle connection is kept
POLL: Final = 0.05  # seconds between looks at the cancel flag where a socket cannot be woken
PIECE: Final = 64 * 1024  # bytes a decompressor may give at once
WRITE: Final = 256 * 1024  # bytes of a request in one write, each with a timeout of its own
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_IN_PROGRESS: Final = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR}


class HttpSettings(Struct, frozen=True, kw_only=True):
    """What makes two transports different. `verify`: true, false, or the path of a CA file or folder.
    `proxy`: a URL for everything; else the environment's where `trust_env`. `max_keepalive`: idle
    connections kept; busy ones are not bounded."""

    verify: bool | str = True
    proxy: str | None = None
    trust_env: bool = True
    max_keepalive: int = 32


# ---- one exchange: its deadlines and its errors ----------------------------------------------------


def _failure(reason: str, message: str, phase: str | None, **more: Any) -> AllmError:
    more.setdefault("retryable", reason in RETRYABLE)
    return raised(ErrorInfo(reason=reason, message=message, phase=phase, **more))


def _earlier(first: float | None, seconds: float | None) -> float | None:
    """The earlier of a moment and `seconds` from now; None is never."""
    second = None if seconds is None else time.monotonic() + seconds
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


class _Call:
    """One request and its answer: how far it came, until when it may wait, whether it was cancelled."""

    __slots__ = ("_line", "_timeouts", "_total", "cancelled", "deadline", "phase", "received")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._total = _earlier(None, timeouts.request)
        self._line: _Line | None = None
        self.deadline: float | None = None
        self.cancelled = False
        self.received = 0
        self.phase = "connect"

    def begin(self, line: _Line | None = None) -> None:
        """Start, or start over, on a connection."""
        self._line = line
        self.received = 0
        self.phase = "connect"
        self.deadline = _earlier(self._total, self._timeouts.connect)

    def writing(self) -> None:
        self.phase = "response"
        self.deadline = _earlier(self._total, self._timeouts.idle)

    def waiting(self) -> None:
        self.deadline = _earlier(self._total, self._timeouts.first_event)

    def reading(self, timeout: float | None) -> None:
        self.deadline = _earlier(None, timeout)

    def left(self) -> float | None:
        """Seconds until the deadline; DeadlineExceededError after it, CancelledError after `cancel`."""
        if self.cancelled:
            raise self.ended()
        if self.deadline is None:
            return None
        rest = self.deadline - time.monotonic()
        if rest <= 0:
            raise self.expired()
        return rest

    def expired(self) -> AllmError:
        what = {"connect": "no connection", "response": "no answer"}.get(self.phase, "nothing more came")
        return _failure("timeout", f"{what} within the time allowed", self.phase)

    def ended(self) -> AllmError:
        return _failure("cancelled", "the call was cancelled", self.phase)

    def cancel(self) -> None:
        """End the call from any thread; what waits for it raises CancelledError."""
        self.cancelled = True
        line = self._line
        if line is not None:
            line.interrupt(self)


def _cause(exc: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first exception of `kind` behind `exc`."""
    found: BaseException | None = exc
    for _ in range(10):
        if found is None or isinstance(found, kind):
            return found
        found = found.__cause__ or found.__context__
    return None


def _explain(exc: BaseException, call: _Call) -> AllmError | None:
    """The library's error for what the engine raised; None for what is no failure of HTTP."""
    if isinstance(exc, AllmError):
        return exc
    if call.cancelled and isinstance(exc, Exception):
        return call.ended()
    if isinstance(exc, zlib.error):
        return _failure("malformed_response", "the compressed body cannot be read", call.phase)
    if isinstance(exc, (httpcore2.TimeoutException, TimeoutError)):
        return call.expired()
    network = (httpcore2.NetworkError, httpcore2.RemoteProtocolError, OSError)
    if call.phase == "stream":
        cut = "the connection ended before the body did"
        return _failure("stream_interrupted", cut, "stream") if isinstance(exc, network) else None
    return _explain_opening(exc, call)


def _explain_opening(exc: BaseException, call: _Call) -> AllmError | None:
    if isinstance(exc, (httpcore2.NetworkError, OSError)):
        return _explain_network(exc, call)
    if isinstance(exc, httpcore2.RemoteProtocolError):
        if not call.received:
            return _failure("network_error", "the server closed the connection without an answer", call.phase)
        return _failure("protocol_error", "the answer is not HTTP/1.1", call.phase)
    if isinstance(exc, httpcore2.ProxyError):
        status = re.match(r"\d{3}", str(exc))
        text = f"the proxy refused with {status[0]}" if status else "the proxy refused"
        return _failure("network_error", text, "connect", retryable=bool(status and status[0] >= "500"))
    if isinstance(exc, (httpcore2.LocalProtocolError, httpcore2.UnsupportedProtocol)):
        return _failure("invalid_input", "the request cannot be written as HTTP/1.1", "input")
    if isinstance(exc, ImportError):
        return _failure("configuration", "a SOCKS proxy needs the package socksio", "input")
    return None


def _explain_network(exc: BaseException, call: _Call) -> AllmError:
    tls = _cause(exc, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return _failure("tls_error", f"certificate refused: {tls.verify_message}", call.phase)
    if tls is not None and not isinstance(tls, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        why = (getattr(tls, "reason", None) or "handshake failed").replace("_", " ").lower()
        return _failure("tls_error", f"TLS: {why}", call.phase)
    system = _cause(exc, OSError)
    # Only the system's own words: other texts may quote what was sent.
    number = system.errno if isinstance(system, OSError) else None
    why = f": {os.strerror(number)}" if isinstance(number, int) and number > 0 else ""
    what = "cannot connect" if call.phase == "connect" else "the connection broke before an answer came"
    return _failure("network_error", what + why, call.phase)


# ---- the request -----------------------------------------------------------------------------------


class _Target(Struct, frozen=True):
    """Where a URL leads: `origin` is shown to people and keys the idle connections."""

    url: Any
    host: bytes
    origin: str
    bare: str


@functools.lru_cache(maxsize=128)
def _target(url: str) -> _Target:
    """Raises ConfigurationError; the message never shows the URL, which may hold a password."""
    try:
        parsed = httpx2.URL(url)
        port = parsed.port
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise _failure("configuration", "the base URL cannot be parsed", "input") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _failure("configuration", "the base URL must be http:// or https:// and name a host", "input")
    if parsed.userinfo:
        raise _failure("configuration", "the base URL must not hold a user or password", "input")
    raw = httpcore2.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=port, target=parsed.raw_path or b"/"
    )
    origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
    return _Target(url=raw, host=parsed.netloc, origin=origin, bare=parsed.raw_host.decode("ascii"))


def _wire_headers(
    request: HttpRequest, target: _Target, key: tuple[str, str] | None
) -> list[tuple[bytes, bytes]]:
    """Header fields as bytes. Raises ValidationError or, for the key, ConfigurationError."""
    headers = {"host": target.host.decode("ascii"), "accept": "*/*", "accept-encoding": "gzip, deflate"}
    headers |= {name.lower(): value for name, value in request.headers.items()}
    headers.pop("transfer-encoding", None)
    if request.body or request.method != "GET":
        headers["content-length"] = str(len(request.body))
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or re.search(r"[\r\n\0]", value) or not value.isascii():
            raise _failure("invalid_input", f"header {name[:40]!r} cannot be sent", "input")
    if key is not None:
        if not _TOKEN.fullmatch(key[0]) or not (key[1].isascii() and key[1].isprintable()):
            raise _failure("configuration", "the API key holds characters no header can carry", "input")
        headers[key[0].lower()] = key[1]
    return [(name.encode("ascii"), value.strip().encode("ascii")) for name, value in headers.items()]


def _wire_request(request: HttpRequest, target: _Target, key: tuple[str, str] | None) -> httpcore2.Request:
    headers = _wire_headers(request, target, key)
    return httpcore2.Request(request.method, target.url, headers=headers, content=request.body)


def _head(response: httpcore2.Response) -> HttpHead:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "date" not in headers:  # decoders have no clock, and some need the time
        headers["date"] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    return HttpHead(status=response.status, headers=headers)


def _refuse_redirect(head: HttpHead, target: _Target) -> None:
    """Raises RedirectRefusedError for 3xx; of the new address it shows scheme, host and port."""
    if not 300 <= head.status < 400:
        return
    where = "an address that cannot be read"
    with suppress(ValueError):
        there = urllib.parse.urlsplit(urllib.parse.urljoin(target.origin, head.headers.get("location", "")))
        port = f":{there.port}" if there.port else ""
        where = f"{there.scheme}://{there.hostname or ''}{port}"[:200]
    message = f"{target.origin} answered with a redirect to {where}; redirects are not followed"
    raise _failure("redirect_refused", message, "response", status=head.status)


# ---- TLS, proxies ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _tls(verify: bool | str, trust_env: bool) -> ssl.SSLContext:
    """The context is shared: loading the system's certificates costs tens of milliseconds."""
    if isinstance(verify, bool):
        return httpx2.create_ssl_context(verify=verify, trust_env=trust_env)
    try:
        if os.path.isdir(verify):
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except OSError:
        raise _failure("configuration", "the certificates named by verify= cannot be read", "input") from None


class _Routes:
    """Which proxy a host is reached by, decided once a host; the environment is read at the start."""

    def __init__(self, settings: HttpSettings) -> None:
        self._fixed = settings.proxy
        self._proxies = urllib.request.getproxies() if settings.trust_env and not settings.proxy else {}
        self._cache: dict[str, httpx2.Proxy | None] = {}

    def proxy(self, target: _Target) -> httpx2.Proxy | None:
        if target.origin not in self._cache:
            if len(self._cache) > 256:
                self._cache.clear()
            self._cache[target.origin] = self._choose(target)
        return self._cache[target.origin]

    def _choose(self, target: _Target) -> httpx2.Proxy | None:
        scheme = target.origin.partition(":")[0]
        url = self._fixed or self._proxies.get(scheme) or self._proxies.get("all")
        if not url or (not self._fixed and self._bypassed(target)):
            return None
        try:
            return httpx2.Proxy(url if "://" in url else f"http://{url}")
        except (httpx2.InvalidURL, ValueError):
            raise _failure("configuration", "the proxy URL cannot be used", "input") from None

    def _bypassed(self, target: _Target) -> bool:
        if "no" in self._proxies:
            host = target.origin.partition("//")[2]
            listed: Any = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
            return bool(listed(host, self._proxies) or listed(target.bare, self._proxies))
        return bool(urllib.request.proxy_bypass(target.bare))


def _pool_options(settings: HttpSettings, target: _Target, proxy: httpx2.Proxy | None) -> dict[str, Any]:
    """Arguments that httpcore2's pools, of which only the connection factory is used, have in common."""
    secure = target.origin.startswith("https:")
    options: dict[str, Any] = {
        "ssl_context": _tls(settings.verify, settings.trust_env) if secure else None,
    }
    if proxy is not None:
        url = proxy.url
        options["proxy_url"] = httpcore2.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        options["proxy_auth"] = proxy.raw_auth
        if url.scheme == "https":
            options["proxy_ssl_context"] = proxy.ssl_context or _tls(settings.verify, settings.trust_env)
    return options


def _handshakes(target: _Target, proxy: httpx2.Proxy | None) -> int:
    """TLS handshakes before the request itself may be written."""
    behind = proxy is not None and proxy.url.scheme == "https"
    return int(target.origin.startswith("https:")) + int(behind)


def _is_socks(proxy: httpx2.Proxy | None) -> bool:
    return proxy is not None and proxy.url.scheme.startswith("socks")


# ---- connecting, blocking --------------------------------------------------------------------------


def _resolve(host: str, port: int, call: _Call) -> list[Any]:
    """Addresses of a host, by the deadline; names are looked up on a thread as that cannot be ended."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
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
        raise _failure("network_error", "the host name cannot be resolved", "connect")
    return list(found)


def _slice(rest: float | None) -> float:
    return POLL if rest is None else min(POLL, rest)


def _connect(addresses: list[Any], call: _Call) -> socket.socket:
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


def _dial(sock: socket.socket, address: Any, until: float | None, call: _Call) -> socket.socket:
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code not in _IN_PROGRESS:
            raise OSError(code, os.strerror(code))
        _await_connected(sock, until, call)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(True)
    except BaseException:
        sock.close()
        raise
    return sock


def _await_connected(sock: socket.socket, until: float | None, call: _Call) -> None:
    kind = getattr(selectors, "PollSelector", selectors.SelectSelector)  # neither needs a descriptor
    with kind() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while not selector.select(_slice(call.left())):
            if until is not None and time.monotonic() >= until:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _shut(sock: socket.socket | None) -> None:
    """Wake whoever waits for the socket."""
    # Not `sock.shutdown`: an SSLSocket's drops its TLS state under the reader.
    if sock is not None:
        with suppress(OSError, ValueError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _readable(sock: socket.socket) -> bool:
    kind = getattr(selectors, "PollSelector", selectors.SelectSelector)
    try:
        with kind() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(0))
    except (OSError, ValueError):
        return True


class _Line(httpcore2.NetworkBackend):
    """A blocking connection with its socket, and the call that uses it now."""

    def __init__(self, key: str, call: _Call, handshakes: int) -> None:
        self.key = key
        self.call = call
        self.handshakes = handshakes
        self.since = 0.0  # when it became idle
        self.connection: Any = None
        self._socks: list[socket.socket] = []
        self._closed = False
        self._lock = threading.Lock()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        sock = _connect(_resolve(host, port, self.call), self.call)
        self.adopt(sock)
        return _Wire(self, sock)

    def adopt(self, *socks: socket.socket) -> None:
        """From now on these are what `interrupt` and `kill` act on."""
        with self._lock:
            self._socks = list(socks)
            closed = self._closed
        if closed:
            self.kill()
        self.call.left()

    def take(self, call: _Call) -> None:
        with self._lock:
            self.call = call
        call.begin(self)

    def interrupt(self, call: _Call) -> None:
        with self._lock:
            if self.call is call:
                for sock in self._socks:
                    _shut(sock)

    def kill(self) -> None:
        """Close the socket at once and wake its reader; the child of a fork uses `drop`."""
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


class _Wire(httpcore2.NetworkStream):
    """Bytes of a line; deadlines are the call's, the engine's own timeouts are not used."""

    __slots__ = ("_line", "_sock")

    def __init__(self, line: _Line, sock: Any) -> None:
        self._line = line
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        call = self._line.call
        try:
            self._sock.settimeout(call.left())
            data: bytes = self._sock.recv(max_bytes)
        except TimeoutError:
            raise call.expired() from None
        except OSError as exc:
            raise httpcore2.ReadError("read failed") from exc
        if call.cancelled:
            raise call.ended()
        call.received += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        call, connecting = self._line.call, self._line.handshakes > 0
        view = memoryview(buffer)
        while view:
            if not connecting:
                call.writing()
            view = view[self._send(view[:WRITE], call) :]
        if not connecting:
            call.waiting()

    def _send(self, view: memoryview, call: _Call) -> int:
        try:
            self._sock.settimeout(call.left())
            return int(self._sock.send(view))
        except TimeoutError:
            if call.phase == "response" and _readable(self._sock):
                # The server stopped reading because it has answered: the engine reads after this error.
                call.waiting()
                raise httpcore2.WriteError("answered early") from None
            raise call.expired() from None
        except OSError as exc:
            call.waiting()
            raise httpcore2.WriteError("write failed") from exc

    def close(self) -> None:
        self._line.kill()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        line, call = self._line, self._line.call
        if isinstance(self._sock, ssl.SSLSocket):
            raise _failure("configuration", "https through an https:// proxy is not supported here", "input")
        handle = self._sock.dup()  # the handshake owns the socket; this one can still be shut down
        line.adopt(self._sock, handle)
        try:
            self._sock.settimeout(call.left())
            secured = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
        except TimeoutError:
            raise call.expired() from None
        except (OSError, ValueError) as exc:
            raise httpcore2.ConnectError("TLS failed") from exc
        line.adopt(secured)
        handle.close()
        line.handshakes -= 1
        call.received = 0
        return _Wire(line, secured)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        if info == "socket":
            return self._sock
        return _readable(self._sock) if info == "is_readable" else None


# ---- bodies ----------------------------------------------------------------------------------------


class _Inflate:
    """Undoes gzip or deflate in pieces of at most PIECE bytes, however well the input is packed."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding in ("gzip", "x-gzip")
        self._codec = zlib.decompressobj(31 if self._gzip else 15)
        self._input = b""
        self._started = False

    def feed(self, data: bytes) -> None:
        self._input += data

    def piece(self) -> bytes:
        """What can be had now without more input; b"" where there is nothing."""
        while self._input:
            if self._codec.eof:
                if not self._gzip or not self._input.startswith(b"\x1f"):
                    self._input = b""  # padding after the end, which everybody ignores
                    break
                self._codec = zlib.decompressobj(31)
            data = self._step()
            if data:
                return data
        return b""

    def _step(self) -> bytes:
        source = self._input
        try:
            data = self._codec.decompress(source, PIECE)
        except zlib.error:
            if self._started or self._gzip:
                raise
            self._codec = zlib.decompressobj(-15)  # deflate without its frame, as some servers send it
            data = self._codec.decompress(source, PIECE)
        self._started = True
        self._input = self._codec.unused_data if self._codec.eof else self._codec.unconsumed_tail
        return data

    def end(self) -> None:
        """Raises zlib.error where the input ended too soon."""
        if self._started and not self._codec.eof:
            raise zlib.error("incomplete")


def _coding(head: HttpHead) -> _Inflate | None:
    """Raises WireError for a content coding that was not asked for."""
    names = [name.strip().lower() for name in head.headers.get("content-encoding", "").split(",")]
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in ("gzip", "x-gzip", "deflate"):
        raise _failure("malformed_response", "the body has a content coding that was not asked for", "stream")
    return _Inflate(codings[0])


class HttpBody:
    """An answer over the blocking transport; see `allm.ports.Body`.

    `read` raises StreamInterruptedError, DeadlineExceededError, CancelledError or WireError, and the
    connection is closed by then. `cancel` may come from any thread, the rest from one.
    """

    __slots__ = ("_call", "_chunks", "_closed", "_inflate", "_line", "_stream", "_transport", "head")

    def __init__(
        self, transport: HttpTransport, line: _Line, call: _Call, head: HttpHead, stream: Any
    ) -> None:
        self.head = head
        self._transport, self._line, self._call, self._stream = transport, line, call, stream
        self._chunks: Iterator[bytes] = iter(stream)
        self._inflate: _Inflate | str | None = ""  # not looked at yet
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
            self._finish()
        except BaseException as exc:
            self.close()
            failure = _explain(exc, self._call)
            if failure is None:
                raise
        if failure is None and self._call.cancelled:
            failure = self._call.ended()
        if failure is not None:
            raise failure
        return b""

    def _pull(self) -> bytes:
        if self._inflate == "":
            self._inflate = _coding(self.head)
        inflate = self._inflate
        if not isinstance(inflate, _Inflate):
            for data in self._chunks:
                if data:
                    return data
            return b""
        while not (piece := inflate.piece()):
            raw = next(self._chunks, None)
            if raw is None:
                inflate.end()
                return b""
            inflate.feed(raw)
        return piece

    def _finish(self) -> None:
        self._stream.close()
        self._closed = True
        self._transport._keep(self._line)

    def close(self) -> None:
        """Close the connection unless the body was read to its end. Never raises."""
        if not self._closed:
            self._closed = True
            self._line.kill()

    def cancel(self) -> None:
        self._call.cancel()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()


# ---- the blocking transport ------------------------------------------------------------------------


def _leftover(connection: Any) -> bool:
    """Whether bytes beyond the answer have been read: they would be taken for the next one."""
    for _ in range(4):
        state = getattr(connection, "_h11_state", None)
        if state is not None:
            return bool(state.trailing_data[0])
        connection = getattr(connection, "_connection", None)
    return True


def _fit(line: Any) -> bool:
    return time.monotonic() - line.since < IDLE_SECONDS and not line.connection.has_expired()


class HttpTransport:
    """Blocking HTTP/1.1, for any number of threads; see `allm.ports.Transport`."""

    def __init__(self, settings: HttpSettings | None = None) -> None:
        self.settings = settings or HttpSettings()
        self._routes = _Routes(self.settings)
        self._idle: list[_Line] = []
        self._lock = threading.Lock()
        self._closed = False
        _TRANSPORTS.add(self)

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
        call = _Call(timeouts)
        if on_connection is not None:
            on_connection(call.cancel)
        target = _target(request.url)
        wire = _wire_request(request, target, key_header)
        failure: AllmError | None = None
        try:
            return self._exchange(target, wire, call)
        except BaseException as exc:
            failure = _explain(exc, call)
            if failure is None:
                raise
        raise failure  # outside the handler: the engine's exception and its frames are not kept

    def _exchange(self, target: _Target, wire: httpcore2.Request, call: _Call) -> HttpBody:
        line = self._reuse(target.origin)
        if line is not None:
            line.take(call)
            try:
                return self._answer(line, target, wire, call)
            except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
                if call.received or call.cancelled:
                    raise
                # The server had closed the idle connection; nobody has seen the request.
        call.begin()
        line = self._line(target, call)
        line.take(call)
        return self._answer(line, target, wire, call)

    def _answer(self, line: _Line, target: _Target, wire: httpcore2.Request, call: _Call) -> HttpBody:
        try:
            call.left()
            response = line.connection.handle_request(wire)
            if call.cancelled:
                raise call.ended()
            head = _head(response)
            _refuse_redirect(head, target)
            return HttpBody(self, line, call, head, response.stream)
        except BaseException:
            line.kill()
            raise

    def _line(self, target: _Target, call: _Call) -> _Line:
        proxy = self._routes.proxy(target)
        line = _Line(target.origin, call, _handshakes(target, proxy))
        options = _pool_options(self.settings, target, proxy) | {"network_backend": line}
        factory: Any = httpcore2.ConnectionPool
        if proxy is not None:
            factory = httpcore2.SOCKSProxy if _is_socks(proxy) else httpcore2.HTTPProxy
        line.connection = factory(**options).create_connection(target.url.origin)
        return line

    def _reuse(self, origin: str) -> _Line | None:
        while True:
            with self._lock:
                found = next((line for line in reversed(self._idle) if line.key == origin), None)
                if found is None:
                    return None
                self._idle.remove(found)
            if _fit(found):
                return found
            found.kill()

    def _keep(self, line: _Line) -> None:
        """Take back a connection whose answer was read to the end."""
        if not line.connection.is_idle() or line.call.cancelled or _leftover(line.connection):
            line.kill()
            return
        line.since = time.monotonic()
        with self._lock:
            if self._closed:
                surplus = [line]
            else:
                self._idle.append(line)
                surplus = self._surplus(line.since)
        for old in surplus:
            old.kill()

    def _surplus(self, now: float) -> list[_Line]:
        over = max(0, len(self._idle) - self.settings.max_keepalive)
        old = [n < over or now - line.since > IDLE_SECONDS for n, line in enumerate(self._idle)]
        gone = [line for line, out in zip(self._idle, old, strict=True) if out]
        self._idle = [line for line, out in zip(self._idle, old, strict=True) if not out]
        return gone

    def close(self) -> None:
        """Close the idle connections now and the busy ones when their answer ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.kill()

    def _forked(self) -> None:
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for line in idle:
            line.drop()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()


# ---- connecting, awaited ---------------------------------------------------------------------------


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def _sever(inner: Any) -> None:
    """Close the socket under an httpcore2 stream now, without waiting for anything."""
    stream = getattr(inner, "_stream", None)
    while (below := getattr(stream, "transport_stream", None)) is not None:
        stream = below
    transport = getattr(stream, "_transport", None)
    with suppress(Exception):
        if transport is not None:
            _abort(transport)
        else:
            inner.get_extra_info("socket").close()


def _abort(transport: Any) -> None:
    """An asyncio transport closes in a callback of its loop; where that has ended, it is done here."""
    loop = getattr(transport, "_loop", None)
    if loop is None or not loop.is_closed():
        transport.abort()
        return
    transport._call_connection_lost(None)


class _AsyncLine(httpcore2.AsyncNetworkBackend):
    """An awaited connection with its socket, and the call that uses it now."""

    def __init__(self, key: str, call: _Call, handshakes: int) -> None:
        self.key = key
        self.call = call
        self.handshakes = handshakes
        self.since = 0.0
        self.connection: Any = None
        self._inner: Any = None
        self._closed = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        backend = httpcore2.TrioBackend() if _in_trio() else httpcore2.AnyIOBackend()
        try:
            inner = await backend.connect_tcp(host, port, self.call.left())
        except httpcore2.TimeoutException:
            raise self.call.expired() from None
        self.adopt(inner)
        return _AsyncWire(self, inner)

    def adopt(self, inner: Any) -> None:
        self._inner = inner
        if self._closed:
            _sever(inner)

    def take(self, call: _Call) -> None:
        self.call = call
        call.begin()

    def kill(self) -> None:
        """Close the socket at once; from the loop's own thread."""
        if not self._closed:
            self._closed = True
            _sever(self._inner)


class _AsyncWire(httpcore2.AsyncNetworkStream):
    __slots__ = ("_inner", "_line")

    def __init__(self, line: _AsyncLine, inner: httpcore2.AsyncNetworkStream) -> None:
        self._line = line
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        call = self._line.call
        try:
            data = await self._inner.read(max_bytes, call.left())
        except httpcore2.TimeoutException:
            raise call.expired() from None
        call.received += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        call, connecting = self._line.call, self._line.handshakes > 0
        for start in range(0, len(buffer), WRITE):
            if not connecting:
                call.writing()
            await self._send(buffer if len(buffer) <= WRITE else buffer[start : start + WRITE], call)
        if not connecting:
            call.waiting()

    async def _send(self, data: bytes, call: _Call) -> None:
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

    async def aclose(self) -> None:
        self._line.kill()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        call = self._line.call
        try:
            secured = await self._inner.start_tls(ssl_context, server_hostname, call.left())
        except httpcore2.TimeoutException:
            raise call.expired() from None
        self._line.adopt(secured)
        self._line.handshakes -= 1
        call.received = 0
        return _AsyncWire(self._line, secured)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncHttpBody:
    """An answer over the awaited transport; see `allm.ports.AsyncBody`."""

    __slots__ = ("_call", "_chunks", "_closed", "_inflate", "_line", "_stream", "_transport", "head")

    def __init__(
        self, transport: AsyncHttpTransport, line: _AsyncLine, call: _Call, head: HttpHead, stream: Any
    ) -> None:
        self.head = head
        self._transport, self._line, self._call, self._stream = transport, line, call, stream
        self._chunks: AsyncIterator[bytes] = aiter(stream)
        self._inflate: _Inflate | str | None = ""
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
            await self._finish()
        except BaseException as exc:
            self._abandon()
            failure = _explain(exc, self._call)
            if failure is None:
                raise
        if failure is not None:
            await self._end_chunks()
            raise failure
        return b""

    async def _pull(self) -> bytes:
        if self._inflate == "":
            self._inflate = _coding(self.head)
        inflate = self._inflate
        if not isinstance(inflate, _Inflate):
            while (data := await anext(self._chunks, None)) is not None:
                if data:
                    return data
            return b""
        while not (piece := inflate.piece()):
            raw = await anext(self._chunks, None)
            if raw is None:
                inflate.end()
                return b""
            inflate.feed(raw)
        return piece

    async def _finish(self) -> None:
        await self._stream.aclose()
        self._closed = True
        self._transport._keep(self._line)

    def _abandon(self) -> None:
        if not self._closed:
            self._closed = True
            self._line.kill()

    def cancel(self) -> None:
        """End a waiting `read`, which raises CancelledError; from the loop's own thread."""
        self._call.cancelled = True
        self._line.kill()

    async def _end_chunks(self) -> None:
        closing = getattr(self._chunks, "aclose", None)
        if closing is not None:
            with suppress(Exception):  # a reader in another task ends by itself: its socket is gone
                await closing()

    async def aclose(self) -> None:
        """Close the connection at once unless the body was read to its end; needs no shield."""
        if not self._closed:
            self._abandon()
            await self._end_chunks()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self._abandon()


class AsyncHttpTransport:
    """Awaited HTTP/1.1 for one event loop; see `allm.ports.AsyncTransport`.

    Made by `async_transport_for` it ends with its loop. Made directly, `aclose` it before that.
    """

    def __init__(self, settings: HttpSettings | None = None) -> None:
        self.settings = settings or HttpSettings()
        self._routes = _Routes(self.settings)
        self._idle: list[_AsyncLine] = []
        self._closed = False

    async def open(
        self, request: HttpRequest, timeouts: Timeouts, key_header: tuple[str, str] | None = None
    ) -> AsyncHttpBody:
        """As `HttpTransport.open`; a cancelled task leaves no connection behind."""
        call = _Call(timeouts)
        target = _target(request.url)
        wire = _wire_request(request, target, key_header)
        failure: AllmError | None = None
        try:
            return await self._exchange(target, wire, call)
        except BaseException as exc:
            failure = _explain(exc, call)
            if failure is None:
                raise
        raise failure

    async def _exchange(self, target: _Target, wire: httpcore2.Request, call: _Call) -> AsyncHttpBody:
        line = self._reuse(target.origin)
        if line is not None:
            line.take(call)
            try:
                return await self._answer(line, target, wire, call)
            except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
                if call.received:
                    raise
        call.begin()
        line = self._line(target, call)
        return await self._answer(line, target, wire, call)

    async def _answer(
        self, line: _AsyncLine, target: _Target, wire: httpcore2.Request, call: _Call
    ) -> AsyncHttpBody:
        try:
            response = await line.connection.handle_async_request(wire)
            head = _head(response)
            _refuse_redirect(head, target)
            return AsyncHttpBody(self, line, call, head, response.stream)
        except BaseException:
            line.kill()
            raise

    def _line(self, target: _Target, call: _Call) -> _AsyncLine:
        proxy = self._routes.proxy(target)
        line = _AsyncLine(target.origin, call, _handshakes(target, proxy))
        options = _pool_options(self.settings, target, proxy) | {"network_backend": line}
        factory: Any = httpcore2.AsyncConnectionPool
        if proxy is not None:
            factory = httpcore2.AsyncSOCKSProxy if _is_socks(proxy) else httpcore2.AsyncHTTPProxy
        line.connection = factory(**options).create_connection(target.url.origin)
        return line

    def _reuse(self, origin: str) -> _AsyncLine | None:
        for line in reversed(self._idle):
            if line.key == origin:
                self._idle.remove(line)
                if _fit(line):
                    return line
                line.kill()
                return self._reuse(origin)
        return None

    def _keep(self, line: _AsyncLine) -> None:
        if self._closed or not line.connection.is_idle() or _leftover(line.connection):
            line.kill()
            return
        line.since = time.monotonic()
        self._idle.append(line)
        while len(self._idle) > self.settings.max_keepalive or not _recent(self._idle[0], line.since):
            self._idle.pop(0).kill()

    def sever(self) -> None:
        """Close the idle connections now, without awaiting; keep none from here on."""
        self._closed = True
        idle, self._idle = self._idle, []
        for line in idle:
            line.kill()

    async def aclose(self) -> None:
        """Close the idle connections now and the busy ones when their answer ends."""
        self.sever()
        await _turn()


def _recent(line: _AsyncLine, now: float) -> bool:
    return now - line.since <= IDLE_SECONDS


async def _turn() -> None:
    """Let asyncio run the callbacks in which transports close; trio closes without."""
    if not _in_trio():
        import asyncio

        await asyncio.sleep(0)


# ---- the registry ----------------------------------------------------------------------------------


class _Home:
    """The transports of one loop, and the generator whose closing tells that the loop ends."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop  # an asyncio loop, or a trio token
        self.transports: dict[HttpSettings, AsyncHttpTransport] = {}
        self.guard = self._until_the_end()
        # Started by hand, as this is no coroutine; both libraries close such generators before a loop ends.
        with suppress(StopIteration):
            self.guard.__anext__().send(None)

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _HOMES.pop(id(self.loop), None)
            self.sever()
            await _turn()

    def sever(self) -> None:
        transports, self.transports = self.transports, {}
        for transport in transports.values():
            transport.sever()

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

    async def _sever_inside(self) -> None:
        self.sever()
        await _turn()


_LOCK = threading.Lock()
_BLOCKING: dict[tuple[HttpSettings, int], HttpTransport] = {}
_HOMES: dict[int, _Home] = {}
_TRANSPORTS: weakref.WeakSet[HttpTransport] = weakref.WeakSet()
_PARENTS: list[Any] = []  # a parent's asyncio objects: closing them would touch what the two share


def _here() -> Any:
    """The running asyncio loop or trio token; None outside."""
    if _in_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def transport_for(settings: HttpSettings | None = None) -> HttpTransport:
    """The blocking transport of these settings in this process."""
    settings = settings or HttpSettings()
    key = (settings, os.getpid())
    with _LOCK:
        transport = _BLOCKING.get(key)
        if transport is None:
            transport = _BLOCKING[key] = HttpTransport(settings)
        return transport


def async_transport_for(settings: HttpSettings | None = None) -> AsyncHttpTransport:
    """The transport of these settings in the running loop; it ends with the loop.

    Raises RuntimeError outside a loop.
    """
    settings = settings or HttpSettings()
    loop = _here()
    if loop is None:
        raise RuntimeError("no event loop is running")
    _sweep()
    home = _HOMES.get(id(loop))
    if home is None:
        home = _HOMES[id(loop)] = _Home(loop)
    transport = home.transports.get(settings)
    if transport is None:
        transport = home.transports[settings] = AsyncHttpTransport(settings)
    return transport


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
    """Close every transport of the registry; those of running loops are told to and close there."""
    _close_blocking()
    _sweep()
    for home in list(_HOMES.values()):
        home.release()


async def aclose() -> None:
    """As `close`; the running loop's idle sockets are closed when it returns."""
    close()
    await _turn()


def _after_fork() -> None:
    """In the child: forget the parent's transports, and let no lock held at the fork be waited for."""
    global _LOCK
    _LOCK = threading.Lock()
    _BLOCKING.clear()
    for transport in list(_TRANSPORTS):
        transport._forked()
    _PARENTS.extend(_HOMES.values())
    _HOMES.clear()


atexit.register(_close_blocking)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
