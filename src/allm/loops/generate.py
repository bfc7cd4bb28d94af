"""One model call as a sans-IO generator: open, read, decode, retry, fold."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

from msgspec import Struct
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
from allm.data.responses import Response, Usage
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
    ReadBody,
    Sleep,
    ask,
)
from allm.loops.plan import Plan
from allm.ports import CallContext, HttpRequest, WireAdapter
from allm.retry import delay_before_next

_BEFORE_CONTENT = (UsageReported, RawChunk)
_READ_LAST = ReadBody(True, within=0.25)
MAX_PAUSES = 16  # how often one turn is continued after the provider paused it


def generate(plan: Plan, request: Request, fold: RunFold, effect_id: str) -> Loop[Response]:
    """Events of one model turn; returns its response. A turn that the provider paused is continued, up
    to `MAX_PAUSES` times, and comes out as one.

    A failure raises: `guarded` makes the terminal event of it, once, for the outermost layer.
    """
    asked, hop = request, _Hop(effect_id)
    while True:
        ended = yield from _answered(plan, asked, fold, hop)
        following = _continuation(plan, request, fold, hop, ended)
        if following is None:
            return (yield from _completed(plan, request, fold, hop, ended))
        yield RawChunk({"type": "paused", "reason": ended.raw_finish_reason})
        asked, hop = following, hop.next(effect_id, fold.turn.next_index, ended.usage)


class _Hop(Struct, frozen=True):
    """One of the answers that make a turn; all but the last were paused by the provider.

    `offset` is the number of parts before it, `spent` what was used before it.
    """

    effect_id: str
    number: int = 1
    offset: int = 0
    spent: Usage | None = None
    warnings: list[str] = []

    def next(self, effect_id: str, offset: int, usage: Usage | None) -> _Hop:
        number = self.number + 1
        spent = usage if self.spent is None else self.spent.plus(usage)
        return _Hop(f"{effect_id}/{number}", number, offset, spent, self.warnings)

    def shifted(self, event: Event) -> Event:
        """The event with its place and its usage counted over the whole turn."""
        kind = type(event)
        if kind is UsageReported and self.spent is not None:
            return UsageReported(self.spent.plus(event.usage))  # type: ignore[union-attr]
        index = getattr(event, "index", None)
        return event if index is None or not self.offset else replace(event, index=index + self.offset)


def _continuation(plan: Plan, request: Request, fold: RunFold, hop: _Hop, ended: Response) -> Request | None:
    """The request that continues a paused answer, where the provider and the user want that."""
    resume = getattr(plan.adapter, "resume", None)
    if ended.finish_reason != "paused" or resume is None or hop.number > MAX_PAUSES:
        return None
    so_far = replace(ended, message=replace(ended.message, content=fold.turn.message.content))
    following: Request | None = resume(request, so_far, plan.ctx)
    return following


def _answered(plan: Plan, request: Request, fold: RunFold, hop: _Hop) -> Loop[Response]:
    """One answer, retried before its first content; gives how it ended."""
    ctx = replace(plan.ctx, id=hop.effect_id)
    attempt = 0
    while True:
        attempt += 1
        source = _source(plan, request, ctx)
        try:
            ended = yield from _attempt(plan, request, source, fold, hop)
            hop.warnings.extend([*source.warnings, *ended.warnings])
            return ended
        except AllmError as error:
            info = _located(error.info, plan, request, attempt)
            yield from ask(CloseBody())
            delay = None
            if not source.committed:
                delay = delay_before_next(plan.retry, attempt, info, (yield from ask(Draw())))
            if delay is None:
                raise raised(info) from error
            yield Retrying(attempt, delay, info)
            yield from ask(Sleep(delay))


def _located(info: ErrorInfo, plan: Plan, request: Request, attempt: int) -> ErrorInfo:
    return replace(
        info, provider=info.provider or plan.ref.provider, model=info.model or request.model, attempts=attempt
    )


def _attempt(plan: Plan, request: Request, source: _Source, fold: RunFold, hop: _Hop) -> Loop[Response]:
    """One try. Nothing is shown before its first content event, so a failed try leaves no trace."""
    yield from source.open()
    started = MessageStarted(None, request.model)
    held: list[Event] = []
    progress = True
    while True:
        events = yield from source.more(progress)
        if events is None:
            raise raised(_cut_short(plan))
        progress = bool(events)
        for event in events:
            kind = type(event)
            if not source.committed and kind is not StreamFailed:
                if kind is MessageStarted:
                    started = event  # type: ignore[assignment]
                    continue
                if kind in _BEFORE_CONTENT:
                    held.append(event)
                    continue
                source.committed = True
                for early in (started, *held) if hop.number == 1 else held:
                    shown = hop.shifted(early)
                    fold.add(shown)
                    yield shown
            if kind is MessageCompleted:
                yield from ask(CloseBody(whole=True))
                return event.response  # type: ignore[union-attr]
            if kind is StreamFailed:
                raise raised(event.error)  # type: ignore[union-attr]
            if hop.number > 1:
                event = hop.shifted(event)
            fold.add(event)
            yield event


def _completed(plan: Plan, request: Request, fold: RunFold, hop: _Hop, ended: Response) -> Loop[Response]:
    """The terminal event of the turn, with the fold as its response."""
    if hop.spent is not None:
        ended = replace(ended, usage=None)  # the sum was reported as an event
    fold.add(MessageCompleted(ended))
    response = replace(
        fold.turn.response,
        provider=ended.provider or plan.ref.provider,
        model=ended.model or request.model,
        request_id=plan.request_id or ended.request_id,
        warnings=tuple(dict.fromkeys([*plan.warnings, *hop.warnings])),
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
    """Where the events of one attempt come from. `more` gives `None` at the end. `committed` turns true
    with the first content that is shown; `warnings` are known once it is open."""

    committed: bool
    warnings: tuple[str, ...]

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
        self.committed = False
        self.warnings: tuple[str, ...] = ()

    def open(self) -> Loop[None]:
        http = self.encoded or self.adapter.encode(self.request, self.ctx)
        self.warnings = http.warnings
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
        data = yield from self._read(progress)
        self.size += len(data)
        if self.size > self.ctx.limits.body:
            text = f"the answer is larger than {self.ctx.limits.body} bytes (Limits.body)"
            raise raised(ErrorInfo(reason="limit_exceeded", message=text, phase="stream"))
        if data:
            return self.decoder.feed(data)
        self.ended = True
        return self.decoder.end()

    def _read(self, progress: bool) -> Loop[bytes]:
        """What comes next. Where the answer may end here, a cut or a silence is its end."""
        data: bytes
        if not getattr(self.decoder, "may_end", False):
            data = yield (READ_ON if progress else READ)
            return data
        try:
            data = yield _READ_LAST
        except TransportError:
            return b""
        return data


class _InProcess:
    """An adapter that runs in this process; the driver calls it."""

    warnings: tuple[str, ...] = ()

    def __init__(self, adapter: Any, request: Request, ctx: CallContext) -> None:
        self.committed = False
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

    warnings: tuple[str, ...] = ()

    def __init__(self, adapter: Any, request: Request, ctx: CallContext) -> None:
        self.committed = False
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
