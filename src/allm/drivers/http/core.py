"""What the two faces share of httpcore2: how a connection is made, and how its body is read."""

from __future__ import annotations

from typing import Any

import h11
import httpcore2
import httpx2

from allm.drivers.http.messages import Target, Wire
from allm.drivers.http.routes import HttpSettings, tls_context


def request_of(wire: Wire) -> httpcore2.Request:
    return httpcore2.Request(wire.method, wire.target.url, headers=wire.fields, content=wire.body)


def options_of(settings: HttpSettings, target: Target, proxy: httpx2.Proxy | None) -> dict[str, Any]:
    """Arguments that httpcore2's pools, of which only the connection factory is used, have in common."""
    options: dict[str, Any] = {"ssl_context": tls_context(settings) if target.secure else None}
    if proxy is not None:
        url = proxy.url
        options["proxy_url"] = httpcore2.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        options["proxy_auth"] = proxy.raw_auth
        if url.scheme == "https":
            options["proxy_ssl_context"] = proxy.ssl_context or tls_context(settings)
    return options


def handshakes(target: Target, proxy: httpx2.Proxy | None) -> int:
    """TLS handshakes before the request itself may be written."""
    behind = proxy is not None and proxy.url.scheme == "https"
    return int(target.secure) + int(behind)


def is_socks(proxy: httpx2.Proxy | None) -> bool:
    return proxy is not None and proxy.url.scheme.startswith("socks")


def parser_of(connection: Any) -> Any:
    """The h11 state of a connection; None where httpcore2 keeps it elsewhere."""
    for _ in range(4):
        state = getattr(connection, "_h11_state", None)
        if state is not None:
            return state
        connection = getattr(connection, "_connection", None)
    return None


def spent(connection: Any) -> bool:
    """Whether an answer has ended and nothing beyond it been read, which would be taken for the next one."""
    state = parser_of(connection)
    return bool(connection.is_idle()) and state is not None and not state.trailing_data[0]


class Joint:
    """What httpcore2 writes, with the head of a request held back until its body comes: both go at once."""

    __slots__ = ("_begins", "_head")

    def __init__(self, wire: Wire | None = None) -> None:
        self._begins = wire.method.encode("ascii") + b" " if wire is not None and wire.body else None
        self._head = b""

    def joined(self, data: bytes) -> memoryview:
        """What is to be sent now; a view, whose repr does not show the key. A proxy's own questions come
        before the head and begin otherwise."""
        if self._begins is not None and data.startswith(self._begins):
            self._begins, self._head = None, data
            return memoryview(b"")
        head, self._head = self._head, b""
        return memoryview(head + data if head else data)


class Pieces:
    """A body in an h11 state, read as it comes: httpcore2 itself gives one chunk at a time."""

    __slots__ = ("_state", "ended")

    def __init__(self, state: Any) -> None:
        self._state = state
        self.ended = False

    def feed(self, data: bytes) -> None:
        self._state.receive_data(data)

    def take(self) -> bytes:
        """All that has come, in one piece. A fault behind it is raised by the next `take`."""
        parts: list[Any] = []
        while not self.ended:
            try:
                event = self._state.next_event()
            except h11.RemoteProtocolError as exc:
                if parts:
                    break
                raise httpcore2.RemoteProtocolError("not HTTP/1.1") from exc
            if type(event) is h11.Data:
                parts.append(event.data)
            elif event is h11.NEED_DATA:
                break
            else:
                self.ended = True
        return b"".join(parts)
