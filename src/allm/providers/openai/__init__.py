"""OpenAI's two endpoints under one name: where a request goes, and what both endpoints share.

Responses is where OpenAI's models are asked, Chat Completions is what other servers speak. From
GPT-5.6 on function tools together with reasoning are refused on Chat Completions (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, UnsetType

from allm.data.content import AudioPart, Origin
from allm.data.requests import Request
from allm.errors import ConfigurationError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest, KeyRule
from allm.providers.encoding import HttpAdapter, address, headers_of

if TYPE_CHECKING:
    from allm.providers.openai.chat import OpenAIChat, Quirks
    from allm.providers.openai.responses import OpenAIResponses

OPENAI_URL: Final = "https://api.openai.com/v1"
OPENAI_KEY: Final = KeyRule("openai", ("OPENAI_API_KEY",))
PATHS: Final = {"responses": "/responses", "chat": "/chat/completions"}

# Fields of the body that only Chat Completions has.
_CHAT_FIELDS: Final = frozenset(
    {
        "audio", "frequency_penalty", "functions", "logit_bias", "logprobs", "modalities", "n", "prediction",
        "presence_penalty", "web_search_options",
    }
)  # fmt: skip


class OpenAI(HttpAdapter):
    """The adapter. Immutable but for the dialects it makes on first use; may be shared by threads.

    The endpoint is, in this order: `adapter_options["endpoint"]`, the end of the address, `default`;
    Chat Completions at an address that is not OpenAI's own, because that is what compatible servers
    speak; Chat Completions for sound and for fields that only it has; what the capability table says of
    the model; Responses. `quirks` are those of Chat Completions, `encrypted` is one of Responses.
    """

    name = "openai"
    base_url = OPENAI_URL
    key = OPENAI_KEY

    def __init__(
        self,
        name: str | None = None,
        base_url: str | None = None,
        key: KeyRule | UnsetType | None = UNSET,
        *,
        default: str = "",
        quirks: Quirks | None = None,
        encrypted: bool = True,
    ) -> None:
        super().__init__(name, base_url, key)
        self._default = default
        self._quirks = quirks
        self._encrypted = encrypted
        self._chat: OpenAIChat | None = None
        self._responses: OpenAIResponses | None = None

    def target(self, request: Request, ctx: CallContext) -> Origin:
        return Origin(self.name, self.endpoint(request, ctx), request.model or "")

    def encode(self, request: Request, ctx: CallContext) -> HttpRequest:
        return self._dialect(request, ctx).encode(request, ctx)

    def decoder(self, request: Request, head: HttpHead, ctx: CallContext) -> Decoder:
        return self._dialect(request, ctx).decoder(request, head, ctx)

    def endpoint(self, request: Request, ctx: CallContext) -> str:
        """`responses` or `chat`. Raises `ConfigurationError` where the option says something else."""
        asked = ctx.adapter_options.get("endpoint")
        if asked is not None:
            if asked not in PATHS:
                raise ConfigurationError(f"endpoint={asked!r}: {self.name} has 'responses' and 'chat'")
            return str(asked)
        url = str(ctx.base_url or ctx.adapter_options.get("base_url") or self.base_url)
        path = url.partition("?")[0].rstrip("/")
        for endpoint, end in PATHS.items():
            if path.endswith(end):
                return endpoint
        if self._default or not is_openai(path) or _is_for_chat(request):
            return self._default or "chat"
        from allm.capabilities import capabilities_of

        return capabilities_of(self.name, request.model or "").endpoint or "responses"

    def _dialect(self, request: Request, ctx: CallContext) -> OpenAIChat | OpenAIResponses:
        if self.endpoint(request, ctx) == "chat":
            return self._for_chat()
        return self._for_responses()

    def _for_chat(self) -> OpenAIChat:
        if self._chat is None:
            from allm.providers.openai.chat import OPENAI_QUIRKS, OpenAIChat

            self._chat = OpenAIChat(self.name, self.base_url, self.key, self._quirks or OPENAI_QUIRKS)
        return self._chat

    def _for_responses(self) -> OpenAIResponses:
        if self._responses is None:
            from allm.providers.openai.responses import OpenAIResponses

            self._responses = OpenAIResponses(self.name, self.base_url, self.key, encrypted=self._encrypted)
        return self._responses


def is_openai(url: str) -> bool:
    """Whether an address is OpenAI's own, of one region or of all."""
    host = url.partition("://")[2].partition("/")[0]
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def _is_for_chat(request: Request) -> bool:
    """Whether a request holds what only Chat Completions takes."""
    return not _CHAT_FIELDS.isdisjoint(request.options) or any(
        type(part) is AudioPart
        for message in request.messages
        if type(message.content) is tuple
        for part in message.content
    )


def wire_url(name: str, ctx: CallContext, base_url: str, endpoint: str) -> str:
    """The address of an endpoint; a base URL may already end in the path of either."""
    return api_url(name, ctx, base_url, PATHS[endpoint])


def api_url(name: str, ctx: CallContext, base_url: str, path: str) -> str:
    """The address of `path` at a server; a base URL may already end in it, or in the path of a chat."""
    base, query = address(name, ctx, base_url)
    for end in (path, *PATHS.values()):
        base = base.removesuffix(end)
    version = ctx.adapter_options.get("api_version")
    if version and "api-version=" not in query:
        query = f"{query}&api-version={version}" if query else f"api-version={version}"
    return f"{base}{path}" + (f"?{query}" if query else "")


def wire_headers(options: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a request, from the adapter options."""
    own = {"openai-organization": options.get("organization"), "openai-project": options.get("project")}
    return headers_of(options, bool(options.get("streaming", True)), own)


def cache_fields(wanted: str | dict[str, Any]) -> dict[str, Any]:
    """`prompt_cache` as fields of the body: a key, or a dict that goes out as it is but for the neutral
    names `key` and `retention` (`long` is 24 hours, `short` the default)."""
    if isinstance(wanted, str):
        return {"prompt_cache_key": wanted}
    fields = {name: value for name, value in wanted.items() if name not in ("key", "retention")}
    if wanted.get("key"):
        fields["prompt_cache_key"] = wanted["key"]
    if wanted.get("retention") == "long":
        fields["prompt_cache_retention"] = "24h"
    return fields
