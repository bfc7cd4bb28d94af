"""Every recorded exchange of the four dialects, in process: whole, byte by byte, split, one ending."""

from __future__ import annotations

import pytest

from allm.data.events import MessageCompleted, StreamFailed
from tests.four_dialects import DIALECTS, recorded_adapter
from tests.wire_support import Record, body_of, compare, decode, result_of, splits

CASES = [
    pytest.param(record, id=f"{dialect.name}-{record['id']}")
    for dialect in DIALECTS
    for record in dialect.records
]
pytestmark = [
    pytest.mark.skipif(not CASES, reason="the recorded exchanges are not here"),
    pytest.mark.parametrize("record", CASES),
]


def test_whole(record: Record) -> None:
    assert compare(record, result_of(recorded_adapter(record), record, [body_of(record)])) == []


def test_byte_by_byte(record: Record) -> None:
    body = body_of(record)
    adapter = recorded_adapter(record)
    pieces = [body[at : at + 1] for at in range(len(body))]
    assert decode(adapter, record, pieces) == decode(adapter, record, [body])


def test_splits(record: Record) -> None:
    body = body_of(record)
    adapter = recorded_adapter(record)
    expected = decode(adapter, record, [body])
    for pieces in splits(body):
        assert decode(adapter, record, pieces) == expected


def test_one_ending(record: Record) -> None:
    events = decode(recorded_adapter(record), record, [body_of(record)])
    ends = [event for event in events if isinstance(event, MessageCompleted | StreamFailed)]
    assert ends == events[-1:]
