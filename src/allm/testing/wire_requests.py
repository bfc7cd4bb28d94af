"""Requests as services get them, read back into neutral ones: what a scripted server was asked.

Only what scripts look at is read; the rest is in `Asked.body`. A form is read as a JSON body would be,
its files as `Image`s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct

from allm.data.content import (
    Image,
    ImagePart,
    OpaquePart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    parsed_call,
)
from allm.data.media import EmbeddingRequest, ImageRequest
from allm.data.messages import Message, tool_result
from allm.data.requests import Request, ResponseFormat, ToolSpec
from allm.errors import UnsupportedError, ValidationError

_Body = dict[str, Any]


class Asked(Struct, frozen=True):
    """One request. `number` counts from 1; `body` is what was sent, `request` what it means."""

    number: int
    dialect: str
    path: str
    headers: dict[str, str]
    body: _Body
    request: Any  # Request | ImageRequest | EmbeddingRequest

    @property
    def model(self) -> str:
        return self.request.model or ""

    @property
    def streaming(self) -> bool:
        return ":stream" in self.path or self.body.get("stream") in (True, "true")


def read_request(number: int, path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    """What was asked; header names in lower case. Raises `UnsupportedError` where no dialect is
    spoken, and what the reading of a body raises that is not as it should be."""
    plain = path.partition("?")[0]
    for pattern, dialect, read in _ROUTES:
        found = pattern.search(plain)
        if found is not None:
            kind = headers.get("content-type", "")
            value = _form(kind, body) if kind.startswith("multipart/") else _object(body)
            value = {**value, **{name: unquote(text) for name, text in found.groupdict().items()}}
            return Asked(number, dialect, plain, dict(headers), value, read(value))
    raise UnsupportedError.of("nothing is served there", ("path", plain))


def _object(body: bytes) -> _Body:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValidationError.of("a request is a JSON object", ("body", type(value).__name__))
    return value


def _form(kind: str, body: bytes) -> _Body:
    """Fields of a form by name; one that may come several times, `image[]`, is a list."""
    boundary = kind.partition("boundary=")[2].strip('"').encode()
    fields: _Body = {}
    for piece in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        described = head.decode("utf-8", "replace")
        name = re.search(r'\bname="([^"]*)"', described)
        if name is None:
            raise ValidationError.of("a field of the form has no name", ("body", described.strip()))
        value = Image.from_bytes(content) if 'filename="' in described else content.decode()
        if name[1].endswith("[]"):
            fields.setdefault(name[1][:-2], []).append(value)
        else:
            fields[name[1]] = value
    return fields


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# -- Chat Completions ----------------------------------------------------------------------------------


def _chat(body: _Body) -> Request:
    messages = [_chat_message(item) for item in _list(body.get("messages"))]
    system = messages.pop(0).text if messages and messages[0].role == "system" else None
    return Request(
        model=body.get("model"),
        system=system,
        messages=tuple(messages),
        tools=tuple([_tool(item["function"], "parameters") for item in _list(body.get("tools"))]),
        max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
        temperature=body.get("temperature"),
        response_format=_format(body.get("response_format")),
    )


def _chat_message(item: _Body) -> Message:
    role, content = item["role"], item.get("content") or ""
    if role == "tool":
        return tool_result(item["tool_call_id"], _content(content))
    calls = [_chat_call(call) for call in _list(item.get("tool_calls"))]
    if calls:
        said: tuple[Part, ...] = (TextPart(content),) if content else ()
        return Message(role, (*said, *calls))
    return Message(role, _content(content))


def _chat_call(call: _Body) -> ToolCall:
    return parsed_call(call["id"], call["function"]["name"], call["function"]["arguments"])


def _content(content: Any) -> Any:
    return content if isinstance(content, str) else _said(map(_part, content))


def _said(parts: Iterable[Part]) -> Any:
    """The content of a message: text where it is nothing else, in every dialect."""
    content = tuple(parts)
    return content[0].text if len(content) == 1 and type(content[0]) is TextPart else content


def _part(item: _Body) -> Part:
    """A part of what a user says or a tool gives, in the dialects of OpenAI."""
    if "text" in item:
        return TextPart(item["text"])
    url = item.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    return ImagePart(_linked(url)) if isinstance(url, str) else OpaquePart(item)


def _linked(url: str) -> Image:
    return Image.from_data_uri(url) if url.startswith("data:") else Image.from_url(url)


def _tool(item: _Body, schema: str) -> ToolSpec:
    return ToolSpec(item["name"], item.get("description", ""), item.get(schema) or {})


def _format(item: _Body | None) -> ResponseFormat | None:
    """The format of the answer; its schema as it was sent, which Chat puts one level below."""
    if item is None or item["type"] == "text":
        return None
    named = item.get("json_schema", item)
    name, strict = named.get("name", "response"), bool(named.get("strict", True))
    return ResponseFormat(item["type"], name, named.get("schema") or {}, strict)


# -- Responses -----------------------------------------------------------------------------------------


def _responses(body: _Body) -> Request:
    given = body.get("input") or []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    tools = [item for item in _list(body.get("tools")) if item.get("type") == "function"]
    return Request(
        model=body.get("model"),
        system=body.get("instructions"),
        messages=_joined(map(_response_item, items)),
        tools=tuple([_tool(item, "parameters") for item in tools]),
        max_tokens=body.get("max_output_tokens"),
        temperature=body.get("temperature"),
        response_format=_format((body.get("text") or {}).get("format")),
    )


def _response_item(item: _Body) -> Message:
    match item.get("type", "message"):
        case "message":
            return Message(item["role"], _content(item["content"]))
        case "function_call":
            call = parsed_call(item["call_id"], item["name"], item["arguments"])
            return Message("assistant", (call,))
        case "function_call_output":
            return tool_result(item["call_id"], _content(item["output"]))
        case _:
            return Message("assistant", (OpaquePart(item),))


def _joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The messages, an assistant's turn that came in several items as one."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role == "assistant":
            joined[-1] = Message("assistant", (*joined[-1].parts, *message.parts))
        else:
            joined.append(message)
    return tuple(joined)


# -- Messages ------------------------------------------------------------------------------------------


def _messages(body: _Body) -> Request:
    system = body.get("system")
    if isinstance(system, list):
        system = "".join([block.get("text", "") for block in system])
    return Request(
        model=body.get("model"),
        system=system,
        messages=tuple([message for item in _list(body.get("messages")) for message in _turn(item)]),
        tools=tuple([_tool(item, "input_schema") for item in _list(body.get("tools")) if "name" in item]),
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature"),
        response_format=_format((body.get("output_config") or {}).get("format")),
    )


def _turn(item: _Body) -> list[Message]:
    """A turn as messages: each tool result is one of its own, before what is said beside it."""
    if isinstance(item["content"], str):
        return [Message(item["role"], item["content"])]
    results = [_result(block) for block in item["content"] if block["type"] == "tool_result"]
    said = _said(_block(block) for block in item["content"] if block["type"] != "tool_result")
    return [*results, Message(item["role"], said)] if said else results


def _result(block: _Body) -> Message:
    content = block.get("content", "")
    content = content if isinstance(content, str) else _said(map(_block, content))
    return tool_result(block["tool_use_id"], content, is_error=bool(block.get("is_error")))


def _block(block: _Body) -> Part:
    match block["type"]:
        case "text":
            return TextPart(block["text"])
        case "thinking":
            return ReasoningPart(block["thinking"], block.get("signature"))
        case "tool_use":
            return ToolCall(block["id"], block["name"], block["input"])
        case "image" if block["source"]["type"] == "base64":
            return ImagePart(Image.from_base64(block["source"]["data"], block["source"]["media_type"]))
        case "image" if block["source"]["type"] == "url":
            return ImagePart(Image.from_url(block["source"]["url"]))
        case _:
            return OpaquePart(block)


# -- generateContent -----------------------------------------------------------------------------------


def _generate(body: _Body) -> Request:
    config = body.get("generationConfig") or {}
    system = [part.get("text", "") for part in (body.get("systemInstruction") or {}).get("parts", ())]
    declared = [item for tool in _list(body.get("tools")) for item in tool.get("functionDeclarations", ())]
    schema = "parametersJsonSchema"
    return Request(
        model=body.get("model"),
        system="\n\n".join(system) or None,
        messages=tuple([message for item in _list(body.get("contents")) for message in _contents(item)]),
        tools=tuple([_tool(item, schema if schema in item else "parameters") for item in declared]),
        max_tokens=config.get("maxOutputTokens"),
        temperature=config.get("temperature"),
        response_format=_generated(config),
    )


def _generated(config: _Body) -> ResponseFormat | None:
    if config.get("responseMimeType") != "application/json":
        return None
    schema = config.get("responseJsonSchema", config.get("responseSchema"))
    return ResponseFormat("json_object") if schema is None else ResponseFormat("json_schema", schema=schema)


def _contents(item: _Body) -> list[Message]:
    role = "assistant" if item.get("role") == "model" else "user"
    results = [part["functionResponse"] for part in item["parts"] if "functionResponse" in part]
    said = _said(_gemini_part(part) for part in item["parts"] if "functionResponse" not in part)
    answers = [tool_result(result.get("id", result["name"]), _output(result)) for result in results]
    return [*answers, Message(role, said)] if said else answers


def _output(result: _Body) -> str:
    """What a tool gave: text that was wrapped for the wire, or a JSON object."""
    response = result.get("response") or {}
    text = response.get("output", response.get("error"))
    return text if isinstance(text, str) else json.dumps(response)


def _gemini_part(part: _Body) -> Part:
    if "text" in part:
        return ReasoningPart(part["text"]) if part.get("thought") else TextPart(part["text"])
    if "functionCall" in part:
        call = part["functionCall"]
        return ToolCall(call.get("id", call["name"]), call["name"], call.get("args") or {})
    if "inlineData" in part and part["inlineData"]["mimeType"].startswith("image/"):
        return ImagePart(Image.from_base64(part["inlineData"]["data"], part["inlineData"]["mimeType"]))
    return OpaquePart(part)


# -- Images, embeddings --------------------------------------------------------------------------------


def _image(operation: str) -> Callable[[_Body], ImageRequest]:
    def read(body: _Body) -> ImageRequest:
        images = body.get("image") or body.get("images") or []
        return ImageRequest(
            operation=operation,
            model=body.get("model"),
            prompt=body.get("prompt", ""),
            n=int(body.get("n", 1)),
            size=body.get("size"),
            quality=body.get("quality"),
            background=body.get("background"),
            input_images=tuple(map(_shown, images if isinstance(images, list) else [images])),
            mask=_shown(body["mask"]) if "mask" in body else None,
        )

    return read


def _shown(given: Image | _Body) -> Image:
    """A file of a form, or what a JSON body refers to."""
    return given if isinstance(given, Image) else _linked(given["image_url"])


def _embedding(body: _Body) -> EmbeddingRequest:
    given = body.get("input") or []
    return EmbeddingRequest(
        model=body.get("model"),
        input=(given,) if isinstance(given, str) else tuple(given),
        dimensions=body.get("dimensions"),
    )


def _batch(body: _Body) -> EmbeddingRequest:
    requests = _list(body.get("requests"))
    texts = ["".join([part.get("text", "") for part in item["content"]["parts"]]) for item in requests]
    first = requests[0] if requests else {}
    dimensions = first.get("outputDimensionality")
    return EmbeddingRequest(model=body.get("model"), input=tuple(texts), dimensions=dimensions)


_ROUTES: Final[tuple[tuple[re.Pattern[str], str, Callable[[_Body], Any]], ...]] = (
    (re.compile(r"/chat/completions$"), "chat", _chat),
    (re.compile(r"/responses$"), "responses", _responses),
    (re.compile(r"/messages$"), "messages", _messages),
    (re.compile(r"/models/(?P<model>[^/:]+):(?:g|streamG)enerateContent$"), "generate", _generate),
    (re.compile(r"/models/(?P<model>[^/:]+):batchEmbedContents$"), "batch_embeddings", _batch),
    (re.compile(r"/images/generations$"), "images", _image("generate")),
    (re.compile(r"/images/edits$"), "images", _image("edit")),
    (re.compile(r"/images/variations$"), "images", _image("variation")),
    (re.compile(r"/embeddings$"), "embeddings", _embedding),
)
"""Where each dialect is spoken, below any prefix; OpenAI's variations live on at compatible servers."""
