"""Conformance of images and embeddings: our adapters pass, and broken ones fail in the right case."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm.data.media import packed
from allm.ports import CallContext, HttpHead, HttpRequest
from allm.providers.fake_embeddings import FakeEmbeddings
from allm.providers.gemini.embeddings import GeminiEmbeddings
from allm.providers.openai.embeddings import OpenAIEmbeddings
from allm.providers.openai.images import OpenAIImages
from allm.testing import conformance
from allm.testing.conformance import Case, EmbeddingSubject, ImageSubject, Subject
from tests.media_subjects import FIRST, SUBJECTS, VECTORS
from tests.test_conformance import Decoding, TalksOn, named

KESTREL = allm.Image.from_bytes(FIRST)


@pytest.mark.parametrize("case", named(SUBJECTS))
def test_adapter(case: Case) -> None:
    case.run()


# Adapters in this process


class Painter:
    """It paints one picture, awaited."""

    name = "painter"

    async def acomplete(self, request: allm.ImageRequest, ctx: CallContext) -> allm.ImageResponse:
        return allm.ImageResponse(images=(KESTREL,), model=request.model, provider=self.name)


class Jammed(Painter):
    """It raises what is no error of ours."""

    async def acomplete(self, request: allm.ImageRequest, ctx: CallContext) -> allm.ImageResponse:
        raise ZeroDivisionError("no paint")


class Counter:
    """The vector of a text is its length and its first letter."""

    name = "counter"
    max_batch = 2

    def complete(self, request: allm.EmbeddingRequest, ctx: CallContext) -> allm.EmbeddingResponse:
        rows = [(float(len(text)), float(ord(text[0]))) for text in request.input]
        return allm.EmbeddingResponse(
            data=packed(rows), dimensions=2, provider=self.name, model=request.model
        )


LOCAL: dict[str, Subject] = {
    "painter": ImageSubject(make=Painter, failing=Jammed),
    "counter": EmbeddingSubject(make=Counter),
}


@pytest.mark.parametrize("case", named(LOCAL))
def test_in_process(case: Case) -> None:
    case.run()


def test_the_cases_are_those_of_the_kind() -> None:
    def names(subject: Subject) -> set[str]:
        return {str(case) for case in conformance.cases(subject)}

    assert {"acomplete.response", "engine.asyncio", "failing.blocking"} <= names(LOCAL["painter"])
    assert {"complete.response", "complete.belongs", "max_batch"} <= names(LOCAL["counter"])
    images, embeddings = names(SUBJECTS["openai.images"]), names(SUBJECTS["voyage"])
    assert {"request.prompt", "request.image"} <= images - embeddings
    assert {"request.inputs", "request.batch", "max_batch"} <= embeddings - images
    assert "request.image" not in names(replace(SUBJECTS["openai.images"], edits=False))
    assert not {"request.history", "request.system", "request.foreign"} & (images | embeddings)


def test_a_report_names_what_is_missing() -> None:
    report = conformance.check(EmbeddingSubject(make=OpenAIEmbeddings, without=frozenset({"unknown"})))
    assert "['400', '401', " in report.failed["samples"]
    assert "'empty', 'fewer', 'ragged', 'whole']" in report.failed["samples"]
    samples = {**SUBJECTS["voyage"].samples, "ragged": SUBJECTS["voyage"].samples["whole"]}
    report = conformance.check(replace(SUBJECTS["voyage"], samples=samples))
    assert "the error of the sample 'ragged' is None" in report.failed["samples"]


# Broken adapters: each changes one thing, and the case that fails says which


def decoding(adapter: type[Any], kind: type[Decoding]) -> type[Any]:
    class Broken(adapter):  # type: ignore[misc]
        def decoder(self, request: Any, head: HttpHead, ctx: CallContext) -> Any:
            return kind(super().decoder(request, head, ctx))

    return Broken


def encoding(adapter: type[Any], change: Callable[[Any, HttpRequest], HttpRequest]) -> type[Any]:
    class Broken(adapter):  # type: ignore[misc]
        def encode(self, request: Any, ctx: CallContext) -> HttpRequest:
            return change(request, super().encode(request, ctx))

    return Broken


class Changing(Decoding):
    """A decoder that gives another result."""

    def changed(self, events: list[Any]) -> list[Any]:
        return [
            allm.MediaCompleted(self.result(event.result)) if type(event) is allm.MediaCompleted else event
            for event in events
        ]

    def result(self, result: Any) -> Any:
        return result


class Reversed(Changing):
    def result(self, result: Any) -> Any:
        return replace(result, data=packed(result.vectors()[::-1]))


class Typeless(Changing):
    def result(self, result: Any) -> Any:
        return replace(result, images=[replace(image, mime_type=None) for image in result.images])


class Mistyped(Changing):
    def result(self, result: Any) -> Any:
        return replace(result, images=[replace(image, mime_type="image/gif") for image in result.images])


class TwoEnds(Decoding):
    def changed(self, events: list[Any]) -> list[Any]:
        return [*events, *[event for event in events if type(event) is allm.MediaCompleted]]


class CountsDown(Decoding):
    def changed(self, events: list[Any]) -> list[Any]:
        return [allm.MediaProgress(1), *events] if events else []


class AlwaysWhole(Decoding):
    """It takes what fails for an answer."""

    def changed(self, events: list[Any]) -> list[Any]:
        whole = allm.MediaCompleted(allm.EmbeddingResponse(data=packed(VECTORS), dimensions=3))
        return [whole if type(event) is allm.StreamFailed else event for event in events]


class NoFilter(Decoding):
    """It has no word for a filter."""

    def changed(self, events: list[Any]) -> list[Any]:
        return [
            allm.StreamFailed(replace(event.error, reason="provider_error"))
            if type(event) is allm.StreamFailed and event.error.reason == "content_filter"
            else event
            for event in events
        ]


class Ungated(OpenAIEmbeddings):
    """It sends as many inputs as it is given."""

    def encode(self, request: allm.EmbeddingRequest, ctx: CallContext) -> HttpRequest:
        first = super().encode(replace(request, input=request.input[:1]), ctx)
        return replace(first, body=json.dumps({"input": request.input}).encode())


class Boundless(OpenAIEmbeddings):
    max_batch = 0


class Undecided(OpenAIImages):
    """It cannot be told why it is refused."""

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> allm.ErrorInfo:
        info = super().explain(status, headers, body)
        return replace(info, retryable=not info.retryable)


def _random_boundary(request: Any, made: HttpRequest) -> HttpRequest:
    return replace(made, headers={**made.headers, "x-boundary": uuid.uuid4().hex})


def _first_alone(request: Any, made: HttpRequest) -> HttpRequest:
    body = json.loads(made.body)
    return replace(made, body=json.dumps({**body, "input": body["input"][:1]}).encode())


def _overrules(request: Any, made: HttpRequest) -> HttpRequest:
    body = json.loads(made.body)
    for part in body["requests"]:
        part["content"] = {"parts": [{"text": "won"}]}
    return replace(made, body=json.dumps(body).encode())


def _without_image(request: Any, made: HttpRequest) -> HttpRequest:
    return replace(made, body=made.body.replace(b"PNG", b"GNP"))


IMAGES, EMBEDDINGS, GEMINI = (
    SUBJECTS[name] for name in ("openai.images", "openai.embeddings", "gemini.embeddings")
)
BROKEN: dict[str, tuple[Subject, type[Any], set[str]]] = {
    "turned round": (EMBEDDINGS, decoding(OpenAIEmbeddings, Reversed), {"whole.fold", "engine.blocking"}),
    "no failures": (
        EMBEDDINGS,
        decoding(OpenAIEmbeddings, AlwaysWhole),
        {"ragged.fold", "empty.fold", "fewer.fold", "answer.garbage"},
    ),
    "two ends": (EMBEDDINGS, decoding(OpenAIEmbeddings, TwoEnds), {"whole.order", "whole.after"}),
    "talks on": (IMAGES, decoding(OpenAIImages, TalksOn), {"whole.after", "stream.after"}),
    "progress back": (IMAGES, decoding(OpenAIImages, CountsDown), {"stream.order"}),
    "no type": (IMAGES, decoding(OpenAIImages, Typeless), {"whole.order", "engine.asyncio"}),
    "wrong type": (IMAGES, decoding(OpenAIImages, Mistyped), {"whole.order", "stream.order"}),
    "no filter": (IMAGES, decoding(OpenAIImages, NoFilter), {"filtered.fold", "filtered_stream.fold"}),
    "no gate": (EMBEDDINGS, Ungated, {"request.batch"}),
    "no batches": (EMBEDDINGS, Boundless, {"max_batch"}),
    "retries wrongly": (IMAGES, Undecided, {"refusal.401", "refusal.429"}),
    "random boundary": (IMAGES, encoding(OpenAIImages, _random_boundary), {"request.pure"}),
    "first input alone": (EMBEDDINGS, encoding(OpenAIEmbeddings, _first_alone), {"request.inputs"}),
    "options lose": (GEMINI, encoding(GeminiEmbeddings, _overrules), {"request.options", "request.inputs"}),
    "no image": (IMAGES, encoding(OpenAIImages, _without_image), {"request.image"}),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_adapter_fails_in_the_right_case(broken: str) -> None:
    subject, make, wanted = BROKEN[broken]
    report = conformance.check(replace(subject, make=make))
    assert wanted <= report.failed.keys()
    for name in wanted:
        assert report.failed[name].startswith(f"{name} (")
        assert len(report.failed[name]) < 2000
    assert {"samples", "request.surrogates", "refusal.garbage"} <= set(report.passed)


class InOrderOfLength(Counter):
    """It forgets which vector is whose."""

    def complete(self, request: allm.EmbeddingRequest, ctx: CallContext) -> allm.EmbeddingResponse:
        return super().complete(replace(request, input=tuple(sorted(request.input, key=len))), ctx)


class Forgetful(FakeEmbeddings):
    def complete(self, request: allm.EmbeddingRequest, ctx: CallContext) -> allm.EmbeddingResponse:
        return super().complete(replace(request, input=request.input[1:]), ctx)


class TellsTheKey(Painter):
    async def acomplete(self, request: allm.ImageRequest, ctx: CallContext) -> allm.ImageResponse:
        return replace(await super().acomplete(request, ctx), metadata={"key": ctx.api_key})


class Poet(Painter):
    async def acomplete(self, request: allm.ImageRequest, ctx: CallContext) -> Any:
        return "A kestrel"


BROKEN_LOCAL: dict[str, tuple[Subject, set[str]]] = {
    "order of its own": (EmbeddingSubject(make=InOrderOfLength), {"complete.belongs"}),
    "one is missing": (EmbeddingSubject(make=Forgetful), {"complete.response", "engine.blocking"}),
    "key told": (ImageSubject(make=TellsTheKey), {"acomplete.response"}),
    "no picture": (ImageSubject(make=Poet), {"acomplete.response", "engine.asyncio", "engine.trio"}),
}


@pytest.mark.parametrize("broken", BROKEN_LOCAL)
def test_a_broken_adapter_in_process_fails_in_the_right_case(broken: str) -> None:
    subject, wanted = BROKEN_LOCAL[broken]
    report = conformance.check(subject)
    assert wanted <= report.failed.keys()
    assert "verbs" in report.passed
