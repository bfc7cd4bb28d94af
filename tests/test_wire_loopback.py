"""Recorded exchanges of all dialects, served from loopback, through the public API on all faces; a sample of
them over the other transports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import allm
from tests.faces import WAYS, Way
from tests.four_dialects import DIALECTS, Dialect
from tests.loopback import Answer, Loopback
from tests.wire_support import DEVIATIONS, Record, body_of, compare

RECORDED: dict[str, tuple[Dialect, Record]] = {
    record["id"]: (dialect, record) for dialect in DIALECTS for record in dialect.records
}
pytestmark = pytest.mark.skipif(not RECORDED, reason="the recordings are not beside the checkout")
BYTEWISE = 16 * 1024
SAMPLE = 10  # every tenth recording over what is not the default


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    def answer(path: str, body: bytes) -> Answer:
        _, record = RECORDED[path.split("/")[1]]
        response = record["response"]
        return response["status"], response["headers"], body_of(record)

    with Loopback(answer) as server:
        yield server


def outcome(url: str, way: Way, id: str) -> allm.Response | allm.ErrorInfo:
    dialect, record = RECORDED[id]
    options = {"streaming": record["stream"], "follow_pauses": False}  # each answer as it was recorded
    engine = dialect.engine(url, model="recorded", options=options, retry=False, transport=way.transport)
    response = way.face.generate(engine, "Hi", api_key="k", raise_on_error=False)
    refused = record["response"]["status"] >= 400
    return response.error if refused and response.error is not None else response


def cases() -> Iterator[Any]:
    for number, (id, (_, record)) in enumerate(RECORDED.items()):
        for way in WAYS:
            if way.transport != "httpx2" and number % SAMPLE:
                continue
            yield pytest.param(id, "whole", way, id=f"{id}-whole-{way}")
            if len(body_of(record)) <= BYTEWISE:
                yield pytest.param(id, "bytewise", way, id=f"{id}-bytewise-{way}")


@pytest.mark.parametrize(("id", "pace", "way"), [*cases()])
def test_recorded(loopback: Loopback, id: str, pace: str, way: Way) -> None:
    result = outcome(f"{loopback.url}/{id}/{pace}", way, id)
    assert compare(RECORDED[id][1], result) == []


def test_deviations_are_few_and_real() -> None:
    assert set(DEVIATIONS) <= set(RECORDED)
    assert len(DEVIATIONS) <= len(RECORDED) / 200
