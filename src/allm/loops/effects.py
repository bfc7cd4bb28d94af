"""All that a loop may ask of the outside. Plain classes: drivers dispatch on their exact type."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from allm.data.content import ToolCall
from allm.data.events import Event
from allm.limits import Timeouts
from allm.ports import CallContext, HttpHead, HttpRequest

T = TypeVar("T")


class Effect(Generic[T]):
    """Something for the driver to do; `T` is the type of its reply."""

    __slots__ = ()


class OpenHttp(Effect[HttpHead]):
    """Send a request, answer with status and headers. `id` names it: `<run>/<revision>/model`.

    `route` says whose key and transport it takes: 0 the plan's, n those of its nth fallback.
    """

    __slots__ = ("id", "request", "route", "timeouts")

    def __init__(self, id: str, request: HttpRequest, timeouts: Timeouts, route: int = 0) -> None:
        self.id = id
        self.request = request
        self.timeouts = timeouts
        self.route = route


class ReadBody(Effect[bytes]):
    """What has come of the open answer, `b""` at its end. `progress`: the last read made an event,
    so the idle clock starts anew. `within`: seconds that this read may take at most."""

    __slots__ = ("progress", "within")

    def __init__(self, progress: bool, within: float | None = None) -> None:
        self.progress = progress
        self.within = within


READ, READ_ON = ReadBody(False), ReadBody(True)


class CloseBody(Effect[None]):
    """Let go of the open answer. `whole`: the provider has said that it is complete, so only the frame of
    the connection is left to read, after which it can serve the next request."""

    __slots__ = ("whole",)

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole


class OpenEvents(Effect[None]):
    """Start an in-process adapter (the `Adapter` port). `unfold` makes events of an answer that came
    whole; `route` is that of `OpenHttp`."""

    __slots__ = ("adapter", "ctx", "request", "route", "unfold")

    def __init__(
        self,
        adapter: Any,
        request: Any,
        ctx: CallContext,
        unfold: Callable[[Any], list[Any]],
        route: int = 0,
    ) -> None:
        self.adapter = adapter
        self.request = request
        self.ctx = ctx
        self.unfold = unfold
        self.route = route


class NextEvents(Effect[list[Event] | None]):
    """What the in-process adapter has next; `None` at its end."""

    __slots__ = ()


class StartTool(Effect[None]):
    """Run a handler beside the loop. `id` is the idempotency key; `timeout` is seconds."""

    __slots__ = ("call", "id", "invoke", "is_async", "isolation", "position", "timeout")

    def __init__(
        self,
        id: str,
        position: int,
        call: ToolCall,
        invoke: Callable[[], Any],
        is_async: bool,
        timeout: float | None,
        isolation: str = "thread",
    ) -> None:
        self.id = id
        self.position = position
        self.call = call
        self.invoke = invoke
        self.is_async = is_async
        self.timeout = timeout
        self.isolation = isolation


class ToolDone:
    """The reply to `NextTool`: a value or the exception, after `elapsed` seconds."""

    __slots__ = ("elapsed", "error", "position", "value")

    def __init__(self, position: int, value: Any, error: BaseException | None, elapsed: float) -> None:
        self.position = position
        self.value = value
        self.error = error
        self.elapsed = elapsed


class NextTool(Effect[ToolDone]):
    """Whichever running tool ends first, by itself or by its timeout."""

    __slots__ = ()


class StartRun(Effect[None]):
    """Drive `loop` beside this one, with connections of its own; its events are not shown."""

    __slots__ = ("loop", "position")

    def __init__(self, position: int, loop: Loop[Any]) -> None:
        self.position = position
        self.loop = loop


class RunDone:
    """The reply to `NextRun`: what a loop beside this one returned, or what it raised."""

    __slots__ = ("error", "position", "value")

    def __init__(self, position: int, value: Any, error: BaseException | None) -> None:
        self.position = position
        self.value = value
        self.error = error


class NextRun(Effect[RunDone]):
    """Whichever loop beside this one ends first."""

    __slots__ = ()


class CallHook(Effect[Any]):
    """Call a hook of the user's and answer with what it returns, awaited where that is an awaitable.
    `is_async` tells that the call itself only makes one. `id` is `<run>/<revision>/model/<hook>/<index>`."""

    __slots__ = ("call", "id", "is_async")

    def __init__(self, id: str, call: Callable[[], Any], is_async: bool) -> None:
        self.id = id
        self.call = call
        self.is_async = is_async


class Elapsed(Effect[float]):
    """Seconds since the run began."""

    __slots__ = ()


class Sleep(Effect[None]):
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Draw(Effect[float]):
    """A random number in [0, 1)."""

    __slots__ = ()


class NewId(Effect[str]):
    """A fresh id for a run."""

    __slots__ = ()


class Batch:
    """Events that came together, for the user. They are taken one by one out of `each`, by whoever drives the
    loop; the fold holds those that were taken."""

    __slots__ = ("each", "events")

    def __init__(self, events: list[Event], each: Iterator[Event]) -> None:
        self.events = events
        self.each = each


Loop = Generator[Event | Batch | Effect[Any], Any, T]


def ask(effect: Effect[T]) -> Loop[T]:
    """`reply = yield from ask(Sleep(1))`: the reply has the type that the effect declares."""
    reply: T = yield effect
    return reply
