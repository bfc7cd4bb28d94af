"""What recorded clients of Chat Completions sent back of an answer, we send back too."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from allm.data.messages import tool_result, user
from allm.data.requests import Request
from allm.ports import CallContext
from tests.decoder_support import events_of, folded
from tests.four_dialects import recorded_adapter
from tests.wire_support import Record, body_of, head_of, records

RECORDS = records("openai.chat")
pytestmark = pytest.mark.skipif(not RECORDS, reason="the recorded exchanges are not here")

REASONING = ("reasoning", "reasoning_content", "reasoning_details")


def earlier(record: Record) -> Record:
    return next(found for found in RECORDS if found["id"] == record["follows"])


def sent_back(record: Record) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The turn of a request that is the answer before it, and the results of its calls."""
    before, sent = earlier(record)["request"]["json"], record["request"]["json"]["messages"]
    new = sent[len(before["messages"]) :]
    turn: dict[str, Any] = next((message for message in new if message.get("tool_calls")), {})
    ids = [call["id"] for call in turn.get("tool_calls", ())]
    return turn, [message for message in new if message.get("tool_call_id") in ids]


def has_calls(record: Record) -> bool:
    expected = earlier(record)["expected"]
    return bool(expected.get("tool_calls")) and not expected["error"]


FOLLOWING = [record for record in RECORDS if record.get("follows")]
BACK = [record for record in FOLLOWING if has_calls(record)]


@pytest.mark.parametrize("record", BACK, ids=[record["id"] for record in BACK])
def test_all_goes_back(record: Record) -> None:
    """Ids that the server had left out are ours; all others, the arguments, the results and the
    reasoning are those that the recorded client sent."""
    before = earlier(record)
    adapter, ctx = recorded_adapter(before), CallContext(base_url="https://example.invalid/v1")
    asked = Request(model=before["request"]["json"]["model"], messages=(user("?"),))
    decoder = adapter.decoder(asked, head_of(before), ctx)
    answer = folded(events_of(decoder, [body_of(before)])).message
    turn, results = sent_back(record)
    given = [
        tool_result(call.id, _text(result["content"]))
        for call, result in zip(answer.tool_calls, results, strict=True)
    ]
    http = adapter.encode(Request(model=asked.model, messages=(*asked.messages, answer, *given)), ctx)
    _, ours, *our_results = msgspec.json.decode(http.body)["messages"]
    assert http.warnings == ()
    assert [_call(call) for call in ours["tool_calls"]] == [_call(call) for call in turn["tool_calls"]]
    for call, sent, known in zip(
        ours["tool_calls"], turn["tool_calls"], before["expected"]["tool_calls"], strict=True
    ):
        assert not known["id"] or call["id"] == sent["id"]
    assert [result["content"] for result in our_results] == [_text(result["content"]) for result in results]
    assert [result["tool_call_id"] for result in our_results] == [call["id"] for call in ours["tool_calls"]]
    for name in REASONING:
        assert not turn.get(name) or ours[name] == turn[name]


def _call(call: dict[str, Any]) -> tuple[str, Any]:
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join([part["text"] for part in content])


def test_how_much_is_compared() -> None:
    reasoning = [name for record in BACK for name in REASONING if sent_back(record)[0].get(name)]
    assert (len(FOLLOWING), len(BACK)) == (20, 17)
    assert reasoning == ["reasoning", "reasoning_content", "reasoning_content", "reasoning_details"]
