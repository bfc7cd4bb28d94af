"""The scripted provider of embeddings."""

from __future__ import annotations

from math import hypot
from typing import Any

import pytest

import allm
from allm.data.media import EmbeddingRequest
from allm.errors import ConfigurationError, InvalidRequestError, RateLimitError, ValidationError
from allm.ports import CallContext
from allm.providers.fake_embeddings import FakeEmbeddings
from tests.faces import Face


def embed(fake: FakeEmbeddings, *texts: str, script: Any = None, **fields: Any) -> allm.EmbeddingResponse:
    options = {} if script is None else {"embedding_script": script}
    return fake.complete(EmbeddingRequest(input=texts, **fields), CallContext(adapter_options=options))


def test_without_a_script_a_text_has_its_own_vector() -> None:
    fake = FakeEmbeddings()
    first, second = embed(fake, "kestrel", "kite"), embed(fake, "kite", "kestrel")
    assert first.vectors() == second.vectors()[::-1]
    assert first[0] != first[1]
    assert first.dimensions == 8
    assert hypot(*first[0]) == pytest.approx(1.0)
    assert embed(fake, "kestrel", dimensions=100).dimensions == 100
    fake.assert_exhausted()


def test_a_script_is_played_in_order() -> None:
    fake = FakeEmbeddings([{"vectors": [[0.5, 1.0]]}, {"error": "rate_limited"}])
    found = embed(fake, "two words", model="m", metadata={"a": 1})
    assert (found.vectors(), found.model, found.provider) == ([[0.5, 1.0]], "m", "fake")
    assert found.usage == allm.Usage(input_tokens=2, total_tokens=2)
    assert found.metadata == {"a": 1}
    with pytest.raises(ConfigurationError, match="1 of 2 entries"):
        fake.assert_exhausted()
    with pytest.raises(RateLimitError) as caught:
        embed(fake, "x")
    assert caught.value.info.retryable
    fake.assert_exhausted()
    with pytest.raises(InvalidRequestError, match="no embeddings for request 3; it was given 2") as spent:
        embed(fake, "x")
    assert spent.value.info.code == "no_scripted_embedding"
    assert [request.input for request in fake.requests] == [("two words",), ("x",), ("x",)]


def test_an_error_may_have_fields() -> None:
    script = [{"error": {"reason": "provider_unavailable", "message": "gone", "status": 503}}]
    with pytest.raises(allm.ServerError, match="gone") as caught:
        embed(FakeEmbeddings(), "x", script=script)
    assert caught.value.info.status == 503


def test_the_script_may_come_with_the_call() -> None:
    fake = FakeEmbeddings()
    script = [{"vectors": [[1.0]]}, {"vectors": [[2.0]]}]
    assert [embed(fake, "x", script=script)[0] for _ in script] == [[1.0], [2.0]]
    fake.assert_exhausted({"embedding_script": script})


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"vector": [1.0]}, "not a dict with one of vectors, error"),
        ({"vectors": [], "error": "timeout"}, "not a dict with one of vectors, error"),
        ([1.0], "not a dict with one of vectors, error"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, "different lengths"),
    ],
)
def test_malformed_scripts_are_refused(entry: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        embed(FakeEmbeddings(), "x", script=[entry])


def test_gates_of_a_direct_call() -> None:
    with pytest.raises(ValidationError, match="nothing to embed"):
        embed(FakeEmbeddings())
    with pytest.raises(ValidationError, match="2 inputs a request, not 3"):
        embed(FakeEmbeddings(max_batch=2), "a", "b", "c")


def test_through_the_verbs(face: Face) -> None:
    options = {"embedding_script": [{"error": "overloaded"}, {"vectors": [[1.0], [2.0]]}]}
    engine = allm.Engine(embed_adapter="fake", adapter_options=options)
    found = face.call("embed", engine, ["a", "b"], retry=allm.RetryPolicy(base_delay=0.0))
    assert found.vectors() == [[1.0], [2.0]]


def test_chunks_of_any_size(face: Face) -> None:
    fake = FakeEmbeddings(max_batch=2)
    texts = ["a", "b", "c", "d", "e"]
    found = face.call("embed", allm.Engine(embed_adapter=fake), texts, concurrency=4)
    assert found.vectors() == embed(FakeEmbeddings(), *texts).vectors()
    assert sorted(len(request.input) for request in fake.requests) == [1, 2, 2]
