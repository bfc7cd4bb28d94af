"""How soon a socket is closed after a stream is left: run by the interpreter of one of our environments.

Prints `{"slowest_ms": ..., "close_ms": ..., "aclose_ms": ..., "cancel_ms": ...}`, medians of wall time from
the call to the end of the connection as the server sees it.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from statistics import median
from threading import Thread
from time import perf_counter

import allm

TIMES = 20
_EVENT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
)


class Server:
    """Answers one connection with the start of a stream, and notes when the client lets go."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.engine = allm.Engine(
            "openai:any", base_url=f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1", retry=False
        )
        self.ended = 0.0
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            while not connection.recv(65536).endswith(b"}"):
                pass
            connection.sendall(_ANSWER)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
            self.ended = perf_counter()

    def join(self) -> None:
        self._thread.join()
        self._socket.close()


def close() -> float:
    server = Server()
    stream = allm.stream(server.engine, "Hi.", api_key="k")
    while type(next(stream)) is not allm.TextDelta:
        pass
    began = perf_counter()
    stream.close()
    server.join()
    return server.ended - began


async def aclose() -> float:
    server = Server()
    async with allm.aio.stream(server.engine, "Hi.", api_key="k") as stream:
        while type(await anext(stream)) is not allm.TextDelta:
            pass
        began = perf_counter()
        await stream.aclose()
        await asyncio.to_thread(server.join)
    return server.ended - began


async def cancel() -> float:
    server, started = Server(), asyncio.Event()

    async def read() -> None:
        async with allm.aio.stream(server.engine, "Hi.", api_key="k") as stream:
            async for event in stream:
                if type(event) is allm.TextDelta:
                    started.set()

    task = asyncio.create_task(read())
    await started.wait()
    began = perf_counter()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(server.join)
    return server.ended - began


def main() -> None:
    faces: dict[str, Callable[[], float]] = {
        "close_ms": close,
        "aclose_ms": lambda: asyncio.run(aclose()),
        "cancel_ms": lambda: asyncio.run(cancel()),
    }
    took = {name: 1000 * median(face() for _ in range(TIMES)) for name, face in faces.items()}
    print(json.dumps({"slowest_ms": max(took.values()), **took}))


if __name__ == "__main__":
    main()
