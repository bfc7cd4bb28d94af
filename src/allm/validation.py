"""What a value must satisfy before it is sent: pure, and every problem is found, not only the first.

A problem is a `(path, reason)` pair such as `("messages[2].content", "invalid_type")`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

from allm.data.content import Image, ImagePart, Part
from allm.data.messages import ROLES, Message, Thread
from allm.data.requests import Request, ResponseFormat, ToolSpec
from allm.errors import ValidationError

if TYPE_CHECKING:
    from allm.data.media import ImageRequest

Problem = tuple[str, str]

PART_TYPES: Final = frozenset(get_args(Part))
_UNGATED: Final = PART_TYPES - {ImagePart}  # nothing of them is looked at
RESERVED_NAMES: Final = frozenset({"auto", "none", "required"})  # words of tool_choice
IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/webp", "image/gif")
MAX_IMAGE: Final = 20 * 1024 * 1024  # bytes
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN: Final = 80  # characters of a name that is none
_FORMATS: Final = ("text", "json_object", "json_schema")
_TEXT_ROLES: Final = ("system", "user", "assistant")


def validate(value: Any) -> None:
    """Raise `ValidationError` with all problems of a message, tool, thread, session or request."""
    find = _FINDERS.get(type(value).__name__)
    if find is None:
        raise ValidationError.of("cannot be validated", ("", f"invalid_type {type(value).__name__}"))
    problems = find(value)
    if problems:
        raise ValidationError.of(f"invalid {type(value).__name__}", *problems)


def message_problems(message: Any, path: str = "") -> list[Problem]:
    """The problems of one message; empty where it may be sent."""
    if type(message) is not Message:
        return [(path, f"invalid_type{instead(message)}")]
    prefix = f"{path}." if path else ""
    problems = []
    role = message.role
    if role not in ROLES:
        problems.append((f"{prefix}role", "unknown"))
    problems += _content_problems(message, f"{prefix}content")
    if role == "tool" and not (isinstance(message.tool_call_id, str) and message.tool_call_id):
        problems.append((f"{prefix}tool_call_id", "required"))
    return problems


_MAKERS: Final = {"system": "system", "developer": "system", "assistant": "assistant", "tool": "tool_result"}


def instead(message: Any) -> str:
    """What to write for a dict in the style of OpenAI, as the end of a reason; nothing for anything else."""
    if not isinstance(message, Mapping):
        return ""
    maker = _MAKERS.get(str(message.get("role")), "user")
    return f": write allm.{maker}(...) for this {type(message).__name__}"


def _content_problems(message: Message, path: str) -> list[Problem]:
    content: Any = message.content
    if isinstance(content, str):
        return []
    if not isinstance(content, tuple):
        return [(path, "invalid_type")]
    problems = []
    for index, part in enumerate(content):
        if type(part) not in PART_TYPES:
            problems.append((f"{path}[{index}]", f"invalid_part_type: {type(part).__name__}"))
        elif type(part) is ImagePart:
            reason = _image_reason(part.image, message.role)
            if reason is not None:
                problems.append((f"{path}[{index}]", reason))
    return problems


def _image_reason(image: Image, role: str) -> str | None:
    """Why an image cannot be sent: the gate that all providers share. Files and links are not looked at;
    what a model drew itself passes."""
    if role == "system":
        return "image_in_system_message"
    if role == "assistant" or image.data is None:
        return None
    if len(image.data) > MAX_IMAGE:
        return "image_too_large"
    if image.mime_type is None:
        return "missing_mime_type"
    return None if image.mime_type in IMAGE_TYPES else "unsupported_image_format"


def messages_problems(messages: Any, path: str = "messages") -> list[Problem]:
    """The problems of many messages. Plain text passes with a look at types: this runs on every turn."""
    if not isinstance(messages, tuple | list):
        return [(path, "invalid_type")]
    problems: list[Problem] = []
    for index, message in enumerate(messages):
        if type(message) is Message and _is_simple(message.content):
            if message.role in _TEXT_ROLES:
                continue
            if message.role == "tool" and type(message.tool_call_id) is str and message.tool_call_id:
                continue
        problems += message_problems(message, f"{path}[{index}]")
    return problems


def _is_simple(content: Any) -> bool:
    """Whether content is text, or parts of which only the types count."""
    return type(content) is str or (type(content) is tuple and _UNGATED.issuperset(map(type, content)))


def tool_problems(tool: Any, path: str = "") -> list[Problem]:
    """The problems of one tool specification."""
    if not isinstance(tool, ToolSpec):
        return [(path, "invalid_type")]
    prefix = f"{path}." if path else ""
    name_reason = _name_reason(tool.name)
    problems = [(f"{prefix}name", name_reason)] if name_reason else []
    if not isinstance(tool.description, str):
        problems.append((f"{prefix}description", "not_a_string"))
    if not isinstance(tool.schema, dict):
        problems.append((f"{prefix}schema", "not_a_map"))
    if tool.timeout is not None and not _positive(tool.timeout):
        problems.append((f"{prefix}timeout", "must_be_positive"))
    if tool.on_interrupted not in ("report", "retry"):
        problems.append((f"{prefix}on_interrupted", "unknown"))
    return problems


def _name_reason(name: Any) -> str | None:
    if name == "" or name is None:
        return "empty"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"invalid_format: {repr(name)[:_SHOWN]}"
    return f"reserved_tool_name: {name!r}" if name in RESERVED_NAMES else None


def _tools_problems(tools: Any) -> list[Problem]:
    if not isinstance(tools, tuple | list):
        return [("tools", "invalid_type")]
    problems = [problem for i, tool in enumerate(tools) for problem in tool_problems(tool, f"tools[{i}]")]
    names = [tool.name for tool in tools if isinstance(tool, ToolSpec) and isinstance(tool.name, str)]
    if len(set(names)) != len(names):
        problems.append(("tools", "duplicate_name"))
    return problems


def thread_problems(thread: Any, path: str = "") -> list[Problem]:
    """The problems of a thread; an empty one is valid here and refused in a request."""
    if type(thread) is not Thread:
        return [(path or "thread", "invalid_type")]
    return messages_problems(thread.messages, f"{path}.messages" if path else "messages")


def session_problems(session: Any) -> list[Problem]:
    """The problems of a session: its thread, its status, and what each status needs."""
    from allm.data.sessions import STATUSES, Session

    if type(session) is not Session:
        return [("session", "invalid_type")]
    problems = []
    if session.status not in STATUSES:
        problems.append(("status", "unknown"))
    if session.status == "awaiting_user" and session.pending_question is None:
        problems.append(("pending_question", "required_for_status"))
    if session.status == "awaiting_tools" and not session.pending_tool_calls:
        problems.append(("pending_tool_calls", "required_for_status"))
    if session.status == "error" and session.error is None:
        problems.append(("error", "required_for_status"))
    if session.status == "interrupted" and session.progress is None:
        problems.append(("progress", "required_for_status"))
    return problems + thread_problems(session.thread, "thread")


def request_problems(request: Any) -> list[Problem]:
    """The problems of a request. A text message that is in order costs a type check or two."""
    if type(request) is not Request:
        return [("request", "invalid_type")]
    problems = messages_problems(request.messages) if request.messages else [("messages", "empty")]
    if request.tools:
        problems += _tools_problems(request.tools)
    return problems + _option_problems(request)


def _option_problems(request: Request) -> list[Problem]:
    problems = []
    if request.system is not None and not isinstance(request.system, str):
        problems.append(("system", "invalid_type"))
    if request.temperature is not None and not _between(request.temperature, 0, 2):
        problems.append(("temperature", "out_of_range"))
    if request.top_p is not None and not _between(request.top_p, 0, 1):
        problems.append(("top_p", "out_of_range"))
    if request.max_tokens is not None and not _positive_int(request.max_tokens):
        problems.append(("max_tokens", "must_be_positive"))
    if request.seed is not None and type(request.seed) is not int:
        problems.append(("seed", "must_be_an_integer"))
    if request.parallel_tool_calls is not None and type(request.parallel_tool_calls) is not bool:
        problems.append(("parallel_tool_calls", "must_be_true_or_false"))
    if request.stop and not _all_text(request.stop):
        problems.append(("stop", "must_be_text_or_a_list_of_it"))
    for name in ("reasoning", "prompt_cache"):
        value = getattr(request, name)
        if value is not None and not isinstance(value, str | dict):
            problems.append((name, "must_be_a_word_or_a_map"))
    problems += _tool_choice_problems(request)
    problems += [] if _fits(request.response_format) else [("response_format", "invalid_shape")]
    return problems


def _tool_choice_problems(request: Request) -> list[Problem]:
    choice = request.tool_choice
    if choice is None or isinstance(choice, dict):
        return []
    if not isinstance(choice, str):
        return [("tool_choice", "invalid_type")]
    if choice in RESERVED_NAMES:
        return []
    tools: Iterable[Any] = request.tools
    names = [tool.name for tool in tools if isinstance(tool, ToolSpec)]
    return [] if choice in names else [("tool_choice", "unknown_tool")]


def _fits(shape: Any) -> bool:
    if shape is None:
        return True
    if not isinstance(shape, ResponseFormat) or shape.type not in _FORMATS:
        return False
    if shape.type != "json_schema":
        return True
    name, schema = _any(shape.name), _any(shape.schema)
    named = isinstance(name, str) and _NAME.fullmatch(name) is not None
    return named and isinstance(schema, dict) and bool(schema)


def image_request_problems(request: Any) -> list[Problem]:
    """The problems of an image request."""
    from allm.data.media import ImageRequest

    if type(request) is not ImageRequest:
        return [("image_request", "invalid_type")]
    problems = []
    if str(request.operation) not in _IMAGE_COUNTS:
        problems.append(("operation", "unknown"))
    if not _positive_int(request.n):
        problems.append(("n", "must_be_positive"))
    if request.response_format not in ("binary", "base64", "url"):
        problems.append(("response_format", "unknown"))
    if request.size is not None and not _SIZE.fullmatch(str(request.size)):
        problems.append(("size", "invalid_shape"))
    for name in ("quality", "style", "background"):
        if getattr(request, name) is not None and not isinstance(getattr(request, name), str):
            problems.append((name, "not_a_string"))
    if request.mask is not None and not isinstance(request.mask, Image):
        problems.append(("mask", "invalid_image"))
    elif request.mask is not None and request.operation in ("generate", "variation"):
        problems.append(("mask", "not_allowed_for_operation"))
    return problems + _prompt_problems(request) + _input_image_problems(request)


_SIZE: Final = re.compile(r"auto|[1-9][0-9]*[x:][1-9][0-9]*|[1-9][0-9]*[kK]")
_IMAGE_COUNTS: Final = {"generate": (0,), "edit": range(1, 17), "variation": (1,)}


def _prompt_problems(request: ImageRequest) -> list[Problem]:
    if not isinstance(_any(request.prompt), str):
        return [("prompt", "not_a_string")]
    if request.operation == "variation":
        return [("prompt", "not_allowed_for_operation")] if request.prompt else []
    if str(request.operation) in _IMAGE_COUNTS and not request.prompt:
        return [("prompt", "required_for_operation")]
    return []


def _input_image_problems(request: ImageRequest) -> list[Problem]:
    images: Any = request.input_images
    if not isinstance(images, tuple | list):
        return [("input_images", "not_a_list")]
    problems = [
        (f"input_images[{index}]", "invalid_image")
        for index, image in enumerate(images)
        if not isinstance(image, Image)
    ]
    counts = _IMAGE_COUNTS.get(str(request.operation))
    if counts is not None and len(images) not in counts:
        reason = "must_be_empty" if counts == (0,) else "invalid_count"
        problems.append(("input_images", reason))
    return problems


def embedding_request_problems(request: Any) -> list[Problem]:
    """The problems of an embedding request."""
    from allm.data.media import EmbeddingRequest

    if type(request) is not EmbeddingRequest:
        return [("embedding_request", "invalid_type")]
    texts: Any = request.input
    if not isinstance(texts, tuple | list):
        return [("input", "invalid_shape")]
    problems = [] if texts else [("input", "empty")]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            problems.append((f"input[{index}]", "not_a_string"))
        elif not text:
            problems.append((f"input[{index}]", "empty"))
    if request.task_type is not None and not isinstance(request.task_type, str):
        problems.append(("task_type", "not_a_string"))
    if request.dimensions is not None and not _positive_int(request.dimensions):
        problems.append(("dimensions", "must_be_positive"))
    if request.truncate is not None and not isinstance(request.truncate, bool):
        problems.append(("truncate", "invalid_shape"))
    return problems


def _all_text(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(value, str) for value in values)


def _any(value: Any) -> Any:
    """`value` without its declared type: construction never checked it."""
    return value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _between(value: Any, low: float, high: float) -> bool:
    return _number(value) and low <= value <= high


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _positive_int(value: Any) -> bool:
    return type(value) is int and value > 0


# By name, so that a text call does not load the modules of sessions and media.
_FINDERS: Final[dict[str, Callable[[Any], list[Problem]]]] = {
    "Message": message_problems,
    "ToolSpec": tool_problems,
    "Thread": thread_problems,
    "Session": session_problems,
    "Request": request_problems,
    "ImageRequest": image_request_problems,
    "EmbeddingRequest": embedding_request_problems,
}
