"""Every recorded Chat Completions exchange, in process: whole, byte by byte, split, and sent back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from allm.data.events import MessageCompleted, StreamFailed
from allm.data.messages import tool_result, user
from allm.data.requests import Request
from allm.folds import ResponseFold
from allm.ports import CallContext, WireAdapter
from allm.providers import COMPATIBLE, resolve
from allm.providers.openai.chat import OpenAIChat
from tests.wire_support import Record, body_of, compare, decode, head_of, records, result_of, splits

RECORDS = records("openai.chat")
pytestmark = pytest.mark.skipif(not RECORDS, reason="the recorded exchanges are not here")


def adapter_of(record: Record) -> WireAdapter:
    provider = record["provider"]
    if provider == "openai":
        return OpenAIChat()
    adapter: WireAdapter = resolve(provider if provider in COMPATIBLE else "compatible")
    return adapter


@pytest.fixture(params=RECORDS, ids=[record["id"] for record in RECORDS])
def record(request: pytest.FixtureRequest) -> Record:
    found: Record = request.param
    return found


def test_whole(record: Record) -> None:
    assert compare(record, result_of(adapter_of(record), record, [body_of(record)])) == []


def test_byte_by_byte(record: Record) -> None:
    body = body_of(record)
    adapter = adapter_of(record)
    pieces = [body[at : at + 1] for at in range(len(body))]
    assert decode(adapter, record, pieces) == decode(adapter, record, [body])


def test_splits(record: Record) -> None:
    body = body_of(record)
    adapter = adapter_of(record)
    expected = decode(adapter, record, [body])
    for pieces in splits(body):
        assert decode(adapter, record, pieces) == expected


def test_one_ending(record: Record) -> None:
    events = decode(adapter_of(record), record, [body_of(record)])
    ends = [event for event in events if isinstance(event, MessageCompleted | StreamFailed)]
    assert ends == events[-1:]


# What the recorded client sent back of an answer, we send back too.

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
    adapter, ctx = adapter_of(before), CallContext(base_url="https://example.invalid/v1")
    asked = Request(model=before["request"]["json"]["model"], messages=(user("?"),))
    decoder = adapter.decoder(asked, head_of(before), ctx)
    fold = ResponseFold()
    for event in [*decoder.feed(body_of(before)), *decoder.end()]:
        fold.add(event)
    turn, results = sent_back(record)
    answer = fold.response.message
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
