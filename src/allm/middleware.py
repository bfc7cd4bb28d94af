"""Hooks around model calls and tool calls: what users implement, and the values that cross.

Middleware is any object with some of these methods, sync or async; what it lacks is not asked:

* `before_model(request, ctx)` -> `Request` (asked instead), `Response` (answers; the model is not asked)
* `after_model(response, ctx)` -> `Response` (instead). Deltas were shown by then; result and thread change.
* `on_model_error(error, request, ctx)` -> `Request` (tried once) or `Response`. `error` is an `AllmError`;
  asked where nothing of an answer was shown and retries and fallbacks have failed.
* `before_tool(call, ctx)` -> `ToolCall` (its arguments are run, id and name stay), or any other value: the
  result, as if the handler had returned it (`AskUser` and `Halt` too).
* `after_tool(call, message, ctx)` -> `Message` or text (told to the model instead). `message` is the result
  as the model would see it, errors included.

`None` changes nothing. `Refuse(reason)` refuses: a refused model call halts a chat (`halted_reason ==
"refused"`, thread kept) and raises `PermissionDeniedError` (code `refused`) out of `generate` and `step`; a
refused tool call or result goes through `on_tool_error` with the code `refused`. A raised `AllmError` fails
the run, or that tool call; any other exception is the user's own and ends the run as it is.

The first is outermost: `before_` hooks are asked from first to last, `after_` and `on_` hooks from last to
first. Where one answers, the ones inside it are not asked. Application defaults come first, then the
engine's, then the call's. Model hooks are around a whole turn, with its retries, fallbacks and pauses.

Blocking hooks run on the caller's thread, in `allm.aio` on a thread of their own; async ones under the
blocking face on the run's private asyncio loop. They see the run's deadline and its cancelling.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, Protocol

from msgspec import Struct

from allm.arity import takes
from allm.data.content import ToolCall
from allm.data.freeform import json_value
from allm.data.messages import Message
from allm.data.requests import Request
from allm.data.responses import Response, Usage
from allm.errors import AllmError, ConfigurationError


class Refuse(Struct, frozen=True):
    """What a hook returns so that the call is not made, or its answer not used. `reason` is for people; that
    of a refused tool call is told to the model."""

    reason: str


class HookContext:
    """What a hook may know beside its argument, and how it tells what it did.

    `id` names the hook's effect (`<run>/<revision>/model/before_model/0`); `provider` is who will be asked;
    `usage` what the run's turns before this one have used; `tool` the tool of a tool hook.
    """

    __slots__ = (
        "context", "engine", "events", "id", "provider", "request_id", "session_id", "tool", "usage",
        "warnings",
    )  # fmt: skip

    def __init__(
        self,
        *,
        id: str,
        provider: str = "",
        engine: Any = None,
        context: dict[str, Any] | None = None,
        session_id: str | None = None,
        request_id: str | None = None,
        usage: Usage | None = None,
        tool: Any = None,
    ) -> None:
        self.id = id
        self.provider = provider
        self.engine = engine
        self.context = context or {}
        self.session_id = session_id
        self.request_id = request_id
        self.usage = usage or Usage()
        self.tool = tool
        self.events: list[Any] = []
        self.warnings: list[str] = []

    def tell(self, data: Any) -> None:
        """Give a `raw_chunk` with this JSON data once the hook has returned."""
        self.events.append(json_value(data, "event"))

    def warn(self, text: str) -> None:
        """Put a line onto `Response.warnings` of this turn; a tool hook's are given as a `raw_chunk`."""
        self.warnings.append(text)


class BeforeModel(Protocol):
    def before_model(
        self, request: Request, ctx: HookContext
    ) -> Request | Response | Refuse | Awaitable[Request | Response | Refuse | None] | None: ...


class AfterModel(Protocol):
    def after_model(
        self, response: Response, ctx: HookContext
    ) -> Response | Refuse | Awaitable[Response | Refuse | None] | None: ...


class OnModelError(Protocol):
    def on_model_error(
        self, error: AllmError, request: Request, ctx: HookContext
    ) -> Request | Response | Refuse | Awaitable[Request | Response | Refuse | None] | None: ...


class BeforeTool(Protocol):
    def before_tool(self, call: ToolCall, ctx: HookContext) -> Any: ...


class AfterTool(Protocol):
    def after_tool(
        self, call: ToolCall, message: Message, ctx: HookContext
    ) -> Message | str | Refuse | Awaitable[Message | str | Refuse | None] | None: ...


Middleware = BeforeModel | AfterModel | OnModelError | BeforeTool | AfterTool
"""Any of the hooks."""

HOOKS: Final = {
    "before_model": ("request", "ctx"),
    "after_model": ("response", "ctx"),
    "on_model_error": ("error", "request", "ctx"),
    "before_tool": ("call", "ctx"),
    "after_tool": ("call", "message", "ctx"),
}
"""The hooks, and what each is called with."""


def check_middleware(stack: tuple[Any, ...]) -> None:
    """Raise `ConfigurationError` for what has no hook at all, a hook that cannot be called, or a class."""
    for item in stack:
        if isinstance(item, type):
            raise ConfigurationError(f"middleware takes objects: write {item.__name__}(...), not the class")
        hooks = {name: hook for name in HOOKS if callable(hook := getattr(item, name, None))}
        if not hooks:
            known = ", ".join(HOOKS)
            raise ConfigurationError(f"{type(item).__name__!r} is no middleware: it has none of {known}")
        for name, hook in hooks.items():
            if not takes(hook, len(HOOKS[name])):
                wanted = f"{name}({', '.join(HOOKS[name])})"
                raise ConfigurationError(f"{type(item).__name__}.{name} cannot be called as {wanted}")
