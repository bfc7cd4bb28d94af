"""Rows D of the parity table: generate and streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import allm
from allm.data.events import EVENT_TYPES, Event
from allm.folds import unfold
from tests.parity.support import ANSWER, SSE, Transport, wired
from tests.test_loop import DONE, HELLO, fake


def test_f065_generate_is_the_fold_of_the_stream() -> None:
    class Both:
        name = "both"
        completed = streamed = 0

        def complete(self, request: Any, ctx: Any) -> allm.Response:
            self.completed += 1
            return allm.Response(message=allm.assistant("whole"), finish_reason="stop")

        def stream(self, request: Any, ctx: Any) -> Iterator[Event]:
            self.streamed += 1
            yield from unfold(allm.Response(message=allm.assistant("streamed"), finish_reason="stop"))

    adapter = Both()
    engine = allm.Engine(adapter=adapter)
    for verb in ("generate", "step", "chat"):
        assert getattr(allm, verb)(engine, "hi").text == "streamed"
    assert (adapter.completed, adapter.streamed) == (0, 3)


def test_f066_the_events_are_a_closed_set() -> None:
    assert [kind.__struct_config__.tag for kind in EVENT_TYPES] == [
        "message_started", "text_delta", "text_completed", "reasoning_delta", "reasoning_completed",
        "tool_call_started", "tool_call_delta", "tool_call_completed", "usage", "message_completed",
        "tool_execution_started", "tool_execution_completed", "tool_result_encoded", "ask_user_requested",
        "tool_halt", "step_completed", "chat_completed", "retrying", "raw_chunk", "error",
    ]  # fmt: skip


def test_f068_deltas_join_to_the_text() -> None:
    with allm.stream_generate(fake([{"text": ["a", "", "b"]}, {"text": "c"}]), "hi") as stream:
        text = "".join([event.text for event in stream if isinstance(event, allm.TextDelta)])
    assert text == stream.result().output_text == "abc"


def test_f071_usage_is_an_event_that_is_always_shown() -> None:
    script = [*HELLO, {"raw_chunk": {"x": 1}}]
    hidden = [type(event) for event in allm.stream(fake(script), "hi")]
    assert allm.UsageReported in hidden
    assert allm.RawChunk not in hidden
    assert allm.RawChunk in [type(e) for e in allm.stream(fake(script), "hi", include_raw_chunks=True)]


@pytest.mark.parametrize("broken", [b"data: {oops\n\n", b"data: 5\n\n"])
def test_f075_a_chunk_nobody_can_read_ends_the_stream(broken: bytes) -> None:
    transport = Transport((200, SSE, (ANSWER[0], broken)))
    with pytest.raises(allm.WireError) as caught:
        allm.generate(wired(transport), "hi", api_key="k")
    assert caught.value.info.reason == "malformed_response"
    assert caught.value.partial.text == "Hel"
    assert transport.closed == 1


def test_f077_who_stops_early_lets_the_connection_go_once() -> None:
    transport = Transport()
    with allm.stream(wired(transport), "hi", api_key="k") as stream:
        for event in stream:
            if isinstance(event, allm.TextDelta):
                break
    stream.close()
    stream.cancel()
    assert transport.closed == 1


def test_f081_a_refusal_of_a_stream_is_read_whole() -> None:
    body = json.dumps({"error": {"message": "Slow down.", "type": "tokens", "code": "rate"}}).encode()
    transport = Transport((429, {"retry-after": "7", "x-request-id": "r1"}, (body[:9], body[9:])))
    with pytest.raises(allm.RateLimitError) as caught:
        allm.generate(wired(transport), "hi", api_key="k", retry=False)
    info = caught.value.info
    assert (info.status, info.retry_after, info.request_id) == (429, 7.0, "r1")
    assert "Slow down." in info.message


def test_f082_usage_is_asked_for_and_the_same_in_both_forms() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    message = {"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    whole = json.dumps({"id": "c", "model": "m", "choices": [message], "usage": usage}).encode()
    transport = Transport(
        (200, SSE, (*ANSWER[:3], last, ANSWER[3])), (200, {"content-type": "application/json"}, (whole,))
    )
    engine = wired(transport)
    streamed = allm.generate(engine, "hi", api_key="k")
    plain = allm.generate(engine, "hi", api_key="k", adapter_options={"streaming": False})
    assert streamed == plain
    assert transport.sent[0]["stream_options"] == {"include_usage": True}
    own = {"stream_options": {"include_usage": False}}
    allm.generate(engine, "hi", api_key="k", options=own)
    assert transport.sent[2]["stream_options"] == {"include_usage": False}


def test_f083_timeouts_reach_the_transport() -> None:
    transport = Transport()
    timeouts = allm.Timeouts(connect=1.0, first_event=2.0, idle=3.0, request=4.0)
    allm.generate(wired(transport, timeouts=timeouts), "hi", api_key="k")
    allm.generate(wired(transport), "hi", api_key="k", timeouts=timeouts)
    assert transport.timeouts == [timeouts, timeouts]


def test_f074_a_failure_in_mid_stream_is_a_finish_reason_where_that_is_wanted() -> None:
    script = [{"text": "Hel"}, {"error": "overloaded"}]
    response = allm.generate(fake(script), "hi", raise_on_error=False)
    assert (response.finish_reason, response.text) == ("error", "Hel")
    assert response.error is not None
    assert response.error.reason == "overloaded"
    assert allm.generate(fake(DONE), "hi").finish_reason == "stop"
