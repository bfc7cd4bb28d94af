"""Layer D, awaited: operations on a `Session`, each giving a `SessionTurn(session, result)`.

Take a session, give back a session: nothing is kept between calls. `stream_*` are the same as streams,
whose `result()` is the `SessionTurn`. A failed turn raises with the turn as `.partial`: its session has
the status `error` and can be replied to or resumed.
"""

from __future__ import annotations

from typing import Any, Unpack

from allm.data.sessions import Session, SessionTurn
from allm.drivers import session_run
from allm.drivers.stream import AsyncStream
from allm.engine import Engine
from allm.loops import session as rules
from allm.loops.session import submit as submit
from allm.options import CallOptions


def stream_start(
    engine: Engine, input: Any, *, id: str | None = None, **options: Unpack[CallOptions]
) -> AsyncStream[SessionTurn]:
    """Begin a session from text, messages or a thread, and run it. `id` names it."""
    ready = rules.begun(input, id)
    return session_run(AsyncStream, "chat", engine, ready, ready, options)


async def start(
    engine: Engine, input: Any, *, id: str | None = None, **options: Unpack[CallOptions]
) -> SessionTurn:
    """Begin a session from text, messages or a thread, and run it. `id` names it."""
    async with stream_start(engine, input, id=id, **options) as events:
        return await events.result()


def stream_reply(
    engine: Engine, session: Session, message: Any, **options: Unpack[CallOptions]
) -> AsyncStream[SessionTurn]:
    """Append the user's message, or the answer to the pending question, and run."""
    return session_run(AsyncStream, "chat", engine, session, rules.replied(session, message), options)


async def reply(
    engine: Engine, session: Session, message: Any, **options: Unpack[CallOptions]
) -> SessionTurn:
    """Append the user's message, or the answer to the pending question, and run."""
    async with stream_reply(engine, session, message, **options) as events:
        return await events.result()


def stream_resume(
    engine: Engine, session: Session, message: Any = None, **options: Unpack[CallOptions]
) -> AsyncStream[SessionTurn]:
    """Go on from where the session stands: after tool results, or after an error."""
    return session_run(AsyncStream, "chat", engine, session, rules.resumed(session, message), options)


async def resume(
    engine: Engine, session: Session, message: Any = None, **options: Unpack[CallOptions]
) -> SessionTurn:
    """Go on from where the session stands: after tool results, or after an error."""
    async with stream_resume(engine, session, message, **options) as events:
        return await events.result()


def stream_step(engine: Engine, session: Session, **options: Unpack[CallOptions]) -> AsyncStream[SessionTurn]:
    """One model call and its tools, from where the session stands."""
    return session_run(AsyncStream, "step", engine, session, rules.stepped(session), options)


async def step(engine: Engine, session: Session, **options: Unpack[CallOptions]) -> SessionTurn:
    """One model call and its tools, from where the session stands."""
    async with stream_step(engine, session, **options) as events:
        return await events.result()
