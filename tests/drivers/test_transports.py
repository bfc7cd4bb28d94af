"""Which transport a name stands for, and the parts of the transports that need no socket."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import Iterator
from typing import Any

import h11
import httpcore2
import pytest
import trio

import allm
from allm.drivers import transports
from allm.drivers.http import async_transport_for, core, idle, transport_for
from allm.drivers.http.answers import BARREN, Answer, H11Answer
from allm.drivers.http.fast import FastAnswer
from allm.drivers.http.idle import Idle
from allm.drivers.transports import transport_of
from allm.errors import ConfigurationError
from allm.testing.played import Played


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transports, "_installed", lambda kind: kind == "httpx2")
    transports._kind.cache_clear()
    yield
    transports._kind.cache_clear()


# ---- the choice ------------------------------------------------------------------------------------


async def awaited(name: str) -> tuple[Any, Any]:
    kind = "httpx2" if name == "httpx2" else "httptools"
    return transport_of(name, "awaited"), async_transport_for(kind=kind)


@pytest.mark.parametrize("name", ["auto", "httptools", "httpx2"])
def test_a_name_and_what_auto_takes(name: str) -> None:
    assert transport_of(name, "blocking") is transport_for(kind="httpx2" if name == "httpx2" else "httptools")
    found, expected = asyncio.run(awaited(name))
    assert found is expected


def test_none_is_auto() -> None:
    assert transport_of(None, "blocking") is transport_of("auto", "blocking")


async def on_trio() -> tuple[Any, Any]:
    return transport_of("auto", "awaited"), async_transport_for(kind="httpx2")


def test_auto_takes_httpx2_on_trio() -> None:
    found, expected = trio.run(on_trio)
    assert found is expected


@pytest.mark.usefixtures("nothing_installed")
def test_without_the_extra_auto_is_httpx2_and_the_name_says_what_to_install() -> None:
    assert transport_of("auto", "blocking") is transport_for(kind="httpx2")
    with pytest.raises(ConfigurationError, match=r'pip install "pyallm\[fast\]"'):
        transport_of("httptools", "blocking")


def test_a_package_that_is_too_old_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.6.4")
    assert not transports._installed("httptools")


def test_a_package_that_cannot_be_imported_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    assert not transports._installed("httptools")


def test_names_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="'httpx3'; use 'auto' or one of httptools, httpx2"):
        transport_of("httpx3", "blocking")

    async def httptools() -> None:
        transport_of("httptools", "awaited")

    with pytest.raises(ConfigurationError, match="does not run on trio"):
        trio.run(httptools)


def test_an_unknown_name_fails_the_call() -> None:
    engine = allm.Engine("compatible:m", base_url="http://127.0.0.1:9", transport="httpx3")
    with pytest.raises(ConfigurationError, match="httpx3"):
        allm.generate(engine, "Hi")


def test_an_object_is_taken_on_its_face_only() -> None:
    blocking = transport_for()
    assert transport_of(blocking, "blocking") is blocking
    with pytest.raises(ConfigurationError, match=r"without allm\.aio"):
        transport_of(blocking, "awaited")
    played = Played(lambda request: None)  # type: ignore[arg-type, return-value]
    assert transport_of(played, "awaited") is played.awaited
    with pytest.raises(ConfigurationError, match=r"with allm\.aio"):
        transport_of(played.awaited, "blocking")


# ---- idle connections ------------------------------------------------------------------------------


class Line:
    def __init__(self, key: str) -> None:
        self.key = key
        self.since = 0.0


def test_idle_connections_are_found_by_origin_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pool: Idle[Line] = Idle(3)
    a, b, c, d = Line("a"), Line("b"), Line("a"), Line("b")
    gone = []
    for line in (a, b, c, d):
        now += 1
        gone.append(pool.put(line))
    assert gone == [[], [], [], [a]]
    assert pool.take("a") is c
    assert pool.take("a") is None
    now += idle.IDLE_SECONDS
    assert pool.put(a) == [b]
    assert pool.clear() == [d, a]
    assert pool.take("b") is None


# ---- answers ---------------------------------------------------------------------------------------

readers = pytest.mark.parametrize("kind", [H11Answer, FastAnswer])
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(answer: Answer, *reads: bytes) -> bytes:
    whole = b""
    for data in reads:
        answer.feed(data)
        whole += answer.take()
    return whole


@readers
def test_all_that_a_read_brings_is_one_piece(kind: type[Answer]) -> None:
    answer = kind()
    answer.feed(HEAD + b"1\r\na\r\n2\r\nbc\r\n" + b"3\r\nde")
    assert answer.take() == b"abcde"
    assert read(answer, b"f\r\n0\r\n\r\n") == b"f"
    assert (answer.status, answer.ended, answer.reusable) == (200, True, True)


@readers
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_answer_in_pieces(kind: type[Answer], step: int) -> None:
    whole = b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + HEAD + b"5\r\nhello\r\n0\r\nTrailer: y\r\n\r\n"
    answer = kind()
    assert read(answer, *(whole[at : at + step] for at in range(0, len(whole), step))) == b"hello"
    assert answer.headers == {"transfer-encoding": "chunked"}
    assert answer.reusable


@readers
@pytest.mark.parametrize("behind", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"x", b"HTTP"])
@pytest.mark.parametrize("apart", [True, False])
def test_bytes_behind_an_answer_are_not_part_of_it(kind: type[Answer], behind: bytes, apart: bool) -> None:
    whole = HEAD + b"1\r\na\r\n0\r\n\r\n"
    answer = kind()
    assert read(answer, *([whole, behind] if apart else [whole + behind])) == b"a"
    assert (answer.ended, answer.reusable, answer.fault) == (True, False, None)


@readers
@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", False),
        (b"HTTP/1.1 200 OK\nContent-Length: 1\n\na", True),
    ],
)
def test_whether_the_connection_serves_again(kind: type[Answer], head: bytes, reusable: bool) -> None:
    answer = kind()
    assert read(answer, head) == b"a"
    assert (answer.ended, answer.reusable) == (True, reusable)


@readers
def test_an_answer_without_a_length_ends_with_its_connection(kind: type[Answer]) -> None:
    answer = kind()
    assert read(answer, b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", b"") == b"hello"
    assert (answer.ended, answer.reusable) == (True, False)


@readers
@pytest.mark.parametrize("fault", [b"zz\r\n", b""])
def test_what_came_before_a_fault_is_given_first(kind: type[Answer], fault: bytes) -> None:
    answer = kind()
    answer.feed(HEAD + b"1\r\na\r\n" + fault)
    answer.feed(b"")
    assert answer.take() == b"a"
    with pytest.raises(httpcore2.RemoteProtocolError):
        answer.take()


@readers
@pytest.mark.parametrize(
    "barren",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (BARREN + 1000),
        HEAD + b"0\r\nX: " + b"x" * (BARREN + 1000),
        HEAD + b"1;" + b"x" * (BARREN + 1000),
    ],
    ids=["head", "trailer", "extension"],
)
def test_what_never_becomes_a_body_is_bounded(kind: type[Answer], barren: bytes) -> None:
    answer = kind()
    for at in range(0, len(barren), 1000):
        answer.feed(barren[at : at + 1000])
    with pytest.raises(httpcore2.RemoteProtocolError):
        answer.take()


@readers
def test_an_upgrade_is_refused(kind: type[Answer]) -> None:
    answer = kind()
    answer.feed(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    assert answer.fault is not None


@readers
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        HEAD.replace(b"chunked", b"gzip, chunked"),
        HEAD.replace(b"chunked", b"chunked, chunked"),
        HEAD.replace(b"chunked", b"chunked\r\nTransfer-Encoding: chunked"),
    ],
)
def test_heads_of_other_protocols_and_codings_are_refused(kind: type[Answer], head: bytes) -> None:
    answer = kind()
    answer.feed(head)
    assert not answer.opened
    with pytest.raises(httpcore2.RemoteProtocolError, match=r"not HTTP/1\.1"):
        answer.take()


def test_httptools_lets_a_version_pass_that_it_cannot_read() -> None:
    answer = FastAnswer()
    answer.feed(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert not answer.opened
    assert answer.fault is not None


@readers
@pytest.mark.parametrize(("behind", "reusable"), [(b"", True), (b"hello", False), (HEAD, False)])
@pytest.mark.parametrize("apart", [True, False])
def test_an_answer_without_a_body(kind: type[Answer], behind: bytes, reusable: bool, apart: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    answer = kind(bodiless=True)
    for data in (head, behind) if apart and behind else (head + behind,):
        answer.feed(data)
    assert (answer.take(), answer.ended, answer.reusable) == (b"", True, reusable)


# ---- bodies of the engine --------------------------------------------------------------------------


def state(answer: bytes) -> h11.Connection:
    """A connection that has sent a request and read the head of its answer."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(answer)
    assert type(connection.next_event()) is h11.Response
    return connection


def test_pieces_of_an_h11_body() -> None:
    pieces = core.Pieces(state(HEAD + b"1\r\na\r\n2\r\nbc\r\n3\r\nd"))
    assert pieces.take() == b"abcd"
    assert (pieces.take(), pieces.ended) == (b"", False)
    pieces.feed(b"ef\r\n0\r\n\r\n")
    assert pieces.take() == b"ef"
    assert (pieces.take(), pieces.ended) == (b"", True)


def test_pieces_before_a_fault() -> None:
    pieces = core.Pieces(state(HEAD + b"1\r\na\r\nzz\r\n"))
    assert pieces.take() == b"a"
    with pytest.raises(httpcore2.RemoteProtocolError):
        pieces.take()


def test_an_engine_that_hides_its_parser_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.drivers.test_http import EASY, NO_ENV, answering, awaited, blocking, post, serving

    monkeypatch.setattr(core, "parser_of", lambda connection: None)
    packed = gzip.compress(b"hello")
    body = b"".join(b"1\r\n%b\r\n" % bytes([byte]) for byte in packed) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    with serving(answering(answer)) as server:
        assert blocking(post(server.url), EASY, NO_ENV, "core") == b"hello"
        assert asyncio.run(awaited(post(server.url), EASY, NO_ENV, "core")) == b"hello"
