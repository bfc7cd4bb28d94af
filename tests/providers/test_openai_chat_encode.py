"""What is sent to Chat Completions, and how refusals are read."""

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
    ReasoningPart,
    TextPart,
    ToolCall,
)
from allm.data.messages import Message, assistant, system, tool_result, user
from allm.data.requests import ModelRef, Request, ResponseFormat, ToolSpec, json_schema
from allm.errors import ConfigurationError, UnknownProviderError, UnsupportedError, ValidationError
from allm.ports import CallContext, HttpRequest, WireAdapter
from allm.providers import COMPATIBLE, register_provider, resolve, split_model
from allm.providers.compatible import TABLE, adapter
from allm.providers.openai.chat import OpenAIChat

TOOL = ToolSpec("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
CLOSED = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def sent(provider: str = "openai", ctx: CallContext | None = None, **fields: Any) -> dict[str, Any]:
    fields.setdefault("model", "gpt-6-luna")
    fields.setdefault("messages", (user("hi"),))
    body: dict[str, Any] = msgspec.json.decode(encoded(provider, ctx, **fields).body)
    return body


def encoded(provider: str = "openai", ctx: CallContext | None = None, **fields: Any) -> HttpRequest:
    chosen = OpenAIChat() if provider == "openai" else resolve(provider)
    request: HttpRequest = chosen.encode(Request(**fields), ctx or CallContext())
    return request


def test_smallest_request() -> None:
    assert sent() == {
        "model": "gpt-6-luna",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = encoded(model="m", messages=(user("hi"),))
    assert request.url == "https://api.openai.com/v1/chat/completions"
    assert request.headers == {"content-type": "application/json", "accept": "text/event-stream"}
    assert request.key is not None
    assert request.key.variables == ("OPENAI_API_KEY",)


def test_without_streaming() -> None:
    ctx = CallContext(adapter_options={"streaming": False})
    assert sent(ctx=ctx).keys() == {"model", "messages"}


def test_system_comes_first() -> None:
    body = sent(system="be brief", messages=(system("s"), user("hi")))
    assert [message["content"] for message in body["messages"]] == ["be brief", "s", "hi"]


@pytest.mark.parametrize(
    ("provider", "model", "base_url", "field"),
    [
        ("openai", "gpt-6-luna", None, "max_completion_tokens"),
        ("openai", "o3", None, "max_completion_tokens"),
        ("openai", "gpt-4o", None, "max_completion_tokens"),
        ("openai", "gpt-6-luna", "https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("openai", "whatever", "http://localhost:9/v1", "max_tokens"),
        ("groq", "x", None, "max_completion_tokens"),
        ("mistral", "x", None, "max_tokens"),
    ],
)
def test_max_tokens(provider: str, model: str, base_url: str | None, field: str) -> None:
    body = sent(provider, CallContext(base_url=base_url), model=model, max_tokens=7)
    assert {key: value for key, value in body.items() if "max" in key} == {field: 7}


def test_max_tokens_in_options_wins_alone() -> None:
    body = sent(max_tokens=7, options={"max_tokens": 9})
    assert body["max_tokens"] == 9
    assert "max_completion_tokens" not in body


def test_sampling_fields() -> None:
    body = sent(
        temperature=0.5, top_p=0.9, seed=3, stop=("x",), reasoning="low", options={"temperature": 1, "n": 2}
    )
    assert body["temperature"] == 1
    assert (body["top_p"], body["seed"], body["stop"], body["reasoning_effort"], body["n"]) == (
        0.9,
        3,
        ["x"],
        "low",
        2,
    )
    assert sent("mistral", seed=3)["random_seed"] == 3
    assert sent("openrouter", reasoning="low")["reasoning"] == {"effort": "low"}
    assert sent("openrouter", reasoning={"max_tokens": 5})["reasoning"] == {"max_tokens": 5}


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tool_choice_words(choice: str) -> None:
    assert sent(tools=(TOOL,), tool_choice=choice)["tool_choice"] == choice
    assert "tool_choice" not in sent(tool_choice=choice)


def test_tools() -> None:
    body = sent(
        tools=(TOOL, ToolSpec("now", schema=CLOSED, strict=True)),
        tool_choice="add",
        parallel_tool_calls=False,
    )
    assert body["tools"][0] == {
        "type": "function",
        "function": {"name": "add", "description": "Adds.", "parameters": TOOL.schema},
    }
    assert body["tools"][1]["function"] == {
        "name": "now",
        "parameters": CLOSED,
        "strict": True,
    }
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert body["parallel_tool_calls"] is False
    assert sent(tools=(TOOL,), tool_choice={"type": "x"})["tool_choice"] == {"type": "x"}


def test_response_format() -> None:
    wanted = json_schema("person", CLOSED)
    schema = {"name": "person", "schema": CLOSED, "strict": True}
    assert sent(response_format=wanted)["response_format"] == {"type": "json_schema", "json_schema": schema}
    loose = json_schema("person", {"type": "object"}, strict=False)
    assert sent(response_format=loose)["response_format"]["json_schema"]["strict"] is False
    assert sent("deepseek", response_format=loose)["response_format"] == {"type": "json_object"}
    assert sent("deepseek", response_format=wanted)["response_format"] == {"type": "json_object"}
    assert sent(response_format=ResponseFormat("json_object"))["response_format"] == {"type": "json_object"}
    assert "response_format" not in sent(response_format=ResponseFormat())


def content(*parts: Any, provider: str = "openai") -> Any:
    return sent(provider, messages=(user(parts),))["messages"][0]["content"]


def test_text_parts_are_one_text() -> None:
    assert content(TextPart("a"), TextPart("b")) == "ab"


def test_images() -> None:
    assert content(TextPart("a"), ImagePart(Image.from_bytes(b"abc", "image/png"), "low")) == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj", "detail": "low"}},
    ]
    assert content(ImagePart(Image.from_url("https://x/y.png")))[0]["image_url"] == {"url": "https://x/y.png"}
    with pytest.raises(ValidationError, match="file_not_read"):
        content(ImagePart(Image.from_file("x.png")))


def test_audio_and_files() -> None:
    assert content(AudioPart(b"abc", "mp3"))[0]["input_audio"] == {"data": "YWJj", "format": "mp3"}
    assert content(FilePart(file_id="f"))[0] == {"type": "file", "file": {"file_id": "f"}}
    file = content(FilePart(data=b"abc", mime_type="text/plain", filename="n"))[0]["file"]
    assert file == {"filename": "n", "file_data": "data:text/plain;base64,YWJj"}
    with pytest.raises(UnsupportedError):
        content(FilePart(url="https://x/y.pdf"))
    assert content(FilePart(url="https://x"), provider="openrouter")[0]["file"]["file_data"] == "https://x"


def replayed(provider: str, *parts: Any) -> dict[str, Any]:
    message: dict[str, Any] = sent(provider, messages=(user("q"), assistant(parts)))["messages"][1]
    return message


def test_tool_calls_go_back_as_they_came() -> None:
    raw = '{ "b": 1,"a":2.0 }'
    message = replayed(
        "openai", ToolCall("c1", "add", {"b": 1, "a": 2.0}, raw), ToolCall("c2", "add", {"b": 1, "a": 2})
    )
    assert message["content"] is None
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [raw, '{"a":2,"b":1}']


def test_invalid_arguments_are_not_replayed() -> None:
    message = replayed(
        "openai", TextPart("t"), ToolCall("c", "add", {}, '{"a":', True), ToolCall("d", "x", {}, "null")
    )
    assert message["content"] == "t"
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ["{}", "{}"]


def test_custom_calls() -> None:
    call = replayed("openai", ToolCall("c", "run", {"input": "ls"}, "ls", kind="custom"))["tool_calls"][0]
    assert call == {"id": "c", "type": "custom", "custom": {"name": "run", "input": "ls"}}


def test_tool_messages() -> None:
    calls = assistant([ToolCall("c", "add"), ToolCall("d", "add")])
    shown = tool_result("d", [TextPart("x"), ImagePart(Image.from_url("u"))])
    messages = sent(messages=(user("q"), calls, tool_result("c", "3"), shown))["messages"]
    assert messages[2] == {"role": "tool", "tool_call_id": "c", "content": "3"}
    assert [message["role"] for message in messages[3:]] == ["tool", "user"]  # pictures stand in a message
    assert messages[4]["content"][-1] == {"type": "image_url", "image_url": {"url": "u"}}


def test_what_was_left_out_is_told() -> None:
    foreign = assistant([ReasoningPart("t", origin=Origin("gemini")), TextPart("a")])
    request = encoded(model="m", messages=(user("q"), foreign, user("?")))
    assert [warning.partition(":")[0] for warning in request.warnings] == ["dropped"]
    open_tool = ToolSpec("f", schema={"type": "object", "additionalProperties": True}, strict=True)
    assert any("tool f" in warning for warning in encoded(model="m", tools=(open_tool,)).warnings)


def test_orphans() -> None:
    thread = (user("q"), assistant([ToolCall("c", "add")]), user("?"))
    assert [message["role"] for message in sent(messages=thread)["messages"]][2] == "tool"
    with pytest.raises(ValidationError):
        sent(ctx=CallContext(orphans="refuse"), messages=thread)


def test_target() -> None:
    assert OpenAIChat("groq").target(Request(model="m"), CallContext()) == Origin("groq", "chat", "m")


def test_reasoning_and_cache_as_objects() -> None:
    body = sent(
        reasoning={"effort": "low", "verbosity": "high", "summary": "auto"},
        prompt_cache={"key": "k", "retention": "long", "prompt_cache_options": {"mode": "explicit"}},
    )
    assert (body["reasoning_effort"], body["verbosity"], body["prompt_cache_key"]) == ("low", "high", "k")
    assert (body["prompt_cache_retention"], body["prompt_cache_options"]) == ("24h", {"mode": "explicit"})
    assert "prompt_cache_key" not in sent("groq", prompt_cache="k")


def test_reasoning_goes_back_to_its_origin_only() -> None:
    details = [{"type": "reasoning.text", "text": "t", "signature": "s"}]
    table: dict[str, dict[str, Any]] = {
        "deepseek": {"reasoning_content": "t"},
        "openrouter": {"reasoning_details": details},
        "openai": {},
    }
    for provider, expected in table.items():
        part = ReasoningPart("t", provider_data={"reasoning_details": details}, origin=Origin(provider))
        message = replayed(provider, part, TextPart("a"))
        assert message == {"role": "assistant", "content": "a", **expected}
        foreign = replayed(provider, ReasoningPart("t", origin=Origin("elsewhere")), TextPart("a"))
        assert foreign == {"role": "assistant", "content": "a"}
    assert replayed("mistral", ReasoningPart("t", origin=Origin("mistral")), TextPart("a"))["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "t"}]},
        {"type": "text", "text": "a"},
    ]


def test_opaque_parts_and_signatures_of_others_stay_here() -> None:
    mine, other = Origin("openai"), Origin("gemini")
    assert replayed("openai", OpaquePart({"type": "x"}, origin=mine))["content"] == [{"type": "x"}]
    assert replayed("openai", OpaquePart({"type": "x"}, origin=other), TextPart("t"))["content"] == "t"
    data = {"extra_content": {"google": {"thought_signature": "s"}}}
    call = replayed("openai", ToolCall("c", "f", provider_data=data, origin=mine))["tool_calls"][0]
    assert call["extra_content"] == data["extra_content"]
    assert (
        "extra_content"
        not in replayed("openai", ToolCall("c", "f", provider_data=data, origin=other))["tool_calls"][0]
    )


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValidationError, match="lone_surrogate"):
        encoded(model="m", messages=(user("\ud800"),))


def test_names() -> None:
    assert sent(messages=(Message("user", "hi", name="ann"),))["messages"][0]["name"] == "ann"


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "API-KEY", "cookie"])
def test_credentials_in_headers_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="credential"):
        sent(ctx=CallContext(adapter_options={"headers": {name: "x"}}))


def test_headers() -> None:
    options = {"headers": {"X-Title": "me"}, "organization": "o", "project": "p"}
    headers = encoded("openai", CallContext(adapter_options=options), model="m").headers
    assert headers["x-title"] == "me"
    assert (headers["openai-organization"], headers["openai-project"]) == ("o", "p")
    with pytest.raises(ConfigurationError, match="line break"):
        encoded("openai", CallContext(adapter_options={"headers": {"x": "a\r\nb: c"}}))


def test_addresses() -> None:
    def url(provider: str, address: str | None = None, /, **options: Any) -> str:
        return encoded(provider, CallContext(base_url=address, adapter_options=options), model="m").url

    assert url("groq") == "https://api.groq.com/openai/v1/chat/completions"
    assert url("openai", "http://h/v1/", base_url="http://other") == "http://h/v1/chat/completions"
    assert url("openai", base_url="http://other") == "http://other/chat/completions"
    azure = "https://n.openai.azure.com/openai/deployments/d"
    assert url("azure", azure, api_version="2026-01-01") == f"{azure}/chat/completions?api-version=2026-01-01"
    assert url("azure", f"{azure}?api-version=1") == f"{azure}/chat/completions?api-version=1"
    with pytest.raises(ConfigurationError, match="base_url"):
        url("azure")


def test_registry() -> None:
    assert tuple(TABLE) == COMPATIBLE
    for name in COMPATIBLE:
        assert isinstance(resolve(name), WireAdapter)
        assert resolve(name) is resolve(f"compatible:{name}")
    assert resolve("openai") is resolve("openai")
    assert split_model("compatible", "groq/llama") == ("groq", "llama")
    assert split_model("openrouter", "meta/llama") == ("openrouter", "meta/llama")
    ref = ModelRef.parse("compatible:groq/meta/llama")
    assert split_model(ref.provider, ref.id) == ("groq", "meta/llama")
    with pytest.raises(UnknownProviderError, match="did you mean 'groq'"):
        resolve("grok")
    with pytest.raises(UnknownProviderError):
        adapter("nobody")


def test_registering() -> None:
    mine = OpenAIChat("mine", "http://h/v1")
    register_provider("mine_here", lambda: mine)
    assert resolve("mine_here") is mine
    for name in ("openai", "groq", "a:b", ""):
        with pytest.raises(ConfigurationError):
            register_provider(name, lambda: mine)


def test_keyless_servers() -> None:
    for name in ("ollama", "lmstudio", "vllm", "llamacpp", "compatible"):
        assert adapter(name).key.required is False
    assert adapter("azure").key.header == "api-key"


REFUSALS = [
    (400, '{"error":{"message":"m","code":"context_length_exceeded"}}', "context_length_exceeded", "m"),
    (400, '{"error":{"message":"the maximum context length is 5"}}', "context_length_exceeded", "maximum"),
    (429, '{"error":{"message":"m","type":"insufficient_quota"}}', "quota_exceeded", "m"),
    (400, '{"error":"Incorrect API key provided: xai-abcdefghijk"}', "authentication_failed", "[redacted]"),
    (401, '{"object":"error","message":"No.","type":"a","code":1}', "authentication_failed", "No."),
    (422, '{"detail":[{"loc":["body","x"],"msg":"bad"}]}', "invalid_request", "body.x: bad"),
    (400, '[{"error":{"code":400,"message":"API key not valid"}}]', "authentication_failed", "not valid"),
    (500, "", "provider_unavailable", "HTTP status 500"),
    (502, "<html><body>Bad", "provider_unavailable", "an HTML page"),
    (503, "busy", "overloaded", "busy"),
    (404, "[" * 5000, "not_found", "["),
    (402, "null", "quota_exceeded", "402"),
    (409, "{}", "invalid_request", "409"),
    (
        400,
        '{"error":{"message":"P","metadata":{"provider_name":"V","raw":"{\\"error\\":\\"deep\\"}"}}}',
        "invalid_request",
        "V: deep",
    ),
]


@pytest.mark.parametrize(("status", "body", "reason", "text"), REFUSALS)
def test_refusals(status: int, body: str, reason: str, text: str) -> None:
    info = OpenAIChat().explain(status, {"X-Request-Id": "r1"}, body.encode())
    assert info.reason == reason
    assert text in info.message
    assert (info.status, info.request_id, info.provider) == (status, "r1", "openai")
    assert len(info.message) <= 1000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "inf"}, 1e9),
        ({"retry-after": "1" * 400}, 1e9),
        ({"retry-after": "86400"}, 86400.0),
        *(({"retry-after": value}, None) for value in ("nan", "-1", "0", "soon", "", "Wed, 99 Oct 2026")),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert OpenAIChat().explain(429, headers, b"{}").retry_after == seconds


@pytest.mark.parametrize(
    "key",
    [
        "sk-abcdefgh12345678",
        "sk-proj-abc_def-123456",
        "rk-abcdefgh1234",
        "gsk_abcdefgh1234",
        "AIzaSyA1234567890abcdef",
    ],
)
def test_keys_in_messages_are_redacted(key: str) -> None:
    for body in (f'{{"error":"the key {key} is bad"}}', f"Bearer {key}", f'{{"error":{{"code":"{key}"}}}}'):
        info = OpenAIChat().explain(401, {}, body.encode())
        assert key not in repr(info)
