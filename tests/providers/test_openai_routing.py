"""Which endpoint a request goes to."""

from __future__ import annotations

from typing import Any

import pytest

from allm.capabilities import register_capabilities, unregister_capabilities
from allm.data.content import AudioPart, Origin
from allm.data.messages import user
from allm.data.requests import Request
from allm.errors import ConfigurationError
from allm.ports import CallContext, HttpHead, WireAdapter
from allm.providers.compatible import adapter
from allm.providers.openai import OpenAI, cache_fields

RESPONSES, CHAT = "responses", "chat"


def endpoint(openai: OpenAI, base_url: str | None = None, *, options: Any = None, **fields: Any) -> str:
    """The endpoint, seen in the address; the other methods must agree."""
    fields.setdefault("messages", (user("hi"),))
    ctx = CallContext(base_url=base_url, adapter_options=options or {})
    request = Request(**fields)
    url = openai.encode(request, ctx).url.partition("?")[0]
    found = RESPONSES if url.endswith("/responses") else CHAT
    assert found == RESPONSES or url.endswith("/chat/completions")
    assert openai.target(request, ctx) == Origin(openai.name, found, request.model or "")
    decoder: Any = openai.decoder(request, HttpHead(200), ctx)
    assert type(decoder._turn).__name__ == {RESPONSES: "ResponsesTurn", CHAT: "ChatTurn"}[found]
    return found


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-6-luna", RESPONSES),
        ("gpt-5.6-sol", RESPONSES),
        ("o3", RESPONSES),
        ("gpt-9-unheard-of", RESPONSES),
        (None, RESPONSES),
        ("gpt-4o", CHAT),
        ("gpt-4", CHAT),
        ("gpt-3.5-turbo", CHAT),
        ("chatgpt-4o-latest", CHAT),
        ("ft:gpt-4o-mini:team::id", CHAT),
        ("gpt-4o-search-preview", CHAT),
        ("gpt-audio", CHAT),
    ],
)
def test_by_model(model: str | None, expected: str) -> None:
    assert endpoint(OpenAI(), model=model) == expected


def test_the_option_wins() -> None:
    assert endpoint(OpenAI(), model="gpt-4o", options={"endpoint": RESPONSES}) == RESPONSES
    assert endpoint(OpenAI(), model="gpt-6-luna", options={"endpoint": CHAT}) == CHAT
    assert endpoint(OpenAI(), "http://h/v1/responses", options={"endpoint": CHAT}) == CHAT
    assert endpoint(adapter("groq"), model="m", options={"endpoint": RESPONSES}) == RESPONSES
    with pytest.raises(ConfigurationError, match="'responses' and 'chat'"):
        endpoint(OpenAI(), options={"endpoint": "completions"})


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com/v1", RESPONSES),
        ("https://eu.api.openai.com/v1/", RESPONSES),
        ("https://h/v1/responses", RESPONSES),
        ("https://h/v1/responses/?a=b", RESPONSES),
        ("https://api.openai.com/v1/chat/completions", CHAT),
        ("http://localhost:8000/v1", CHAT),
        ("https://api.openai.com.evil.example/v1", CHAT),
    ],
)
def test_by_address(base_url: str, expected: str) -> None:
    assert endpoint(OpenAI(), base_url, model="gpt-6-luna") == expected


def test_addresses_are_whole() -> None:
    def url(base_url: str, **options: Any) -> str:
        ctx = CallContext(base_url=base_url, adapter_options=options)
        return OpenAI().encode(Request(model="m", messages=(user("q"),)), ctx).url

    assert url("http://h/v1/chat/completions", endpoint=RESPONSES) == "http://h/v1/responses"
    assert url("http://h/v1/responses?x=1", api_version="v") == "http://h/v1/responses?x=1&api-version=v"


def test_what_only_chat_has() -> None:
    assert endpoint(OpenAI(), model="gpt-6-luna", messages=(user([AudioPart(b"a")]),)) == CHAT
    wanted = Request(model="gpt-6-luna", messages=(user("q"),), options={"n": 2})
    assert OpenAI().target(wanted, CallContext()).endpoint == CHAT


def test_by_the_capability_table() -> None:
    register_capabilities("openai", "my-*", endpoint=CHAT)
    try:
        assert endpoint(OpenAI(), model="my-model") == CHAT
    finally:
        unregister_capabilities("openai", "my-*")
    assert endpoint(OpenAI(), model="my-model") == RESPONSES


@pytest.mark.parametrize("name", ["groq", "openrouter", "xai", "vllm", "ollama", "lmstudio", "llamacpp"])
def test_other_servers_are_asked_in_chat_completions(name: str) -> None:
    assert endpoint(adapter(name), model="openai/gpt-6-luna") == CHAT
    assert endpoint(adapter(name), model="m", options={"endpoint": RESPONSES}) == RESPONSES


def test_it_is_an_adapter() -> None:
    openai = OpenAI()
    assert isinstance(openai, WireAdapter)
    assert repr(openai) == "OpenAI('openai')"
    assert openai.explain(429, {}, b"").reason == "rate_limited"


def test_cache_fields() -> None:
    assert cache_fields("k") == {"prompt_cache_key": "k"}
    assert cache_fields({"retention": "long", "ttl": 1}) == {"prompt_cache_retention": "24h", "ttl": 1}
    assert cache_fields({"key": "", "retention": "short"}) == {}
