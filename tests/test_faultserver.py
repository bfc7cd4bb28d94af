"""Every scenario of the groups `baseline` and `framing`, dialect OpenAI Chat, on all faces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import allm
from tests.fault_support import load, verdicts

server = load()
pytestmark = pytest.mark.skipif(server is None, reason="the fault server is not beside the checkout")
SCENARIOS = [] if server is None else [s for s in server.listing() if s["group"] in ("baseline", "framing")]
CASES = [
    (scenario, mode)
    for scenario in SCENARIOS
    for mode in ("stream", "plain")
    if scenario["modes"] in (mode, "both")
]


@pytest.fixture(scope="module")
def faults() -> Iterator[Any]:
    assert server is not None
    with server.FaultServer(certs=False) as running:
        yield running


def engine_for(faults: Any, scenario: dict[str, Any], mode: str, face: str) -> allm.Engine:
    base = faults.url(scenario["name"], f"{scenario['name']}-{mode}-{face}")
    endless = scenario["expect"] == "bounded"
    return allm.Engine(
        "openai:gpt-4.1-mini",
        base_url=f"{base}/v1",
        adapter_options={"streaming": mode == "stream"},
        tools=[weather] if scenario["kind"] == "tool" else [],
        retry=False,
        timeouts=allm.Timeouts(idle=1.0, request=2.0) if endless else allm.Timeouts(idle=20.0),
        limits=allm.Limits(event=1 << 20, body=1 << 22) if endless else allm.Limits(),
    )


@allm.tool(name="get_weather", manual=True)
def weather(city: str, days: int) -> str:
    """The weather."""
    return "sunny"


@pytest.mark.parametrize("face", ["blocking", "asyncio", "trio"])
@pytest.mark.parametrize(("scenario", "mode"), CASES, ids=[f"{s['name']}-{m}" for s, m in CASES])
def test_scenario(faults: Any, scenario: dict[str, Any], mode: str, face: str) -> None:
    engine = engine_for(faults, scenario, mode, face)

    async def awaited() -> allm.Response:
        return await allm.aio.generate(engine, "Hi", api_key="test-key")

    result: allm.Response | allm.AllmError
    try:
        if face == "blocking":
            result = allm.generate(engine, "Hi", api_key="test-key")
        else:
            result = asyncio.run(awaited()) if face == "asyncio" else trio.run(awaited)
    except allm.AllmError as error:
        result = error
    found = verdicts(server, scenario, result)
    assert found & set(scenario["expect"].split("|")), (scenario["expect"], found, result)
