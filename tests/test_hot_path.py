"""The short way that most payloads of a stream take: it says what the long one says, and events that came in
one read are still given one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from sys import getrefcount
from typing import Any

import msgspec
import pytest

import allm
from allm.data.events import Event, StreamFailed, TextDelta
from allm.errors import CancelledError
from allm.ports import HttpHead, HttpRequest
from allm.providers.decoding import Turn
from allm.testing.played import Answer, Played
from tests.decoder_support import events_of
from tests.faces import Face, Seen
from tests.four_dialects import CHAT, DIALECTS, GENERATE, Dialect
from tests.wire_support import Record, body_of, head_of

# What every chunk of Chat Completions repeats is read in the first and the last ones only.
REPEATED = ("service_tier", "system_fingerprint")


def read(dialect: Dialect, record: Record) -> list[Event]:
    decoder = dialect.adapter.decoder(allm.Request(), head_of(record), dialect.context())
    return events_of(decoder, [body_of(record)])


def turn_of(dialect: Dialect) -> Any:
    request = allm.Request(model=dialect.model)
    decoder: Any = dialect.adapter.decoder(request, HttpHead(200), dialect.context())
    return type(decoder._turn)


def slowly(dialect: Dialect, record: Record) -> list[Event]:
    """What a recording says without the short way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn_of(dialect), "grow", Turn.grow)
        return read(dialect, record)


def streams(dialect: Dialect) -> list[Record]:
    found = [record for record in dialect.records if "sse" in record["response"]]
    if not found:
        pytest.skip("the recorded exchanges are not here")
    return found


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_both_ways_say_the_same(dialect: Dialect) -> None:
    for record in streams(dialect):
        assert read(dialect, record) == slowly(dialect, record), record["id"]


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)


def payloads(record: Record) -> list[tuple[str, str]]:
    """The blocks of a recording as what is before its JSON, and the JSON."""
    blocks = "".join(record["response"]["sse"]).replace("\r\n", "\n").split("\n\n")
    return [(head + mark, data) for head, mark, data in (block.partition("data: ") for block in blocks)]


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_both_ways_say_the_same_of_pieces_that_say_more(dialect: Dialect) -> None:
    """A payload of each recording gets a field, or a value, that stands in some other payload. A field of a
    wrong type that a piece has no use for is not looked at, so there the short way may go on."""
    random = Random(1)
    found: list[tuple[str, Any]] = []
    for record in streams(dialect):
        for _, data in payloads(record)[:20]:
            try:
                pairs = [pair for item in objects(json.loads(data)) for pair in item.items()]
            except ValueError:
                continue
            found += [pair for pair in random.sample(pairs, min(4, len(pairs))) if pair[0] not in REPEATED]
    for record in streams(dialect):
        for _ in range(6):
            blocks = payloads(record)
            at = random.randrange(len(blocks))
            try:
                value = json.loads(blocks[at][1])
            except ValueError:
                continue
            name, given = random.choice(found)
            random.choice([*objects(value), {}])[name] = given
            blocks[at] = (blocks[at][0], json.dumps(value))
            text = "\n\n".join([head + data for head, data in blocks])
            changed = {**record, "response": {**record["response"], "sse": [text]}}
            expected = slowly(dialect, changed)
            malformed = (
                type(expected[-1]) is StreamFailed and expected[-1].error.reason == "malformed_response"
            )
            if not malformed:
                assert read(dialect, changed) == expected, (record["id"], at, name, given)


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_nearly_all_pieces_of_text_take_the_short_way(dialect: Dialect) -> None:
    slow = 0
    plain = turn_of(dialect).read

    def counted(self: Any, name: str | None, data: bytes) -> list[Event]:
        nonlocal slow
        slow += 1
        events: list[Event] = plain(self, name, data)
        return events

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn_of(dialect), "read", counted)
        events = Face().events(engine(dialect, 200), "hi").events
    assert sum(type(event) is TextDelta for event in events) == 200
    assert slow < 12


# Events that came in one read


class OneRead:
    """A transport of both faces that answers with one body, given in one read."""

    keyless = True

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.awaited = Awaited(self)

    def open(self, *_: Any, **__: Any) -> OneRead.Body:
        return OneRead.Body(self.body)

    def close(self) -> None: ...

    class Body:
        head = HttpHead(200, {"content-type": "text/event-stream"})

        def __init__(self, body: bytes) -> None:
            self.left = [body]

        def read(self, timeout: float | None) -> bytes:
            return self.left.pop() if self.left else b""

        def close(self) -> None: ...
        def cancel(self) -> None: ...


class Awaited:
    def __init__(self, transport: OneRead) -> None:
        self.transport = transport

    async def open(self, *_: Any) -> Awaited.Body:
        return Awaited.Body(self.transport.body)

    async def aclose(self) -> None: ...

    class Body(OneRead.Body):
        async def read(self, timeout: float | None) -> bytes:  # type: ignore[override]
            return super().read(timeout)

        async def aclose(self) -> None: ...


def body(dialect: Dialect, count: int) -> bytes:
    """An answer of `count` pieces of text, as the provider of the dialect sends it."""
    texts = [f" {number}" for number in range(count)]
    blocks: list[tuple[str, dict[str, Any]]] = []
    if dialect.name == "chat":
        head = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "service_tier": "default"}
        deltas: list[tuple[dict[str, Any], str | None]] = [({"content": text}, None) for text in texts]
        for brought, finish in [({"role": "assistant", "content": ""}, None), *deltas, ({}, "stop")]:
            choice = {"index": 0, "delta": brought, "logprobs": None, "finish_reason": finish}
            blocks.append(("", {**head, "choices": [choice], "usage": None}))
        return b"".join(map(written, blocks)) + b"data: [DONE]\n\n"
    if dialect.name == "generate":
        for text in texts:
            said = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
            counts = {"promptTokenCount": 1, "totalTokenCount": 2}
            blocks.append(("", {"candidates": [said], "usageMetadata": counts, "modelVersion": "m"}))
        blocks[-1][1]["candidates"][0]["finishReason"] = "STOP"
        return b"".join(map(written, blocks)).replace(b"\n", b"\r\n")
    if dialect.name == "messages":
        start = {"id": "m1", "model": "m", "role": "assistant", "content": []}
        blocks = [("message_start", {"message": start})]
        blocks.append(("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}))
        for text in texts:
            delta = {"type": "text_delta", "text": text}
            blocks.append(("content_block_delta", {"index": 0, "delta": delta}))
        blocks.append(("content_block_stop", {"index": 0}))
        blocks += [("message_delta", {"delta": {"stop_reason": "end_turn"}}), ("message_stop", {})]
    else:
        item = {"type": "message", "id": "msg_1", "role": "assistant"}
        done = {**item, "content": [{"type": "output_text", "text": "".join(texts)}]}
        blocks = [("response.created", {"response": {"id": "r1", "model": "m", "status": "in_progress"}})]
        blocks.append(("response.output_item.added", {"output_index": 0, "item": {**item, "content": []}}))
        for text in texts:
            place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
            blocks.append(("response.output_text.delta", {**place, "delta": text}))
        blocks.append(("response.output_item.done", {"output_index": 0, "item": done}))
        ended = {"id": "r1", "status": "completed", "output": [done]}
        blocks.append(("response.completed", {"response": ended}))
    return b"".join([written((kind, {"type": kind, **data})) for kind, data in blocks])


def written(block: tuple[str, dict[str, Any]]) -> bytes:
    kind, data = block
    return (f"event: {kind}\n" if kind else "").encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"


def engine(dialect: Dialect, count: int) -> allm.Engine:
    name = f"{dialect.provider}:{dialect.model}"
    options = {"endpoint": dialect.name} if dialect.provider == "openai" else {}
    return allm.Engine(name, adapter_options=options, transport=OneRead(body(dialect, count)))


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
@pytest.mark.parametrize("taken", range(1, 12))
def test_what_was_not_taken_is_not_in_the_fold(face: Face, dialect: Dialect, taken: int) -> None:
    seen: list[Event] = []

    def until(_: Any, event: Event) -> bool:
        seen.append(event)
        return len(seen) == taken

    stream = face.consume(engine(dialect, 20), "hi", body=until)
    with pytest.raises(CancelledError) as caught:
        face.result(stream)
    assert caught.value.partial.steps[-1].response.text == said(seen)


@pytest.mark.parametrize("filters", [{}, {"include_raw_chunks": True}, {"on_event": lambda _: None}])
def test_cancel_between_events_of_one_read(face: Face, filters: dict[str, Any]) -> None:
    seen: list[Event] = []

    def cancel(stream: Any, event: Event) -> None:
        seen.append(event)
        if len(seen) == 5:
            stream.cancel()

    with pytest.raises(CancelledError) as caught:
        face.consume(engine(CHAT, 20), "hi", body=cancel, **filters)
    assert len(seen) == 5
    assert caught.value.partial.steps[-1].response.text == said(seen) == " 0 1 2 3"


def test_on_event_sees_an_event_when_it_is_taken(face: Face) -> None:
    told: list[Event] = []
    taken: list[Event] = []

    def take(_: Any, event: Event) -> None:
        taken.append(event)
        assert told == taken

    face.consume(engine(CHAT, 20), "hi", body=take, on_event=told.append, include_raw_chunks=True)
    assert said(taken) == "".join(f" {number}" for number in range(20))


def test_on_event_that_raises_in_the_middle_of_a_read(face: Face) -> None:
    told: list[Event] = []

    def raises(event: Event) -> None:
        told.append(event)
        if len(told) == 5:
            raise KeyError("mine")

    seen: Seen = Seen([])
    with pytest.raises(KeyError, match="mine"):
        face.consume(engine(CHAT, 20), "hi", body=lambda _, e: seen.events.append(e), on_event=raises)
    assert seen.events == told[:4]


def test_filters_in_one_read(face: Face) -> None:
    seen = face.events(engine(CHAT, 20), "hi", emit_text_deltas=False)
    assert seen.kinds == ["message_started", "text_completed", "message_completed", *ENDS]
    assert seen.result.text == said(face.events(engine(CHAT, 20), "hi").events)


ENDS = ["step_completed", "chat_completed"]


def said(events: list[Event]) -> str:
    return "".join([event.text for event in events if type(event) is TextDelta])


def test_damaged_usage_of_a_piece_is_left_out() -> None:
    whole = body(GENERATE, 5)
    counts = b'"usageMetadata":{"promptTokenCount":1,"totalTokenCount":2}'
    blocks = whole.split(b"\r\n\r\n")
    blocks[3] = blocks[3].replace(counts, b'"usageMetadata":{"promptTokenCount":9,"note":"\xb4"}')
    blocks[4] = blocks[4].replace(b"," + counts, b"")
    decoder = GENERATE.adapter.decoder(allm.Request(), HttpHead(200), GENERATE.context())
    events = [*decoder.feed(b"\r\n\r\n".join(blocks)), *decoder.end()]
    assert said(events) == " 0 1 2 3 4"
    assert [event.usage.input_tokens for event in events if type(event) is allm.UsageReported] == [1]


def test_a_body_is_let_go_when_its_answer_has_begun(face: Face) -> None:
    """A long conversation would be held twice, once as what was sent, for as long as its answer lasts."""
    sent: list[bytes] = []

    def answer(request: HttpRequest) -> Answer:
        sent.append(request.body)
        return Answer(HttpHead(200, {"content-type": "text/event-stream"}), (body(CHAT, 20),))

    counts: list[int] = []
    model = allm.Engine("openai:m", adapter_options={"endpoint": "chat"}, transport=Played(answer))
    face.consume(model, "x" * 5000, body=lambda *_: counts.append(getrefcount(sent[0])), api_key="k")
    assert len(counts) > 20
    assert set(counts) == {2}  # in the list above, and as the argument
