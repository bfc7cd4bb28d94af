"""Embeddings by the local model, with the real runtime and the real default weights where they can be had.

`python -m allm.ext.weights` fetches the weights; without them these tests are skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import hypot
from operator import mul
from pathlib import Path
from typing import Any

import pytest

import allm
from allm.data.media import EmbeddingRequest, EmbeddingResponse
from allm.errors import (
    CancelledError,
    ConfigurationError,
    ContextLengthError,
    UnsupportedError,
    ValidationError,
)
from allm.ext import local, weights
from allm.ext.local_embeddings import LocalEmbeddings
from allm.ports import CallContext
from tests.ext.test_local import real
from tests.faces import FACES, Face

LOCAL = LocalEmbeddings()


@pytest.fixture(scope="module", autouse=True)
def unloaded() -> Iterator[None]:
    yield
    local.close()


def embed(*texts: str, cancelled: Any = bool, options: dict[str, Any] | None = None, **fields: Any) -> Any:
    ctx = CallContext(adapter_options=options or {}, cancelled=cancelled)
    return LOCAL.complete(EmbeddingRequest(input=texts, **fields), ctx)


def cosine(response: EmbeddingResponse, one: int, other: int) -> float:
    return float(sum(map(mul, response[one], response[other])))


# -- Without a model ---------------------------------------------------------------------------------


def test_gates() -> None:
    with pytest.raises(ValidationError, match="nothing to embed"):
        embed()
    with pytest.raises(ValidationError, match="64 inputs a request, not 65"):
        embed(*["x"] * 65)
    with pytest.raises(UnsupportedError, match="dimensions"):
        embed("x", dimensions=8)
    with pytest.raises(ConfigurationError, match="context_size"):
        embed("x", options={"context_size": 0})


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the runtime is not installed: pip install 'pyallm[local]'")
    with pytest.raises(ConfigurationError, match="no model file"):
        embed("x", model=str(tmp_path / "absent.gguf"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ConfigurationError, match="cannot be loaded: is it a whole GGUF model"):
        embed("x", model=str(broken))


# -- With the default weights ------------------------------------------------------------------------


@real
def test_vectors_have_length_1_and_mean_something() -> None:
    found = embed("A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell today.")
    assert (len(found), found.dimensions, found.provider, found.model) == (3, 576, "local", weights.NAME)
    assert [hypot(*row) for row in found.vectors()] == [pytest.approx(1.0)] * 3
    assert cosine(found, 0, 1) > cosine(found, 0, 2) + 0.05
    assert found.usage.input_tokens == found.usage.total_tokens > 12
    assert found.warnings == ()


@real
def test_a_text_has_one_vector_wherever_it_stands() -> None:
    together = embed("kestrel", "kite")
    assert embed("kite")[0] == together[1]


@real
def test_the_default_weights_by_their_path() -> None:
    local.close()
    found = embed("kestrel", model=str(weights.default_path()))
    assert found.vectors() == embed("kestrel").vectors()
    assert len(local._models) == 1


@real
def test_what_has_no_effect_is_named() -> None:
    found = embed("kestrel", task_type="clustering", truncate=True, options={"organization": "of the chat"})
    assert [warning.split()[0] for warning in found.warnings] == ["task_type", "truncate"]


@real
def test_a_text_that_is_too_long_names_its_place() -> None:
    with pytest.raises(ContextLengthError, match=r"input\[1\]: longer than 32 tokens") as caught:
        embed("kestrel", "the " * 40, options={"context_size": 32})
    assert caught.value.info.model == weights.NAME
    assert len(embed("the " * 40, options={"context_size": 64})) == 1


@real
def test_cancelling_ends_it_between_two_texts() -> None:
    asked: list[None] = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(CancelledError):
        embed(*["kestrel"] * 64, cancelled=cancelled)
    assert len(asked) < 10
    assert len(embed("kestrel")) == 1  # the model is free again


@real
def test_cancelling_ends_the_wait_for_the_model() -> None:
    local.close()
    embed("kestrel")
    (model,) = local._models.values()
    model.acquire(bool)
    stop = threading.Event()
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            embed("kestrel", cancelled=stop.is_set)
        except CancelledError as error:
            seen.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    stop.set()
    waiter.join(10.0)
    model.release()
    assert [error.info.provider for error in seen if isinstance(error, CancelledError)] == ["local"]


@real
@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_through_the_verbs(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalEmbeddings, "max_batch", 2)
    texts = ["kestrel", "kite", "eagle", "hawk", "owl"]
    found = face.call("embed", allm.Engine(embed_adapter="local"), texts, concurrency=2)
    assert (len(found), found.metadata["chunk_count"]) == (5, 3)
    assert found.vectors() == [embed(text)[0] for text in texts]


@real
def test_embeddings_and_chat_stand_side_by_side() -> None:
    engine = allm.Engine("local", embed_adapter="local", adapter_options={"threads": 1})
    assert len(allm.embed(engine, "kestrel")) == 1
    assert allm.generate(engine, "Hi", max_tokens=2).text
    local.close()
    assert not local._models
    assert len(allm.embed(engine, "kestrel")) == 1
