"""A loopback server that answers like the real services, from a script: `allm.testing.scripted`.

It speaks Chat Completions, Responses, Messages, generateContent, OpenAI's images and embeddings and Gemini's
embeddings, each at its own path, streamed or whole. Entries of a script: `allm.testing.scripts`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from msgspec.structs import replace

from allm.engine import Engine
from allm.errors import ConfigurationError, UnsupportedError
from allm.options import listed
from allm.ports import CallContext, HttpHead, HttpRequest
from allm.providers import resolve, resolve_embedding, resolve_image
from allm.testing.played import Answer
from allm.testing.rendering import refused, rendered
from allm.testing.scripts import Entry, Fault, read_turn
from allm.testing.wire_requests import Asked, read_request

KEY: Final = "scripted-key"
"""The key that engines of a server send. It is no secret."""

Script = Sequence[Sequence[Entry]] | Callable[[Any], Sequence[Entry]]


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedServer]:
    """A server on this machine that answers from `script`, until the block is left.

    `script` is a list of turns, played in the order of the requests, or a function that is given the
    neutral request (`Request`, `ImageRequest`, `EmbeddingRequest`) and returns the turn; it may be called by
    several threads at once. A turn is a list of entries: `[{"text": "Hi"}]`.

    Leaving the block raises `ConfigurationError` where the script is at fault: a turn that the asked
    dialect cannot say, or turns that were not played (unless the block raised itself).
    """
    server = ScriptedServer(script)
    try:
        yield server
    finally:
        server.close()
    server.check()


class ScriptedServer:
    """A server that is running; `asked` holds what it was asked, in the order of arrival."""

    def __init__(self, script: Script) -> None:
        if not callable(script) and not listed(script):
            raise ConfigurationError(
                f"a script is a list of turns, or a function of the request, not {type(script).__name__}"
            )
        self.asked: list[Asked] = []
        self._turns = None if callable(script) else [read_turn(turn) for turn in script]
        self._script = script
        self._faults: list[str] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def engine(self, model: str | None = None, **fields: Any) -> Engine:
        """`Engine(model, **fields)`, its requests encoded as for the real service and sent to this server.

        `model`, `image_adapter` and `embed_adapter` are `provider:model`, or a provider alone.
        """
        if model is not None:
            fields["adapter"], model = self._pointed(resolve, model)
        for slot, find in (("image_adapter", resolve_image), ("embed_adapter", resolve_embedding)):
            if slot in fields:
                fields[slot], _ = self._pointed(find, fields[slot])
        return Engine(model, **fields)

    def _pointed(self, find: Callable[[str], Any], model: str) -> tuple[_Pointed, str]:
        provider, _, name = model.partition(":")
        adapter = find(provider)
        if not hasattr(adapter, "encode"):
            raise ConfigurationError(f"{provider!r} runs in this process: no server can answer for it")
        return _Pointed(adapter, self.url, name or "scripted"), name or "scripted"

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """The answer to a request. What is at fault is answered with status 400 or 404, and remembered."""
        with self._lock:
            number = len(self.asked) + 1
            try:
                asked = read_request(number, path, headers, body)
            except Exception as error:  # a client may send anything
                unread = Asked(number, "chat", path, headers, {}, None)
                return self._refuse(404 if isinstance(error, UnsupportedError) else 400, error, unread)
            self.asked.append(asked)
        try:
            return rendered(self._turn(asked), asked)
        except Exception as error:  # a function of the user may raise anything
            return self._refuse(400, error, asked)

    def _turn(self, asked: Asked) -> Any:
        if callable(self._script):
            return read_turn(self._script(asked.request))
        turns = self._turns or []
        if asked.number > len(turns):
            text = f"the script has no turn for request {asked.number}: it has {len(turns)}"
            raise ConfigurationError(text)
        return turns[asked.number - 1]

    def _refuse(self, status: int, error: Exception, asked: Asked) -> Answer:
        why = f"{type(error).__name__}: {error}"
        self._faults.append(why)
        return refused(Fault(status, f"scripted server: {why}"), asked)

    def check(self) -> None:
        """Raise `ConfigurationError` for a fault of the script, and for turns that were not played."""
        if self._faults:
            raise ConfigurationError(self._faults[0])
        left = len(self._turns or ()) - len(self.asked)
        if left > 0:
            raise ConfigurationError(f"{left} of {len(self._turns or ())} turns were not played")

    def close(self) -> None:
        self._server.shutdown()
        self._server.close_all()
        self._thread.join()


class _Pointed:
    """An adapter whose requests go to another origin, with `KEY`: no other key is looked for.

    `model` is asked for where a call names none.
    """

    key = None

    def __init__(self, adapter: Any, origin: str, model: str) -> None:
        self._adapter, self._origin, self._model = adapter, origin, model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def _named(self, request: Any) -> Any:
        return replace(request, model=self._model) if request.model is None else request

    def decoder(self, request: Any, head: HttpHead, ctx: CallContext) -> Any:
        return self._adapter.decoder(self._named(request), head, ctx)

    def encode(self, request: Any, ctx: CallContext) -> HttpRequest:
        http: HttpRequest = self._adapter.encode(self._named(request), ctx)
        _, _, *rest = urlsplit(http.url)
        headers = http.headers
        if http.key is not None:
            headers = {**headers, http.key.header: http.key.prefix + KEY}
        return replace(http, url=self._origin + urlunsplit(("", "", *rest)), headers=headers, key=None)


class _Handler(BaseHTTPRequestHandler):
    """Each read of an answer is a chunk of its own; the connection is kept."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.answer(self.path, headers, body)
        assert answer.head is not None
        self.send_response(answer.head.status)
        for name, value in answer.head.headers.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for data in (*answer.reads, b""):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *args: Any) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: ScriptedServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_all(self) -> None:
        """End the connections that clients have kept, and the threads that wait for them."""
        self.server_close()
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that let go is no mistake of ours."""
