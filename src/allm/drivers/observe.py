"""Spans of a run, told to its observers: the run, its model calls, tools and hooks. Loaded where one asks.

The ports of a face are put into `WatchedPorts` or `WatchedTaskPorts`, which know from the effects what begins
and ends. Loops beside a run (embeddings with `concurrency`) are not looked into.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from allm.data.failure import ErrorInfo
from allm.loops.effects import (
    CallHook,
    CloseBody,
    Effect,
    NewId,
    NextTool,
    OpenEvents,
    OpenHttp,
    StartTool,
)
from allm.loops.plan import Plan
from allm.ports import Span

Tell = Callable[[str, Span], None]


def span_watchers(observers: Iterable[Any]) -> tuple[Any, ...]:
    """The observers that want spans, and not only events."""
    return tuple(item for item in observers if hasattr(item, "span_started") and hasattr(item, "span_ended"))


class Spans:
    """What is open, by the id of its effect. `tell` gives a span to the observers, `verb` names the run."""

    def __init__(self, plan: Plan, verb: str, tell: Tell) -> None:
        self._plan = plan
        self._tell = tell
        self._began: dict[str, float] = {}
        self._open: dict[str, Span] = {}
        self._tools: dict[int, str] = {}
        self._model = ""
        self._run = Span(
            kind="run", id=plan.session_id or "", name=verb, run_id=plan.session_id or "",
            request_id=plan.request_id, session_id=plan.session_id,
            provider=plan.ref.provider, model=plan.ref.id,
        )  # fmt: skip
        self._start = time.monotonic()
        self._told = False

    def before(self, effect: Effect[Any]) -> None:
        if isinstance(effect, NewId):
            return
        self._begin_run(self._run.id)
        if isinstance(effect, OpenHttp | OpenEvents):
            self._end(self._model, ok=False)
            self._model = effect.id if isinstance(effect, OpenHttp) else effect.ctx.id
            ref = self._asked(effect.route)
            self._begin("model", self._model, ref.id, provider=ref.provider, model=ref.id)
        elif isinstance(effect, StartTool):
            self._tools[effect.position] = effect.id
            self._begin("tool", effect.id, effect.call.name)
        elif isinstance(effect, CallHook):
            self._begin("hook", effect.id, effect.id.split("/")[-2])

    def after(self, effect: Effect[Any], reply: Any) -> None:
        if isinstance(effect, NewId):
            self._begin_run(reply)
        elif isinstance(effect, OpenHttp):
            self._open[self._model] = replace(self._open[self._model], status=reply.status)
        elif isinstance(effect, CloseBody):
            self._end(self._model, ok=effect.whole)
        elif isinstance(effect, NextTool):
            self._end(self._tools.pop(reply.position, ""), ok=reply.error is None, error=reply.error)
        elif isinstance(effect, CallHook):
            self._end(effect.id, ok=True)

    def failed(self, effect: Effect[Any], error: BaseException) -> None:
        id = effect.id if isinstance(effect, CallHook) else self._model
        self._end(id, ok=False, error=error)

    def close(self, complete: bool, error: ErrorInfo | None) -> None:
        """The run is over; what is open still was cut with it."""
        for id in tuple(self._open):
            self._end(id, ok=False)
        self._begin_run(self._run.id)
        ended = replace(self._run, elapsed=time.monotonic() - self._start, ok=complete, error=error)
        self._tell("span_ended", ended)

    def _asked(self, route: int) -> Any:
        return self._plan.fallbacks[route - 1].ref if route else self._plan.ref

    def _begin_run(self, id: str) -> None:
        if not self._told:
            self._told = True
            self._run = replace(self._run, id=id, run_id=id)
            self._tell("span_started", self._run)

    def _begin(self, kind: str, id: str, name: str, **more: Any) -> None:
        span = replace(self._run, kind=kind, id=id, name=name, **more)
        self._open[id], self._began[id] = span, time.monotonic()
        self._tell("span_started", span)

    def _end(self, id: str, *, ok: bool, error: BaseException | None = None) -> None:
        span = self._open.pop(id, None)
        if span is not None:
            elapsed = time.monotonic() - self._began.pop(id)
            self._tell("span_ended", replace(span, elapsed=elapsed, ok=ok, error=_info(error)))


def _info(error: BaseException | None) -> ErrorInfo | None:
    """A failure as data; of an exception that is not ours only its class, for its text may hold anything."""
    if error is None:
        return None
    info = getattr(error, "info", None)
    return (
        info if isinstance(info, ErrorInfo) else ErrorInfo(reason="tool_failed", message=type(error).__name__)
    )


class WatchedPorts:
    """Blocking ports whose effects are told. `ended` says how the run came out, once it has."""

    def __init__(self, ports: Any, spans: Spans, ended: Callable[[], tuple[bool, ErrorInfo | None]]) -> None:
        self.effect = ports.effect
        self.batch = ports.batch
        self.cancel = ports.cancel
        self._ports = ports
        self._spans = spans
        self._ended = ended

    def perform(self, effect: Effect[Any]) -> Any:
        self._spans.before(effect)
        try:
            reply = self._ports.perform(effect)
        except BaseException as error:
            self._spans.failed(effect, error)
            raise
        self._spans.after(effect, reply)
        return reply

    def close(self) -> None:
        try:
            self._ports.close()
        finally:
            self._spans.close(*self._ended())


class WatchedTaskPorts(WatchedPorts):
    """The same for the awaiting ports."""

    async def perform(self, effect: Effect[Any]) -> Any:
        self._spans.before(effect)
        try:
            reply = await self._ports.perform(effect)
        except BaseException as error:
            self._spans.failed(effect, error)
            raise
        self._spans.after(effect, reply)
        return reply

    async def aclose(self) -> None:
        try:
            await self._ports.aclose()
        finally:
            self._spans.close(*self._ended())

    def dropped(self) -> None:
        """The stream was garbage: the ports close later, and nobody waits for that."""
        self._ports.dropped()
        self._spans.close(*self._ended())
