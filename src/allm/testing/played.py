"""A transport without a network, for both faces: it plays answers that are given to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from allm.data.failure import ErrorInfo
from allm.errors import raised
from allm.limits import Timeouts
from allm.ports import HttpHead, HttpRequest


class Answer(Struct, frozen=True):
    """What is played for one request: status and headers, then the reads in their order.

    `failure` is raised after the last read, where the body did not come to its end; without a `head`
    it is raised instead of an answer.
    """

    head: HttpHead | None
    reads: tuple[bytes, ...] = ()
    failure: ErrorInfo | None = None


class Played:
    """`Engine(transport=Played(answer))`: `answer(request)` says what is played, on any face.

    `opened` counts the bodies, `closed` the times that one was closed.
    """

    def __init__(self, answer: Callable[[HttpRequest], Answer]) -> None:
        self.answer = answer
        self.opened = 0
        self.closed = 0
        self.blocking = _Blocking(self)
        self.awaited = _Awaited(self)

    def body(self, request: HttpRequest) -> _Body:
        answer = self.answer(request)
        if answer.head is None:
            raise raised(answer.failure or ErrorInfo(reason="network_error", message="no answer is played"))
        self.opened += 1
        return _Body(self, answer.head, answer)


class _Body:
    """One answer; implements `allm.ports.Body`."""

    def __init__(self, owner: Played, head: HttpHead, answer: Answer) -> None:
        self.head = head
        self._owner = owner
        self._reads = iter(answer.reads)
        self._failure = answer.failure
        self._closed = False

    def read(self, timeout: float | None) -> bytes:
        data = b"" if self._closed else next(self._reads, b"")
        if not data and not self._closed and self._failure is not None:
            raise raised(self._failure)
        return data

    def close(self) -> None:
        self._closed = True
        self._owner.closed += 1

    def cancel(self) -> None:
        self._closed = True


class _AwaitedBody:
    """The same, awaited; implements `allm.ports.AsyncBody`. Every read lets other tasks run."""

    def __init__(self, body: _Body) -> None:
        self.head = body.head
        self._body = body

    async def read(self, timeout: float | None) -> bytes:
        await _checkpoint()
        return self._body.read(timeout)

    async def aclose(self) -> None:
        self._body.close()


class _Blocking:
    def __init__(self, owner: Played) -> None:
        self._owner = owner

    def open(
        self,
        request: HttpRequest,
        timeouts: Timeouts,
        key_header: tuple[str, str] | None = None,
        on_connection: Any = None,
    ) -> _Body:
        return self._owner.body(request)

    def close(self) -> None: ...


class _Awaited:
    def __init__(self, owner: Played) -> None:
        self._owner = owner

    async def open(
        self, request: HttpRequest, timeouts: Timeouts, key_header: tuple[str, str] | None = None
    ) -> _AwaitedBody:
        await _checkpoint()
        return _AwaitedBody(self._owner.body(request))

    async def aclose(self) -> None: ...


async def _checkpoint() -> None:
    from allm.drivers.kits import current_kit

    await current_kit().sleep(0)
