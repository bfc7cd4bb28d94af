"""Answers that the provider paused: continued by the loop, one turn in the end."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

import allm
from allm.loops.generate import MAX_PAUSES
from allm.ports import CallContext
from allm.testing import FakeAdapter
from tests.faces import Face

PAUSED = {"finish": "paused"}


class Pausing(FakeAdapter):
    """A scripted provider whose paused answers are continued with the answer so far in the history."""

    def resume(self, request: allm.Request, response: allm.Response, ctx: CallContext) -> allm.Request | None:
        if not ctx.adapter_options.get("follow_pauses", True):
            return None
        return replace(request, messages=(*request.messages, response.message))


def engine_of(*scripts: list[dict[str, Any]], **fields: Any) -> allm.Engine:
    return allm.Engine("m", adapter=Pausing(list(scripts)), **fields)


def test_a_paused_turn_comes_out_as_one(face: Face) -> None:
    engine = engine_of(
        [{"text": "One, "}, {"usage": {"input_tokens": 5, "output_tokens": 2}}, PAUSED],
        [{"reasoning": "On."}, {"text": "two, "}, {"usage": {"input_tokens": 7, "output_tokens": 3}}, PAUSED],
        [{"text": "three."}, {"usage": {"input_tokens": 9, "output_tokens": 4}}],
    )
    seen = face.events(engine, "Count", verb="stream_generate", include_raw_chunks=True)
    response = seen.result
    assert response.text == "One, two, three."
    assert response.finish_reason == "stop"
    assert response.reasoning == "On."
    assert (response.usage.input_tokens, response.usage.output_tokens) == (21, 9)
    assert seen.kinds.count("message_started") == seen.kinds.count("message_completed") == 1
    pauses = [event for event in seen.events if isinstance(event, allm.RawChunk)]
    assert [event.data["type"] for event in pauses] == ["paused", "paused"]
    asked = [request.messages for request in engine.adapter.requests]
    assert [len(messages) for messages in asked] == [1, 2, 2]
    assert asked[2][1].text == "One, two, "
    assert allm.fold(seen.events) == response


def test_tools_run_after_the_last_part_of_a_paused_turn(face: Face) -> None:
    ran: list[int] = []

    @allm.tool
    def double(n: int) -> int:
        """Twice n."""
        ran.append(n)
        return 2 * n

    call = {"tool_call": {"id": "a", "name": "double", "arguments": {"n": 4}}}
    engine = engine_of([{"text": "Let me see. "}, PAUSED], [call], [{"text": "8"}], tools=[double])
    result = face.chat(engine, "Twice 4?")
    assert (ran, result.text) == ([4], "8")
    assert [len(step.response.message.parts) for step in result.steps] == [2, 1]


def test_a_failure_after_a_pause_keeps_what_came(face: Face) -> None:
    engine = engine_of([{"text": "One, "}, PAUSED], [{"text": "tw"}, {"error": "network_error"}])
    seen = face.events(engine, "Count", verb="stream_generate")
    assert isinstance(seen.error, allm.TransportError)
    assert seen.error.partial.text == "One, tw"


def test_a_failure_before_content_is_retried_within_the_pause(face: Face) -> None:
    engine = engine_of([{"text": "One, "}, PAUSED], [{"error": "overloaded"}], [{"text": "two."}])
    response = face.generate(engine, "Count", retry=allm.RetryPolicy(base_delay=0.0))
    assert response.text == "One, two."


def test_pauses_are_bounded(face: Face) -> None:
    engine = engine_of(*[[{"text": "x"}, PAUSED]] * (MAX_PAUSES + 1))
    response = face.generate(engine, "Count")
    assert (response.finish_reason, response.text) == ("paused", "x" * (MAX_PAUSES + 1))


def test_pauses_are_left_alone_where_the_user_says_so(face: Face) -> None:
    engine = engine_of([{"text": "One, "}, PAUSED], adapter_options={"follow_pauses": False})
    assert face.generate(engine, "Count").finish_reason == "paused"
