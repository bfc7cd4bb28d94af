"""Embeddings of Gemini: what is sent, every recorded exchange, vectors of length 1, chunks over loopback."""

from __future__ import annotations

import json
from math import hypot
from struct import pack
from typing import Any

import pytest

import allm
from allm.data.media import EmbeddingRequest
from allm.errors import ConfigurationError, ValidationError
from allm.ports import CallContext
from allm.providers.gemini.embeddings import FULL_SIZE, GeminiEmbeddings
from tests.decoder_support import JSON
from tests.embedding_support import body_of, decoded, differences, failure, response, result_of
from tests.faces import Face
from tests.loopback import Answer, Loopback
from tests.wire_support import Record, records, splits
from tests.wire_support import body_of as answer_of

GEMINI = GeminiEmbeddings()
RECORDS = records("gemini.embed")
WRONG_KEY = "req_llm.gemini-embedding-001-embed-basic.0.4e0afe56"
OLDER, NEWER = "gemini-embedding-001", "gemini-embedding-2"


def asked(*texts: str, **fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest(input=texts or ("one", "two"), **{"model": NEWER, **fields})


def sent(request: EmbeddingRequest, **options: Any) -> Any:
    return body_of(GEMINI.encode(request, CallContext(adapter_options=options)))


def answer(*vectors: Any, **fields: Any) -> bytes:
    return json.dumps({"embeddings": [{"values": values} for values in vectors], **fields}).encode()


# -- What is sent ------------------------------------------------------------------------------------


def test_the_least_request() -> None:
    http = GEMINI.encode(asked(), CallContext())
    assert http.url == (
        "https://generativelanguage.googleapis.com/v1/models/gemini-embedding-2:batchEmbedContents"
    )
    assert body_of(http) == {
        "requests": [
            {"model": "models/gemini-embedding-2", "content": {"parts": [{"text": text}]}}
            for text in ("one", "two")
        ]
    }
    assert http.key is not None
    assert http.key.header == "x-goog-api-key"
    assert http.headers == {"content-type": "application/json", "accept": "application/json"}


def test_fields_of_every_sub_request() -> None:
    request = asked(
        "one",
        model=f"models/{OLDER}",
        dimensions=768,
        task_type="search_document",
        truncate=False,
        options={"title": "Numbers", "output_dimensionality": 512},
    )
    assert sent(request)["requests"] == [
        {
            "model": f"models/{OLDER}",
            "content": {"parts": [{"text": "one"}]},
            "taskType": "RETRIEVAL_DOCUMENT",
            "outputDimensionality": 512,
            "autoTruncate": False,
            "title": "Numbers",
        }
    ]
    assert "autoTruncate" not in sent(asked(truncate=True))["requests"][0]  # it does by itself


@pytest.mark.parametrize(
    ("task_type", "word", "text"),
    [
        ("search_document", "RETRIEVAL_DOCUMENT", "title: none | text: one"),
        ("search_query", "RETRIEVAL_QUERY", "task: search result | query: one"),
        ("classification", "CLASSIFICATION", "task: classification | query: one"),
        ("clustering", "CLUSTERING", "task: clustering | query: one"),
        ("similarity", "SEMANTIC_SIMILARITY", "task: sentence similarity | query: one"),
    ],
)
def test_the_task_is_a_field_or_words_before_the_text(task_type: str, word: str, text: str) -> None:
    (older,) = sent(asked("one", model=OLDER, task_type=task_type))["requests"]
    assert (older["taskType"], older["content"]["parts"]) == (word, [{"text": "one"}])
    for model in (NEWER, f"models/{NEWER}-preview"):
        (newer,) = sent(asked("one", model=model, task_type=task_type))["requests"]
        assert newer["content"]["parts"] == [{"text": text}]
        assert "taskType" not in newer


def test_addresses() -> None:
    def url(model: str = OLDER, base_url: str | None = None, **options: Any) -> str:
        request = asked(model=model)
        return GEMINI.encode(request, CallContext(base_url=base_url, adapter_options=options)).url

    assert url(api_version="v1beta").endswith(f"/v1beta/models/{OLDER}:batchEmbedContents")
    assert url(base_url="https://proxy.example/v1beta/?a=b") == (
        f"https://proxy.example/v1beta/models/{OLDER}:batchEmbedContents?a=b"
    )
    with pytest.raises(ConfigurationError, match="holds a key"):
        url(base_url="https://proxy.example?key=k")
    with pytest.raises(ConfigurationError, match="not the id of a model"):
        url(model="models/../x")


def test_headers() -> None:
    http = GEMINI.encode(asked(), CallContext(adapter_options={"project": "p-1", "headers": {"X-A": "b"}}))
    assert (http.headers["x-goog-user-project"], http.headers["x-a"]) == ("p-1", "b")


def test_gates_of_a_direct_call() -> None:
    with pytest.raises(ValidationError) as empty:
        GEMINI.encode(EmbeddingRequest(model=OLDER), CallContext())
    assert empty.value.errors == (("input", "empty"),)
    with pytest.raises(ValidationError, match="100 inputs a request, not 101") as many:
        GEMINI.encode(asked(*["x"] * 101), CallContext())
    assert many.value.errors == (("input", "batch_too_large"),)


@pytest.mark.parametrize("model", [OLDER, NEWER])
def test_the_sdk_sends_the_same(model: str) -> None:
    """Path and body, but for `truncate`: the SDK has that for Google's Cloud platform only."""
    genai = pytest.importorskip("google.genai", reason="the SDK google-genai is not installed")
    task = "CLUSTERING" if model == OLDER else None  # the newer model is told in the text
    config = genai.types.EmbedContentConfig(task_type=task, title="Numbers", output_dimensionality=768)
    contents = [genai.types.Content(parts=[genai.types.Part(text=text)]) for text in ("one", "two")]
    paths: list[str] = []

    def serve(path: str, body: bytes) -> Answer:
        paths.append(path)
        return 200, dict(JSON.headers), answer([1.0], [1.0])

    with Loopback(serve) as server:
        options = genai.types.HttpOptions(base_url=server.url)
        with genai.Client(api_key="k", http_options=options) as client:
            client.models.embed_content(model=model, contents=contents, config=config)
    request = asked(
        model=model, dimensions=768, task_type=task and task.lower(), options={"title": "Numbers"}
    )
    ours = GEMINI.encode(request, CallContext(base_url=server.url))
    assert body_of(ours) == json.loads(server.bodies[0])
    assert ours.url == server.url + paths[0]


# -- What comes back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDS, ids=[record["id"] for record in RECORDS])
def test_recorded(record: Record) -> None:
    body = answer_of(record)
    expected = result_of(GEMINI, record, [body])
    if record["id"] == WRONG_KEY:  # a 400 whose details say API_KEY_INVALID: whoever holds the key must know
        assert failure(expected).reason == "authentication_failed"
    else:
        assert differences(record, expected) == []
    assert result_of(GEMINI, record, [body[at : at + 1] for at in range(len(body))]) == expected
    for pieces in [*splits(body)][:60]:
        assert result_of(GEMINI, record, pieces) == expected


def test_shorter_vectors_are_made_one_long() -> None:
    """F213."""
    body = answer([3.0, 4.0] + [0.0] * 766, [0.0] * 768)
    found = response(decoded(GEMINI, asked(dimensions=768), [body]))
    assert found[0][:2] == [pytest.approx(0.6), pytest.approx(0.8)]
    assert hypot(*found[0]) == pytest.approx(1.0)
    assert found[1] == [0.0] * 768  # nothing to stretch
    short = response(
        decoded(GEMINI, asked("one", options={"output_dimensionality": 2}), [answer([3.0, 4.0])])
    )
    assert short.data == pack("<2f", 0.6, 0.8)


@pytest.mark.parametrize("dimensions", [None, FULL_SIZE])
def test_full_vectors_stay_as_they_came(dimensions: int | None) -> None:
    found = decoded(GEMINI, asked("one", dimensions=dimensions), [answer([3.0, 4.0])])
    assert response(found).vectors() == [[3.0, 4.0]]


def test_one_embedding_instead_of_a_list() -> None:
    usage = {"promptTokenCount": 3, "totalTokenCount": 3}
    body = json.dumps({"embedding": {"values": [1.0]}, "usageMetadata": usage}).encode()
    found = response(decoded(GEMINI, asked("one"), [body]))
    assert (found.vectors(), found.model, found.provider) == ([[1.0]], NEWER, "gemini")
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.total_tokens) == (3, 3)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (answer([], []), "vectors of 0 numbers"),
        (answer([1.0], [1.0, 2.0]), "vectors of 1, 2 numbers"),
        (answer([1.0]), "1 vectors for 2 inputs"),
        (answer([1.0], [None]), "got `null`"),
        (answer([1.0], "AACAPw=="), "not a list"),
        (answer([1.0], [1.0]).replace(b"[1.0]", b"[NaN]"), "malformed"),
        (b'{"embeddings": [{}, {}]}', "missing required field `values`"),
        (b"{}", "an answer without vectors"),
    ],
)
def test_answers_nobody_can_use(body: bytes, why: str) -> None:
    info = failure(decoded(GEMINI, asked(dimensions=768), [body]))
    assert (info.reason, info.provider, info.model) == ("malformed_response", "gemini", NEWER)
    assert why in info.message


def test_refusals() -> None:
    def reason(code: int, status: str, message: str = "no", **more: Any) -> str:
        error = {"code": code, "message": message, "status": status, **more}
        return GEMINI.explain(code, {}, json.dumps({"error": error}).encode()).reason

    assert reason(404, "NOT_FOUND") == "not_found"
    assert reason(429, "RESOURCE_EXHAUSTED") == "rate_limited"
    assert reason(400, "INVALID_ARGUMENT") == "invalid_request"
    assert reason(503, "UNAVAILABLE") == "overloaded"
    wait = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
    error = {"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED", "details": wait}}
    assert GEMINI.explain(429, {}, json.dumps(error).encode()).retry_after == 7.0


# -- Chunks, through the verbs -----------------------------------------------------------------------

TEXTS = [str(number) for number in range(1, 251)]


def numbers(body: bytes) -> list[float]:
    return [float(request["content"]["parts"][0]["text"]) for request in json.loads(body)["requests"]]


def served(body: bytes) -> Answer:
    """The vector of a number is that number and 1; each text is a token."""
    texts = numbers(body)
    usage = {"promptTokenCount": len(texts)}
    vectors = [[number, 1.0] for number in texts]
    return 200, dict(JSON.headers), answer(*vectors, usageMetadata=usage)


def engine(server: Loopback) -> allm.Engine:
    return allm.Engine(embed_adapter=f"gemini:{NEWER}", base_url=server.url, retry=False)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_chunks_in_order_with_their_usage_summed(face: Face, concurrency: int) -> None:
    """F211: 250 texts are three requests."""
    with Loopback(lambda path, body: served(body)) as server:
        found = face.call("embed", engine(server), TEXTS, api_key="k", concurrency=concurrency)
    assert [row[0] for row in found.vectors()] == [float(text) for text in TEXTS]
    assert (found.usage.input_tokens, found.metadata["chunk_count"]) == (250, 3)
    assert sorted(len(numbers(body)) for body in server.bodies) == [50, 100, 100]
    assert {headers["x-goog-api-key"] for headers in server.headers} == {"k"}


def test_a_failing_chunk_keeps_what_came(face: Face) -> None:
    def serve(path: str, body: bytes) -> Answer:
        if 250.0 in numbers(body):
            return 429, {}, b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow"}}'
        return served(body)

    with Loopback(serve) as server, pytest.raises(allm.RateLimitError) as caught:
        face.call("embed", engine(server), TEXTS, api_key="k")
    assert caught.value.info.extra == {"completed_chunks": 2, "completed_inputs": 200}
    partial = caught.value.partial
    assert [row[0] for row in partial.vectors()] == [float(text) for text in TEXTS[:200]]
    assert partial.usage.input_tokens == 200
