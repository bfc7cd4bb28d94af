"""OpenAI's Images API: what is sent, what is refused before anything is, and how answers are read."""

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
from allm.providers.openai.images import OpenAIImages
from tests.faces import Face
from tests.image_support import (
    SSE,
    FormPart,
    decoded,
    differences,
    events_of,
    form,
    form_of,
    png,
    result_of,
)
from tests.loopback import Answer, Loopback
from tests.sdk_types import _problems
from tests.wire_support import Record, body_of, records, splits

RECORDS = records("openai.images")
GPT, FLARE, OLD = "gpt-image-2", "gpt-image-2.5-flare", "dall-e-3"
OPENAI = OpenAIImages()
ELSEWHERE = OpenAIImages("elsewhere", "https://images.example.com/v1")
KESTREL = Image.from_bytes(png())
FLYING = Image.from_bytes(b"\xff\xd8\xff\xe0flying")
LINK = Image.from_url("https://example.com/kestrel.png")
EDIT: dict[str, Any] = {"operation": "edit", "input_images": (KESTREL,)}
BLOCKED = {"code": "moderation_blocked", "message": "no"}


def encoded(adapter: OpenAIImages = OPENAI, ctx: CallContext | None = None, **fields: Any) -> HttpRequest:
    fields = {"model": GPT, **fields}
    if fields.get("operation") != "variation":
        fields.setdefault("prompt", "a kestrel")
    return adapter.encode(ImageRequest(**fields), ctx or CallContext())


def sent(adapter: OpenAIImages = OPENAI, ctx: CallContext | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encoded(adapter, ctx, **fields).body)
    return body


def edited(adapter: OpenAIImages = OPENAI, **fields: Any) -> list[FormPart]:
    return form_of(encoded(adapter, operation="edit", **{"input_images": (KESTREL,), **fields}))


def text(name: str, value: str) -> FormPart:
    return FormPart(name, None, None, value.encode())


# What is sent


def test_the_smallest_request() -> None:
    request = encoded()
    assert json.loads(request.body) == {"model": GPT, "prompt": "a kestrel"}
    assert request.url == "https://api.openai.com/v1/images/generations"
    assert request.headers == {"content-type": "application/json", "accept": "application/json"}
    assert request.key is not None
    assert request.key.variables == ("OPENAI_API_KEY",)
    assert request.warnings == ()


@pytest.mark.parametrize(
    ("fields", "body", "warnings"),
    [
        ({"n": 2, "size": "1536x864"}, {"n": 2, "size": "1536x864"}, 0),
        ({"size": "auto", "quality": "low", "background": "transparent"},
         {"size": "auto", "quality": "low", "background": "transparent"}, 0),
        ({"response_format": "base64"}, {}, 0),
        ({"quality": "hd", "style": "vivid"}, {"quality": "high"}, 2),
        ({"quality": "standard"}, {"quality": "medium"}, 1),
        ({"quality": "max"}, {"quality": "high"}, 1),
        ({"quality": "max", "model": FLARE}, {"quality": "max"}, 0),
        ({"quality": "max", "model": "gpt-image-2-2026-04-21"}, {"quality": "high"}, 1),
        ({"model": "openai/gpt-image-1-mini", "response_format": "binary"}, {}, 0),
        ({"model": OLD, "quality": "high", "style": "natural", "background": "opaque"},
         {"quality": "hd", "style": "natural", "response_format": "b64_json"}, 2),
        ({"model": "dall-e-2", "quality": "low"}, {"response_format": "b64_json"}, 1),
        ({"model": "dall-e-2", "response_format": "url"}, {"response_format": "url"}, 0),
        ({"model": "grok-imagine", "quality": "hd", "style": "vivid"},
         {"quality": "hd", "style": "vivid", "response_format": "b64_json"}, 0),
        ({"model": "my-deployment", "options": {"response_format": None}}, {}, 0),
        ({"options": {"output_format": "webp", "n": 3}, "n": 2}, {"output_format": "webp", "n": 3}, 0),
        ({"options": {"partial_images": 2}}, {"partial_images": 2, "stream": True}, 0),
        ({"options": {"partial_images": 2, "stream": False}}, {"partial_images": 2, "stream": False}, 0),
    ],
)  # fmt: skip
def test_fields(fields: dict[str, Any], body: dict[str, Any], warnings: int) -> None:
    request = encoded(**fields)
    expected = {"model": fields.get("model", GPT), "prompt": "a kestrel", **body}
    assert json.loads(request.body) == expected
    assert len(request.warnings) == warnings, request.warnings


def test_a_stream_is_asked_for_by_adapter_option() -> None:
    request = encoded(ctx=CallContext(adapter_options={"streaming": True}))
    assert json.loads(request.body)["stream"] is True
    assert request.headers["accept"] == "text/event-stream"
    quiet = CallContext(adapter_options={"streaming": False})
    assert "stream" not in sent(ctx=quiet, options={"partial_images": 1})


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://h/v1/", "https://h/v1/images/generations"),
        ("https://h/v1/chat/completions", "https://h/v1/images/generations"),
        ("https://h/v1/responses?x=1", "https://h/v1/images/generations?x=1"),
        ("https://h/v1/images/generations", "https://h/v1/images/generations"),
    ],
)
def test_addresses(base_url: str, url: str) -> None:
    assert encoded(ctx=CallContext(base_url=base_url)).url == url
    versioned = CallContext(base_url="https://h/openai", adapter_options={"api_version": "v2"})
    assert encoded(ctx=versioned).url == "https://h/openai/images/generations?api-version=v2"


def test_headers_of_the_account() -> None:
    options = {"organization": "org-1", "project": "p-1", "headers": {"X-Team": "birds"}}
    headers = encoded(ctx=CallContext(adapter_options=options)).headers
    assert headers["openai-organization"] == "org-1"
    assert headers["openai-project"] == "p-1"
    assert headers["x-team"] == "birds"


def test_an_edit_is_a_form() -> None:
    request = encoded(**EDIT, mask=KESTREL, n=2)
    assert request.url == "https://api.openai.com/v1/images/edits"
    assert form_of(request) == [
        text("model", GPT),
        text("prompt", "a kestrel"),
        text("n", "2"),
        FormPart("image", "image.png", "image/png", png()),
        FormPart("mask", "mask.png", "image/png", png()),
    ]


def test_several_images_are_a_list() -> None:
    assert edited(input_images=(KESTREL, FLYING))[-2:] == [
        FormPart("image[]", "image.png", "image/png", png()),
        FormPart("image[]", "image.jpeg", "image/jpeg", b"\xff\xd8\xff\xe0flying"),
    ]


def test_options_of_a_form() -> None:
    options = {
        "partial_images": 1,
        "moderation": None,
        "svg": {"model": "m", "reasoning": {"effort": "low"}},
        "tags": ["a", 2],
    }
    assert edited(options=options)[2:-1] == [
        text("stream", "true"),
        text("partial_images", "1"),
        text("svg[model]", "m"),
        text("svg[reasoning][effort]", "low"),
        text("tags[]", "a"),
        text("tags[]", "2"),
    ]


@pytest.mark.parametrize("prompt", ["Grüße\r\n--x--\r\n\r\n", 'a "kestrel"', "鳶", "a\0b"])
def test_text_in_a_form_is_kept(prompt: str) -> None:
    assert edited(prompt=prompt)[1] == text("prompt", prompt)


def test_forms_are_pure() -> None:
    assert encoded(**EDIT) == encoded(**EDIT)
    assert encoded(**EDIT).headers != encoded(**EDIT, n=2).headers  # the boundary is a digest


def test_the_users_own_content_type_does_not_break_a_form() -> None:
    ctx = CallContext(adapter_options={"headers": {"content-type": "application/json"}})
    request = encoded(ctx=ctx, **EDIT)
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize(
    "fields",
    [
        {"options": {'a"; x="': "1"}},
        {"options": {"a\r\nX-Evil: 1": "1"}},
        {"input_images": (Image(data=b"x", mime_type="image/png\r\nX-Evil: 1"),)},
        {"prompt": "\ud800"},
    ],
)
def test_nothing_gets_into_the_headers_of_a_form(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        edited(**fields)


def test_a_link_is_passed_on_and_not_fetched() -> None:
    """OpenAI reads it; all images then travel as JSON."""
    request = encoded(operation="edit", input_images=(LINK, KESTREL), mask=KESTREL)
    data_uri = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    assert json.loads(request.body) == {
        "model": GPT,
        "prompt": "a kestrel",
        "images": [{"image_url": "https://example.com/kestrel.png"}, {"image_url": data_uri}],
        "mask": {"image_url": data_uri},
    }
    assert request.headers["content-type"] == "application/json"
    assert edited(input_images=(Image.from_url(data_uri),))[-1].data == png()


def test_a_variation_is_an_edit_where_the_endpoint_is_gone() -> None:
    request = encoded(operation="variation", input_images=(KESTREL,))
    assert request.url.endswith("/images/edits")
    assert text("prompt", VARIATION) in form_of(request)
    assert "edit" in request.warnings[0]
    own = encoded(ELSEWHERE, operation="variation", input_images=(KESTREL,))
    assert own.url == "https://images.example.com/v1/images/edits"  # a GPT image model only edits


def test_a_variation_elsewhere_has_its_endpoint() -> None:
    fields: dict[str, Any] = {"operation": "variation", "input_images": (KESTREL,), "model": "dall-e-2"}
    request = encoded(ELSEWHERE, **fields)
    assert request.url == "https://images.example.com/v1/images/variations"
    assert form_of(request) == [
        text("model", "dall-e-2"),
        text("response_format", "b64_json"),
        FormPart("image", "image.png", "image/png", png()),
    ]
    assert request.warnings == ()


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("adapter", "fields", "reason"),
    [
        (OPENAI, {"model": OLD, **EDIT}, "'edit' is not one of generate"),
        (OPENAI, {"operation": "paint"}, "'paint' is not one of generate, edit"),
        (OPENAI, {"response_format": "url"}, "url_refused"),
        (ELSEWHERE, {**EDIT, "input_images": (KESTREL, LINK)}, r"input_images\[1\]: pass_its_bytes"),
        (ELSEWHERE, {**EDIT, "mask": LINK}, "mask: pass_its_bytes"),
    ],
)
def test_unsupported(adapter: OpenAIImages, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        encoded(adapter, **fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"size": "16:9"}, "'16:9' is not 'auto' or WIDTHxHEIGHT"),
        ({"size": "2K"}, "'2K' is not"),
        ({"mask": KESTREL}, "mask: not_allowed_for_operation 'generate'"),
        ({"operation": "edit", "input_images": (Image.from_bytes(b"BM"),)}, "image: missing_mime_type"),
        ({"operation": "edit", "input_images": (Image.from_file("a.png"),)}, "file_not_read"),
        ({"operation": "edit", "input_images": (Image.from_url("data:x"),)}, "not_a_base64_data_uri"),
    ],
)
def test_invalid(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        encoded(**fields)


# Against the official client

SDK_CASES: dict[str, dict[str, Any]] = {
    "generate": {"size": "1024x1024", "quality": "high", "background": "opaque", "n": 2},
    "stream": {"options": {"partial_images": 2, "output_format": "jpeg", "output_compression": 50}},
    "edit": {**EDIT, "mask": KESTREL},
    "edit of several": {"operation": "edit", "input_images": (KESTREL, KESTREL), "size": "auto"},
    "svg": {**EDIT, "options": {"svg": {"model": "m"}}},
    "variation": {"operation": "variation", "input_images": (KESTREL,)},
}


@pytest.mark.parametrize("case", SDK_CASES)
def test_the_official_client_sends_the_same(case: str) -> None:
    """Its own writer is given what we send, read back, and must write it again."""
    openai = pytest.importorskip("openai", reason="the SDK openai is not installed")
    httpx2 = pytest.importorskip("httpx2")
    ours = encoded(**SDK_CASES[case])
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        request.read()
        seen.append(request)
        return httpx2.Response(200, json={"created": 1, "data": []})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        images = openai.OpenAI(api_key="k", http_client=http).images
        if ours.headers["content-type"] == "application/json":
            images.generate(**json.loads(ours.body))
            assert json.loads(seen[0].content) == json.loads(ours.body)
        else:
            images.edit(**_arguments(form_of(ours)))
            theirs = form(seen[0].headers["content-type"], seen[0].content)
            assert sorted(theirs, key=str) == sorted(form_of(ours), key=str)
    assert str(seen[0].url) == ours.url


def _arguments(parts: list[FormPart]) -> dict[str, Any]:
    """What the official client is called with to send these parts."""
    files: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for part in parts:
        value = (part.filename, part.data, part.mime_type)
        if part.name == "image[]":
            files.setdefault("image", []).append(value)
        elif part.filename is not None:
            files[part.name] = value
        elif part.name == "svg[model]":
            given["svg"] = {"model": part.data.decode()}
        else:
            given[part.name] = part.data.decode()
    return {**files, **given}


@pytest.mark.parametrize("fields", [case for case in SDK_CASES.values() if "operation" not in case])
def test_the_types_of_the_official_client_take_it(fields: dict[str, Any]) -> None:
    params = pytest.importorskip(
        "openai.types.image_generate_params", reason="the SDK openai is not installed"
    ).ImageGenerateParams
    assert _problems(sent(**fields), params, "body") == []
    assert _problems({**sent(**fields), "sharpness": 1}, params, "body") != []


# What comes back

USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 10},
    "output_tokens": 1223,
    "total_tokens": 1233,
}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def answered(body: Any, **fields: Any) -> ImageResponse | ErrorInfo:
    request = ImageRequest(**{"prompt": "a kestrel", "model": GPT, **fields})
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decoded(OPENAI, request, [data])


def images(body: Any, **fields: Any) -> ImageResponse:
    found = answered(body, **fields)
    assert isinstance(found, ImageResponse), found
    return found


def failure(body: Any, **fields: Any) -> ErrorInfo:
    found = answered(body, **fields)
    assert isinstance(found, ErrorInfo), found
    return found


@pytest.mark.skipif(not RECORDS, reason="the recorded exchanges are not here")
def test_recordings_are_read() -> None:
    assert len(RECORDS) == 7


@pytest.mark.parametrize("record", RECORDS, ids=[record["id"] for record in RECORDS])
def test_recorded(record: Record) -> None:
    body = body_of(record)
    whole = result_of(OPENAI, record, [body])
    assert differences(record, whole) == []
    assert result_of(OPENAI, record, [body[i : i + 1] for i in range(len(body))]) == whole
    for pieces in splits(body):
        assert result_of(OPENAI, record, pieces) == whole


def test_a_whole_answer() -> None:
    item = {"b64_json": base64_of(png(4, 5)), "revised_prompt": "a small kestrel"}
    found = images({"created": 5, "data": [item], "output_format": "png", "quality": "low", "usage": USAGE})
    assert found.image.to_bytes() == png(4, 5)
    assert (found.image.mime_type, found.image.width, found.image.height) == ("image/png", 4, 5)
    assert found.image.revised_prompt == "a small kestrel"
    assert found.usage == allm.Usage(input_tokens=10, output_tokens=1223, total_tokens=1233, raw=USAGE)
    assert (found.provider, found.model, found.request_id) == ("openai", GPT, "req-1")
    assert (found.finish_reason, found.warnings, found.error) == ("stop", (), None)
    assert found.metadata == {"created": 5, "output_format": "png", "quality": "low"}


@pytest.mark.parametrize(
    ("data", "format", "kind"),
    [
        (png(), "webp", "image/png"),  # the bytes know better
        (b"<svg/>", "svg", "image/svg+xml"),
        (b"??", "jpeg", "image/jpeg"),
        (b"??", None, "image/png"),
    ],
)
def test_media_types(data: bytes, format: str | None, kind: str) -> None:
    found = images({"data": [{"b64_json": base64_of(data)}], "output_format": format})
    assert found.image.mime_type == kind


@pytest.mark.parametrize(
    "item",
    [
        {"b64_json": f"data:image/png;base64,{base64_of(png())}"},
        {"url": f"data:image/png;base64,{base64_of(png())}"},
        {"url": "https://example.com/a.png", "b64_json": base64_of(png())},
    ],
)
def test_bytes_in_other_places(item: dict[str, Any]) -> None:
    assert images({"data": [item]}).image == KESTREL


def test_fewer_images_than_asked_for_are_told() -> None:
    found = images({"data": [{"b64_json": base64_of(png())}, {"content_filter_results": {}}]}, n=2)
    assert found.images == (KESTREL,)
    assert found.warnings == ("1 of 2 images came",)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"created": 1, "data": []}, "content_filter"),
        ({"data": [{}]}, "content_filter"),
        ({"data": [{"b64_json": "%%"}]}, "malformed_response"),
        ({"created": 1}, "malformed_response"),
        ({"data": [1]}, "malformed_response"),
        ({"error": BLOCKED}, "content_filter"),
        ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, "rate_limited"),
        (b'{"data": [', "malformed_response"),
        (b"<html>", "protocol_error"),
        (b"", "protocol_error"),
    ],
)
def test_failures_in_a_good_status(body: Any, reason: str) -> None:
    assert failure(body).reason == reason


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, {"code": "content_policy_violation", "message": "Your request was rejected"}, "content_filter"),
        (400, {"code": "moderation_blocked", "type": "image_generation_user_error"}, "content_filter"),
        (400, {"code": "invalid_size", "message": "no"}, "invalid_request"),
        (429, {"code": "rate_limit_exceeded", "message": "slow"}, "rate_limited"),
        (404, {"code": "model_not_found", "message": "dall-e-2"}, "not_found"),
    ],
)
def test_refusals(status: int, error: dict[str, Any], reason: str) -> None:
    info = OPENAI.explain(status, {"X-Request-Id": "r"}, json.dumps({"error": error}).encode())
    assert (info.reason, info.status, info.request_id) == (reason, status, "r")


# Streams


def said(type: str, **fields: Any) -> bytes:
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


def preview(index: int, kind: str = "image_generation") -> bytes:
    fields = {"output_format": "png", "partial_image_index": index, "created_at": 5}
    return said(f"{kind}.partial_image", b64_json=base64_of(png(1, index + 1)), **fields)


def finished(data: bytes = png(), kind: str = "image_generation", **fields: Any) -> bytes:
    common = {"output_format": "png", "size": "auto", "created_at": 6}
    return said(f"{kind}.completed", b64_json=base64_of(data), usage=USAGE, **common, **fields)


def streamed(*parts: bytes, n: int = 1) -> list[Any]:
    return events_of(OPENAI, ImageRequest(prompt="a kestrel", model=GPT, n=n), parts, SSE)


@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
def test_a_stream_of_previews(kind: str) -> None:
    first, second, usage, last = streamed(preview(0, kind), preview(1, kind), finished(kind=kind))
    shown = Image.from_bytes(png(1, 1))
    expected = allm.Image(
        data=shown.data, mime_type="image/png", width=1, height=1, metadata={"partial_image_index": 0}
    )
    assert first == MediaProgress(0, 1, ImagePart(expected))
    assert second.part.image.height == 2
    assert isinstance(usage, UsageReported)
    assert isinstance(last, MediaCompleted)
    assert isinstance(last.result, ImageResponse)
    assert last.result.images == (KESTREL,)
    assert last.result.usage == usage.usage
    assert last.result.metadata == {"created": 6, "output_format": "png", "size": "auto"}


def test_a_stream_ends_with_its_last_image() -> None:
    decoder = OPENAI.decoder(ImageRequest(prompt="x", model=GPT), SSE, CallContext())
    assert isinstance(decoder.feed(finished())[-1], MediaCompleted)


def test_a_stream_of_several_images_shows_each() -> None:
    progress, *_, last = streamed(finished(), b"data: [DONE]\n\n", n=2)
    assert progress == MediaProgress(1, 2, ImagePart(KESTREL))
    assert last.result.warnings == ("1 of 2 images came",)
    other = png(7, 7)
    progress, _, last = streamed(finished(), finished(other), n=2)
    assert [image.to_bytes() for image in last.result.images] == [png(), other]


def test_splits_of_a_stream() -> None:
    body = preview(0) + said("image_generation.unheard_of") + b": keep-alive\n\n" + finished()
    whole = streamed(body)
    assert [type(event) for event in whole] == [MediaProgress, RawChunk, UsageReported, MediaCompleted]
    assert streamed(*[body[i : i + 1] for i in range(len(body))]) == whole
    for pieces in splits(body):
        assert streamed(*pieces) == whole


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([preview(0)], "stream_interrupted"),
        ([preview(0), b"data: [DONE]\n\n"], "stream_interrupted"),
        ([said("image_generation.completed", usage=USAGE)], "stream_interrupted"),
        ([preview(0), said("error", error=BLOCKED)], "content_filter"),
        ([said("error", code="server_error", message="no")], "provider_unavailable"),
        ([b'data: {"error": {"message": "no", "type": "server_error"}}\n\n'], "provider_unavailable"),
        ([said("image_generation.completed", b64_json="%")], "malformed_response"),
        ([b"data: {\n\n"], "malformed_response"),
        ([], "stream_interrupted"),
    ],
)
def test_broken_streams(parts: list[bytes], reason: str) -> None:
    last = streamed(*parts)[-1]
    assert isinstance(last, StreamFailed)
    assert (last.error.reason, last.error.model) == (reason, GPT)


def test_a_server_may_stream_or_not_whatever_was_asked_for() -> None:
    whole = json.dumps({"data": [{"b64_json": base64_of(png())}]}).encode()
    assert streamed(whole)[-1].result.images == (KESTREL,)
    assert images(finished()).images == (KESTREL,)


# Through the verbs


@pytest.mark.usefixtures("clean")
def test_gates_come_before_the_key(face: Face) -> None:
    engine = allm.Engine(image_adapter=f"openai:{OLD}")
    with pytest.raises(UnsupportedError):
        face.call("edit_image", engine, KESTREL, "in flight")
    with pytest.raises(allm.MissingKeyError, match="OPENAI_API_KEY"):
        face.call("generate_image", engine, "a kestrel")


@pytest.mark.usefixtures("clean")
def test_over_loopback(face: Face) -> None:
    def answer(path: str, body: bytes) -> Answer:
        if path == "/v1/images/edits":
            return (
                200,
                {"content-type": "text/event-stream"},
                preview(0, "image_edit") + finished(kind="image_edit"),
            )
        if b"forbidden" in body:
            return 400, {"content-type": "application/json"}, json.dumps({"error": BLOCKED}).encode()
        answer = {"data": [{"b64_json": base64_of(png())}], "usage": USAGE}
        return 200, {"content-type": "application/json"}, json.dumps(answer).encode()

    with Loopback(answer) as server:
        engine = allm.Engine(image_adapter=f"openai:{GPT}", base_url=server.url + "/v1")
        made = face.call("generate_image", engine, "a kestrel", style="vivid", api_key="k")
        assert made.image == KESTREL
        assert made.model == GPT
        assert len(made.warnings) == 1
        seen = face.events(
            engine,
            made.image,
            "in flight",
            verb="stream_edit_image",
            options={"partial_images": 1},
            api_key="k",
        )
        assert [type(event) for event in seen.events] == [MediaProgress, UsageReported, MediaCompleted]
        assert seen.result.images == (KESTREL,)
        with pytest.raises(allm.ContentFilteredError):
            face.call("generate_image", engine, "forbidden", api_key="k")
        head = server.headers[1]
        assert head["authorization"] == "Bearer k"
        parts = form(head["content-type"], server.bodies[1])
        assert parts[-1] == FormPart("image", "image.png", "image/png", png())
