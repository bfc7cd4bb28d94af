"""One exchange with an adapter, as sans-IO generators: where its events come from, and how it is retried."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar, TypeVarTuple

from msgspec.structs import replace

from allm.data.events import Event, Retrying, StreamFailed
from allm.data.failure import ErrorInfo
from allm.errors import AllmError, TransportError, raised
from allm.folds import unfold
from allm.loops.effects import (
    READ,
    READ_ON,
    CloseBody,
    Draw,
    Effect,
    Loop,
    NextEvents,
    OpenEvents,
    OpenHttp,
    ReadBody,
    Sleep,
    ask,
)
from allm.loops.plan import Plan
from allm.ports import CallContext, HttpHead, HttpRequest
from allm.retry import delay_before_next

Given = TypeVarTuple("Given")
T = TypeVar("T")

_READ_LAST = ReadBody(True, within=0.25)


def retried(
    plan: Plan,
    model: str | None,
    source: Source,
    attempt: Callable[[*Given], Loop[T]],
    *args: *Given,
) -> Loop[T]:
    """What `attempt` gives, which opens the source; tried again where nothing of it was shown."""
    number = 0
    while True:
        number += 1
        try:
            return (yield from attempt(*args))
        except AllmError as error:
            info = _located(error.info, plan, model, number)
            yield CloseBody()
            delay = None
            if not source.committed:
                delay = delay_before_next(plan.retry, number, info, (yield from ask(Draw())))
            if delay is None:
                raise raised(info) from error
            yield Retrying(number, delay, info)
            yield Sleep(delay)


def _located(info: ErrorInfo, plan: Plan, model: str | None, attempt: int) -> ErrorInfo:
    return replace(
        info, provider=info.provider or plan.ref.provider, model=info.model or model, attempts=attempt
    )


def cut_short(plan: Plan) -> ErrorInfo:
    return ErrorInfo(
        reason="stream_interrupted",
        message="the stream ended before the provider said that the answer was complete",
        provider=plan.ref.provider,
        retryable=True,
        phase="stream",
    )


class Source(Protocol):
    """Where events come from. `open` begins an attempt, the first or a further one; `more` gives `None` at
    its end. `committed` turns true with the first content that is shown; then there is no further one.
    `warnings` are known once it is open."""

    committed: bool
    warnings: tuple[str, ...]

    def open(self) -> Loop[None]: ...
    def more(self, progress: bool) -> Loop[list[Event] | None]: ...


def source_of(
    adapter: Any,
    request: Any,
    ctx: CallContext,
    encoded: HttpRequest | None = None,
    unfold: Callable[[Any], list[Any]] = unfold,
    route: int = 0,
) -> Source:
    """The events of `adapter` for a request; `encoded` is that request where it is encoded already,
    `unfold` makes events of an answer that comes whole, `route` is whose key and transport it takes."""
    if hasattr(adapter, "encode"):
        return _Wire(adapter, request, ctx, encoded, route)
    if hasattr(adapter, "play"):
        return _Played(adapter, request, ctx)
    return _InProcess(OpenEvents(adapter, request, ctx, unfold, route))


class _Wire:
    """A provider behind HTTP: bytes through its decoder."""

    __slots__ = (
        "adapter", "committed", "ctx", "decoder", "encoded", "ended", "request", "route", "size", "warnings",
    )  # fmt: skip

    def __init__(
        self, adapter: Any, request: Any, ctx: CallContext, encoded: HttpRequest | None, route: int
    ) -> None:
        self.adapter = adapter
        self.route = route
        self.encoded = encoded
        self.request = request
        self.ctx = ctx
        self.committed = False
        self.warnings: tuple[str, ...] = ()

    def open(self) -> Loop[None]:
        self.size = 0
        self.ended = False
        http = self.encoded or self.adapter.encode(self.request, self.ctx)
        self.encoded = None
        self.warnings = http.warnings
        head: HttpHead = yield OpenHttp(self.ctx.id, http, self.ctx.timeouts, self.route)
        if not 200 <= head.status < 300:
            body = yield from self._refusal()
            raise raised(self.adapter.explain(head.status, head.headers, body))
        self.decoder = self.adapter.decoder(self.request, head, self.ctx)

    def _refusal(self) -> Loop[bytes]:
        """The body of an error answer; what breaks off while it is read does not hide the status."""
        body = b""
        try:
            while len(body) < self.ctx.limits.error_body and (data := (yield READ)):
                body += data
        except TransportError:
            pass
        return body

    def more(self, progress: bool) -> Loop[list[Event] | None]:
        if self.ended:
            return None
        if getattr(self.decoder, "may_end", False):
            data = yield from self._read_last()
        else:
            data = yield (READ_ON if progress else READ)
        self.size += len(data)
        if self.size > self.ctx.limits.body:
            text = f"the answer is larger than {self.ctx.limits.body} bytes (Limits.body)"
            raise raised(ErrorInfo(reason="limit_exceeded", message=text, phase="stream"))
        self.ended = not data
        events: list[Event] = self.decoder.feed(data) if data else self.decoder.end()
        return events

    def _read_last(self) -> Loop[bytes]:
        """What comes next where the answer may end here: a cut or a silence is its end."""
        try:
            data: bytes = yield _READ_LAST
        except TransportError:
            return b""
        return data


class _InProcess:
    """An adapter that runs in this process; the driver calls it."""

    warnings: tuple[str, ...] = ()

    def __init__(self, effect: OpenEvents) -> None:
        self.committed = False
        self.effect = effect

    def open(self) -> Loop[None]:
        yield from self._asked(self.effect)

    def more(self, progress: bool) -> Loop[list[Event] | None]:
        events: list[Event] | None = yield from self._asked(NextEvents())
        return events

    def _asked(self, effect: Effect[Any]) -> Loop[Any]:
        try:
            return (yield effect)
        except AllmError:
            raise
        except Exception as error:
            text = f"the adapter failed with {type(error).__name__}: {error}"
            raise raised(ErrorInfo(reason="provider_error", message=text)) from error


class _Played:
    """An adapter that is itself a loop: it yields events, and effects where it has to wait."""

    warnings: tuple[str, ...] = ()

    def __init__(self, adapter: Any, request: Any, ctx: CallContext) -> None:
        self.committed = False
        self.adapter = adapter
        self.request = request
        self.ctx = ctx

    def open(self) -> Loop[None]:
        self.items = self.adapter.play(self.request, self.ctx)
        return
        yield  # never: it makes a loop of this, as the port wants it

    def more(self, progress: bool) -> Loop[list[Event] | None]:
        for item in self.items:
            if not isinstance(item, Effect):
                return [item]
            yield item
        return None


def guarded(loop: Loop[Any], fold: Any) -> Generator[Any, Any, None]:
    """The outermost layer: a failure becomes the terminal event `error`."""
    try:
        yield from loop
    except AllmError as error:
        yield from failed(fold, error.info)


def failed(fold: Any, info: ErrorInfo) -> Loop[None]:
    """The terminal event of a run that failed."""
    event = StreamFailed(info)
    fold.add(event)
    yield event
