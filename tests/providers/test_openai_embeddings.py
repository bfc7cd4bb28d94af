"""Embeddings in OpenAI's dialect: what is sent, every recorded exchange, and answers nobody can use."""

from __future__ import annotations

import json
from base64 import b64encode
from struct import pack
from typing import Any

import pytest

import allm
from allm.data.media import EmbeddingRequest
from allm.errors import ConfigurationError, UnsupportedError, ValidationError
from allm.ports import CallContext
from allm.providers import resolve_embedding
from allm.providers.openai.embeddings import OpenAIEmbeddings
from tests.decoder_support import JSON
from tests.embedding_support import body_of, decoded, differences, failure, response, result_of
from tests.faces import Face
from tests.loopback import Answer, Loopback
from tests.wire_support import Record, records, splits
from tests.wire_support import body_of as answer_of

OPENAI = OpenAIEmbeddings()
RECORDS = records("openai.embeddings")
MODEL = "text-embedding-3-small"
recorded = pytest.mark.skipif(not RECORDS, reason="the recordings are not beside the checkout")


def asked(*texts: str, **fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest(input=texts or ("one", "two"), **{"model": MODEL, **fields})


def sent(request: EmbeddingRequest, adapter: Any = OPENAI, **options: Any) -> Any:
    return body_of(adapter.encode(request, CallContext(adapter_options=options)))


def answer(*embeddings: Any, **fields: Any) -> bytes:
    data = [{"index": i, "embedding": embedding} for i, embedding in enumerate(embeddings)]
    return json.dumps({"object": "list", "data": data, **fields}).encode()


def base64(*numbers: float) -> str:
    return b64encode(pack(f"<{len(numbers)}f", *numbers)).decode()


# -- What is sent ------------------------------------------------------------------------------------


def test_the_least_request() -> None:
    http = OPENAI.encode(asked(), CallContext())
    assert http.url == "https://api.openai.com/v1/embeddings"
    assert body_of(http) == {"model": MODEL, "input": ["one", "two"], "encoding_format": "base64"}
    assert http.headers == {"content-type": "application/json", "accept": "application/json"}
    assert http.key is not None
    assert http.key.variables == ("OPENAI_API_KEY",)
    assert http.warnings == ()


def test_fields() -> None:
    request = asked(dimensions=256, options={"user": "u-1", "encoding_format": "float"})
    assert sent(request) == {
        "model": MODEL,
        "input": ["one", "two"],
        "dimensions": 256,
        "encoding_format": "float",
        "user": "u-1",
    }


def test_the_encoding_can_be_chosen() -> None:
    assert sent(asked(), encoding="float")["encoding_format"] == "float"
    assert sent(asked(), resolve_embedding("ollama"), encoding="base64")["encoding_format"] == "base64"
    with pytest.raises(ConfigurationError, match="encoding='hex'"):
        sent(asked(), encoding="hex")


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("azure", "base64"),
        ("llamacpp", "base64"),
        ("openrouter", "base64"),
        ("vllm", "base64"),
        ("compatible", None),
        ("lmstudio", None),
        ("mistral", None),
        ("ollama", None),
        ("together", None),
    ],
)
def test_base64_is_asked_for_where_it_is_known_to_work(name: str, encoding: str | None) -> None:
    adapter = resolve_embedding(name)
    http = adapter.encode(asked(), CallContext(base_url="https://host.example/v1"))
    assert body_of(http).get("encoding_format") == encoding
    assert http.url == "https://host.example/v1/embeddings"
    assert http.key.name == name


def test_another_server_under_the_name_of_openai_gives_numbers() -> None:
    http = OPENAI.encode(asked(), CallContext(base_url="http://localhost:1234/v1/chat/completions"))
    assert http.url == "http://localhost:1234/v1/embeddings"
    assert "encoding_format" not in body_of(http)


def test_mistral_has_another_name_for_the_dimensions() -> None:
    body = sent(asked(dimensions=512, model="codestral-embed"), resolve_embedding("mistral"))
    assert body == {"model": "codestral-embed", "input": ["one", "two"], "output_dimension": 512}


def test_azure_deployments() -> None:
    base = "https://r.openai.azure.com/openai/deployments/d"
    options = {"api_version": "2023-07-01-preview"}
    azure = resolve_embedding("azure")
    http = azure.encode(asked(), CallContext(base_url=base, adapter_options=options))
    assert http.url == f"{base}/embeddings?api-version=2023-07-01-preview"
    assert (http.key.header, http.key.prefix) == ("api-key", "")


def test_what_has_no_place_is_named() -> None:
    http = OPENAI.encode(asked(task_type="clustering", truncate=True), CallContext())
    assert [warning.split()[0] for warning in http.warnings] == ["task_type", "truncate"]
    assert body_of(http).keys() == {"model", "input", "encoding_format"}
    assert OPENAI.encode(asked(truncate=False), CallContext()).warnings == ()  # it refuses by itself


def test_gates_of_a_direct_call() -> None:
    with pytest.raises(ValidationError, match="nothing to embed") as empty:
        OPENAI.encode(EmbeddingRequest(model=MODEL), CallContext())
    assert empty.value.errors == (("input", "empty"),)
    with pytest.raises(ValidationError, match="2048 inputs a request, not 2049") as many:
        OPENAI.encode(asked(*["x"] * 2049), CallContext())
    assert many.value.errors == (("input", "batch_too_large"),)
    with pytest.raises(ValidationError, match="no task type 'poem'"):
        OPENAI.encode(asked(task_type="poem"), CallContext())
    with pytest.raises(UnsupportedError, match="dimensions"):
        OPENAI.encode(asked(model="text-embedding-ada-002", dimensions=8), CallContext())


def test_the_request_fits_the_types_of_the_sdk() -> None:
    sdk = pytest.importorskip("openai.types", reason="the SDK openai is not installed")
    from tests.sdk_types import _problems

    request = asked(dimensions=256, options={"user": "u-1"})
    assert _problems(sent(request), sdk.EmbeddingCreateParams, "body") == []
    assert _problems({**sent(request), "task": 1}, sdk.EmbeddingCreateParams, "body") != []


# -- What comes back ---------------------------------------------------------------------------------


@pytest.fixture(params=RECORDS, ids=[record["id"] for record in RECORDS])
def record(request: pytest.FixtureRequest) -> Record:
    found: Record = request.param
    return found


def test_recorded_whole(record: Record) -> None:
    assert differences(record, result_of(OPENAI, record, [answer_of(record)])) == []


def test_recorded_byte_by_byte(record: Record) -> None:
    body = answer_of(record)
    pieces = [body[at : at + 1] for at in range(len(body))]
    assert result_of(OPENAI, record, pieces) == result_of(OPENAI, record, [body])


def test_recorded_splits(record: Record) -> None:
    body = answer_of(record)
    expected = result_of(OPENAI, record, [body])
    for pieces in [*splits(body)][:60]:
        assert result_of(OPENAI, record, pieces) == expected


def test_vectors_are_ordered_by_index_and_read_by_what_they_are() -> None:
    data = [{"index": 1, "embedding": base64(0.5, -2.0)}, {"index": 0, "embedding": [1, 0.25]}]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode()
    found = response(decoded(OPENAI, asked(metadata={"job": 7}), [b"\n  ", body]))
    assert found.vectors() == [[1.0, 0.25], [0.5, -2.0]]
    assert found.data == pack("<4f", 1.0, 0.25, 0.5, -2.0)
    assert (found.provider, found.model, found.request_id) == ("openai", MODEL, "req-1")
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.total_tokens) == (3, None, 3)
    assert found.metadata == {"job": 7}


NAN = base64(1.0, float("nan"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (answer([], []), "vectors of 0 numbers"),
        (answer("", ""), "vectors of 0 numbers"),
        (answer([1.0], [1.0, 2.0]), "vectors of 1, 2 numbers"),
        (answer([1.0]), "1 vectors for 2 inputs"),
        (answer([1.0], [2.0], [3.0]), "3 vectors for 2 inputs"),
        (answer([1.0], [None]), "got `null`"),
        (answer([1.0], None), "got `null`"),
        (answer([1.0], [1e300]), "float32 cannot hold"),
        (answer([1.0], [1.0]).replace(b"1.0]", b"NaN]"), "malformed"),
        (answer([1.0, 1.0], NAN), "not made of finite"),
        (answer("AAAA", "AAAA"), "not made of finite"),
        (answer("AA$=", [1.0]), "base64"),
        (answer([1.0], [1.0]).replace(b'"index": 1', b'"index": 0'), "indexes"),
        (answer([1.0], [1.0]).replace(b'"index": 1', b'"index": 2'), "indexes"),
        (answer([1.0], [1.0]).replace(b'"index": 1, ', b""), "missing required field `index`"),
        (b"{}", "an answer without vectors: {}"),
        (b'{"data": [', "truncated"),
        (b'data: {"index": 0}\n\n', "no stream"),
        (b'{"usage": {"a": ' + b"[" * 100_000, "RecursionError"),
    ],
)
def test_answers_nobody_can_use(body: bytes, why: str) -> None:
    info = failure(decoded(OPENAI, asked(), [body]))
    assert (info.reason, info.provider, info.model) == ("malformed_response", "openai", MODEL)
    assert why in info.message


def test_an_error_in_a_good_status() -> None:
    body = b'{"error": {"message": "Too busy", "code": 503}}'
    info = failure(decoded(OPENAI, asked(), [body]))
    assert (info.reason, info.message, info.status) == ("overloaded", "Too busy", 503)


def test_the_cap_of_a_request_is_a_context_too_long() -> None:
    error = {"message": "Requested 346134 tokens, max 300000 tokens per request", "param": None}
    for more in ({"type": "max_tokens_per_request", "code": None}, {"code": "max_tokens_per_request"}):
        info = OPENAI.explain(400, {}, json.dumps({"error": {**error, **more}}).encode())
        assert info.reason == "context_length_exceeded"
        assert not info.retryable


# -- Through the verbs -------------------------------------------------------------------------------


def test_through_the_verbs(face: Face) -> None:
    def serve(path: str, body: bytes) -> Answer:
        texts = json.loads(body)["input"]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        embeddings = [base64(float(text), 1.0) for text in texts]
        return 200, dict(JSON.headers), answer(*embeddings, usage=usage, model="m-1")

    texts = [str(number) for number in range(2050)]
    with Loopback(serve) as server:
        engine = allm.Engine(embed_adapter=f"vllm:{MODEL}", base_url=f"{server.url}/v1")
        found = face.call("embed", engine, texts)
    assert [row[0] for row in found.vectors()] == [float(text) for text in texts]
    assert (found.usage.input_tokens, found.model, found.provider) == (2050, "m-1", "vllm")
    assert [len(json.loads(body)["input"]) for body in server.bodies] == [2048, 2]
