"""The adapters for images and embeddings that conformance proves, and the bodies of their providers."""

from __future__ import annotations

from typing import Any

from allm.data.content import base64_text
from allm.data.media import packed
from allm.providers import resolve_embedding
from allm.providers.fake_embeddings import FakeEmbeddings
from allm.providers.fake_images import FakeImages
from allm.providers.gemini.embeddings import GeminiEmbeddings
from allm.providers.gemini.images import GeminiImages
from allm.providers.openai.embeddings import OpenAIEmbeddings
from allm.providers.openai.images import OpenAIImages
from allm.providers.voyage import VoyageEmbeddings
from allm.testing.conformance import STATUSES, EmbeddingSubject, ImageSubject, Sample, Subject
from tests.conformance_subjects import (
    CHAT_REFUSALS,
    GENERATE_REFUSALS,
    chat_error,
    generate_chunk,
    sse,
    whole,
)
from tests.image_support import png

JSON = "application/json"
FIRST, SECOND = png(), png(5, 4)

# ---- Images API (its recorded bodies are the pattern) --------------------------------------------------

IMAGES_USAGE = {"input_tokens": 8, "output_tokens": 272, "total_tokens": 280}


def images_body(*pictures: bytes, **fields: Any) -> bytes:
    data = [{"b64_json": base64_text(picture)} for picture in pictures]
    return whole({"created": 5, "data": data, "usage": IMAGES_USAGE, **fields})


def image_event(word: str, picture: bytes, **fields: Any) -> dict[str, Any]:
    said = {"b64_json": base64_text(picture), "output_format": "png", "created_at": 5}
    return {"type": f"image_generation.{word}", **said, **fields}


BLOCKED = {"code": "moderation_blocked", "message": "Rejected by the safety system."}
IMAGES_SAMPLES = {
    "whole": Sample(body=images_body(FIRST), content_type=JSON, images=(FIRST,)),
    "several": Sample(body=images_body(FIRST, SECOND), content_type=JSON, images=(FIRST, SECOND)),
    "link": Sample(
        body=whole({"created": 5, "data": [{"url": "https://images.example.com/a.png"}]}),
        content_type=JSON,
        images=("https://images.example.com/a.png",),
        usage=False,
    ),
    "stream": Sample(
        body=sse(
            image_event("partial_image", SECOND, partial_image_index=0),
            image_event("completed", FIRST, usage=IMAGES_USAGE),
            named=True,
        ),
        images=(FIRST,),
    ),
    "unknown": Sample(
        body=images_body(FIRST, mood=[1], usage={**IMAGES_USAGE, "novel_tokens": 3}),
        content_type=JSON,
        images=(FIRST,),
    ),
    "unknown_stream": Sample(
        body=sse(
            ": a comment",
            {"type": "image_generation.mood", "mood": [1]},
            image_event("completed", FIRST, usage=IMAGES_USAGE, novelty={"a": None}),
            named=True,
        ),
        images=(FIRST,),
    ),
    "filtered": Sample(body=images_body(), content_type=JSON, error="content_filter"),
    "filtered_stream": Sample(
        body=sse(
            image_event("partial_image", SECOND, partial_image_index=0),
            {"type": "error", "error": BLOCKED},
            named=True,
        ),
        images=(SECOND,),
        error="content_filter",
        usage=False,
    ),
}
IMAGES_REFUSALS = {
    **CHAT_REFUSALS,
    400: chat_error("Rejected by the safety system.", "image_generation_user_error", "moderation_blocked"),
}

# ---- Gemini's images -----------------------------------------------------------------------------------


def drawn(picture: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": base64_text(picture)}}


DRAWING_SAMPLES = {
    "whole": Sample(
        body=whole(generate_chunk({"text": "Here: "}, drawn(FIRST), drawn(SECOND), finish="STOP")),
        content_type=JSON,
        text="Here: ",
        images=(FIRST, SECOND),
    ),
    "stream": Sample(
        body=sse(generate_chunk(drawn(FIRST)), generate_chunk(drawn(SECOND)), generate_chunk(finish="STOP")),
        images=(FIRST, SECOND),
    ),
    "unknown": Sample(
        body=sse(
            ": a comment",
            generate_chunk({"novelPart": {"mood": [1]}}, novelty={"a": None}),
            generate_chunk(drawn(FIRST), finish="BECAUSE"),
        ),
        images=(FIRST,),
        finish="other",
    ),
    "filtered": Sample(
        body=whole(generate_chunk(finish="IMAGE_SAFETY")),
        content_type=JSON,
        error="content_filter",
    ),
    "filtered_prompt": Sample(
        body=sse({"promptFeedback": {"blockReason": "SAFETY"}}), error="content_filter", usage=False
    ),
}

# ---- Embeddings: `/embeddings`, and Gemini's -----------------------------------------------------------

VECTORS = ((0.25, -0.5, 0.1), (1.0, 0.0, -0.3), (0.75, 0.125, 2.0))
SHORT = (*VECTORS[:2], VECTORS[2][:2])
EMPTY: tuple[tuple[float, ...], ...] = ((), (), ())
EMBEDDING_USAGE = {"prompt_tokens": 6, "total_tokens": 6}


def malformed(body: bytes) -> Sample:
    return Sample(body=body, content_type=JSON, error="malformed_response", usage=False)


def rows(vectors: Any, *, base64: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64_text(packed([vector])) if base64 else vector,
        }
        for index, vector in enumerate(vectors)
    ]


def vectors_body(data: Any, **fields: Any) -> bytes:
    return whole({"object": "list", "data": data, "model": "m", "usage": EMBEDDING_USAGE, **fields})


def good(body: bytes) -> Sample:
    return Sample(body=body, content_type=JSON, vectors=VECTORS)


VECTORS_SAMPLES = {
    "whole": good(vectors_body(rows(VECTORS, base64=True))),
    "numbers": good(vectors_body(rows(VECTORS))),
    "shuffled": good(vectors_body(rows(VECTORS)[::-1])),
    "unknown": good(vectors_body([{**row, "mood": 1} for row in rows(VECTORS)], novelty={"a": None})),
    "ragged": malformed(vectors_body(rows(SHORT, base64=True))),
    "empty": malformed(vectors_body(rows(EMPTY))),
    "fewer": malformed(vectors_body(rows(VECTORS[:2]))),
    "broken": Sample(
        body=whole({"error": {"message": "Overloaded", "type": "overloaded_error"}}),
        content_type=JSON,
        error="overloaded",
        usage=False,
    ),
}


def batch_body(vectors: Any, **fields: Any) -> bytes:
    usage = {"promptTokenCount": 6, "totalTokenCount": 6}
    found = [{"values": vector} for vector in vectors]
    return whole({"embeddings": found, "usageMetadata": usage, **fields})


BATCH_SAMPLES = {
    "whole": good(batch_body(VECTORS)),
    "unknown": good(batch_body(VECTORS, novelty={"a": None})),
    "ragged": malformed(batch_body(SHORT)),
    "empty": malformed(batch_body(EMPTY)),
    "fewer": malformed(batch_body(VECTORS[:2])),
}
VOYAGE_SAMPLES = {
    name: VECTORS_SAMPLES[name] for name in ("whole", "shuffled", "unknown", "ragged", "empty", "fewer")
} | {"total": good(vectors_body(rows(VECTORS, base64=True), usage={"total_tokens": 6}))}
VOYAGE_REFUSALS = {status: whole({"detail": "The request was not accepted."}) for status in STATUSES}

SUBJECTS: dict[str, Subject] = {
    "openai.images": ImageSubject(
        make=OpenAIImages,
        model="gpt-image-2",
        samples=IMAGES_SAMPLES,
        refusals=IMAGES_REFUSALS,
        reasons={400: "content_filter"},
    ),
    "gemini.images": ImageSubject(make=GeminiImages, samples=DRAWING_SAMPLES, refusals=GENERATE_REFUSALS),
    "fake.images": ImageSubject(
        make=lambda: FakeImages([{"partial": [SECOND], "images": [FIRST], "usage": {"output_tokens": 1}}]),
        failing=lambda: FakeImages([{"partial": [SECOND], "error": "overloaded"}]),
    ),
    "openai.embeddings": EmbeddingSubject(
        make=OpenAIEmbeddings, samples=VECTORS_SAMPLES, refusals=CHAT_REFUSALS
    ),
    "mistral.embeddings": EmbeddingSubject(
        make=lambda: resolve_embedding("mistral"), samples=VECTORS_SAMPLES, refusals=CHAT_REFUSALS
    ),
    "gemini.embeddings": EmbeddingSubject(
        make=GeminiEmbeddings, samples=BATCH_SAMPLES, refusals=GENERATE_REFUSALS
    ),
    "voyage": EmbeddingSubject(make=VoyageEmbeddings, samples=VOYAGE_SAMPLES, refusals=VOYAGE_REFUSALS),
    "fake.embeddings": EmbeddingSubject(
        make=FakeEmbeddings, failing=lambda: FakeEmbeddings([{"error": "overloaded"}])
    ),
}
