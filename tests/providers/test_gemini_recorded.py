"""What recorded clients of `generateContent` sent back of an answer, we send back too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from allm.data.content import ToolCall
from allm.data.messages import Message, tool_result, user
from allm.data.requests import Request
from allm.data.responses import Response
from allm.ports import CallContext
from allm.providers.gemini.generate import Gemini
from tests.decoder_support import events_of, folded
from tests.wire_support import Record, body_of, head_of, records

RECORDS = records("gemini.generate")
BY_ID = {record["id"]: record for record in RECORDS}
FOLLOWERS = [record for record in RECORDS if record.get("follows")]
GEMINI = Gemini()
pytestmark = pytest.mark.skipif(not RECORDS, reason="the recorded exchanges are not here")


@pytest.mark.parametrize("follower", FOLLOWERS, ids=[record["id"] for record in FOLLOWERS])
def test_the_next_request_sends_back_what_the_recorded_one_did(follower: Record) -> None:
    """The earlier answer and the recorded tool results, encoded: nothing that was sent back is missing."""
    earlier = BY_ID[follower["follows"]]
    answer = _answer(earlier)
    recorded = follower["request"]["json"]["contents"]
    answered, after = _turn_of(earlier, recorded)
    messages = (user("the conversation before"), answer.message, *_results(answer.tool_calls, after))
    model = _model(follower)
    assert model == _model(earlier)
    http = GEMINI.encode(Request(model=model, messages=messages), CallContext())
    contents = msgspec.json.decode(http.body)["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"][: len(contents)]
    missing = _sent_back(answered, answer) - _sent_back(contents[1], answer)
    if len(contents) == 3:
        missing += _sent_back(after, answer) - _sent_back(contents[2], answer)
    assert not missing


def _answer(record: Record) -> Response:
    """The folded answer to the model that was asked, which is what its signatures are bound to."""
    decoder = GEMINI.decoder(Request(model=_model(record)), head_of(record), CallContext())
    return folded(events_of(decoder, [body_of(record)]))


def _model(record: Record) -> str:
    path: str = record["request"]["path"]
    return path.rpartition("/")[2].partition(":")[0]


def _turn_of(earlier: Record, recorded: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model turn that the next request holds for the earlier answer, and the user turn after it."""
    place = max(i for i, content in enumerate(recorded) if content["role"] == "model")
    while len(earlier["request"]["json"]["contents"]) < place:
        place -= 2
    assert recorded[place]["role"] == "model"
    return recorded[place], recorded[place + 1]


def _results(calls: tuple[ToolCall, ...], after: dict[str, Any]) -> list[Message]:
    """The recorded function responses as tool messages for our calls, in order."""
    responses = [part for part in map(_plain, after["parts"]) if "functionResponse" in part]
    assert len(responses) == len(calls)
    return [
        tool_result(call.id, msgspec.json.encode(part["functionResponse"]["response"]).decode())
        for call, part in zip(calls, responses, strict=True)
    ]


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    """A recorded part in camel case."""
    names = {
        "function_call": "functionCall",
        "function_response": "functionResponse",
        "thought_signature": "thoughtSignature",
    }
    return {names.get(name, name): value for name, value in part.items()}


def _sent_back(content: dict[str, Any], answer: Response) -> Counter[str]:
    """What must not get lost in a turn: signatures, ids of the provider's, calls, results, server parts."""
    found: Counter[str] = Counter()
    given = {call.id for call in answer.tool_calls if not call.provider_data.get("made_id")}
    for part in map(_plain, content["parts"]):
        signature = part.get("thoughtSignature")
        if signature:  # some clients write base64 in its URL-safe alphabet
            found[f"signature {signature.replace('-', '+').replace('_', '/')}"] += 1
        for kind, value in part.items():
            if kind in ("thoughtSignature", "text"):
                continue
            if value.get("id") in given or kind in ("toolCall", "toolResponse"):
                found[f"{kind} id {value['id']}"] += 1
            if kind == "functionCall":
                found[f"call {value['name']} {value.get('args') or {}}"] += 1
            elif kind == "functionResponse":
                found[f"result {value['name']} {value['response']}"] += 1
            else:
                found[kind] += 1
    return found
