"""What performs effects: the only place with sockets, threads, tasks and clocks.

This file makes a run of each verb (plan, loop, layer), for the blocking and the awaited face alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from allm.engine import Engine
from allm.loops.plan import Plan, make_plan

if TYPE_CHECKING:
    from allm.data.messages import Thread
    from allm.data.sessions import Session, SessionTurn
    from allm.folds import RunFold
    from allm.loops.effects import Loop

S = TypeVar("S")


def start(plan: Plan, fold: RunFold) -> Loop[None]:
    """The loop of the layer that the fold is for."""
    return _runs()[fold.layer](plan, fold)


@cache
def _runs() -> Mapping[str, Callable[[Plan, RunFold], Loop[None]]]:
    """The loops of all layers, loaded at the first event."""
    from allm.loops.chat import RUNS

    return RUNS


def _start_media(plan: Plan, fold: Any) -> Any:
    from allm.loops.media import RUNS

    return RUNS[fold.kind](plan, fold)


def _load(thread: Thread) -> Thread:
    from allm.drivers.files import loaded

    return loaded(thread)


def run(make: Callable[..., S], layer: str, engine: Engine, input: Any, options: Mapping[str, Any]) -> S:
    """A stream (`make` is its class) over a stateless verb; mistakes of the caller raise here."""
    plan, ring = make_plan(engine, input, options, load=_load, layer=layer)
    return make(plan, ring, start, layer, _result)


def session_run(
    make: Callable[..., S],
    layer: str,
    engine: Engine,
    before: Session,
    ready: Session,
    options: Mapping[str, Any],
) -> S:
    """A stream over one turn of a session: its result is a `SessionTurn`."""
    plan, ring = make_plan(
        engine,
        ready.thread,
        options,
        session_context=ready.context,
        session_id=ready.id,
        revision=ready.base_revision,
        progress=ready.progress,
        load=_load,
        layer=layer,
    )

    def finish(fold: RunFold) -> SessionTurn:
        from allm.loops.session import turned

        return turned(before, ready, fold)

    return make(plan, ring, start, layer, finish)


def media_run(make: Callable[..., S], request: Any, engine: Engine, options: Mapping[str, Any]) -> S:
    """A stream over an image or embedding call."""
    from allm.data.media import ImageRequest
    from allm.loops.media import media_plan

    kind = "image" if isinstance(request, ImageRequest) else "embedding"
    plan, ring = media_plan(kind, engine, request, options, load=_load_images)
    return make(plan, ring, _start_media, kind, _result)


def _load_images(request: Any) -> Any:
    from allm.drivers.files import loaded_request

    return loaded_request(request)


def _result(fold: Any) -> Any:
    return fold.result()
