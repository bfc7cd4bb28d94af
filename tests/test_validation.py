"""Each rule by its path and reason; all problems at once; nothing for a value that is in order."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from allm import validation
from allm.data import content, failure, media, messages, requests, sessions
from allm.errors import ValidationError
from allm.validation import (
    embedding_request_problems,
    image_request_problems,
    message_problems,
    request_problems,
    session_problems,
    thread_problems,
    tool_problems,
)
from tests import strategies

HELLO = (messages.user("hi"),)
IMAGE = content.Image.from_url("https://example.com/a.png")
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
ANYTHING: Any = [None, 7, "x", {}, [], object(), [{}], {"a": 1}, -1, True, float("nan"), b"x"]


def request(**fields: Any) -> requests.Request:
    return requests.Request(**{"messages": HELLO, **fields})


@pytest.mark.parametrize(
    ("given_request", "problem"),
    [
        (requests.Request(), ("messages", "empty")),
        (request(messages=(7,)), ("messages[0]", "invalid_type")),
        (
            request(messages=({"role": "user"},)),
            ("messages[0]", "invalid_type: write allm.user(...) for this dict"),
        ),
        (request(messages=(*HELLO, messages.Message("critic", "x"))), ("messages[1].role", "unknown")),
        (request(messages=(messages.Message("tool", "x"),)), ("messages[0].tool_call_id", "required")),
        (request(tools=(requests.ToolSpec("a"),) * 2), ("tools", "duplicate_name")),
        (request(tools=(requests.ToolSpec("auto"),)), ("tools[0].name", "reserved_tool_name: 'auto'")),
        (request(tools=(object(),)), ("tools[0]", "invalid_type")),
        (request(tools=7), ("tools", "invalid_type")),
        (request(temperature=2.1), ("temperature", "out_of_range")),
        (request(temperature="1"), ("temperature", "out_of_range")),
        (request(temperature=float("nan")), ("temperature", "out_of_range")),
        (request(temperature=True), ("temperature", "out_of_range")),
        (request(top_p=-0.1), ("top_p", "out_of_range")),
        (request(max_tokens=0), ("max_tokens", "must_be_positive")),
        (request(max_tokens=1.5), ("max_tokens", "must_be_positive")),
        (request(tool_choice="missing"), ("tool_choice", "unknown_tool")),
        (request(tool_choice=7), ("tool_choice", "invalid_type")),
        (request(system=7), ("system", "invalid_type")),
        (request(response_format="json"), ("response_format", "invalid_shape")),
        (request(response_format=requests.ResponseFormat("xml")), ("response_format", "invalid_shape")),
        (request(response_format=requests.json_schema("", {"a": 1})), ("response_format", "invalid_shape")),
        (request(response_format=requests.json_schema("a", {})), ("response_format", "invalid_shape")),
    ],
)
def test_requests(given_request: requests.Request, problem: tuple[str, str]) -> None:
    assert request_problems(given_request) == [problem]


def test_a_request_in_order() -> None:
    tool = requests.ToolSpec("look_up", "Finds.", {"type": "object"}, timeout=3)
    assert (
        request_problems(
            request(
                messages=(messages.system("be kind"), *HELLO, messages.tool_result("c", "7")),
                tools=(tool,),
                tool_choice="look_up",
                temperature=2,
                top_p=1,
                max_tokens=1,
                response_format=requests.json_schema("answer", {"type": "object"}),
            )
        )
        == []
    )
    assert request_problems(request(tool_choice={"type": "any"})) == []
    assert request_problems(request(response_format=requests.ResponseFormat())) == []


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (messages.Message("critic"), ("role", "unknown")),
        (messages.Message(["user"]), ("role", "unknown")),  # type: ignore[arg-type]
        (messages.Message("user", None), ("content", "invalid_type")),  # type: ignore[arg-type]
        (messages.tool_result("c", {"a": 1}), ("content", "invalid_type")),  # type: ignore[dict-item]
        (messages.user(("x",)), ("content[0]", "invalid_part_type: str")),  # type: ignore[arg-type]
        (messages.Message("tool", "x"), ("tool_call_id", "required")),
        (messages.tool_result("", "x"), ("tool_call_id", "required")),
        (
            messages.Message("system", (content.TextPart("x"), content.ImagePart(IMAGE))),
            ("content[1]", "image_in_system_message"),
        ),
    ],
)
def test_messages(message: messages.Message, problem: tuple[str, str]) -> None:
    assert message_problems(message) == [problem]
    thread = messages.Thread((*HELLO, message))
    nested = (f"messages[1].{problem[0]}", problem[1])
    assert thread_problems(thread) == [nested]
    assert session_problems(sessions.Session(thread=thread)) == [(f"thread.{nested[0]}", problem[1])]


@SLOW
@given(strategies.parts)
def test_every_part_may_be_in_a_message(part: content.Part) -> None:
    assert message_problems(messages.assistant((part,))) == []


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (content.Image.from_bytes(b"BM"), "missing_mime_type"),
        (content.Image.from_bytes(b"BM", "image/bmp"), "unsupported_image_format"),
        (content.Image.from_bytes(b"\x89PNG\r\n\x1a\n"), None),
        (content.Image.from_bytes(b"RIFF\0\0\0\0WEBP"), None),
        (content.Image.from_bytes(bytes(20 * 1024 * 1024 + 1), "image/png"), "image_too_large"),
        (content.Image.from_url("https://example.org/a.bmp"), None),
        (content.Image.from_file("a.bmp"), None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_image_gate(image: content.Image, reason: str | None) -> None:
    expected = [("content[1]", reason)] if reason else []
    parts = (content.TextPart("x"), content.ImagePart(image))
    assert message_problems(messages.user(parts)) == expected
    assert message_problems(messages.tool_result("a", parts)) == expected
    assert message_problems(messages.assistant(parts)) == []


@pytest.mark.parametrize(
    ("tool", "problem"),
    [
        (requests.ToolSpec(""), ("name", "empty")),
        (requests.ToolSpec("a b"), ("name", "invalid_format: 'a b'")),
        (requests.ToolSpec("a\n"), ("name", "invalid_format: 'a\\n'")),
        (requests.ToolSpec("a" * 90), ("name", f"invalid_format: '{'a' * 79}")),
        (requests.ToolSpec("required"), ("name", "reserved_tool_name: 'required'")),
        (requests.ToolSpec("a", None), ("description", "not_a_string")),  # type: ignore[arg-type]
        (requests.ToolSpec("a", "", []), ("schema", "not_a_map")),  # type: ignore[arg-type]
        (requests.ToolSpec("a", timeout=0), ("timeout", "must_be_positive")),
        (requests.ToolSpec("a", on_interrupted="shrug"), ("on_interrupted", "unknown")),
    ],
)
def test_tools(tool: requests.ToolSpec, problem: tuple[str, str]) -> None:
    assert tool_problems(tool) == [problem]


@pytest.mark.parametrize(
    ("session", "problem"),
    [
        (sessions.Session(status="dreaming"), ("status", "unknown")),
        (sessions.Session(status="awaiting_user"), ("pending_question", "required_for_status")),
        (sessions.Session(status="awaiting_tools"), ("pending_tool_calls", "required_for_status")),
        (sessions.Session(status="error"), ("error", "required_for_status")),
        (sessions.Session(status="interrupted"), ("progress", "required_for_status")),
        (sessions.Session(thread=None), ("thread", "invalid_type")),  # type: ignore[arg-type]
    ],
)
def test_sessions(session: sessions.Session, problem: tuple[str, str]) -> None:
    assert session_problems(session) == [problem]


def test_sessions_in_order() -> None:
    call = content.ToolCall("c", "f")
    for session in (
        sessions.Session(),
        sessions.Session(status="awaiting_user", pending_question="why?"),
        sessions.Session(status="awaiting_tools", pending_tool_calls=(call,)),
        sessions.Session(status="error", error=failure.ErrorInfo(reason="timeout")),
    ):
        assert session_problems(session) == []


@pytest.mark.parametrize(
    ("image_request", "problem"),
    [
        (media.ImageRequest(operation="paint", prompt="x"), ("operation", "unknown")),
        (media.ImageRequest(prompt="x", n=0), ("n", "must_be_positive")),
        (media.ImageRequest(prompt="x", response_format="tiff"), ("response_format", "unknown")),
        (media.ImageRequest(prompt="x", size="big"), ("size", "invalid_shape")),
        (media.ImageRequest(), ("prompt", "required_for_operation")),
        (media.ImageRequest(prompt="x", input_images=(IMAGE,)), ("input_images", "must_be_empty")),
        (media.ImageRequest(operation="edit", prompt="x"), ("input_images", "invalid_count")),
        (
            media.ImageRequest(operation="variation", prompt="x", input_images=(IMAGE,)),
            ("prompt", "not_allowed_for_operation"),
        ),
    ],
)
def test_image_requests(image_request: media.ImageRequest, problem: tuple[str, str]) -> None:
    assert image_request_problems(image_request) == [problem]
    assert image_request_problems(media.ImageRequest(prompt="x", size="1024x1024")) == []


@pytest.mark.parametrize(
    ("embedding_request", "problem"),
    [
        (media.EmbeddingRequest(), ("input", "empty")),
        (media.EmbeddingRequest(input="x"), ("input", "invalid_shape")),  # type: ignore[arg-type]
        (media.EmbeddingRequest(input=("a", "")), ("input[1]", "empty")),
        (media.EmbeddingRequest(input=(7,)), ("input[0]", "not_a_string")),  # type: ignore[arg-type]
        (media.EmbeddingRequest(input=("a",), dimensions=0), ("dimensions", "must_be_positive")),
    ],
)
def test_embedding_requests(embedding_request: media.EmbeddingRequest, problem: tuple[str, str]) -> None:
    assert embedding_request_problems(embedding_request) == [problem]
    assert embedding_request_problems(media.EmbeddingRequest(input=("a",))) == []


def test_all_problems_are_collected() -> None:
    bad = requests.Request(
        messages=(messages.Message("critic", "x"), messages.Message("tool", "y")),
        tools=(requests.ToolSpec("a b"), requests.ToolSpec("")),
        temperature=9,
        max_tokens=-1,
    )
    with pytest.raises(ValidationError) as caught:
        validation.validate(bad)
    assert caught.value.errors == (
        ("messages[0].role", "unknown"),
        ("messages[1].tool_call_id", "required"),
        ("tools[0].name", "invalid_format: 'a b'"),
        ("tools[1].name", "empty"),
        ("temperature", "out_of_range"),
        ("max_tokens", "must_be_positive"),
    )
    assert all(path in str(caught.value) for path, _ in caught.value.errors)


def test_validate_says_nothing_of_what_is_in_order() -> None:
    for value in (HELLO[0], messages.Thread(HELLO), sessions.Session(), request(), requests.ToolSpec("a")):
        validation.validate(value)
    with pytest.raises(ValidationError, match="invalid_type int"):
        validation.validate(7)


@SLOW
@given(strategies.any_value)
def test_no_value_makes_the_finders_fail(value: Any) -> None:
    find = validation._FINDERS.get(type(value).__name__)
    for path, reason in find(value) if find else ():
        assert path
        assert reason


REQUIRED: dict[Any, dict[str, Any]] = {messages.Message: {"role": "user"}, requests.ToolSpec: {"name": "a"}}


@pytest.mark.parametrize("wrong", ANYTHING, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", list(validation._FINDERS))
def test_no_wrong_type_makes_the_finders_fail(name: str, wrong: Any) -> None:
    find = validation._FINDERS[name]
    cls: Any = next(struct for struct in strategies.STRUCTS if struct.__name__ == name)
    assert all(reason for _, reason in find(wrong))
    for name in cls.__struct_fields__:
        try:
            value = cls(**{**REQUIRED.get(cls, {}), name: wrong})
        except (TypeError, ValidationError):
            continue  # refused at construction
        assert all(reason for _, reason in find(value))


def test_a_long_thread_costs_a_type_check_each() -> None:
    long = request(messages=(messages.user("a"), messages.assistant("b")) * 1000)
    best = min(_seconds(long) for _ in range(5))
    assert best / 2000 < 1e-6


def _seconds(value: requests.Request) -> float:
    started = time.perf_counter()
    request_problems(value)
    return time.perf_counter() - started
