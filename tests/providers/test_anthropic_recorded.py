"""What recorded clients of Messages sent back of an answer, we send back too."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from allm.data.content import OpaquePart, Origin, TextPart, ToolCall
from allm.data.messages import Message, tool_result
from allm.data.requests import Request, ToolSpec
from allm.ports import CallContext
from allm.providers.anthropic.messages import Anthropic
from tests.decoder_support import events_of, folded
from tests.wire_support import Record, body_of, head_of, records

RECORDS = records("anthropic.messages")
pytestmark = pytest.mark.skipif(not RECORDS, reason="the recorded exchanges are not here")
ADAPTER = Anthropic()

FOLLOWING = [record for record in RECORDS if record.get("follows")]
BY_ID = {record["id"]: record for record in RECORDS}


@pytest.mark.parametrize("record", FOLLOWING, ids=[record["id"] for record in FOLLOWING])
def test_the_answer_goes_back(record: Record) -> None:
    """Our fold of the earlier answer, sent again, holds all that the recorded next request sent of it."""
    earlier = BY_ID[record["follows"]]
    sent = record["request"]["json"]
    asked = request_of(earlier["request"]["json"], sent)
    answered = len(earlier["request"]["json"]["messages"])
    messages = (*asked.messages, said(earlier, asked), *history(sent["messages"][answered + 1 :]))
    http = ADAPTER.encode(replace(asked, messages=messages), CallContext())
    ours = json.loads(http.body)["messages"]
    assert [turn["role"] for turn in ours] == [turn["role"] for turn in sent["messages"]]
    assert not facts(sent["messages"][answered:]) - facts(ours[answered:])
    assert http.warnings == ()


def request_of(sent: dict[str, Any], following: dict[str, Any]) -> Request:
    """The recorded request as ours; `following` may have loaded tools by then, which the model sees."""
    tools = [tool for tool in following.get("tools", ()) if "input_schema" in tool]
    hosted = [tool for tool in following.get("tools", ()) if "input_schema" not in tool]
    return Request(
        model=sent["model"],
        messages=history(sent["messages"]),
        max_tokens=sent["max_tokens"],
        tools=tuple(ToolSpec(tool["name"], tool["description"], tool["input_schema"]) for tool in tools),
        options={"tools": hosted} if hosted else {},
    )


def said(record: Record, asked: Request) -> Message:
    decoder = ADAPTER.decoder(asked, head_of(record), CallContext())
    return folded(events_of(decoder, [body_of(record)])).message


def history(turns: list[dict[str, Any]]) -> tuple[Message, ...]:
    """The turns of a recorded request as messages."""
    messages: list[Message] = []
    for turn in turns:
        content = turn["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        results = [block for block in blocks if block["type"] == "tool_result"]
        messages += [
            tool_result(
                block["tool_use_id"], parts(block["content"]), is_error=bool(block.get("is_error", False))
            )
            for block in results
        ]
        if len(results) < len(blocks):
            messages.append(Message(turn["role"], parts(blocks)))
    return tuple(messages)


def parts(content: Any) -> Any:
    return content if isinstance(content, str) else tuple(part(block) for block in content)


def part(block: dict[str, Any]) -> Any:
    if block["type"] == "text":
        return TextPart(block["text"])
    if block["type"] == "tool_use":
        return ToolCall(block["id"], block["name"], block["input"])
    return OpaquePart(data=block, origin=Origin("anthropic", "messages"))


def facts(turns: list[dict[str, Any]]) -> Counter[str]:
    """What must reach the provider again, counted; whatever else the recording client added is left out."""
    found: Counter[str] = Counter()
    for turn in turns:
        content = turn["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            added = ("cache_control", "caller", "citations")
            kept = {name: value for name, value in block.items() if name not in added}
            if kept["type"] == "tool_result":
                kept["is_error"] = bool(kept.get("is_error", False))
            found[json.dumps(without_null(kept), sort_keys=True)] += 1
    return found


def without_null(value: Any) -> Any:
    if isinstance(value, list):
        return [without_null(item) for item in value]
    if isinstance(value, dict):
        return {name: without_null(item) for name, item in value.items() if item is not None}
    return value
