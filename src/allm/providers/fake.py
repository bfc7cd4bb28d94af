"""The scripted provider: no network, the same events and folds as all others.

`Engine("fake", adapter_options={"script": [{"text": "Hello"}, {"finish": "stop"}]})` plays one call;
`scripts` is a list of such lists, one a call. An entry is a dict with exactly one of

`text`, `reasoning`: a string, or a list of strings, one a delta; `tool_call`: `{id, name, arguments}`;
`tool_call_delta`: `{id, name, text}`, pieces of one call's arguments; `usage`: fields of `Usage`;
`raw_chunk`: any JSON; `finish`: the finish reason, `stop` if there is none; `error`: a reason word or
fields of `ErrorInfo`; `delay`: seconds.

The cursor hangs on the engine's id: engines derived from one another go on in the same script.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from allm.data.content import parsed_call
from allm.data.events import (
    Event,
    MessageCompleted,
    MessageStarted,
    RawChunk,
    ReasoningCompleted,
    ReasoningDelta,
    StreamFailed,
    TextCompleted,
    TextDelta,
    ToolCallCompleted,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from allm.data.failure import REASONS, RETRYABLE, ErrorInfo
from allm.data.requests import Request
from allm.data.responses import Response, Usage
from allm.errors import ConfigurationError, raised
from allm.loops.effects import Effect, Sleep
from allm.ports import CallContext

ENTRIES = (
    "text",
    "reasoning",
    "tool_call",
    "tool_call_delta",
    "usage",
    "raw_chunk",
    "finish",
    "error",
    "delay",
)


class FakeAdapter:
    """Plays scripts. `requests` records what was asked; `assert_exhausted` is the strict mode."""

    name = "fake"

    def __init__(self, scripts: list[list[dict[str, Any]]] | None = None) -> None:
        self.scripts = scripts
        self.requests: list[Request] = []
        self.position = 0
        self._lock = threading.Lock()

    def play(self, request: Request, ctx: CallContext) -> Iterator[Event | Effect[Any]]:
        """The next script as events, with a `Sleep` where it has to wait."""
        script = self._next(request, ctx)
        return _play(script, request)

    def _next(self, request: Request, ctx: CallContext) -> list[dict[str, Any]]:
        scripts = self.scripts if self.scripts is not None else scripts_of(ctx.adapter_options)
        with self._lock:
            self.requests.append(request)
            if self.position >= len(scripts):
                text = f"the fake has no script for call {self.position + 1}; it was given {len(scripts)}"
                raise raised(
                    ErrorInfo(
                        reason="invalid_request", code="no_scripted_response", message=text, provider="fake"
                    )
                )
            self.position += 1
            return scripts[self.position - 1]

    def assert_exhausted(self, adapter_options: Mapping[str, Any] | None = None) -> None:
        """Raise where scripts are left over: what was not played was not asked for."""
        scripts = self.scripts if self.scripts is not None else scripts_of(adapter_options or {})
        left = len(scripts) - self.position
        if left > 0:
            raise ConfigurationError(f"{left} of {len(scripts)} scripts of the fake were not played")


def scripts_of(options: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The scripts in adapter options; raises `ConfigurationError` for a malformed one."""
    if "script" in options and "scripts" in options:
        raise ConfigurationError("the fake takes script= or scripts=, not both")
    scripts = options.get("scripts", [options["script"]] if "script" in options else [])
    for script in scripts:
        for entry in script:
            if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in ENTRIES:
                raise ConfigurationError(
                    f"the fake's entry {entry!r} is not a dict with one of {', '.join(ENTRIES)}"
                )
    return list(scripts)


def _play(script: list[dict[str, Any]], request: Request) -> Iterator[Event | Effect[Any]]:
    stage = _Stage(request)
    yield MessageStarted("fake", request.model)
    for entry in script:
        ((kind, value),) = entry.items()
        if kind == "delay":
            yield Sleep(float(value))
        elif kind == "error":
            yield StreamFailed(error_of(value))
            return
        elif kind == "finish":
            stage.finish = value
        else:
            yield from getattr(stage, kind)(value)
    yield from stage.end()


class _Stage:
    """The parts of the answer that is being played."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.index = -1
        self.kind = ""
        self.pieces: list[str] = []
        self.open_call: tuple[str, str] | None = None
        self.usage_seen: Usage | None = None
        self.finish: str | None = None
        self.called = False

    def text(self, value: str | list[str]) -> Iterator[Event]:
        yield from self._turn_to("text")
        for piece in [value] if isinstance(value, str) else value:
            self.pieces.append(piece)
            yield TextDelta(piece, self.index)

    def reasoning(self, value: str | list[str]) -> Iterator[Event]:
        yield from self._turn_to("reasoning")
        for piece in [value] if isinstance(value, str) else value:
            self.pieces.append(piece)
            yield ReasoningDelta(piece, self.index)

    def tool_call(self, value: dict[str, Any]) -> Iterator[Event]:
        yield from self._turn_to("")
        self.index += 1
        self.called = True
        raw = value.get("raw_arguments")
        if raw is None:
            raw = msgspec.json.encode(value.get("arguments", {})).decode()
        call = parsed_call(value["id"], value["name"], raw)
        yield ToolCallStarted(call.id, call.name, self.index)
        yield ToolCallDelta(call.id, raw)
        yield ToolCallCompleted(call, self.index)

    def tool_call_delta(self, value: dict[str, Any]) -> Iterator[Event]:
        if self.open_call is None or self.open_call[0] != value["id"]:
            yield from self._turn_to("")
            self.index += 1
            self.called = True
            self.open_call = (value["id"], value["name"])
            self.pieces = []
            yield ToolCallStarted(value["id"], value["name"], self.index)
        self.pieces.append(value["text"])
        yield ToolCallDelta(value["id"], value["text"])

    def usage(self, value: dict[str, Any]) -> Iterator[Event]:
        self.usage_seen = msgspec.convert(value, Usage)
        yield UsageReported(self.usage_seen)

    def raw_chunk(self, value: Any) -> Iterator[Event]:
        yield RawChunk(value)

    def end(self) -> Iterator[Event]:
        yield from self._turn_to("")
        finish = self.finish or ("tool_calls" if self.called else "stop")
        yield MessageCompleted(
            Response(
                id="fake",
                provider="fake",
                model=self.request.model,
                finish_reason=finish,
                raw_finish_reason=finish,
                usage=self.usage_seen,
            )
        )

    def _turn_to(self, kind: str) -> Iterator[Event]:
        """End the part that is open, unless it is of the same kind."""
        if self.kind == kind and self.open_call is None and kind:
            return
        text = "".join(self.pieces)
        if self.open_call is not None:
            yield ToolCallCompleted(parsed_call(*self.open_call, text), self.index)
        elif self.kind == "text":
            yield TextCompleted(text, self.index)
        elif self.kind == "reasoning":
            yield ReasoningCompleted(text, self.index)
        self.open_call, self.pieces, self.kind = None, [], kind
        if kind:
            self.index += 1


def error_of(value: str | dict[str, Any]) -> ErrorInfo:
    fields: dict[str, Any] = {"reason": value} if isinstance(value, str) else dict(value)
    if fields.get("reason") not in REASONS:
        fields = {"reason": "provider_error", "message": str(value)}
    fields.setdefault("retryable", fields["reason"] in RETRYABLE)
    return ErrorInfo(provider="fake", **fields)
