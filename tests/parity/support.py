"""What the tests of the parity table share: engines whose transport is in memory."""

from __future__ import annotations

import json
import threading
from typing import Any

import allm
from allm.ports import HttpHead, HttpRequest

Answer = tuple[int, dict[str, str], tuple[bytes, ...]]
SSE = {"content-type": "text/event-stream"}


def chat_chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """One chunk of a Chat Completions stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"


ANSWER = (
    chat_chunk({"role": "assistant", "content": "Hel"}),
    chat_chunk({"content": "lo"}),
    chat_chunk({}, "stop"),
    b"data: [DONE]\n\n",
)


class Transport:
    """A blocking transport in memory. Each call is answered with the next of `answers`, the last one again:
    status, headers and reads. Keeps the requests, key headers and timeouts; counts bodies let go."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers or [(200, SSE, ANSWER)])
        self.requests: list[HttpRequest] = []
        self.keys: list[tuple[str, str] | None] = []
        self.timeouts: list[allm.Timeouts] = []
        self.closed = 0
        self.lock = threading.Lock()

    def open(
        self, request: HttpRequest, timeouts: Any, key_header: Any = None, on_connection: Any = None
    ) -> Body:
        with self.lock:
            self.requests.append(request)
            self.keys.append(key_header)
            self.timeouts.append(timeouts)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Body(self, *answer)

    def close(self) -> None: ...

    @property
    def sent(self) -> list[Any]:
        """The JSON bodies sent."""
        return [json.loads(request.body) for request in self.requests]


class Body:
    def __init__(self, transport: Transport, status: int, headers: dict[str, str], reads: Any) -> None:
        self.transport = transport
        self.head = HttpHead(status, headers)
        self.reads = list(reads)

    def read(self, timeout: float | None) -> bytes:
        return self.reads.pop(0) if self.reads else b""

    def close(self) -> None:
        self.transport.closed += 1

    def cancel(self) -> None: ...


def wired(transport: Transport, model: str = "openai:gpt-4.1-mini", **fields: Any) -> allm.Engine:
    """An engine whose requests, in the dialect of Chat Completions, go to `transport`."""
    return allm.Engine(model, transport=transport, adapter_options={"endpoint": "chat"}, **fields)
