"""The cases for adapters in this process: `complete`, `stream`, `acomplete`, `astream`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from msgspec.structs import replace

from allm.data.codec import to_json
from allm.data.events import Event, MessageCompleted, StreamFailed
from allm.errors import AllmError, ConfigurationError
from allm.ports import CallContext
from allm.testing.faces import FACES, ask
from allm.testing.subjects import KEY, Case, Subject, need, same

VERBS: Final = ("complete", "stream", "acomplete", "astream", "play")
_BLOCKING: Final = ("complete", "stream", "play")


def cases(subject: Subject) -> Iterator[Case]:
    """All cases that the adapter has the verbs for."""
    adapter = subject.make()
    has = {verb for verb in VERBS if hasattr(adapter, verb)}
    yield Case("verbs", "the adapter has a name and a verb", partial(_verbs, subject))
    for whole, streamed in (("complete", "stream"), ("acomplete", "astream")):
        if whole in has:
            about = "the answer is a response that holds what it must"
            yield Case(f"{whole}.response", about, partial(_response, subject, whole))
        if streamed in has:
            yield Case(
                f"{streamed}.order", "events come in order, one last", partial(_order, subject, streamed)
            )
        if {whole, streamed} <= has:
            about = f"{streamed} folds to what {whole} returns"
            yield Case(f"{streamed}.fold", about, partial(_same, subject, whole, streamed))
    for face in FACES:
        yield Case(f"engine.{face}", "an engine gives the answer", partial(_answered, subject, face))
        if has & _streams(face):
            about = "leaving a stream early tells the adapter"
            yield Case(f"leaving.{face}", about, partial(_left, subject, face))
        if subject.failing is not None:
            about = "a failure is the last event and a typed exception"
            yield Case(f"failing.{face}", about, partial(_failed, subject, subject.failing, face))


def _streams(face: str) -> set[str]:
    return {"stream"} if face == "blocking" else {"stream", "astream"}


def _verbs(subject: Subject) -> None:
    adapter = subject.make()
    need(isinstance(adapter.name, str) and adapter.name, "the adapter has no name")
    need(any(hasattr(adapter, verb) for verb in VERBS), f"the adapter has none of {', '.join(VERBS)}")


def _context(subject: Subject) -> CallContext:
    return replace(subject.context(), api_key=KEY)


def asked(subject: Subject, verb: str, request: Any) -> Any:
    """What an adapter that nobody has used returns: `verb` is `complete` or `acomplete`."""
    adapter, ctx = subject.make(), _context(subject)
    if verb == "complete":
        return adapter.complete(request, ctx)

    async def work() -> Any:
        return await adapter.acomplete(request, ctx)

    return _run(work)


def _streamed(subject: Subject, verb: str) -> list[Event]:
    adapter, ctx = subject.make(), _context(subject)
    if verb == "stream":
        return list(adapter.stream(subject.request(), ctx))

    async def work() -> list[Event]:
        return [event async for event in adapter.astream(subject.request(), ctx)]

    events: list[Event] = _run(work)
    return events


def _run(work: Callable[[], Any]) -> Any:
    import asyncio

    return asyncio.run(work())


def _response(subject: Subject, verb: str) -> None:
    response = asked(subject, verb, subject.request())
    subject.check_result(response)
    need(KEY not in to_json(response), "the key is in the response")


def _order(subject: Subject, verb: str) -> None:
    events = _streamed(subject, verb)
    subject.check(events)
    need(isinstance(events[-1], MessageCompleted), f"the stream failed: {events[-1]!r:.300}")
    need(not any(KEY in to_json(event) for event in events), "the key is in an event")


def _same(subject: Subject, whole: str, streamed: str) -> None:
    response, folded = asked(subject, whole, subject.request()), subject.fold(_streamed(subject, streamed))
    for name in ("message", "finish_reason", "usage"):
        same(f"{name} of the folded stream", getattr(folded, name), getattr(response, name))


def _answered(subject: Subject, face: str) -> None:
    adapter = subject.make()
    seen = ask(face, subject, adapter)
    if face == "blocking" and not any(hasattr(adapter, verb) for verb in _BLOCKING):
        same("the exception on the blocking face", type(seen.error), ConfigurationError)
        return
    need(seen.error is None, f"the call failed: {seen.error}")
    subject.check(seen.events)
    same("the result", seen.result, subject.fold(seen.events))
    subject.check_result(seen.result)


def _left(subject: Subject, face: str) -> None:
    """After the first event that follows `message_started` the reader goes."""
    contexts: list[CallContext] = []
    seen = ask(face, subject, _watched(subject.make(), contexts), stop=2)
    same("events before leaving", len(seen.events), 2)
    need(contexts, "the adapter was not asked")
    need(contexts[0].cancelled(), "ctx.cancelled() is still false")


def _watched(adapter: Any, contexts: list[CallContext]) -> Any:
    """The adapter, noting the contexts with which it is called."""

    def noting(verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, ctx: CallContext) -> Any:
            contexts.append(ctx)
            return verb(request, ctx)

        return call

    verbs = {verb: noting(getattr(adapter, verb)) for verb in VERBS if hasattr(adapter, verb)}
    return SimpleNamespace(name=adapter.name, key=getattr(adapter, "key", None), **verbs)


def _failed(subject: Subject, failing: Callable[[], Any], face: str) -> None:
    seen = ask(face, subject, failing())
    need(isinstance(seen.error, AllmError), f"the failing adapter gave {seen.result!r:.200}")
    need(seen.events, "there is no event, not even the failure")
    need(isinstance(seen.events[-1], StreamFailed), f"the last event is {seen.events[-1]!r:.200}")
    need(KEY not in str(seen.error), "the key is in the error")
