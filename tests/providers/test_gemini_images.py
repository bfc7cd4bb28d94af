"""Images by Gemini: a chat that draws, asked for and read as images."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

import allm
from allm.data.content import Image, ImagePart
from allm.data.events import RawChunk, StreamFailed, UsageReported
from allm.data.failure import ErrorInfo
from allm.data.media import ImageRequest, ImageResponse, MediaCompleted, MediaProgress
from allm.errors import UnsupportedError, ValidationError
from allm.ports import CallContext, HttpRequest
from allm.providers.encoding import VARIATION
from allm.providers.gemini.images import RATIOS, GeminiImages
from tests.faces import Face
from tests.four_dialects import GENERATE
from tests.image_support import SSE, decoded, differences, events_of, png, result_of
from tests.loopback import Answer, Loopback
from tests.sdk_types import misfits
from tests.wire_support import Record, body_of, records, splits

RECORDS = [record for record in records("gemini.generate") if record["expected"].get("images")]
MODEL = "gemini-3.1-flash-image"
GEMINI = GeminiImages()
KESTREL = Image.from_bytes(png())
OTHER = Image.from_bytes(png(5, 5))
PROMPT = {"text": "a kestrel"}
PICTURE = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(png()).decode()}}
SECOND = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(png(5, 5)).decode()}}
EDIT: dict[str, Any] = {"operation": "edit", "input_images": (KESTREL,)}


def encoded(ctx: CallContext | None = None, **fields: Any) -> HttpRequest:
    fields = {"model": MODEL, **fields}
    if fields.get("operation") != "variation":
        fields.setdefault("prompt", "a kestrel")
    return GEMINI.encode(ImageRequest(**fields), ctx or CallContext())


def config(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encoded(**fields).body)["generationConfig"]
    return found


# What is sent


def test_the_smallest_request() -> None:
    request = encoded()
    assert json.loads(request.body) == {
        "contents": [{"role": "user", "parts": [PROMPT]}],
        "generationConfig": {"responseModalities": ["TEXT", "IMAGE"]},
    }
    assert request.url.endswith(f"/v1/models/{MODEL}:generateContent")
    assert request.headers == {"content-type": "application/json", "accept": "application/json"}
    assert request.key is not None
    assert request.key.header == "x-goog-api-key"
    assert request.warnings == ()


def test_a_stream_is_asked_for_by_adapter_option() -> None:
    request = encoded(CallContext(adapter_options={"streaming": True, "project": "p"}))
    assert request.url.endswith(":streamGenerateContent?alt=sse")
    assert request.headers["x-goog-user-project"] == "p"


def test_an_edit_has_the_images_in_it() -> None:
    link = Image.from_url("https://example.com/a.png")
    body = json.loads(encoded(operation="edit", input_images=(KESTREL, link)).body)
    linked = {"fileData": {"fileUri": "https://example.com/a.png", "mimeType": "image/png"}}
    assert body["contents"] == [{"role": "user", "parts": [PROMPT, PICTURE, linked]}]


def test_a_variation_is_an_edit_with_a_prompt() -> None:
    request = encoded(operation="variation", input_images=(KESTREL,))
    assert json.loads(request.body)["contents"][0]["parts"] == [{"text": VARIATION}, PICTURE]
    assert "edit" in request.warnings[0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, None),
        ("auto", None),
        ("1024x1024", {"aspectRatio": "1:1"}),
        ("1075x1024", {"aspectRatio": "1:1"}),  # nearly 5 % away
        ("1536x864", {"aspectRatio": "16:9"}),
        ("1365x768", {"aspectRatio": "16:9"}),
        ("864x1536", {"aspectRatio": "9:16"}),
        ("775x1000", {"aspectRatio": "4:5"}),  # between 3:4 and 4:5, nearer to this
        ("2K", {"imageSize": "2K"}),
        ("4k", {"imageSize": "4K"}),
        *[(ratio, {"aspectRatio": ratio}) for ratio in RATIOS],
    ],
)
def test_sizes(size: str | None, expected: dict[str, str] | None) -> None:
    request = encoded(size=size)
    assert json.loads(request.body)["generationConfig"].get("imageConfig") == expected
    assert request.warnings == ()


@pytest.mark.parametrize("size", ["1000x400", "7:5", "8K", "0x5", "10x", "large", "9" * 5000 + "x1"])
def test_odd_sizes_are_refused_with_the_choices(size: str) -> None:
    with pytest.raises(ValidationError, match=r"near none of 1:1, .*21:9, and not one of 1K, 2K, 4K, auto"):
        encoded(size=size)


def test_pixels_that_will_not_come_are_told() -> None:
    (warning,) = encoded(size="2048x2048").warnings
    assert "1:1" in warning


def test_settings_that_gemini_has_not_are_told() -> None:
    request = encoded(quality="high", style="vivid", background="transparent")
    assert request.body == encoded().body
    assert [warning.partition("=")[0] for warning in request.warnings] == ["quality", "style", "background"]


def test_candidates_and_options() -> None:
    assert config(n=2)["candidateCount"] == 2
    options = {"image_config": {"imageSize": "2K"}, "temperature": 0.5, "responseModalities": ["IMAGE"]}
    assert config(size="16:9", options=options) == {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
        "temperature": 0.5,
    }
    assert config(size="16:9", options={"imageConfig": None})["imageConfig"] is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({**EDIT, "mask": KESTREL}, ("mask", "mask_refused")),
        ({"response_format": "url"}, ("response_format", "url_refused")),
    ],
)
def test_unsupported(fields: dict[str, Any], problem: tuple[str, str]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        encoded(**fields)
    assert caught.value.errors == (problem,)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        EDIT,
        {"size": "16:9", "n": 2},
        {"size": "2K"},
        {"operation": "variation", "input_images": (KESTREL,)},
    ],
)
def test_the_types_of_the_official_client_take_it(fields: dict[str, Any]) -> None:
    assert misfits(GENERATE, encoded(**fields)) == []
    assert misfits(GENERATE, encoded(options={"generationConfig": {"sharpness": 1}})) != []


# What comes back


def answer(*parts: dict[str, Any], finish: str | None = "STOP", **fields: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r-1", **fields}


def answered(body: Any, **fields: Any) -> ImageResponse | ErrorInfo:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decoded(GEMINI, ImageRequest(prompt="a kestrel", model=MODEL, **fields), [data])


def images(body: Any, **fields: Any) -> ImageResponse:
    found = answered(body, **fields)
    assert isinstance(found, ImageResponse), found
    return found


def test_recordings_are_read() -> None:
    assert len(RECORDS) == (4 if records("gemini.generate") else 0)


@pytest.mark.parametrize("record", RECORDS, ids=[record["id"] for record in RECORDS])
def test_recorded(record: Record) -> None:
    body = body_of(record)
    whole = result_of(GEMINI, record, [body])
    assert differences(record, whole) == []
    for pieces in splits(body):
        assert result_of(GEMINI, record, pieces) == whole


def test_text_beside_the_image_is_kept() -> None:
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 1290, "thoughtsTokenCount": 10}
    thought = {"text": "a bird", "thought": True}
    parts = (thought, {"text": "Here: "}, {**PICTURE, "thoughtSignature": "c2ln"}, {"text": "done."})
    found = images(answer(*parts, usageMetadata=usage))
    assert found.images == (KESTREL,)
    assert found.text == "Here: done."
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (5, 1300)
    assert (found.provider, found.model, found.id) == ("gemini", "gemini-x", "r-1")
    assert (found.request_id, found.finish_reason, found.warnings) == ("req-1", "stop", ())
    assert found.metadata["raw_finish_reason"] == "STOP"


def test_an_image_that_was_only_thought_of_is_passed_by() -> None:
    found = images(answer({**SECOND, "thought": True}, PICTURE))
    assert found.images == (KESTREL,)


def test_every_candidate_gives_its_images() -> None:
    body = answer(PICTURE)
    beside = {"content": {"parts": [{"text": "no"}, SECOND, {**PICTURE, "thought": True}]}, "index": 1}
    broken = {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "%"}}]}, "index": 2}
    body["candidates"] += [beside, broken, {"index": 3}]
    found = images(body, n=4)
    assert found.images == (KESTREL, OTHER)
    assert found.warnings == ("2 of 4 images came",)


@pytest.mark.parametrize("finish", ["STOP", "NO_IMAGE", "IMAGE_OTHER", "MAX_TOKENS"])
def test_an_answer_in_words_is_no_failure(finish: str) -> None:
    found = images(answer({"text": "Which kestrel?"}, finish=finish))
    assert (found.images, found.text) == ((), "Which kestrel?")
    assert found.warnings == ("0 of 1 images came",)
    with pytest.raises(ValidationError):
        _ = found.image


@pytest.mark.parametrize("word", ["SAFETY", "IMAGE_SAFETY", "PROHIBITED_CONTENT", "IMAGE_RECITATION"])
def test_filters(word: str) -> None:
    body = answer(finish=word)
    body["candidates"][0]["finishMessage"] = "Not this bird."
    found = answered(body)
    assert isinstance(found, ErrorInfo)
    assert (found.reason, found.code) == ("content_filter", word)
    assert "Not this bird." in found.message


def test_a_refused_prompt() -> None:
    found = answered({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    assert isinstance(found, ErrorInfo)
    assert (found.reason, found.code, found.model) == ("content_filter", "SAFETY", MODEL)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "malformed_response"),
        (b"{", "malformed_response"),
        (b"<html>", "protocol_error"),
        ({"error": {"code": 503, "status": "UNAVAILABLE", "message": "busy"}}, "overloaded"),
        (answer(finish="MALFORMED_RESPONSE"), "provider_error"),
    ],
)
def test_failures_in_a_good_status(body: Any, reason: str) -> None:
    found = answered(body)
    assert isinstance(found, ErrorInfo)
    assert found.reason == reason


def test_refusals() -> None:
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow"}}
    info = GEMINI.explain(429, {}, json.dumps(error).encode())
    assert (info.reason, info.provider) == ("rate_limited", "gemini")


# Streams


def streamed(*chunks: Any) -> list[Any]:
    parts = [
        chunk if isinstance(chunk, bytes) else b"data: %b\n\n" % json.dumps(chunk).encode()
        for chunk in chunks
    ]
    return events_of(GEMINI, ImageRequest(prompt="a kestrel", model=MODEL), parts, SSE)


def test_a_stream_shows_each_image() -> None:
    usage = {"promptTokenCount": 5}
    found = streamed(
        answer({"text": "Here."}, finish=None),
        answer(PICTURE, finish=None),
        {"news": 1},
        answer(SECOND, usageMetadata=usage),
    )
    assert found[:3] == [
        MediaProgress(1, 1, ImagePart(KESTREL)),
        RawChunk({"news": 1}),
        MediaProgress(2, 1, ImagePart(OTHER)),
    ]
    reported, last = found[3:]
    assert isinstance(reported, UsageReported)
    assert isinstance(last, MediaCompleted)
    assert isinstance(last.result, ImageResponse)
    assert last.result.images == (KESTREL, OTHER)
    assert last.result.text == "Here."


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([answer(PICTURE, finish=None)], "stream_interrupted"),
        ([answer({"text": "Hm"}, finish=None), answer(finish="IMAGE_SAFETY")], "content_filter"),
        ([{"promptFeedback": {"blockReason": "OTHER"}}], "content_filter"),
        ([b"data: {\n\n"], "malformed_response"),
    ],
)
def test_broken_streams(chunks: list[Any], reason: str) -> None:
    last = streamed(*chunks)[-1]
    assert isinstance(last, StreamFailed)
    assert last.error.reason == reason


# Through the verbs


@pytest.mark.usefixtures("clean")
def test_over_loopback(face: Face) -> None:
    def reply(path: str, body: bytes) -> Answer:
        if "stream" in path:
            data = b"data: %b\n\n" % json.dumps(answer(PICTURE)).encode()
            return 200, {"content-type": "text/event-stream"}, data
        made = answer({"text": "Here."}, PICTURE)
        if b"forbidden" in body:
            made = answer(finish="IMAGE_SAFETY")
        return 200, {"content-type": "application/json"}, json.dumps(made).encode()

    with Loopback(reply) as server:
        engine = allm.Engine(image_adapter=f"gemini:{MODEL}", base_url=server.url)
        made = face.call("generate_image", engine, "a kestrel", size="1536x864", api_key="k")
        assert (made.images, made.text) == ((KESTREL,), "Here.")
        options = {"streaming": True}
        seen = face.events(
            engine, KESTREL, "in flight", verb="stream_edit_image", api_key="k", adapter_options=options
        )
        assert [type(event) for event in seen.events] == [MediaProgress, MediaCompleted]
        assert seen.result.image == KESTREL
        with pytest.raises(allm.ContentFilteredError):
            face.call("generate_image", engine, "forbidden", api_key="k")
        assert server.headers[0]["x-goog-api-key"] == "k"
        sent = json.loads(server.bodies[0])
        assert sent["generationConfig"]["imageConfig"] == {"aspectRatio": "16:9"}


@pytest.mark.usefixtures("clean")
def test_gates_come_before_the_key(face: Face) -> None:
    engine = allm.Engine(image_adapter=f"gemini:{MODEL}")
    with pytest.raises(UnsupportedError):
        face.call("edit_image", engine, KESTREL, "in flight", KESTREL)
    with pytest.raises(ValidationError):
        face.call("generate_image", engine, "a kestrel", size="1000x400")
