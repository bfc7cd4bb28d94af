"""What the adapters send, held against the request types of the official SDKs.

A table of conversations, tools, formats and settings, all combined; and every recorded answer sent back
in the next turn. `tests.sdk_types` says what fits; the last tests show that little else does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

import allm
from allm.data.content import Origin
from allm.lowlevel import make_plan
from allm.ports import HttpRequest
from tests.four_dialects import CHAT, DIALECTS, MESSAGES, RESPONSES, Dialect
from tests.sdk_types import misfits, needs_sdk, problems
from tests.wire_support import Record

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE = allm.ImagePart(image=allm.Image.from_bytes(PNG, "image/png"))
LINKED = allm.ImagePart(image=allm.Image.from_url("https://example.com/a.png"), detail="low")
SOUND = allm.AudioPart(data=b"RIFF....WAVE", format="wav")
PDF = allm.FilePart(data=b"%PDF-1.7", mime_type="application/pdf", filename="a.pdf")
LINKED_PDF = allm.FilePart(url="https://example.com/a.pdf", mime_type="application/pdf")
UPLOADED = allm.FilePart(file_id="file-1", mime_type="application/pdf")
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": ["integer", "null"], "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Said(NamedTuple):
    """A conversation; `refused` names the dialects that have no place for it."""

    messages: tuple[allm.Message, ...]
    refused: tuple[Dialect, ...] = ()


def said(*messages: allm.Message, refused: tuple[Dialect, ...] = ()) -> Said:
    return Said(messages, refused)


def calling(*calls: allm.ToolCall, text: str = "") -> allm.Message:
    return allm.assistant(((allm.TextPart(text),) if text else ()) + calls)


ADD = allm.ToolCall("call_1", "add", {"a": 1}, '{"a": 1}')
ADD_MORE = allm.ToolCall("call_2", "add", {"a": 2}, '{ "a" : 2 }')
BROKEN = allm.ToolCall("call_3", "add", {}, '{"a": ', True)
ODD = allm.ToolCall("functions.add:0/é" + "x" * 80, "add", {})
OTHERS = Origin("nobody", "chat", "m")

CONVERSATIONS = {
    "text": said(allm.user("Hi")),
    "turns": said(allm.user("Hi"), allm.assistant("Hello"), allm.user("Again")),
    "system": said(allm.system("Be kind."), allm.user("Hi"), allm.system("Be brief."), allm.user("Go")),
    "same_role": said(allm.user("One"), allm.user("Two"), allm.assistant("3"), allm.assistant("4")),
    "prefill": said(allm.user("Count"), allm.assistant("One, two,")),
    "empty": said(allm.user(""), allm.assistant(""), allm.user("Hi")),
    "empty_parts": said(allm.user((allm.TextPart(""),)), allm.assistant(()), allm.user("Hi")),
    "unicode": said(allm.user("Zürich 😀 \u2028 \x7f \x00 你好"), allm.assistant("é"), allm.user("?")),
    "named": said(allm.Message("user", "Hi", name="Ann"), allm.Message("assistant", "Yo", name="Bob")),
    "parts": said(allm.user((allm.TextPart("One"), allm.TextPart("Two")))),
    "picture": said(allm.user((allm.TextPart("What?"), PICTURE))),
    "linked_picture": said(allm.user((LINKED, allm.TextPart("What?")))),
    "sound": said(allm.user((allm.TextPart("What?"), SOUND)), refused=(RESPONSES, MESSAGES)),
    "pdf": said(allm.user((allm.TextPart("What?"), PDF))),
    "linked_pdf": said(allm.user((LINKED_PDF,)), refused=(CHAT,)),
    "uploaded": said(allm.user((UPLOADED,))),
    "call": said(allm.user("1+1"), calling(ADD), allm.tool_result("call_1", "2")),
    "parallel": said(
        allm.user("1+1"),
        calling(ADD, ADD_MORE, text="I add."),
        allm.tool_result("call_1", "2"),
        allm.tool_result("call_2", "no", is_error=True),
        allm.user("And?"),
    ),
    "rounds": said(
        allm.user("1+1"),
        calling(ADD),
        allm.tool_result("call_1", '{"sum": 2}'),
        calling(ADD_MORE),
        allm.tool_result("call_2", ""),
        allm.assistant("Done"),
    ),
    "broken_call": said(allm.user("1+1"), calling(BROKEN), allm.tool_result("call_3", "?", is_error=True)),
    "odd_id": said(allm.user("1+1"), calling(ODD), allm.tool_result(ODD.id, "2")),
    "orphans": said(allm.user("1+1"), calling(ADD), allm.tool_result("call_9", "2"), allm.user("And?")),
    "empty_result": said(allm.user("1+1"), calling(ADD), allm.tool_result("call_1", ())),
    "picture_result": said(
        allm.user("Draw"),
        calling(ADD),
        allm.tool_result("call_1", (allm.TextPart("Here"), PICTURE)),
        allm.user("Nice"),
    ),
    "drawn": said(allm.user("Draw"), allm.assistant((allm.TextPart("Here"), PICTURE)), allm.user("Nice")),
    "foreign": said(
        allm.user("Think"),
        allm.assistant(
            (
                allm.ReasoningPart("Hm", signature="c2ln", origin=OTHERS),
                allm.OpaquePart(data={"type": "thing"}, origin=OTHERS),
                allm.TextPart("So", provider_data={"item_id": "msg_1", "x": 1}, origin=OTHERS),
            )
        ),
        allm.user("And?"),
    ),
    "unowned": said(allm.user("Think"), allm.assistant((allm.ReasoningPart("Hm"), allm.TextPart("So")))),
}

FUNCTIONS = (
    allm.ToolSpec("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}}),
    allm.ToolSpec("person", "", PERSON, strict=True),
    allm.ToolSpec("loose", "Loose.", {"type": "object", "properties": {}}, strict=False),
    allm.ToolSpec("bare"),
)
HOSTED: dict[str, list[dict[str, Any]]] = {
    "chat": [{"type": "custom", "custom": {"name": "sql", "description": "SQL"}}],
    "responses": [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}],
    "messages": [{"type": "web_search_20260318", "name": "web_search", "max_uses": 2}],
    "generate": [{"googleSearch": {}}, {"urlContext": {}}],
}


def tools_of(dialect: Dialect) -> Iterator[dict[str, Any]]:
    hosted = HOSTED[dialect.name]
    yield {}
    yield {"tools": FUNCTIONS}
    yield {"tools": FUNCTIONS, "options": {"tools": hosted}}
    yield {"options": {"tools": hosted}}
    yield {"tools": FUNCTIONS, "tool_choice": "auto", "parallel_tool_calls": True}
    yield {"tools": FUNCTIONS, "tool_choice": "required", "parallel_tool_calls": False}
    yield {"tools": FUNCTIONS, "tool_choice": "none"}
    yield {"tools": FUNCTIONS, "tool_choice": "person"}


FORMATS: tuple[dict[str, Any], ...] = (
    {},
    {"response_format": allm.ResponseFormat("text")},
    {"response_format": allm.ResponseFormat("json_object")},
    {"response_format": allm.json_schema("person", PERSON)},
    {"response_format": allm.json_schema("person", PERSON, strict=False)},
)
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"system": "Be brief.", "max_tokens": 4000, "stop": ("END", "STOP")},
    {"temperature": 0.5, "top_p": 0.9, "seed": 7},
    {"reasoning": "low"},
    {"reasoning": "high", "max_tokens": 100},
    {"reasoning": "none"},
    {"reasoning": {"effort": "medium", "summary": "auto"}},
    {"reasoning": {"budget_tokens": 2048}, "max_tokens": 4096},
    {"prompt_cache": "key", "system": "Be brief."},
    {"metadata": {"user": "ann"}},
)


def requests(dialect: Dialect, conversation: str) -> Iterator[allm.Request]:
    """One conversation with every tool setting, every format and every setting; `parallel` with each
    combination of them."""
    said = CONVERSATIONS[conversation].messages
    sides: tuple[list[dict[str, Any]], ...] = ([*tools_of(dialect)], [*FORMATS], [*SETTINGS])
    chosen = product(*sides) if conversation == "parallel" else _diagonal(*sides)
    for fields in chosen:
        for model in (dialect.model, dialect.older):
            yield allm.Request(messages=said, model=model, **{k: v for f in fields for k, v in f.items()})


def _diagonal(*sides: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], ...]]:
    """As few combinations as have each row of each side in one."""
    for index in range(max(map(len, sides))):
        yield tuple(side[index % len(side)] for side in sides)


# What a model refuses is refused before it is sent; these are the words for it that may come up here.
REFUSALS = {
    "chat": {"tools_with_reasoning_refused", "audio_refused", "remote_source"},
    "responses": {"audio_refused"},
    "messages": {
        "forced_choice_refused",
        "forced_choice_with_reasoning_refused",
        "prefill_refused",
        "audio_refused",
    },
    "generate": {"tools_refused_with_schema"},
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_requests_fit_the_types_of_the_sdk(dialect: Dialect, conversation: str) -> None:
    engine = dialect.engine("http://127.0.0.1:1")
    sent = 0
    for request in requests(dialect, conversation):
        outcome = planned(engine, request)
        if isinstance(outcome, set):
            assert outcome <= REFUSALS[dialect.name], request
        else:
            assert misfits(dialect, outcome) == [], request
            sent += 1
    assert bool(sent) != (dialect in CONVERSATIONS[conversation].refused)


def planned(engine: allm.Engine, request: allm.Request) -> HttpRequest | set[str]:
    """What would be sent after the pre-flight, or the words of the refusal."""
    try:
        plan, _ = make_plan(engine, request, {"api_key": "k"})
    except allm.UnsupportedError as refusal:
        return {reason.partition(":")[0] for _, reason in refusal.errors}
    assert plan.first is not None
    http = plan.first.take()
    assert http is not None
    return http


def test_an_older_version_of_anthropic_takes_what_the_types_no_longer_have() -> None:
    request = allm.Request(messages=(allm.user("Hi"),), model=MESSAGES.older, temperature=0.5)
    assert misfits(MESSAGES, MESSAGES.encode(request)) == []
    [line] = misfits(MESSAGES, MESSAGES.encode(request, anthropic_version="2023-06-01"))
    assert line.startswith("body.temperature: unknown")


# Items that must go back as they came, and hold what no SDK types: the servers are ahead, or are others.
# By the end of the recording's id, which is its hash.
UNTYPED = {
    "b99b4192": "abort_reason",
    "34704dff": "abort_reason",
    "29e852f3": "prompt",
    "46ad28b5": "prompt",
    "71d0ee1a": "x_search_call",
    "40f392d1": "format",
    "f7f4552d": "action.sources",
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_recorded_answers_go_back(dialect: Dialect) -> None:
    if not dialect.records:
        pytest.skip("the recordings are not beside the checkout")
    untyped = {}
    for record in dialect.records:
        asked = allm.Request(model=model_of(dialect, record), messages=(allm.user("Hi"),), tools=FUNCTIONS)
        answer = dialect.answer(record, asked) if record["expected"]["kind"] == "message" else None
        if answer is None or answer.error is not None:
            continue
        results = [allm.tool_result(call.id, "done") for call in answer.tool_calls]
        messages = (*asked.messages, answer.message, *results, allm.user("Go on"))
        options = {"beta": "the-one-of-the-recording"} if dialect is MESSAGES else {}
        found = misfits(dialect, dialect.encode(replace(asked, messages=messages), **options))
        if found:
            untyped[short(record)] = found
    assert untyped.keys() == UNTYPED.keys() & set(map(short, dialect.records))
    assert all(UNTYPED[id] in line for id, lines in untyped.items() for line in lines)


def short(record: Record) -> str:
    return str(record["id"].rpartition(".")[2])


def model_of(dialect: Dialect, record: Record) -> str:
    sent = record["request"].get("json")
    asked = sent.get("model") if isinstance(sent, dict) else None
    return asked or dialect.model


# The validator is strict: what is wrong in a body is found.

CHAT_HI: dict[str, Any] = {"role": "user", "content": "Hi"}
GEMINI_HI: dict[str, Any] = {"role": "user", "parts": [{"text": "Hi"}]}
SMALLEST: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [CHAT_HI]},
    "responses": {"model": "m", "input": [{"role": "user", "content": "Hi"}]},
    "messages": {"model": "m", "max_tokens": 9, "messages": [CHAT_HI]},
    "generate": {"contents": [GEMINI_HI]},
}
WRONG: dict[str, tuple[dict[str, Any], ...]] = {
    "chat": (
        {"messages": "Hi"},
        {"messages": [{"role": "nobody", "content": "Hi"}]},
        {"messages": [{"role": "tool", "content": "4"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://e.com"}]}]},
        {"temperature": "0.5"},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"tools": [{"type": "function", "name": "add", "parameters": {}}]},
        {"tool_choice": {"type": "function", "name": "add"}},
        {"response_format": {"type": "json_schema", "schema": {}}},
        {"reasoning_effort": "extreme"},
        {"reasoning": {"effort": "low"}},
    ),
    "responses": (
        {"messages": [CHAT_HI]},
        {"input": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"input": [{"type": "function_call", "call_id": "1", "name": "add", "arguments": {}}]},
        {"input": [{"type": "reasoning", "id": "rs_1"}]},
        {"tools": [{"type": "function", "function": {"name": "add"}}]},
        {"tools": [{"type": "function", "name": "add", "parameters": {}}]},
        {"max_tokens": 9},
        {"stop": ["END"]},
        {"reasoning": {"effort": "low", "budget_tokens": 1}},
        {"text": {"format": {"type": "json_schema", "json_schema": {}}}},
    ),
    "messages": (
        {"max_tokens": None},
        {"messages": [{"role": "tool", "content": "4"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "4"}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm"}]}]},
        {"system": {"type": "text", "text": "Hi"}},
        {"tools": [{"name": "add", "parameters": {"type": "object"}}]},
        {"tool_choice": "auto"},
        {"thinking": {"type": "enabled"}},
        {"temperature": 0.5},
        {"mcp_servers": []},
    ),
    "generate": (
        {"contents": [{"role": "user", "content": "Hi"}]},
        {"contents": [{"role": "user", "parts": [{"type": "text", "text": "Hi"}]}]},
        {
            "contents": [
                {"role": "user", "parts": [{"inline_data": {"mimeType": "image/png", "data": "aGk="}}]}
            ]
        },
        {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "%"}}]}]},
        {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "add", "arguments": {}}}]}]},
        {"temperature": 0.5},
        {"generationConfig": {"maxTokens": 9}},
        {"generationConfig": {"maxOutputTokens": "nine"}},
        {"generationConfig": {"thinkingConfig": {"effort": "low"}}},
        {"tools": [{"function_declarations": []}]},
        {"tools": [{"functionDeclarations": [{"description": "no name", "schema": {}}]}]},
        {"toolConfig": {"functionCallingConfig": {"mode": "SOMETIMES"}}},
        {"system_instruction": GEMINI_HI},
    ),
}
CHANGES = [(name, change) for name, changes in WRONG.items() for change in ({"unknown": 1}, *changes)]
# Where a dialect takes any JSON: schemas, arguments, results.
FREE = {
    "chat": {"parameters", "schema"},
    "responses": {"parameters", "schema"},
    "messages": {"input_schema", "schema", "input"},
    "generate": {"parametersJsonSchema", "responseJsonSchema", "args", "response"},
}


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[f"{n}-{json.dumps(c)}" for n, c in CHANGES])
def test_wrong_requests_do_not_fit(name: str, change: dict[str, Any]) -> None:
    needs_sdk(next(dialect for dialect in DIALECTS if dialect.name == name))
    assert problems(name, SMALLEST[name]) == []
    assert problems(name, SMALLEST[name] | change) != []


def places(value: Any, free: set[str], path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every object in a body, but for those where any JSON may stand."""
    if isinstance(value, dict):
        yield path
        for key in value.keys() - free:
            yield from places(value[key], free, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, free, (*path, index))


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_an_unknown_key_is_found_wherever_it_stands(dialect: Dialect) -> None:
    request = allm.Request(
        model=dialect.older,
        messages=CONVERSATIONS["picture_result"].messages,
        system="Be brief.",
        tools=FUNCTIONS,
        tool_choice="auto",
        response_format=allm.json_schema("person", PERSON),
        reasoning="low",
    )
    sent = dialect.encode(request)
    assert misfits(dialect, sent) == []
    found = [*places(json.loads(sent.body), FREE[dialect.name])]
    assert len(found) > 12
    for path in found:
        body = json.loads(sent.body)
        place = body
        for step in path:
            place = place[step]
        place["unknown"] = 1
        assert problems(dialect.name, body) != [], path
