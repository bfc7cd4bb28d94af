"""What is sent to Gemini's `generateContent`, where it goes, and how refusals are read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from allm.data.content import (
    AudioPart,
    FilePart,
    Image,
    ImagePart,
    OpaquePart,
    Origin,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from allm.data.messages import Message, assistant, system, tool_result, user
from allm.data.requests import Request, ResponseFormat, ToolSpec, json_schema
from allm.data.responses import Response
from allm.errors import ConfigurationError, UnsupportedError, ValidationError
from allm.ports import CallContext, HttpRequest, WireAdapter
from allm.providers import resolve
from allm.providers.gemini.generate import Gemini

GEMINI = Gemini()
MODEL = "gemini-3.8-flash"
OWN = Origin("gemini", "generate", MODEL)
SIGNED = {"thoughtSignature": "c2ln"}
TOOL = ToolSpec("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def encoded(*messages: Message, ctx: CallContext | None = None, **fields: Any) -> HttpRequest:
    fields.setdefault("model", MODEL)
    return GEMINI.encode(Request(messages=messages or (user("hi"),), **fields), ctx or CallContext())


def sent(*messages: Message, ctx: CallContext | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(encoded(*messages, ctx=ctx, **fields).body)
    return body


def with_options(**options: Any) -> CallContext:
    return CallContext(adapter_options=options)


def parts_of(*parts: Part) -> list[dict[str, Any]]:
    """A model turn of these parts, as it is sent back."""
    contents = sent(user("hi"), assistant(parts), user("go on"))["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    found: list[dict[str, Any]] = contents[1]["parts"]
    return found


def user_parts(*parts: Part) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sent(user(parts))["contents"][0]["parts"]
    return found


def test_smallest_request() -> None:
    request = encoded()
    assert msgspec.json.decode(request.body) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    assert request.url == (
        "https://generativelanguage.googleapis.com/v1/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
    )
    assert request.headers == {"content-type": "application/json", "accept": "text/event-stream"}
    assert request.warnings == ()


def test_the_key_goes_in_a_header_only() -> None:
    key = encoded().key
    assert key is not None
    assert (key.name, key.variables) == ("gemini", ("GOOGLE_API_KEY", "GEMINI_API_KEY"))
    assert (key.header, key.prefix) == ("x-goog-api-key", "")
    with pytest.raises(ConfigurationError, match="pass api_key="):
        encoded(ctx=CallContext(base_url="https://proxy.example/v1?key=AIza"))


def test_it_is_the_adapter_of_that_name() -> None:
    adapter = resolve("gemini")
    assert isinstance(GEMINI, WireAdapter)
    assert isinstance(adapter, Gemini)
    assert repr(adapter) == "Gemini('gemini')"
    assert adapter.target(Request(model=MODEL), CallContext()) == OWN


def test_without_streaming() -> None:
    request = encoded(ctx=with_options(streaming=False))
    assert request.url.endswith("/v1/models/gemini-3.8-flash:generateContent")
    assert request.headers["accept"] == "application/json"


@pytest.mark.parametrize(
    ("base_url", "options", "model", "start"),
    [
        (None, {}, "gemini-flash-latest", "https://generativelanguage.googleapis.com/v1beta/models/"),
        (None, {"api_version": "v1alpha"}, "m", "https://generativelanguage.googleapis.com/v1alpha/models/"),
        ("https://p.example/", {}, "m", "https://p.example/v1/models/m:"),
        ("https://p.example/v1beta", {}, "m", "https://p.example/v1beta/models/m:"),
        ("https://p.example/v2/google", {}, "m", "https://p.example/v2/google/v1/models/m:"),
        (
            "https://a.example/v1/projects/p/locations/l/publishers/google",
            {},
            "m",
            "https://a.example/v1/projects/p/locations/l/publishers/google/models/m:",
        ),
        (None, {"base_url": "https://o.example/v1"}, "m", "https://o.example/v1/models/m:"),
    ],
)
def test_address(base_url: str | None, options: dict[str, Any], model: str, start: str) -> None:
    ctx = CallContext(base_url=base_url, adapter_options=options)
    assert encoded(ctx=ctx, model=model).url.startswith(start)


def test_the_query_of_the_address_is_kept() -> None:
    ctx = CallContext(base_url="https://p.example/v1?tenant=a")
    assert encoded(ctx=ctx, model="m").url == (
        "https://p.example/v1/models/m:streamGenerateContent?tenant=a&alt=sse"
    )
    ctx = CallContext(base_url="https://p.example/v1?tenant=a", adapter_options={"streaming": False})
    assert encoded(ctx=ctx, model="m").url == "https://p.example/v1/models/m:generateContent?tenant=a"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3.8-flash", "models/gemini-3.8-flash"),
        ("models/gemini-3.8-flash", "models/gemini-3.8-flash"),
        ("tunedModels/mine-1", "tunedModels/mine-1"),
        ("publishers/google/models/m@001", "publishers/google/models/m@001"),
        ("projects/p/locations/l/endpoints/7", "projects/p/locations/l/endpoints/7"),
        ("a/b", "models/a%2Fb"),
        ("x:countTokens?key=1#", "models/x%3AcountTokens%3Fkey%3D1%23"),
        ("@evil.example", "models/@evil.example"),
        ("модель", "models/%D0%BC%D0%BE%D0%B4%D0%B5%D0%BB%D1%8C"),
    ],
)
def test_a_model_never_changes_host_or_method(model: str, path: str) -> None:
    ctx = CallContext(base_url="https://p.example/v1")
    assert encoded(ctx=ctx, model=model).url == f"https://p.example/v1/{path}:streamGenerateContent?alt=sse"


@pytest.mark.parametrize("model", ["", None, "..", "models/..", "models/../../x", "projects//p", "models/"])
def test_no_model_id(model: str | None) -> None:
    with pytest.raises(ConfigurationError, match="is not the id of a model"):
        encoded(model=model)


def test_headers() -> None:
    request = encoded(ctx=with_options(project="p1", headers={"X-A": "b"}))
    assert request.headers["x-goog-user-project"] == "p1"
    assert request.headers["x-a"] == "b"
    with pytest.raises(ConfigurationError, match="credential"):
        encoded(ctx=with_options(headers={"X-Goog-Api-Key": "k"}))


def test_system_texts_are_one_instruction() -> None:
    body = sent(system("s1"), user("hi"), system("s2"), user("there"), system="first")
    assert body["systemInstruction"] == {"parts": [{"text": "first"}, {"text": "s1"}, {"text": "s2"}]}
    assert body["contents"] == [{"role": "user", "parts": [{"text": "hi"}, {"text": "there"}]}]


def test_neighbours_of_one_role_are_one_turn() -> None:
    body = sent(user("a"), user("b"), assistant("c"), assistant("d"), user("e"))
    assert [(c["role"], [p["text"] for p in c["parts"]]) for c in body["contents"]] == [
        ("user", ["a", "b"]),
        ("model", ["c", "d"]),
        ("user", ["e"]),
    ]


def test_a_turn_that_says_nothing_is_left_out() -> None:
    body = sent(user("a"), assistant(""), user("b"))
    assert body["contents"] == [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}]


def test_names_of_users_are_reported() -> None:
    assert encoded(Message("user", "hi", name="ann")).warnings == (
        "the names of users are not sent: Gemini has no place for them",
    )


def test_media_by_bytes() -> None:
    image = Image.from_bytes(b"i", "image/png")
    assert user_parts(
        TextPart("look"),
        ImagePart(image),
        AudioPart(b"a", "mp3"),
        FilePart(data=b"f"),
        FilePart(data=b"f", filename="x.CSV"),
        FilePart(data=b"f", mime_type="video/mp4"),
        ImagePart(Image.from_url("data:image/gif;base64,aQ==")),
    ) == [
        {"text": "look"},
        {"inlineData": {"mimeType": "image/png", "data": "aQ=="}},
        {"inlineData": {"mimeType": "audio/mp3", "data": "YQ=="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "Zg=="}},
        {"inlineData": {"mimeType": "text/csv", "data": "Zg=="}},
        {"inlineData": {"mimeType": "video/mp4", "data": "Zg=="}},
        {"inlineData": {"mimeType": "image/gif", "data": "aQ=="}},
    ]


def test_media_by_link() -> None:
    files = "https://generativelanguage.googleapis.com/v1beta/files/abc"
    assert user_parts(
        ImagePart(Image.from_url("https://e.example/a.JPG?x=1")),
        ImagePart(Image(url="https://e.example/a", mime_type="image/webp")),
        FilePart(url="gs://b/o.pdf"),
        FilePart(url="https://youtu.be/xyz"),
        FilePart(file_id="files/abc", mime_type="application/pdf"),
        FilePart(file_id="abc"),
        FilePart(file_id=files),
    ) == [
        {"fileData": {"fileUri": "https://e.example/a.JPG?x=1", "mimeType": "image/jpeg"}},
        {"fileData": {"fileUri": "https://e.example/a", "mimeType": "image/webp"}},
        {"fileData": {"fileUri": "gs://b/o.pdf", "mimeType": "application/pdf"}},
        {"fileData": {"fileUri": "https://youtu.be/xyz"}},
        {"fileData": {"fileUri": files, "mimeType": "application/pdf"}},
        {"fileData": {"fileUri": files}},
        {"fileData": {"fileUri": files}},
    ]


@pytest.mark.parametrize(
    "url", ["http://e.example/a.png", "file:///etc/passwd", "ftp://e.example/a", "a.png"]
)
def test_links_that_gemini_does_not_read(url: str) -> None:
    with pytest.raises(UnsupportedError, match=r"use https:// or gs://, or send the bytes"):
        user_parts(ImagePart(Image.from_url(url)))


def test_an_image_without_a_type() -> None:
    with pytest.raises(ValidationError, match="missing_mime_type"):
        user_parts(ImagePart(Image(data=b"i")))


def test_a_model_turn_goes_back_part_by_part() -> None:
    parts = parts_of(
        ReasoningPart("unsigned", origin=OWN),
        ReasoningPart("signed", provider_data=SIGNED, origin=OWN),
        TextPart("said", provider_data=SIGNED, origin=OWN),
        TextPart(" and "),
        TextPart("", provider_data=SIGNED, origin=OWN),
        TextPart(""),
        ImagePart(Image.from_bytes(b"i", "image/png"), provider_data=SIGNED, origin=OWN),
        OpaquePart(data={"executableCode": {"code": "1"}}, provider_data=SIGNED, origin=OWN),
        OpaquePart(data={"codeExecutionResult": {"outcome": "OUTCOME_OK"}}, origin=OWN),
    )
    assert parts == [
        {"text": "signed", "thought": True, **SIGNED},
        {"text": "said", **SIGNED},
        {"text": " and "},
        {"text": "", **SIGNED},
        {"inlineData": {"mimeType": "image/png", "data": "aQ=="}, **SIGNED},
        {"executableCode": {"code": "1"}, **SIGNED},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK"}},
    ]


def test_what_another_model_gave_stays_at_home() -> None:
    other = Origin("gemini", "generate", "gemini-2.5-flash")
    request = encoded(
        user("hi"),
        assistant([ReasoningPart("t", provider_data=SIGNED, origin=other), TextPart("said")]),
        user("go on"),
    )
    assert msgspec.json.decode(request.body)["contents"][1]["parts"] == [{"text": "said"}]
    assert len(request.warnings) == 1


def _calls(*calls: ToolCall, results: tuple[Message, ...] = (), **fields: Any) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = sent(user("hi"), assistant(calls), *results, **fields)["contents"]
    return contents


def test_calls_and_results() -> None:
    made = {"made_id": True}
    contents = _calls(
        ToolCall("g1", "add", {"b": 1, "a": 2}, '{"b": 1,  "a": 2.0}', provider_data=SIGNED, origin=OWN),
        ToolCall("call_1_0", "add", {}, "", provider_data=made, origin=OWN),
        results=(tool_result("g1", "3"), tool_result("call_1_0", '{"sum": 1.0}'), user("and now")),
    )
    assert contents[1] == {
        "role": "model",
        "parts": [
            {"functionCall": {"name": "add", "args": {"a": 2.0, "b": 1}, "id": "g1"}, **SIGNED},
            {"functionCall": {"name": "add", "args": {}}},
        ],
    }
    assert contents[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "add", "response": {"output": "3"}, "id": "g1"}},
            {"functionResponse": {"name": "add", "response": {"sum": 1.0}}},
            {"text": "and now"},
        ],
    }


def test_arguments_keep_their_spelling() -> None:
    call = ToolCall("g1", "add", {"b": 1, "a": 2.0}, '{"b": 1,  "a": 2.00}', provider_data=SIGNED, origin=OWN)
    body = encoded(user("hi"), assistant([call]), tool_result("g1", "3")).body
    assert b'"args":{"b": 1,  "a": 2.00}' in body


@pytest.mark.parametrize(
    ("result", "response"),
    [
        (tool_result("c", "text"), {"output": "text"}),
        (tool_result("c", ""), {"output": ""}),
        (tool_result("c", "[1]"), {"output": "[1]"}),
        (tool_result("c", "{broken"), {"output": "{broken"}),
        (tool_result("c", ' {"a": [1]}'), {"a": [1]}),
        (tool_result("c", "{}"), {}),
        (tool_result("c", [TextPart("a"), TextPart("b")]), {"output": "ab"}),
        (tool_result("c", "no", is_error=True), {"error": "no"}),
        (tool_result("c", '{"why": 1}', is_error=True), {"error": '{"why": 1}'}),
        (tool_result("c", '{"error": "no"}', is_error=True), {"error": "no"}),
    ],
)
def test_results(result: Message, response: dict[str, Any]) -> None:
    contents = _calls(ToolCall("c", "add", provider_data=SIGNED, origin=OWN), results=(result,))
    assert contents[2]["parts"] == [{"functionResponse": {"name": "add", "response": response, "id": "c"}}]


def test_a_result_with_media() -> None:
    image = ImagePart(Image.from_bytes(b"i", "image/png"))
    call = ToolCall("c", "look", provider_data=SIGNED, origin=OWN)
    for said, response in (((), {}), ((TextPart("see"),), {"output": "see"})):
        contents = _calls(call, results=(tool_result("c", [*said, image]),))
        assert contents[2]["parts"][0]["functionResponse"] == {
            "name": "look",
            "response": response,
            "id": "c",
            "parts": [{"inlineData": {"mimeType": "image/png", "data": "aQ=="}}],
        }


def test_a_call_of_another_provider_keeps_its_id_and_gets_the_placeholder() -> None:
    call = ToolCall("toolu_1", "add", {"a": 1}, provider_data={"caller": 1}, origin=Origin("anthropic"))
    contents = _calls(call, results=(tool_result("toolu_1", "2"),))
    assert contents[1]["parts"] == [
        {
            "functionCall": {"name": "add", "args": {"a": 1}, "id": "toolu_1"},
            "thoughtSignature": "skip_thought_signature_validator",
        }
    ]
    assert contents[2]["parts"][0]["functionResponse"]["id"] == "toolu_1"


def test_the_input_of_a_custom_tool_is_an_argument() -> None:
    call = ToolCall("c", "run", {"input": "{}"}, "{}", kind="custom")
    assert _calls(call, results=(tool_result("c", "2"),))[1]["parts"][0]["functionCall"]["args"] == {
        "input": "{}"
    }


def test_orphans() -> None:
    call = ToolCall("c", "add", provider_data=SIGNED, origin=OWN)
    assert "error" in _calls(call)[2]["parts"][0]["functionResponse"]["response"]
    with pytest.raises(ValidationError):
        _calls(call, ctx=CallContext(orphans="refuse"))


def test_tools() -> None:
    spec = ToolSpec("now", metadata={"gemini": {"behavior": "NON_BLOCKING"}})
    body = sent(tools=(TOOL, spec), options={"tools": [{"googleSearch": {}}]})
    declared, hosted = body["tools"]
    assert hosted == {"googleSearch": {}}
    assert declared["functionDeclarations"] == [
        {"name": "add", "description": "Adds.", "parametersJsonSchema": TOOL.schema},
        {
            "name": "now",
            "parametersJsonSchema": {"type": "object", "properties": {}},
            "behavior": "NON_BLOCKING",
        },
    ]
    assert sent(options={"tools": [{"googleSearch": {}}]})["tools"] == [{"googleSearch": {}}]


@pytest.mark.parametrize("name", ["1st", "with space", "ä", "x" * 129, ""])
def test_names_of_tools(name: str) -> None:
    with pytest.raises(UnsupportedError, match="must start with a letter or _"):
        sent(tools=(ToolSpec(name),))


@pytest.mark.parametrize("name", ["_a", "a.b:c-d", "x" * 128])
def test_good_names_of_tools(name: str) -> None:
    assert sent(tools=(ToolSpec(name),))["tools"][0]["functionDeclarations"][0]["name"] == name


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("add", {"mode": "ANY", "allowedFunctionNames": ["add"]}),
        ({"mode": "VALIDATED"}, {"mode": "VALIDATED"}),
        ({"functionCallingConfig": {"mode": "AUTO"}}, {"mode": "AUTO"}),
    ],
)
def test_tool_choice(choice: Any, config: dict[str, Any]) -> None:
    assert sent(tools=(TOOL,), tool_choice=choice)["toolConfig"] == {"functionCallingConfig": config}


def test_tool_choice_without_tools() -> None:
    assert "toolConfig" not in sent(tool_choice="required")
    assert "toolConfig" not in sent(tools=(TOOL,), parallel_tool_calls=False)


def test_sampling() -> None:
    body = sent(max_tokens=9, temperature=0.5, top_p=0.9, stop=("x",), seed=3)
    assert body["generationConfig"] == {
        "maxOutputTokens": 9,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["x"],
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("model", "reasoning", "config"),
    [
        (MODEL, "low", {"thinkingLevel": "LOW", "includeThoughts": True}),
        (MODEL, "max", {"thinkingLevel": "XHIGH", "includeThoughts": True}),
        (MODEL, {"effort": "high", "summary": "none"}, {"thinkingLevel": "HIGH"}),
        (MODEL, {"summary": "auto"}, {"includeThoughts": True}),
        (MODEL, {"budget_tokens": 99}, {"thinkingBudget": 99, "includeThoughts": True}),
        (
            MODEL,
            {"effort": "low", "include_thoughts": False},
            {"thinkingLevel": "LOW", "includeThoughts": False},
        ),
        (MODEL, "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        ("models/gemini-2.5-pro", "max", {"thinkingBudget": 24_576, "includeThoughts": True}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", {"budget_tokens": -1}, {"thinkingBudget": -1, "includeThoughts": True}),
    ],
)
def test_reasoning(model: str, reasoning: Any, config: dict[str, Any]) -> None:
    assert sent(model=model, reasoning=reasoning)["generationConfig"] == {"thinkingConfig": config}


def test_response_formats() -> None:
    mime = {"responseMimeType": "application/json"}
    assert "generationConfig" not in sent(response_format=ResponseFormat("text"))
    assert sent(response_format=ResponseFormat("json_object"))["generationConfig"] == mime
    wanted = json_schema("x", SCHEMA)
    assert sent(response_format=wanted)["generationConfig"] == {**mime, "responseJsonSchema": SCHEMA}


def test_older_names_of_schemas() -> None:
    ctx = with_options(json_schema=False)
    body = sent(ctx=ctx, tools=(TOOL,), response_format=json_schema("x", SCHEMA))
    assert body["generationConfig"]["responseSchema"] == SCHEMA
    assert body["tools"][0]["functionDeclarations"][0]["parameters"] == TOOL.schema


def test_what_a_schema_loses_is_reported() -> None:
    lossy = {"type": "object", "properties": {"a": {"type": "string", "minLength": 2}}}
    warnings = encoded(
        response_format=json_schema("x", lossy), tools=(ToolSpec("t", schema=lossy, strict=True),)
    ).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["tool t", "response_format"]


def test_options_go_where_they_belong() -> None:
    body = sent(
        temperature=0.5,
        stop=("x",),
        tools=(TOOL,),
        tool_choice="required",
        options={
            "temperature": 1,
            "top_k": 5,
            "candidateCount": 2,
            "stop": "y",
            "max_tokens": 4,
            "response_modalities": ["TEXT", "IMAGE"],
            "generation_config": {"image_config": {"aspectRatio": "1:1"}},
            "safety_settings": [],
            "service_tier": "flex",
            "labels": {"a": "b"},
            "toolConfig": {"includeServerSideToolInvocations": True},
            "something_new": 1,
        },
    )
    assert body["generationConfig"] == {
        "temperature": 1,
        "stopSequences": ["y"],
        "topK": 5,
        "candidateCount": 2,
        "maxOutputTokens": 4,
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"aspectRatio": "1:1"},
    }
    assert body["toolConfig"] == {
        "functionCallingConfig": {"mode": "ANY"},
        "includeServerSideToolInvocations": True,
    }
    rest = {name: body[name] for name in ("safetySettings", "serviceTier", "labels", "something_new")}
    assert rest == {"safetySettings": [], "serviceTier": "flex", "labels": {"a": "b"}, "something_new": 1}


def test_a_cache_by_its_name() -> None:
    for cache in ({"cachedContent": "cachedContents/1"}, {"cached_content": "cachedContents/1"}):
        assert sent(prompt_cache=cache)["cachedContent"] == "cachedContents/1"
    assert sent(prompt_cache="key") == sent(prompt_cache={"retention": "long"}) == sent()


def test_resume_repeats_the_request_with_the_token() -> None:
    request = Request(model=MODEL, messages=(user("hi"),), options={"topK": 3})
    paused = Response(finish_reason="paused", provider_data={"continuation_token": "dG9r"})
    again = GEMINI.resume(request, paused, CallContext())
    assert again is not None
    body = msgspec.json.decode(GEMINI.encode(again, CallContext()).body)
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"topK": 3},
        "continuationToken": "dG9r",
    }
    assert GEMINI.resume(request, Response(finish_reason="paused"), CallContext()) is None
    assert GEMINI.resume(request, paused, with_options(follow_pauses=False)) is None


def test_a_stored_thread_sends_the_same_bytes() -> None:
    call = ToolCall("c", "add", {"b": 1, "a": 2}, provider_data=SIGNED, origin=OWN)
    item = OpaquePart(data={"toolCall": {"toolType": "X", "args": {"b": 1, "a": 2}}}, origin=OWN)
    messages = (user("hi"), assistant([item, call]), tool_result("c", "3"))
    stored = msgspec.json.encode(messages, order="deterministic")
    again = msgspec.json.decode(stored, type=tuple[Message, ...])
    assert encoded(*again).body == encoded(*messages).body


def test_text_that_cannot_be_encoded() -> None:
    with pytest.raises(ValidationError, match="lone_surrogate"):
        sent(user("\ud800"))


@pytest.mark.parametrize(
    ("status", "error", "reason", "wait"),
    [
        (
            400,
            {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]},
            "authentication_failed",
            None,
        ),
        (404, {"status": "NOT_FOUND"}, "not_found", None),
        (429, {"status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "34.5s"}]}, "rate_limited", 34.5),
        (503, {"status": "UNAVAILABLE"}, "overloaded", None),
        (
            400,
            {"message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."},
            "context_length_exceeded",
            None,
        ),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_refusals(status: int, error: dict[str, Any], reason: str, wait: float | None, listed: bool) -> None:
    value: Any = {"error": {"code": status, "message": "no", **error}}
    body = msgspec.json.encode([value] if listed else value)
    info = GEMINI.explain(status, {"Content-Type": "application/json"}, body)
    assert (info.reason, info.provider, info.status, info.retry_after) == (reason, "gemini", status, wait)
