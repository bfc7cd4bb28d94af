"""One engine shared by threads, by event loops one after the other, and what a dropped stream leaves."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import allm
from tests.loopback import Answer, Loopback


def chunk(delta: dict[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c1", "model": "m", "choices": [choice]}).encode() + b"\n\n"


ANSWER = (
    chunk({"role": "assistant", "content": "Hel"})
    + chunk({"content": "lo"})
    + chunk({}, "stop")
    + b"data: [DONE]\n\n"
)
CALL = {"index": 0, "id": "call_1", "function": {"name": "add", "arguments": '{"a": 1,  "b": 2}'}}
CALLS = chunk({"role": "assistant", "tool_calls": [CALL]}) + chunk({}, "tool_calls") + b"data: [DONE]\n\n"
SSE = {"content-type": "text/event-stream"}


def answer(path: str, body: bytes) -> Answer:
    """A tool call where tools are offered and none was run yet, else a greeting."""
    sent = json.loads(body)
    wants_call = sent.get("tools") and sent["messages"][-1]["role"] == "user"
    return 200, SSE, CALLS if wants_call else ANSWER


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with Loopback(answer) as server:
        yield server
    allm.close()


@allm.tool
def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def engine_at(url: str, **fields: object) -> allm.Engine:
    return allm.Engine("compatible:m", base_url=url, retry=False, **fields)  # type: ignore[arg-type]


def test_64_threads_share_one_engine(loopback: Loopback) -> None:
    engine = engine_at(loopback.url, tools=[add])
    texts: list[str] = []

    def work() -> None:
        texts.append(allm.chat(engine, "Hi").text)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["Hello"] * 64
    assert len(loopback.bodies) == 128


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
def test_ten_event_loops_in_turn(loopback: Loopback, run: Callable[..., object]) -> None:
    engine = engine_at(loopback.url)
    allm.chat(engine, "Hi")
    allm.close()

    async def main() -> None:
        assert (await allm.aio.chat(engine, "Hi")).text == "Hello"

    if run is asyncio.run:
        asyncio.run(main())
        before = descriptors()
        for _ in range(10):
            asyncio.run(main())
    else:
        trio.run(main)
        before = descriptors()
        for _ in range(10):
            trio.run(main)
    allm.close()
    assert descriptors() <= before


def descriptors() -> int:
    """Sockets this process holds towards others; the server's own ends are counted apart."""
    gc.collect()
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("descriptors are counted in /proc, which this system has not")
    return sum(1 for entry in folder.iterdir() if _is_client_socket(entry))


def _is_client_socket(entry: Path) -> bool:
    try:
        if not os.readlink(entry).startswith("socket:"):
            return False
        with socket.socket(fileno=os.dup(int(entry.name))) as found:
            return found.family == socket.AF_INET and found.getpeername() in _SERVERS
    except OSError:
        return False


_SERVERS: set[tuple[str, int]] = set()


class Endless:
    """A server that sends one delta and then nothing, and tells when its clients have let go."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.url = f"http://{self.address[0]}:{self.address[1]}"
        self.gone = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client:
            client.recv(65536)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            client.sendall(head + chunk({"role": "assistant", "content": "Hel"}))
            try:
                while client.recv(65536):
                    pass
            except OSError:
                pass
        self.gone.release()

    def let_go(self) -> bool:
        """Whether the client closes its end within a generous bound."""
        return self.gone.acquire(timeout=10)


@pytest.fixture
def endless() -> Iterator[Endless]:
    server = Endless()
    _SERVERS.add(server.address)
    yield server
    server.listener.close()
    _SERVERS.discard(server.address)


def leave_with(stream: allm.Stream[allm.ChatResult]) -> None:
    with stream:
        first_text(stream)


def leave_close(stream: allm.Stream[allm.ChatResult]) -> None:
    first_text(stream)
    stream.close()
    stream.close()


def leave_break(stream: allm.Stream[allm.ChatResult]) -> None:
    for event in stream:
        if isinstance(event, allm.TextDelta):
            break
    del stream
    gc.collect()


def leave_exception(stream: allm.Stream[allm.ChatResult]) -> None:
    with pytest.raises(ZeroDivisionError), stream:  # noqa: PT012  # the body is what is tested
        first_text(stream)
        raise ZeroDivisionError


def leave_cancel(stream: allm.Stream[allm.ChatResult]) -> None:
    first_text(stream)
    threading.Thread(target=stream.cancel).start()
    with pytest.raises(allm.CancelledError) as caught:
        stream.result()
    assert caught.value.partial.text == "Hel"


def leave_timeout(stream: allm.Stream[allm.ChatResult]) -> None:
    with pytest.raises(allm.DeadlineExceededError) as caught:
        stream.result()
    assert caught.value.partial.text == "Hel"


def first_text(stream: allm.Stream[allm.ChatResult]) -> None:
    assert next(stream.text()) == "Hel"


@pytest.mark.parametrize(
    "leave", [leave_with, leave_close, leave_break, leave_exception, leave_cancel, leave_timeout]
)
def test_nothing_is_left_of_a_dropped_stream(endless: Endless, leave: Callable[..., None]) -> None:
    threads = threading.active_count()
    idle = 0.2 if leave is leave_timeout else 30.0
    leave(allm.stream(engine_at(endless.url, timeouts=allm.Timeouts(idle=idle)), "Hi"))
    assert endless.let_go()
    assert descriptors() == 0
    assert threading.active_count() <= threads + 1  # the cancelling thread may still be ending


async def aleave_with(stream: allm.AsyncStream[allm.ChatResult]) -> None:
    async with stream:
        await afirst(stream)


async def aleave_close(stream: allm.AsyncStream[allm.ChatResult]) -> None:
    async with stream:
        await afirst(stream)
        await stream.aclose()
        await stream.aclose()


async def aleave_exception(stream: allm.AsyncStream[allm.ChatResult]) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the body is what is tested
        async with stream:
            await afirst(stream)
            raise ZeroDivisionError


async def aleave_timeout(stream: allm.AsyncStream[allm.ChatResult]) -> None:
    async with stream:
        with pytest.raises(allm.DeadlineExceededError):
            await stream.result()


async def afirst(stream: allm.AsyncStream[allm.ChatResult]) -> None:
    async for event in stream:
        if isinstance(event, allm.TextDelta):
            return


@pytest.mark.parametrize("run", ["asyncio", "trio"])
@pytest.mark.parametrize("leave", [aleave_with, aleave_close, aleave_exception, aleave_timeout])
def test_nothing_is_left_awaited(endless: Endless, leave: Callable[..., object], run: str) -> None:
    idle = 0.2 if leave is aleave_timeout else 30.0
    engine = engine_at(endless.url, timeouts=allm.Timeouts(idle=idle))

    async def main() -> None:
        await leave(allm.aio.stream(engine, "Hi"))  # type: ignore[misc]
        assert descriptors() == 0
        if run == "asyncio":
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main()) if run == "asyncio" else trio.run(main)
    assert endless.let_go()


def test_task_cancellation_closes_the_connection(endless: Endless) -> None:
    engine = engine_at(endless.url)

    async def main() -> None:
        started = asyncio.Event()

        async def read() -> None:
            async with allm.aio.stream(engine, "Hi") as stream:
                async for event in stream:
                    if isinstance(event, allm.TextDelta):
                        started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert descriptors() == 0

    asyncio.run(main())
    assert endless.let_go()


REPLY = """
import sys
import allm
from tests.test_sharing import add, engine_at
session = allm.from_json(sys.stdin.read())
allm.sessions.reply(engine_at(sys.argv[1], tools=[add]), session, "And now?")
"""


def test_a_session_replied_to_in_another_process_sends_the_same_bytes(loopback: Loopback) -> None:
    engine = engine_at(loopback.url, tools=[add])
    session, _ = allm.sessions.start(engine, "Add 1 and 2.", id="s1")
    assert [m.role for m in session.messages] == ["user", "assistant", "tool", "assistant"]
    loopback.bodies.clear()
    allm.sessions.reply(engine, session, "And now?")
    in_memory = list(loopback.bodies)
    loopback.bodies.clear()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), os.getcwd()])}
    subprocess.run(
        [sys.executable, "-c", REPLY, loopback.url],
        input=allm.to_json(session),
        text=True,
        check=True,
        env=environment,
    )
    assert loopback.bodies == in_memory
    assert in_memory
    assert b'{\\"a\\": 1,  \\"b\\": 2}' in in_memory[0]
