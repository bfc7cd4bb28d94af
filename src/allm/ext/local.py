"""The provider `local`: a GGUF model that llama.cpp runs in this process (`pip install 'pyallm[local]'`).

One model turn runs on a daemon worker thread and hands its events over through a bounded queue, so
that the caller is free at once when it stops listening. Tool calls never depend on the model's own
syntax: constrained decoding picks a tool's name, then writes arguments that fit its schema.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import secrets
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from allm.data.content import OpaquePart, Part, ReasoningPart, TextPart, ToolCall, parsed_call
from allm.data.events import (
    Event,
    MessageCompleted,
    MessageStarted,
    StreamFailed,
    TextCompleted,
    TextDelta,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from allm.data.failure import ErrorInfo
from allm.data.messages import Message
from allm.data.requests import Request, ToolSpec
from allm.data.responses import Response, Usage
from allm.errors import ConfigurationError, UnknownOptionError, UnsupportedError, ValidationError, raised
from allm.ext import weights
from allm.ports import CallContext

MAX_TOKENS: Final = 512
CONTEXT_SIZE: Final = 4096
DEFAULT_SYSTEM: Final = "You are a helpful assistant. Answer in English."

_BATCH = 32  # tokens of a prompt between two looks at the stop flag: about 0.2 s on one slow core
_POLL = 0.05  # seconds between two looks at the caller's cancel flag
_NONE = "none"
_SMALL_TALK = ("Hi, who are you?", "What is the capital of Spain?", "Tell me a joke.", "Write a short poem.")


class LocalAdapter:
    """A `StreamAdapter`. `request.model` is empty for the default weights, else the path of a .gguf.

    `adapter_options`: `threads` (default 1: on a busy machine more are slower) and `context_size` in
    tokens (default 4096). Set-up mistakes are raised as `ConfigurationError` and requests it cannot
    serve as `UnsupportedError`, before the first event; what fails later is a `StreamFailed`.
    """

    name = "local"

    def complete(self, request: Request, ctx: CallContext) -> Response:
        """The folded answer. Raises the exception of a `StreamFailed`, `ContextLengthError` among them."""
        text: list[str] = []
        calls: list[ToolCall] = []
        for event in self.stream(request, ctx):
            match event:
                case TextCompleted(whole):
                    text.append(whole)
                case ToolCallCompleted(call):
                    calls.append(call)
                case StreamFailed(error):
                    raise raised(error)
                case MessageCompleted(response):
                    content: Any = (*map(TextPart, text), *calls) if calls else "".join(text)
                    return _with_message(response, Message("assistant", content))
        raise AssertionError("a turn ends with message_completed or error")

    def stream(self, request: Request, ctx: CallContext) -> Iterator[Event]:
        """The events of one model turn. Closing the iterator stops the generation."""
        options = Options.read(ctx.adapter_options)
        prompt = _Prompt(request)
        turn = _Turn(request, prompt, options, ctx.cancelled)
        turn.start()
        try:
            yield from turn.events()
        finally:
            turn.stop()


class Options(NamedTuple):
    threads: int = 1
    context_size: int = CONTEXT_SIZE

    @classmethod
    def read(cls, given: dict[str, Any]) -> Options:
        for name, value in given.items():
            if name not in cls._fields:
                known = ", ".join(cls._fields)
                raise UnknownOptionError(f"the local model has no adapter option {name!r}; it knows {known}")
            if type(value) is not int or value < 1:
                raise ConfigurationError(
                    f"adapter_options[{name!r}] must be a positive integer, not {value!r}"
                )
        return cls(**given)


def _with_message(response: Response, message: Message) -> Response:
    fields = {name: getattr(response, name) for name in Response.__struct_fields__}
    return Response(**{**fields, "message": message})


# -- Models in memory --------------------------------------------------------------------------------


class Cancelled(Exception):
    """Nobody waits for this turn any more."""


class Model:
    """One loaded model. It answers one turn at a time, in the order in which they came."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, stopped: Callable[[], bool]) -> None:
        """Wait for the turn; raises `Cancelled` once `stopped()` is true."""
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            if self._waiting[0] is mine:
                mine.set()
        while not mine.wait(_POLL):
            if stopped():
                self.release(mine)
                raise Cancelled

    def release(self, ticket: threading.Event | None = None) -> None:
        """End the running turn, or take `ticket` out of the line; the next one may go."""
        with self._lock:
            if ticket is None:
                self._waiting.popleft()
            else:
                self._waiting.remove(ticket)
            if self._waiting:
                self._waiting[0].set()


_models: dict[tuple[str, Options, Any], Model] = {}
_loading = threading.Lock()
_running: set[_Turn] = set()


def close() -> None:
    """Stop every running turn of the local models and free their memory."""
    turns = tuple(_running)
    for turn in turns:
        turn.stop()
    until = time.monotonic() + 5.0
    for turn in turns:
        turn.join(max(0.0, until - time.monotonic()))
    with _loading:
        _models.clear()


def _forget() -> None:
    """After a fork: the threads of the parent's servers do not exist here, so they must not be joined."""
    global _loading
    import ctypes

    for model in _models.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(model.server))  # never destroyed in this process
    _models.clear()
    _running.clear()
    _loading = threading.Lock()


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def load(path: Path, options: Options, serve: Callable[[Path, Options], Any]) -> Model:
    """The model of `path` as `serve` starts it, once for each number of threads and context size."""
    key = (str(path.resolve()), options, serve)
    with _loading:
        if key not in _models:
            _models[key] = Model(serve(path, options))
        return _models[key]


def _serve(path: Path, options: Options) -> Any:
    """A server for chats."""
    params = parameters(path, options)
    params.n_batch = params.n_ubatch = _BATCH
    params.cache_ram_mib = 256
    return started(params)


def parameters(path: Path, options: Options) -> Any:
    """The runtime's parameters that chats and embeddings share."""
    params = runtime().CommonParams()
    params.model.path = str(path)
    params.n_ctx = options.context_size
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.verbosity = 0
    params.n_threads_http = 1
    params.fit_params = False
    return params


def started(params: Any) -> Any:
    """A server in this process. Raises `ConfigurationError` for a file that it cannot load."""
    # The runtime insists on a listener that nobody needs: hidden behind a socket file that is removed
    # at once where there are such sockets, and behind a key nobody knows everywhere.
    params.api_keys = [secrets.token_hex(32)]
    with tempfile.TemporaryDirectory(prefix="allm-", ignore_cleanup_errors=True) as folder:
        address = os.path.join(folder, "s.sock")
        if sys.platform != "win32" and len(address) < 100:
            params.hostnames = [address]
        try:
            return runtime().Server(params)
        except RuntimeError as error:
            text = f"{params.model.path} cannot be loaded: is it a whole GGUF model?"
            raise ConfigurationError(text) from error


def runtime() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise ConfigurationError("the local model needs its runtime: pip install 'pyallm[local]'") from error
    return xllamacpp


def model_file(model: str | None, progress: weights.Progress) -> tuple[Path, str]:
    """The file of `model` and the name it goes by; the default weights are fetched where missing."""
    runtime()  # no use in fetching 93 MB for a runtime that is not there
    if model in (None, "", "default", weights.NAME):
        path = weights.ensure(progress)
        return path, weights.NAME if path.name == weights.FILE else path.stem
    path = Path(str(model)).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"there is no model file {path}; leave the model empty for the default")
    return path, path.stem


# -- Prompts -----------------------------------------------------------------------------------------


class _Prompt:
    """A request as plain chat messages, for models whose templates know neither tools nor parts."""

    def __init__(self, request: Request) -> None:
        self.system = [request.system] if request.system else []
        self.turns: list[dict[str, str]] = []
        self._names: dict[str, str] = {}
        for position, message in enumerate(request.messages):
            self._add(message, f"messages[{position}]")
        self.tools, self.forced = _offered(request)
        self.after_tool = bool(request.messages) and request.messages[-1].role == "tool"

    def _add(self, message: Message, path: str) -> None:
        text = "\n".join(_texts(message.parts, path))
        for call in message.tool_calls:
            self._names[call.id] = call.name
        if message.role == "system":
            self.system.append(text)
        elif message.role == "tool":
            name = self._names.get(message.tool_call_id or "", "the tool")
            self._say("user", f"{'Error' if message.is_error else 'Result'} of {name}: {text}")
        elif text:
            self._say(message.role, text)

    def _say(self, role: str, text: str) -> None:
        """Join what one side says in a row: many templates demand that the roles alternate."""
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += f"\n{text}"
        else:
            self.turns.append({"role": role, "content": text})

    @property
    def question(self) -> str:
        """What the user said last, results of tools included."""
        return next((turn["content"] for turn in reversed(self.turns) if turn["role"] == "user"), "")

    def answer(self, request: Request, fallback: str | None) -> list[dict[str, str]]:
        """The messages for free text, or for text in the request's format."""
        system = list(self.system) or ([fallback] if fallback else [])
        if self.after_tool:
            system.append("Answer the user's question using the result of the tool.")
        shape = request.response_format
        if shape is not None and shape.type != "text":
            keys = ", ".join(_properties(shape.schema))
            system.append(
                "Reply with JSON only." if not keys else f"Reply with JSON only, with the keys: {keys}."
            )
        return [*_system("\n".join(system)), *self.turns]

    def choice(self) -> list[dict[str, str]]:
        """The messages that ask for the name of a tool: few-shot, each tool against small talk."""
        listing = "\n".join(
            f"- {t.name}({', '.join(_properties(t.schema))}): {t.description}" for t in self.tools
        )
        head = (
            f"Pick the one function that fits the user's message, or none.\n{listing}\n- none: anything else"
        )
        shots: list[dict[str, str]] = []
        for position, tool in enumerate(self.tools):
            for half, example in enumerate(_examples(tool)):
                small_talk = _SMALL_TALK[(position + 2 * half) % len(_SMALL_TALK)]
                shots += _shot(example, tool.name) + _shot(small_talk, _NONE)
        return [*_system(head), *shots, {"role": "user", "content": self.question}]

    def arguments(self, tool: ToolSpec) -> list[dict[str, str]]:
        """The messages that ask for the arguments of `tool`."""
        keys = ", ".join(_properties(tool.schema))
        head = (
            f"Extract the arguments of the function {tool.name} ({tool.description}) "
            f"from the user's message as JSON with keys: {keys}."
        )
        return [*_system(head), {"role": "user", "content": self.question}]


def _texts(parts: Iterable[Part], path: str) -> Iterator[str]:
    for position, part in enumerate(parts):
        if isinstance(part, TextPart):
            yield part.text
        elif not isinstance(part, ReasoningPart | ToolCall | OpaquePart):
            kind = type(part).__name__.removesuffix("Part").lower()
            raise UnsupportedError.of(
                f"the local model reads text only, no {kind}", (f"{path}.{position}", kind)
            )


def _system(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] if text else []


def _shot(question: str, name: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": json.dumps(name)}]


def _examples(tool: ToolSpec) -> Sequence[str]:
    """Two utterances that call for `tool`; its own description and name stand in for missing ones."""
    return (*tool.examples, tool.description or tool.name, tool.name.replace("_", " "))[:2]


def _properties(schema: dict[str, Any]) -> list[str]:
    found = schema.get("properties")
    return list(found) if isinstance(found, dict) else []


def _takes_nothing(schema: dict[str, Any]) -> bool:
    """Whether `{}` is the only sensible argument object."""
    wider = ("$ref", "anyOf", "oneOf", "allOf", "additionalProperties", "patternProperties")
    return not _properties(schema) and not any(schema.get(word) for word in wider)


def _offered(request: Request) -> tuple[tuple[ToolSpec, ...], bool]:
    """The tools to choose from, and whether one of them must be called."""
    choice = request.tool_choice
    if isinstance(choice, dict):
        function = choice.get("function")
        choice = (function if isinstance(function, dict) else choice).get("name") or choice.get("type")
        choice = "required" if choice == "any" else choice
    if choice in (None, "auto"):
        return request.tools, False
    if choice == "none":
        return (), False
    tools = request.tools if choice == "required" else tuple(t for t in request.tools if t.name == choice)
    if not tools:
        raise ValidationError.of("the tool choice fits no tool", ("tool_choice", "unknown_tool"))
    return tools, True


# -- One turn ----------------------------------------------------------------------------------------


class _Failed(Exception):
    """The turn ends with this failure as its last event."""

    def __init__(self, reason: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.reason, self.more = reason, more


class _Turn:
    """A model turn on its worker thread: from the request to events in a queue."""

    def __init__(
        self, request: Request, prompt: _Prompt, options: Options, cancelled: Callable[[], bool]
    ) -> None:
        self._request, self._prompt, self._options, self._cancelled = request, prompt, options, cancelled
        self._limit = request.max_tokens or MAX_TOKENS
        # Room for every token: a reader who pauses must not hold up the others who want the model.
        self._events: queue.Queue[Event | BaseException] = queue.Queue(2 * self._limit + 64)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="allm-local", daemon=True)
        self._model: Model
        self._fallback: str | None = None
        self._name = ""
        self._id: str | None = None
        self._started = False
        self._usage: Usage | None = None

    def start(self) -> None:
        _running.add(self)
        self._thread.start()

    def stop(self) -> None:
        """Ask the worker to end; it does so at the next token, or within a batch of the prompt."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def events(self) -> Iterator[Event]:
        """Until the last event; `cancelled()` is asked at least every 50 ms."""
        while True:
            if self._cancelled():
                self._stop.set()
                yield StreamFailed(ErrorInfo(reason="cancelled", message="cancelled", provider="local"))
                return
            try:
                event = self._events.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(event, BaseException):
                raise event
            yield event
            if type(event) in (MessageCompleted, StreamFailed):
                return

    # Everything below runs on the worker thread.

    def _work(self) -> None:
        try:
            self._run()
        except Cancelled:
            # Where `close` stopped the turn somebody may still be reading.
            self._last(StreamFailed(ErrorInfo(reason="cancelled", message="stopped", provider="local")))
        except _Failed as failure:
            info = ErrorInfo(
                reason=failure.reason,
                message=str(failure),
                provider="local",
                model=self._name or None,
                **failure.more,
            )
            self._last(StreamFailed(info))
        except BaseException as error:
            self._last(error)
        finally:
            _running.discard(self)

    def _run(self) -> None:
        path, self._name = model_file(self._request.model, self._fetching)
        self._fallback = DEFAULT_SYSTEM if self._name == weights.NAME else None
        self._model = load(path, self._options, _serve)
        self._model.acquire(self._stopped)
        try:
            finish, raw = self._answer()
        finally:
            self._model.release()
        if self._usage is not None:
            self._put(UsageReported(self._usage))
        response = Response(
            id=self._id,
            provider="local",
            model=self._name,
            finish_reason=finish,
            raw_finish_reason=raw,
            usage=self._usage,
        )
        self._put(MessageCompleted(response))

    def _fetching(self, done: int, total: int | None) -> None:
        """Called while the weights are fetched: ends the download when nobody waits for it."""
        if self._stopped():
            raise Cancelled

    def _answer(self) -> tuple[str, str]:
        """Everything between the first and the last event; the finish reason, ours and the server's."""
        tool = self._chosen()
        if tool is not None:
            return self._call(tool)
        request = self._request
        body: dict[str, Any] = {"messages": self._prompt.answer(request, self._fallback)}
        body |= _sampling(request) | {"stop": list(request.stop)} | _format(request) | request.options
        text, raw = self._generate(body, lambda piece: self._put(TextDelta(piece)))
        self._put(TextCompleted(text))
        return ("length" if raw == "length" else "stop"), raw

    def _chosen(self) -> ToolSpec | None:
        """The tool to call, by constrained choice where there is one; `None` for free text."""
        tools, forced = self._prompt.tools, self._prompt.forced
        if not tools or (self._prompt.after_tool and not forced):
            return None
        if forced and len(tools) == 1:
            return tools[0]
        names = {tool.name: tool for tool in tools}
        words = [*names] if forced else [*names, _NONE]
        body = {"messages": self._prompt.choice(), "temperature": 0, "max_tokens": 64} | _schema(
            {"enum": words}
        )
        text, _ = self._generate(body, lambda _: None)
        with suppress(ValueError):
            return names.get(json.loads(text))
        raise _Failed("output_invalid", f"no tool has the name {text!r}")

    def _call(self, tool: ToolSpec) -> tuple[str, str]:
        call_id = f"call_{len(self._request.messages)}_0"
        text, raw = "{}", "stop"
        if _takes_nothing(tool.schema):
            self._start()
            self._put(ToolCallStarted(call_id, tool.name))
            self._put(ToolCallDelta(call_id, text))
        else:
            body = (
                {"messages": self._prompt.arguments(tool)} | _sampling(self._request) | _schema(tool.schema)
            )
            began: list[bool] = []

            def piece(delta: str) -> None:
                if not began:
                    began.append(True)
                    self._put(ToolCallStarted(call_id, tool.name))
                self._put(ToolCallDelta(call_id, delta))

            text, raw = self._generate(body, piece)
        call = parsed_call(call_id, tool.name, text)
        if call.arguments_invalid or raw == "length":
            if self._usage is not None:
                self._put(UsageReported(self._usage))
            why = f"cut by max_tokens={self._limit}" if raw == "length" else "not a JSON object"
            raise _Failed("output_invalid", f"the arguments of {tool.name} are {why}", call_id=call_id)
        self._put(ToolCallCompleted(call, 0))
        return "tool_calls", raw

    def _generate(self, body: dict[str, Any], piece: Callable[[str], None]) -> tuple[str, str]:
        """Run one generation; its whole text and finish reason. `piece` gets the text as it comes."""
        texts: list[str] = []
        finish: list[str] = []
        failure: list[BaseException] = []

        def chunk(data: Any) -> bool:
            """True ends the generation. The runtime swallows exceptions, so they are kept."""
            try:
                for item in data if isinstance(data, list) else [data]:
                    self._chunk(item, texts, finish, piece)
                return self._stopped()
            except BaseException as error:
                failure.append(error)
                return True

        streaming = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
        self._model.server.handle_chat_completions({**body, **streaming}, chunk)
        if failure:
            raise failure[0]
        if self._stopped():
            raise Cancelled
        if not finish:
            raise _Failed("stream_interrupted", "the local server ended without a finish reason")
        return "".join(texts), finish[-1]

    def _chunk(self, data: Any, texts: list[str], finish: list[str], piece: Callable[[str], None]) -> None:
        if "error" in data:
            raise _refused(data["error"])
        self._start(data.get("id"))
        for choice in data.get("choices") or ():
            text = choice["delta"].get("content")
            if text:
                texts.append(text)
                piece(text)
            if choice.get("finish_reason"):
                finish.append(choice["finish_reason"])
        if data.get("usage"):
            self._count(data)

    def _start(self, id: str | None = None) -> None:
        if not self._started:
            self._started, self._id = True, id
            self._put(MessageStarted(id, self._name))

    def _count(self, data: Any) -> None:
        """Add a generation to the usage of the turn: choosing a tool costs tokens, too."""
        used = data["usage"]
        details = used.get("prompt_tokens_details") or {}
        usage = Usage(
            input_tokens=used.get("prompt_tokens"),
            output_tokens=used.get("completion_tokens"),
            cached_input_tokens=details.get("cached_tokens"),
            total_tokens=used.get("total_tokens"),
        )
        total = usage.plus(self._usage)
        fields = {name: getattr(total, name) for name in Usage.__struct_fields__}
        self._usage = Usage(**{**fields, "raw": {"usage": used, "timings": data.get("timings")}})

    def _stopped(self) -> bool:
        return self._stop.is_set() or self._cancelled()

    def _put(self, event: Event) -> None:
        while not self._stopped():
            with suppress(queue.Full):
                self._events.put(event, timeout=_POLL)
                return
        raise Cancelled

    def _last(self, event: Event | BaseException) -> None:
        """The end of the turn; where the queue is full nobody reads it any more."""
        with suppress(queue.Full):
            self._events.put(event, timeout=_POLL)


def _sampling(request: Request) -> dict[str, Any]:
    """Greedy unless the request says otherwise: a small model is at its best there."""
    body: dict[str, Any] = {
        "temperature": request.temperature or 0,
        "max_tokens": request.max_tokens or MAX_TOKENS,
    }
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.seed is not None:
        body["seed"] = request.seed & 0xFFFFFFFF  # 32 bits there
    return body


def _format(request: Request) -> dict[str, Any]:
    shape = request.response_format
    if shape is None or shape.type == "text":
        return {}
    if shape.type == "json_object":
        return {"response_format": {"type": "json_object"}}
    if shape.type == "json_schema":
        return _schema(shape.schema)
    raise _Failed("unsupported", f"the local model knows no response format {shape.type!r}")


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
    return {"response_format": shape}


def _refused(error: Any) -> _Failed:
    """A failure from what the server says of it."""
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        return _Failed("context_length_exceeded", message, status=400, code="exceed_context_size_error")
    code = error.get("code")
    status = code if isinstance(code, int) else None
    reason = "invalid_request" if status is not None and status < 500 else "output_invalid"
    return _Failed(reason, message, status=status, code=error.get("type"))
