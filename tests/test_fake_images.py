"""The scripted provider of images, through the verbs on all faces."""

from __future__ import annotations

import base64
from typing import Any

import pytest

import allm
from allm.data.events import Retrying, StreamFailed, UsageReported
from allm.data.media import MediaCompleted, MediaProgress
from allm.providers.fake_images import FakeImages
from tests.faces import Face
from tests.image_support import png

TEXT = base64.b64encode(png()).decode()
KESTREL = allm.Image.from_bytes(png())
AT_ONCE = allm.RetryPolicy(base_delay=0, max_delay=0)


def test_entries_are_played_in_order_and_requests_recorded(face: Face) -> None:
    fake = FakeImages([{"images": [TEXT]}, {"images": [png(7, 7), KESTREL], "text": "Two."}])
    engine = allm.Engine(image_adapter=fake)
    first = face.call("generate_image", engine, "a kestrel", model="m")
    assert first == allm.ImageResponse(
        images=(KESTREL,), id="fake", provider="fake", model="m", finish_reason="stop"
    )
    with pytest.raises(allm.ConfigurationError, match="1 of 2 entries"):
        fake.assert_exhausted()
    second = face.call("edit_image", engine, KESTREL, "two of them")
    assert ([image.width for image in second.images], second.text) == ([7, 3], "Two.")
    fake.assert_exhausted()
    assert [(request.operation, request.prompt) for request in fake.requests] == [
        ("generate", "a kestrel"),
        ("edit", "two of them"),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (TEXT, KESTREL),
        (f"data:image/png;base64,{TEXT}", KESTREL),
        (png(), KESTREL),
        (KESTREL, KESTREL),
        ("https://example.com/a.png", allm.Image.from_url("https://example.com/a.png")),
    ],
)
def test_images_may_be_given_in_any_form(given: Any, expected: allm.Image) -> None:
    engine = allm.Engine(image_adapter=FakeImages([{"images": [given]}]))
    assert allm.generate_image(engine, "a kestrel").image == expected


def test_a_script_in_the_adapter_options_belongs_to_its_engine(face: Face) -> None:
    options = {"image_script": [{"images": [TEXT]}, {"images": []}]}
    engine = allm.Engine(image_adapter="fake", adapter_options=options)
    assert face.call("generate_image", engine, "a kestrel").images == (KESTREL,)
    assert face.call("generate_image", engine, "none").images == ()
    with pytest.raises(allm.InvalidRequestError, match="no images for call 3") as caught:
        face.call("generate_image", engine, "one more")
    assert caught.value.info.code == "no_scripted_image"
    again = allm.Engine(image_adapter="fake", adapter_options=options)
    assert face.call("generate_image", again, "a kestrel").images == (KESTREL,)


def test_a_stream_of_previews(face: Face) -> None:
    entry = {"partial": [TEXT], "images": [TEXT, TEXT], "usage": {"output_tokens": 5}}
    engine = allm.Engine(image_adapter=FakeImages([entry]))
    seen = face.events(engine, "a kestrel", verb="stream_generate_image")
    events: list[Any] = [*seen.events]
    progress, usage, last = events
    assert progress == MediaProgress(0, 2, allm.ImagePart(KESTREL))
    assert isinstance(usage, UsageReported)
    assert isinstance(last, MediaCompleted)
    assert seen.result.usage == allm.Usage(output_tokens=5)


def test_errors(face: Face) -> None:
    script: list[Any] = [
        {"error": "rate_limited"},
        {"images": [TEXT]},
        {"error": {"reason": "content_filter", "message": "no"}},
    ]
    fake = FakeImages(script)
    engine = allm.Engine(image_adapter=fake, retry=AT_ONCE)
    seen = face.events(engine, "a kestrel", verb="stream_generate_image")
    assert [type(event) for event in seen.events] == [Retrying, MediaCompleted]
    seen = face.events(engine, "a kestrel", verb="stream_generate_image")
    assert [type(event) for event in seen.events] == [StreamFailed]
    assert isinstance(seen.error, allm.ContentFilteredError)
    fake.assert_exhausted()


def test_what_came_before_a_failure_is_kept() -> None:
    engine = allm.Engine(image_adapter=FakeImages([{"partial": [TEXT], "error": "provider_unavailable"}]))
    with pytest.raises(allm.ServerError) as caught:
        allm.generate_image(engine, "a kestrel")
    partial = caught.value.partial
    assert partial.images == (KESTREL,)
    assert partial.error == caught.value.info


@pytest.mark.parametrize("entry", ["x", {}, {"image": TEXT}, {"images": [], "delay": 1}])
def test_malformed_entries(entry: Any) -> None:
    engine = allm.Engine(image_adapter=FakeImages([entry]))
    with pytest.raises(allm.ConfigurationError, match="images, partial, text, usage, error"):
        allm.generate_image(engine, "a kestrel")
