"""Compaction: what goes, what stays, that calls keep their results, and what is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import allm
from allm.compaction import estimated_tokens, transcript
from allm.preparing import fingerprint
from tests.faces import Face
from tests.test_loop import DONE, HELLO, calls, double, fake, requests

Messages = tuple[allm.Message, ...]


def said(count: int, size: int = 40) -> Messages:
    """A conversation of `count` messages, each of some ten tokens."""
    make = (allm.user, allm.assistant)
    return tuple([make[i % 2](f"{i} ".ljust(size, "x")) for i in range(count)])


def counted(messages: Messages) -> str:
    return f"{len(messages)} messages"


def called(id: str) -> Messages:
    return (allm.assistant([allm.ToolCall(id, "double", {"n": 1})]), allm.tool_result(id, "2" * 40))


@pytest.mark.parametrize("kind", ["sync", "async", "engine"])
def test_old_messages_are_sent_as_a_summary(face: Face, kind: str) -> None:
    async def later(messages: Messages) -> str:
        return counted(messages)

    writer = fake([{"text": "7 messages"}])
    summarise: Any = {"sync": counted, "async": later, "engine": writer}[kind]
    compaction = allm.Compaction(100, keep=3, summarise=summarise)
    engine = fake(HELLO, middleware=[compaction])
    thread = allm.Thread((allm.system("Be brief."), *said(10)))
    seen = face.events(engine, thread, include_raw_chunks=True)
    head, summary, *kept = requests(engine)[0].messages
    assert (head, tuple(kept)) == (thread.messages[0], thread.messages[-3:])
    assert (summary.role, summary.text) == ("user", "Summary of the conversation so far:\n7 messages")
    assert seen.result.thread.messages[:-1] == thread.messages
    (told,) = [event.data for event in seen.events if isinstance(event, allm.RawChunk)]
    assert (told["type"], told["messages"], told["summary"]) == ("compaction", 7, True)
    assert told["tokens_before"] > 100 > told["tokens_after"]
    (warning,) = seen.result.final_response.warnings
    assert warning == "compaction: 7 old messages are sent as a summary"
    if kind == "engine":
        (asked,) = requests(writer)
        assert asked.messages == (allm.user(transcript(thread.messages[1:8])),)
        assert asked.system is not None


def test_what_is_short_enough_is_left_alone(face: Face) -> None:
    engine = fake(HELLO, middleware=[allm.Compaction(1000, keep=1, summarise=counted)])
    response = face.generate(engine, list(said(10)))
    assert (requests(engine)[0].messages, response.warnings) == (said(10), ())


def test_without_a_summariser_old_messages_are_left_out() -> None:
    short = allm.Compaction(100, keep=3).compact(said(10))
    assert [message.text for message in short] == ["[Earlier messages were left out.]"] + [
        message.text for message in said(10)[-3:]
    ]


def test_where_the_summary_fails_old_messages_are_left_out_and_it_is_said(face: Face) -> None:
    asked: list[int] = []

    def broken(messages: Messages) -> str:
        asked.append(len(messages))
        raise allm.OverloadedError("busy")

    compaction = allm.Compaction(100, keep=3, summarise=broken)
    engine = fake(HELLO, HELLO, middleware=[compaction])
    response = face.generate(engine, list(said(10)))
    assert requests(engine)[0].messages[0].text == "[Earlier messages were left out.]"
    assert response.warnings == ("compaction: 7 old messages were left out (the summary failed: overloaded)",)
    face.generate(engine, list(said(10)))
    assert asked == [7, 7], "a failure is not remembered"


def test_a_mistake_of_the_summariser_is_not_hidden(face: Face) -> None:
    engine = fake(HELLO, middleware=[allm.Compaction(100, keep=3, summarise=lambda messages: 1 / 0)])  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        face.generate(engine, list(said(10)))


def test_calls_keep_their_results() -> None:
    thread = (*said(8), *called("a"), *called("b"), allm.user("and?"))
    short = allm.Compaction(50, keep=2, summarise=counted).compact(thread)
    assert short[1:] == thread[-3:]
    short = allm.Compaction(50, keep=4, summarise=counted).compact(thread)
    assert short[1:] == thread[-5:]


def test_a_result_that_comes_late_holds_its_call_back() -> None:
    call, result = called("a")
    thread = (*said(6), call, *said(4), result, allm.user("and?"))
    short = allm.Compaction(50, keep=1, summarise=counted).compact(thread)
    assert short[1:] == thread[-1:]
    short = allm.Compaction(50, keep=3, summarise=counted).compact(thread)
    assert short[1:] == thread[6:]


def test_in_a_chat_tools_and_compaction_go_together(face: Face) -> None:
    scripts = [calls((f"c{i}", "double", {"n": i})) for i in range(5)]
    engine = fake(*scripts, DONE, tools=[double], middleware=[allm.Compaction(30, keep=3, summarise=counted)])
    result = face.chat(engine, "go")
    assert result.text == "Done"
    assert len(result.thread.messages) == 12
    for request in requests(engine):
        open_calls: set[str] = set()
        for message in request.messages:
            open_calls |= {call.id for call in message.tool_calls}
            if message.role == "tool":
                open_calls.remove(message.tool_call_id or "")
        assert open_calls == set()
    assert requests(engine)[-1].messages[0].metadata["compaction"]["summary"] is True


def test_a_summary_is_reused_until_it_is_too_long_again() -> None:
    asked: list[int] = []

    def summarise(messages: Messages) -> str:
        asked.append(len(messages))
        return "short"

    compaction = allm.Compaction(120, keep=2, summarise=summarise)
    thread = said(30)
    lengths = [len(compaction.compact(thread[:count])) for count in range(10, 20)]
    assert len(asked) < 4
    assert asked[0] == 8
    assert max(lengths) < 10
    before = len(asked)
    compaction.compact(thread[:19])
    assert len(asked) == before


def test_compaction_is_idempotent() -> None:
    compaction = allm.Compaction(100, keep=3, summarise=counted)
    once = compaction.compact(said(10))
    assert compaction.compact(once) == once
    assert allm.Compaction(1, keep=3, summarise=counted).compact(once) == once
    stored = allm.from_json(allm.to_json(allm.Thread(once)), allm.Thread)
    assert allm.Compaction(100, keep=3, summarise=counted).compact(stored.messages) == once


def test_a_stored_summary_is_summarised_with_what_follows() -> None:
    compaction = allm.Compaction(100, keep=3, summarise=counted)
    once = compaction.compact(said(10))
    again = compaction.compact((*once, *said(10)))
    assert again[0].metadata["compaction"]["messages"] == 17
    assert again[0].text.endswith("11 messages")


def test_too_long_for_the_provider_is_compacted_and_asked_once_more(face: Face) -> None:
    too_long = [{"error": "context_length_exceeded"}]
    compaction = allm.Compaction(10_000, keep=2, summarise=counted)
    engine = fake(too_long, HELLO, too_long, too_long, middleware=[compaction])
    assert face.generate(engine, list(said(6))).text == "Hello"
    assert [len(request.messages) for request in requests(engine)] == [6, 3]
    with pytest.raises(allm.ContextLengthError):
        face.generate(engine, list(said(6)))
    assert len(requests(engine)) == 4


def test_other_failures_are_none_of_its_business(face: Face) -> None:
    engine = fake([{"error": "invalid_request"}], middleware=[allm.Compaction(10_000, keep=2)])
    with pytest.raises(allm.InvalidRequestError):
        face.generate(engine, list(said(6)))
    assert len(requests(engine)) == 1


def test_bound_thinking_is_dropped_by_preparing() -> None:
    origin = allm.Origin("anthropic", "messages", "m", fingerprint(said(9)))
    thought = allm.ReasoningPart("Hm", signature="s", origin=origin)
    thread = (*said(9), allm.assistant([thought, allm.TextPart("So it is")]), allm.user("and?"))
    target = allm.Target("anthropic", "messages", "m")
    kept, report = allm.prepare(thread, target)
    assert thought in kept[9].parts
    assert report.lossless
    short, report = allm.prepare(allm.Compaction(50, keep=2, summarise=counted).compact(thread), target)
    assert short[1].text == "So it is"
    assert thought not in short[1].parts
    assert not report.lossless


MEDIA = [
    (allm.ImagePart(image=allm.Image.from_url("https://example.com/a.png")), 1000),
    (allm.AudioPart(data=b"x" * 9000), 500),
    (allm.FilePart(data=b"x" * 90_000, mime_type="application/pdf"), 3000),
    (allm.TextPart("x" * 400), 100),
    (allm.ReasoningPart("x" * 400), 100),
    (allm.ToolCall("a", "abcd", {}, "x" * 36), 10),
]


@pytest.mark.parametrize(("part", "tokens"), MEDIA)
def test_media_have_fixed_sizes(part: Any, tokens: int) -> None:
    assert estimated_tokens([allm.Message("user", (part,))]) == 4 + tokens
    assert estimated_tokens([]) == 0


def test_a_transcript_is_plain_text_without_thinking() -> None:
    thread = (
        allm.user("Hi"),
        allm.assistant([allm.ReasoningPart("Hm"), allm.ToolCall("a", "double", {"n": 1}, '{"n":1}')]),
        allm.tool_result("a", "y" * 5000),
    )
    first, call, result = transcript(thread).split("\n\n")
    assert (first, call) == ("user: Hi", 'call: double({"n":1})')
    assert result == f"result: {'y' * 2000}... (5000 characters)"


@given(st.lists(st.sampled_from(["text", "pair", "late"]), max_size=12), st.integers(1, 5))
def test_no_call_is_ever_parted_from_its_result(kinds: list[str], keep: int) -> None:
    thread: list[allm.Message] = []
    late: list[allm.Message] = []
    for index, kind in enumerate(kinds):
        if kind == "text":
            thread += [*late, allm.user("x" * 40)]
            late = []
        else:
            call, result = called(f"c{index // 3}")  # ids come again
            thread.append(call)
            (thread if kind == "pair" else late).append(result)
    thread += late
    short = allm.Compaction(1, keep=keep, summarise=counted).compact(thread)
    calls_, results = [[id for m in short for id in ids(m)] for ids in (_called, _answered)]
    assert sorted(calls_) == sorted(results)
    assert tuple(short[-keep:]) == tuple(thread[-keep:])


def _called(message: allm.Message) -> list[str]:
    return [call.id for call in message.tool_calls]


def _answered(message: allm.Message) -> list[str]:
    return [message.tool_call_id or ""] if message.role == "tool" else []


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_tokens": 5, "keep": 0}, {"max_tokens": True}])
def test_sizes_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(allm.ValidationError, match="must_be_a_positive_integer"):
        allm.Compaction(**wrong)


def test_the_summariser_is_checked() -> None:
    with pytest.raises(allm.ConfigurationError, match="summarise"):
        allm.Compaction(5, summarise=5)  # type: ignore[arg-type]


def test_compact_takes_a_blocking_summariser() -> None:
    async def later(messages: Messages) -> str:
        return "never"

    with pytest.raises(allm.ConfigurationError, match="blocking"):
        allm.Compaction(5, keep=1, summarise=later).compact(said(4))
