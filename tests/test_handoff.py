"""One conversation on all providers in turn and back: built from recorded answers, sent as each would be.

Every order of the four dialects is played. Each provider answers with what it really said once: signed or
encrypted reasoning, parallel calls, items of its own. What the next one is sent fits its SDK's types and
holds nothing that is bound to another; back at the first, its own turns are the very bytes they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import permutations
from typing import Any

import msgspec
import pytest

import allm
from tests.four_dialects import CHAT, DIALECTS, GENERATE, MESSAGES, RESPONSES, Dialect
from tests.sdk_types import misfits
from tests.wire_support import Record

# The answers of each dialect, by the end of their ids.
ANSWERS = {
    CHAT: ("b6134a6c", "da304fb9", "7fabe256"),  # two calls; signed thinking; encrypted reasoning
    RESPONSES: ("c27d51aa", "64bc2238", "9725306a"),  # reasoning and five calls; hosted tools; phases
    MESSAGES: ("2acae0e0", "ad61a1f2", "d95d124b"),  # signed thinking and a call; two calls; hosted tools
    GENERATE: ("f1a251ba", "b8aa2362"),  # two calls, one signed; code that was run
}
TOOLS = (allm.ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}),)
SYSTEM = "Be brief."
PICTURE = allm.ImagePart(image=allm.Image.from_bytes(b"\x89PNG\r\n\x1a\n", "image/png"))
pytestmark = pytest.mark.skipif(not CHAT.records, reason="the recordings are not beside the checkout")


def recorded(dialect: Dialect) -> list[Record]:
    found = [record for record in dialect.records if record["id"].endswith(ANSWERS[dialect])]
    assert len(found) == len(ANSWERS[dialect])
    return found


def request(dialect: Dialect, thread: allm.Thread) -> allm.Request:
    return allm.Request(model=dialect.model, messages=thread.messages, system=SYSTEM, tools=TOOLS)


def answered(dialect: Dialect, thread: allm.Thread) -> allm.Thread:
    """The thread after the dialect's recorded answers, each with results and a word of the user."""
    for record in recorded(dialect):
        answer = dialect.answer(record, request(dialect, thread))
        assert answer.error is None
        results = [result(call.id, number) for number, call in enumerate(answer.tool_calls)]
        thread = thread.add_messages((answer.message, *results)).add_user("Go on")
    return thread


def opening() -> allm.Thread:
    """A picture, and calls whose ids not all take; the last one was never answered."""
    ids = ("functions.look:0", "look é" + "x" * 80, "call_1")
    calls = [allm.ToolCall(id, "look", {"at": id}) for id in ids]
    thread = allm.Thread().add_user((allm.TextPart("What is this?"), PICTURE))
    thread = thread.add_assistant((allm.TextPart("I look."), *calls))
    return thread.add_messages([result(id, number) for number, id in enumerate(ids[:-1])]).add_user("And?")


def result(id: str, number: int) -> allm.Message:
    """Every second result is a picture, every third an error."""
    content = (allm.TextPart("Seen:"), PICTURE) if number % 2 else "Nothing."
    return allm.tool_result(id, content, is_error=number % 3 == 2)


def sent(dialect: Dialect, thread: allm.Thread) -> bytes:
    """The body that the dialect would be sent; it fits the types of the SDK."""
    encoded = dialect.encode(request(dialect, thread))
    assert misfits(dialect, encoded) == []
    return encoded.body


def turns(body: bytes) -> list[bytes]:
    """The conversation in a body, each message or item as its bytes."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    raw = next(fields[name] for name in ("messages", "input", "contents") if name in fields)
    return [bytes(turn) for turn in msgspec.json.decode(raw, type=list[msgspec.Raw])]


def bound(thread: allm.Thread, dialect: Dialect) -> Iterator[str]:
    """The strings that only `dialect` may see again: signatures, encrypted text, ids of its items."""
    for message in thread.messages:
        for part in message.parts:
            if part.origin is None or part.origin.endpoint != dialect.name:
                continue
            yield from strings(part.provider_data)
            if isinstance(part, allm.ReasoningPart):
                yield from strings([part.signature, part.redacted, part.id])
            if isinstance(part, allm.OpaquePart):
                yield from strings(part.data)


def strings(value: Any) -> Iterator[str]:
    """The strings in JSON data that are too long for a word of the wire, or to be the same by chance."""
    if isinstance(value, str) and len(value) > 20:
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def foreign(body: bytes, thread: allm.Thread, dialect: Dialect) -> list[str]:
    """What a body holds although it is bound to another provider."""
    said = "".join([message.text + message.reasoning for message in thread.messages])
    said += "".join([call.id for message in thread.messages for call in message.tool_calls])
    others = [other for other in DIALECTS if other is not dialect]
    return held(body, {secret for other in others for secret in bound(thread, other) if secret not in said})


def held(body: bytes, secrets: Iterable[str]) -> list[str]:
    return [secret for secret in secrets if msgspec.json.encode(secret)[1:-1] in body]


IDS = {
    "chat": re.compile(r"[!-~]{1,64}"),
    "responses": re.compile(r"[!-~]{1,64}"),
    "messages": re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    "generate": re.compile(r".+"),
}


def pairing(dialect: Dialect, body: bytes) -> tuple[list[str], list[str]]:
    """The ids of the calls and of the results in a body, in their order."""
    calls: list[str] = []
    results: list[str] = []
    for turn in map(msgspec.json.decode, turns(body)):
        if dialect is CHAT:
            calls += [call["id"] for call in turn.get("tool_calls", ())]
            results += [turn["tool_call_id"]] if turn["role"] == "tool" else []
        elif dialect is RESPONSES:
            kind = turn.get("type", "")
            (results if kind.endswith("_output") else calls).extend(
                [turn["call_id"]] if kind.startswith(("function_call", "custom_tool_call")) else []
            )
        elif dialect is MESSAGES:
            blocks = turn["content"] if isinstance(turn["content"], list) else []
            calls += [block["id"] for block in blocks if block["type"] == "tool_use"]
            results += [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        else:
            calls += [part["functionCall"].get("id", "") for part in turn["parts"] if "functionCall" in part]
            answers = [part["functionResponse"] for part in turn["parts"] if "functionResponse" in part]
            results += [answer.get("id", "") for answer in answers]
    return calls, results


def check(dialect: Dialect, thread: allm.Thread) -> bytes:
    """What the dialect is sent of a thread, once all that is asked of it holds."""
    body = sent(dialect, thread)
    calls, results = pairing(dialect, body)
    assert sorted(calls) == sorted(results)
    assert all(IDS[dialect.name].fullmatch(id) for id in calls)
    assert foreign(body, thread, dialect) == []
    loaded = allm.from_json(allm.to_json(thread))
    assert dialect.encode(request(dialect, loaded)).body == body
    return body


@pytest.mark.parametrize("order", [*permutations(DIALECTS)], ids=lambda order: "-".join(map(repr, order)))
def test_a_thread_goes_round_and_comes_back(order: tuple[Dialect, ...]) -> None:
    thread = opening()
    native: dict[Dialect, list[bytes]] = {}
    for dialect in order:
        start = len(turns(check(dialect, thread)))
        thread = answered(dialect, thread)
        body = check(dialect, thread)
        native[dialect] = turns(body)
        assert len(native[dialect]) > start
        # OpenAI's own Chat Completions takes no reasoning back
        assert dialect is CHAT or held(body, bound(thread, dialect)) != []
    for dialect, own in native.items():
        assert turns(check(dialect, thread))[: len(own)] == own
