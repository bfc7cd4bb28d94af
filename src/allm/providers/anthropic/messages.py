"""Anthropic Messages: what is sent, and how a paused answer is continued.

Facts from the API pages and SDK types of the version `2026-10-21`, read 2026-11, and recorded traffic.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from allm.capabilities import Capabilities, capabilities_of
from allm.data.content import (
    FilePart,
    Image,
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
from allm.data.requests import Request, ToolSpec
from allm.data.responses import Response
from allm.dialects import adapted, tool_schema
from allm.errors import UnsupportedError, ValidationError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest, KeyRule
from allm.providers.encoding import (
    HttpAdapter,
    Said,
    address,
    arguments_object,
    body_of,
    headers_of,
    image_bytes,
    merge_options,
    own_fields,
    said_in,
    stable,
)

if TYPE_CHECKING:
    from allm.providers.anthropic.messages_stream import MessagesTurn
    from allm.providers.decoding import AnswerDecoder

ANTHROPIC_URL: Final = "https://api.anthropic.com"
ANTHROPIC_KEY: Final = KeyRule("anthropic", ("ANTHROPIC_API_KEY",), "x-api-key", "")
VERSION: Final = "2026-10-21"
"""The `anthropic-version` that is sent; versions before it take temperature, top_p and top_k."""

MAX_TOKENS: Final = 32_768
"""Tokens asked for where the request names no `max_tokens`, which the API demands; a model that writes
less is asked for as much as it writes, one whose limit is not known for `UNKNOWN_MAX_TOKENS`."""
UNKNOWN_MAX_TOKENS: Final = 8192

BUDGETS: Final = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 49_152,
}
"""Tokens of thinking for an effort, on models that are given a budget and no effort."""
_LEAST_BUDGET: Final = 1024

_JSON_ONLY: Final = "Answer with one JSON object and nothing else: no explanation, no code fence."
_ANSWER_TOOL: Final = "Gives the answer to the user: call it once, with the whole answer."
_TTL: Final = {"long": "1h", "short": "5m"}
_TEXT_TYPES: Final = ("application/json", "application/xml", "application/yaml", "application/javascript")


class Anthropic(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    `adapter_options`: `anthropic_version`, `beta` (a name or a list), `follow_pauses`, `headers`,
    `streaming`, `base_url`.
    """

    name = "anthropic"
    base_url = ANTHROPIC_URL
    key = ANTHROPIC_KEY

    def target(self, request: Request, ctx: CallContext) -> Origin:
        return Origin(self.name, "messages", request.model or "")

    def encode(self, request: Request, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for content that the wire has no place for."""
        options = ctx.adapter_options
        streaming = bool(options.get("streaming", True))
        version = str(options.get("anthropic_version") or VERSION)
        said = said_in(self, request, ctx, instructions(request), _turns, "assistant")
        draft = _Draft(self.name, request, self._known(request), said)
        body = draft.body(sampling=version < VERSION, streaming=streaming)
        beta = options.get("beta") or ()
        own = {
            "anthropic-version": version,
            "anthropic-beta": beta if isinstance(beta, str) else ",".join(map(str, beta)),
        }
        headers = headers_of(options, streaming, own)
        return HttpRequest(
            self._url(ctx), body_of(body), headers, self.key, warnings=tuple(dict.fromkeys(draft.warnings))
        )

    def decoder(self, request: Request, head: HttpHead, ctx: CallContext) -> Decoder:
        answer, turn = _readers()
        structured = structured_tool(request, self._known(request))
        return answer(turn(self.name, request, instructions(request), structured), head, ctx.limits)

    def resume(self, request: Request, response: Response, ctx: CallContext) -> Request | None:
        """The request that goes on where a paused answer stopped: the same, with the answer so far.

        `adapter_options={"follow_pauses": False}` leaves pauses to the caller.
        """
        from allm.providers.anthropic.messages_stream import container_kept

        said = response.message
        if response.finish_reason != "paused" or not said.parts:
            return None
        if not ctx.adapter_options.get("follow_pauses", True):
            return None
        container = container_kept(self.name, response.provider_data.get("container"))
        said = replace(said, metadata={**said.metadata, **container})
        before = request.messages
        if before and before[-1].role == "assistant":
            said = replace(said, content=(*before[-1].parts, *said.parts))
            before = before[:-1]
        return replace(request, messages=(*before, said))

    def _known(self, request: Request) -> Capabilities:
        return capabilities_of(self.name, request.model or "", "messages")

    def _url(self, ctx: CallContext) -> str:
        path, query = address(self.name, ctx, self.base_url)
        if not path.endswith("/v1/messages"):
            path += "/messages" if path.endswith("/v1") else "/v1/messages"
        return f"{path}?{query}" if query else path


@cache
def _readers() -> tuple[type[AnswerDecoder], type[MessagesTurn]]:
    """What reads answers, loaded with the first of them."""
    from allm.providers.anthropic.messages_stream import MessagesTurn
    from allm.providers.decoding import AnswerDecoder

    return AnswerDecoder, MessagesTurn


def instructions(request: Request) -> str | None:
    """The system text of a request; where any JSON object is wanted, with the words that ask for it."""
    wanted = request.response_format
    if wanted is None or wanted.type != "json_object":
        return request.system
    return f"{request.system}\n\n{_JSON_ONLY}" if request.system else _JSON_ONLY


def structured_tool(request: Request, known: Capabilities) -> str | None:
    """The name of the tool that stands in for structured output, for a model that has no better way."""
    wanted = request.response_format
    if wanted is None or wanted.type != "json_schema" or known.structured != "tool":
        return None
    taken = {tool.name for tool in request.tools}
    return "structured_output" if wanted.name in taken else wanted.name


class _Draft:
    """One body in the making; `warnings` say what was left out or changed."""

    def __init__(self, provider: str, request: Request, known: Capabilities, said: Said) -> None:
        self.provider = provider
        self.request = request
        self.known = known
        self.messages, self.turns, self.warnings = said

    def body(self, *, sampling: bool, streaming: bool) -> dict[str, Any]:
        """The whole body. `sampling`: this version of the API takes temperature and top_p."""
        request = self.request
        body: dict[str, Any] = {} if request.model is None else {"model": request.model}
        body["max_tokens"] = self._usual_max_tokens() if request.max_tokens is None else request.max_tokens
        system = _system(instructions(request), self.messages)
        if system:
            body["system"] = system
        body["messages"] = self.turns
        self._add_tools(body)
        self._add_format(body)
        self._add_sampling(body, sampling)
        self._add_reasoning(body)
        self._add_rest(body)
        if streaming:
            body["stream"] = True
        merge_options(body, request.options)
        return body

    def _usual_max_tokens(self) -> int:
        return min(self.known.max_output_tokens or UNKNOWN_MAX_TOKENS, MAX_TOKENS)

    def _add_tools(self, body: dict[str, Any]) -> None:
        request = self.request
        if request.tools:
            body["tools"] = [self._tool(tool) for tool in request.tools]
        if request.tools or request.options.get("tools"):
            choice = _tool_choice(request)
            if choice is not None:
                body["tool_choice"] = choice

    def _tool(self, tool: ToolSpec) -> dict[str, Any]:
        encoded: dict[str, Any] = {"name": tool.name}
        if tool.description:
            encoded["description"] = tool.description
        found = tool_schema(tool.schema, "anthropic", strict=bool(tool.strict))
        self.warnings += [f"the schema of the tool {tool.name!r}: {loss}" for loss in found.losses]
        encoded["input_schema"] = found.schema
        if tool.strict and found.strict:
            encoded["strict"] = True
        examples = [example for example in map(_example, tool.examples) if example is not None]
        if examples:
            encoded["input_examples"] = examples
        return {**encoded, **own_fields(tool, self.provider)}

    def _add_format(self, body: dict[str, Any]) -> None:
        wanted = self.request.response_format
        if wanted is None or wanted.type != "json_schema":
            return
        name = structured_tool(self.request, self.known)
        if name is not None:
            self._force(ToolSpec(name, _ANSWER_TOOL, wanted.schema), body)
            return
        found = adapted(wanted.schema, "anthropic")
        self.warnings += [f"the schema of the answer: {loss}" for loss in found.losses]
        body["output_config"] = {"format": {"type": "json_schema", "schema": found.schema}}

    def _force(self, tool: ToolSpec, body: dict[str, Any]) -> None:
        """Add the tool that stands in for structured output, and have the model call it, or one that the
        user forces or allows."""
        body["tools"] = [*body.get("tools", ()), self._tool(tool)]
        asked = body.get("tool_choice", {}).get("type")
        choice: dict[str, Any] = {"type": "tool", "name": tool.name}
        if asked == "tool":
            choice = body["tool_choice"]
        elif _reasons(self.request.reasoning):  # a forced choice is refused beside thinking
            self.warnings.append("a model that thinks cannot be held to the schema: it was asked to keep it")
            choice = {"type": "auto"}
        elif self.request.tools and asked != "none":
            choice = {"type": "any"}
        body["tool_choice"] = {**choice, "disable_parallel_tool_use": True}

    def _add_sampling(self, body: dict[str, Any], sampling: bool) -> None:
        request = self.request
        for name in ("temperature", "top_p"):
            value = getattr(request, name)
            if value is None:
                continue
            if sampling:
                body[name] = value
            else:
                hint = "adapter_options={'anthropic_version': '2023-06-01'} for a model that takes it"
                self.warnings.append(f"{name} is left out: this version of the API has none; {hint}")
        if request.seed is not None:
            self.warnings.append("seed is left out: the API has none")
        if request.stop:
            body["stop_sequences"] = list(request.stop)

    def _add_reasoning(self, body: dict[str, Any]) -> None:
        wanted = self.request.reasoning
        if wanted is None:
            return
        said = {"effort": wanted} if isinstance(wanted, str) else wanted
        effort = "low" if said.get("effort") == "minimal" else said.get("effort")
        thinking = self._thinking(said, body)
        if thinking is None:
            return
        display = said.get("display") or ("summarized" if said.get("summary") else None)
        if display is not None and thinking["type"] in ("adaptive", "enabled"):
            thinking["display"] = display
        body["thinking"] = thinking
        if effort not in (None, "none") and self.known.thinking != "budget":
            body.setdefault("output_config", {})["effort"] = effort

    def _thinking(self, said: dict[str, Any], body: dict[str, Any]) -> dict[str, Any] | None:
        """The `thinking` object; `None` where the model cannot do what was said of it."""
        kind, effort, budget = said.get("type"), said.get("effort"), said.get("budget_tokens")
        if kind is None and effort == "none":
            if self.known.thinking_off == "never":
                self.warnings.append("reasoning='none' is left out: this model always thinks")
                return None
            kind = self.known.thinking_off or "disabled"
        elif kind is None:
            kind = "enabled" if budget is not None or self.known.thinking == "budget" else "adaptive"
        if kind != "enabled":
            return {"type": kind}
        if budget is None or budget < 0:
            budget = BUDGETS.get(effort or "medium", BUDGETS["medium"])
        return {"type": "enabled", "budget_tokens": self._roomy(max(budget, _LEAST_BUDGET), body)}

    def _roomy(self, budget: int, body: dict[str, Any]) -> int:
        """The budget that fits: `max_tokens` counts the thinking too, so it grows until the answer keeps
        the room that was asked for; at the model's limit the budget gives way."""
        room: int = body["max_tokens"]
        if budget < room:
            return budget
        limit = self.known.max_output_tokens or budget + room
        body["max_tokens"] = min(budget + room, limit)
        if self.request.max_tokens is not None:
            self.warnings.append(f"max_tokens became {body['max_tokens']}: the thinking counts, too")
        return min(budget, limit - min(room, limit // 4))

    def _add_rest(self, body: dict[str, Any]) -> None:
        request = self.request
        if request.prompt_cache is not None:
            body["cache_control"] = _cache_control(request.prompt_cache)
        user = request.metadata.get("user_id")
        if user is not None:
            body["metadata"] = {"user_id": str(user)}
        container = _container(self.messages, self.provider)
        if container is not None:
            body["container"] = container


def _example(text: str) -> dict[str, Any] | None:
    """An example of a tool's arguments, where it is one JSON object."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return value if isinstance(value, dict) else None


def _tool_choice(request: Request) -> dict[str, Any] | None:
    choice = request.tool_choice
    if isinstance(choice, dict):
        return choice
    if choice == "none":
        return {"type": "none"}
    serial = {"disable_parallel_tool_use": True} if request.parallel_tool_calls is False else {}
    if choice in (None, "auto"):
        return {"type": "auto", **serial} if choice or serial else None
    return {"type": "any", **serial} if choice == "required" else {"type": "tool", "name": choice, **serial}


def _reasons(wanted: str | dict[str, Any] | None) -> bool:
    said = wanted.get("effort", "on") if isinstance(wanted, dict) else wanted
    return said not in (None, "none")


def _cache_control(wanted: str | dict[str, Any]) -> dict[str, Any]:
    """The mark of the last block that can be cached; the key of a cache is not known to this API."""
    said = wanted if isinstance(wanted, dict) else {}
    ttl = said.get("ttl") or _TTL.get(str(said.get("retention")))
    return {"type": "ephemeral", "ttl": ttl} if ttl else {"type": "ephemeral"}


def _container(messages: tuple[Message, ...], provider: str) -> str | None:
    """The container of the last turn, where that turn goes on in it: it was paused, or code that runs
    there waits for the results of the calls that it made."""
    last = next((message for message in reversed(messages) if message.role == "assistant"), None)
    kept = last.metadata.get(provider) if last is not None else None
    if last is None or not isinstance(kept, dict):
        return None
    waits = any(call.provider_data.get("caller") not in (None, _DIRECT) for call in last.tool_calls)
    return kept.get("container") if waits or last is messages[-1] else None


_DIRECT: Final = {"type": "direct"}


def _system(first: str | None, messages: tuple[Message, ...]) -> str | list[Any]:
    """All system text: one string with blank lines between, or blocks where one carries more than text."""
    said = [Message("system", first)] if first else []
    said += [message for message in messages if message.role == "system"]
    if any(part.provider_data for message in said for part in message.parts):
        return [block for message in said for block in _blocks(message.parts)]
    return "\n\n".join([message.text for message in said if message.text.strip()])


_ROLES: Final = {"user": "user", "tool": "user", "assistant": "assistant"}


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The messages as turns of user and assistant: neighbours of one role are one, results come first."""
    turns: list[dict[str, Any]] = []
    last = ""
    for message in messages:
        role = _ROLES.get(message.role)
        content = [_result(message)] if message.role == "tool" else _said(message)
        if role is None or not content:  # an empty message is refused
            continue
        if role == last:
            turns[-1]["content"] = _joined(turns[-1]["content"], content)
        else:
            turns.append({"role": role, "content": content})
            last = role
    for turn in turns:
        if type(turn["content"]) is list and turn["role"] == "user":
            turn["content"].sort(key=_is_no_result)
    if last == "assistant":
        turns[-1]["content"] = _trimmed(turns[-1]["content"])
    return turns


def _said(message: Message) -> str | list[Any]:
    """The content of a message; text alone is a string, blank text is none."""
    content = message.content
    if isinstance(content, str):
        return "" if content.isspace() else content
    blocks = _blocks(content)
    if len(blocks) == 1 and type(blocks[0]) is dict and blocks[0].keys() == {"type", "text"}:
        text: str = blocks[0]["text"]
        return text
    return blocks


def _joined(first: str | list[Any], second: str | list[Any]) -> list[Any]:
    blocks = _as_blocks(first)
    blocks += _as_blocks(second)
    return blocks


def _as_blocks(content: str | list[Any]) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _is_no_result(block: Any) -> bool:
    return not (type(block) is dict and block["type"] == "tool_result")


def _trimmed(content: str | list[Any]) -> str | list[Any]:
    """Blanks at the end of a begun answer are refused."""
    if isinstance(content, str):
        return content.rstrip()
    last = content[-1]
    if type(last) is dict and last["type"] == "text":
        return [*content[:-1], {**last, "text": last["text"].rstrip()}]
    return content


def _result(message: Message) -> dict[str, Any]:
    """A `tool_result` block. An error without a word is refused, so it gets one."""
    encoded: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.tool_call_id}
    content = message.content if isinstance(message.content, str) else _blocks(message.content)
    if message.is_error and (not content or (isinstance(content, str) and not content.strip())):
        content = "error"
    if content:
        encoded["content"] = content
    if message.is_error:
        encoded["is_error"] = True
    return encoded


def _blocks(parts: Iterable[Part]) -> list[Any]:
    return [block for block in map(_block, parts) if block is not None]


def _block(part: Part) -> Any:
    """A part as a block; `None` for what may not be sent: blank text, thinking without a signature."""
    if type(part) is TextPart:
        return {"type": "text", "text": part.text, **_own(part)} if part.text.strip() else None
    if type(part) is ToolCall:
        used = {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_object(part)}
        return {**used, **_own(part)}
    if type(part) is ReasoningPart:
        return _thought(part)
    if type(part) is OpaquePart:
        return stable(part.data)
    if type(part) is ImagePart:
        return {"type": "image", "source": _image_source(part.image), **_own(part)}
    if type(part) is FilePart:
        return _file(part)
    raise UnsupportedError.of("Anthropic takes no sound", ("audio", "not_supported: send its transcript"))


def _own(part: Part) -> dict[str, Any]:
    """What the part's block carries beside: citations, a caller, `cache_control` of the user's."""
    return {name: stable(value) for name, value in part.provider_data.items()}


def _thought(part: ReasoningPart) -> dict[str, Any] | None:
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    if part.signature:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return None


def _image_source(image: Image) -> dict[str, Any]:
    if image.url is not None:
        if not image.url.startswith("data:"):
            return {"type": "url", "url": image.url}
        image = Image.from_data_uri(image.url)
    media_type, data = image_bytes(image)
    return {"type": "base64", "media_type": media_type, "data": data}


def _file(part: FilePart) -> dict[str, Any]:
    """A document; a file of an image type is an image."""
    kind = "image" if (part.mime_type or "").startswith("image/") else "document"
    encoded = {"type": kind, "source": _file_source(part, kind)}
    if part.filename and kind == "document":
        encoded["title"] = part.filename
    return {**encoded, **_own(part)}


def _file_source(part: FilePart, kind: str) -> dict[str, Any]:
    if part.file_id is not None:
        return {"type": "file", "file_id": part.file_id}
    if part.url is not None:
        return {"type": "url", "url": part.url}
    if part.data is None:
        raise ValidationError.of("a file cannot be sent", ("file", "no_data_url_or_file_id"))
    media_type = part.mime_type or ("application/pdf" if part.data.startswith(b"%PDF-") else "text/plain")
    if kind == "image" or media_type == "application/pdf":
        return {"type": "base64", "media_type": media_type, "data": base64_text(part.data)}
    if media_type.startswith("text/") or media_type in _TEXT_TYPES:
        return {"type": "text", "media_type": "text/plain", "data": _text_of(part.data)}
    problem = ("file", f"unsupported_type {media_type}: send a PDF, an image or text")
    raise UnsupportedError.of("Anthropic cannot read this file", problem)


def _text_of(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        problem = ("file", "not_utf8: name its type in mime_type, or send text in UTF-8")
        raise ValidationError.of("a file cannot be sent", problem) from None
