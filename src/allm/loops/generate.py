"""One model call as a sans-IO generator: open, read, decode, retry, fold."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

from msgspec.structs import replace

from allm.data.events import (
    Event,
    MessageCompleted,
    MessageStarted,
    RawChunk,
    Retrying,
    StreamFailed,
    UsageReported,
)
from allm.data.failure import ErrorInfo
from allm.data.requests import Request
from allm.data.responses import Response
from allm.errors import AllmError, TransportError, raised
from allm.folds import RunFold
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
    Sleep,
    ask,
)
from allm.loops.plan import Plan
from allm.ports import CallContext, HttpRequest, WireAdapter
from allm.retry import delay_before_next

_BEFORE_CONTENT = (UsageReported, RawChunk)


def generate(plan: Plan, request: Request, fold: RunFold, effect_id: str) -> Loop[Response]:
    """Events of one model turn, retried before its first content; returns its response.

    A failure raises: `guarded` makes the terminal event of it, once, for the outermost layer.
    """
    ctx = replace(plan.ctx, id=effect_id)
    attempt = 0
    while True:
        attempt += 1
        try:
            return (yield from _attempt(plan, request, ctx, fold))
        except AllmError as error:
            info = _located(error.info, plan, request, attempt)
            yield from ask(CloseBody())
            committed = fold.turn.started is not None
            delay = (
                None if committed else delay_before_next(plan.retry, attempt, info, (yield from ask(Draw())))
            )
            if delay is None:
                raise raised(info) from error
            yield Retrying(attempt, delay, info)
            yield from ask(Sleep(delay))


def _located(info: ErrorInfo, plan: Plan, request: Request, attempt: int) -> ErrorInfo:
    return replace(
        info, provider=info.provider or plan.ref.provider, model=info.model or request.model, attempts=attempt
    )


def _attempt(plan: Plan, request: Request, ctx: CallContext, fold: RunFold) -> Loop[Response]:
    """One try. Nothing is shown before its first content event, so a failed try leaves no trace."""
    source = _source(plan, request, ctx)
    yield from source.open()
    started = MessageStarted(None, request.model)
    held: list[Event] = []
    shown = False
    progress = True
    while True:
        events = yield from source.more(progress)
        if events is None:
            raise raised(_cut_short(plan))
        progress = bool(events)
        for event in events:
            kind = type(event)
            if not shown and kind is not StreamFailed:
                if kind is MessageStarted:
                    started = event  # type: ignore[assignment]
                    continue
                if kind in _BEFORE_CONTENT:
                    held.append(event)
                    continue
                shown = True
                for early in (started, *held):
                    fold.add(early)
                    yield early
            if kind is MessageCompleted:
                yield from ask(CloseBody())
                return (yield from _completed(plan, request, fold, event.response))  # type: ignore[union-attr]
            if kind is StreamFailed:
                raise raised(event.error)  # type: ignore[union-attr]
            fold.add(event)
            yield event


def _completed(plan: Plan, request: Request, fold: RunFold, ended: Response) -> Loop[Response]:
    """The terminal event of the turn, with the fold as its response."""
    fold.add(MessageCompleted(ended))
    response = replace(
        fold.turn.response,
        provider=ended.provider or plan.ref.provider,
        model=ended.model or request.model,
        request_id=plan.request_id or ended.request_id,
    )
    event = MessageCompleted(response)
    fold.add(event)
    yield event
    return response


def _cut_short(plan: Plan) -> ErrorInfo:
    return ErrorInfo(
        reason="stream_interrupted",
        message="the stream ended before the provider said that the answer was complete",
        provider=plan.ref.provider,
        retryable=True,
        phase="stream",
    )


class _Source(Protocol):
    """Where the events of one attempt come from. `more` gives `None` at the end."""

    def open(self) -> Loop[None]: ...
    def more(self, progress: bool) -> Loop[list[Event] | None]: ...


def _source(plan: Plan, request: Request, ctx: CallContext) -> _Source:
    adapter = plan.adapter
    if hasattr(adapter, "encode"):
        return _Wire(adapter, request, ctx, plan.first if request is plan.request else None)
    if hasattr(adapter, "play"):
        return _Played(adapter, request, ctx)
    return _InProcess(adapter, request, ctx)


class _Wire:
    """A provider behind HTTP: bytes through its decoder."""

    def __init__(
        self, adapter: WireAdapter, request: Request, ctx: CallContext, encoded: HttpRequest | None
    ) -> None:
        self.adapter = adapter
        self.encoded = encoded
        self.request = request
        self.ctx = ctx
        self.size = 0
        self.ended = False

    def open(self) -> Loop[None]:
        http = self.encoded or self.adapter.encode(self.request, self.ctx)
        head = yield from ask(OpenHttp(self.ctx.id, http, self.ctx.timeouts))
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
        data: bytes = yield (READ_ON if progress else READ)
        self.size += len(data)
        if self.size > self.ctx.limits.body:
            text = f"the answer is larger than {self.ctx.limits.body} bytes (Limits.body)"
            raise raised(ErrorInfo(reason="limit_exceeded", message=text, phase="stream"))
        if data:
            return self.decoder.feed(data)
        self.ended = True
        return self.decoder.end()


class _InProcess:
    """An adapter that runs in this process; the driver calls it."""

    def __init__(self, adapter: Any, request: Request, ctx: CallContext) -> None:
        self.effect = OpenEvents(adapter, request, ctx)

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

    def __init__(self, adapter: Any, request: Request, ctx: CallContext) -> None:
        self.items = adapter.play(request, ctx)

    def open(self) -> Loop[None]:
        return
        yield

    def more(self, progress: bool) -> Loop[list[Event] | None]:
        for item in self.items:
            if not isinstance(item, Effect):
                return [item]
            yield item
        return None


def guarded(loop: Loop[Any], fold: RunFold) -> Generator[Any, Any, None]:
    """The outermost layer: a failure becomes the terminal event `error`."""
    try:
        yield from loop
    except AllmError as error:
        failed = StreamFailed(error.info)
        fold.add(failed)
        yield failed
