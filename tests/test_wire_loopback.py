"""Recorded exchanges of OpenAI Chat, served from loopback, through the public API on all faces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import allm
from tests.loopback import Answer, Loopback
from tests.wire_support import DEVIATIONS, compare, records

RECORDS = records("openai.chat")
pytestmark = pytest.mark.skipif(not RECORDS, reason="the recordings are not beside the checkout")
BYTEWISE = 16 * 1024


def payload_of(record: dict[str, Any]) -> bytes:
    response = record["response"]
    text = "".join(response["sse"]) if "sse" in response else response["body"] or ""
    return bytes(text.encode())


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    def answer(path: str, body: bytes) -> Answer:
        record = RECORDS[int(path.split("/")[1])]
        response = record["response"]
        return response["status"], response["headers"], payload_of(record)

    with Loopback(answer) as server:
        yield server


def outcome(url: str, face: str, stream: bool, status: int) -> allm.Response | allm.ErrorInfo:
    engine = allm.Engine(
        "compatible:recorded", base_url=url, retry=False, adapter_options={"streaming": stream}
    )

    async def awaited() -> allm.Response:
        return await allm.aio.generate(engine, "Hi", api_key="k", raise_on_error=False)

    if face == "blocking":
        response = allm.generate(engine, "Hi", api_key="k", raise_on_error=False)
    else:
        response = asyncio.run(awaited()) if face == "asyncio" else trio.run(awaited)
    return response.error if status >= 400 and response.error is not None else response


@pytest.mark.parametrize("face", ["blocking", "asyncio", "trio"])
@pytest.mark.parametrize("pace", ["whole", "bytewise"])
@pytest.mark.parametrize("index", range(len(RECORDS)), ids=[record["id"] for record in RECORDS])
def test_recorded(loopback: Loopback, index: int, pace: str, face: str) -> None:
    record = RECORDS[index]
    if pace == "bytewise" and len(payload_of(record)) > BYTEWISE:
        pace = "whole"
    result = outcome(f"{loopback.url}/{index}/{pace}", face, record["stream"], record["response"]["status"])
    assert compare(record, result) == []


def test_deviations_are_few_and_real() -> None:
    known = {record["id"] for record in RECORDS}
    assert set(DEVIATIONS) <= known
    assert len(DEVIATIONS) <= len(RECORDS) / 100
