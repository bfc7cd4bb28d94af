"""What a server can do wrong with calls of tools, in all four dialects, on all faces: the handler runs for
whole calls with arguments that fit, as often as it should, and all else is told to the model or raised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import allm
from tests.faces import Face
from tests.fault_support import cases, load
from tests.four_dialects import Dialect

server = load()
pytestmark = pytest.mark.skipif(server is None, reason="the fault server is not beside the checkout")
TURNS = 4


class Outcome(NamedTuple):
    """How a chat ended, how often its handler ran, and what the model was told (text, whether an error)."""

    reason: str
    ran: int
    told: list[tuple[str, bool]]

    @property
    def refused(self) -> bool:
        """The model was told that its call failed; or the answer that held it could not be read."""
        told = self.reason == "completed" and bool(self.told) and all(error for _, error in self.told)
        return self.ran == 0 and (told or self.reason == "malformed_response")

    @property
    def called(self) -> bool:
        """Each call ran, once, and its result went back."""
        return self.reason == "completed" and self.ran > 0 and self.told == [("sunny", False)] * self.ran

    def words(self) -> set[str]:
        """The words of the server's list that hold."""
        return {
            word
            for word, holds in {
                "error:tool": self.refused,
                "error:decode": self.refused,
                "same": self.called,
                "same-ish": self.called,
                "error:limit": self.reason == "limit_exceeded" and self.ran == 0,
                "error:truncated": self.reason == "stream_interrupted",
                "bounded": self.reason == "max_turns" and self.ran == TURNS,
            }.items()
            if holds
        }


OURS = {
    "tool_args_empty": "error:tool",  # no arguments, where the tool requires two
    "tool_dup_ids": "error:tool|same",  # calls get ids that are unique in their thread, and run
}
"""Where the list leaves it to the tool, or to us."""


@pytest.fixture(scope="module")
def faults() -> Iterator[Any]:
    assert server is not None
    with server.FaultServer(certs=False) as running:
        yield running


@pytest.mark.parametrize(("dialect", "scenario", "mode"), cases("tools"))
def test_scenario(face: Face, faults: Any, dialect: Dialect, scenario: dict[str, Any], mode: str) -> None:
    name = scenario["name"]
    ran: list[str] = []

    @allm.tool(name="get_weather")
    def weather(city: str, days: int) -> str:
        """The weather."""
        ran.append(city)
        return "sunny"

    engine = dialect.engine(
        faults.url(name, f"{name}-{dialect.name}-{mode}-{face}"),
        options={"streaming": mode == "stream"},
        tools=[weather],
        retry=False,
    )
    outcome = chatted(face, engine, ran)
    if name == "tool_trunc_length":  # an answer that was cut short is the end; nothing of it runs
        whole = outcome.reason == "completed" and not outcome.told
        assert outcome.ran == 0
        assert whole or outcome.refused, outcome
        return
    expected = set(OURS.get(name, scenario["expect"]).split("|"))
    assert outcome.words() & expected, (expected, outcome)
    if name == "tool_then_cut":
        assert outcome.ran == 1


def chatted(face: Face, engine: allm.Engine, ran: list[str]) -> Outcome:
    try:
        result = face.chat(engine, "Hi", api_key="test-key", max_turns=TURNS)
    except allm.AllmError as error:
        return Outcome(error.info.reason, len(ran), [])
    told = [(message.text, message.is_error) for step in result.steps for message in step.tool_results]
    ids = [call.id for step in result.steps for call in step.response.tool_calls]
    assert len(set(ids)) == len(ids), "ids are unique in a thread"
    return Outcome(str(result.halted_reason), len(ran), told)
