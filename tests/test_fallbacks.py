"""Other engines, asked where the first one fails before its first content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm.data.failure import REASONS
from allm.loops.fallbacks import FALL_BACK_ON
from allm.loops.plan import make_plan
from allm.ports import HttpHead, HttpRequest
from allm.providers.fake import FakeAdapter
from tests.faces import Face
from tests.test_loop import DONE, HELLO, Script, calls, double, fake, requests

DOWN: Script = [{"error": "provider_unavailable"}]


class Named(FakeAdapter):
    """A scripted provider of another name."""

    def __init__(self, name: str, *scripts: Script) -> None:
        super().__init__(list(scripts))
        self.name = name


def other(*scripts: Script, name: str = "second", **fields: Any) -> allm.Engine:
    return allm.Engine("big", adapter=Named(name, *scripts), **fields)


def test_the_next_is_asked_visibly(face: Face) -> None:
    second = other(HELLO)
    engine = fake(DOWN, retry=False, fallbacks=[second])
    seen = face.events(engine, "hi")
    assert seen.kinds[:2] == ["retrying", "message_started"]
    retrying, started = seen.events[:2]
    assert isinstance(retrying, allm.Retrying)
    assert isinstance(started, allm.MessageStarted)
    assert (retrying.attempt, retrying.delay) == (1, 0.0)
    assert (retrying.error.reason, retrying.error.provider) == ("provider_unavailable", "fake")
    assert started.model == "big"
    assert seen.result.text == "Hello"
    assert (len(requests(engine)), len(requests(second))) == (1, 1)


def test_the_response_tells_who_answered(face: Face) -> None:
    class Answers:
        name = "second"

        def complete(self, request: Any, ctx: Any) -> allm.Response:
            return allm.Response(message=allm.assistant("Hi"), finish_reason="stop")

    engine = fake(DOWN, retry=False, fallbacks=[allm.Engine("big", adapter=Answers())])
    response = face.generate(engine, "hi")
    assert (response.provider, response.model) == ("second", "big")


def test_each_has_its_own_retries(face: Face) -> None:
    at_once = allm.RetryPolicy(base_delay=0, attempts=2)
    second = other(DOWN, DOWN, DOWN, HELLO, retry=replace(at_once, attempts=4))
    seen = face.events(fake(DOWN, DOWN, retry=at_once, fallbacks=[second]), "hi")
    told = [(e.error.provider, e.attempt) for e in seen.events if isinstance(e, allm.Retrying)]
    assert told == [("fake", 1), ("fake", 2), ("fake", 1), ("fake", 2), ("fake", 3)]
    assert seen.result.text == "Hello"


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_which_failures_go_on(face: Face, reason: str) -> None:
    second = other(HELLO)
    seen = face.events(fake([{"error": reason}], retry=False, fallbacks=[second]), "hi")
    assert bool(requests(second)) is (reason in FALL_BACK_ON)
    assert (seen.error is None) is (reason in FALL_BACK_ON)


@pytest.mark.parametrize("content", [{"text": "Hel"}, {"reasoning": "Hm"}, *calls(("a", "double", {}))])
def test_never_after_content(face: Face, content: dict[str, Any]) -> None:
    second = other(HELLO)
    seen = face.events(fake([content, *DOWN], retry=False, fallbacks=[second]), "hi")
    assert seen.kinds[-1] == "error"
    assert requests(second) == []


def test_where_all_fail_the_last_failure_names_the_others(face: Face) -> None:
    second, third = other([{"error": "rate_limited"}]), other([{"error": "not_found"}], name="third")
    seen = face.events(fake(DOWN, fallbacks=[second, third]), "hi", retry=False)
    assert seen.kinds == ["retrying", "retrying", "error"]
    assert isinstance(seen.error, allm.NotFoundError)
    others = seen.error.info.extra["fallbacks"]
    assert [info["reason"] for info in others] == ["provider_unavailable", "rate_limited"]


def test_every_turn_begins_with_the_first(face: Face) -> None:
    call = calls(("a", "double", {"n": 2}))
    second = other(call)
    engine = fake(DOWN, DONE, retry=False, fallbacks=[second], tools=[double])
    result = face.chat(engine, "go")
    assert (result.text, result.steps[0].tool_results[0].text) == ("Done", "4")
    assert [len(request.messages) for request in requests(engine)] == [1, 3]


def test_a_later_turn_falls_back_with_the_whole_thread(face: Face) -> None:
    call = calls(("a", "double", {"n": 2}))
    second = other(DONE)
    engine = fake(call, DOWN, retry=False, fallbacks=[second], tools=[double])
    result = face.chat(engine, "go")
    assert requests(second)[0].messages == result.thread.messages[:3]
    assert requests(second)[0].tools == requests(engine)[0].tools


def test_it_is_asked_for_the_same_in_its_own_way(face: Face) -> None:
    second = other(HELLO, params={"temperature": 0.5, "seed": 5}, system=None, tools=[])
    engine = fake(
        DOWN, retry=False, fallbacks=[second], system="Be brief.", tools=[double],
        params={"temperature": 0.1, "max_tokens": 9, "options": {"own": 1}},
    )  # fmt: skip
    face.generate(engine, allm.Request(messages=(allm.user("hi"),), top_p=0.5), seed=7, model="fake:mine")
    (asked,) = requests(second)
    assert (asked.system, asked.max_tokens, asked.top_p) == ("Be brief.", 9, 0.5)
    assert (asked.temperature, asked.seed, asked.model) == (0.5, 7, "big")
    assert asked.options == {}
    assert [spec.name for spec in asked.tools] == ["double"]


def test_a_name_is_the_same_engine_with_another_model(face: Face) -> None:
    engine = fake(DOWN, HELLO, retry=False, fallbacks=["fake:small"], params={"max_tokens": 9})
    assert face.generate(engine, "hi", model="fake:large").text == "Hello"
    assert [(r.model, r.max_tokens) for r in requests(engine)] == [("large", 9), ("small", 9)]


def test_what_hooks_have_changed_holds_for_the_fallback(face: Face) -> None:
    class Rewrites:
        def before_model(self, request: allm.Request, ctx: allm.HookContext) -> allm.Request:
            return replace(request, messages=(allm.user("rewritten"),), max_tokens=3)

    second = other(HELLO, params={"max_tokens": 9})
    face.generate(fake(DOWN, retry=False, fallbacks=[second], middleware=[Rewrites()]), "hi")
    (asked,) = requests(second)
    assert (asked.messages, asked.max_tokens, asked.model) == ((allm.user("rewritten"),), 3, "big")


def test_the_budget_counts_whoever_answers(face: Face) -> None:
    second = other([*calls(("a", "double", {"n": 2})), {"usage": {"output_tokens": 9}}])
    engine = fake(DOWN, DONE, retry=False, fallbacks=[second], tools=[double])
    assert face.chat(engine, "go", budget=allm.Budget(tokens=9)).halted_reason == "budget"


def test_a_fallback_that_cannot_take_the_request_is_left_out(face: Face) -> None:
    """Otherwise the first image of a conversation would end it for the engine that can see."""
    engine = fake(HELLO, fallbacks=["deepseek:deepseek-chat"])
    picture = allm.ImagePart(image=allm.Image.from_bytes(b"\x89PNG\r\n\x1a\n", mime_type="image/png"))
    message = allm.user([allm.TextPart("What is it?"), picture])
    allm.register_capabilities("deepseek", "deepseek-chat", images=False)
    try:
        response = face.generate(engine, message, api_key=lambda provider, origin: "key")
    finally:
        allm.unregister_capabilities("deepseek", "deepseek-chat")
    assert response.text == "Hello"
    assert any("deepseek:deepseek-chat was left out" in line for line in response.warnings)


# Keys, transports, configuration


class Recorded:
    """A transport, blocking and awaited: notes address and key; refuses the hosts of `down`."""

    class Body:
        def __init__(self, status: int, answer: Any) -> None:
            self.head = HttpHead(status, {"content-type": "application/json"})
            self.data = [json.dumps(answer).encode(), b""]

        def read(self, timeout: float | None) -> bytes:
            return self.data.pop(0) if self.data else b""

        def close(self) -> None: ...
        def cancel(self) -> None: ...

    class AsyncBody(Body):
        async def read(self, timeout: float | None) -> bytes:  # type: ignore[override]
            return super().read(timeout)

        async def aclose(self) -> None: ...

    def __init__(self, *down: str) -> None:
        self.down = down
        self.asked: list[tuple[str, str | None]] = []
        self.blocking, self.awaited = self.Blocking(self), self.Awaited(self)

    def answer(self, request: HttpRequest, key_header: tuple[str, str] | None) -> tuple[int, Any]:
        host = request.url.split("/")[2]
        self.asked.append((host, key_header and key_header[1]))
        if host in self.down:
            return 401, {"error": {"message": "no"}}
        message = {"role": "assistant", "content": "Hi"}
        return 200, {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    class Blocking:
        def __init__(self, owner: Recorded) -> None:
            self.owner = owner

        def open(self, request: Any, timeouts: Any, key: Any = None, on_connection: Any = None) -> Any:
            return Recorded.Body(*self.owner.answer(request, key))

        def close(self) -> None: ...

    class Awaited:
        def __init__(self, owner: Recorded) -> None:
            self.owner = owner

        async def open(self, request: Any, timeouts: Any, key: Any = None) -> Any:
            return Recorded.AsyncBody(*self.owner.answer(request, key))

        async def aclose(self) -> None: ...


GROQ, MISTRAL = "api.groq.com", "api.mistral.ai"


@pytest.mark.usefixtures("clean")
def test_a_key_never_goes_to_another_provider(face: Face) -> None:
    wire = Recorded(GROQ)
    allm.keys.put("mistral", "for-mistral")
    allm.keys.put("groq", "stored")
    engine = allm.Engine("groq:a", transport=wire, fallbacks=["groq:b", "mistral:c"])
    response = face.generate(engine, "hi", api_key="of-the-tenant")
    assert (response.text, response.provider) == ("Hi", "mistral")
    tenant = (GROQ, "Bearer of-the-tenant")
    assert wire.asked == [tenant, tenant, (MISTRAL, "Bearer for-mistral")]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "elsewhere",
    [{"base_url": "https://example.com"}, {"adapter_options": {"base_url": "https://example.com"}}],
)
def test_a_key_never_goes_to_another_address(elsewhere: dict[str, Any]) -> None:
    engine = allm.Engine("groq:a", fallbacks=[allm.Engine("groq:b", **elsewhere)])
    with pytest.raises(allm.MissingKeyError, match="GROQ_API_KEY"):
        allm.stream(engine, "hi", api_key="of-the-tenant")


@pytest.mark.usefixtures("clean")
def test_a_key_source_is_asked_for_each(face: Face) -> None:
    wire = Recorded(GROQ)
    engine = allm.Engine("groq:a", transport=wire, fallbacks=["mistral:c"])
    face.generate(engine, "hi", api_key=lambda provider, origin: f"{provider}-key")
    assert wire.asked == [(GROQ, "Bearer groq-key"), (MISTRAL, "Bearer mistral-key")]


@pytest.mark.usefixtures("clean")
def test_each_engine_has_its_own_transport(face: Face) -> None:
    one, two = Recorded(GROQ), Recorded()
    second = allm.Engine("mistral:c", transport=two)
    engine = allm.Engine("groq:a", transport=one, fallbacks=[second])
    face.generate(engine, "hi", api_key=lambda provider, origin: "key")
    assert [host for host, _ in one.asked] == [GROQ]
    assert [host for host, _ in two.asked] == [MISTRAL]


@pytest.mark.usefixtures("clean")
def test_a_fallback_without_a_key_is_found_at_once() -> None:
    engine = allm.Engine("groq:a", fallbacks=["mistral:c"])
    with pytest.raises(allm.MissingKeyError, match="MISTRAL_API_KEY"):
        allm.stream(engine, "hi", api_key="mine")


@pytest.mark.usefixtures("clean")
def test_a_loaded_engine_with_its_own_address_takes_no_stored_key() -> None:
    allm.keys.put("mistral", "stored")
    loaded = allm.Engine.from_data({"model": "mistral:c", "base_url": "https://example.com/v1"})
    with pytest.raises(allm.MissingKeyError):
        allm.stream(fake(HELLO, fallbacks=[loaded]), "hi")


@pytest.mark.parametrize("given", ["groq:a", allm.Engine("fake:a")])
def test_fallbacks_are_a_sequence(given: Any) -> None:
    with pytest.raises(allm.ValidationError, match="fallbacks: must_be_a_list_of_engines_or_models"):
        allm.Engine("fake:m", fallbacks=given)


def test_a_fallback_is_an_engine_or_a_name() -> None:
    with pytest.raises(allm.ConfigurationError, match="a fallback is"):
        allm.stream(fake(HELLO, fallbacks=[5]), "hi")


def test_the_fallbacks_of_fallbacks_are_not_looked_at() -> None:
    plan, _ = make_plan(fake(fallbacks=[other(fallbacks=[other()])]), "hi", {})
    assert [(len(p.fallbacks), p.route) for p in (plan, *plan.fallbacks)] == [(1, 0), (0, 1)]
