"""The capability table, its lookup, and the pre-flight of a request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import msgspec
import pytest

from allm import capabilities as table
from allm.capabilities import (
    EFFORTS,
    TABLE,
    Capabilities,
    capabilities_of,
    preflight,
    register_capabilities,
    unregister_capabilities,
)
from allm.data.content import AudioPart, FilePart, Image, ImagePart, OpaquePart, TextPart, ToolCall
from allm.data.messages import Message, assistant, system, tool_result, user
from allm.data.requests import Request, ResponseFormat, ToolSpec, json_schema
from allm.errors import UnknownOptionError, UnsupportedError, ValidationError

HELLO = (user("Hello"),)
TOOLS = (ToolSpec("look", "Looks.", {"type": "object", "properties": {}}),)
PICTURE = ImagePart(Image.from_url("https://example.com/a.png"))


def request(model: str = "gpt-6-luna", **fields: Any) -> Request:
    return Request(model=model, **{"messages": HELLO, **fields})


def checked(provider: str, model: str, endpoint: str = "", **fields: Any) -> tuple[Request, str]:
    """What `adapt` makes of it: the request and all warnings as one text."""
    found, warnings = preflight(request(model, **fields), provider, endpoint)
    return found, "\n".join(warnings)


def refused(
    provider: str, model: str, endpoint: str = "", mode: str = "adapt", **fields: Any
) -> dict[str, str]:
    """The findings of a refusal, by path."""
    with pytest.raises(UnsupportedError) as caught:
        preflight(request(model, **fields), provider, endpoint, mode)
    assert caught.value.reason == "unsupported"
    return dict(caught.value.errors)


@pytest.fixture
def registry() -> Iterator[None]:
    before = table._table
    yield
    table._table = before


# The table


def test_every_row_is_of_known_facts_with_a_date() -> None:
    for row in TABLE:
        facts = msgspec.convert(row.facts, Capabilities)
        assert date.fromisoformat(facts.as_of or "") <= date(2026, 11, 30)
        assert row.endpoint in ("", "chat", "responses", "messages", "generate")
        assert row.patterns == tuple(pattern.lower() for pattern in row.patterns)


def test_efforts_are_known_words_in_order() -> None:
    for row in TABLE:
        efforts = row.facts.get("efforts") or ()
        assert list(efforts) == sorted(efforts, key=EFFORTS.index)
        assert row.facts.get("default_effort") in (None, *EFFORTS)


@pytest.mark.parametrize(
    ("model", "sampling", "efforts", "default"),
    [
        ("gpt-6-astra", False, "low medium high xhigh max", "medium"),
        ("gpt-6.1-sol-2026-10-01", False, "low medium high xhigh max", "medium"),
        ("gpt-6.1-terra", "without_reasoning", "none low medium high xhigh max", "medium"),
        ("gpt-6-luna", "without_reasoning", "none low medium high xhigh max", "medium"),
        ("gpt-5.6-sol", "without_reasoning", "none low medium high xhigh max", "medium"),
        ("gpt-5.5", "without_reasoning", "none low medium high xhigh", "medium"),
        ("gpt-5.5-pro", False, "medium high xhigh", "medium"),
        ("gpt-5.4-mini", "without_reasoning", "none low medium high xhigh", "none"),
        ("gpt-5.2-chat-latest", False, "medium", "medium"),
        ("gpt-5.1", "without_reasoning", "none low medium high", "none"),
        ("gpt-5.1-codex-max", False, "low medium high xhigh", "medium"),
        ("gpt-5-pro", False, "high", "high"),
        ("gpt-5-mini", False, "minimal low medium high", "medium"),
        ("o4-mini", False, "low medium high", "medium"),
    ],
)
def test_reasoning_of_openai(model: str, sampling: Any, efforts: str, default: str) -> None:
    caps = capabilities_of("openai", model, "responses")
    assert (caps.sampling, caps.efforts, caps.default_effort) == (sampling, tuple(efforts.split()), default)
    assert caps.reasons is True
    assert caps.endpoint == "responses"


def test_models_of_openai_that_do_not_reason() -> None:
    for model in ("gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "gpt-5-chat-latest"):
        caps = capabilities_of("openai", model)
        assert (caps.reasons, caps.sampling, caps.efforts) == (False, True, None)


def test_chat_and_responses_of_openai_differ() -> None:
    chat, responses = (capabilities_of("openai", "gpt-5.6-terra", name) for name in ("chat", "responses"))
    assert "max" not in (chat.efforts or ())
    assert "max" in (responses.efforts or ())
    assert (chat.tools_with_reasoning_on_chat, responses.tools_with_reasoning_on_chat) == (False, None)
    assert (chat.seed, responses.seed) == (None, False)
    assert capabilities_of("openai", "gpt-5.5", "chat").tools_with_reasoning_on_chat is None


@pytest.mark.parametrize(
    ("model", "thinking", "off", "budgets", "forced", "most"),
    [
        ("claude-fable-5-2", "adaptive", "never", False, False, 128_000),
        ("claude-fable-5-20260701", "adaptive", "never", False, None, 128_000),
        ("claude-mythos-5-1", "adaptive", "never", False, False, 128_000),
        ("claude-opus-5-5", "adaptive", "never", False, False, 128_000),
        ("claude-sonnet-5-5", "adaptive", "between_tools", False, False, 128_000),
        ("claude-haiku-5-5", "adaptive", "disabled", False, None, 128_000),
        ("claude-sonnet-5", "adaptive", "disabled", False, None, 128_000),
        ("claude-opus-4-8", "adaptive", "disabled", False, None, 128_000),
        ("claude-sonnet-4-6", "adaptive", "disabled", True, None, 128_000),
        ("claude-sonnet-4-5-20250929", "budget", "disabled", True, None, 64_000),
        ("claude-opus-4-1", "budget", "disabled", True, None, 32_000),
        ("claude-3-7-sonnet-20250219", "budget", "disabled", True, None, 64_000),
        ("claude-3-5-haiku-20241022", None, None, None, None, 8192),
    ],
)
def test_thinking_of_anthropic(
    model: str, thinking: str, off: str, budgets: bool, forced: bool, most: int
) -> None:
    caps = capabilities_of("anthropic", model, "messages")
    assert (caps.thinking, caps.thinking_off, caps.budgets) == (thinking, off, budgets)
    assert (caps.forced_tool_choice, caps.max_output_tokens) == (forced, most)
    assert ("none" in (caps.efforts or ())) == (off in ("disabled", "between_tools"))


def test_structured_output_of_anthropic() -> None:
    native = (
        "claude-opus-4-1 claude-haiku-4-5 claude-sonnet-4-6 claude-opus-4-7 claude-fable-5 claude-haiku-5-5"
    )
    for model in native.split():
        assert capabilities_of("anthropic", model).structured == "native"
    for model in ("claude-sonnet-4-20250514", "claude-3-5-sonnet-20241022"):
        assert capabilities_of("anthropic", model).structured == "tool"


@pytest.mark.parametrize(
    ("model", "efforts"),
    [
        ("gemini-4-argon", "low medium high"),
        ("gemini-3.8-flash", "low medium high"),
        ("gemini-3.5-flash", "minimal low medium high"),
        ("gemini-3.1-pro-preview", "low medium high"),
        ("gemini-3.1-flash-lite-image", "minimal high"),
        ("gemini-2.5-flash", " ".join(EFFORTS)),
        ("gemini-2.5-pro", "minimal low medium high xhigh max"),
    ],
)
def test_efforts_of_gemini(model: str, efforts: str) -> None:
    assert capabilities_of("gemini", model, "generate").efforts == tuple(efforts.split())


# Lookup


@pytest.mark.parametrize(
    ("provider", "model", "like"),
    [
        ("gemini", "models/gemini-4-argon", "gemini-4-argon"),
        ("openai", "ft:gpt-4.1-mini-2025-04-14:team::abc", "gpt-4.1-mini"),
        ("openai", "GPT-6-Luna", "gpt-6-luna"),
        ("anthropic", "us.anthropic.claude-opus-5-5-v1:0", "claude-opus-5-5"),
        ("anthropic", "claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("anthropic", "anthropic/claude-opus-5.5", "claude-opus-5-5"),
    ],
)
def test_an_id_is_known_by_its_other_spellings(provider: str, model: str, like: str) -> None:
    assert capabilities_of(provider, model) == capabilities_of(provider, like)
    assert capabilities_of(provider, like).reasons is not None


def test_a_host_of_others_models_has_the_facts_of_the_model_alone() -> None:
    hosted = capabilities_of("openrouter", "openai/gpt-5-mini", "chat")
    assert (hosted.images, hosted.audio, hosted.max_output_tokens) == (True, False, 128_000)
    assert (hosted.efforts, hosted.sampling, hosted.stop, hosted.endpoint) == (None, None, None, None)
    assert capabilities_of("bedrock", "eu.anthropic.claude-opus-4-6-v1").max_output_tokens == 128_000


def test_azure_serves_the_models_of_openai() -> None:
    assert capabilities_of("azure", "gpt-5.1", "chat") == capabilities_of("openai", "gpt-5.1", "chat")


def test_an_unknown_model_is_unknown() -> None:
    assert capabilities_of("acme", "whatever-7") == Capabilities()
    assert capabilities_of("ollama", "gpt-4o") == Capabilities()


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("a*", "abc", True), ("a*", "ba", False), ("*c", "abc", True), ("a*c", "ac", True),
        ("a*b*c", "axbxc", True), ("a*b*c", "acb", False), ("ab", "ab", True), ("ab", "abc", False),
        ("a*a", "a", False), ("*", "", True), ("*b*", "abc", True), ("*x*", "abc", False),
        ("a*bc*c", "abc", False),
    ],
)  # fmt: skip
def test_a_star_is_any_text(pattern: str, name: str, fits: bool) -> None:
    assert table._fits(pattern, name) is fits


@pytest.mark.usefixtures("registry")
def test_a_users_row_is_above_the_built_in_ones_until_it_is_taken_back() -> None:
    before = capabilities_of("openai", "gpt-6-luna", "chat")
    register_capabilities("openai", "GPT-6-*", images=False, efforts=["low"])
    register_capabilities("openai", "gpt-6-luna", dialect="chat", stop=None)
    caps = capabilities_of("openai", "gpt-6-luna", "chat")
    assert (caps.images, caps.efforts, caps.stop) == (False, ("low",), None)
    assert capabilities_of("openai", "gpt-6-luna", "responses").stop == 0
    unregister_capabilities("openai", "GPT-6-*")
    unregister_capabilities("openai", "gpt-6-luna", dialect="chat")
    unregister_capabilities("openai", "never-there")
    assert capabilities_of("openai", "gpt-6-luna", "chat") == before


@pytest.mark.usefixtures("registry")
def test_the_same_pattern_again_replaces_the_row() -> None:
    register_capabilities("acme", "*", images=False, tools=False)
    register_capabilities("acme", "*", images=True)
    assert capabilities_of("acme", "any") == Capabilities(images=True)


def test_a_fact_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="unknown capability 'image'; did you mean 'images'"):
        register_capabilities("acme", "*", image=True)


@pytest.mark.parametrize(
    ("facts", "path"),
    [
        ({"images": "yes"}, "images"),
        ({"sampling": "sometimes"}, "sampling"),
        ({"efforts": ["much"]}, "efforts"),
        ({"default_effort": "much"}, "default_effort"),
        ({"efforts": "high"}, "efforts"),
    ],
)
def test_a_fact_of_the_wrong_kind_is_refused(facts: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        register_capabilities("acme", "*", **facts)
    assert caught.value.errors[0][0] == path


def test_what_was_looked_up_is_kept_within_bounds(registry: None) -> None:
    table._install({})
    for number in range(table._MAX_KNOWN + 2):
        capabilities_of("acme", f"model-{number}")
    assert len(table._table.known) <= table._MAX_KNOWN
    assert capabilities_of("acme", "model-1") is capabilities_of("acme", "model-1")


# Pre-flight: modes


def test_a_plain_request_is_the_same_object() -> None:
    plain = request()
    for mode in ("adapt", "raise", "pass"):
        found, warnings = preflight(plain, "openai", "responses", mode)
        assert found is plain
        assert warnings == ()


def test_pass_sends_everything_as_it_is() -> None:
    wild = request("gpt-6-astra", temperature=0.1, reasoning="none", seed=1, tools=TOOLS)
    assert preflight(wild, "openai", "chat", "pass") == (wild, ())


def test_another_word_is_refused() -> None:
    with pytest.raises(ValidationError, match="on_unsupported: must_be_adapt_raise_or_pass"):
        preflight(request(), "openai", "chat", "drop")


def test_raise_names_everything_at_once() -> None:
    found = refused(
        "openai", "gpt-6-astra", "responses", "raise",
        temperature=0.1, top_p=0.5, seed=3, stop=("END",), reasoning="minimal",
    )  # fmt: skip
    assert found.keys() == {"temperature", "top_p", "seed", "stop", "reasoning"}
    assert found["seed"] == (
        "seed_refused: gpt-6-astra takes none at this endpoint; with on_unsupported='adapt' it is left out"
    )


def test_adapt_leaves_out_and_says_so() -> None:
    found, warnings = preflight(
        request("gpt-6-astra", temperature=0.1, top_p=0.5, seed=3, stop=("END",)), "openai", "responses"
    )
    assert found == request("gpt-6-astra")
    assert warnings == (
        "temperature is left out: gpt-6-astra takes no temperature",
        "top_p is left out: gpt-6-astra takes no top_p",
        "seed is left out: gpt-6-astra takes none at this endpoint",
        "stop is left out: gpt-6-astra takes no stop sequences at this endpoint",
    )


def test_an_unknown_model_passes() -> None:
    wild = request("m", temperature=0.1, reasoning="max", seed=1, tools=TOOLS, tool_choice="required")
    assert preflight(wild, "acme", "chat", "raise") == (wild, ())


# Reasoning


@pytest.mark.parametrize(
    ("provider", "model", "asked", "taken"),
    [
        ("openai", "gpt-6-luna", "max", "max"),
        ("openai", "gpt-6-luna", "minimal", "low"),  # never none
        ("openai", "gpt-6-astra", "none", "low"),
        ("openai", "gpt-5-pro", "low", "high"),
        ("openai", "gpt-5.1", "max", "high"),
        ("anthropic", "claude-sonnet-4-6", "xhigh", "high"),  # the lower of two
        ("anthropic", "claude-sonnet-5", "minimal", "low"),
        ("gemini", "gemini-4-argon", "none", "low"),
        ("gemini", "gemini-3.5-flash", "none", "minimal"),
        ("gemini", "gemini-3.1-flash-lite-image", "medium", "high"),
        ("xai", "grok-code-fast-1", "high", None),
        ("groq", "qwen/qwen3-32b", "high", None),
        ("groq", "qwen/qwen3-32b", "none", "none"),
    ],
)
def test_an_effort_becomes_the_nearest(provider: str, model: str, asked: str, taken: str | None) -> None:
    for option, wanted in ((asked, taken), ({"effort": asked}, {"effort": taken} if taken else None)):
        found, warnings = checked(provider, model, "responses", reasoning=option)
        assert found.reasoning == wanted
        assert ("reasoning" in warnings) == (asked != taken)


def test_what_else_is_said_of_reasoning_stays() -> None:
    found, _ = checked("openai", "gpt-5.1", "chat", reasoning={"effort": "max", "summary": "auto"})
    assert found.reasoning == {"effort": "high", "summary": "auto"}


def test_a_model_that_does_not_reason() -> None:
    found, warnings = checked("openai", "gpt-4o", "chat", reasoning="high")
    assert found.reasoning is None
    assert warnings == "reasoning is left out: gpt-4o does not reason"
    assert preflight(request("gpt-4o", reasoning="none"), "openai", "chat", "raise") == (
        request("gpt-4o"),
        (),
    )


@pytest.mark.parametrize(
    ("budget", "effort"),
    [(0, "none"), (2000, "low"), (8000, "medium"), (16_000, "high"), (50_000, "max"), (-1, "medium")],
)
def test_a_budget_becomes_an_effort_where_none_is_taken(budget: int, effort: str) -> None:
    found, warnings = checked(
        "anthropic", "claude-sonnet-5", reasoning={"budget_tokens": budget, "display": "omitted"}
    )
    assert found.reasoning == {"effort": effort, "display": "omitted"}
    assert warnings == (
        f"reasoning became the effort {effort!r}: claude-sonnet-5 takes an effort, not budget_tokens"
    )


def test_a_budget_stays_where_it_is_taken() -> None:
    option = {"budget_tokens": 4000}
    assert checked("anthropic", "claude-sonnet-4-5", reasoning=option)[0].reasoning == option


@pytest.mark.parametrize("reasoning", ["much", {"effort": "much"}, {"effort": 3}])
def test_an_unknown_effort_names_the_words(reasoning: Any) -> None:
    with pytest.raises(ValidationError, match="none, minimal, low, medium, high, xhigh, max"):
        checked("acme", "m", reasoning=reasoning)


def test_a_budget_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"reasoning\.budget_tokens: must_be_an_integer"):
        checked("acme", "m", reasoning={"budget_tokens": "many"})


# Sampling


@pytest.mark.parametrize(
    ("model", "reasoning", "kept"),
    [
        ("gpt-6-luna", None, False),  # it reasons when nothing is said
        ("gpt-6-luna", "none", True),
        ("gpt-5.4", None, True),
        ("gpt-5.4", "low", False),
        ("gpt-4o", None, True),
    ],
)
def test_sampling_goes_with_no_reasoning(model: str, reasoning: str | None, kept: bool) -> None:
    found, warnings = checked("openai", model, "responses", temperature=0.2, reasoning=reasoning)
    assert found.temperature == (0.2 if kept else None)
    assert ("while it reasons" in warnings) != kept


def test_sampling_as_it_is_anyway_goes_without_a_word() -> None:
    plain = request("claude-opus-5-5")
    assert preflight(
        request("claude-opus-5-5", temperature=1, top_p=1.0), "anthropic", "messages", "raise"
    ) == (
        plain,
        (),
    )


def test_thinking_by_a_budget_excludes_sampling() -> None:
    found, _ = checked("anthropic", "claude-haiku-4-5", temperature=0.2, reasoning={"budget_tokens": 2000})
    assert found.temperature is None


# Tools


def test_tools_on_chat_turn_off_reasoning_that_nobody_asked_for() -> None:
    found, warnings = checked("openai", "gpt-6-luna", "chat", tools=TOOLS, temperature=0.2)
    assert (found.reasoning, found.temperature) == ("none", 0.2)
    assert warnings == "reasoning became 'none': gpt-6-luna takes tools on chat only without reasoning"
    found, _ = checked("openai", "gpt-6-luna", "chat", tools=TOOLS, reasoning={"summary": "auto"})
    assert found.reasoning == {"summary": "auto", "effort": "none"}


def test_tools_with_reasoning_on_chat_are_refused_where_it_was_asked_for() -> None:
    for reasoning in ("low", {"effort": "low"}, {"budget_tokens": 3000}):
        found = refused("openai", "gpt-5.6-luna", "chat", tools=TOOLS, reasoning=reasoning)
        assert found["reasoning"].startswith("tools_with_reasoning_refused: set adapter_options=")
    assert refused("openai", "gpt-6-astra", "chat", tools=TOOLS).keys() == {"reasoning"}
    for endpoint, reasoning in (("chat", "none"), ("responses", "high")):
        kept = request("gpt-6-luna", tools=TOOLS, reasoning=reasoning)
        assert preflight(kept, "openai", endpoint, "raise") == (kept, ())


@pytest.mark.parametrize(
    "choice", ["required", "look", {"type": "any"}, {"type": "function", "name": "look"}]
)
def test_a_forced_choice_is_refused_where_the_model_refuses_it(choice: Any) -> None:
    found = refused("anthropic", "claude-opus-5-5", tools=TOOLS, tool_choice=choice)
    assert found == {
        "tool_choice": "forced_choice_refused: set tool_choice='auto' and ask for the tool in the prompt"
    }


@pytest.mark.parametrize("choice", [None, "auto", "none", {"type": "auto"}])
def test_a_free_choice_is_taken_everywhere(choice: Any) -> None:
    free = request("claude-opus-5-5", tools=TOOLS, tool_choice=choice)
    assert preflight(free, "anthropic", "messages", "raise") == (free, ())


def test_a_forced_choice_excludes_thinking_by_a_budget() -> None:
    found = refused("anthropic", "claude-sonnet-4-5", tools=TOOLS, tool_choice="required", reasoning="high")
    assert found["reasoning"].startswith("forced_choice_with_reasoning_refused")
    forced = request("claude-sonnet-4-5", tools=TOOLS, tool_choice="required")
    assert preflight(forced, "anthropic", "messages", "raise") == (forced, ())


def test_a_model_without_tools() -> None:
    assert refused("perplexity", "sonar", "chat", tools=TOOLS, tool_choice="required").keys() == {"tools"}
    assert checked("perplexity", "sonar", "chat")[1] == ""


def test_the_switch_for_parallel_calls() -> None:
    found, warnings = checked("gemini", "gemini-4-argon", tools=TOOLS, parallel_tool_calls=False)
    assert found.parallel_tool_calls is None
    assert "no switch for parallel calls" in warnings
    assert checked("gemini", "gemini-4-argon", tools=TOOLS, parallel_tool_calls=True)[1] == ""
    assert (
        checked("openai", "gpt-6-luna", tools=TOOLS, parallel_tool_calls=False)[0].parallel_tool_calls
        is False
    )


# Limits, schemas, messages


def test_stop_sequences_up_to_the_limit() -> None:
    found, warnings = checked("gemini", "gemini-4-argon", stop=tuple("abcdefg"))
    assert found.stop == tuple("abcde")
    assert warnings == "stop keeps its first 5: gemini-4-argon takes 5 stop sequences at this endpoint"
    assert checked("openai", "gpt-4o", "chat", stop=("a",))[0].stop == ("a",)


def test_max_tokens_up_to_the_limit() -> None:
    found, warnings = checked("anthropic", "claude-sonnet-4-5", max_tokens=100_000)
    assert found.max_tokens == 64_000
    assert warnings == "max_tokens became 64000: claude-sonnet-4-5 writes at most 64000 tokens"
    assert checked("anthropic", "claude-sonnet-4-5", max_tokens=64_000)[1] == ""


def test_a_schema_where_there_is_no_structured_output() -> None:
    shape = json_schema("answer", {"type": "object"})
    assert refused("gemini", "gemini-2.5-flash-image", response_format=shape).keys() == {"response_format"}
    assert checked("gemini", "gemini-2.5-flash-image", response_format=ResponseFormat())[1] == ""
    found, warnings = checked("deepseek", "deepseek-chat", "chat", response_format=shape)
    assert found.response_format == shape
    assert "promises JSON, but no schema" in warnings
    kept = request("deepseek-chat", response_format=ResponseFormat("json_object"))
    assert preflight(kept, "deepseek", "chat", "raise") == (kept, ())


def test_a_prefill_is_refused_where_the_model_refuses_it() -> None:
    messages = (*HELLO, assistant("The answer is"))
    assert refused("anthropic", "claude-sonnet-4-6", messages=messages).keys() == {"messages[1]"}
    assert checked("anthropic", "claude-sonnet-4-5", messages=messages)[1] == ""


@pytest.mark.parametrize("part", [ToolCall("c1", "look"), OpaquePart({"type": "server_tool_use"})])
def test_a_turn_that_goes_on_is_no_prefill(part: Any) -> None:
    messages = (*HELLO, assistant([TextPart("One moment."), part]))
    assert checked("anthropic", "claude-opus-5-5", messages=messages)[1] == ""


def test_content_that_a_model_cannot_take() -> None:
    messages = (
        system("Look."),
        user([TextPart("This:"), PICTURE]),
        assistant([ToolCall("c1", "look"), PICTURE]),
        tool_result("c1", [FilePart(file_id="f1")]),
        user([AudioPart(b"x")]),
    )
    found = refused("deepseek", "deepseek-chat", "chat", messages=messages)
    assert {path: why.partition(":")[0] for path, why in found.items()} == {
        "messages[1].content[1]": "images_refused",
        "messages[3].content[0]": "files_refused",
        "messages[4].content[0]": "audio_refused",
    }
    assert refused("openai", "o3-mini", messages=messages[:2]).keys() == {"messages[1].content[1]"}


def test_an_image_detail_that_is_not_known() -> None:
    def shown(detail: str) -> tuple[Message, ...]:
        return (*HELLO, user([TextPart("Look"), msgspec.structs.replace(PICTURE, detail=detail)]))

    found, warnings = checked("openai", "gpt-5.1", messages=shown("original"))
    assert found.messages == shown("high")
    assert found.messages[0] is HELLO[0]
    assert warnings == (
        "messages[1].content[1].detail became 'high': gpt-5.1 knows no image detail 'original'"
    )
    assert checked("openai", "gpt-5.6-sol", messages=shown("original"))[1] == ""
    assert checked("anthropic", "claude-sonnet-5", messages=shown("low"))[0].messages == shown("auto")


def test_all_that_is_refused_is_in_one_error() -> None:
    found = refused(
        "anthropic", "claude-opus-5-5", "messages",
        messages=(user([AudioPart(b"x")]), assistant("And")),
        tools=TOOLS, tool_choice="look", temperature=0.1,
    )  # fmt: skip
    assert found.keys() == {"tool_choice", "messages[0].content[0]", "messages[1]"}
