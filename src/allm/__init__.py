"""allm: provider-neutral LLM execution and agentic loops.

>>> import allm
>>> engine = allm.Engine("openai:gpt-6-luna")
>>> allm.chat(engine, "Hi").text  # doctest: +SKIP

The names are resolved on first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"

_HOMES: Final = {
    "allm.calls": (
        "chat edit_image embed generate generate_image image_variations step stream stream_edit_image"
        " stream_embed stream_generate stream_generate_image stream_image_variations stream_step"
    ),
    "allm.drivers.stream": "AsyncStream Stream",
    "allm.engine": "Engine bind configure",
    "allm.approvals": "Decision approval_digest approve deny",
    "allm.tools": "AskUser Halt Tool ToolContext tool",
    "allm.folds": "ChatFold ResponseFold fold",
    "allm.retry": "RetryPolicy",
    "allm.limits": "Limits Timeouts",
    "allm.budget": "Budget",
    "allm.prices": "Price",
    "allm.middleware": "HookContext Middleware Refuse",
    "allm.compaction": "Compaction",
    "allm.providers": "register_provider",
    "allm.validation": "validate",
    "allm.preparing": "Report Target prepare",
    "allm.compact_tools": "compact",
    "allm.capabilities": "Capabilities capabilities_of register_capabilities unregister_capabilities",
    "allm.data.codec": "from_json from_msgpack to_json to_msgpack",
    "allm.data.content": (
        "AudioPart FilePart Image ImagePart OpaquePart Origin ReasoningPart TextPart ToolCall"
    ),
    "allm.data.media": (
        "EmbeddingRequest EmbeddingResponse ImageRequest ImageResponse MediaCompleted MediaProgress"
    ),
    "allm.data.messages": "Message Thread assistant system tool_result user",
    "allm.data.requests": "ModelRef Request ResponseFormat ToolSpec json_schema",
    "allm.data.responses": "ChatResult Response StepResult Usage",
    "allm.data.sessions": "Progress Session SessionTurn",
    "allm.loops.session": "SessionFold",
    "allm.data.failure": "ErrorInfo",
    "allm.data.events": (
        "AskUserRequested ChatCompleted Event MessageCompleted MessageStarted RawChunk ReasoningCompleted"
        " ReasoningDelta Retrying StepCompleted StreamFailed TextCompleted TextDelta ToolCallCompleted"
        " ToolCallDelta ToolCallStarted ToolExecutionCompleted ToolExecutionStarted ToolHalt"
        " ToolResultEncoded UsageReported"
    ),
    "allm.errors": (
        "AllmError AuthenticationError CancelledError ConfigurationError ConnectionFailedError"
        " ContentFilteredError ContextLengthError DeadlineExceededError InvalidRequestError"
        " LimitExceededError MissingKeyError NotFoundError OutputError OverloadedError"
        " PermissionDeniedError ProviderError QuotaExceededError RateLimitError RedirectRefusedError"
        " ServerError SessionError StreamInterruptedError TLSError ToolError TransportError"
        " UnknownOptionError UnknownProviderError UnsupportedError ValidationError WireError"
    ),
}
_HOME: Final = {name: module for module, names in _HOMES.items() for name in names.split()}
_MODULES: Final = ("aio", "errors", "keys", "lowlevel", "sessions", "testing")

__all__ = ["__version__", "close", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from allm import aio as aio
    from allm import errors as errors
    from allm import keys as keys
    from allm import lowlevel as lowlevel
    from allm import sessions as sessions
    from allm import testing as testing
    from allm.approvals import Decision as Decision
    from allm.approvals import approval_digest as approval_digest
    from allm.approvals import approve as approve
    from allm.approvals import deny as deny
    from allm.budget import Budget as Budget
    from allm.calls import chat as chat
    from allm.calls import edit_image as edit_image
    from allm.calls import embed as embed
    from allm.calls import generate as generate
    from allm.calls import generate_image as generate_image
    from allm.calls import image_variations as image_variations
    from allm.calls import step as step
    from allm.calls import stream as stream
    from allm.calls import stream_edit_image as stream_edit_image
    from allm.calls import stream_embed as stream_embed
    from allm.calls import stream_generate as stream_generate
    from allm.calls import stream_generate_image as stream_generate_image
    from allm.calls import stream_image_variations as stream_image_variations
    from allm.calls import stream_step as stream_step
    from allm.capabilities import Capabilities as Capabilities
    from allm.capabilities import capabilities_of as capabilities_of
    from allm.capabilities import register_capabilities as register_capabilities
    from allm.capabilities import unregister_capabilities as unregister_capabilities
    from allm.compact_tools import compact as compact
    from allm.compaction import Compaction as Compaction
    from allm.data.codec import from_json as from_json
    from allm.data.codec import from_msgpack as from_msgpack
    from allm.data.codec import to_json as to_json
    from allm.data.codec import to_msgpack as to_msgpack
    from allm.data.content import *
    from allm.data.events import *
    from allm.data.failure import ErrorInfo as ErrorInfo
    from allm.data.media import *
    from allm.data.messages import *
    from allm.data.requests import *
    from allm.data.responses import *
    from allm.data.sessions import *
    from allm.drivers.stream import AsyncStream as AsyncStream
    from allm.drivers.stream import Stream as Stream
    from allm.engine import Engine as Engine
    from allm.engine import bind as bind
    from allm.engine import configure as configure
    from allm.errors import *
    from allm.folds import ChatFold as ChatFold
    from allm.folds import ResponseFold as ResponseFold
    from allm.folds import fold as fold
    from allm.limits import Limits as Limits
    from allm.limits import Timeouts as Timeouts
    from allm.loops.session import SessionFold as SessionFold
    from allm.middleware import HookContext as HookContext
    from allm.middleware import Middleware as Middleware
    from allm.middleware import Refuse as Refuse
    from allm.preparing import Report as Report
    from allm.preparing import Target as Target
    from allm.preparing import prepare as prepare
    from allm.prices import Price as Price
    from allm.providers import register_provider as register_provider
    from allm.retry import RetryPolicy as RetryPolicy
    from allm.tools import AskUser as AskUser
    from allm.tools import Halt as Halt
    from allm.tools import Tool as Tool
    from allm.tools import ToolContext as ToolContext
    from allm.tools import tool as tool
    from allm.validation import validate as validate


def close() -> None:
    """Close the pooled connections of the blocking face."""
    import sys

    http = sys.modules.get("allm.drivers.http")
    if http is not None:
        http.close()


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"allm.{name}")
    else:
        raise AttributeError(_advice(name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _advice(name: str) -> str:
    verb = name.removeprefix("a")
    if name != verb and verb in _HOMES["allm.calls"].split():
        return f"module 'allm' has no attribute {name!r}: the awaited verb is allm.aio.{verb}"
    return f"module 'allm' has no attribute {name!r}"
