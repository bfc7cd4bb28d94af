"""`Stream` and `AsyncStream`: a run as an object that gives its events and folds as it is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from allm.data.events import Event, StreamFailed, TextDelta
from allm.errors import AllmError, CancelledError, ConfigurationError, raised
from allm.keys import KeyRing
from allm.loops.plan import Plan

if TYPE_CHECKING:  # loaded at the first event, so that building a stream stays light
    from allm.folds import RunFold
    from allm.loops.effects import Loop

R = TypeVar("R")
T = TypeVar("T")
Start = Callable[[Plan, "RunFold"], "Loop[None]"]


class _Run(Generic[R]):
    """What both faces share: the loop, the fold, the view, and how a run ends."""

    __slots__ = (
        "__weakref__", "_ended", "_failure", "_finish", "_folded", "_free", "_hidden", "_kit", "_layer",
        "_loop", "_plan", "_ports", "_ready", "_ring", "_shown", "_start", "_stopping", "_watched",
    )  # fmt: skip

    def __init__(
        self, plan: Plan, ring: KeyRing, start: Start, layer: Any, finish: Callable[[Any], R]
    ) -> None:
        self._plan = plan
        self._ring = ring
        self._start = start
        self._layer = layer
        self._finish = finish
        self._folded: Any = None
        self._kit: Any = None  # of the event loop, where one drives the run
        self._ports: Any = None
        self._loop: Any = None  # begun with the ports
        self._ended = False
        self._failure: AllmError | None = None
        self._stopping = False
        self._hidden = plan.view.hidden
        self._watched = bool(plan.view.observers) or plan.view.on_event is not None
        self._free = not self._watched  # whether events that have come may be taken without a look at the run
        self._ready: Iterator[Event] = iter(())  # events that have come and were not taken
        self._shown = self._ready  # those of them that the view shows

    @property
    def _fold(self) -> Any:
        """The fold of the events that were taken."""
        if self._folded is None:
            self._folded = self._begun_fold()
        return self._folded

    def _begun_fold(self) -> Any:
        if self._plan.media is not None:
            from allm.loops.media import MediaFold

            return MediaFold(self._layer)
        return _module("allm.folds").RunFold(self._layer, self._plan.base, self._plan.progress)

    def _partial(self) -> R:
        return self._finish(self._fold)

    def _observed(self, ports: Any, watched: str) -> Any:
        """The ports, inside those that tell of spans where an observer wants them."""
        if not self._plan.view.observers:
            return ports
        from allm.drivers import observe

        observers = observe.span_watchers(self._plan.view.observers)
        if not observers:
            return ports

        def tell(name: str, span: Any) -> None:
            for observer in observers:
                try:
                    getattr(observer, name)(span)
                except Exception:
                    _log_once(observer)

        spans, fold = observe.Spans(self._plan, self._layer, tell), self._fold
        return getattr(observe, watched)(ports, spans, lambda: (fold.complete, fold.error))

    def _seen(self, event: Event) -> None:
        """Every event, before the filters: observers first, then the user's own `on_event`."""
        view = self._plan.view
        for observer in view.observers:
            try:
                observer.event(event, self._plan)
            except Exception:
                _log_once(observer)
        if view.on_event is not None:
            view.on_event(event)

    def _visible(self, event: Event) -> bool:
        return type(event) not in self._hidden

    def _come(self, batch: Any) -> None:
        """Events that came together are ready."""
        self._ready = each = batch.each
        hidden = self._hidden
        self._shown = each if hidden.isdisjoint(map(type, batch.events)) else filter(self._visible, each)

    def _end(self) -> None:
        self._ended, self._free = True, False

    def _settle(self) -> None:
        """The loop is done: a failed run has its exception from now on."""
        self._end()
        error = self._fold.error
        if error is not None and self._plan.view.raise_on_error:
            self._failure = raised(error, self._partial())

    def _cancelled(self) -> CancelledError:
        error = CancelledError("the stream was cancelled before its end", self._partial())
        self._failure = self._failure or error
        return error

    def _partial_answer(self, type: Any) -> Any:
        """The answer as it grows; it begins with what the stream has already given of it."""
        if self._plan.media is not None:
            raise ConfigurationError("partial() is for the verbs that give an answer in text")
        from allm.partial import PartialAnswer

        output = self._plan.output
        first_pass = bool(output and output.finalize) and self._fold.halted is None
        answer = PartialAnswer(type, output.root if output else None, first_pass)
        answer.feed(self._fold.turn.message.text)
        return answer

    def _answers(self, type: Any) -> list[Any]:
        """The finished answer. A run that failed raises, or has none where it is not to raise."""
        self._outcome()
        if self._fold.error is not None:
            return []
        result = self._fold.result()
        response = getattr(result, "final_response", None) or getattr(result, "response", result)
        return [response.parse(type)]

    def _outcome(self) -> R:
        if self._failure is not None:
            raise self._failure
        if not self._fold.complete and self._fold.error is None:
            raise self._cancelled()
        return self._partial()


# For what is loaded at the first event, so that building a stream stays light. Kept, as an import inside a
# method looks for its module each time.
_module = cache(import_module)


_logged: dict[int, Any] = {}  # weak references by id, which is used anew


def _log_once(observer: Any) -> None:
    import logging
    from contextlib import suppress
    from weakref import ref

    known = _logged.get(id(observer))
    if known is None or known() is not observer:
        with suppress(TypeError):  # one with slots is told of each time
            _logged[id(observer)] = ref(observer)
        logging.getLogger("allm").exception("an observer failed; its errors are not shown again")


class Stream(_Run[R], Iterator[Event]):
    """Events of a run, blocking. Nothing is sent before the first event is asked for.

    `with allm.stream(engine, "Hi") as s: for event in s: ...`; `.text()` gives only the text, `.partial(T)`
    the structured answer as it grows, `.result()` reads the rest and returns the folded value. Leaving the
    `with`, `close()` and garbage collection close the connection and stop the tools; `cancel()` does it from
    another thread.
    """

    __slots__ = ()

    def __iter__(self) -> Stream[R]:
        return self

    def __enter__(self) -> Stream[R]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __next__(self) -> Event:
        if self._free:
            for event in self._shown:
                return event
        while True:
            event = self._advance()
            if type(event) not in self._hidden:
                return event

    def _advance(self, passing: bool = False) -> Event:
        """The next event, unfiltered. Raises `StopIteration` at the end, or the run's failure.

        `passing`: no event is wanted; the loop goes on to its end, and folds all of them.
        """
        if self._ended:
            raise self._failure or StopIteration
        try:
            event = self._next(passing)
            if self._watched:
                self._seen(event)
        except StopIteration:
            self._settle()
            self._release()
            raise (self._failure or StopIteration) from None
        except CancelledError as error:
            self.close()
            raise self._cancelled() from error
        except BaseException:
            self.close()
            raise
        if type(event) is StreamFailed:
            self._settle()
            self._release()
        return event

    def _next(self, passing: bool) -> Event:
        """The next event that has come; where there is none the loop goes on until there is."""
        if self._stopping:
            raise CancelledError("the stream was cancelled")
        if not passing:
            for event in self._ready:
                return event
        ports = self._ports or self._opened()
        loop = self._loop
        effect = ports.effect
        item = next(loop)
        while True:
            if isinstance(item, effect):
                try:
                    reply = ports.perform(item)
                except CancelledError:
                    raise
                except Exception as error:
                    item = loop.throw(error)
                else:
                    item = loop.send(reply)
            elif passing:
                item = next(loop)
            else:
                break
        if type(item) is not ports.batch:
            alone: Event = item
            return alone
        self._come(item)
        return next(self._ready)

    def _opened(self) -> Any:
        self._loop = self._start(self._plan, self._fold)
        ports = _module("allm.drivers.threads").ThreadPorts(self._plan, self._ring)
        self._ports = self._observed(ports, "WatchedPorts")
        return self._ports

    def text(self) -> Iterator[str]:
        """Only the visible text, as it arrives. Raises what the run raises."""
        while not self._ended:
            try:
                event = self._advance()
            except StopIteration:
                return
            if type(event) is TextDelta:
                yield event.text
        if self._failure is not None:
            raise self._failure

    @overload
    def partial(self, type: type[T]) -> Iterator[T]: ...
    @overload
    def partial(self, type: Any) -> Iterator[Any]: ...
    def partial(self, type: Any) -> Iterator[Any]:
        """The structured answer as it grows, then whole: `for person in stream.partial(Person)`.

        Each value is a snapshot, at a cost that does not grow with the answer. What is an object of a class
        has the class's fields as attributes, `None` while they have not come; maps and lists are read as
        such. A field that has come stays, a list gets longer, a string goes on; numbers, dates, enums and
        literals come when they are complete. An answer that is asked for again begins anew. The last value
        is the finished answer, a real `type`, the same as of `parse`; raises what the run or `parse` raises.
        """
        from allm.partial import MISSING

        answer = self._partial_answer(type)
        while not self._ended:
            try:
                event = self._advance()
            except StopIteration:
                break
            value = answer.take(event)
            if value is not MISSING:
                yield value
        yield from self._answers(type)

    def result(self) -> R:
        """Read the rest, if any, and return the folded value. Raises the run's failure, each time."""
        while not self._ended:
            try:
                self._advance(self._free)
            except StopIteration:
                break
        return self._outcome()

    def cancel(self) -> None:
        """End the run from any thread; the one that reads gets `CancelledError` with the partial fold."""
        self._stopping, self._free = True, False
        if self._ports is not None:
            self._ports.cancel()

    def close(self) -> None:
        """Let go of everything, once. What was not read is lost; the fold of what was read is kept."""
        self._end()
        self._release()

    def _release(self) -> None:
        ports, self._ports = self._ports, _CLOSED
        if ports is not None and ports is not _CLOSED:
            self._loop.close()
            ports.close()

    def __del__(self) -> None:
        if getattr(self, "_ports", None) is not None:
            self.close()


class _Closed:
    """Stands where the ports of an ended run were."""

    def perform(self, effect: Any) -> Any:
        raise CancelledError("the stream is closed")

    def cancel(self) -> None: ...


_CLOSED = _Closed()


class AsyncStream(_Run[R], AsyncIterator[Event]):
    """Events of a run, awaited, on asyncio or trio. The awaited twin of `Stream`.

    `async with allm.aio.stream(engine, "Hi") as s: async for event in s: ...`. On trio the `async with`
    is required: it opens the nursery in which tools run.
    """

    __slots__ = ()

    def __aiter__(self) -> AsyncStream[R]:
        return self

    async def __aenter__(self) -> AsyncStream[R]:
        if self._kit is None:
            self._kit = _module("allm.drivers.kits").current_kit()
            await self._kit.enter()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        kit, self._kit = self._kit, None
        try:
            await self.aclose()
        finally:
            if kit is not None:
                await kit.exit(*exc)

    async def __anext__(self) -> Event:
        if self._free:
            for event in self._shown:
                return event
        while (found := await self._advance()) is not None:
            if type(found) not in self._hidden:
                return found
        raise self._failure or StopAsyncIteration

    async def _advance(self, passing: bool = False) -> Event | None:
        """The next event, unfiltered; `None` at the end of a run that did not fail."""
        if self._ended:
            if self._failure is not None:
                raise self._failure
            return None
        try:
            event = await self._next(passing)
            if event is not None and self._watched:
                self._seen(event)
        except CancelledError as error:
            await self.aclose()
            raise self._cancelled() from error
        except BaseException:
            await self.aclose()
            raise
        if event is None:
            self._settle()
            await self._release()
            if self._failure is not None:
                raise self._failure
        elif type(event) is StreamFailed:
            self._settle()
            await self._release()
        return event

    async def _next(self, passing: bool) -> Event | None:
        """The next event that has come; where there is none the loop goes on until there is, or it ends."""
        if self._stopping:
            raise CancelledError("the stream was cancelled")
        if not passing:
            for event in self._ready:
                return event
        ports = self._ports or self._opened()
        loop = self._loop
        effect = ports.effect
        try:
            item = next(loop)
            while True:
                if isinstance(item, effect):
                    try:
                        reply = await ports.perform(item)
                    except CancelledError:
                        raise
                    except Exception as error:
                        item = loop.throw(error)
                    else:
                        item = loop.send(reply)
                elif passing:
                    item = next(loop)
                else:
                    break
        except StopIteration:
            return None
        if type(item) is not ports.batch:
            alone: Event = item
            return alone
        self._come(item)
        return next(self._ready)

    def _opened(self) -> Any:
        if self._kit is None:
            self._kit = _module("allm.drivers.kits").current_kit()
            if self._kit.needs_scope:
                raise ConfigurationError(
                    "on trio a stream needs `async with allm.aio.stream(...) as s:`; that opens the nursery"
                )
        self._loop = self._start(self._plan, self._fold)
        ports = _module("allm.drivers.tasks").TaskPorts(self._plan, self._ring, self._kit)
        self._ports = self._observed(ports, "WatchedTaskPorts")
        return self._ports

    async def text(self) -> AsyncIterator[str]:
        """Only the visible text, as it arrives."""
        while not self._ended:
            event = await self._advance()
            if type(event) is TextDelta:
                yield event.text
        if self._failure is not None:
            raise self._failure

    @overload
    def partial(self, type: type[T]) -> AsyncIterator[T]: ...
    @overload
    def partial(self, type: Any) -> AsyncIterator[Any]: ...
    def partial(self, type: Any) -> AsyncIterator[Any]:
        """The structured answer as it grows, then whole; see `Stream.partial`."""
        return _PartialValues(self, type)

    async def result(self) -> R:
        """Read the rest, if any, and return the folded value. Raises the run's failure, each time."""
        while not self._ended:
            await self._advance(self._free)
        return self._outcome()

    def cancel(self) -> None:
        """End the run, from any task or thread; the task that reads gets `CancelledError`."""
        self._stopping, self._free = True, False
        if self._ports is not None:
            self._ports.cancel()

    async def aclose(self) -> None:
        """Let go of everything, once."""
        self._end()
        await self._release()

    async def _release(self) -> None:
        ports, self._ports = self._ports, _CLOSED
        if ports is not None and ports is not _CLOSED:
            self._loop.close()
            await ports.aclose()

    def __del__(self) -> None:
        ports = getattr(self, "_ports", None)
        if ports is not None and ports is not _CLOSED:
            self._loop.close()
            ports.dropped()


class _PartialValues(AsyncIterator[Any]):
    """What `AsyncStream.partial` gives. No generator: one that is left in the middle troubles trio."""

    def __init__(self, stream: AsyncStream[Any], type: Any) -> None:
        self._stream = stream
        self._type = type
        self._ends: list[Any] | None = None

    @cached_property
    def _answer(self) -> Any:
        return self._stream._partial_answer(self._type)

    async def __anext__(self) -> Any:
        from allm.partial import MISSING

        stream, answer = self._stream, self._answer
        while not stream._ended:
            event = await stream._advance()
            if event is not None and (value := answer.take(event)) is not MISSING:
                return value
        if self._ends is None:
            self._ends = stream._answers(self._type)
        if not self._ends:
            raise StopAsyncIteration
        return self._ends.pop()
