"""Tool executors and encoders of tool results: their subjects, and the cases that prove them.

An executor is proved by what it must not change: a chat with it is the chat without it, whatever a handler
does. The handlers are functions at the top of this module, so that one which runs them elsewhere finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, Final

from msgspec import Struct

from allm.data.codec import to_json
from allm.data.content import Image, TextPart
from allm.data.messages import Message, tool_result
from allm.testing.faces import FACES, on_face
from allm.testing.subjects import Case, need, same
from allm.tools import AskUser, Halt, Tool, ToolContext, is_async
from allm.validation import message_problems

SESSION: Final = "conformance"
_PIXEL: Final = Image.from_base64(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


class ExecutorSubject(Struct, frozen=True, kw_only=True):
    """A `ToolExecutor`. `make()` gives one that nobody has used; it must run plain and async handlers."""

    make: Callable[[], Any]


class EncoderSubject(Struct, frozen=True, kw_only=True):
    """A `ToolResultEncoder`. `make()` gives one that nobody has used. `values` are further values that it
    takes, beside what JSON can hold."""

    make: Callable[[], Any]
    values: tuple[Any, ...] = ()


def cases(subject: ExecutorSubject | EncoderSubject) -> Iterator[Case]:
    if isinstance(subject, EncoderSubject):
        return _encoder_cases(subject)
    return _executor_cases(subject)


# Executors


def gives(arguments: dict[str, Any]) -> Any:
    return arguments.get("value")


def gives_parts(arguments: dict[str, Any]) -> Any:
    return [TextPart("One pixel 4721:"), _PIXEL]


def asks(arguments: dict[str, Any]) -> Any:
    return AskUser("Which 4722?", ["a", "b"], urgent=True)


def halts(arguments: dict[str, Any]) -> Any:
    return Halt("enough", 4723)


def fails(arguments: dict[str, Any]) -> Any:
    raise ValueError("broken 4724")


def returns_no_json(arguments: dict[str, Any]) -> Any:
    return float("nan")


def changes(arguments: dict[str, Any]) -> Any:
    arguments["value"] = "changed 4725"
    return "done"


def tells(arguments: dict[str, Any], context: ToolContext) -> Any:
    assert context.call is not None
    return [
        context.session_id, context.request_id, context.run_id, context.context, context.call.id,
        context.idempotency_key,
    ]  # fmt: skip


async def gives_later(arguments: dict[str, Any]) -> Any:
    return arguments.get("value")


_VALUES: Final = {"value": {"town": "Oslo 4726", "list": [1, 2.5, None, True]}}

_HANDLERS: Final[dict[str, tuple[str, Callable[..., Any] | None, dict[str, Any]]]] = {
    "value": ("a value comes through bare", gives, _VALUES),
    "text": ("text comes through as it is", gives, {"value": "Sunny 4727"}),
    "nothing": ("so does None", gives, {}),
    "parts": ("parts and images come through", gives_parts, {}),
    "awaited": ("async handlers are run", gives_later, _VALUES),
    "context": ("a handler of two arguments gets the context", tells, {}),
    "arguments": ("a handler may change its arguments", changes, {"value": "asked 4728"}),
    "ask_user": ("a question stops the run", asks, {}),
    "halt": ("a handler may stop the run", halts, {}),
    "raises": ("an exception goes to the policy", fails, {}),
    "no_json": ("so does a value that cannot be told", returns_no_json, {}),
    "no_handler": ("so does a tool without a handler", None, {}),
}


def _executor_cases(subject: ExecutorSubject) -> Iterator[Case]:
    yield Case("execute", "the executor has the method", partial(_has_execute, subject))
    if not hasattr(subject.make(), "execute"):
        return
    for name, (about, handler, arguments) in _HANDLERS.items():
        for face in FACES:
            calls = [{"id": "call_1", "name": "tool", "arguments": arguments}]
            work = partial(_same_chat, subject, face, handler, calls)
            yield Case(f"{name}.{face}", about, work)
    for face in FACES:
        calls = [{"id": f"call_{n}", "name": "tool", "arguments": {"value": n}} for n in range(5)]
        work = partial(_same_chat, subject, face, gives, calls)
        yield Case(f"parallel.{face}", "each of several calls gets its own result", work)
        work = partial(_same_chat, subject, face, fails, calls[:1], on_tool_error="halt")
        yield Case(f"policy.{face}", "a failure halts where the policy says so", work)


def _has_execute(subject: ExecutorSubject) -> None:
    need(callable(getattr(subject.make(), "execute", None)), "it has no method execute(tool, call, context)")


def _same_chat(
    subject: ExecutorSubject,
    face: str,
    handler: Callable[..., Any] | None,
    calls: list[dict[str, Any]],
    **options: Any,
) -> None:
    """A chat with the executor is the one without it."""
    plain, run = (_chat(face, handler, calls, executor, **options) for executor in (None, subject.make()))
    same("what ended the chat", run.halted_reason, plain.halted_reason)
    same("the results", run.steps[0].tool_results, plain.steps[0].tool_results)
    same("the chat", run, plain)


def _chat(
    face: str, handler: Callable[..., Any] | None, calls: list[dict[str, Any]], executor: Any, **options: Any
) -> Any:
    from allm.engine import Engine
    from allm.providers.fake import FakeAdapter

    tool = Tool(name="tool", schema={"type": "object"}, handler=handler)
    script: list[list[dict[str, Any]]] = [[{"tool_call": call} for call in calls], [{"text": "Done"}]]
    engine = Engine("model", adapter=FakeAdapter(script), tools=[tool], tool_executor=executor)
    fixed = {"session_id": SESSION, "request_id": "request", "context": {"who": "Ann"}}
    return on_face(face, "chat", engine, "Hi", **fixed, **options)


# Encoders

_RESULTS: Final[dict[str, Any]] = {
    "text": "Sunny 4729, 21 °C, \U0001f327",
    "empty": "",
    "nothing": None,
    "number": 21.5,
    "flag": True,
    "list": [1, "two", None],
    "map": {"town": "Oslo", "days": [{"sun": True}]},
    "parts": [TextPart("One pixel:"), _PIXEL],
    "surrogate": "half a letter \ud83c",
}


def _encoder_cases(subject: EncoderSubject) -> Iterator[Case]:
    yield Case("encode", "the encoder has the method, and it is no async one", partial(_has_encode, subject))
    encode = getattr(subject.make(), "encode", None)
    if encode is None or is_async(encode):
        return
    given = {**_RESULTS, **{f"own_{index}": value for index, value in enumerate(subject.values)}}
    for name, value in given.items():
        about = "the result is text or parts, which can be stored and sent"
        yield Case(f"content.{name}", about, partial(_content, subject, deepcopy(value)))
        about = "the same value gives the same content, and is left as it was"
        yield Case(f"pure.{name}", about, partial(_pure, subject, deepcopy(value)))
    for face in FACES:
        about = "the model gets what the encoder gave"
        yield Case(f"engine.{face}", about, partial(_encoded_chat, subject, face))


def _has_encode(subject: EncoderSubject) -> None:
    encode = getattr(subject.make(), "encode", None)
    need(callable(encode), "it has no method encode(value)")
    need(not is_async(encode), "encode is async; it is called without awaiting")


def _message(subject: EncoderSubject, value: Any) -> Message:
    content = subject.make().encode(value)
    need(isinstance(content, str | tuple | list), f"the content is a {type(content).__name__}")
    return tool_result("call_1", content)


def _content(subject: EncoderSubject, value: Any) -> None:
    message = _message(subject, value)
    same("what is wrong with the message", message_problems(message), [])
    to_json(message)


def _pure(subject: EncoderSubject, value: Any) -> None:
    before, encoder = deepcopy(value), subject.make()
    first, second = encoder.encode(value), encoder.encode(deepcopy(value))
    same("the second encoding", second, first)
    same("the value afterwards", value, before)


def _encoded_chat(subject: EncoderSubject, face: str) -> None:
    from allm.engine import Engine
    from allm.providers.fake import FakeAdapter

    call = {"id": "call_1", "name": "tool", "arguments": _VALUES}
    adapter = FakeAdapter([[{"tool_call": call}], [{"text": "Done"}]])
    tool = Tool(name="tool", schema={"type": "object"}, handler=gives)
    engine = Engine("model", adapter=adapter, tools=[tool], tool_result_encoder=subject.make())
    result = on_face(face, "chat", engine, "Hi")
    same("what the model was told", result.steps[0].tool_results, (_message(subject, _VALUES["value"]),))
    same("what was sent", adapter.requests[1].messages[-1], result.steps[0].tool_results[0])
