"""The Responses API of OpenAI and of the servers that speak it: requests and refusals.

Nothing is stored at the provider by default: `store` is false, the whole thread is sent, and reasoning
travels in it encrypted. With `adapter_options={"stateful": True}` the provider keeps the answers and only
what came after the last one is sent. Facts: API reference and recorded traffic, read in November 2026.

What the wire has no place for: sound, an error flag on tool results (the text says it), names of users,
`stop` and `seed`. A summary of the reasoning comes only where it is asked for,
`reasoning={"effort": "low", "summary": "auto"}`: OpenAI refuses that word to organisations that it has
not verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

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
from allm.errors import UnsupportedError, ValidationError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest, KeyRule
from allm.providers.encoding import (
    HttpAdapter,
    Said,
    arguments_text,
    body_of,
    merge_options,
    own_fields,
    said_in,
    stable,
)
from allm.providers.openai import OPENAI_KEY, OPENAI_URL, cache_fields, wire_headers, wire_url

_ENCRYPTED = "reasoning.encrypted_content"

if TYPE_CHECKING:
    from allm.providers.decoding import AnswerDecoder
    from allm.providers.openai.responses_stream import ResponsesTurn


class OpenAIResponses(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    `encrypted`: the server gives encrypted reasoning to models of which nothing is known, and takes the
    request for it.
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
        encrypted: bool = True,
    ) -> None:
        super().__init__(name, base_url, key)
        self.encrypted = encrypted

    def target(self, request: Request, ctx: CallContext) -> Origin:
        return Origin(self.name, "responses", request.model or "")

    def encode(self, request: Request, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for content that the wire has no place for."""
        said = said_in(self, request, ctx, request.system, _items)
        body = self._body(request, said, ctx.adapter_options)
        url = wire_url(self.name, ctx, self.base_url, "responses")
        headers = wire_headers(ctx.adapter_options)
        return HttpRequest(url, body_of(body), headers, self.key, warnings=tuple(said.warnings))

    def decoder(self, request: Request, head: HttpHead, ctx: CallContext) -> Decoder:
        answer, turn = _readers()
        stored = bool(request.options.get("store", ctx.adapter_options.get("stateful")))
        return answer(turn(self.name, request, stored=stored), head, ctx.limits)

    def _body(self, request: Request, said: Said, options: Mapping[str, Any]) -> dict[str, Any]:
        messages, items, warnings = said
        stateful = bool(options.get("stateful"))
        body: dict[str, Any] = {"model": request.model}
        if stateful:
            previous, new = self._continued(messages)
            body.update(previous)
            items = _items(new, _custom_calls(messages))
        body["input"] = items
        body["store"] = stateful or bool(request.options.get("background"))  # which needs it
        if request.system is not None:
            body["instructions"] = request.system
        self._tools(request, body, warnings)
        for name, value in (
            ("max_output_tokens", request.max_tokens),
            ("temperature", request.temperature),
            ("top_p", request.top_p),
        ):
            if value is not None:
                body[name] = value
        if request.response_format is not None:
            body["text"] = {"format": _format(request.response_format, warnings)}
        if request.reasoning is not None:
            _reasoning(request.reasoning, body)
        if request.prompt_cache is not None:
            body.update(cache_fields(request.prompt_cache))
        if self._reasons(request.model or ""):
            body["include"] = [_ENCRYPTED]
        if options.get("streaming", True):
            body["stream"] = True
        _merge(body, request.options)
        if [message for message in messages if message.name and message.role == "user"]:
            warnings.append("the names of users are not sent: Responses has no place for them")
        return body

    def _continued(self, messages: tuple[Message, ...]) -> tuple[dict[str, Any], tuple[Message, ...]]:
        """Where the provider's own state goes on, and the messages that it has not seen."""
        for index in range(len(messages) - 1, -1, -1):
            state = messages[index].metadata.get("provider_state")
            if (
                isinstance(state, dict)
                and (state.get("provider"), state.get("endpoint")) == (self.name, "responses")
                and state.get("response_id")
            ):
                return {"previous_response_id": state["response_id"]}, messages[index + 1 :]
        return {}, messages

    def _reasons(self, model: str) -> bool:
        """Whether to ask for encrypted reasoning: models that do not reason refuse the request."""
        for provider in (self.name, "openai"):  # a host of many vendors' models may say `openai/gpt-6-luna`
            known = capabilities_of(provider, model, "responses").reasons
            if known is not None:
                return known
        return self.encrypted

    def _tools(self, request: Request, body: dict[str, Any], warnings: list[str]) -> None:
        tools = {tool.name: self._tool(tool, warnings) for tool in request.tools}
        if tools:
            body["tools"] = list(tools.values())
            if request.parallel_tool_calls is not None:
                body["parallel_tool_calls"] = request.parallel_tool_calls
        choice = request.tool_choice
        if choice in ("auto", "none", "required"):
            if tools or request.options.get("tools"):
                body["tool_choice"] = choice
        elif isinstance(choice, str):
            kind = tools[choice]["type"] if choice in tools else "function"
            body["tool_choice"] = {"type": kind, "name": choice}
        elif choice is not None:
            body["tool_choice"] = choice

    def _tool(self, tool: ToolSpec, warnings: list[str]) -> dict[str, Any]:
        """A function whose arguments are free to leave out what is optional, unless `strict` is asked for;
        `metadata` of the tool may make it a tool of another kind, such as `custom`."""
        own = own_fields(tool, self.name)
        encoded: dict[str, Any] = {"type": "function", "name": tool.name}
        if tool.description:
            encoded["description"] = tool.description
        if own.get("type", "function") == "function":
            from allm.dialects import tool_schema

            made = tool_schema(tool.schema, "openai", strict=bool(tool.strict))
            encoded["parameters"] = made.schema
            encoded["strict"] = made.strict
            warnings.extend([f"tool {tool.name}: {loss}" for loss in made.losses])
        return {**encoded, **own}


@cache
def _readers() -> tuple[type[AnswerDecoder], type[ResponsesTurn]]:
    """What reads answers, loaded with the first of them."""
    from allm.providers.decoding import AnswerDecoder
    from allm.providers.openai.responses_stream import ResponsesTurn

    return AnswerDecoder, ResponsesTurn


def _merge(body: dict[str, Any], options: Mapping[str, Any]) -> None:
    """The user's own fields come last and win. `include` and `tools` are added to ours, `text` and
    `reasoning` win field by field, and `verbosity` may be given at the top."""
    given = dict(options)
    verbosity = given.pop("verbosity", None)
    if verbosity is not None:
        given["text"] = {"verbosity": verbosity, **_object(given.get("text"))}
    for name in ("text", "reasoning"):
        if isinstance(given.get(name), dict):
            given[name] = {**_object(body.get(name)), **given[name]}
    if isinstance(given.get("include"), list):
        given["include"] = list(dict.fromkeys([*body.get("include", ()), *given["include"]]))
    merge_options(body, given)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _format(wanted: ResponseFormat, warnings: list[str]) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    schema, strict = wanted.schema, False
    if wanted.strict:
        from allm.dialects import adapted

        made = adapted(wanted.schema, "openai")
        schema, strict = made.schema, made.strict
        warnings.extend(made.losses)
    return {"type": "json_schema", "name": wanted.name, "schema": schema, "strict": strict}


def _reasoning(wanted: str | dict[str, Any], body: dict[str, Any]) -> None:
    fields = {"effort": wanted} if isinstance(wanted, str) else dict(wanted)
    verbosity = fields.pop("verbosity", None)
    if verbosity is not None:
        body["text"] = {**body.get("text", {}), "verbosity": verbosity}
    if fields:
        body["reasoning"] = fields


def _custom_calls(messages: Iterable[Message]) -> set[str]:
    """Ids of the calls whose results have an item type of their own."""
    return {call.id for message in messages for call in message.tool_calls if call.kind == "custom"}


def _items(messages: Iterable[Message], custom: set[str] | None = None) -> list[Any]:
    """The messages as input items, in their order. `custom` where calls are not among them."""
    custom = _custom_calls(messages) if custom is None else custom
    items: list[Any] = []
    for message in messages:
        role, content = message.role, message.content
        if role == "tool":
            kind = "custom_tool_call_output" if message.tool_call_id in custom else "function_call_output"
            items.append({"type": kind, "call_id": message.tool_call_id, "output": _output(message)})
        elif type(content) is str:
            if content or role != "assistant":
                items.append({"role": role, "content": content})
        elif role == "assistant":
            _add_turn(message.parts, items)
        else:
            _add_said(role, message.parts, items)
    return items


def _output(message: Message) -> str | list[Any]:
    """A tool's result: text where it is nothing else."""
    content = message.content
    if isinstance(content, str) or all(type(part) is TextPart for part in content):
        return message.text
    return [_content(part) for part in content]


def _add_said(role: str, parts: Iterable[Part], items: list[Any]) -> None:
    """What the user says. An item that a user gives as it is (an approval, the output of a shell) stands
    between the messages, not in one."""
    content: list[Any] = []
    for part in parts:
        if type(part) is OpaquePart and not _is_content(part.data):
            _add_message(role, content, items)
            content = []
            items.append(stable(part.data))
        else:
            content.append(_content(part))
    _add_message(role, content, items)


def _add_message(role: str, content: list[Any], items: list[Any]) -> None:
    if content:
        items.append({"role": role, "content": content})


def _is_content(data: Any) -> bool:
    return str(_object(data).get("type", "")).startswith("input_")


def _content(part: Part) -> Any:
    """A part of what a user says or a tool returns; its own provider data (a cache breakpoint) goes along."""
    if type(part) is OpaquePart:
        return stable(part.data)
    own = {name: stable(value) for name, value in sorted(part.provider_data.items())}
    if type(part) is TextPart:
        return {"type": "input_text", "text": part.text, **own}
    if type(part) is ImagePart:
        image = part.image
        url = image.url if image.url is not None else image.to_data_uri()
        return {"type": "input_image", "image_url": url, "detail": part.detail, **own}
    if type(part) is FilePart:
        return {"type": "input_file", **_file(part), **own}
    if type(part) is AudioPart:
        text = "Responses takes no sound: leave adapter_options['endpoint'] out, or make it 'chat'"
        raise UnsupportedError.of(text, ("content", "audio_refused"))
    problem = ("content", f"{type(part).__name__}_is_not_for_input")
    raise ValidationError.of("content that cannot be sent", problem)


def _file(part: FilePart) -> dict[str, Any]:
    if part.file_id is not None:
        return {"file_id": part.file_id}
    if part.data is None:
        return {"file_url": part.url}
    kind = part.mime_type or "application/pdf"
    return {
        "filename": part.filename or "document",
        "file_data": f"data:{kind};base64,{base64_text(part.data)}",
    }


def _add_turn(parts: Iterable[Part], items: list[Any]) -> None:
    """An assistant's turn as the items it came in: texts of one item together, all else in its place.

    A picture that a tool of the provider made is part of that tool's item and not sent twice.
    """
    texts: list[TextPart] = []
    for part in parts:
        if type(part) is TextPart:
            if texts and _item_id(texts[0]) != _item_id(part):
                _add_text(texts, items)
                texts = []
            texts.append(part)
            continue
        item = _item(part)
        if item is not None:
            _add_text(texts, items)
            texts = []
            items.append(item)
    _add_text(texts, items)


def _item_id(part: Part) -> Any:
    return part.provider_data.get("item_id")


def _item(part: Part) -> Any:
    if type(part) is ToolCall:
        return _call(part)
    if type(part) is OpaquePart:
        return stable(part.data)
    if type(part) is ReasoningPart and "item" in part.provider_data:
        item = part.provider_data["item"]  # empty fields of an answer are refused in a request
        return stable({name: value for name, value in item.items() if value is not None})
    return None


def _add_text(texts: list[TextPart], items: list[Any]) -> None:
    """The texts of one message. Without an id of its own it is a plain message."""
    if not texts:
        return
    first = texts[0].provider_data
    phase = {"phase": first["phase"]} if "phase" in first else {}
    if "item_id" in first:
        content = [_spoken(part) for part in texts]
        own = {"type": "message", "id": first["item_id"], "status": "completed"}
        items.append({**own, "role": "assistant", "content": content, **phase})
        return
    text = "".join([part.provider_data.get("refusal") or part.text for part in texts])
    if text:
        items.append({"role": "assistant", "content": text, **phase})


def _spoken(part: TextPart) -> dict[str, Any]:
    refusal = part.provider_data.get("refusal")
    if refusal is not None:
        return {"type": "refusal", "refusal": refusal}
    return {"type": "output_text", "text": part.text, "annotations": []}


def _call(call: ToolCall) -> dict[str, Any]:
    data = call.provider_data
    own = {name: stable(value) for name, value in sorted(data.items()) if name != "item_id"}
    if "item_id" in data:
        own["id"] = data["item_id"]
    named = {"call_id": call.id, "name": call.name}
    if call.kind == "custom":
        text = call.raw_arguments or str(call.arguments.get("input", ""))
        return {"type": "custom_tool_call", **named, "input": text, **own}
    return {"type": "function_call", **named, "arguments": arguments_text(call), **own}
