"""One model turn as a sans-IO generator: its answers, paused ones continued, folded into one response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from allm.data.events import (
    Event,
    MessageCompleted,
    MessageStarted,
    RawChunk,
    StreamFailed,
    UsageReported,
)
from allm.data.requests import Request
from allm.data.responses import Response, Usage
from allm.errors import raised
from allm.folds import RunFold
from allm.loops.effects import Batch, CloseBody, Loop
from allm.loops.exchange import Source, cut_short, retried, source_of
from allm.loops.plan import Plan
from allm.prices import with_costs

Finish = Callable[[Response], Loop[Response]]

_BEFORE_CONTENT = frozenset({MessageStarted, UsageReported, RawChunk})
_ENDS = (MessageCompleted, StreamFailed)
MAX_PAUSES = 16  # how often one turn is continued after the provider paused it


def generate(plan: Plan, request: Request, fold: RunFold, effect_id: str) -> Loop[Response]:
    """Events of one model turn, with its fallbacks and inside its middleware; returns its response.

    A failure raises: `guarded` makes the terminal event of it, once, for the outermost layer.
    """
    turn: Callable[..., Loop[Response]] = _turn
    if plan.fallbacks:
        from allm.loops.fallbacks import with_fallbacks

        turn = with_fallbacks(turn)
    if plan.output is not None and fold.layer != "chat":
        from allm.loops.structured import checked

        turn = checked(turn)
    if plan.middleware:
        from allm.loops.middleware import around

        return around(plan, request, fold, effect_id, turn)
    return turn(plan, request, fold, effect_id)


def _turn(
    plan: Plan, request: Request, fold: RunFold, effect_id: str, finish: Finish | None = None
) -> Loop[Response]:
    """One turn of one provider. Where the provider pauses, it is continued, up to `MAX_PAUSES` times, and
    comes out as one. `finish` has the last word on the response."""
    asked, hop = request, _Hop(effect_id)
    while True:
        ended = yield from _answered(plan, asked, fold, hop)
        following = _continuation(plan, request, fold, hop, ended)
        if following is None:
            return (yield from _completed(plan, request, fold, hop, ended, finish))
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
        if isinstance(event, UsageReported) and self.spent is not None:
            return UsageReported(self.spent.plus(event.usage))
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
    encoded = plan.first.take() if plan.first is not None and request is plan.request else None
    source = source_of(plan.adapter, request, ctx, encoded, route=plan.route)
    return retried(plan, request.model, source, _attempt, plan, request, source, fold, hop)


def _attempt(plan: Plan, request: Request, source: Source, fold: RunFold, hop: _Hop) -> Loop[Response]:
    """One try. Nothing is shown before its first content event, so a failed try leaves no trace."""
    meter = plan.meter
    if meter is not None:
        meter.open(plan.price)
    yield from source.open()
    held: list[Event] = [MessageStarted(None, request.model)]
    progress = True
    while True:
        events = yield from source.more(progress)
        if events is None:
            raise raised(cut_short(plan))
        progress = bool(events)
        if plan.price is not None:
            events = with_costs(events, plan.price)
        ended = events[-1] if events and type(events[-1]) in _ENDS else None
        shown = events if ended is None else events[:-1]
        if not source.committed:
            held += shown
            content = not _BEFORE_CONTENT.issuperset(map(type, shown))
            source.committed = content or type(ended) is MessageCompleted
            shown = []
            if source.committed:
                shown = yield from _begun(held, fold, hop)
                held.clear()
        if shown:
            shown = shown if hop.number == 1 else [hop.shifted(event) for event in shown]
            yield Batch(shown, fold.follow(shown))
            fold.settle()
        if ended is not None:
            response = _ended(plan, ended, events)
            yield CloseBody(whole=True)
            hop.warnings.extend([*source.warnings, *response.warnings])
            return response
        if meter is not None:
            yield from meter.watched(events, source.committed)


def _begun(held: list[Event], fold: RunFold, hop: _Hop) -> Loop[list[Event]]:
    """What was held back until there was content, without the message's start: that comes first, once."""
    started = [event for event in held if type(event) is MessageStarted]
    if hop.number == 1:
        first = fold.opened(started[-1])
        fold.add(first)
        yield first
    return [event for event in held if type(event) is not MessageStarted]


def _ended(plan: Plan, last: Any, events: list[Event]) -> Response:
    """How the answer ended, by its last event; a failure raises."""
    if type(last) is StreamFailed:
        raise raised(last.error)
    ended: Response = last.response
    if ended.error is not None:  # an in-process adapter's own way to fail
        raise raised(ended.error)
    if plan.meter is not None:
        plan.meter.count(events)
        plan.meter.close(ended.usage)
    return ended


def _completed(
    plan: Plan, request: Request, fold: RunFold, hop: _Hop, ended: Response, finish: Finish | None
) -> Loop[Response]:
    """The terminal event of the turn, with the fold as its response."""
    if hop.spent is not None:
        ended = replace(ended, usage=None)  # the sum was reported as an event
    metadata = ended.metadata
    if plan.output is not None and plan.output.root is not None and request.response_format is not None:
        metadata = {**metadata, "output_root": plan.output.root}
    response = fold.turn.completed(
        ended,
        provider=ended.provider or plan.ref.provider,
        model=ended.model or request.model,
        request_id=plan.request_id or ended.request_id,
        warnings=tuple(dict.fromkeys([*plan.warnings, *hop.warnings])),
        metadata=metadata,
    )
    fold.turn.ended = response
    if plan.meter is not None:
        response = yield from plan.meter.accounted(response)
    if finish is not None:
        fold.turn.ended = None  # of a response that a hook refuses, nothing goes into the thread
        response = yield from finish(response)
    event = MessageCompleted(response)
    fold.add(event)
    yield event
    return response
