"""What is sent to Anthropic Messages, how a pause is continued, and how refusals are read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from allm.data.codec import from_json, to_json
from allm.data.content import (
    AudioPart,
    FilePart,
    Image,
    ImagePart,
    OpaquePart,
    Origin,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from allm.data.messages import Message, Thread, assistant, system, tool_result, user
from allm.data.requests import Request, ResponseFormat, ToolSpec, json_schema
from allm.data.responses import Response
from allm.errors import ConfigurationError, UnsupportedError, ValidationError
from allm.ports import CallContext, HttpRequest, WireAdapter
from allm.preparing import fingerprint
from allm.providers import resolve
from allm.providers.anthropic.messages import BUDGETS, Anthropic

NEW = "claude-sonnet-5-5"  # thinks adaptively, binds its thinking, keeps schemas
OLD = "claude-sonnet-4-5"  # thinks by a budget
OLDER = "claude-sonnet-4-0"  # and keeps schemas by a forced tool only
OWN = Origin("anthropic", "messages")
TOOL = ToolSpec("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
PERSON = json_schema("person", {"type": "object", "properties": {"age": {"type": "integer", "minimum": 1}}})
USED = ToolCall("toolu_1", "add", {"a": 1}, '{"a":1}')


def encoded(ctx: CallContext | None = None, **fields: Any) -> HttpRequest:
    fields.setdefault("model", NEW)
    fields.setdefault("messages", (user("hi"),))
    return Anthropic().encode(Request(**fields), ctx or CallContext())


def sent(ctx: CallContext | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(encoded(ctx, **fields).body)
    return body


def turns(*messages: Message, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sent(messages=messages, **fields)["messages"]
    return found


def options(**given: Any) -> CallContext:
    return CallContext(adapter_options=given)


def test_smallest_request() -> None:
    request = encoded()
    assert msgspec.json.decode(request.body) == {
        "model": NEW,
        "max_tokens": 32768,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    }
    assert request.headers == {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "anthropic-version": "2026-10-21",
    }
    assert request.key is not None
    assert (request.key.variables, request.key.header, request.key.prefix) == (
        ("ANTHROPIC_API_KEY",),
        "x-api-key",
        "",
    )
    assert request.warnings == ()


def test_the_adapter() -> None:
    adapter = resolve("anthropic")
    assert isinstance(adapter, WireAdapter)
    assert isinstance(adapter, Anthropic)
    assert repr(adapter) == "Anthropic('anthropic')"
    assert adapter.target(Request(model=NEW), CallContext()) == Origin("anthropic", "messages", NEW)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (None, "https://api.anthropic.com/v1/messages"),
        ("http://host:9", "http://host:9/v1/messages"),
        ("http://host:9/", "http://host:9/v1/messages"),
        ("http://host:9/v1", "http://host:9/v1/messages"),
        ("http://host:9/v1/messages", "http://host:9/v1/messages"),
        ("http://host/anthropic?a=b", "http://host/anthropic/v1/messages?a=b"),
    ],
)
def test_url(base_url: str | None, url: str) -> None:
    assert encoded(CallContext(base_url=base_url)).url == url


def test_version_and_beta() -> None:
    headers = encoded(options(anthropic_version="2023-06-01", beta=["a", "b"], streaming=False)).headers
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["anthropic-beta"] == "a,b"
    assert headers["accept"] == "application/json"
    assert encoded(options(beta="a")).headers["anthropic-beta"] == "a"
    assert "stream" not in sent(options(streaming=False))
    with pytest.raises(ConfigurationError, match="line break"):
        encoded(options(beta="a\nb"))


def test_sampling_belongs_to_the_old_version() -> None:
    fields: dict[str, Any] = {"model": OLD, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ("x",)}
    old = sent(options(anthropic_version="2023-06-01"), **fields, options={"top_k": 5})
    assert (old["temperature"], old["top_p"], old["top_k"], old["stop_sequences"]) == (0.5, 0.9, 5, ["x"])
    request = encoded(**fields)
    assert msgspec.json.decode(request.body).keys() == {
        "model",
        "max_tokens",
        "messages",
        "stop_sequences",
        "stream",
    }
    assert [line.partition(" ")[0] for line in request.warnings] == ["temperature", "top_p", "seed"]
    assert "anthropic_version" in request.warnings[0]


def test_max_tokens() -> None:
    assert sent(max_tokens=7)["max_tokens"] == 7
    assert sent(max_tokens=7, options={"max_tokens": 9})["max_tokens"] == 9
    assert sent(model="claude-3-haiku-20240307")["max_tokens"] == 4096
    assert sent(model="somebody-elses")["max_tokens"] == 8192


def test_system() -> None:
    body = sent(system="one", messages=(user("a"), system("two"), assistant("b"), system("three"), user("c")))
    assert body["system"] == "one\n\ntwo\n\nthree"
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert "system" not in sent(messages=(system(" "), user("a")))


def test_system_with_cache_marks() -> None:
    marked = TextPart("two", provider_data={"cache_control": {"type": "ephemeral"}}, origin=OWN)
    body = sent(system="one", messages=(Message("system", (marked,)), user("a")))
    assert body["system"] == [
        {"type": "text", "text": "one"},
        {"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}},
    ]


def test_results_stand_first_in_one_user_message() -> None:
    found = turns(
        user("q"),
        assistant((TextPart("I add."), USED, ToolCall("toolu_2", "add", {"a": 2}))),
        tool_result("toolu_1", "1"),
        tool_result("toolu_2", "", is_error=True),
        user("and?"),
        user((TextPart("go on"), TextPart("  "))),
    )
    assert [turn["role"] for turn in found] == ["user", "assistant", "user"]
    assert found[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "error", "is_error": True},
        {"type": "text", "text": "and?"},
        {"type": "text", "text": "go on"},
    ]


def test_results_stand_before_what_the_user_said_at_once() -> None:
    reference = OpaquePart(data={"type": "container_upload", "file_id": "f"}, origin=OWN)
    found = turns(
        user("q"), assistant((USED,)), user((TextPart("wait"), reference)), tool_result("toolu_1", "1")
    )
    kinds = [block["type"] for block in found[2]["content"]]
    assert kinds == ["tool_result", "text", "container_upload"]


def test_neighbours_of_one_role_are_one_and_empty_ones_none() -> None:
    found = turns(user("a"), assistant(""), user("b"), assistant("c"), assistant((TextPart("d"),)))
    assert found == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
    ]


def test_a_begun_answer_does_not_end_in_blanks() -> None:
    assert turns(user("a"), assistant("b \n"))[-1] == {"role": "assistant", "content": "b"}
    begun = turns(user("a"), assistant("b"), assistant("c \n"))[-1]["content"]
    assert [block["text"] for block in begun] == ["b", "c"]
    assert turns(user("a"), assistant("b \n"), user("c"))[1]["content"] == "b \n"


def test_media() -> None:
    image = Image.from_bytes(b"png", "image/png")
    found = turns(
        user(
            (
                ImagePart(image=image, detail="low"),
                ImagePart(image=Image.from_url("https://host/a.png")),
                ImagePart(image=Image.from_url(image.to_data_uri())),
                FilePart(data=b"%PDF-1", filename="a.pdf"),
                FilePart(data=b"hi", mime_type="text/markdown"),
                FilePart(url="https://host/a.pdf"),
                FilePart(file_id="file_1"),
                FilePart(file_id="file_2", mime_type="image/png"),
            )
        )
    )[0]["content"]
    bytes_source = {"type": "base64", "media_type": "image/png", "data": "cG5n"}
    assert found == [
        {"type": "image", "source": bytes_source},
        {"type": "image", "source": {"type": "url", "url": "https://host/a.png"}},
        {"type": "image", "source": bytes_source},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}},
        {"type": "document", "source": {"type": "url", "url": "https://host/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_2"}},
    ]


def test_parts_carry_what_their_block_takes() -> None:
    data = {"citations": {"enabled": True}, "context": "c"}
    found = turns(user((FilePart(data=b"hi", provider_data=data, origin=OWN),)))[0]["content"]
    assert found[0] == {"type": "document", "source": found[0]["source"], **data}


@pytest.mark.parametrize(
    ("part", "error", "word"),
    [
        (AudioPart(data=b"x"), UnsupportedError, "audio"),
        (FilePart(data=b"x", mime_type="application/zip"), UnsupportedError, "application/zip"),
        (FilePart(data=b"\xff"), ValidationError, "not_utf8"),
        (FilePart(), ValidationError, "no_data_url_or_file_id"),
        (ImagePart(image=Image(path="a.png")), ValidationError, "file_not_read"),
    ],
)
def test_what_the_wire_has_no_place_for(part: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        encoded(messages=(user((part,)),))


def test_result_parts() -> None:
    reference = OpaquePart(data={"type": "tool_reference", "tool_name": "x"}, origin=OWN)
    image = ImagePart(image=Image.from_bytes(b"png", "image/png"))
    content = (TextPart("see"), image, FilePart(data=b"%PDF-", mime_type="application/pdf"), reference)
    found = turns(user("q"), assistant((USED,)), tool_result("toolu_1", content))[2]["content"][0]
    assert [block["type"] for block in found["content"]] == ["text", "image", "document", "tool_reference"]


def test_the_assistants_turn_goes_back_in_order_and_spelling() -> None:
    before = (user("q"),)
    origin = Origin("anthropic", "messages", NEW, fingerprint(before, None, (TOOL,)))
    search = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"q": "x"}}
    citation = {"type": "char_location", "cited_text": "y"}
    said = (
        ReasoningPart("Hm.", "c2ln", origin=origin),
        ReasoningPart(redacted="ZGF0YQ", origin=origin),
        ReasoningPart("", "c2ln", origin=origin),
        OpaquePart(data=search, origin=OWN),
        TextPart("So", provider_data={"citations": [citation]}, origin=OWN),
        TextPart("\n\n"),
        ToolCall(
            "toolu_1",
            "add",
            {"b": 1.5, "a": 1},
            '{ "b": 1.50, "a": 1}',
            provider_data={"caller": {"type": "direct"}},
            origin=OWN,
        ),
    )
    request = encoded(messages=(*before, assistant(said), tool_result("toolu_1", "ok")), tools=(TOOL,))
    assert request.warnings == ()
    assert b'"input":{ "b": 1.50, "a": 1}' in request.body
    assert msgspec.json.decode(request.body)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ"},
        {"type": "thinking", "thinking": "", "signature": "c2ln"},
        search,
        {"type": "text", "text": "So", "citations": [citation]},
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "add",
            "input": {"b": 1.5, "a": 1},
            "caller": {"type": "direct"},
        },
    ]


def test_thinking_of_another_conversation_stays_out() -> None:
    origin = Origin("anthropic", "messages", NEW, fingerprint((user("q"),)))
    said = assistant((ReasoningPart("Hm.", "c2ln", origin=origin), TextPart("So")))
    fitting = encoded(messages=(user("q"), said, user("?")))
    changed = encoded(messages=(user("other"), said, user("?")))
    reformed = encoded(messages=(user("q"), said, user("?")), response_format=ResponseFormat("json_object"))
    assert [b"c2ln" in each.body for each in (fitting, changed, reformed)] == [True, False, False]
    assert fitting.warnings == ()
    assert "the conversation before it was changed" in changed.warnings[0]


def test_a_stored_thread_sends_the_same_bytes() -> None:
    data = {"citations": [{"b": 1, "a": 2}]}
    call = ToolCall("toolu_1", "add", {"b": 1, "a": {"d": 1, "c": 2}})
    item = OpaquePart(data={"type": "x", "b": 1, "a": 2}, origin=OWN)
    thread = Thread(
        (
            user("q"),
            assistant((TextPart("t", provider_data=data, origin=OWN), item, call)),
            tool_result("toolu_1", "1"),
        )
    )
    again = from_json(to_json(thread), Thread)
    assert encoded(messages=again.messages).body == encoded(messages=thread.messages).body


def test_a_call_with_broken_arguments() -> None:
    broken = ToolCall("toolu_1", "add", {}, '{"a": ', True)
    assert turns(user("q"), assistant((broken,)), tool_result("toolu_1", "?"))[1]["content"][0]["input"] == {}


def test_tools() -> None:
    strict = ToolSpec("strict", "", PERSON.schema, strict=True)
    marked = ToolSpec(
        "marked", metadata={"anthropic": {"defer_loading": True}}, examples=('{"a": 1}', "add(1)")
    )
    hosted = {"type": "web_search_20260318", "name": "web_search"}
    request = encoded(tools=(TOOL, strict, marked), options={"tools": [hosted]})
    assert msgspec.json.decode(request.body)["tools"] == [
        {"name": "add", "description": "Adds.", "input_schema": TOOL.schema},
        {
            "name": "strict",
            "input_schema": {
                "type": "object",
                "properties": {"age": {"type": "integer", "description": "(minimum: 1)"}},
                "additionalProperties": False,
            },
            "strict": True,
        },
        {
            "name": "marked",
            "input_schema": {"type": "object", "properties": {}},
            "input_examples": [{"a": 1}],
            "defer_loading": True,
        },
        hosted,
    ]
    assert [line.partition(": ")[0] for line in request.warnings] == ["the schema of the tool 'strict'"]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("add", False, {"type": "tool", "name": "add", "disable_parallel_tool_use": True}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (None, True, None),
        ({"type": "any"}, None, {"type": "any"}),
    ],
)
def test_tool_choice(choice: Any, parallel: bool | None, expected: Any) -> None:
    body = sent(tools=(TOOL,), tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == expected
    assert "tool_choice" not in sent(tool_choice=choice, parallel_tool_calls=parallel)


def test_structured_output() -> None:
    request = encoded(response_format=PERSON)
    assert msgspec.json.decode(request.body)["output_config"] == {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {"age": {"type": "integer", "description": "(minimum: 1)"}},
                "additionalProperties": False,
            },
        }
    }
    assert "the schema of the answer: #/properties/age" in request.warnings[0]


def test_structured_output_by_a_forced_tool() -> None:
    forced = {"type": "tool", "name": "person", "disable_parallel_tool_use": True}
    body = sent(model=OLDER, response_format=PERSON)
    assert (body["tools"][0]["name"], body["tool_choice"]) == ("person", forced)
    assert "output_config" not in body
    taken = sent(model=OLDER, response_format=PERSON, tools=(ToolSpec("person"),), tool_choice="auto")
    assert [tool["name"] for tool in taken["tools"]] == ["person", "structured_output"]
    assert taken["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}


@pytest.mark.parametrize(("choice", "name"), [("none", "person"), ("add", "add")])
def test_the_users_choice_comes_before_the_forced_tool(choice: str, name: str) -> None:
    body = sent(model=OLDER, response_format=PERSON, tools=(TOOL,), tool_choice=choice)
    assert body["tool_choice"] == {"type": "tool", "name": name, "disable_parallel_tool_use": True}


def test_structured_output_by_a_tool_beside_thinking() -> None:
    request = encoded(model=OLDER, response_format=PERSON, reasoning="low")
    body = msgspec.json.decode(request.body)
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert "cannot be held to the schema" in request.warnings[0]


def test_a_json_object_is_asked_for_in_words() -> None:
    wanted = ResponseFormat("json_object")
    assert sent(response_format=wanted)["system"].startswith("Answer with one JSON object")
    assert sent(system="Be brief.", response_format=wanted)["system"].startswith("Be brief.\n\nAnswer with")


@pytest.mark.parametrize(
    ("model", "wanted", "thinking", "effort"),
    [
        (NEW, None, None, None),
        (NEW, "high", {"type": "adaptive"}, "high"),
        (NEW, "minimal", {"type": "adaptive"}, "low"),
        (NEW, "none", {"type": "between_tools"}, None),
        (NEW, {"effort": "max", "summary": "auto"}, {"type": "adaptive", "display": "summarized"}, "max"),
        (NEW, {"display": "omitted"}, {"type": "adaptive", "display": "omitted"}, None),
        (NEW, {"type": "disabled", "effort": "low"}, {"type": "disabled"}, "low"),
        ("claude-opus-5", "none", {"type": "disabled"}, None),
        ("claude-opus-5-5", "none", None, None),
        ("claude-opus-4-6", {"budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}, None),
        (OLD, "none", {"type": "disabled"}, None),
        (OLD, "medium", {"type": "enabled", "budget_tokens": BUDGETS["medium"]}, None),
        (OLD, {"summary": "auto"}, {"type": "enabled", "budget_tokens": 8192, "display": "summarized"}, None),
        (OLD, {"budget_tokens": 5}, {"type": "enabled", "budget_tokens": 1024}, None),
        (OLD, {"budget_tokens": -1}, {"type": "enabled", "budget_tokens": 8192}, None),
        ("unknown", "high", {"type": "adaptive"}, "high"),
    ],
)
def test_reasoning(model: str, wanted: Any, thinking: Any, effort: str | None) -> None:
    body = sent(model=model, reasoning=wanted)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


def test_thinking_that_cannot_be_turned_off() -> None:
    assert "always thinks" in encoded(model="claude-opus-5-5", reasoning="none").warnings[0]


@pytest.mark.parametrize(
    ("model", "asked", "effort", "max_tokens", "budget"),
    [
        (OLD, 1000, "high", 17384, 16384),  # the answer keeps its room
        (OLD, None, "xhigh", 64000, 32768),  # the model's limit holds
        (OLD, 60000, "max", 60000, 49152),
        ("claude-opus-4-0", None, "xhigh", 32000, 24000),  # and the budget gives way to it
        ("claude-opus-4-0", 1000, "xhigh", 32000, 31000),
    ],
)
def test_the_budget_fits_into_max_tokens(
    model: str, asked: int | None, effort: str, max_tokens: int, budget: int
) -> None:
    request = encoded(model=model, reasoning=effort, max_tokens=asked)
    body = msgspec.json.decode(request.body)
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (max_tokens, budget)
    assert bool(request.warnings) == (asked not in (None, max_tokens))


def test_effort_and_format_share_their_place() -> None:
    assert sent(reasoning="low", response_format=PERSON)["output_config"].keys() == {"effort", "format"}


@pytest.mark.parametrize(
    ("wanted", "control"),
    [
        ("a key", {"type": "ephemeral"}),
        ({"key": "k", "retention": "long"}, {"type": "ephemeral", "ttl": "1h"}),
        ({"retention": "short"}, {"type": "ephemeral", "ttl": "5m"}),
        ({"ttl": "1h"}, {"type": "ephemeral", "ttl": "1h"}),
        ({}, {"type": "ephemeral"}),
    ],
)
def test_prompt_cache(wanted: Any, control: dict[str, str]) -> None:
    assert sent(prompt_cache=wanted)["cache_control"] == control


def test_metadata_and_options() -> None:
    body = sent(metadata={"user_id": 7, "other": "x"}, options={"service_tier": "auto", "model": "other"})
    assert body["metadata"] == {"user_id": "7"}
    assert (body["service_tier"], body["model"]) == ("auto", "other")
    assert "metadata" not in sent(metadata={"other": "x"})


def paused(*parts: Any) -> Response:
    return Response(message=assistant(parts), finish_reason="paused")


def test_a_paused_answer_is_continued() -> None:
    adapter, ctx = Anthropic(), CallContext()
    request = Request(model=NEW, messages=(user("q"),))
    search = OpaquePart(data={"type": "server_tool_use", "id": "s"}, origin=OWN)
    first = adapter.resume(request, paused(search), ctx)
    assert first is not None
    assert first.messages == (user("q"), assistant((search,)))
    second = adapter.resume(first, paused(TextPart("so")), ctx)
    assert second is not None
    assert second.messages == (user("q"), assistant((search, TextPart("so"))))


def test_a_paused_answer_is_continued_in_its_container() -> None:
    answer = Response(
        message=assistant("a"), finish_reason="paused", provider_data={"container": {"id": "c1"}}
    )
    following = Anthropic().resume(Request(model=NEW, messages=(user("q"),)), answer, CallContext())
    assert following is not None
    assert sent(messages=following.messages)["container"] == "c1"


def test_what_is_not_continued() -> None:
    adapter, request = Anthropic(), Request(model=NEW, messages=(user("q"),))
    whole = Response(message=assistant("a"), finish_reason="stop")
    assert adapter.resume(request, whole, CallContext()) is None
    assert adapter.resume(request, paused(), CallContext()) is None
    assert adapter.resume(request, paused(TextPart("a")), options(follow_pauses=False)) is None


def test_a_turn_goes_on_in_its_container() -> None:
    kept = {"anthropic": {"container": "c1"}}
    called = ToolCall("toolu_1", "add", provider_data={"caller": {"type": "code_execution"}}, origin=OWN)
    waiting = Message("assistant", (called,), metadata=kept)
    over = Message("assistant", "done", metadata=kept)
    result = tool_result("toolu_1", "1")
    assert sent(messages=(user("q"), waiting, result))["container"] == "c1"
    assert sent(messages=(user("q"), over))["container"] == "c1"
    assert "container" not in sent(messages=(user("q"), over, user("next")))
    assert "container" not in sent(messages=(user("q"), Message("assistant", (USED,), metadata=kept), result))


@pytest.mark.parametrize(
    ("status", "kind", "message", "reason", "retryable"),
    [
        (400, "invalid_request_error", "max_tokens: must be at least 1", "invalid_request", False),
        (400, "invalid_request_error", "prompt is too long: 9 > 8", "context_length_exceeded", False),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
            "context_length_exceeded",
            False,
        ),
        (401, "authentication_error", "invalid x-api-key", "authentication_failed", False),
        (402, "billing_error", "m", "quota_exceeded", False),
        (403, "permission_error", "m", "permission_denied", False),
        (404, "not_found_error", "model: x", "not_found", False),
        (413, "request_too_large", "m", "invalid_request", False),
        (429, "rate_limit_error", "m", "rate_limited", True),
        (500, "api_error", "m", "provider_unavailable", True),
        (504, "timeout_error", "m", "timeout", True),
        (529, "overloaded_error", "m", "overloaded", True),
    ],
)
def test_refusals(status: int, kind: str, message: str, reason: str, retryable: bool) -> None:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    info = Anthropic().explain(status, {}, msgspec.json.encode(body))
    assert (info.reason, info.retryable, info.status, info.message) == (reason, retryable, status, message)
    assert (info.provider, info.request_id) == ("anthropic", "req_1")
    assert Anthropic().explain(status, {"Request-Id": "head"}, msgspec.json.encode(body)).request_id == "head"


def test_a_spend_limit_is_not_waited_for() -> None:
    error = {
        "type": "rate_limit_error",
        "message": "m",
        "details": {"error_code": "enforced_spend_limit_reached"},
    }
    info = Anthropic().explain(429, {}, msgspec.json.encode({"type": "error", "error": error}))
    assert (info.reason, info.retryable) == ("quota_exceeded", False)
