"""Record real exchanges once, replay them ever after: without network, without keys, on every face.

>>> with allm.testing.recorded("hello.jsonl") as tape:  # doctest: +SKIP
...     engine = allm.Engine("openai:gpt-6-luna", transport=tape)
...     assert allm.chat(engine, "Say hello.").text

The objects go into `Engine(transport=...)` for the blocking and the awaited face alike. What the file holds,
and what never gets into it, is said in `allm.testing.cassette`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET

from allm.data.failure import ErrorInfo
from allm.drivers.transports import transport_of
from allm.errors import ConfigurationError, TransportError
from allm.limits import Timeouts
from allm.ports import AsyncBody, Body, HttpHead, HttpRequest
from allm.testing.cassette import Exchange, How, Sent, begun, load, written
from allm.testing.played import Answer, Played

Reads = Literal["recorded", "whole", "bytewise"]
VARIABLE: Final = "ALLM_RECORD"
MODES: Final = ("auto", "record", "replay")
_SHOWN = 5  # differences listed in an error


def record(path: str | os.PathLike[str], transport: Any = None) -> Recorder:
    """A transport that writes what passes through it to the file `path`, which it starts anew.

    `transport` does the work: anything that `Engine(transport=...)` takes; else the library's own. The
    file is complete after each call; leaving the `with` also writes calls that are still under way.
    """
    return Recorder(Path(path), transport)


def replay(path: str | os.PathLike[str], *, reads: Reads = "recorded", strict: bool = True) -> Replay:
    """A transport that answers from the recording `path` and has no network.

    A request gets the first unplayed exchange with its method, path and body (as JSON); where there is
    none the call fails with `ConfigurationError`, which shows the nearest one. `reads`: the pieces as they
    were `recorded`, all in one (`whole`), or `bytewise`. `strict`: leaving the `with` raises
    `ConfigurationError` while exchanges are unplayed. No key is needed.
    """
    if reads not in ("recorded", "whole", "bytewise"):
        raise ConfigurationError(f"reads={reads!r} is not one of 'recorded', 'whole', 'bytewise'")
    return Replay(Path(path), reads, strict)


def recorded(
    path: str | os.PathLike[str],
    transport: Any = None,
    *,
    mode: str | None = None,
    reads: Reads = "recorded",
    strict: bool = True,
) -> Recorder | Replay:
    """`replay` where the file exists, else `record`.

    `mode`, or else the environment variable ALLM_RECORD, decides otherwise: `record` makes the recording
    anew, `replay` never asks the network (for continuous integration), `auto` is the default.
    """
    chosen = mode or os.environ.get(VARIABLE) or "auto"
    if chosen not in MODES:
        source = "mode" if mode else VARIABLE
        raise ConfigurationError(f"{source}={chosen!r} is not one of {', '.join(MODES)}")
    if chosen == "record" or (chosen == "auto" and not Path(path).exists()):
        return record(path, transport)
    return replay(path, reads=reads, strict=strict)


class Recorder:
    """What `record` returns. Safe for parallel calls; the exchanges stand in the order of their opening."""

    def __init__(self, path: Path, transport: Any) -> None:
        self.path = path
        self.blocking = _Recording(self)
        self.awaited = _AsyncRecording(self)
        self._transport = transport
        self._exchanges: list[Exchange] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<recording to {str(self.path)!r}, {len(self._exchanges)} exchanges>"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the file with what has come so far, calls under way included."""
        with self._lock:
            self._write([known for known in self._exchanges if known.how or known.head is not None])

    def begin(self, request: HttpRequest, key_header: tuple[str, str] | None) -> Exchange:
        exchange = begun(request, key_header)
        with self._lock:
            self._exchanges.append(exchange)
        return exchange

    def end(self, exchange: Exchange, how: How, error: TransportError | None = None) -> None:
        """Settle an exchange, the first time that it is called for it, and write the file."""
        with self._lock:
            if not exchange.how:
                exchange.settle(how, error.info if error is not None else None)
                self._write([known for known in self._exchanges if known.how])

    def drop(self, exchange: Exchange) -> None:
        """Forget an exchange that had no answer because the caller gave up."""
        with self._lock:
            self._exchanges.remove(exchange)

    def _write(self, exchanges: list[Exchange]) -> None:
        """Replace the file in one move, so that no reader ever sees half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        new.write_bytes(written(exchanges))
        new.replace(self.path)

    def inner(self, face: str) -> Any:
        """The transport that does the work on this face."""
        return transport_of(self._transport, face)


class _Recording:
    """The blocking face of a recorder; implements `allm.ports.Transport`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def open(
        self,
        request: HttpRequest,
        timeouts: Timeouts,
        key_header: tuple[str, str] | None = None,
        on_connection: Any = None,
    ) -> _RecordedBody:
        recorder = self._recorder
        inner = recorder.inner("blocking")
        exchange = recorder.begin(request, key_header)
        try:
            body = inner.open(request, timeouts, key_header, on_connection)
        except BaseException as error:
            _failed_to_open(recorder, exchange, error)
            raise
        return _RecordedBody(recorder, exchange, body)

    def close(self) -> None: ...


class _AsyncRecording:
    """The awaited face; implements `allm.ports.AsyncTransport`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def open(
        self, request: HttpRequest, timeouts: Timeouts, key_header: tuple[str, str] | None = None
    ) -> _AsyncRecordedBody:
        recorder = self._recorder
        inner = recorder.inner("awaited")
        exchange = recorder.begin(request, key_header)
        try:
            body = await inner.open(request, timeouts, key_header)
        except BaseException as error:
            _failed_to_open(recorder, exchange, error)
            raise
        return _AsyncRecordedBody(recorder, exchange, body)

    async def aclose(self) -> None: ...


def _failed_to_open(recorder: Recorder, exchange: Exchange, error: BaseException) -> None:
    """A connection that failed is part of the recording; a caller who gave up is not."""
    if isinstance(error, TransportError):
        recorder.end(exchange, "failed", error)
    else:
        recorder.drop(exchange)


class _RecordedBody:
    """Implements `allm.ports.Body`."""

    def __init__(self, recorder: Recorder, exchange: Exchange, body: Body) -> None:
        self.head: HttpHead = body.head
        exchange.head = body.head
        self._recorder, self._exchange, self._body = recorder, exchange, body

    def read(self, timeout: float | None) -> bytes:
        try:
            data = self._body.read(timeout)
        except TransportError as error:
            self._recorder.end(self._exchange, "failed", error)
            raise
        _keep(self._recorder, self._exchange, data)
        return data

    def close(self) -> None:
        self._body.close()
        self._recorder.end(self._exchange, "closed")

    def cancel(self) -> None:
        self._body.cancel()


class _AsyncRecordedBody:
    """Implements `allm.ports.AsyncBody`."""

    def __init__(self, recorder: Recorder, exchange: Exchange, body: AsyncBody) -> None:
        self.head: HttpHead = body.head
        exchange.head = body.head
        self._recorder, self._exchange, self._body = recorder, exchange, body

    async def read(self, timeout: float | None) -> bytes:
        try:
            data = await self._body.read(timeout)
        except TransportError as error:
            self._recorder.end(self._exchange, "failed", error)
            raise
        _keep(self._recorder, self._exchange, data)
        return data

    async def aclose(self) -> None:
        await self._body.aclose()
        self._recorder.end(self._exchange, "closed")

    def cancel(self) -> None:
        self._body.cancel()


def _keep(recorder: Recorder, exchange: Exchange, data: bytes) -> None:
    if data:
        exchange.reads.append(data)
    else:
        recorder.end(exchange, "complete")


class Replay:
    """What `replay` returns. `unplayed` are the requests that nobody has asked yet."""

    keyless = True  # no key is looked for: nobody is asked

    def __init__(self, path: Path, reads: Reads, strict: bool) -> None:
        self.path = path
        self.strict = strict
        self._reads = reads
        self._left = load(path)
        self._played: list[Exchange] = []
        self._lock = threading.Lock()
        played = Played(self._answer)
        self.blocking = played.blocking
        self.awaited = played.awaited

    def __repr__(self) -> str:
        return f"<replay of {str(self.path)!r}, {len(self._left)} exchanges left>"

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None and self.strict:
            self.assert_exhausted()

    @property
    def unplayed(self) -> tuple[Sent, ...]:
        return tuple(exchange.sent for exchange in self._left)

    def assert_exhausted(self) -> None:
        """Raise `ConfigurationError` where exchanges are left over: what was recorded was not asked for."""
        if self._left:
            first = self._left[0].sent
            count = f"{len(self._left)} of the {len(self._left) + len(self._played)} exchanges"
            text = f"{count} of {str(self.path)!r} were not played, first {_shown(first)}"
            raise ConfigurationError(f"{text}; record anew, or pass strict=False")

    def _answer(self, request: HttpRequest) -> Answer:
        sent = begun(request, None).sent
        with self._lock:
            found = next((known for known in self._left if known.sent.facts == sent.facts), None)
            if found is None:
                raise self._unknown(sent)
            self._left.remove(found)
            self._played.append(found)
        return Answer(found.head, self._pieces(found.reads), _failure(found))

    def _pieces(self, reads: list[bytes]) -> tuple[bytes, ...]:
        body = b"".join(reads)
        if self._reads == "bytewise":
            return tuple(body[at : at + 1] for at in range(len(body)))
        if self._reads == "whole":
            return (body,) if body else ()
        return tuple(reads)

    def _unknown(self, sent: Sent) -> ConfigurationError:
        text = f"{str(self.path)!r} has no unplayed exchange for {_shown(sent)}"
        if any(known.sent.facts == sent.facts for known in self._played):
            return ConfigurationError(f"{text}; it was played before, and each is played once")
        candidates = [*self._left, *self._played]
        if not candidates:
            return ConfigurationError(f"{text}; the recording is empty")
        found = [list(_differences("", known.sent.facts, sent.facts)) for known in candidates]
        nearest = min(found, key=len)
        listed = "; ".join(nearest[:_SHOWN]) + (" ..." if len(nearest) > _SHOWN else "")
        advice = f"to record anew set {VARIABLE}=record where recorded() is used"
        return ConfigurationError(f"{text}; the nearest differs in {listed}; {advice}")


def _failure(exchange: Exchange) -> ErrorInfo | None:
    """What is raised after the last read. Who read on, and reads further now, cannot be served."""
    if exchange.how != "closed":
        return exchange.error
    text = f"the recording of {_shown(exchange.sent)} ends here: its reader let go; record it anew"
    return ErrorInfo(reason="configuration", message=text)


def _shown(sent: Sent) -> str:
    return f"{sent.method} {sent.facts['path']}"


def _differences(path: str, recorded: Any, asked: Any) -> Iterator[str]:
    """Where two JSON values differ, as text."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in sorted({*recorded, *asked}):
            inner = f"{path}.{name}" if path else name
            yield from _differences(inner, recorded.get(name, UNSET), asked.get(name, UNSET))
    elif isinstance(recorded, list) and isinstance(asked, list):
        for at, (one, other) in enumerate(zip_longest(recorded, asked, fillvalue=UNSET)):
            yield from _differences(f"{path}[{at}]", one, other)
    elif recorded != asked:
        yield f"{path}: recorded {_excerpt(recorded)}, asked {_excerpt(asked)}"


def _excerpt(value: Any) -> str:
    if value is UNSET:
        return "nothing"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
