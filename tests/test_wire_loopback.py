"""Recorded exchanges of all dialects, served from loopback, through the public API on all faces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import allm
from tests.four_dialects import DIALECTS, Dialect
from tests.loopback import Answer, Loopback
from tests.wire_support import DEVIATIONS, Record, body_of, compare

FACES = ("blocking", "asyncio", "trio")
RECORDED: dict[str, tuple[Dialect, Record]] = {
    record["id"]: (dialect, record) for dialect in DIALECTS for record in dialect.records
}
pytestmark = pytest.mark.skipif(not RECORDED, reason="the recordings are not beside the checkout")
BYTEWISE = 16 * 1024


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    def answer(path: str, body: bytes) -> Answer:
        _, record = RECORDED[path.split("/")[1]]
        response = record["response"]
        return response["status"], response["headers"], body_of(record)

    with Loopback(answer) as server:
        yield server


def outcome(url: str, face: str, id: str) -> allm.Response | allm.ErrorInfo:
    dialect, record = RECORDED[id]
    options = {"streaming": record["stream"], "follow_pauses": False}  # each answer as it was recorded
    engine = dialect.engine(url, model="recorded", options=options, retry=False)

    async def awaited() -> allm.Response:
        return await allm.aio.generate(engine, "Hi", api_key="k", raise_on_error=False)

    if face == "blocking":
        response = allm.generate(engine, "Hi", api_key="k", raise_on_error=False)
    else:
        response = asyncio.run(awaited()) if face == "asyncio" else trio.run(awaited)
    refused = record["response"]["status"] >= 400
    return response.error if refused and response.error is not None else response


def cases() -> Iterator[Any]:
    for id, (_, record) in RECORDED.items():
        for face in FACES:
            yield pytest.param(id, "whole", face, id=f"{id}-whole-{face}")
            if len(body_of(record)) <= BYTEWISE:
                yield pytest.param(id, "bytewise", face, id=f"{id}-bytewise-{face}")


@pytest.mark.parametrize(("id", "pace", "face"), [*cases()])
def test_recorded(loopback: Loopback, id: str, pace: str, face: str) -> None:
    result = outcome(f"{loopback.url}/{id}/{pace}", face, id)
    assert compare(RECORDED[id][1], result) == []


def test_deviations_are_few_and_real() -> None:
    assert set(DEVIATIONS) <= set(RECORDED)
    assert len(DEVIATIONS) <= len(RECORDED) / 200
