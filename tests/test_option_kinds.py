"""Every public option with values of the wrong kind: a typed error that names it, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import allm
from allm import engine as engines
from allm.options import EMBED_NAMES, IMAGE_NAMES, NAMES
from tests.faces import Face
from tests.test_loop import HELLO, double, fake, requests

NOTHING: list[Any] = [None]
NUMBER: list[Any] = [3, True]
WORD: list[Any] = ["x"]
OBJECT: list[Any] = [object()]


async def awaited(*given: Any) -> Any: ...


class Waiting:
    """An encoder that would have to be awaited."""

    encode = awaited


def no_arguments() -> None: ...


def two_arguments(one: Any, two: Any) -> None: ...


NO_MAP = [*NUMBER, *WORD, *OBJECT, [1]]
NO_LIST = [*NUMBER, *WORD, *OBJECT, *NOTHING]
NO_TEXT = [*NUMBER, *OBJECT, ["x"]]
NO_FLAG = [3, "x", *OBJECT, *NOTHING]
NO_COUNT = ["x", 0, -1, 1.5, True, *OBJECT]
NO_SECONDS = ["x", 0, -1, True, float("nan"), float("inf"), *OBJECT]
NO_FUNCTION = [*NUMBER, *WORD, awaited]
NO_WORD = [*NUMBER, *WORD, *NOTHING, *OBJECT]
NO_SHARE = ["x", -1, 5, True, float("nan")]

WRONG: dict[str, list[Any]] = {
    "model": [3, True, "", object(), ("a",)],
    "api_key": [3, True, "", None, object()],
    "system": NO_TEXT,
    "tools": [*NO_LIST, [3], ["x"], [double, double]],
    "tool_choice": [*NUMBER, "unknown", *OBJECT],
    "parallel_tool_calls": [3, "x", *OBJECT],
    "response_format": [*NUMBER, *WORD, {}],
    "temperature": NO_SHARE,
    "top_p": NO_SHARE,
    "max_tokens": NO_COUNT,
    "stop": [*NUMBER, *OBJECT, [3]],
    "seed": ["x", 1.5, True, *OBJECT],
    "reasoning": [*NUMBER, *OBJECT, ["x"]],
    "prompt_cache": [3, *OBJECT, ["x"]],
    "options": [*NO_MAP, *NOTHING],
    "metadata": [*NO_MAP, *NOTHING],
    "adapter_options": [*NO_MAP, *NOTHING, {"x": object()}, {"headers": 3}],
    "on_unsupported": NO_WORD,
    "orphans": NO_WORD,
    "mode": NO_WORD,
    "max_turns": [*NO_COUNT, *NOTHING],
    "structured_finalize": [3, "x", *OBJECT],
    "structured_finalize_nudge": NO_TEXT,
    "output_retries": ["x", -1, 1.5, True, *NOTHING],
    "halt_when": [*NO_FUNCTION, no_arguments, two_arguments],
    "until_tool": [*NO_TEXT, "unknown"],
    "on_tool_error": [*NUMBER, *WORD, *NOTHING, awaited, no_arguments],
    "tool_timeout": NO_SECONDS,
    "max_concurrency": NO_COUNT,
    "tool_executor": [*NUMBER, *WORD, *OBJECT],
    "tool_result_encoder": [
        *NUMBER,
        *WORD,
        *OBJECT,
        Waiting(),
        Waiting,
        no_arguments,
        two_arguments,
        awaited,
    ],
    "middleware": [*NO_LIST, [3]],
    "fallbacks": [*NUMBER, *WORD, *OBJECT, [3]],
    "budget": [*NUMBER, *WORD, *OBJECT, {"tokens": 1}],
    "prices": [*NO_MAP, *NOTHING, {"m": 3}, {3: allm.Price()}],
    "context": [*NO_MAP, *NOTHING],
    "session_id": NO_TEXT,
    "request_id": NO_TEXT,
    "retry": [*NUMBER, *WORD, *OBJECT],
    "timeouts": [*NUMBER, *WORD, *OBJECT, {"run": 1}],
    "limits": [*NUMBER, *WORD, *OBJECT, {"body": 1}],
    "emit_text_deltas": NO_FLAG,
    "emit_tool_deltas": NO_FLAG,
    "include_raw_chunks": NO_FLAG,
    "on_event": [*NO_FUNCTION, no_arguments, two_arguments],
    "observers": [*NO_LIST, [3], [object()]],
    "raise_on_error": NO_FLAG,
}
MEDIA: dict[str, list[Any]] = {
    "n": [*NO_COUNT, *NOTHING],
    "size": [*NUMBER, *WORD, *OBJECT],
    "quality": NO_TEXT,
    "style": NO_TEXT,
    "background": NO_TEXT,
    "response_format": NO_WORD,
    "dimensions": NO_COUNT,
    "task_type": NO_TEXT,
    "truncate": [3, "x", *OBJECT],
    "concurrency": [*NO_COUNT, *NOTHING],
}
ENGINE: dict[str, list[Any]] = {
    "model": [3, True, "", object()],
    "adapter": [*NUMBER, "", *OBJECT],
    "image_adapter": [*NUMBER, "", *OBJECT],
    "embed_adapter": [*NUMBER, "", *OBJECT],
    "base_url": NO_TEXT,
    "params": [*NO_MAP, *NOTHING, {"max_turns": 0}, {"mode": "x"}],
    "transport": [*NUMBER, *OBJECT],
    "id": [*NO_TEXT, *NOTHING],
    "trusted": NO_FLAG,
    "on_unsupported": [*NUMBER, *WORD, *OBJECT],
    "orphans": [*NUMBER, *WORD, *OBJECT],
    **{
        name: WRONG[name]
        for name in (
            "adapter_options", "budget", "context", "fallbacks", "limits", "metadata", "observers", "prices",
            "retry", "system", "timeouts", "tool_executor", "tool_result_encoder", "tools", "middleware",
        )
    },
}  # fmt: skip
LATER = {"middleware": [3], "fallbacks": [3]}  # what they hold is looked at by the call


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{index}-{type(value).__name__}")
        for name, values in table.items()
        for index, value in enumerate(values)
    ]


def refused(name: str, build: Callable[[], Any]) -> None:
    """`build` raises an error of the caller's that names the option."""
    with pytest.raises((allm.ValidationError, allm.ConfigurationError)) as caught:
        build()
    paths = [path for path, _ in getattr(caught.value, "errors", ())]
    named = any(path.partition(".")[0].partition("[")[0] == name for path in paths)
    assert named or name.rstrip("s") in str(caught.value), str(caught.value)
    assert caught.value.partial is None


@pytest.mark.parametrize(("name", "value"), cases(WRONG))
def test_chats(face: Face, name: str, value: Any) -> None:
    engine = fake(HELLO)
    refused(name, lambda: face.make("stream", engine, "hi", **{name: value}))
    assert requests(engine) == []


@pytest.mark.parametrize("verb", ["generate", "step", "chat", "sessions.start"])
@pytest.mark.parametrize("name", WRONG)
def test_every_verb(face: Face, verb: str, name: str) -> None:
    engine = fake(HELLO)
    refused(name, lambda: face.call(verb, engine, "hi", **{name: WRONG[name][0]}))
    assert requests(engine) == []


MEDIA_VERBS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "generate_image": ("a cat", IMAGE_NAMES), "embed": ("text", EMBED_NAMES)
}  # fmt: skip


@pytest.mark.parametrize("verb", MEDIA_VERBS)
@pytest.mark.parametrize(("name", "value"), cases({**WRONG, **MEDIA}))
def test_media(face: Face, verb: str, name: str, value: Any) -> None:
    given, names = MEDIA_VERBS[verb]
    if name not in names:
        with pytest.raises(allm.UnknownOptionError, match=name):
            face.call(verb, allm.Engine(image_adapter="fake", embed_adapter="fake"), given, **{name: value})
        return
    engine = allm.Engine(image_adapter="openai:gpt-image-2", embed_adapter="openai:text-embedding-3-small")
    key = {} if name == "api_key" else {"api_key": "k"}
    refused(name, lambda: face.call(verb, engine, given, **{name: value, **key}))


@pytest.mark.parametrize(("name", "value"), cases(ENGINE))
def test_engines(name: str, value: Any) -> None:
    if name in LATER and value == LATER[name]:
        engine = allm.Engine("fake", **{name: value})
        refused(name, lambda: allm.stream(engine, "hi"))
    else:
        refused(name, lambda: allm.Engine(**{name: value}))
        refused(name, lambda: allm.Engine().merge(**{name: value}))


APPLICATION = {
    name: [value for value in ENGINE[name] if value != LATER.get(name, LATER)]
    for name in engines._APPLICATION
}
APPLICATION |= {"keys": [*NUMBER, *WORD, [1]], "key_source": [*NUMBER, *WORD], "env_file": NO_TEXT}


@pytest.mark.parametrize(("name", "value"), cases(APPLICATION))
def test_application_defaults(name: str, value: Any) -> None:
    refused(name, lambda: allm.configure(**{name: value}))
    assert engines.application == {}, "nothing is set"


TOOL: dict[str, list[Any]] = {
    "name": [*NO_TEXT, "a b", "auto", "x" * 65],
    "description": NO_TEXT,
    "manual": [*NOTHING, 1, "x"],
    "timeout": ["x", 0, -1, True, float("nan"), float("inf")],
    "strict": [3, "x", *OBJECT],
    "on_interrupted": NO_WORD,
    "isolation": NO_WORD,
    "requires_approval": [3, "x", *NOTHING, awaited],
    "max_result": [*NO_COUNT, *NOTHING],
    "metadata": NO_MAP,
    "examples": [*NUMBER, *WORD, *OBJECT, [3]],
}


@pytest.mark.parametrize(("name", "value"), cases(TOOL))
def test_tools(name: str, value: Any) -> None:
    refused(name, lambda: allm.tool(**{name: value})(no_arguments))
    refused(name, lambda: allm.Tool(**{"name": "t", name: value}))


@pytest.mark.parametrize(("name", "value"), cases({"schema": NO_MAP, "handler": [*NUMBER, *WORD]}))
def test_tools_made_by_hand(name: str, value: Any) -> None:
    refused(name, lambda: allm.Tool(**{"name": "t", name: value}))


POLICIES: list[tuple[Any, dict[str, list[Any]]]] = [
    (
        allm.RetryPolicy,
        {
            "attempts": [*NO_COUNT, *NOTHING],
            "base_delay": ["x", -1, True, float("nan")],
            "max_delay": ["x", -1, True, float("inf")],
            "added_jitter": ["x", -1, True],
            "max_retry_after": ["x", -1, True],
            "respect_retry_after": NO_FLAG,
            "retry_on": [*NUMBER, "rate_limited", *NOTHING],
        },
    ),
    (
        allm.Price,
        {name: ["x", -1, True, float("nan")] for name in ("input", "output", "cache_read", "cache_write")},
    ),
    (
        allm.Timeouts,
        dict.fromkeys(("connect", "first_event", "idle", "request", "run", "tool"), NO_SECONDS),
    ),
    (allm.Limits, {name: [*NO_COUNT, *NOTHING] for name in ("event", "body", "error_body")}),
    (
        allm.Budget,
        {**dict.fromkeys(("tokens", "cost", "seconds"), NO_SECONDS), "soft": [0, 2, "x", True, None]},
    ),
]


@pytest.mark.parametrize(
    ("policy", "name", "value"),
    [
        pytest.param(policy, *case.values, id=f"{policy.__name__}-{case.id}")
        for policy, table in POLICIES
        for case in cases(table)
    ],
)
def test_policies(policy: Any, name: str, value: Any) -> None:
    refused(name, lambda: policy(**{name: value}))


PICTURE = allm.Image.from_bytes(b"\x89PNG\r\n\x1a\n")
INPUTS: dict[str, Callable[[Any, Face, allm.Engine], Any]] = {
    "input": lambda value, face, engine: face.make("stream", engine, value),
    "first argument": lambda value, face, engine: face.make("stream", value, "hi"),
    "first": lambda value, face, engine: face.call("generate_image", value, "a cat"),
    "prompt": lambda value, face, engine: face.call("generate_image", engine, value, api_key="k"),
    "images": lambda value, face, engine: face.call("edit_image", engine, value, "a cat", api_key="k"),
    "image": lambda value, face, engine: face.call("image_variations", engine, value, api_key="k"),
    "mask": lambda value, face, engine: face.call(
        "edit_image", engine, PICTURE, "x", mask=value, api_key="k"
    ),
    "text": lambda value, face, engine: face.call("embed", engine, value, api_key="k"),
    "id": lambda value, face, engine: face.session("start", engine, "hi", id=value),
    "message": lambda value, face, engine: face.session("reply", engine, allm.Session(), value),
    "reply": lambda value, face, engine: face.session("reply", engine, value, "hi"),
    "resume": lambda value, face, engine: face.session("resume", engine, value),
    "step": lambda value, face, engine: face.session("step", engine, value),
    "submit": lambda value, face, engine: allm.sessions.submit(engine, value),
    "tools": lambda value, face, engine: allm.bind(engine, value),
    "call": lambda value, face, engine: allm.approve(value),
    "function": lambda value, face, engine: allm.tool(value),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("value", [3, object()], ids=["int", "object"])
def test_what_verbs_are_given(face: Face, name: str, value: Any) -> None:
    media = {"image_adapter": "openai:gpt-image-2", "embed_adapter": "openai:text-embedding-3-small"}
    engine = fake(HELLO, **media)
    with pytest.raises((allm.ValidationError, allm.ConfigurationError, allm.SessionError)):
        INPUTS[name](value, face, engine)
    assert requests(engine) == []


def test_no_option_is_forgotten() -> None:
    assert set(WRONG) == set(NAMES)
    assert {*WRONG, *MEDIA} >= {*IMAGE_NAMES, *EMBED_NAMES}
    assert set(ENGINE) == {*allm.Engine.__slots__}
    assert {policy: set(table) for policy, table in POLICIES} == {
        policy: set(policy.__struct_fields__) for policy, _ in POLICIES
    }


def test_an_error_shows_the_kind_and_no_long_value() -> None:
    with pytest.raises(allm.ValidationError) as caught:
        allm.stream(fake(), "hi", retry="sk-" + "a1B2" * 10, max_turns=0)  # type: ignore[arg-type]
    assert caught.value.errors == (
        ("retry", "must_be_a_RetryPolicy_or_False: not str"),
        ("max_turns", "must_be_a_positive_integer: not int 0"),
    )


@pytest.mark.parametrize(
    ("given", "path", "role", "maker"),
    [
        (lambda item: [allm.user("a"), item], "messages[1]", "system", "system"),
        (lambda item: item, "input", "user", "user"),
        (lambda item: allm.Thread((item,)), "messages[0]", "assistant", "assistant"),
        (lambda item: allm.Request(messages=(item,)), "messages[0]", "tool", "tool_result"),
    ],
)
def test_a_dict_for_a_message(face: Face, given: Any, path: str, role: str, maker: str) -> None:
    with pytest.raises(allm.ValidationError) as caught:
        face.generate(fake(HELLO), given({"role": role, "content": "x"}))
    ((found, reason),) = caught.value.errors
    assert found == path
    assert reason.endswith(f": write allm.{maker}(...) for this dict")
