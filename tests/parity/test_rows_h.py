"""Rows H of the parity table: errors and retries."""

from __future__ import annotations

from typing import Any

import pytest

import allm
from allm.data.failure import REASONS
from allm.errors import TABLE, raised
from allm.retry import delay_before_next
from tests.parity.support import ANSWER, SSE, Answer, Transport, wired
from tests.test_media import KESTREL, painting

AT_ONCE = allm.RetryPolicy(base_delay=0)


def failure(reason: str = "overloaded", **fields: Any) -> allm.ErrorInfo:
    return allm.ErrorInfo(reason=reason, retryable=True, **fields)


def delays(policy: allm.RetryPolicy, info: allm.ErrorInfo, draw: float) -> list[float | None]:
    return [delay_before_next(policy, attempt, info, draw) for attempt in (1, 2, 3)]


def test_f156_every_reason_has_its_class() -> None:
    assert TABLE.keys() == REASONS
    for reason, cls in TABLE.items():
        assert type(raised(allm.ErrorInfo(reason=reason))) is cls
    newer = raised(allm.ErrorInfo(reason="a_word_of_a_newer_version"))
    assert type(newer) is allm.AllmError


def test_f161_three_attempts_with_full_jitter() -> None:
    assert delays(allm.RetryPolicy(), failure(), 1.0) == [0.5, 1.0, None]
    assert delays(allm.RetryPolicy(), failure(), 0.5) == [0.25, 0.5, None]
    assert delays(allm.RetryPolicy(attempts=9, max_delay=0.75), failure(), 1.0) == [0.5, 0.75, 0.75]
    added = allm.RetryPolicy(added_jitter=0.25)
    assert delays(added, failure(), 0.5) == [0.375, 0.625, None]


def test_f162_the_servers_own_wait_is_kept() -> None:
    assert delays(allm.RetryPolicy(), failure(retry_after=7.0), 0.5) == [7.0, 7.0, None]
    assert delays(allm.RetryPolicy(added_jitter=1.0), failure(retry_after=7.0), 0.5) == [7.5, 7.5, None]
    assert delays(allm.RetryPolicy(), failure(retry_after=61.0), 0.5) == [None] * 3
    assert delays(allm.RetryPolicy(respect_retry_after=False), failure(retry_after=7.0), 1.0)[0] == 0.5


@pytest.mark.parametrize(
    ("status", "tries"),
    [(429, 3), (500, 3), (502, 3), (503, 3), (504, 3), (529, 3), (400, 1), (401, 1), (413, 1)],
)
@pytest.mark.parametrize(
    "model", ["openai:gpt-4.1", "anthropic:claude-sonnet-5-5", "gemini:gemini-3.8-flash"]
)
def test_f163_what_is_tried_again(model: str, status: int, tries: int) -> None:
    transport = Transport((status, {}, (b"{}",)))
    engine = allm.Engine(model, transport=transport, retry=AT_ONCE)
    with pytest.raises(allm.ProviderError):
        allm.chat(engine, "hi", api_key="k")
    assert len(transport.requests) == tries
    with pytest.raises(allm.ProviderError):
        allm.chat(engine, "hi", api_key="k", retry=False)
    assert len(transport.requests) == tries + 1
    with pytest.raises(TypeError, match="atempts"):
        allm.RetryPolicy(atempts=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("reason", ["network_error", "stream_interrupted", "timeout"])
def test_f163_broken_connections_are_tried_again(reason: str) -> None:
    assert delays(allm.RetryPolicy(), failure(reason), 1.0) == [0.5, 1.0, None]


def test_f164_a_stream_is_tried_again_before_its_first_content() -> None:
    busy: Answer = (503, {}, (b"{}",))
    transport = Transport(busy, busy, (200, SSE, ANSWER))
    assert allm.chat(wired(transport, retry=AT_ONCE), "hi", api_key="k").text == "Hello"
    assert len(transport.requests) == 3


@pytest.mark.parametrize("reason", ["overloaded", "timeout"])
def test_f165_images_have_the_one_retry_layer(reason: str) -> None:
    errors = [raised(failure(reason)) for _ in range(9)]
    engine = painting(*errors[:2])
    assert allm.generate_image(engine, "a kestrel", retry=AT_ONCE).image == KESTREL
    engine = painting(*errors)
    with pytest.raises(type(errors[0])):
        allm.generate_image(engine, "a kestrel", retry=AT_ONCE)
    assert len(engine.image_adapter.requests) == 3
