"""Chat Completions of OpenAI and of every server that speaks its dialect: requests, answers, refusals.

What servers want differently is named in `Quirks`, as data; the rows are in
`allm.providers.compatible`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from allm.capabilities import capabilities_of
from allm.data.content import (
    AudioPart,
    FilePart,
    ImagePart,
    OpaquePart,
    Origin,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    base64_text,
)
from allm.data.messages import Message
from allm.data.requests import Request, ResponseFormat, ToolSpec
from allm.errors import UnsupportedError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest, KeyRule
from allm.providers.encoding import (
    HttpAdapter,
    arguments_text,
    body_of,
    merge_options,
    own_fields,
    said_in,
    stable,
)
from allm.providers.openai import (
    OPENAI_KEY,
    OPENAI_URL,
    cache_fields,
    is_openai,
    wire_headers,
    wire_url,
)

if TYPE_CHECKING:
    from allm.providers.decoding import AnswerDecoder
    from allm.providers.openai.chat_stream import ChatTurn


class Quirks(Struct, frozen=True, kw_only=True):
    """What a server wants that others do not.

    `max_tokens`: the field's name; `""` asks whether the address is OpenAI's own. `reasoning`: `effort`
    sends `reasoning_effort`, `object` sends `reasoning`. `replay`: where the server's own thinking goes
    back: `reasoning_content`, `reasoning`, `reasoning_details`, `thinking` (a content part), nowhere, or
    `same`, where it came from.
    `file_urls`: files may be links.
    """

    max_tokens: str = "max_tokens"
    stream_usage: bool = True
    reasoning: str = "effort"
    replay: str = ""
    seed: str = "seed"
    strict_tools: bool = True
    file_urls: bool = False
    cache_key: bool = False


OPENAI_QUIRKS = Quirks(max_tokens="", cache_key=True)


class OpenAIChat(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads."""

    name = "openai"
    base_url = OPENAI_URL
    key = OPENAI_KEY

    def __init__(
        self,
        name: str | None = None,
        base_url: str | None = None,
        key: KeyRule | UnsetType | None = UNSET,
        quirks: Quirks = OPENAI_QUIRKS,
    ) -> None:
        super().__init__(name, base_url, key)
        self.quirks = quirks

    def target(self, request: Request, ctx: CallContext) -> Origin:
        return Origin(self.name, "chat", request.model or "")

    def encode(self, request: Request, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for content that the wire has no place for."""
        _, items, warnings = said_in(self, request, ctx, request.system, self._messages)
        url = wire_url(self.name, ctx, self.base_url, "chat")
        first = [] if request.system is None else [{"role": "system", "content": request.system}]
        body: dict[str, Any] = {"model": request.model, "messages": [*first, *items]}
        self._tools(request, body, warnings)
        self._sampling(request, body, url)
        if request.response_format is not None and request.response_format.type != "text":
            body["response_format"] = self._response_format(request, request.response_format, warnings)
        if request.reasoning is not None:
            self._reasoning_option(request.reasoning, body)
        if request.prompt_cache is not None and self.quirks.cache_key:
            body.update(cache_fields(request.prompt_cache))
        if ctx.adapter_options.get("streaming", True):
            body["stream"] = True
            if self.quirks.stream_usage:
                body["stream_options"] = {"include_usage": True}
        merge_options(body, request.options)
        headers = wire_headers(ctx.adapter_options)
        return HttpRequest(url, body_of(body), headers, self.key, warnings=tuple(warnings))

    def decoder(self, request: Request, head: HttpHead, ctx: CallContext) -> Decoder:
        answer, turn = _readers()
        return answer(turn(self.name, request), head, ctx.limits)

    def _tools(self, request: Request, body: dict[str, Any], warnings: list[str]) -> None:
        if request.tools:
            body["tools"] = [self._tool(tool, warnings) for tool in request.tools]
            if request.parallel_tool_calls is not None:
                body["parallel_tool_calls"] = request.parallel_tool_calls
        choice = _tool_choice(request)
        if choice is not None:
            body["tool_choice"] = choice

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
            body[self._max_tokens(url)] = request.max_tokens

    def _max_tokens(self, url: str) -> str:
        return self.quirks.max_tokens or ("max_completion_tokens" if is_openai(url) else "max_tokens")

    def _response_format(
        self, request: Request, wanted: ResponseFormat, warnings: list[str]
    ) -> dict[str, Any]:
        known = capabilities_of(self.name, request.model or "", "chat").structured
        if wanted.type != "json_schema" or known == "json_object":
            return {"type": "json_object"}
        schema, strict = wanted.schema, False
        if wanted.strict:
            from allm.dialects import adapted

            made = adapted(wanted.schema, "openai")
            schema, strict = made.schema, made.strict
            warnings.extend(made.losses)
        return {
            "type": "json_schema",
            "json_schema": {"name": wanted.name, "schema": schema, "strict": strict},
        }

    def _reasoning_option(self, wanted: str | dict[str, Any], body: dict[str, Any]) -> None:
        """Chat Completions takes an effort and OpenAI's verbosity; a summary is nowhere to be asked for."""
        fields = {"effort": wanted} if isinstance(wanted, str) else wanted
        if self.quirks.reasoning == "object":
            body["reasoning"] = fields
            return
        for name, field in (("effort", "reasoning_effort"), ("verbosity", "verbosity")):
            if fields.get(name) is not None:
                body[field] = fields[name]

    def _tool(self, tool: ToolSpec, warnings: list[str]) -> dict[str, Any]:
        from allm.dialects import tool_schema

        function: dict[str, Any] = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        strict = tool.strict if self.quirks.strict_tools else None
        made = tool_schema(tool.schema, "openai", strict=bool(strict))
        function["parameters"] = made.schema
        if strict is not None:
            function["strict"] = made.strict
        warnings.extend([f"tool {tool.name}: {loss}" for loss in made.losses])
        return {"type": "function", "function": function, **own_fields(tool, self.name)}

    def _messages(self, messages: Iterable[Message]) -> list[dict[str, Any]]:
        return [self._message(message) for message in messages]

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
        if type(part) is OpaquePart:
            return stable(part.data)
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

    def _assistant(self, message: Message) -> dict[str, Any]:
        encoded: dict[str, Any] = {"role": "assistant"}
        if message.name:
            encoded["name"] = message.name
        if isinstance(message.content, str):
            encoded["content"] = message.content
            return encoded
        calls = [self._call(part) for part in message.content if type(part) is ToolCall]
        thoughts = [part for part in message.content if type(part) is ReasoningPart]
        sounds = [part.id for part in message.content if type(part) is AudioPart and part.id]
        said = (part for part in message.content if type(part) in (TextPart, OpaquePart))
        content = self._content(said)
        field = self._replay_field(thoughts)
        if thoughts and field == "thinking":
            content = [_thinking(part) for part in thoughts] + _as_items(content)
        elif thoughts and field:
            _replay(thoughts, field, encoded)
        encoded["content"] = content if content or not (calls or sounds) else None
        if sounds:
            encoded["audio"] = {"id": sounds[0]}
        if calls:
            encoded["tool_calls"] = calls
        return encoded

    def _replay_field(self, thoughts: list[ReasoningPart]) -> str:
        field = self.quirks.replay
        if field != "same" or not thoughts:
            return field
        data = thoughts[0].provider_data
        return "reasoning_details" if data.get("reasoning_details") else str(data.get("field") or "reasoning")

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.kind == "custom":
            custom = {"name": call.name, "input": call.raw_arguments or str(call.arguments.get("input", ""))}
            return {"id": call.id, "type": "custom", "custom": custom}
        encoded: dict[str, Any] = {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": arguments_text(call)},
        }
        extra = call.provider_data.get("extra_content")
        if extra:
            encoded["extra_content"] = stable(extra)
        return encoded


@cache
def _readers() -> tuple[type[AnswerDecoder], type[ChatTurn]]:
    """What reads answers, loaded with the first of them."""
    from allm.providers.decoding import AnswerDecoder
    from allm.providers.openai.chat_stream import ChatTurn

    return AnswerDecoder, ChatTurn


def _image(part: ImagePart) -> dict[str, Any]:
    image = {"url": part.image.url if part.image.url is not None else part.image.to_data_uri()}
    if part.detail != "auto":
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}


def _replay(thoughts: list[ReasoningPart], field: str, encoded: dict[str, Any]) -> None:
    """Put the server's own thinking back into its field."""
    if field == "reasoning_details":
        details = [d for part in thoughts for d in part.provider_data.get("reasoning_details", ())]
        if details:
            encoded["reasoning_details"] = stable(details)
            return
        field = "reasoning"
    text = "".join([part.text for part in thoughts])
    if text:
        encoded[field] = text


def _thinking(part: ReasoningPart) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": part.text}]}


def _as_items(content: str | list[Any]) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _tool_choice(request: Request) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    if isinstance(choice, dict) or choice is None:
        return choice
    if choice in ("auto", "none", "required"):
        return choice if request.tools else None
    return {"type": "function", "function": {"name": choice}}
