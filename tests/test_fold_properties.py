"""Folding is the library's arithmetic: a stream folds to the blocking result, and no prefix breaks it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import allm
from allm import folds
from allm.data.events import Event
from allm.folds import RunFold, unfold
from tests import strategies as made
from tests.test_loop import Script, double, fake

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
pieces = texts | st.lists(texts, min_size=1, max_size=4)
counts = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("input_tokens", "output_tokens"), st.integers(0, 99))
)
entries = st.one_of(
    st.fixed_dictionaries({"text": pieces}),
    st.fixed_dictionaries({"reasoning": pieces}),
    st.fixed_dictionaries({"usage": counts}),
    st.fixed_dictionaries({"raw_chunk": made.json_values}),
)
arguments = st.fixed_dictionaries({"n": st.integers(-9, 9)}) | st.dictionaries(
    texts, st.integers(), max_size=2
)
named = st.sampled_from(["double", "unknown"])
ends = st.sampled_from(
    [{"finish": "stop"}, {"finish": "length"}, {"finish": "tool_calls"}, {"error": "overloaded"}]
)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """One turn: parts in any order, some calls with ids of their own, an end or none."""
    script: Script = draw(st.lists(entries, max_size=4))
    for position in range(draw(st.integers(0, 2))):
        call = {"id": f"c{position}", "name": draw(named)}
        if draw(st.booleans()):
            script.append({"tool_call": {**call, "arguments": draw(arguments)}})
        else:
            script += [
                {"tool_call_delta": {**call, "text": piece}} for piece in draw(st.lists(texts, min_size=1))
            ]
        script += draw(st.lists(entries, max_size=1))
    return script + draw(st.lists(ends, max_size=1))


turns = st.lists(scripts(), min_size=1, max_size=3)
LAYERS = {"stream_generate": "response", "stream_step": "step", "stream": "chat"}


def _run(verb: str, scripts: list[Script]) -> tuple[list[Event], Any, Any]:
    """Events, result, and the thread it began with; tools take no time here, so runs can be compared."""
    engine = fake(*scripts, tools=[double], retry=False)
    events: list[Event] = []
    options: dict[str, Any] = {"raise_on_error": False, "on_event": events.append, "session_id": "s"}
    stream = getattr(allm, verb)(engine, "hi", max_concurrency=1, **options)
    return events, stream.result(), allm.Thread((allm.user("hi"),))


@given(turns)
@settings(max_examples=150, deadline=None)
def test_the_fold_of_a_stream_is_the_blocking_result(scripts: list[Script]) -> None:
    for verb, layer in LAYERS.items():
        events, result, base = _run(verb, scripts)
        blocking = getattr(allm, {"stream": "chat"}.get(verb, verb.removeprefix("stream_")))
        assert result == blocking(fake(*scripts, tools=[double], retry=False), "hi", raise_on_error=False)
        state = RunFold(layer, base)  # type: ignore[arg-type]
        for event in events:
            state.add(event)
        assert state.result() == result
        if not isinstance(events[-1], allm.StreamFailed):
            assert allm.fold(events) == events[-1].result if layer != "response" else result  # type: ignore[union-attr]


@given(turns)
@settings(max_examples=100, deadline=None)
def test_exactly_one_terminal_event_and_nothing_after_it(scripts: list[Script]) -> None:
    ends = (allm.MessageCompleted, allm.StepCompleted, allm.ChatCompleted)
    for verb, end in zip(LAYERS, ends, strict=True):
        events, _, _ = _run(verb, scripts)
        assert isinstance(events[-1], end | allm.StreamFailed)
        assert sum(isinstance(event, allm.StreamFailed | end) for event in events) == 1


@given(turns)
@settings(max_examples=100, deadline=None)
def test_every_prefix_folds(scripts: list[Script]) -> None:
    events, result, base = _run("stream", scripts)
    fold = allm.ChatFold(base)
    seen = ""
    for event in events[:-1]:
        fold.add(event)
        part = fold.result()
        assert part.halted_reason == "cancelled"
        assert part.base == base
        if isinstance(event, allm.TextDelta):
            seen = event.text
            assert part.text.endswith(seen)
    fold.add(events[-1])
    assert fold.result() == result
    for size in range(len(events)):
        allm.fold(events[:size])


@given(turns)
@settings(max_examples=50, deadline=None)
def test_a_failure_anywhere_keeps_what_the_tools_answered(scripts: list[Script]) -> None:
    events, _, base = _run("stream", scripts)
    failure = allm.ErrorInfo(reason="timeout")
    before: list[allm.Message] = []
    answered: dict[str | None, allm.Message] = {}  # of the open step
    for size, event in enumerate(events[:-1]):
        if isinstance(event, allm.ToolResultEncoded):
            answered[event.message.tool_call_id] = event.message
        elif isinstance(event, allm.ToolExecutionCompleted):
            assert event.result is not None
            answered[event.id] = event.result.message
        elif isinstance(event, allm.StepCompleted):
            before, answered = [*before, *answered.values()], {}
        fold = allm.ChatFold(base)
        for earlier in (*events[: size + 1], allm.StreamFailed(failure)):
            fold.add(earlier)
        result = fold.result()
        assert (result.halted_reason, result.error) == ("error", failure)
        assert [message for message in result.thread.messages if message.role == "tool"] == [
            *before,
            *answered.values(),
        ]


@given(turns)
@settings(max_examples=50, deadline=None)
def test_events_fold_in_another_process(scripts: list[Script]) -> None:
    events, _, base = _run("stream", scripts)
    loaded = [allm.from_json(allm.to_json(event)) for event in events]
    assert loaded == events
    assert allm.fold(loaded, base) == allm.fold(events, base)


@given(st.lists(made.any_event, max_size=8))
@settings(deadline=None)
def test_folding_anything_never_raises(events: list[Event]) -> None:
    allm.fold(events)
    for layer in ("response", "step", "chat"):
        state = RunFold(layer)
        for event in events:
            state.add(event)
            state.result()


@given(made.chat_responses.filter(lambda response: response.message.role == "assistant"))
@settings(deadline=None)
def test_unfold_then_fold_is_the_response(response: allm.Response) -> None:
    assert allm.fold(unfold(response)) == response


@given(turns)
@settings(max_examples=100, deadline=None)
def test_unfold_brings_the_message_without_its_response(scripts: list[Script]) -> None:
    """What an adapter that answers whole gives is folded from its parts as well."""
    _, response, _ = _run("stream_generate", scripts)
    state = folds.ResponseFold()
    for event in unfold(response)[:-1]:
        state.add(event)
    assert state.message == response.message
    assert state.response.usage == response.usage


def test_an_empty_tuple_of_parts_stays_one() -> None:
    response = allm.Response(message=allm.Message("assistant", ()))
    assert folds.fold(unfold(response)) == response
