"""Many embeddings over a loopback server, through the real adapter: memory, progress, a failing chunk."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64encode
from typing import Any

import pytest

import allm
from allm.data.media import packed
from tests.faces import Face
from tests.loopback import Answer, Loopback

WIDTH = 256
JSON = {"content-type": "application/json"}


def vector(text: str) -> bytes:
    return packed([[float(text), *[0.5] * (WIDTH - 1)]])


def answer(path: str, body: bytes) -> Answer:
    """What OpenAI answers; the first number of each vector is its text."""
    sent = json.loads(body)
    if "fail" in path and "4096" in sent["input"]:
        return 500, JSON, b'{"error": {"message": "no more", "type": "server_error"}}'
    rows: list[dict[str, Any]] = [
        {"object": "embedding", "index": at, "embedding": b64encode(vector(text)).decode()}
        for at, text in enumerate(sent["input"])
    ]
    usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
    return 200, JSON, json.dumps({"data": rows, "model": sent["model"], "usage": usage}).encode()


def engine_at(url: str) -> allm.Engine:
    return allm.Engine(embed_adapter="openai:text-embedding-3-small", base_url=url, retry=False)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_ten_thousand_texts(face: Face, concurrency: int) -> None:
    texts = [str(number) for number in range(10_000)]
    with Loopback(answer) as server:
        seen = face.events(
            engine_at(server.url), texts, verb="stream_embed", api_key="k", concurrency=concurrency
        )
        response = seen.result
        assert len(server.bodies) == 5
        assert all(len(json.loads(body)["input"]) <= 2048 for body in server.bodies)
    assert len(response) == 10_000
    assert [response[at][0] for at in range(0, 10_000, 99)] == [float(at) for at in range(0, 10_000, 99)]
    assert response.usage.input_tokens == 10_000
    assert seen.kinds == ["media_progress"] * 5 + ["media_completed"]


def test_memory_is_bounded() -> None:
    """No Python object for each number: the peak is a few times the packed vectors."""
    texts = [str(number) for number in range(10_000)]
    with Loopback(answer) as server:
        tracemalloc.start()
        try:
            response = allm.embed(engine_at(server.url), texts, api_key="k")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    allm.close()
    # Ours and the server's chunk beside: bytes, JSON, base64. As Python floats it would be eight times.
    assert peak < 5 * len(response.data)


def test_the_third_chunk_fails(face: Face) -> None:
    texts = [str(number) for number in range(10_000)]
    with Loopback(answer) as server:
        seen = face.events(engine_at(f"{server.url}/fail"), texts, verb="stream_embed", api_key="k")
    assert isinstance(seen.error, allm.ServerError)
    assert seen.error.info.extra == {"completed_chunks": 2, "completed_inputs": 4096}
    partial = seen.error.partial
    assert [partial[at][0] for at in (0, 2047, 2048, 4095)] == [0.0, 2047.0, 2048.0, 4095.0]
    assert partial.usage.input_tokens == 4096
    assert seen.kinds == ["media_progress", "media_progress", "error"]


def test_an_address_is_not_another_providers(face: Face) -> None:
    """The chat model's server never sees the key of the embedding provider, nor the reverse."""
    with Loopback(answer) as chat, Loopback(answer) as other:
        engine = allm.Engine(
            "anthropic:claude-opus-5-5", base_url=chat.url, adapter_options={"headers": {"x-tenant": "a"}},
            embed_adapter="openai:text-embedding-3-small",
        )  # fmt: skip
        face.call("embed", engine, "7", api_key="k", adapter_options={"base_url": other.url})
        assert (len(chat.bodies), len(other.bodies)) == (0, 1)
        assert "x-tenant" not in other.headers[0]
        same = engine.merge(model="openai:gpt-6-luna")
        face.call("embed", same, "7", api_key="k")
        assert chat.headers[-1]["x-tenant"] == "a"
