"""Conformance: our adapters pass, and each broken one fails in the case that names what is broken."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm.data.events import Event
from allm.folds import unfold
from allm.ports import CallContext, HttpHead, HttpRequest
from allm.providers.openai.chat import OpenAIChat
from allm.testing import conformance
from allm.testing.conformance import Case, Subject
from tests.conformance_subjects import CHAT_REFUSALS, CHAT_SAMPLES, SUBJECTS


def named(subjects: Mapping[str, Subject]) -> list[Any]:
    """Every case of every subject, as pytest parameters."""
    return [
        pytest.param(case, id=f"{name}-{case}")
        for name, subject in subjects.items()
        for case in conformance.cases(subject)
    ]


@pytest.mark.parametrize("case", named(SUBJECTS))
def test_adapter(case: Case) -> None:
    case.run()


# Adapters in this process


class Parrot:
    """An adapter in this process that says what it was told."""

    name = "parrot"

    def complete(self, request: allm.Request, ctx: CallContext) -> allm.Response:
        return allm.Response(
            id="1",
            message=allm.assistant(request.messages[-1].text),
            finish_reason="stop",
            usage=allm.Usage(input_tokens=1, output_tokens=1),
        )

    def stream(self, request: allm.Request, ctx: CallContext) -> Iterator[Event]:
        yield from unfold(self.complete(request, ctx))


class AsyncParrot:
    """The same, awaited."""

    name = "parrot"

    async def acomplete(self, request: allm.Request, ctx: CallContext) -> allm.Response:
        return Parrot().complete(request, ctx)

    async def astream(self, request: allm.Request, ctx: CallContext) -> AsyncIterator[Event]:
        for event in unfold(Parrot().complete(request, ctx)):
            yield event


class Mute(Parrot):
    """It raises what is no error of ours."""

    def stream(self, request: allm.Request, ctx: CallContext) -> Iterator[Event]:
        raise ZeroDivisionError("nothing to say")


class Whole:
    """Alloy's shape without the optional stream."""

    name = "whole"
    complete = Parrot.complete


LOCAL = {
    "parrot": Subject(make=Parrot, says="Hi", failing=Mute),
    "awaited": Subject(make=AsyncParrot, says="Hi"),
    "whole": Subject(make=Whole, says="Hi"),
}


@pytest.mark.parametrize("case", named(LOCAL))
def test_in_process(case: Case) -> None:
    case.run()


def test_the_cases_are_those_that_the_adapter_has_verbs_for() -> None:
    names = [str(case) for case in conformance.cases(LOCAL["parrot"])]
    assert names[:4] == ["verbs", "complete.response", "stream.order", "stream.fold"]
    assert {name for name in names if name.endswith("blocking")} == {
        "engine.blocking",
        "leaving.blocking",
        "failing.blocking",
    }
    assert not any("leaving" in str(case) for case in conformance.cases(LOCAL["whole"]))


# Reports


def test_a_report_reads_well_and_a_bare_adapter_will_do() -> None:
    report = conformance.check(Parrot())
    assert report.ok
    assert str(report) == f"{len(report.passed)} passed, 0 failed"
    report = conformance.check(Subject(make=OpenAIChat, without=frozenset({"400"})))
    assert {name for name in report.failed if "." not in name} == {"samples"}
    assert "give samples or refusals for ['401', '403'" in report.failed["samples"]
    assert "request.pure" in report.passed
    assert str(report).count("\n") == len(report.failed)


# Broken adapters: each changes one thing, and the case that fails says which


class Decoding:
    """A decoder of ours with its output changed."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def feed(self, data: bytes) -> list[Event]:
        return self.changed(self.inner.feed(data))

    def end(self) -> list[Event]:
        return self.changed(self.inner.end())

    def changed(self, events: list[Event]) -> list[Event]:
        return events


def decoding(kind: type[Decoding]) -> type[OpenAIChat]:
    class Broken(OpenAIChat):
        def decoder(self, request: Any, head: HttpHead, ctx: CallContext) -> Any:
            return kind(super().decoder(request, head, ctx))

    return Broken


def encoding(change: Callable[[OpenAIChat, allm.Request, HttpRequest], HttpRequest]) -> type[OpenAIChat]:
    class Broken(OpenAIChat):
        def encode(self, request: allm.Request, ctx: CallContext) -> HttpRequest:
            return change(self, request, super().encode(request, ctx))

    return Broken


def explaining(change: Callable[[allm.ErrorInfo, bytes], allm.ErrorInfo]) -> type[OpenAIChat]:
    class Broken(OpenAIChat):
        def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> allm.ErrorInfo:
            return change(super().explain(status, headers, body), body)

    return Broken


class TwoEnds(Decoding):
    def changed(self, events: list[Event]) -> list[Event]:
        return [*events, *[event for event in events if type(event) is allm.MessageCompleted]]


class NoUsage(Decoding):
    def changed(self, events: list[Event]) -> list[Event]:
        kept = [event for event in events if type(event) is not allm.UsageReported]
        return [
            allm.MessageCompleted(replace(e.response, usage=None)) if type(e) is allm.MessageCompleted else e
            for e in kept
        ]


class TakesHalfForWhole(Decoding):
    def changed(self, events: list[Event]) -> list[Event]:
        return [
            allm.MessageCompleted(allm.Response(finish_reason="stop", raw_finish_reason="stop"))
            if type(event) is allm.StreamFailed
            else event
            for event in events
        ]


class ForgetsStarts(Decoding):
    def changed(self, events: list[Event]) -> list[Event]:
        return [event for event in events if type(event) is not allm.ToolCallStarted]


class LinePerRead(Decoding):
    """It takes each read for whole events, as naive clients do."""

    def feed(self, data: bytes) -> list[Event]:
        whole = data if data.startswith(b"{") or data.endswith(b"\n\n") else b""
        return self.inner.feed(whole) if whole else []


class Raises(Decoding):
    def feed(self, data: bytes) -> list[Event]:
        for line in data.split(b"\n\n"):
            if line.startswith(b"data: {"):
                json.loads(line[6:])
        return super().feed(data)


class TalksOn(Decoding):
    def end(self) -> list[Event]:
        return self.inner.end() or [allm.TextDelta("and")]


class StopsAtUnknown(Decoding):
    def feed(self, data: bytes) -> list[Event]:
        if b"heartbeat" in data:
            raise KeyError("heartbeat")
        return super().feed(data)


class Greedy(OpenAIChat):
    """It does not pass the limits on."""

    def decoder(self, request: Any, head: HttpHead, ctx: CallContext) -> Any:
        return super().decoder(request, head, replace(ctx, limits=allm.Limits()))


class Counting(OpenAIChat):
    """It writes a count into what it sends."""

    sent = 0

    def encode(self, request: allm.Request, ctx: CallContext) -> HttpRequest:
        type(self).sent += 1
        made = super().encode(request, ctx)
        return replace(made, headers={**made.headers, "x-count": str(self.sent)})


def _peeks(self: OpenAIChat, request: allm.Request, made: HttpRequest) -> HttpRequest:
    import os

    return replace(made, url=f"{made.url}?key={os.environ.get('OPENAI_API_KEY', '')}")


def _sends_key(self: OpenAIChat, request: allm.Request, made: HttpRequest) -> HttpRequest:
    return replace(made, headers={**made.headers, "Authorization": "Bearer x"})


def _body(made: HttpRequest, change: Callable[[dict[str, Any]], Any]) -> HttpRequest:
    body = json.loads(made.body)
    change(body)
    return replace(made, body=json.dumps(body).encode())


def _drops_results(self: OpenAIChat, request: allm.Request, made: HttpRequest) -> HttpRequest:
    def change(body: dict[str, Any]) -> None:
        body["messages"] = [m for m in body["messages"] if m["role"] != "tool"]

    return _body(made, change)


def _drops_system(self: OpenAIChat, request: allm.Request, made: HttpRequest) -> HttpRequest:
    def change(body: dict[str, Any]) -> None:
        body["messages"] = [m for m in body["messages"] if m["role"] != "system"]

    return _body(made, change)


def _overrules(self: OpenAIChat, request: allm.Request, made: HttpRequest) -> HttpRequest:
    return _body(made, lambda body: body.update(model=request.model))


def _sends_thoughts(self: OpenAIChat, request: allm.Request, made: HttpRequest) -> HttpRequest:
    thoughts = [m.reasoning for m in request.messages]
    return _body(made, lambda body: body.update(thoughts=thoughts))


def _forgets_status(info: allm.ErrorInfo, body: bytes) -> allm.ErrorInfo:
    return replace(info, reason="provider_error", retryable=False)


def _repeats(info: allm.ErrorInfo, body: bytes) -> allm.ErrorInfo:
    return replace(info, message=body[:4000].decode("utf-8", "replace"))


def _parses(info: allm.ErrorInfo, body: bytes) -> allm.ErrorInfo:
    return replace(info, message=json.loads(body)["error"]["message"])


def _forgets_wait(info: allm.ErrorInfo, body: bytes) -> allm.ErrorInfo:
    return replace(info, retry_after=None)


BROKEN: dict[str, tuple[type[OpenAIChat], set[str]]] = {
    "two terminal events": (decoding(TwoEnds), {"text.order", "text.after", "call.order"}),
    "no usage": (decoding(NoUsage), {"text.usage", "parallel.usage"}),
    "half an answer": (decoding(TakesHalfForWhole), {"text.cut", "answer.garbage", "broken.fold"}),
    "calls not started": (decoding(ForgetsStarts), {"call.order", "parallel.order"}),
    "reads are events": (decoding(LinePerRead), {"text.split", "call.split"}),
    "raises on garbage": (decoding(Raises), {"answer.garbage", "text.mutants"}),
    "talks on": (decoding(TalksOn), {"text.after"}),
    "stops at the unknown": (decoding(StopsAtUnknown), {"unknown.fold"}),
    "no limits": (Greedy, {"answer.bounded"}),
    "not pure": (Counting, {"request.pure"}),
    "key in the URL": (encoding(_peeks), {"request.keyless"}),
    "key header": (encoding(_sends_key), {"request.keyless"}),
    "results lost": (encoding(_drops_results), {"request.history"}),
    "system lost": (encoding(_drops_system), {"request.system"}),
    "options lose": (encoding(_overrules), {"request.options"}),
    "foreign thoughts": (encoding(_sends_thoughts), {"request.foreign"}),
    "one reason for all": (explaining(_forgets_status), {"refusal.401", "refusal.429", "refused.blocking"}),
    "the body as message": (explaining(_repeats), {"refusal.keys"}),
    "refusals are JSON": (explaining(_parses), {"refusal.garbage"}),
    "no retry-after": (explaining(_forgets_wait), {"refusal.429"}),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_adapter_fails_in_the_right_case(broken: str) -> None:
    make, wanted = BROKEN[broken]
    report = conformance.check(Subject(make=make, samples=CHAT_SAMPLES, refusals=CHAT_REFUSALS))
    assert wanted <= report.failed.keys()
    for name in wanted:
        assert report.failed[name].startswith(f"{name} (")
        assert len(report.failed[name]) < 2000
    assert {"samples", "request.surrogates"} <= set(report.passed)


class Listless(Parrot):
    def complete(self, request: allm.Request, ctx: CallContext) -> Any:
        return "Hi"


class Rephrases(Parrot):
    def stream(self, request: allm.Request, ctx: CallContext) -> Iterator[Event]:
        yield from unfold(allm.Response(message=allm.assistant("Ho"), finish_reason="stop"))


class NeverDone(Parrot):
    def stream(self, request: allm.Request, ctx: CallContext) -> Iterator[Event]:
        yield from list(super().stream(request, ctx))[:-1]


class TellsTheKey(Parrot):
    def complete(self, request: allm.Request, ctx: CallContext) -> allm.Response:
        return replace(super().complete(request, ctx), metadata={"key": ctx.api_key})


class Unmoved(Parrot):
    """It does not fail when it should."""


BROKEN_LOCAL: dict[str, tuple[type[Parrot], set[str]]] = {
    "no Response": (Listless, {"complete.response", "stream.order", "engine.blocking"}),
    "stream says something else": (Rephrases, {"stream.fold", "engine.asyncio"}),
    "stream without end": (NeverDone, {"stream.order", "engine.trio"}),
    "key told": (TellsTheKey, {"complete.response", "stream.order"}),
}


@pytest.mark.parametrize("broken", BROKEN_LOCAL)
def test_a_broken_adapter_in_process_fails_in_the_right_case(broken: str) -> None:
    make, wanted = BROKEN_LOCAL[broken]
    report = conformance.check(Subject(make=make, says="Hi"))
    assert wanted <= report.failed.keys()
    assert "verbs" in report.passed


def test_a_failing_adapter_that_does_not_fail_is_told() -> None:
    report = conformance.check(Subject(make=Parrot, failing=Unmoved))
    assert set(report.failed) == {"failing.blocking", "failing.asyncio", "failing.trio"}
