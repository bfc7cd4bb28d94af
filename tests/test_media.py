"""Images and embeddings through the verbs, on all faces: slots, chunks, failures, progress."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import allm
from allm.data.media import packed
from allm.errors import raised
from allm.loops.media import MediaFold
from allm.ports import CallContext
from tests.faces import PATIENCE, Face

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
KESTREL = allm.Image.from_bytes(PNG)


class Painter:
    """An in-process image adapter that gives what it is told, or raises it."""

    name = "painter"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[allm.ImageRequest] = []

    def complete(self, request: allm.ImageRequest, ctx: CallContext) -> allm.ImageResponse:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else allm.ImageResponse(images=(KESTREL,))
        if isinstance(answer, Exception):
            raise answer
        return answer


class Counter:
    """An in-process embedding adapter: the vector of a text is its length and its number."""

    name = "counter"
    max_batch = 100

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.lock = threading.Lock()
        self.running = 0
        self.most = 0
        self.sizes: list[int] = []
        self.together = threading.Barrier(1)

    def complete(self, request: allm.EmbeddingRequest, ctx: CallContext) -> allm.EmbeddingResponse:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.sizes.append(len(request.input))
        try:
            self.together.wait(PATIENCE)
            first = int(request.input[0])
            if self.failing is not None and first <= self.failing < first + len(request.input):
                raise raised(allm.ErrorInfo(reason="provider_unavailable", message="no more", status=500))
            rows = [(float(len(text)), float(text)) for text in request.input]
            usage = allm.Usage(input_tokens=len(rows), total_tokens=len(rows))
            return allm.EmbeddingResponse(data=packed(rows), dimensions=2, usage=usage, model="m-1")
        finally:
            with self.lock:
                self.running -= 1


def painting(*answers: Any, **fields: Any) -> allm.Engine:
    return allm.Engine(image_adapter=Painter(*answers), **fields)


def counting(**fields: Any) -> allm.Engine:
    return allm.Engine(embed_adapter=Counter(**fields), retry=False)


TEXTS = [str(number) for number in range(250)]


def test_an_image_from_a_prompt(face: Face) -> None:
    engine = painting()
    response = face.call(
        "generate_image", engine, "a kestrel", size="1024x1024", n=2, options={"moderation": "low"}
    )
    assert response.image == KESTREL
    assert response.provider == "painter"
    (request,) = engine.image_adapter.requests
    assert (request.operation, request.prompt, request.size, request.n) == (
        "generate",
        "a kestrel",
        "1024x1024",
        2,
    )
    assert request.options == {"moderation": "low"}


def test_a_full_request_is_used_and_options_win(face: Face) -> None:
    engine = painting()
    request = allm.ImageRequest(prompt="a kestrel", quality="low", model="old", metadata={"a": 1})
    face.call("generate_image", engine, request, quality="high", model="new", metadata={"b": 2})
    (sent,) = engine.image_adapter.requests
    assert (sent.quality, sent.model, sent.metadata) == ("high", "new", {"a": 1, "b": 2})


def test_edits_take_one_image_or_several_and_a_mask(face: Face) -> None:
    engine = painting()
    face.call("edit_image", engine, KESTREL, "in flight")
    face.call("edit_image", engine, [KESTREL] * 3, "in flight", KESTREL)
    face.call("image_variations", engine, KESTREL)
    requests = engine.image_adapter.requests
    assert [(r.operation, len(r.input_images)) for r in requests] == [
        ("edit", 1),
        ("edit", 3),
        ("variation", 1),
    ]
    assert [r.mask for r in requests] == [None, KESTREL, None]


def test_files_are_read(face: Face, tmp_path: Any) -> None:
    path = tmp_path / "kestrel.png"
    path.write_bytes(PNG)
    engine = painting()
    image = allm.Image.from_file(str(path))
    face.call("edit_image", engine, image, "in flight", image)
    (sent,) = engine.image_adapter.requests
    assert sent.input_images == (KESTREL,)
    assert sent.mask == KESTREL
    with pytest.raises(allm.ValidationError) as caught:
        face.call("edit_image", engine, allm.Image.from_file("nowhere.png"), "in flight")
    assert caught.value.errors[0][0] == "input_images[0]"


@pytest.mark.parametrize(("verb", "slot"), [("generate_image", "image_adapter"), ("embed", "embed_adapter")])
def test_a_missing_slot_is_named_first(face: Face, verb: str, slot: str) -> None:
    with pytest.raises(allm.ConfigurationError, match=f"no {slot}: "):
        face.call(verb, allm.Engine("openai:gpt-6-luna"), "", nonsense=1)


def test_mistakes_raise_at_once(face: Face) -> None:
    with pytest.raises(allm.UnknownOptionError, match="did you mean 'quality'"):
        face.make("stream_generate_image", painting(), "x", qualty="high")
    with pytest.raises(allm.ValidationError):
        face.make("stream_generate_image", painting(), "")
    with pytest.raises(allm.ValidationError):
        face.make("stream_embed", counting(), [])
    with pytest.raises(allm.ValidationError, match="type_int"):
        face.make("stream_embed", counting(), 7)
    with pytest.raises(allm.ValidationError, match="concurrency"):
        face.make("stream_embed", counting(), "x", concurrency=0)
    with pytest.raises(allm.UnknownProviderError, match="no provider 'anthropic' for images"):
        face.make("stream_generate_image", allm.Engine(image_adapter="anthropic"), "x")


def test_an_image_call_is_retried(face: Face) -> None:
    busy = raised(allm.ErrorInfo(reason="overloaded", message="busy", retryable=True))
    engine = painting(busy)
    seen = face.events(
        engine, "a kestrel", verb="stream_generate_image", retry=allm.RetryPolicy(base_delay=0.0)
    )
    assert seen.kinds == ["retrying", "media_completed"]
    assert seen.result.image == KESTREL


def test_a_failure_is_the_last_event_and_then_raises(face: Face) -> None:
    refused = raised(allm.ErrorInfo(reason="content_filter", message="no"))
    seen = face.events(painting(refused), "a kestrel", verb="stream_generate_image")
    assert seen.kinds == ["error"]
    assert isinstance(seen.error, allm.ContentFilteredError)
    assert seen.error.partial.error.reason == "content_filter"
    response = face.call("generate_image", painting(refused), "a kestrel", raise_on_error=False)
    assert response.error.reason == "content_filter"


def test_a_broken_call_keeps_its_finished_images_and_the_last_preview() -> None:
    images = [allm.Image.from_bytes(PNG + bytes([number])) for number in range(4)]
    fold = MediaFold("image")
    for done, image in ((0, images[0]), (1, images[1]), (1, images[2]), (1, images[3])):
        fold.add(allm.MediaProgress(done, 2, allm.ImagePart(image)))
    result = fold.result()
    assert isinstance(result, allm.ImageResponse)
    assert result.images == (images[1], images[3])


def test_one_text(face: Face) -> None:
    response = face.call("embed", counting(), "7")
    assert response.vectors() == [[1.0, 7.0]]
    assert (len(response), response[0], response[-1]) == (1, [1.0, 7.0], [1.0, 7.0])
    assert "chunk_count" not in response.metadata


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_chunks_are_merged_in_order(face: Face, concurrency: int) -> None:
    engine = counting()
    seen = face.events(engine, TEXTS, verb="stream_embed", concurrency=concurrency)
    response = seen.result
    assert [row[1] for row in response.vectors()] == [float(text) for text in TEXTS]
    assert sorted(engine.embed_adapter.sizes) == [50, 100, 100]
    assert (response.usage.input_tokens, response.model) == (250, "m-1")
    assert response.metadata["chunk_count"] == 3
    progress: list[Any] = [allm.MediaProgress(done, 3) for done in (1, 2, 3)]
    assert seen.events[:3] == progress
    assert seen.kinds[3:] == ["media_completed"]
    assert engine.embed_adapter.most <= concurrency


def test_concurrency_is_real(face: Face) -> None:
    engine = counting()
    engine.embed_adapter.together = threading.Barrier(3)  # none ends before all three have begun
    assert len(face.call("embed", engine, TEXTS, concurrency=3)) == 250


def test_a_failing_chunk_says_how_far_it_got_and_loses_nothing(face: Face) -> None:
    engine = counting(failing=240)
    seen = face.events(engine, TEXTS, verb="stream_embed")
    assert isinstance(seen.error, allm.ServerError)
    assert seen.error.info.extra == {"completed_chunks": 2, "completed_inputs": 200}
    assert [row[1] for row in seen.error.partial.vectors()] == [float(text) for text in TEXTS[:200]]
    assert seen.error.partial.usage.input_tokens == 200


def test_what_is_under_way_beside_a_failure_is_kept(face: Face) -> None:
    engine = counting(failing=0)
    engine.embed_adapter.together = threading.Barrier(3)
    with pytest.raises(allm.ServerError) as caught:
        face.call("embed", engine, TEXTS, concurrency=3)
    assert caught.value.info.extra == {"completed_chunks": 2, "completed_inputs": 150}
    assert len(caught.value.partial) == 150


def test_answers_that_do_not_fit_are_refused(face: Face) -> None:
    class Short(Counter):
        def complete(self, request: allm.EmbeddingRequest, ctx: CallContext) -> allm.EmbeddingResponse:
            return allm.EmbeddingResponse(data=packed([(1.0, 2.0)]), dimensions=2)

    with pytest.raises(allm.WireError, match="1 vectors of 2 numbers for 3 inputs"):
        face.call("embed", allm.Engine(embed_adapter=Short(), retry=False), ["a", "b", "c"])


@pytest.mark.parametrize("concurrency", [1, 2])
def test_cancel_ends_the_call(face: Face, concurrency: int) -> None:
    def stop(stream: Any, event: Any) -> None:
        stream.cancel()

    engine = counting()
    with pytest.raises(allm.CancelledError) as caught:
        face.consume(engine, TEXTS, verb="stream_embed", body=stop, concurrency=concurrency)
    assert len(caught.value.partial) in (50, 100)  # the one chunk that had come


def test_vectors_as_an_array() -> None:
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    response = allm.embed(counting(), TEXTS)
    array = response.array()
    assert array.shape == (250, 2)
    assert array.dtype == numpy.float32
    assert array.tolist() == response.vectors()
    assert array.base is not None  # a view of the bytes


def test_packed_vectors_survive_storage() -> None:
    response = allm.embed(counting(), TEXTS)
    assert allm.from_json(allm.to_json(response)) == response
    assert allm.from_msgpack(allm.to_msgpack(response)) == response
    with pytest.raises(allm.ValidationError, match="not_whole_vectors"):
        allm.EmbeddingResponse(data=bytes(6), dimensions=2)
