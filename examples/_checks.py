"""What a scripted server was asked by an example: nothing was lost between the call and the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import allm
from allm.testing.wire_requests import Asked

Turn = list[dict[str, Any]]


def check_requests(asked: Sequence[Asked], script: Sequence[Turn], engine: allm.Engine, model: str) -> None:
    """Raises `AssertionError`. `script[i]` is the turn that answered `asked[i]`."""
    requests: list[allm.Request] = [one.request for one in asked]
    for request, turn in zip(requests, script, strict=True):
        assert [tool.name for tool in request.tools] == [tool.name for tool in engine.tools]
        assert request.temperature == expected_temperature(engine, model)
        assert (request.response_format is not None) == is_json(turn), "JSON is asked for by a schema"
        check_tool_messages(request)
    for turn, later in zip(script, requests[1:], strict=False):
        assert called(turn) <= answered(later), f"{called(turn)} went back without a result"
    for one, other in pairwise(requests):
        shorter, longer = sorted((one.messages, other.messages), key=len)
        assert longer[: len(shorter)] == shorter, "what was said is said again, unchanged"


def check_tool_messages(request: allm.Request) -> None:
    names = {call.id: call.name for message in request.messages for call in message.tool_calls}
    assert names.keys() == answered(request), "each call has its result"
    for message in request.messages:
        if message.role == "tool" and names[message.tool_call_id or ""] == "weather":
            assert "sunny" in message.text, "what a tool gave reaches the model"


def expected_temperature(engine: allm.Engine, model: str) -> float | None:
    """That of the engine, where the model takes one. Without `reasoning` it thinks as it does by itself."""
    known = allm.capabilities_of(*model.split(":", 1))
    thinks = known.default_effort not in (None, "none")
    refused = known.sampling is False or (known.sampling == "without_reasoning" and thinks)
    return None if refused else engine.params["temperature"]


def called(turn: Turn) -> set[str]:
    return {entry["tool_call"]["id"] for entry in turn if "tool_call" in entry}


def answered(request: allm.Request) -> set[str | None]:
    return {message.tool_call_id for message in request.messages if message.role == "tool"}


def is_json(turn: Turn) -> bool:
    return any(text.startswith("{") for text in texts(turn))


def texts(turn: Turn) -> Iterable[str]:
    return ("".join(entry["text"]) for entry in turn if "text" in entry)
