"""Rows C of the parity table: engine, options, keys, capability."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import allm
from allm.options import NAMES, REQUEST_FIELDS
from allm.ports import CallContext
from allm.providers import resolve
from tests.four_dialects import DIALECTS, Dialect
from tests.parity.support import ANSWER, SSE, Transport, wired
from tests.test_loop import double, named


class Half:
    """Two of the three parts of a `WireAdapter`."""

    name = "half"

    def encode(self, request: Any, ctx: Any) -> Any: ...

    def explain(self, status: Any, headers: Any, body: Any) -> Any: ...


@pytest.mark.parametrize("slot", ["adapter", "image_adapter", "embed_adapter"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (7, "'int' is neither: it has none of complete, acomplete, stream, astream"),
        (Half(), "it has encode, explain and lacks decoder"),
        (Half, r"write Half\(\.\.\.\), not the class"),
    ],
)
def test_f042_an_adapter_that_is_none_is_refused_when_the_engine_is_made(
    slot: Any, given: Any, why: str
) -> None:
    with pytest.raises(allm.ConfigurationError, match=why) as caught:
        allm.Engine("m", **{slot: given})
    assert slot in str(caught.value)
    with pytest.raises(allm.ConfigurationError, match=why):
        allm.Engine("fake").merge(**{slot: given})


def test_f043_engines_do_not_change() -> None:
    engine = allm.Engine("openai:m")
    others = (
        engine.put_tools([double]),
        engine.put_tool(double),
        engine.put_param("seed", 1),
        engine.put_context("a", 1),
        engine.with_model("openai:n"),
        engine.merge(system="s"),
    )
    assert engine == allm.Engine("openai:m")
    assert all(other != engine for other in others)
    with pytest.raises(AttributeError):
        engine.model = "openai:n"


def test_f044_f047_the_call_wins_and_what_the_engine_sets_reaches_a_chat() -> None:
    transport = Transport()
    engine = wired(transport, params={"temperature": 0.5, "max_tokens": 5})
    allm.chat(engine, "hi", api_key="k")
    allm.chat(engine, "hi", api_key="k", model="gpt-4.1", temperature=1.0)
    first, second = transport.sent
    assert (first["model"], first["temperature"], first["max_completion_tokens"]) == ("gpt-4.1-mini", 0.5, 5)
    assert (second["model"], second["temperature"], second["max_completion_tokens"]) == ("gpt-4.1", 1.0, 5)


# One value of every option of the library that must not be seen on the wire.
OF_THE_LIBRARY: dict[str, Any] = {
    "api_key": "k",
    "adapter_options": {"follow_pauses": True},
    "on_unsupported": "adapt",
    "orphans": "answer",
    "mode": "auto",
    "max_turns": 3,
    "halt_when": lambda step: False,
    "until_tool": None,
    "prices": {"m": allm.Price(input=1)},
    "on_tool_error": "halt",
    "tool_timeout": 1.0,
    "max_concurrency": 1,
    "tool_executor": None,
    "tool_result_encoder": None,
    "context": {"a": 1},
    "session_id": "s",
    "request_id": "r",
    "retry": False,
    "timeouts": allm.Timeouts(),
    "limits": allm.Limits(),
    "emit_text_deltas": False,
    "emit_tool_deltas": False,
    "include_raw_chunks": True,
    "on_event": lambda event: None,
    "observers": (),
    "raise_on_error": False,
    "structured_finalize": False,
    "structured_finalize_nudge": "",
    "output_retries": 1,
    "middleware": (),
    "budget": None,
    "fallbacks": (),
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_f048_options_of_the_library_stay_here(dialect: Dialect) -> None:
    def sent(**options: Any) -> bytes:
        transport = Transport((400, {}, (b"{}",)))
        engine = dialect.engine("https://example.invalid", transport=transport)
        allm.chat(engine, "hi", **{"api_key": "k", "raise_on_error": False, "retry": False, **options})
        return transport.requests[0].body

    assert sent(**{name: value for name, value in OF_THE_LIBRARY.items() if name in NAMES}) == sent()


def test_f048_no_option_is_forgotten() -> None:
    of_the_request = {*REQUEST_FIELDS, "model", "tools"}
    unknown = set(NAMES) - of_the_request - set(OF_THE_LIBRARY)
    assert not unknown, "say here whether these go to the provider"


def test_f051_an_engine_keeps_its_id() -> None:
    engine = allm.Engine("openai:m")
    assert engine.with_model("openai:n").put_tool(double).merge(system="s").id == engine.id
    assert allm.Engine("openai:m").id != engine.id


@pytest.mark.usefixtures("clean")
def test_f052_the_key_of_the_call_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of the environment")
    transport = Transport()
    allm.generate(wired(transport), "hi")
    allm.generate(wired(transport), "hi", api_key="of the call")
    assert transport.keys == [
        ("authorization", "Bearer of the environment"),
        ("authorization", "Bearer of the call"),
    ]


@pytest.mark.usefixtures("clean")
def test_f057_what_is_wrong_with_the_request_is_said_before_a_missing_key() -> None:
    engine = allm.Engine("openai:gpt-4.1-mini")
    with pytest.raises(allm.ValidationError):
        allm.stream(engine, [])
    with pytest.raises(allm.UnsupportedError):
        allm.stream(engine, "hi", reasoning="high", on_unsupported="raise")
    with pytest.raises(allm.MissingKeyError):
        allm.stream(engine, "hi")


def test_f058_tenants_share_an_engine_and_not_their_keys() -> None:
    transport = Transport((200, SSE, ANSWER))
    engine = wired(transport)
    both = threading.Barrier(2)

    def work(tenant: str) -> None:
        both.wait(10)
        for _ in range(20):
            allm.generate(engine, tenant, api_key=f"key of {tenant}")

    threads = [threading.Thread(target=work, args=(tenant,)) for tenant in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = zip(transport.sent, transport.keys, strict=True)
    assert all(key == ("authorization", f"Bearer key of {s['messages'][0]['content']}") for s, key in pairs)
    assert len(transport.keys) == 40


def test_f061_what_would_be_sent_can_be_had_without_sending() -> None:
    transport = Transport()
    allm.generate(wired(transport), "hi", api_key="k", temperature=0.5)
    request = allm.Request(messages=(allm.user("hi"),), model="gpt-4.1-mini", temperature=0.5)
    ctx = CallContext(adapter_options={"endpoint": "chat"})
    assert resolve("openai").encode(request, ctx) == transport.requests[0]


def test_f046_tools_of_the_call_replace_in_place() -> None:
    def tools(level: str, *names: str) -> list[allm.Tool]:
        return [named(name, str, description=level) for name in names]

    transport = Transport()
    engine = wired(transport, tools=tools("engine", "a", "b", "c"))
    allm.generate(engine, "hi", api_key="k", tools=tools("call", "b", "d"))
    assert [(t["function"]["name"], t["function"]["description"]) for t in transport.sent[0]["tools"]] == [
        ("a", "engine"), ("b", "call"), ("c", "engine"), ("d", "call"),
    ]  # fmt: skip
