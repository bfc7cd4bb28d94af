"""What the adapters of all dialects share: their base, and for encoding headers, bodies, stable bytes, media
as the wire takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from allm.data.content import Image, ToolCall, base64_text
from allm.data.failure import ErrorInfo
from allm.data.messages import Message
from allm.data.requests import Request, ToolSpec
from allm.errors import ConfigurationError, ValidationError
from allm.ports import CallContext, KeyRule

_CREDENTIALS: Final = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization"}
)

_BREAKS: Final = frozenset("\r\n\0")

VARIATION: Final = "Make a variation of this image: the same subject in the same style, composed anew."
"""The prompt that stands for a variation at providers that only edit."""


class HttpAdapter:
    """An adapter behind HTTP. `name`, `base_url` and `key` are those of the class where none are given: the
    same dialect may be spoken by another provider. `key=None` sends none. Immutable."""

    name: str
    base_url: str
    key: KeyRule | None

    def __init__(
        self, name: str | None = None, base_url: str | None = None, key: KeyRule | UnsetType | None = UNSET
    ) -> None:
        if name is not None:
            self.name = name
        if base_url is not None:
            self.base_url = base_url
        if not isinstance(key, UnsetType):
            self.key = key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorInfo:
        """What an answer with a status of refusal says."""
        from allm.providers.refusals import explained

        return explained(self.name, status, headers, body)


def address(name: str, ctx: CallContext, default: str) -> tuple[str, str]:
    """The base URL of a call as (address without a final slash, query).

    Raises `ConfigurationError` where neither the call nor the provider has one.
    """
    base_url = ctx.base_url or ctx.adapter_options.get("base_url") or default
    if not base_url:
        raise ConfigurationError(f"{name} has no address of its own: pass base_url='https://...'")
    path, _, query = str(base_url).partition("?")
    return path.rstrip("/"), query


class Said(NamedTuple):
    """A conversation in a body: the messages as the target takes them, these encoded, and what was lost.

    One of the `items` may stand for many, where they were encoded before.
    """

    messages: tuple[Message, ...]
    items: list[Any]
    warnings: list[str]


def said_in(
    adapter: Any,
    request: Request,
    ctx: CallContext,
    system: str | None,
    encode: Callable[[tuple[Message, ...]], list[Any]],
    answers: str = "",
) -> Said:
    """The conversation of a request, prepared (see `allm.prepare`) and encoded.

    `system` is what is sent as such; `encode` makes items of messages, and `answers` is the model's role in
    them where the dialect makes one turn of neighbours of one role.
    """
    messages = request.messages
    if len(messages) == 1 and type(messages[0].content) is str and messages[0].role != "tool":
        return Said(messages, encode(messages), [])  # text alone fits every target
    from allm.providers.conversation import Asked, conversation

    asked = Asked(adapter, adapter.target(request, ctx), system, request.tools, ctx.orphans, answers)
    return conversation(messages, asked, encode)


def headers_of(options: Mapping[str, Any], streaming: bool, own: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a JSON request: the dialect's `own` (empty ones left out), then the user's.

    Raises `ConfigurationError` for a header that carries a credential or holds a line break.
    """
    accept = "text/event-stream" if streaming else "application/json"
    headers = {"content-type": "application/json", "accept": accept}
    headers.update({name: str(value) for name, value in own.items() if value})
    for name, value in dict(options.get("headers") or {}).items():
        if str(name).lower() in _CREDENTIALS:
            raise ConfigurationError(f"the header {name!r} carries a credential: pass api_key= instead")
        headers[str(name).lower()] = str(value)
    for name, value in headers.items():
        if not _BREAKS.isdisjoint(name + value):
            raise ConfigurationError(f"the header {name!r} holds a line break")
    return headers


def body_of(value: Any) -> bytes:
    """A request body as JSON. Raises `ValidationError` for text that cannot be encoded."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise ValidationError.of("text that cannot be encoded", ("messages", "lone_surrogate")) from None


def merge_options(body: dict[str, Any], options: Mapping[str, Any]) -> None:
    """The user's own fields of the body: they come last and win; their `tools` are added to ours."""
    tools = body.get("tools")
    body.update(options)
    added = options.get("tools")
    if tools and isinstance(added, list):
        body["tools"] = [*tools, *added]


def stable(value: Any) -> msgspec.Raw:
    """The bytes of free-form data, the same whether or not it went through a stored session."""
    return msgspec.Raw(msgspec.json.encode(value, order="deterministic"))


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as JSON text: as the model wrote them where that is an object."""
    raw = call.raw_arguments
    if raw is None or call.arguments_invalid or not raw.lstrip().startswith("{"):
        return msgspec.json.encode(call.arguments, order="deterministic").decode()
    return raw


def arguments_object(call: ToolCall) -> msgspec.Raw:
    """The arguments of a call as a JSON object, in the model's own order and spelling where valid."""
    text = arguments_text(call)
    try:
        return msgspec.Raw(msgspec.json.decode(text, type=msgspec.Raw))
    except (msgspec.DecodeError, UnicodeError):
        return stable(call.arguments)


def own_fields(tool: ToolSpec, provider: str) -> dict[str, Any]:
    """What `tool.metadata[provider]` adds to the tool on that provider's wire."""
    fields = tool.metadata.get(provider)
    return dict(fields) if isinstance(fields, dict) else {}


def image_bytes(image: Image) -> tuple[str, str]:
    """Media type and base64 text of an image that holds its bytes.

    Raises `ValidationError` for one that is still a path: the caller's files are read before encoding.
    """
    if image.data is None:
        raise ValidationError.of("an image cannot be sent", ("image", "file_not_read"))
    if image.mime_type is None:
        raise ValidationError.of("an image cannot be sent", ("image", "missing_mime_type"))
    return image.mime_type, base64_text(image.data)
