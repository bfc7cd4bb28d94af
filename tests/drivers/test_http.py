"""The HTTP driver over loopback: socket servers made here, and the fault server beside the repository."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import pickle
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trio

from allm.drivers import http
from allm.drivers.http import HttpSettings, async_transport_for, codings, transport_for
from allm.drivers.http.awaited import AsyncHttpTransport
from allm.drivers.http.blocking import HttpTransport
from allm.errors import (
    AllmError,
    CancelledError,
    ConfigurationError,
    ConnectionFailedError,
    DeadlineExceededError,
    RedirectRefusedError,
    StreamInterruptedError,
    TLSError,
    ValidationError,
    WireError,
)
from allm.limits import Timeouts
from allm.ports import HttpRequest
from tests.fault_support import load

KEY = ("authorization", "Bearer sk-very-secret")
QUICK = Timeouts(connect=0.3, first_event=0.3, idle=0.3, request=20.0)
EASY = Timeouts(connect=20.0, first_event=20.0, idle=20.0, request=60.0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
OPEN_ENDED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
NO_ENV = HttpSettings(trust_env=False)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    http.close()
    gc.collect()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.005)


def descriptors() -> int:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("descriptors cannot be counted here")
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def read_request(peer: socket.socket) -> bytes:
    """One request with its body; b"" where the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    while len(body) < length:
        more = peer.recv(65536)
        if not more:
            return b""
        body += more
    return head + b"\r\n\r\n" + body


class Server:
    """A listener whose connections run `serve(peer, self)` on threads; `seen` holds the requests."""

    def __init__(self, serve: Callable[[socket.socket, Server], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.serve = serve
        self.seen: list[bytes] = []
        self.peers: list[socket.socket] = []
        self.gone = 0
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.peers.append(peer)
            thread = threading.Thread(target=self.one, args=(peer,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def one(self, peer: socket.socket) -> None:
        with suppress(OSError), peer:
            self.serve(peer, self)
        self.gone += 1

    def ask(self, peer: socket.socket) -> bytes:
        request = read_request(peer)
        if request:
            self.seen.append(request)
        return request

    def stop(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)


@contextmanager
def serving(serve: Callable[[socket.socket, Server], None]) -> Iterator[Server]:
    server = Server(serve)
    try:
        yield server
    finally:
        server.stop()


def answering(answer: bytes, *, hold: bool = False) -> Callable[[socket.socket, Server], None]:
    """Answer each request of a connection; `hold` waits for the client to go, else keep-alive."""

    def serve(peer: socket.socket, server: Server) -> None:
        while server.ask(peer):
            peer.sendall(answer)
            if hold:
                peer.recv(1)
                return

    return serve


def closing(answer: bytes) -> Callable[[socket.socket, Server], None]:
    def serve(peer: socket.socket, server: Server) -> None:
        server.ask(peer)
        peer.sendall(answer)

    return serve


def post(url: str, body: bytes = b"{}") -> HttpRequest:
    return HttpRequest(url=url, body=body, headers={"content-type": "application/json"})


def blocking(request: HttpRequest, timeouts: Timeouts, settings: HttpSettings, kind: str = "httpx2") -> bytes:
    body = transport_for(settings, kind).open(request, timeouts, KEY)
    try:
        whole = b""
        while data := body.read(timeouts.idle):
            whole += data
        return whole
    finally:
        body.close()


async def awaited(
    request: HttpRequest, timeouts: Timeouts, settings: HttpSettings, kind: str = "httpx2"
) -> bytes:
    body = await async_transport_for(settings, kind).open(request, timeouts, KEY)
    try:
        whole = b""
        while data := await body.read(timeouts.idle):
            whole += data
        return whole
    finally:
        await body.aclose()


def on_asyncio(request: HttpRequest, timeouts: Timeouts, settings: HttpSettings) -> bytes:
    return asyncio.run(awaited(request, timeouts, settings))


def on_trio(request: HttpRequest, timeouts: Timeouts, settings: HttpSettings) -> bytes:
    return trio.run(awaited, request, timeouts, settings)


def fast_blocking(request: HttpRequest, timeouts: Timeouts, settings: HttpSettings) -> bytes:
    return blocking(request, timeouts, settings, "httptools")


def fast_asyncio(request: HttpRequest, timeouts: Timeouts, settings: HttpSettings) -> bytes:
    return asyncio.run(awaited(request, timeouts, settings, "httptools"))


def core_blocking(request: HttpRequest, timeouts: Timeouts, settings: HttpSettings) -> bytes:
    return blocking(request, timeouts, settings, "core")


def core_asyncio(request: HttpRequest, timeouts: Timeouts, settings: HttpSettings) -> bytes:
    return asyncio.run(awaited(request, timeouts, settings, "core"))


FACES = [blocking, on_asyncio, on_trio, core_blocking, core_asyncio, fast_blocking, fast_asyncio]
KINDS = ["httpx2", "core", "httptools"]
Face = Callable[[HttpRequest, Timeouts, HttpSettings], bytes]
faces = pytest.mark.parametrize("face", FACES)
kinds = pytest.mark.parametrize("kind", KINDS)
RUNS = [
    pytest.param(asyncio.run, "httpx2", id="asyncio"),
    pytest.param(lambda made: trio.run(lambda: made), "httpx2", id="trio"),
    pytest.param(asyncio.run, "core", id="core_asyncio"),
    pytest.param(asyncio.run, "httptools", id="fast_asyncio"),
]
runs = pytest.mark.parametrize(("run", "kind"), RUNS)


def failure(face: Face, url: str, timeouts: Timeouts = EASY, body: bytes = b"{}") -> AllmError:
    with pytest.raises(AllmError) as caught:
        face(post(url, body), timeouts, NO_ENV)
    error = caught.value
    assert "sk-very" not in f"{error} {error!r} {error.info} {error.__context__!r}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


# ---- answers ---------------------------------------------------------------------------------------


@faces
def test_a_whole_answer_and_the_request_as_sent(face: Face) -> None:
    with serving(answering(OK)) as server:
        assert face(post(server.url, b"question"), EASY, NO_ENV) == b"hello"
        sent = server.seen[0]
    assert sent.startswith(b"POST /v1 HTTP/1.1\r\n")
    assert b"\r\nauthorization: Bearer sk-very-secret\r\n" in sent
    assert sent.lower().count(b"\r\nhost: 127.0.0.1:") == 1
    assert b"\r\ncontent-length: 8\r\n" in sent
    assert sent.endswith(b"\r\n\r\nquestion")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw-deflate", "members"])
@faces
def test_compressed_bodies(face: Face, coding: str) -> None:
    text = b"answer " * 50_000
    packer = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(text),
        "deflate": zlib.compress(text),
        "raw-deflate": packer.compress(text) + packer.flush(),
        "members": gzip.compress(text[:100]) + gzip.compress(text[100:]),
    }[coding]
    name = "deflate" if "deflate" in coding else "gzip"
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\nContent-Length: {len(packed)}\r\n\r\n"
    with serving(answering(head.encode() + packed)) as server:
        assert face(post(server.url), EASY, NO_ENV) == text


@kinds
def test_a_bomb_comes_in_bounded_pieces(kind: str) -> None:
    packed = gzip.compress(bytes(30_000_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    with serving(answering(head + packed)) as server:
        body = transport_for(NO_ENV, kind).open(post(server.url), EASY)
        for _ in range(20):
            assert 0 < len(body.read(20)) <= codings.PIECE
        body.close()
        until(lambda: server.gone == 1)


@pytest.mark.parametrize(
    "raw", [b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", b"Content-Encoding: br\r\n\r\nx"]
)
@faces
def test_an_unreadable_coding_is_malformed(face: Face, raw: bytes) -> None:
    with serving(closing(b"HTTP/1.1 200 OK\r\n" + raw)) as server:
        error = failure(face, server.url)
    assert isinstance(error, WireError)
    assert error.info.reason == "malformed_response"


@faces
def test_a_refusal_is_an_answer(face: Face) -> None:
    with serving(answering(b"HTTP/1.1 429 Slow\r\nContent-Length: 2\r\nretry-after: 3\r\n\r\nno")) as server:
        assert face(post(server.url), EASY, NO_ENV) == b"no"
        body = transport_for(NO_ENV).open(post(server.url), EASY)
        assert (body.head.status, body.head.headers["retry-after"]) == (429, "3")
        body.close()


# ---- failures --------------------------------------------------------------------------------------


@faces
def test_nobody_listens(face: Face) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        error = failure(face, f"http://127.0.0.1:{reserved.getsockname()[1]}/")
    assert isinstance(error, ConnectionFailedError)
    assert (error.info.phase, error.info.retryable) == ("connect", True)


@faces
def test_an_unknown_host_is_a_network_error(face: Face) -> None:
    assert failure(face, "http://nowhere.invalid/").info.reason == "network_error"


@pytest.mark.parametrize(
    ("sent", "phase"), [(b"", "response"), (b"HTTP/1.1 200", "response"), (OPEN_ENDED, "stream")]
)
@faces
def test_silence_is_a_timeout(face: Face, sent: bytes, phase: str) -> None:
    with serving(answering(sent, hold=True)) as server:
        error = failure(face, server.url, QUICK)
        assert isinstance(error, DeadlineExceededError)
        assert (error.info.phase, error.info.retryable) == (phase, True)
        until(lambda: server.gone == 1)


@faces
def test_dripping_headers_end_with_the_deadline(face: Face) -> None:
    def drip(peer: socket.socket, server: Server) -> None:
        server.ask(peer)
        while True:
            peer.sendall(b"HTTP/1.1 103 Hints\r\n\r\n")
            time.sleep(0.02)

    with serving(drip) as server:
        assert failure(face, server.url, QUICK).info.phase == "response"


@faces
def test_a_body_nobody_reads_times_out(face: Face) -> None:
    done = threading.Event()

    def serve(peer: socket.socket, server: Server) -> None:
        done.wait(20)

    with serving(serve) as server:
        error = failure(face, server.url, QUICK, body=bytes(32 << 20))
        done.set()
    assert isinstance(error, DeadlineExceededError)


@pytest.mark.parametrize(
    "sent", [OPEN_ENDED, OPEN_ENDED + b"ff\r\nhalf", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
@faces
def test_a_cut_body_is_interrupted(face: Face, sent: bytes) -> None:
    with serving(closing(sent)) as server:
        error = failure(face, server.url)
    assert isinstance(error, StreamInterruptedError)
    assert (error.info.phase, error.info.retryable) == ("stream", True)


@pytest.mark.parametrize(
    ("sent", "reason", "retryable"),
    [
        (b"", "network_error", True),
        (b"HTTP/1.1 2", "protocol_error", False),
        (b"what\r\n\r\n", "protocol_error", False),
    ],
)
@faces
def test_an_end_before_the_headers(face: Face, sent: bytes, reason: str, retryable: bool) -> None:
    with serving(closing(sent)) as server:
        error = failure(face, server.url)
        assert len(server.seen) == 1
    assert (error.info.reason, error.info.retryable) == (reason, retryable)


@faces
def test_redirects_are_refused(face: Face) -> None:
    where = b"https://user:pw@other.example:8443/path?key=1"
    answer = b"HTTP/1.1 307 Go\r\nLocation: " + where + b"\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(answer)) as server:
        error = failure(face, server.url)
        assert len(server.seen) == 1
    assert isinstance(error, RedirectRefusedError)
    assert error.info.status == 307
    assert "https://other.example:8443" in str(error)
    assert "pw" not in str(error)
    assert "key=1" not in str(error)


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@127.0.0.1/", "ftp://127.0.0.1/", "no url", "http://", "http://[::bad/", ""]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HttpTransport(NO_ENV).open(post(url), EASY)
    assert "hunter2" not in str(caught.value)


def test_headers_that_cannot_be_sent() -> None:
    transport = HttpTransport(NO_ENV)
    with pytest.raises(ConfigurationError) as caught:
        transport.open(post("http://127.0.0.1:1/"), EASY, ("authorization", "Bearer sk-very\nsecret"))
    assert "sk-very" not in str(caught.value)
    with pytest.raises(ValidationError):
        transport.open(HttpRequest(url="http://127.0.0.1:1/", headers={"x": "a\r\nb: c"}), EASY)


# ---- keeping connections ---------------------------------------------------------------------------


@kinds
def test_connections_are_kept_and_bounded(kind: str) -> None:
    with serving(answering(OK)) as server:
        for _ in range(5):
            assert blocking(post(server.url), EASY, NO_ENV, kind) == b"hello"
        assert len(server.peers) == 1
        small = HttpTransport(HttpSettings(trust_env=False, max_keepalive=2), http._dial(kind))
        bodies = [small.open(post(server.url), EASY) for _ in range(6)]
        for body in bodies:
            while body.read(20):
                pass
        until(lambda: server.gone == 4)
        small.close()
        until(lambda: server.gone == 6)


@kinds
def test_bytes_after_an_answer_do_not_become_the_next(kind: str) -> None:
    with serving(answering(OK + OK.replace(b"hello", b"wrong"))) as server:
        for _ in range(3):
            assert blocking(post(server.url), EASY, NO_ENV, kind) == b"hello"
        assert len(server.peers) == 3


def dying(peer: socket.socket, server: Server) -> None:
    """A good answer, then the next request of the same connection is read and dropped."""
    server.ask(peer)
    peer.sendall(OK)
    server.ask(peer)


@kinds
def test_a_stale_connection_is_replaced_once(kind: str) -> None:
    with serving(dying) as server:
        for _ in range(3):
            assert blocking(post(server.url), EASY, NO_ENV, kind) == b"hello"
        assert len(server.peers) == 3


@runs
def test_a_stale_connection_is_replaced_once_awaited(run: Callable[[Any], Any], kind: str) -> None:
    async def main(server: Server) -> None:
        for _ in range(3):
            assert await awaited(post(server.url), EASY, NO_ENV, kind) == b"hello"

    with serving(dying) as server:
        run(main(server))
        assert len(server.peers) == 3


@kinds
def test_64_threads_share_one_transport(kind: str) -> None:
    before = descriptors()
    failures: list[BaseException] = []

    def work(url: str) -> None:
        try:
            for _ in range(10):
                assert blocking(post(url), EASY, NO_ENV, kind) == b"hello"
        except BaseException as exc:
            failures.append(exc)

    with serving(answering(OK)) as server:
        threads = [threading.Thread(target=work, args=(server.url,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert len(server.seen) == 640
        http.close()
    until(lambda: descriptors() <= before)


# ---- letting go ------------------------------------------------------------------------------------


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


@kinds
def test_closing_an_unfinished_body_closes_the_connection(kind: str) -> None:
    before = descriptors()
    with serving(answering(OPEN_ENDED, hold=True)) as server:
        body = transport_for(NO_ENV, kind).open(post(server.url), EASY)
        assert body.read(20) == b"hello"
        body.close()
        until(lambda: server.gone == 1)
        assert body.read(20) == b""
    until(lambda: descriptors() <= before)


@kinds
def test_cancel_ends_a_waiting_read(kind: str) -> None:
    with serving(answering(OPEN_ENDED, hold=True)) as server:
        body = transport_for(NO_ENV, kind).open(post(server.url), EASY)
        assert body.read(20) == b"hello"
        thread, raised = in_thread(lambda: body.read(None))
        time.sleep(0.02)
        body.cancel()
        thread.join(5)
        assert [type(error) for error in raised] == [CancelledError]
        until(lambda: server.gone == 1)
        with pytest.raises(CancelledError):
            body.read(1)


@kinds
def test_cancel_ends_an_open_that_waits_for_headers(kind: str) -> None:
    cancels: list[Callable[[], None]] = []
    with serving(answering(b"", hold=True)) as server:
        transport = transport_for(NO_ENV, kind)
        thread, raised = in_thread(lambda: transport.open(post(server.url), EASY, KEY, cancels.append))
        until(lambda: server.seen)
        cancels[0]()
        thread.join(5)
        assert [type(error) for error in raised] == [CancelledError]
        until(lambda: server.gone == 1)


@kinds
def test_cancel_before_the_connection_and_after_the_end(kind: str) -> None:
    with serving(answering(OK)) as server:
        transport = transport_for(NO_ENV, kind)
        with pytest.raises(CancelledError):
            transport.open(post(server.url), EASY, KEY, lambda cancel: cancel())
        body = transport.open(post(server.url), EASY)
        assert body.read(20) == b"hello"
        assert body.read(20) == b""
        body.cancel()
        assert blocking(post(server.url), EASY, NO_ENV, kind) == b"hello"


@contextmanager
def full_backlog() -> Iterator[str]:
    """An address at which a connection never opens (on Linux)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            for filler in fillers:
                filler.close()


linux = pytest.mark.skipif(sys.platform != "linux", reason="a full backlog drops the connection only here")


@linux
@faces
def test_connecting_is_bounded(face: Face) -> None:
    with full_backlog() as url:
        error = failure(face, url, QUICK)
    assert isinstance(error, DeadlineExceededError)
    assert error.info.phase == "connect"


@linux
@kinds
def test_cancel_ends_a_connect(kind: str) -> None:
    cancels: list[Callable[[], None]] = []
    with full_backlog() as url:
        transport = transport_for(NO_ENV, kind)
        thread, raised = in_thread(lambda: transport.open(post(url), EASY, None, cancels.append))
        until(lambda: cancels)
        time.sleep(0.02)
        cancels[0]()
        thread.join(5)
    assert [type(error) for error in raised] == [CancelledError]


@pytest.mark.parametrize("sent", [b"", OPEN_ENDED])
@kinds
def test_a_cancelled_asyncio_task_closes_its_socket(sent: bytes, kind: str) -> None:
    async def main(server: Server) -> None:
        tasks = asyncio.all_tasks()
        task = asyncio.create_task(awaited(post(server.url), EASY, NO_ENV, kind))
        await asyncio.to_thread(until, lambda: server.seen)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: server.gone)
        assert asyncio.all_tasks() == tasks

    before = descriptors()
    with serving(answering(sent, hold=True)) as server:
        asyncio.run(asyncio.wait_for(main(server), 20))
    until(lambda: descriptors() <= before)


@pytest.mark.parametrize("sent", [b"", OPEN_ENDED])
def test_a_cancelled_trio_task_closes_its_socket(sent: bytes) -> None:
    async def main(server: Server) -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(awaited, post(server.url), EASY, NO_ENV)
                await trio.to_thread.run_sync(until, lambda: server.seen)
                await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(until, lambda: server.gone)

    before = descriptors()
    with serving(answering(sent, hold=True)) as server:
        trio.run(main, server)
    until(lambda: descriptors() <= before)


@pytest.mark.parametrize("steps", range(16))
@kinds
def test_cancelled_at_each_turn_of_the_loop(steps: int, kind: str) -> None:
    async def main(server: Server) -> None:
        task = asyncio.create_task(awaited(post(server.url), EASY, NO_ENV, kind))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    before = descriptors()
    with serving(answering(OPEN_ENDED, hold=True)) as server:
        asyncio.run(asyncio.wait_for(main(server), 20))
        until(lambda: server.gone == len(server.peers))
    until(lambda: descriptors() <= before)


@runs
def test_aclose_of_an_unfinished_body(run: Callable[[Any], Any], kind: str) -> None:
    async def main(server: Server) -> None:
        for reads in (0, 1):
            body = await async_transport_for(NO_ENV, kind).open(post(server.url), EASY)
            for _ in range(reads):
                assert await body.read(20) == b"hello"
            await body.aclose()
            await body.aclose()
            assert await body.read(20) == b""

    before = descriptors()
    with serving(answering(OPEN_ENDED, hold=True)) as server:
        run(main(server))
        until(lambda: server.gone == 2)
    until(lambda: descriptors() <= before)


# ---- loops and processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("face", [on_asyncio, on_trio, core_asyncio, fast_asyncio])
def test_ten_loops_leave_nothing_open(face: Face) -> None:
    with serving(answering(OK)) as server:
        before = descriptors()
        for _ in range(10):
            assert face(post(server.url), EASY, NO_ENV) == b"hello"
        until(lambda: server.gone == 10)
        assert not http._HOMES
        assert descriptors() <= before


@kinds
def test_a_loop_closed_by_hand_is_swept(kind: str) -> None:
    with serving(answering(OK)) as server:
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(awaited(post(server.url), EASY, NO_ENV, kind)) == b"hello"
        loop.close()
        assert http._HOMES
        http.close()
        assert not http._HOMES
        until(lambda: server.gone == 1)


@kinds
def test_close_reaches_a_loop_that_rests_and_one_that_runs(kind: str) -> None:
    with serving(answering(OK)) as server:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(awaited(post(server.url), EASY, NO_ENV, kind))
        http.close()
        until(lambda: server.gone == 1)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

        async def main() -> None:
            await awaited(post(server.url), EASY, NO_ENV, kind)
            await asyncio.to_thread(http.close)
            await asyncio.to_thread(until, lambda: server.gone == 2)
            await awaited(post(server.url), EASY, NO_ENV, kind)
            await http.aclose()
            await asyncio.to_thread(until, lambda: server.gone == 3)
            assert await awaited(post(server.url), EASY, NO_ENV, kind) == b"hello"

        asyncio.run(main())


@kinds
def test_loops_do_not_share_and_settings_do_not_mix(kind: str) -> None:
    async def both() -> tuple[AsyncHttpTransport, AsyncHttpTransport]:
        return async_transport_for(NO_ENV, kind), async_transport_for(NO_ENV, kind)

    first, again = asyncio.run(both())
    assert first is again
    assert asyncio.run(both())[0] is not first
    assert transport_for(NO_ENV, kind) is transport_for(HttpSettings(trust_env=False), kind)
    assert transport_for(NO_ENV, kind) is not transport_for(HttpSettings(), kind)
    with pytest.raises(RuntimeError):
        async_transport_for(NO_ENV, kind)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@kinds
def test_a_child_has_its_own_connections(kind: str) -> None:
    with serving(answering(OK)) as server:
        parent = transport_for(NO_ENV, kind)
        assert blocking(post(server.url), EASY, NO_ENV, kind) == b"hello"
        parent._lock.acquire()  # as if another thread had held it
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                fresh = transport_for(NO_ENV, kind) is not parent
                code = 0 if fresh and blocking(post(server.url), EASY, NO_ENV, kind) == b"hello" else 2
                parent.open(post(server.url), EASY).close()
            os._exit(code)
        parent._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        peers = len(server.peers)
        assert blocking(post(server.url), EASY, NO_ENV, kind) == b"hello"
        assert len(server.peers) == peers  # the parent's connection lives on


# ---- proxies ---------------------------------------------------------------------------------------


@faces
def test_proxies_of_the_environment(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(OK)) as proxy:
        for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        assert face(post("http://far.invalid/v1"), EASY, HttpSettings()) == b"hello"
        assert proxy.seen[0].startswith(b"POST http://far.invalid/v1 HTTP/1.1\r\n")
        http.close()
        monkeypatch.setenv("no_proxy", "far.invalid")
        with pytest.raises(ConnectionFailedError):
            face(post("http://far.invalid/v1"), EASY, HttpSettings())


@faces
def test_https_goes_by_connect_and_a_refusal_is_told(face: Face) -> None:
    with serving(answering(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        settings = HttpSettings(proxy=proxy.url.removesuffix("/v1"))
        with pytest.raises(ConnectionFailedError, match="407") as caught:
            face(post("https://far.invalid/v1"), EASY, settings)
        assert caught.value.info.retryable is False
        assert proxy.seen[0].startswith(b"CONNECT far.invalid:443 HTTP/1.1\r\n")
        assert b"sk-very" not in b"".join(proxy.seen)


# ---- the fault server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faults() -> Iterator[Any]:
    module = load()
    if module is None:
        pytest.skip("the fault server is not beside this checkout")
    server = module.FaultServer(max_seconds=600)
    server.__enter__()
    try:
        yield server
    finally:
        server.__exit__(None, None, None)
        for left in server._srv._extra:
            left.close()


CHAT = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
EXPECTED = {
    "refused": {"network_error"},
    "connect_hang": {"timeout"},
    "accept_close": {"network_error"},
    "accept_rst": {"network_error"},
    "accept_silent": {"timeout"},
    "banner": {"protocol_error"},
    "no_reply": {"timeout"},
    "rst_before_headers": {"network_error"},
    "fin_mid_headers": {"protocol_error"},
    "fin_mid_chunk": {"stream_interrupted"},
    "fin_between_chunks": {"stream_interrupted"},
    "rst_mid_chunk": {"stream_interrupted"},
    "stall_after_headers": {"timeout"},
    "stall_mid": {"timeout"},
    "bad_chunk_size": {"stream_interrupted", "protocol_error"},
    "huge_headers": {"protocol_error"},
    "http_garbage": {"protocol_error"},
    "redir_307_cross": {"redirect_refused"},
    "redir_302_post": {"redirect_refused"},
    "redir_file": {"redirect_refused"},
    "redir_relative_bad": {"redirect_refused"},
    "many_1xx": {"ok"},
    "stale_keepalive": {"ok"},
    "gzip_stream": {"ok"},
    "early_413": {"ok"},
    "s500_html": {"ok"},
}
TLS = {
    "tls_ok": {"ok"},
    "tls_self_signed": {"tls_error"},
    "tls_expired": {"tls_error"},
    "tls_wrong_host": {"tls_error"},
    "tls_to_plain": {"tls_error"},
    "tls_stall": {"timeout"},
    "tls_cut": {"stream_interrupted"},
}


def outcome(face: Face, request: HttpRequest, settings: HttpSettings) -> str:
    failed: AllmError | None = None
    try:
        face(request, Timeouts(connect=1.0, first_event=1.0, idle=1.0, request=20.0), settings)
    except AllmError as error:
        failed = error
    assert "sk-very" not in repr(failed)
    return failed.info.reason if failed else "ok"


@pytest.mark.parametrize("scenario", EXPECTED)
@faces
def test_faults(faults: Any, face: Face, scenario: str) -> None:
    url = faults.url(scenario, f"http-{scenario}-{face.__name__}") + "/v1/chat/completions"
    for _ in range(2 if scenario == "stale_keepalive" else 1):
        assert outcome(face, post(url, CHAT), NO_ENV) in EXPECTED[scenario]


@pytest.mark.parametrize("scenario", TLS)
@faces
def test_tls(faults: Any, face: Face, scenario: str) -> None:
    folder = faults._srv.cert_dir
    if not folder:
        pytest.skip("no certificates can be made here")
    settings = HttpSettings(verify=f"{folder}/ca.pem", trust_env=False)
    url = faults.url(scenario, f"tls-{scenario}-{face.__name__}") + "/v1/chat/completions"
    assert outcome(face, post(url, CHAT), settings) in TLS[scenario]


def poisoning(context: ssl.SSLContext, chosen: list[Any]) -> Callable[[socket.socket, Server], None]:
    """Over TLS, an answer and then one that nobody asked for: two records in one write. `chosen` gets the
    protocol that was agreed on."""

    def serve(peer: socket.socket, server: Server) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = context.wrap_bio(incoming, outgoing, server_side=True)

        def done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    peer.sendall(outgoing.read())
                    if not incoming.write(peer.recv(65536)):
                        incoming.write_eof()

        done(secured.do_handshake)
        chosen.append(secured.selected_alpn_protocol())
        while done(lambda: secured.read(65536)):
            secured.write(OK)
            secured.write(OK.replace(b"hello", b"wrong"))
            peer.sendall(outgoing.read())

    return serve


@pytest.mark.parametrize("face", ["blocking", "asyncio", "trio"])
@kinds
def test_bytes_after_an_answer_over_tls(faults: Any, face: str, kind: str) -> None:
    folder = faults._srv.cert_dir
    if not folder:
        pytest.skip("no certificates can be made here")
    settings = HttpSettings(verify=f"{folder}/ca.pem", trust_env=False)

    async def twice(request: HttpRequest) -> list[bytes]:
        return [await awaited(request, EASY, settings, kind) for _ in range(2)]

    chosen: list[Any] = []
    context = faults._srv._ssl("good")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with serving(poisoning(context, chosen)) as server:
        request = post(server.url.replace("http:", "https:"))
        if face == "blocking":
            answers = [blocking(request, EASY, settings, kind) for _ in range(2)]
        else:
            answers = trio.run(twice, request) if face == "trio" else asyncio.run(twice(request))
        assert answers == [b"hello"] * 2
        assert len(server.peers) == 2
        assert chosen == ["http/1.1"] * 2


@kinds
def test_cancel_over_tls(faults: Any, kind: str) -> None:
    folder = faults._srv.cert_dir
    if not folder:
        pytest.skip("no certificates can be made here")
    transport = transport_for(HttpSettings(verify=f"{folder}/ca.pem", trust_env=False), kind)
    cancels: list[Callable[[], None]] = []
    url = faults.url("tls_stall", "tls-cancel")
    thread, raised = in_thread(lambda: transport.open(post(url), EASY, None, cancels.append))
    until(lambda: cancels)
    time.sleep(0.1)
    cancels[0]()
    thread.join(5)
    assert [type(error) for error in raised] == [CancelledError]


def test_the_default_verification_is_on(faults: Any) -> None:
    if not faults._srv.cert_dir:
        pytest.skip("no certificates can be made here")
    with pytest.raises(TLSError) as caught:
        blocking(post(faults.url("tls_ok", "default")), EASY, NO_ENV)
    assert caught.value.info.retryable is False
