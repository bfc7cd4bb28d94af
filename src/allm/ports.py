"""The protocols users may implement, and the small values that cross them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

from allm.data.content import ToolCall
from allm.data.events import Event
from allm.data.failure import ErrorInfo
from allm.data.requests import Request
from allm.data.responses import Response
from allm.limits import Limits, Timeouts

if TYPE_CHECKING:
    from allm.data.media import EmbeddingRequest, EmbeddingResponse, ImageRequest, ImageResponse
    from allm.data.sessions import Session


class KeyRule(Struct, frozen=True):
    """Where a provider's key comes from and where it goes on the wire.

    `name` is the provider's name in the key stores; `variables` are environment variables, first
    wins. The driver writes `prefix + key` into `header`. `required=False`: sent where it is found.
    """

    name: str
    variables: tuple[str, ...]
    header: str = "authorization"
    prefix: str = "Bearer "
    required: bool = True


class HttpRequest(Struct, frozen=True):
    """A request without its key: the driver adds that when it opens the connection.

    `warnings` say what the encoder left out or changed; they end up in `Response.warnings`.
    """

    url: str
    body: bytes = b""
    headers: dict[str, str] = {}
    key: KeyRule | None = None
    method: str = "POST"
    warnings: tuple[str, ...] = ()


class HttpHead(Struct, frozen=True):
    """Status and headers of an answer; header names in lower case."""

    status: int
    headers: dict[str, str] = {}


class CallContext(Struct, frozen=True, kw_only=True):
    """What an adapter may know of a call beside the request.

    `id` names the effect (`<run>/<revision>/model`). `api_key` is set for in-process adapters
    only, by the driver. `cancelled()` turns true when nobody waits for the answer any more. `orphans` is
    what becomes of calls without a result (`allm.prepare`).
    """

    id: str = ""
    base_url: str | None = None
    adapter_options: dict[str, Any] = {}
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    orphans: str = "answer"
    api_key: str | None = None
    cancelled: Any = bool  # Callable[[], bool]; bool() is False

    def __repr__(self) -> str:
        return f"CallContext(id={self.id!r})"


class Decoder(Protocol):
    """Bytes of one answer into events. It never raises for what a server sends.

    The last event of a whole answer is `MessageCompleted`, whose response holds all but the message
    (the fold fills that in); the last event of a failed one is `StreamFailed`. After either, `feed`
    and `end` return nothing. `end` is called when the body has ended; where the provider had not
    said that the answer was complete it gives `StreamFailed` with `stream_interrupted`. An optional
    property `may_end` tells that all has come that an answer needs, where no mark need follow: then a cut
    or a short silence ends the answer, too.
    """

    def feed(self, data: bytes) -> list[Event]: ...
    def end(self) -> list[Event]: ...


@runtime_checkable
class WireAdapter(Protocol):
    """A provider as three pure parts. It opens nothing and never sees a key.

    Two more methods are optional. `target(request, ctx) -> Origin` says where the request goes: with it
    the request is checked against what the model can do. `resume(request, response, ctx) -> Request |
    None` continues an answer that the provider paused: `request` is the one that was asked first,
    `response` the answer so far.
    """

    name: str

    def encode(self, request: Request, ctx: CallContext) -> HttpRequest: ...
    def decoder(self, request: Request, head: HttpHead, ctx: CallContext) -> Decoder: ...
    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorInfo: ...


class Adapter(Protocol):
    """A provider that runs in this process or behind its own SDK: `complete`, optionally `stream`,
    or their awaited twins `acomplete` and `astream`. A blocking one runs on a worker thread under
    `allm.aio`."""

    name: str

    def complete(self, request: Request, ctx: CallContext) -> Response: ...


class StreamAdapter(Adapter, Protocol):
    def stream(self, request: Request, ctx: CallContext) -> Iterator[Event]: ...


class AsyncStreamAdapter(Protocol):
    name: str

    def astream(self, request: Request, ctx: CallContext) -> AsyncIterator[Event]: ...


class Transport(Protocol):
    """Blocking HTTP: one open answer at a time, made by `open`.

    `key_header` is the name and value of the header that carries the key; it is in no error.
    `on_connection` is called at once with a function that ends this `open` from another thread. A
    transport that asks nobody says `keyless = True`; then no key is looked for.
    """

    def open(
        self,
        request: HttpRequest,
        timeouts: Timeouts,
        key_header: tuple[str, str] | None = None,
        on_connection: Callable[[Callable[[], None]], None] | None = None,
    ) -> Body: ...
    def close(self) -> None: ...


class Body(Protocol):
    """An answer that is being read. `read` gives what has come, `b""` at the end; `timeout` is
    seconds for this one read. `cancel` may be called from any thread and ends a waiting `read`."""

    head: HttpHead

    def read(self, timeout: float | None) -> bytes: ...
    def close(self) -> None: ...
    def cancel(self) -> None: ...


class AsyncTransport(Protocol):
    async def open(
        self, request: HttpRequest, timeouts: Timeouts, key_header: tuple[str, str] | None = None
    ) -> AsyncBody: ...
    async def aclose(self) -> None: ...


class AsyncBody(Protocol):
    """An answer that is being read. `cancel` is called on the loop and ends a waiting `read`. One that
    was read to its end, where `aclose` waits for nothing, may say `ended = True`: then no task shields it."""

    head: HttpHead

    async def read(self, timeout: float | None) -> bytes: ...
    def cancel(self) -> None: ...
    async def aclose(self) -> None: ...


class ToolExecutor(Protocol):
    """Runs a tool's handler; what it returns is treated like the handler's own return."""

    def execute(self, tool: Any, call: ToolCall, context: Any) -> Any: ...


class ToolResultEncoder(Protocol):
    """A handler's return as the content of a tool message: text, or parts. A plain function is one too."""

    def encode(self, value: Any) -> Any: ...


class KeySource(Protocol):
    """Asked at each open for the key of `provider`; `origin` is scheme, host and port."""

    def __call__(self, provider: str, origin: str) -> str | Awaitable[str | None] | None: ...


class Span(Struct, frozen=True, kw_only=True):
    """Something of a run that takes time. `kind` is `run`, `model`, `tool` or `hook`; `name` the layer, the
    model, the tool or the hook; `id` that of the effect (`<run>/<revision>/model`), of the run its own.

    When it has ended: `elapsed` seconds, `ok`, `error` where the failure is known here, the `status` of a
    model's HTTP answer.
    """

    kind: str
    id: str
    name: str
    run_id: str
    request_id: str | None = None
    session_id: str | None = None
    provider: str = ""
    model: str = ""
    elapsed: float | None = None
    ok: bool | None = None
    status: int | None = None
    error: ErrorInfo | None = None


class Observer(Protocol):
    """Sees every event and, with both span methods, the spans around effects; sync, before the filters, on
    the thread or loop of the run. What it raises is logged once and changes nothing."""

    def event(self, event: Event, ctx: Any) -> None: ...
    def span_started(self, span: Span) -> None: ...
    def span_ended(self, span: Span) -> None: ...


class SessionEntry(NamedTuple):
    """One line of a store's list. `updated` is seconds since 1970, `title` the first text of the user."""

    id: str
    title: str
    updated: float
    revision: int
    status: str
    messages: int


class SessionStore(Protocol):
    """Where sessions are kept between turns; two writers never overwrite each other unseen.

    `save` puts a session in the place of its revision `expected_revision`, `None` says that it is new;
    it raises `SessionError` with the code `revision_conflict`, naming both revisions, where somebody else
    has written meanwhile. `load` raises `SessionError` where there is no such session; `list` has the one
    saved last first; `delete` says whether there was one.
    """

    def load(self, id: str) -> Session: ...
    def save(self, session: Session, expected_revision: int | None = None) -> None: ...
    def list(self) -> tuple[SessionEntry, ...]: ...
    def delete(self, id: str) -> bool: ...


class ImageAdapter(Protocol):
    """Images in this process: `complete`, or `acomplete` awaited. One behind HTTP has the three parts of
    `WireAdapter` instead; its decoder's last event is `MediaCompleted` or `StreamFailed`."""

    name: str

    def complete(self, request: ImageRequest, ctx: CallContext) -> ImageResponse: ...


class EmbeddingAdapter(Protocol):
    """As `ImageAdapter`, for vectors. `max_batch` is how many inputs one request may hold."""

    name: str
    max_batch: int

    def complete(self, request: EmbeddingRequest, ctx: CallContext) -> EmbeddingResponse: ...
