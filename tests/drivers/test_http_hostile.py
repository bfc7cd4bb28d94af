"""Answers that end too late, too early or in two ways, and what a connection keeps or does in a fork.

Every transport on each of its faces, over socket servers made here.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import allm
from allm import keys
from allm.drivers import http
from allm.drivers.http import HttpSettings, async_transport_for, direct_asyncio, routes, transport_for
from allm.drivers.http.calls import Call
from allm.drivers.http.direct_asyncio import AsyncDirectLine
from allm.drivers.http.sockets import WRITE
from allm.errors import AllmError, ConfigurationError, ValidationError
from allm.limits import Timeouts
from allm.ports import HttpRequest
from tests.drivers.test_http import (
    EASY,
    KEY,
    NO_ENV,
    OK,
    OPEN_ENDED,
    Face,
    Server,
    answering,
    awaited,
    blocking,
    faces,
    failure,
    fast_asyncio,
    kinds,
    on_asyncio,
    post,
    read_request,
    runs,
    serving,
)
from tests.faces import WAYS, Way

Run = Callable[[Any], Any]
PATIENCE = 10.0
BRIEF = Timeouts(connect=20.0, first_event=20.0, idle=20.0, request=5.0)  # a wait for `idle` is too long
BIG = bytes(8 << 20)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    http.close()
    gc.collect()


# ---- nothing is left over for the next answer --------------------------------------------------------


@pytest.mark.parametrize("size", [5, 65536, 256 * 1024, 1 << 20])
@runs
def test_bytes_after_an_answer_do_not_become_the_next_awaited(run: Run, kind: str, size: int) -> None:
    """The body fills a read to its last byte, so that what is behind it stays in the layers below."""
    go, sent = threading.Event(), threading.Event()

    def serve(peer: socket.socket, server: Server) -> None:
        while server.ask(peer):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            go.wait(PATIENCE)
            go.clear()
            poisoned = bytes(size) + OK.replace(b"hello", b"wrong")
            with suppress(TimeoutError):  # what does not fit yet goes on while the client reads
                peer.settimeout(0.001)
                poisoned = poisoned[peer.send(poisoned) :]
            sent.set()
            peer.settimeout(None)
            peer.sendall(poisoned)

    async def main(server: Server) -> None:
        for _ in range(3):
            body = await async_transport_for(NO_ENV, kind).open(post(server.url), EASY)
            go.set()
            sent.wait(PATIENCE)  # the loop stands still meanwhile
            sent.clear()
            whole = b""
            while data := await body.read(20):
                whole += data
            assert whole == bytes(size)

    with serving(serve) as server:
        run(main(server))
        assert len(server.peers) == 3


@faces
def test_a_length_and_a_coding_together_are_refused(face: Face) -> None:
    both = OPEN_ENDED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1) + b"0\r\n\r\n"
    with serving(answering(both)) as server:
        assert failure(face, server.url).info.reason == "protocol_error"


@faces
def test_an_answer_to_head_ends_with_its_headers(face: Face) -> None:
    with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as server:
        assert face(HttpRequest(url=server.url, method="HEAD"), BRIEF, NO_ENV) == b""


# ---- what an idle connection keeps -----------------------------------------------------------------


@kinds
def test_an_idle_connection_keeps_nothing_of_its_request(kind: str) -> None:
    content = os.urandom(64)
    with serving(answering(OK)) as server:
        request = post(server.url, content)
        before = sys.getrefcount(content)
        assert blocking(request, EASY, NO_ENV, kind) == b"hello"
        gc.collect()
        assert sys.getrefcount(content) == before


@runs
def test_an_idle_connection_keeps_nothing_of_its_request_awaited(run: Run, kind: str) -> None:
    content = os.urandom(64)

    async def main(server: Server) -> None:
        request = post(server.url, content)
        before = sys.getrefcount(content)
        assert await awaited(request, EASY, NO_ENV, kind) == b"hello"
        gc.collect()
        assert sys.getrefcount(content) == before

    with serving(answering(OK)) as server:
        run(main(server))


# ---- forks -----------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], Any]) -> None:
    """Fork, do `work` in the child, and wait for its end."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))  # a child that waits for a lock of the parent's is ended
        code = 1
        with suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def halved(go: threading.Event) -> Callable[[socket.socket, Server], None]:
    """The first half of an answer at once, the second when `go` is set."""

    def serve(peer: socket.socket, server: Server) -> None:
        server.ask(peer)
        peer.sendall(OPEN_ENDED)
        go.wait(PATIENCE)
        peer.sendall(b"5\r\nworld\r\n0\r\n\r\n")
        read_request(peer)

    return serve


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("end", ["close", "cancel", "__del__"])
@kinds
def test_a_child_does_not_end_the_parents_answer(kind: str, end: str) -> None:
    go = threading.Event()
    with serving(halved(go)) as server:
        body = transport_for(NO_ENV, kind).open(post(server.url), EASY)
        assert body.read(20) == b"hello"
        with body._line._lock:  # as if another thread held it
            in_a_child(getattr(body, end))
        go.set()
        assert body.read(20) == b"world"
        assert body.read(20) == b""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("end", ["cancel", "__del__"])
@runs
def test_a_child_does_not_end_the_parents_answer_awaited(run: Run, kind: str, end: str) -> None:
    go = threading.Event()

    async def main(server: Server) -> None:
        body = await async_transport_for(NO_ENV, kind).open(post(server.url), EASY)
        assert await body.read(20) == b"hello"
        in_a_child(getattr(body, end))
        go.set()
        assert await body.read(20) == b"world"
        assert await body.read(20) == b""

    with serving(halved(go)) as server:
        run(main(server))


# ---- answers before the request has gone -------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", b"no"),
        (b"garbage\r\n\r\n", "protocol_error"),
    ],
    ids=["413", "garbage"],
)
@runs
def test_what_comes_during_an_upload_is_heard(run: Run, kind: str, sent: bytes, outcome: bytes | str) -> None:
    done = threading.Event()

    def serve(peer: socket.socket, server: Server) -> None:
        peer.recv(1000)
        peer.sendall(sent)
        done.wait(PATIENCE)

    async def main(server: Server) -> bytes | str:
        try:
            return await awaited(post(server.url, BIG), BRIEF, NO_ENV, kind)
        except AllmError as error:
            return error.info.reason

    with serving(serve) as server:
        try:
            assert run(main(server)) == outcome
        finally:
            done.set()


@runs
def test_an_interim_answer_does_not_end_an_upload(run: Run, kind: str) -> None:
    def serve(peer: socket.socket, server: Server) -> None:
        peer.sendall(b"HTTP/1.1 103 Hints\r\n\r\n")
        server.ask(peer)
        peer.sendall(OK)
        read_request(peer)

    with serving(serve) as server:
        assert run(awaited(post(server.url, BIG), EASY, NO_ENV, kind)) == b"hello"
        assert server.seen[0].endswith(BIG)


@runs
def test_nothing_is_written_to_a_connection_that_is_gone(
    run: Run, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(peer: socket.socket, server: Server) -> None:
        peer.recv(1000)

    with serving(serve) as server, pytest.raises(AllmError, match="connection"):
        run(awaited(post(server.url, bytes(64 * WRITE)), EASY, NO_ENV, kind))
    assert not caplog.records


# ---- keys ------------------------------------------------------------------------------------------


CANARY = "sk-canary-12345"


class Foreign(BaseException):
    """As KeyboardInterrupt or a cancelled task: not an error of the library's."""


def shown(error: BaseException) -> str:
    """What a reporter of crashes would send: the stack with the values of its variables."""
    told = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True)
    return "".join(told.format())


@pytest.mark.parametrize("moment", ["writing", "waiting"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_no_key_in_the_frames_of_a_foreign_exception(
    way: Way, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(call: Call) -> None:
        raise Foreign

    monkeypatch.setitem(keys._levels.store, "compatible", CANARY)
    with serving(answering(OK)) as server:
        engine = allm.Engine("compatible:m", base_url=server.url, retry=False, transport=way.transport)
        monkeypatch.setattr(Call, moment, interrupt)
        with pytest.raises(BaseException) as caught:  # noqa: PT011  # trio wraps it in a group
            way.face.generate(engine, "Hi")
    assert "exchange" in shown(caught.value)
    assert CANARY not in shown(caught.value)


# ---- requests and settings -------------------------------------------------------------------------


@faces
def test_a_get_has_no_length(face: Face) -> None:
    with serving(answering(OK)) as server:
        request = HttpRequest(url=server.url, method="GET", headers={"Content-Length": "5"})
        assert face(request, BRIEF, NO_ENV) == b"hello"
        assert b"content-length" not in server.seen[0].lower()


@pytest.mark.parametrize("character", ["\x01", "\x0b", "\x1f", "\x7f"])
def test_control_characters_in_a_header(character: str) -> None:
    request = HttpRequest(url="http://127.0.0.1:1/", headers={"x": f"a{character}b"})
    with pytest.raises(ValidationError):
        transport_for(NO_ENV).open(request, EASY, KEY)


@faces
def test_certificates_that_cannot_be_read(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.path.join(os.sep, "nowhere", "ca.pem"))
    routes.tls_context.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match="SSL_CERT_FILE") as caught:
            face(post("https://127.0.0.1:1/"), EASY, HttpSettings())
    finally:
        routes.tls_context.cache_clear()
    assert caught.value.info.retryable is False


@pytest.mark.parametrize("proxy", ["http://user:hunter2@proxy:1", "user:hunter2@proxy:1"])
def test_settings_do_not_show_the_password_of_the_proxy(proxy: str) -> None:
    shown = repr(HttpSettings(proxy=proxy))
    assert "proxy:1" in shown
    assert "hunter2" not in shown
    assert repr(HttpSettings()) == "HttpSettings(verify=True, proxy=None, trust_env=True, max_keepalive=256)"


# ---- sockets ---------------------------------------------------------------------------------------


def kept_alive(sock: Any) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


@kinds
def test_a_silent_connection_is_probed(kind: str) -> None:
    with serving(answering(OK)) as server:
        body = transport_for(NO_ENV, kind).open(post(server.url), EASY)
        assert kept_alive(body._line._sock)
        body.close()


@runs
def test_a_silent_connection_is_probed_awaited(run: Run, kind: str) -> None:
    async def main(server: Server) -> None:
        body = await async_transport_for(NO_ENV, kind).open(post(server.url), EASY)
        line: Any = body._line
        source = line._inner if hasattr(line, "_inner") else line._transport
        assert kept_alive(source.get_extra_info("socket"))
        await body.aclose()

    with serving(answering(OK)) as server:
        run(main(server))


@faces
def test_the_next_address_is_tried(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(OK)) as server, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        there = server.listener.getsockname()
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (reserved.getsockname(), there)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        assert face(post(f"http://two.invalid:{there[1]}/"), EASY, NO_ENV) == b"hello"


@pytest.mark.parametrize("face", [on_asyncio, fast_asyncio])
def test_an_address_that_is_silent_does_not_hold_up_the_next(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    dial = AsyncDirectLine._dial
    given_up: list[Any] = []

    async def silent_at_first(line: AsyncDirectLine, found: Any) -> socket.socket:
        if found[4] != there:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                given_up.append(found[4])
        return await dial(line, found)

    with serving(answering(OK)) as server:
        there = server.listener.getsockname()
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (("192.0.2.1", 9), there)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        monkeypatch.setattr(AsyncDirectLine, "_dial", silent_at_first)
        monkeypatch.setattr(direct_asyncio, "HEAD_START", 0.0)
        assert face(post("http://silent.invalid/"), EASY, NO_ENV) == b"hello"
        assert given_up == [("192.0.2.1", 9)]
