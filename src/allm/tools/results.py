"""What a handler returned, as the message that the model is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from allm.data.content import AudioPart, FilePart, Image, ImagePart, OpaquePart, Part, TextPart, ToolCall
from allm.data.failure import ErrorInfo
from allm.data.freeform import json_value
from allm.data.messages import Message
from allm.errors import ToolError, ValidationError
from allm.tools.base import Tool
from allm.tools.failures import error_message, failed, failure, sendable
from allm.tools.values import RESERVED_REASONS, AskUser, Halt, Outcome

ASK_USER_PLACEHOLDER: Final = "<awaiting user response>"

Content = str | tuple[Part, ...]

_BYTES: Final = (bytes, bytearray, memoryview)  # as text in base64 they would say nothing to a model
_RESULT_PARTS: Final = (TextPart, ImagePart, AudioPart, FilePart, OpaquePart)


def encode_result(value: Any) -> Content:
    """A handler's return as content: text as it is, images and parts as parts, all else as JSON.

    Raises `ToolError` with code `encoding_failed` for what JSON cannot hold: bytes, NaN, cycles, objects.
    """
    if isinstance(value, str):
        return sendable(value)
    if parts := _as_parts(value):
        return parts
    return _json(value)


def _as_parts(value: Any) -> tuple[Part, ...]:
    items = value if isinstance(value, list | tuple) else (value,)
    if not any(isinstance(item, Image) or type(item) in _RESULT_PARTS for item in items):
        return ()
    found: list[Part] = []
    for item in items:
        if isinstance(item, Image):
            found.append(ImagePart(item))
        elif isinstance(item, str):
            found.append(TextPart(sendable(item)))
        elif type(item) in _RESULT_PARTS:
            found.append(item)
        else:
            return ()
    return tuple(found)


def _json(value: Any) -> str:
    import json

    def dumped(plain: Any, ascii: bool) -> str:
        return json.dumps(plain, allow_nan=False, ensure_ascii=ascii, separators=(",", ":"))

    try:
        if callable(dump := getattr(value, "model_dump_json", None)) and not isinstance(value, type):
            return str(dump())
        plain = msgspec.to_builtins(value, str_keys=True, builtin_types=_BYTES, enc_hook=_plain)
        text = dumped(plain, ascii=False)
        return text if text == sendable(text) else dumped(plain, ascii=True)
    except Exception as error:  # the value's own code may raise anything
        raise _not_encodable(value, error) from error


def _not_encodable(value: Any, error: BaseException) -> ToolError:
    message = f"a result of type {type(value).__name__} cannot be encoded: {error}"
    return ToolError(ErrorInfo(reason="tool_failed", code="encoding_failed", message=message, phase="tool"))


def _plain(value: Any) -> Any:
    """What msgspec does not know, as something it does."""
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from os import PathLike, fspath

    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if isinstance(value, PathLike):
        return str(fspath(value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet) or type(value).__name__ in (
        "dict_keys",
        "dict_values",
        "range",
        "deque",
    ):
        return list(value)
    if callable(listed := getattr(value, "tolist", None)):  # arrays and their scalars
        return listed()
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    raise NotImplementedError(f"objects of type {type(value).__name__} are not JSON")


def outcome(
    tool: Tool, call: ToolCall, value: Any, encoder: Callable[[Any], Content] = encode_result
) -> Outcome:
    """What a handler returned, as data. Never raises: what cannot be used is an error outcome.

    `encoder` turns a value into text or parts.
    """
    if isinstance(value, AskUser):
        asked = Message("tool", ASK_USER_PLACEHOLDER, tool_call_id=call.id)
        return Outcome(message=asked, ask=value)
    try:
        if isinstance(value, Exception):  # returned, as one that is raised
            info = failed(tool.name, call, value)
            return Outcome(message=error_message(call, info), is_error=True, error=info)
        if isinstance(value, Halt):
            return _halted(tool, call, value, encoder)
        if hasattr(value, "__await__"):
            getattr(value, "close", _nothing)()  # a coroutine that nobody awaits would warn
            raise ToolError(failure(tool.name, call, "invalid_return", "the handler returned an awaitable"))
        content = _within(tool, call, _encoded(value, encoder))
        return Outcome(message=Message("tool", content, tool_call_id=call.id))
    except Exception as error:  # the encoder is the user's
        info = failed(tool.name, call, error)
        if not isinstance(error, ToolError):
            info = msgspec.structs.replace(info, code="encoding_failed")
        return Outcome(message=error_message(call, info), is_error=True, error=info)


def _halted(tool: Tool, call: ToolCall, halt: Halt, encoder: Callable[[Any], Content]) -> Outcome:
    reason: Any = halt.reason
    if not isinstance(reason, str) or not reason or reason in RESERVED_REASONS:
        why = f"Halt cannot have the reason {reason!r}: the word is reserved or empty"
        raise ToolError(failure(tool.name, call, "invalid_return", why, reserved_halt=str(reason)))
    content = _within(tool, call, _encoded(halt.value, encoder))
    message = Message("tool", content, tool_call_id=call.id)
    return Outcome(message=message, halt_reason=halt.reason, halt_value=_halt_data(halt.value, content))


def _halt_data(value: Any, content: Content) -> Any:
    """The value of a `Halt` as JSON data; the content where it has no such form."""
    if not isinstance(content, str):
        return msgspec.to_builtins(content)
    try:
        return content if isinstance(value, str) else json_value(msgspec.json.decode(_json(value)))
    except (ToolError, ValidationError, msgspec.DecodeError):
        return content


def _within(tool: Tool, call: ToolCall, content: Content) -> Content:
    """The content, unless it has more text than the tool may return."""
    texts = [content] if isinstance(content, str) else [p.text for p in content if type(p) is TextPart]
    size = sum([len(text.encode()) for text in texts])
    if size <= tool.max_result:
        return content
    message = (
        f"the result of {tool.name} has {size} bytes, more than the {tool.max_result} that it may have; "
        "ask for less"
    )
    raise ToolError(failure(tool.name, call, "result_too_large", message, size=size))


def _nothing() -> None: ...


def _encoded(value: Any, encoder: Callable[[Any], Content]) -> Content:
    content: Any = encoder(value)
    if isinstance(content, str):
        return sendable(content)
    if isinstance(content, list | tuple) and (parts := _as_parts(content)):
        return parts
    raise _not_encodable(content, TypeError("the encoder must give text or parts"))
