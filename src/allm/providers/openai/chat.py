"""Chat Completions of OpenAI and of every server that speaks its dialect: requests, answers, refusals.

What servers want differently is named in `Quirks`, as data; the rows are in
`allm.providers.compatible`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from allm.data.content import (
    AudioPart,
    FilePart,
    ImagePart,
    OpaquePart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    base64_text,
)
from allm.data.failure import ErrorInfo
from allm.data.messages import Message
from allm.data.requests import Request, ResponseFormat, ToolSpec
from allm.errors import ConfigurationError, UnsupportedError, ValidationError
from allm.ports import CallContext, HttpHead, HttpRequest, KeyRule

if TYPE_CHECKING:
    from allm.providers.openai.chat_stream import ChatDecoder

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = KeyRule("openai", ("OPENAI_API_KEY",))
_REFUSED_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "cookie"})
_OLD_MODELS = ("gpt-3.5", "gpt-4", "chatgpt-4o", "ft:gpt-3.5", "ft:gpt-4")


class Quirks(Struct, frozen=True, kw_only=True):
    """What a server wants that others do not.

    `max_tokens`: the field's name; `""` asks the model's name. `reasoning`: `effort` sends
    `reasoning_effort`, `object` sends `reasoning`. `replay`: where the server's own thinking goes back:
    `reasoning_content`, `reasoning`, `reasoning_details`, `thinking` (a content part), or nowhere.
    `json_schema`: false where only `json_object` is known. `file_urls`: files may be links.
    """

    max_tokens: str = "max_tokens"
    stream_usage: bool = True
    reasoning: str = "effort"
    replay: str = ""
    seed: str = "seed"
    json_schema: bool = True
    strict_tools: bool = True
    file_urls: bool = False
    cache_key: bool = False


OPENAI_QUIRKS = Quirks(max_tokens="", cache_key=True)


class OpenAIChat:
    """The adapter. Immutable; one serves any number of calls on any number of threads."""

    __slots__ = ("base_url", "key", "name", "quirks")

    def __init__(
        self,
        name: str = "openai",
        base_url: str = OPENAI_URL,
        key: KeyRule = OPENAI_KEY,
        quirks: Quirks = OPENAI_QUIRKS,
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.key = key
        self.quirks = quirks

    def __repr__(self) -> str:
        return f"OpenAIChat({self.name!r})"

    def encode(self, request: Request, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for content that the wire has no place for."""
        options = ctx.adapter_options
        streaming = bool(options.get("streaming", True))
        url = self._url(ctx)
        body = self._body(request, streaming, url)
        try:
            data = msgspec.json.encode(body)
        except UnicodeEncodeError:
            raise ValidationError.of("text that cannot be encoded", ("messages", "lone_surrogate")) from None
        return HttpRequest(url, data, self._headers(options, streaming), self.key)

    def decoder(self, request: Request, head: HttpHead, ctx: CallContext) -> ChatDecoder:
        from allm.providers.openai.chat_stream import ChatDecoder

        return ChatDecoder(self.name, request, head, ctx.limits)

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorInfo:
        from allm.providers.openai.errors import explained

        return explained(self.name, status, headers, body)

    def _url(self, ctx: CallContext) -> str:
        base = ctx.base_url or ctx.adapter_options.get("base_url") or self.base_url
        if not base:
            raise ConfigurationError(f"{self.name} has no address of its own: pass base_url='https://...'")
        path, mark, query = str(base).partition("?")
        path = path.rstrip("/")
        if not path.endswith("/chat/completions"):
            path += "/chat/completions"
        version = ctx.adapter_options.get("api_version")
        if version and "api-version=" not in query:
            query, mark = f"{query}&api-version={version}" if query else f"api-version={version}", "?"
        return f"{path}{mark}{query}"

    def _headers(self, options: dict[str, Any], streaming: bool) -> dict[str, str]:
        accept = "text/event-stream" if streaming else "application/json"
        headers = {"content-type": "application/json", "accept": accept}
        for option, name in (("organization", "openai-organization"), ("project", "openai-project")):
            if options.get(option):
                headers[name] = str(options[option])
        for name, value in dict(options.get("headers") or {}).items():
            if str(name).lower() in _REFUSED_HEADERS:
                raise ConfigurationError(f"the header {name!r} carries a credential: pass api_key= instead")
            headers[str(name).lower()] = str(value)
        for name, value in headers.items():
            if any(letter in name + value for letter in "\r\n\0"):
                raise ConfigurationError(f"the header {name!r} holds a line break")
        return headers

    def _body(self, request: Request, streaming: bool, url: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": request.model, "messages": self._messages(request)}
        if request.tools:
            body["tools"] = [self._tool(tool) for tool in request.tools]
            if request.parallel_tool_calls is not None:
                body["parallel_tool_calls"] = request.parallel_tool_calls
        choice = _tool_choice(request)
        if choice is not None:
            body["tool_choice"] = choice
        self._sampling(request, body, url)
        if request.response_format is not None and request.response_format.type != "text":
            body["response_format"] = self._response_format(request.response_format)
        if request.reasoning is not None:
            self._reasoning_option(request.reasoning, body)
        if request.prompt_cache is not None and self.quirks.cache_key:
            cached = request.prompt_cache
            body.update({"prompt_cache_key": cached} if isinstance(cached, str) else cached)
        if streaming:
            body["stream"] = True
            if self.quirks.stream_usage:
                body["stream_options"] = {"include_usage": True}
        body.update(request.options)
        return body

    def _sampling(self, request: Request, body: dict[str, Any], url: str) -> None:
        for name in ("temperature", "top_p"):
            value = getattr(request, name)
            if value is not None:
                body[name] = value
        if request.stop:
            body["stop"] = list(request.stop)
        if request.seed is not None:
            body[self.quirks.seed] = request.seed
        given = "max_tokens" in request.options or "max_completion_tokens" in request.options
        if request.max_tokens is not None and not given:  # both at once are refused
            body[self._max_tokens(request.model or "", url)] = request.max_tokens

    def _max_tokens(self, model: str, url: str) -> str:
        if self.quirks.max_tokens:
            return self.quirks.max_tokens
        old = model.startswith(_OLD_MODELS) or not url.startswith("https://api.openai.com/")
        return "max_tokens" if old else "max_completion_tokens"

    def _response_format(self, wanted: ResponseFormat) -> dict[str, Any]:
        if wanted.type != "json_schema" or not self.quirks.json_schema:
            return {"type": "json_object"}
        schema = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
        return {"type": "json_schema", "json_schema": schema}

    def _reasoning_option(self, wanted: str | dict[str, Any], body: dict[str, Any]) -> None:
        if self.quirks.reasoning == "object":
            body["reasoning"] = {"effort": wanted} if isinstance(wanted, str) else wanted
        elif isinstance(wanted, str):
            body["reasoning_effort"] = wanted
        elif wanted.get("effort") is not None:
            body["reasoning_effort"] = wanted["effort"]

    def _tool(self, tool: ToolSpec) -> dict[str, Any]:
        function: dict[str, Any] = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        function["parameters"] = tool.schema or {"type": "object", "properties": {}}
        if tool.strict is not None and self.quirks.strict_tools:
            function["strict"] = tool.strict
        return {"type": "function", "function": function}

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        messages = [{"role": "system", "content": request.system}] if request.system is not None else []
        return [*messages, *(self._message(message) for message in request.messages)]

    def _message(self, message: Message) -> dict[str, Any]:
        content = message.content
        if message.role == "assistant":
            return self._assistant(message)
        encoded: dict[str, Any] = {"role": message.role}
        if message.role == "tool":
            encoded["tool_call_id"] = message.tool_call_id
        elif message.name:
            encoded["name"] = message.name
        encoded["content"] = content if isinstance(content, str) else self._content(content)
        return encoded

    def _content(self, parts: Iterable[Part]) -> str | list[Any]:
        """Parts as content: plain text where they are nothing else."""
        items = [item for item in map(self._item, parts) if item is not None]
        if all(type(item) is dict and item.keys() == {"type", "text"} for item in items):
            return "".join([item["text"] for item in items])
        return items

    def _item(self, part: Part) -> Any:
        if type(part) is TextPart:
            return {"type": "text", "text": part.text}
        if type(part) is ImagePart:
            return _image(part)
        if type(part) is AudioPart:
            sound = {"data": base64_text(part.data), "format": part.format}
            return {"type": "input_audio", "input_audio": sound}
        if type(part) is FilePart:
            return self._file(part)
        if type(part) is OpaquePart and self._mine(part):
            return _stable(part.data)
        return None

    def _file(self, part: FilePart) -> dict[str, Any]:
        file: dict[str, Any] = {}
        if part.file_id is not None:
            file["file_id"] = part.file_id
        elif part.data is not None:
            kind = part.mime_type or "application/pdf"
            file["filename"] = part.filename or "document"
            file["file_data"] = f"data:{kind};base64,{base64_text(part.data)}"
        elif part.url is not None and self.quirks.file_urls:
            file["filename"] = part.filename or "document"
            file["file_data"] = part.url
        else:
            raise UnsupportedError.of(f"{self.name} takes files by their bytes", ("file", "remote_source"))
        return {"type": "file", "file": file}

    def _mine(self, part: OpaquePart | ReasoningPart | ToolCall) -> bool:
        return part.origin is not None and part.origin.provider == self.name

    def _assistant(self, message: Message) -> dict[str, Any]:
        encoded: dict[str, Any] = {"role": "assistant"}
        if message.name:
            encoded["name"] = message.name
        if isinstance(message.content, str):
            encoded["content"] = message.content
            return encoded
        calls = [self._call(part) for part in message.content if type(part) is ToolCall]
        thoughts = [part for part in message.content if type(part) is ReasoningPart and self._mine(part)]
        sounds = [part.id for part in message.content if type(part) is AudioPart and part.id]
        said = (part for part in message.content if type(part) in (TextPart, OpaquePart))
        content = self._content(said)
        if thoughts and self.quirks.replay == "thinking":
            content = [_thinking(part) for part in thoughts] + _as_items(content)
        elif thoughts:
            self._replay(thoughts, encoded)
        encoded["content"] = content if content or not (calls or sounds) else None
        if sounds:
            encoded["audio"] = {"id": sounds[0]}
        if calls:
            encoded["tool_calls"] = calls
        return encoded

    def _replay(self, thoughts: list[ReasoningPart], encoded: dict[str, Any]) -> None:
        """Put the server's own thinking back where it came from."""
        field = self.quirks.replay
        if field == "reasoning_details":
            details = [d for part in thoughts for d in part.provider_data.get("reasoning_details", ())]
            if details:
                encoded["reasoning_details"] = _stable(details)
                return
            field = "reasoning"
        text = "".join([part.text for part in thoughts])
        if field and text:
            encoded[field] = text

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.kind == "custom":
            custom = {"name": call.name, "input": call.raw_arguments or str(call.arguments.get("input", ""))}
            return {"id": call.id, "type": "custom", "custom": custom}
        raw = call.raw_arguments
        if raw is None or call.arguments_invalid or not raw.lstrip().startswith("{"):
            raw = msgspec.json.encode(call.arguments, order="deterministic").decode()
        encoded: dict[str, Any] = {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": raw},
        }
        extra = call.provider_data.get("extra_content") if self._mine(call) else None
        if extra:
            encoded["extra_content"] = _stable(extra)
        return encoded


def _image(part: ImagePart) -> dict[str, Any]:
    image = {"url": part.image.url if part.image.url is not None else part.image.to_data_uri()}
    if part.detail != "auto":
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}


def _thinking(part: ReasoningPart) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": part.text}]}


def _as_items(content: str | list[Any]) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _stable(value: Any) -> msgspec.Raw:
    """The bytes of free-form data, the same whether or not it went through a stored session."""
    return msgspec.Raw(msgspec.json.encode(value, order="deterministic"))


def _tool_choice(request: Request) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    if isinstance(choice, dict) or choice is None:
        return choice
    if choice in ("auto", "none", "required"):
        return choice if request.tools else None
    return {"type": "function", "function": {"name": choice}}
