"""Voyage AI: what is sent, every recorded exchange, refusals."""

from __future__ import annotations

import json
from base64 import b64encode
from struct import pack
from typing import Any

import pytest

import allm
from allm.data.media import EmbeddingRequest
from allm.errors import ValidationError
from allm.ports import CallContext
from allm.providers import resolve_embedding
from allm.providers.voyage import VoyageEmbeddings
from tests.decoder_support import JSON
from tests.embedding_support import body_of, decoded, differences, response, result_of
from tests.faces import Face
from tests.loopback import Answer, Loopback
from tests.wire_support import Record, records, splits
from tests.wire_support import body_of as answer_of

VOYAGE = VoyageEmbeddings()
RECORDS = records("voyage.embeddings")


def asked(*texts: str, **fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest(input=texts or ("one", "two"), **{"model": "voyage-4", **fields})


def sent(request: EmbeddingRequest) -> Any:
    return body_of(VOYAGE.encode(request, CallContext()))


def test_the_least_request() -> None:
    http = resolve_embedding("voyage").encode(asked(), CallContext())
    assert http.url == "https://api.voyageai.com/v1/embeddings"
    assert body_of(http) == {"model": "voyage-4", "input": ["one", "two"], "encoding_format": "base64"}
    assert http.headers == {"content-type": "application/json", "accept": "application/json"}
    assert http.key == allm.ports.KeyRule("voyage", ("VOYAGE_API_KEY",))


@pytest.mark.parametrize("truncate", [True, False])
def test_fields(truncate: bool) -> None:
    request = asked(dimensions=256, truncate=truncate, task_type="search_query", options={"x": 1})
    assert sent(request) == {
        "model": "voyage-4",
        "input": ["one", "two"],
        "input_type": "query",
        "output_dimension": 256,
        "truncation": truncate,
        "encoding_format": "base64",
        "x": 1,
    }


def test_task_types() -> None:
    assert sent(asked(task_type="search_document"))["input_type"] == "document"
    for task_type in ("classification", "clustering", "similarity"):
        http = VOYAGE.encode(asked(task_type=task_type), CallContext())
        assert "input_type" not in body_of(http)
        assert http.warnings == (
            f"the task type {task_type} is not sent: Voyage knows queries and documents",
        )


def test_vectors_of_bytes_come_as_numbers() -> None:
    request = asked("one", options={"output_dtype": "int8"})
    assert "encoding_format" not in sent(request)
    body = b'{"data": [{"index": 0, "embedding": [-128, 0, 127]}]}'
    assert response(decoded(VOYAGE, request, [body])).vectors() == [[-128.0, 0.0, 127.0]]


def test_an_address_of_ones_own() -> None:
    http = VOYAGE.encode(asked(), CallContext(base_url="https://proxy.example/v1/embeddings?team=a"))
    assert http.url == "https://proxy.example/v1/embeddings?team=a"


def test_gates_of_a_direct_call() -> None:
    with pytest.raises(ValidationError) as empty:
        VOYAGE.encode(EmbeddingRequest(model="voyage-4"), CallContext())
    assert empty.value.errors == (("input", "empty"),)
    with pytest.raises(ValidationError, match="1000 inputs a request, not 1001") as many:
        VOYAGE.encode(asked(*["x"] * 1001), CallContext())
    assert many.value.errors == (("input", "batch_too_large"),)


@pytest.mark.parametrize("record", RECORDS, ids=[record["id"] for record in RECORDS])
def test_recorded(record: Record) -> None:
    body = answer_of(record)
    expected = result_of(VOYAGE, record, [body])
    assert differences(record, expected) == []
    assert result_of(VOYAGE, record, [body[at : at + 1] for at in range(len(body))]) == expected
    for pieces in [*splits(body)][:60]:
        assert result_of(VOYAGE, record, pieces) == expected


@pytest.mark.parametrize(
    ("status", "detail", "reason"),
    [
        (400, "Model nonexistent is not supported.", "invalid_request"),
        (400, "The max allowed tokens per submitted batch is 120000.", "context_length_exceeded"),
        (401, "Provided API key is invalid.", "authentication_failed"),
        (429, "You have exceeded your rate limit.", "rate_limited"),
        (503, "The server is overloaded.", "overloaded"),
    ],
)
def test_refusals(status: int, detail: str, reason: str) -> None:
    info = VOYAGE.explain(status, {"x-request-id": "r-1"}, json.dumps({"detail": detail}).encode())
    assert (info.reason, info.message, info.provider) == (reason, detail, "voyage")
    assert (info.status, info.request_id) == (status, "r-1")


def test_through_the_verbs(face: Face) -> None:
    """Two requests in order; usage is the total alone."""

    def serve(path: str, body: bytes) -> Answer:
        texts = json.loads(body)["input"]
        data = [
            {"index": i, "embedding": b64encode(pack("<2f", float(text), 1.0)).decode()}
            for i, text in enumerate(texts)
        ]
        usage = {"total_tokens": 2 * len(texts)}
        return 200, dict(JSON.headers), json.dumps({"data": data, "usage": usage}).encode()

    texts = [str(number) for number in range(1001)]
    with Loopback(serve) as server:
        engine = allm.Engine(embed_adapter="voyage:voyage-4", base_url=f"{server.url}/v1")
        found = face.call("embed", engine, texts, task_type="search_document", api_key="pa-k")
    assert [row[0] for row in found.vectors()] == [float(text) for text in texts]
    assert (found.usage.total_tokens, found.usage.input_tokens) == (2002, None)
    assert {headers["authorization"] for headers in server.headers} == {"Bearer pa-k"}
