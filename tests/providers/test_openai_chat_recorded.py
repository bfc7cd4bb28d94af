"""Every recorded Chat Completions exchange, in process: whole, byte by byte, and split."""

from __future__ import annotations

import pytest

from allm.data.events import MessageCompleted, StreamFailed
from allm.ports import WireAdapter
from allm.providers import COMPATIBLE, resolve
from tests.wire_support import Record, body_of, compare, decode, records, result_of, splits

RECORDS = records("openai.chat")
pytestmark = pytest.mark.skipif(not RECORDS, reason="the recorded exchanges are not here")


def adapter_of(record: Record) -> WireAdapter:
    provider = record["provider"]
    adapter: WireAdapter = resolve(provider if provider in COMPATIBLE else "openai")
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
