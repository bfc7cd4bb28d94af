"""How each verb becomes a run: plan, loop, layer. Shared by the blocking and the awaited face."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from allm.data.sessions import Session, SessionTurn
from allm.engine import Engine
from allm.loops import session as rules
from allm.loops.chat import chat_run, generate_run, step_run
from allm.loops.plan import make_plan

S = TypeVar("S")
_STARTS: Mapping[str, Any] = {"response": generate_run, "step": step_run, "chat": chat_run}


def run(make: Callable[..., S], layer: str, engine: Engine, input: Any, options: Mapping[str, Any]) -> S:
    """A stream (`make` is its class) over a stateless verb; mistakes of the caller raise here."""
    plan, ring = make_plan(engine, input, options)
    return make(plan, ring, _STARTS[layer], layer, _itself)


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
        revision=ready.revision,
    )

    def finish(result: Any) -> SessionTurn:
        return rules.turned(before, ready, result)

    return make(plan, ring, _STARTS[layer], layer, finish)


def _itself(result: Any) -> Any:
    return result
