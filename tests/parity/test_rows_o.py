"""Rows O of the parity table: the provider behaviour of Alloy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import allm
from allm import providers
from allm.data.events import Event
from allm.data.freeform import json_value
from allm.ext.store import MemoryStore
from allm.folds import unfold
from tests.faces import Face
from tests.test_loop import DONE, calls, double, fake


class Small:
    """A whole provider of one's own: it asks for `double` once, then says what came of it."""

    name = "small"

    def complete(self, request: allm.Request, ctx: Any) -> allm.Response:
        last = request.messages[-1]
        if last.role == "tool":
            return allm.Response(
                message=allm.assistant(f"It is {last.text}"),
                finish_reason="stop",
                usage=allm.Usage(input_tokens=2, output_tokens=1),
                metadata={"citations": ["here"]},
            )
        call = allm.ToolCall("c", "double", {"n": 21})
        return allm.Response(message=allm.assistant((call,)), finish_reason="tool_calls")


class Streaming(Small):
    def stream(self, request: allm.Request, ctx: Any) -> Iterator[Event]:
        yield from unfold(self.complete(request, ctx))


@pytest.mark.parametrize("provider", [Small, Streaming])
def test_f229_f234_a_small_provider_runs_in_the_loop(face: Face, provider: type[Small]) -> None:
    engine = allm.Engine(adapter=provider(), tools=[double])
    seen = face.events(engine, "Twice 21?")
    assert (seen.result.text, len(seen.result.steps)) == ("It is 42", 2)
    assert "".join([e.text for e in seen.events if isinstance(e, allm.TextDelta)]) == "It is 42"
    final = seen.result.final_response
    assert final.usage == allm.Usage(input_tokens=2, output_tokens=1)
    assert final.metadata == {"citations": ["here"]}
    assert face.chat(engine, "Twice 21?") == seen.result


def test_f232_calls_go_on_and_text_ends(face: Face) -> None:
    engine = fake([{"text": "x"}, {"finish": "stop"}], tools=[double])
    assert len(face.chat(engine, "go").steps) == 1
    assert len(face.chat(allm.Engine(adapter=Small(), tools=[double]), "go").steps) == 2


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {None: 1}}, {"a": [{("b",): 1}]}])
def test_f236_keys_that_are_no_strings_are_refused_at_every_depth(value: Any) -> None:
    with pytest.raises(allm.ValidationError, match="key_not_a_string"):
        json_value(value)


def test_f237_the_loop_knows_no_provider() -> None:
    """No loop imports a provider's module or asks for a provider's name."""
    names = {*providers._BUILT_IN, *providers.COMPATIBLE} - {"fake"}
    found = []
    for path in sorted((Path(allm.__file__).parent / "loops").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and names.intersection((node.module or "").split(".")):
                found.append(f"{path.name}: {node.module}")
            if isinstance(node, ast.Compare | ast.match_case):
                texts = [leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)]
                found += [f"{path.name}: {text!r}" for text in texts if text in names]
    assert found == []


def test_f245_events_are_plain_and_their_run_is_told_beside_them(face: Face) -> None:
    """The number of an event is its place; who asks gets the ids of request and session with each."""

    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[str, str, Any]] = []

        def event(self, event: Any, ctx: Any) -> None:
            self.lines.append((ctx.session_id, ctx.request_id, event))

    log = Log()
    engine = fake(calls(("c", "double", {"n": 1})), DONE, tools=[double], observers=[log])
    seen = face.events(engine, "go", session_id="s", request_id="r")
    assert log.lines == [("s", "r", event) for event in seen.events]
    stored = [allm.to_json(event) for event in seen.events]
    assert allm.fold([allm.from_json(line) for line in stored], seen.result.base) == seen.result


def test_f247_two_turns_of_one_session_at_once_are_noticed() -> None:
    """There is no agent that is busy: a turn is a call, and the second of two is told by the revision."""
    store = MemoryStore()
    before, _ = allm.sessions.start(fake(DONE), "hi", id="s")
    store.save(before)
    engine = fake(DONE, DONE)
    one = allm.sessions.reply(engine, store.load("s"), "first").session
    other = allm.sessions.reply(engine, store.load("s"), "second").session
    store.save(one, expected_revision=before.revision)
    with pytest.raises(allm.SessionError) as caught:
        store.save(other, expected_revision=before.revision)
    assert caught.value.info.code == "revision_conflict"
    assert store.load("s") == one
