"""Connections of streamed calls: used again after a whole answer, let go at once by `cancel`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

import allm
from tests.faces import PATIENCE, WAYS, Way, no_threads_left

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Server:
    """Answers each request with `pieces`, one write each, and counts connections."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.connections = 0
        self.answered = threading.Event()
        self.let_go = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> Server:
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(PATIENCE)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, suppress(OSError):
            while self._request(connection):
                for piece in self.pieces:
                    connection.sendall(piece)
                self.answered.set()
        self.let_go.set()

    def _request(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < size:
            body += connection.recv(65536)
        return True


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    with no_threads_left():
        yield request.param
        allm.close()


def engine_at(server: Server, way: Way) -> allm.Engine:
    return allm.Engine("compatible:m", base_url=server.url, retry=False, transport=way.transport)


def calls(way: Way, engine: allm.Engine, times: int) -> list[str]:
    """Several calls in one run of the face's loop, which owns the connections."""
    if way.face.name == "blocking":
        return [allm.generate(engine, "Hi").text for _ in range(times)]

    async def work() -> list[str]:
        return [(await allm.aio.generate(engine, "Hi")).text for _ in range(times)]

    return way.face.run(work)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "pieces",
    [(HEAD + framed(CHUNK) + framed(DONE) + END,), (HEAD, framed(CHUNK), framed(DONE), END)],
    ids=["together", "apart"],
)
def test_the_connection_of_a_whole_answer_serves_again(way: Way, pieces: tuple[bytes, ...]) -> None:
    with Server(*pieces) as server:
        assert calls(way, engine_at(server, way), 4) == ["Hi"] * 4
        assert server.connections == 1


def test_an_answer_is_whole_though_its_connection_stays_open(way: Way) -> None:
    with Server(HEAD + framed(CHUNK) + framed(DONE)) as server:
        assert calls(way, engine_at(server, way), 2) == ["Hi"] * 2
        assert server.connections == 2
        assert server.let_go.wait(PATIENCE)


@pytest.mark.parametrize("pieces", [(), (HEAD,)], ids=["before_the_headers", "after_the_headers"])
def test_cancel_ends_a_wait_for_the_network(way: Way, pieces: tuple[bytes, ...]) -> None:
    with Server(*pieces) as server:
        stream = way.face.make("stream", engine_at(server, way), "Hi")
        way.face.cancelled_once(stream, lambda: server.answered.wait(PATIENCE))
        assert server.let_go.wait(PATIENCE)
