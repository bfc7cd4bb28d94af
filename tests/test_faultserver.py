"""What a server can do wrong, in all four dialects, on all faces and over all transports: answers, framing,
types, statuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import allm
from tests.faces import WAYS, Way
from tests.fault_support import cases, expectation, load, verdicts
from tests.four_dialects import Dialect

server = load()
pytestmark = pytest.mark.skipif(server is None, reason="the fault server is not beside the checkout")
GROUPS = ("baseline", "framing", "types", "status")
# Patience for what never ends or stalls: less than for what only comes slowly.
SHORT = allm.Timeouts(idle=0.4, request=0.6)
SMALL = allm.Limits(event=1 << 20, body=1 << 22)


@pytest.fixture(scope="module")
def faults() -> Iterator[Any]:
    assert server is not None
    with server.FaultServer(certs=False) as running:
        yield running


def engine_for(faults: Any, dialect: Dialect, scenario: dict[str, Any], mode: str, way: Way) -> allm.Engine:
    run = f"{scenario['name']}-{dialect.name}-{mode}-{way}"
    endless = scenario["expect"] == "bounded" or scenario["name"] == "s500_stall_body"
    return dialect.engine(
        faults.url(scenario["name"], run),
        options={"streaming": mode == "stream"},
        tools=[weather] if scenario["kind"] == "tool" else [],
        retry=False,
        timeouts=SHORT if endless else allm.Timeouts(idle=20.0),
        limits=SMALL if endless else allm.Limits(),
        transport=way.transport,
    )


@allm.tool(name="get_weather", manual=True)
def weather(city: str, days: int) -> str:
    """The weather."""
    return "sunny"


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("dialect", "scenario", "mode"), cases(*GROUPS))
def test_scenario(faults: Any, dialect: Dialect, scenario: dict[str, Any], mode: str, way: Way) -> None:
    engine = engine_for(faults, dialect, scenario, mode, way)
    result: allm.Response | allm.AllmError
    try:
        result = way.face.generate(engine, "Hi", api_key="test-key")
    except allm.AllmError as error:
        result = error
    found, expected = verdicts(server, dialect.name, scenario, result), expectation(scenario)
    assert found & expected, (expected, found, result)
