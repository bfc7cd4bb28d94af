"""What recorded clients of Responses sent back of an answer, we send back too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from allm.data.content import FilePart
from allm.data.messages import Message, tool_result, user
from allm.data.requests import Request
from allm.ports import CallContext
from tests.decoder_support import events_of, folded
from tests.four_dialects import recorded_adapter
from tests.wire_support import Record, body_of, head_of, records

RECORDS = records("openai.responses")
pytestmark = pytest.mark.skipif(not RECORDS, reason="the recorded exchanges are not here")

Item = dict[str, Any]


def output_of(record: Record) -> Iterator[Item]:
    """The items of a recorded answer, each in every copy that came."""
    response = record["response"]
    if "body" in response:
        yield from json.loads(response["body"])["output"]
        return
    for line in "".join(response["sse"]).splitlines():
        event = json.loads(line[5:]) if line.startswith("data:") and "{" in line else {}
        if event.get("type") == "response.output_item.done":
            yield event["item"]
        yield from event.get("response", {}).get("output", ())


def sent_back(record: Record) -> list[Item]:
    """The items of a request that belong to the answer before it, results of its calls included.

    One client made the call ids of a server longer, to tell the calls of two answers apart: they are put
    back here, by the ids of their items.
    """
    items, sent = list(output_of(earlier(record))), record["request"]["json"]["input"]
    call_ids = {item["id"]: item["call_id"] for item in items if "call_id" in item and "id" in item}
    longer = {item["call_id"]: call_ids[item["id"]] for item in sent if item.get("id") in call_ids}
    sent = [{**item, "call_id": longer.get(item.get("call_id"), item.get("call_id"))} for item in sent]
    known = {handle for item in items for handle in _handles(item)} - {None}
    return [item for item in sent if not known.isdisjoint(_handles(item))]


def _handles(item: Item) -> list[Any]:
    return [item.get(name) for name in ("id", "call_id", "encrypted_content")]


def earlier(record: Record) -> Record:
    return next(found for found in RECORDS if found["id"] == record["follows"])


FOLLOWING = [record for record in RECORDS if record.get("follows")]
BACK = [record for record in FOLLOWING if sent_back(record)]


def results_in(record: Record) -> list[Message]:
    return [
        tool_result(item["call_id"], _result(item["output"]))
        for item in sent_back(record)
        if item["type"] == "function_call_output"
    ]


def _result(output: str | list[Item]) -> Any:
    return output if isinstance(output, str) else [FilePart(url=part["file_url"]) for part in output]


def sent_by_us(record: Record, **options: Any) -> Item:
    """Our request after the earlier answer and the results that the recorded client gave."""
    before, ctx = earlier(record), CallContext(adapter_options=options)
    adapter = recorded_adapter(before)
    model = before["request"]["json"]["model"]
    asked = Request(model=model, messages=(user("?"),))
    decoder = adapter.decoder(asked, head_of(before), ctx)
    answer = folded(events_of(decoder, [body_of(before)])).message
    messages = (*asked.messages, answer, *results_in(record), user("!"))
    http = adapter.encode(Request(model=model, messages=messages), ctx)
    assert http.warnings == ()
    body: Item = msgspec.json.decode(http.body)
    return body


@pytest.mark.parametrize("record", BACK, ids=[record["id"] for record in BACK])
def test_all_goes_back(record: Record) -> None:
    ours = sent_by_us(record)["input"]
    for item in sent_back(record):
        same = [mine for mine in ours if _kind(mine) == _kind(item) and _same_handles(mine, item)]
        assert len(same) == 1, item
        assert _compared(same[0], item) == _compared(item, item)


def _kind(item: Item) -> str:
    return str(item.get("type", "message"))


def _same_handles(mine: Item, item: Item) -> bool:
    return all(handle in (None, own) for own, handle in zip(_handles(mine), _handles(item), strict=True))


def _compared(item: Item, other: Item) -> str:
    """The fields that both must have; arguments as data, empty ones left out."""
    named = {name: item.get(name) for name, value in other.items() if value is not None and name != "status"}
    if "arguments" in named:
        named["arguments"] = json.loads(str(named["arguments"]))
    text = json.dumps(named, sort_keys=True, ensure_ascii=False)
    return text.translate(_QUOTES)  # the recorder wrote plain quotes into the requests


_QUOTES = str.maketrans({"\u2019": "'", "\u201c": '\\"', "\u201d": '\\"'})


def test_how_much_is_compared() -> None:
    items = [item for record in BACK for item in sent_back(record)]
    assert (len(FOLLOWING), len(BACK), len(items)) == (17, 16, 37)


@pytest.mark.parametrize("record", BACK, ids=[record["id"] for record in BACK])
def test_stateful_sends_only_what_is_new(record: Record) -> None:
    body = sent_by_us(record, stateful=True)
    kinds = [_kind(item) for item in body["input"]]
    assert kinds == ["function_call_output"] * len(results_in(record)) + ["message"]
    assert body["previous_response_id"] == earlier(record)["expected"]["id"]
    assert body["store"] is True
