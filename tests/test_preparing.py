"""One thread, many providers: what `prepare` keeps, leaves out and mends, by example and by property."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from allm.data.codec import from_json, to_json
from allm.data.content import (
    AudioPart,
    FilePart,
    Image,
    ImagePart,
    OpaquePart,
    Origin,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from allm.data.messages import Message, Thread, assistant, system, tool_result, user
from allm.data.requests import ModelRef, ToolSpec
from allm.errors import ConfigurationError, ValidationError
from allm.preparing import (
    UNSIGNED_CALL,
    Report,
    Target,
    fingerprint,
    fingerprints,
    pairing,
    prepare,
    same_model,
)

ANTHROPIC = Target("anthropic", "messages", "claude-sonnet-5-5")
OPENAI = Target("openai", "responses", "gpt-6-luna")
GEMINI = Target("gemini", "generate", "gemini-3.8-flash")
GROQ = Target("groq", "chat", "llama-5")
MISTRAL = Target("mistral", "chat", "mistral-large-latest")
OTHER = Target("elsewhere", "unheard-of", "m")
TARGETS = (ANTHROPIC, OPENAI, GEMINI, GROQ, MISTRAL, OTHER)
GRAMMARS = {
    "anthropic": r"[a-zA-Z0-9_-]{1,64}", "openai": r"[!-~]{1,64}", "groq": r"[!-~]{1,64}",
    "mistral": r"[a-zA-Z0-9]{9}", "gemini": r"(?s).+", "elsewhere": r"(?s).+",
}  # fmt: skip

PICTURE = ImagePart(Image.from_bytes(b"picture", "image/png"))
PAPER = FilePart(b"paper", mime_type="application/pdf", filename="paper.pdf")
SIGNED = {"thoughtSignature": "c2ln"}


def call(id: str, name: str = "add", **arguments: Any) -> ToolCall:
    return ToolCall(id, name, arguments)


def thought(messages: Sequence[Message], by: Target, text: str = "Hm.") -> ReasoningPart:
    """Thinking that `by` had after `messages`."""
    origin = replace(by.origin, prefix=fingerprint(messages))
    return ReasoningPart(text, signature="c2lnbmVk", origin=origin)


def kinds(report: Report) -> list[tuple[str, str, str]]:
    return [(change.action, change.what, change.reason) for change in report.changes]


def prepared(*messages: Message, to: Target) -> tuple[Message, ...]:
    return prepare(messages, to)[0]


# The target


@pytest.mark.parametrize(
    ("given", "target"),
    [
        (GEMINI, GEMINI),
        ("openai:gpt-6-luna", OPENAI),
        ("anthropic:claude-sonnet-5-5", ANTHROPIC),
        ("gemini-3.8-flash@gemini", GEMINI),
        ("groq:llama-5", GROQ),
        (ModelRef("openai", "gpt-6-luna"), OPENAI),
        (Origin("openai", "chat", "gpt-6-luna"), Target("openai", "chat", "gpt-6-luna")),
        (Origin("gemini"), Target("gemini", "generate")),
    ],
)
def test_a_target_is_named_in_many_ways(given: Any, target: Target) -> None:
    assert Target.of(given) == target


def test_a_target_that_nobody_can_name() -> None:
    with pytest.raises(ConfigurationError, match="gpt-6-luna"):
        prepare([user("hi")], "gpt-6-luna")
    with pytest.raises(ValidationError, match="target: invalid_type int"):
        Target.of(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("claude-sonnet-5-5", "claude-sonnet-5-5-20260901", True),
        ("gpt-6-luna", "gpt-6-luna-2026-08-01", True),
        ("claude-sonnet-5-5@20260901", "claude-sonnet-5-5", True),
        ("mistral-large-latest", "mistral-large", True),
        ("gpt-6-luna-2026-08-01", "gpt-6-luna-2026-09-01", False),
        ("claude-sonnet-5", "claude-sonnet-5-5", False),
        ("claude-sonnet-5", "claude-opus-5-20260901", False),
    ],
)
def test_a_dated_model_is_the_same_model(one: str, other: str, same: bool) -> None:
    assert same_model(one, other) is same
    assert same_model(other, one) is same


@pytest.mark.parametrize(
    ("origin", "owned"),
    [
        (Origin("anthropic", "messages", "claude-sonnet-5-5-20260901"), True),
        (Origin("anthropic"), True),
        (Origin("anthropic", "", "claude-opus-5-5"), False),
        (Origin("anthropic", "chat"), False),
        (Origin("openai", "messages", "claude-sonnet-5-5"), False),
        (None, False),
    ],
)
def test_what_a_target_owns(origin: Origin | None, owned: bool) -> None:
    assert ANTHROPIC.owns(origin) is owned


def test_a_target_without_a_model_owns_what_any_of_them_made() -> None:
    assert Target("anthropic", "messages").owns(Origin("anthropic", "messages", "claude-opus-5-5"))


# Nothing to do


@pytest.mark.parametrize("target", TARGETS)
def test_what_fits_is_the_same_object(target: Target) -> None:
    plain = (system("Be brief."), user("hi"), assistant("hello"), user("more"))
    assert prepare(plain, target)[0] is plain
    id = "abcDEF123"
    data = UNSIGNED_CALL if target is GEMINI else {}
    asks = assistant([TextPart("So:"), ToolCall(id, "add", provider_data=data, origin=target.origin)])
    tools = (user([TextPart("Add"), PICTURE]), asks, tool_result(id, "3"), assistant("3"))
    done, report = prepare(tools, target)
    assert done is tools
    assert report == Report()
    assert report.lossless
    assert report.warnings == ()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValidationError, match="orphans: must_be_answer_or_refuse"):
        prepare([], OPENAI, orphans="ignore")
    with pytest.raises(ValidationError, match=r"messages\[1\]: invalid_type"):
        prepare([user("hi"), "hello"], OPENAI)  # type: ignore[list-item]


# Foreign parts


@pytest.mark.parametrize("target", TARGETS)
def test_foreign_reasoning_and_items_are_left_out(target: Target) -> None:
    stranger = Origin("deepseek", "chat", "deepseek-reasoner")
    turn = assistant(
        [
            ReasoningPart("Hm.", origin=stranger),
            ReasoningPart("Whose?"),
            TextPart("Four.", provider_data={"citations": []}, origin=stranger),
            OpaquePart({"type": "server_tool_use"}, origin=stranger),
        ]
    )
    done, report = prepare([user("2+2"), turn], target)
    assert done == (user("2+2"), assistant([TextPart("Four.")]))
    assert kinds(report) == [
        ("dropped", "reasoning", "foreign_origin"),
        ("dropped", "reasoning", "no_origin"),
        ("dropped", "provider_data", "foreign_origin"),
        ("dropped", "opaque", "foreign_origin"),
    ]
    assert report.changes[2].path == "messages[1].content[2]"
    assert not report.lossless
    assert "dropped: 1 x reasoning part (made by another provider, endpoint or model)" in report.warnings
    assert len(report.warnings) == 4


def test_warnings_count_a_kind_once() -> None:
    turn = assistant([TextPart("So."), ReasoningPart("a"), ReasoningPart("b")])
    report = prepare([turn], OPENAI)[1]
    assert report.warnings == ("dropped: 2 x reasoning part (it is not known which provider made it)",)


@pytest.mark.parametrize(
    "parts",
    [
        [ReasoningPart("Hm.")],
        [ReasoningPart("Hm."), TextPart("")],
        [TextPart("", provider_data=SIGNED, origin=GEMINI.origin)],
    ],
)
def test_a_message_with_nothing_left_goes(parts: list[Part]) -> None:
    assert prepared(user("a"), assistant(parts), user("b"), to=OPENAI) == (user("a"), user("b"))


def test_a_message_with_calls_stays() -> None:
    done = prepared(assistant([ReasoningPart("Hm."), call("c1")]), tool_result("c1", "3"), to=OPENAI)
    assert done == (assistant([call("c1")]), tool_result("c1", "3"))


def test_item_ids_are_no_loss() -> None:
    said = TextPart("Hi.", provider_data={"item_id": "msg_1"}, origin=OPENAI.origin)
    done, report = prepare([assistant([said])], ANTHROPIC)
    assert done == (assistant([TextPart("Hi.")]),)
    assert kinds(report) == [("dropped", "item_id", "foreign_origin")]
    assert report.lossless


def test_unsigned_thinking_does_not_go_to_anthropic() -> None:
    turn = assistant([ReasoningPart("Hm.", origin=ANTHROPIC.origin), TextPart("Yes.")])
    done, report = prepare([turn], ANTHROPIC)
    assert done == (assistant([TextPart("Yes.")]),)
    assert kinds(report) == [("dropped", "reasoning", "unsigned")]


def test_what_another_provider_holds_cannot_be_referred_to() -> None:
    held = FilePart(file_id="file_1", origin=OPENAI.origin)
    both = FilePart(b"paper", file_id="file_1", origin=OPENAI.origin)
    own = FilePart(file_id="file_2")
    done, report = prepare([user([TextPart("Read:"), held, both, own])], ANTHROPIC)
    assert done == (user([TextPart("Read:"), FilePart(b"paper", origin=OPENAI.origin), own]),)
    assert kinds(report) == [("dropped", "file", "foreign_origin"), ("dropped", "handle", "foreign_origin")]
    assert report.warnings == ("dropped: 1 x file (made by another provider, endpoint or model)",)
    assert prepare([user([held])], OPENAI)[1] == Report()


def test_a_users_own_provider_data_stays_for_its_provider() -> None:
    marked = TextPart("Long.", provider_data={"cache_control": {}}, origin=Origin("anthropic"))
    assert prepare([user([marked])], ANTHROPIC)[1] == Report()
    assert prepared(user([marked]), to=OPENAI) == (user([TextPart("Long.")]),)


# What came before


def test_thinking_stays_with_the_conversation_it_was_made_in() -> None:
    before = (user("2+2"),)
    turn = assistant([thought(before, ANTHROPIC), TextPart("Four.")])
    thread = (*before, turn, user("sure?"))
    assert prepare(thread, ANTHROPIC)[0] is thread
    edited, report = prepare((user("2+3"), turn, user("sure?")), ANTHROPIC)
    assert edited == (user("2+3"), assistant([TextPart("Four.")]), user("sure?"))
    assert kinds(report) == [("dropped", "reasoning", "prefix_changed")]
    assert report.warnings == ("dropped: 1 x reasoning part (the conversation before it was changed)",)


def test_system_and_tools_come_before_too() -> None:
    add = ToolSpec("add", "Adds.", {"type": "object"})
    origin = replace(ANTHROPIC.origin, prefix=fingerprint([user("hi")], "Be brief.", [add]))
    thread = (user("hi"), assistant([ReasoningPart("Hm.", signature="s", origin=origin), TextPart("Yes.")]))
    without = (user("hi"), assistant([TextPart("Yes.")]))
    assert prepare(thread, ANTHROPIC, system="Be brief.", tools=[add])[0] is thread
    assert prepare(thread, ANTHROPIC)[0] is thread
    assert prepare(thread, ANTHROPIC, system="Be long.", tools=[add])[0] == without
    assert prepare(thread, ANTHROPIC, system="Be brief.", tools=[replace(add, schema={})])[0] == without
    assert prepare(thread, ANTHROPIC, tools=())[0] == without


def test_a_later_system_message_comes_before_all_where_it_is_sent_first() -> None:
    before = (system("Be brief."), user("2+2"))
    for target, kept in ((ANTHROPIC, False), (OPENAI, True)):
        first = assistant([thought(before, target), TextPart("Four.")])
        later = (*before, first, system("Be long."), user("sure?"))
        last = assistant([thought(later, target), TextPart("Yes.")])
        done, report = prepare([*later, last], target)
        assert done[2] == (first if kept else assistant([TextPart("Four.")]))
        assert done[5] == last
        assert kinds(report) == ([] if kept else [("dropped", "reasoning", "prefix_changed")])


def test_an_origin_that_no_fingerprint_made_matches_nothing() -> None:
    turn = assistant([ReasoningPart("Hm.", signature="s", origin=replace(ANTHROPIC.origin, prefix="old"))])
    assert prepared(user("hi"), turn, to=ANTHROPIC) == (user("hi"),)


def test_what_hangs_on_reasoning_goes_with_it() -> None:
    origin = OPENAI.origin
    bound = replace(origin, prefix=fingerprint([user("before")]))
    compaction = OpaquePart({"type": "compaction"}, origin=origin)
    turn = assistant(
        [
            compaction,
            ReasoningPart("Hm.", id="rs_1", provider_data={"item": {}}, origin=bound),
            OpaquePart({"type": "web_search_call", "id": "ws_1"}, origin=origin),
            TextPart("a", provider_data={"item_id": "msg_1", "phase": "commentary"}, origin=origin),
            TextPart("b", provider_data={"phase": "final_answer"}, origin=origin),
            ToolCall("c1", "add", provider_data={"item_id": "fc_1"}, origin=bound),
        ]
    )
    done, report = prepare([user("changed"), turn, tool_result("c1", "3")], OPENAI)
    assert done[1] == assistant(
        [
            compaction,
            TextPart("a", provider_data={"phase": "commentary"}, origin=origin),
            TextPart("b", provider_data={"phase": "final_answer"}, origin=origin),
            call("c1"),
        ]
    )
    assert kinds(report) == [
        ("dropped", "reasoning", "prefix_changed"),
        ("dropped", "opaque", "prefix_changed"),
        ("dropped", "item_id", "prefix_changed"),
        ("dropped", "item_id", "prefix_changed"),
    ]


@pytest.mark.parametrize("as_sent", [False, True])
def test_a_mended_thread_keeps_its_thinking(as_sent: bool) -> None:
    """A decoder may bind to the thread as it is stored or as it was sent."""
    stored = (user("2+2"), assistant([call("c1")]), user("go on"))
    sent = prepared(*stored, to=ANTHROPIC)
    assert sent[2].is_error
    turn = assistant([thought(sent if as_sent else stored, ANTHROPIC), TextPart("Four.")])
    done, report = prepare([*stored, turn], ANTHROPIC)
    assert done == (*sent, assistant([thought(sent, ANTHROPIC), TextPart("Four.")]))
    assert kinds(report) == [("answered", "call", "orphan_call")] + (
        [] if as_sent else [("rewritten", "prefix", "conversation_mended")]
    )
    assert prepare(done, ANTHROPIC) == (done, Report())


@pytest.mark.parametrize("as_sent", [False, True])
def test_a_result_that_comes_late_changes_what_came_before(as_sent: bool) -> None:
    stored = (user("2+2"), assistant([call("c1")]), user("go on"))
    sent = prepared(*stored, to=ANTHROPIC)
    turn = assistant([thought(sent if as_sent else stored, ANTHROPIC), TextPart("Four.")])
    later = (*stored, turn, tool_result("c1", "4"), user("and?"))
    last = assistant([thought(later, ANTHROPIC), TextPart("Well.")])
    done, report = prepare([*later, last], ANTHROPIC)
    mended = (*stored[:2], tool_result("c1", "4"), stored[2], assistant([TextPart("Four.")]), user("and?"))
    assert done == (*mended, assistant([thought(mended, ANTHROPIC), TextPart("Well.")]))
    assert kinds(report) == [
        ("moved", "result", "not_after_its_call"),
        ("dropped", "reasoning", "prefix_changed"),
        ("rewritten", "prefix", "conversation_mended"),
    ]


def test_every_turn_that_a_late_result_passes_is_changed() -> None:
    stored = [user("2+2"), assistant([call("c1")]), user("go on"), assistant([call("c2")])]
    stored.append(tool_result("c2", "2"))
    stored.append(assistant([thought(stored, ANTHROPIC), TextPart("Four.")]))
    stored.append(tool_result("c1", "4"))
    done, _ = prepare(stored, ANTHROPIC)
    assert done[-1] == assistant([TextPart("Four.")])


@pytest.mark.parametrize("in_a_row", [False, True])
def test_a_turn_that_goes_on_keeps_its_thinking(in_a_row: bool) -> None:
    """A decoder may bind what follows a pause to all before the assistant began to speak."""
    stored: list[Message] = [user("2+2"), assistant([call("c1")]), user("go on")]
    sent = list(prepared(*stored, to=ANTHROPIC))
    first = assistant([thought(stored, ANTHROPIC), TextPart("Wait:")])
    second = assistant([thought(stored if in_a_row else [*stored, first], ANTHROPIC), TextPart("Four.")])
    first_sent = assistant([thought(sent, ANTHROPIC), TextPart("Wait:")])
    second_sent = assistant([thought(sent if in_a_row else [*sent, first], ANTHROPIC), TextPart("Four.")])
    done, report = prepare([*stored, first, second], ANTHROPIC)
    assert done == (*sent, first_sent, second_sent)
    assert prepare(done, ANTHROPIC) == (done, Report())
    assert report.lossless is False  # for the call without a result alone
    assert kinds(report)[1:] == [("rewritten", "prefix", "conversation_mended")] * 2
    edited = (user("2+3"), *done[1:])
    assert prepared(*edited, to=ANTHROPIC)[4:] == (
        assistant([TextPart("Wait:")]),
        assistant([TextPart("Four.")]),
    )


# Fingerprints


def test_a_fingerprint_is_of_what_the_model_is_shown() -> None:
    base = (user("add"), assistant([TextPart("So:"), call("c1", a=1, b=2)]), tool_result("c1", "3"))
    same = (
        replace(user("add"), metadata={"seen": 1}),
        assistant(
            [
                ReasoningPart("Hm.", origin=ANTHROPIC.origin),
                TextPart("", provider_data=SIGNED, origin=GEMINI.origin),
                TextPart("So:", origin=OPENAI.origin),
                ToolCall("c9", "add", {"b": 2, "a": 1}, '{"a": 1, "b": 2}', provider_data=SIGNED),
                OpaquePart({"type": "compaction"}),
            ]
        ),
        assistant(""),
        tool_result("c9", [TextPart("3")]),
    )
    assert fingerprint(base) == fingerprint(same) != fingerprint(base[:2])
    assert re.fullmatch(r"[0-9a-f]+:[0-9a-f]+", fingerprint(base))


_CALLS = (user("add"), assistant([call("c1", a=1)]), tool_result("c1", "3"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((user("ab"), user("c")), (user("a"), user("bc"))),
        ((user("t1:a"),), (user([TextPart("t1"), TextPart("a")]),)),
        ((user("a"),), (assistant("a"),)),
        (_CALLS, (*_CALLS[:2], tool_result("c1", "4"))),
        (_CALLS, (*_CALLS[:2], tool_result("c1", "3", is_error=True))),
        (_CALLS, (_CALLS[0], assistant([call("c1", a=2)]), _CALLS[2])),
        (_CALLS, (_CALLS[0], assistant([call("c1", "sub", a=1)]), _CALLS[2])),
        (_CALLS, (*_CALLS, tool_result("c2", ""))),
        ((user([PICTURE]),), (user([replace(PICTURE, image=Image.from_bytes(b"other", "image/png"))]),)),
        ((user([PAPER]),), (user([replace(PAPER, data=b"other")]),)),
        ((user([FilePart(file_id="a")]),), (user([FilePart(file_id="b")]),)),
        ((user([AudioPart(b"a")]),), (user([AudioPart(b"b")]),)),
        (
            (assistant([ToolCall("c", "run", {}, "ls", kind="custom")]),),
            (assistant([ToolCall("c", "run", {}, "rm", kind="custom")]),),
        ),
    ],
)
def test_what_the_model_is_shown_changes_a_fingerprint(
    one: tuple[Message, ...], other: tuple[Message, ...]
) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(from_json(to_json(Thread(one)), Thread).messages)


def test_a_fingerprint_has_a_half_for_system_and_tools() -> None:
    messages = [user("hi")]
    plain, asked = fingerprint(messages), fingerprint(messages, "Be brief.", [ToolSpec("add")])
    assert plain.partition(":")[2] == asked.partition(":")[2]
    assert plain.partition(":")[0] != asked.partition(":")[0]


def test_text_that_no_wire_takes_has_a_fingerprint() -> None:
    odd = [user("\ud800"), assistant([call("c1", text="\ud800")])]
    assert fingerprint(odd) != fingerprint(odd[:1])


@pytest.mark.parametrize("edited", [False, True])
def test_each_message_is_read_once_or_twice(monkeypatch: pytest.MonkeyPatch, edited: bool) -> None:
    thread: list[Message] = []
    chain, head = fingerprints.Chain(), fingerprint([]).partition(":")[0]
    for index in range(100):
        asked = user(f"question {index}")
        chain.add([asked])
        origin = replace(ANTHROPIC.origin, prefix=f"{head}:{chain.digest()}")
        answer = assistant([ReasoningPart("Hm.", signature="s", origin=origin), TextPart("Yes.")])
        chain.add([answer])
        thread += [asked, answer]
    if edited:
        thread[0] = user("something else")
    read: list[Message] = []
    shown: Callable[[Message], str] = fingerprints._shown

    def counted(message: Message) -> str:
        read.append(message)
        return shown(message)

    monkeypatch.setattr(fingerprints, "_shown", counted)
    _, report = prepare(thread, ANTHROPIC)
    assert len(report.changes) == (100 if edited else 0)
    assert bool(read) is edited  # what is known of a message is kept with it
    assert len(read) <= len(thread) * (2 if edited else 1)


# Call ids


@pytest.mark.parametrize(
    ("id", "target", "fits"),
    [
        ("toolu_01", ANTHROPIC, True),
        ("functions.add:0", ANTHROPIC, False),
        ("functions.add:0", GROQ, True),
        ("x" * 64, OPENAI, True),
        ("x" * 65, OPENAI, False),
        ("x" * 65, GEMINI, True),
        ("", GEMINI, False),
        ("", GROQ, False),
        ("abcDEF123", MISTRAL, True),
        ("call_1234", MISTRAL, False),
        ("any thing", OTHER, True),
    ],
)
def test_ids_are_rewritten_where_the_target_refuses_them(id: str, target: Target, fits: bool) -> None:
    thread = (assistant([call(id)]), tool_result(id, "3"))
    done, report = prepare(thread, replace(target, model="gemini-2.5-pro"))
    made = done[0].tool_calls[0].id
    assert (made == id) is fits
    assert re.fullmatch(GRAMMARS[target.provider], made)
    assert done[1].tool_call_id == made
    assert kinds(report) == ([] if fits else [("rewritten", "call_id", "id_grammar")])
    assert report.lossless
    assert prepare(thread, replace(target, model="gemini-2.5-pro"))[0] == done


def test_an_id_is_used_once_in_a_thread() -> None:
    turn = (assistant([call("c1", n=1), call("c1", n=2)]), tool_result("c1", "one"), tool_result("c1", "two"))
    done, report = prepare([*turn, *turn], OPENAI)
    ids = [part.id for message in done for part in message.tool_calls]
    assert len(set(ids)) == 4
    assert [message.tool_call_id for message in done if message.role == "tool"] == ids
    assert [message.text for message in done if message.role == "tool"] == ["one", "two"] * 2
    assert kinds(report) == [("rewritten", "call_id", "id_repeated")] * 3
    assert prepared(*turn, to=OPENAI) == done[:3]


# Calls and results


def test_an_orphan_call_is_answered() -> None:
    done, report = prepare([user("a"), assistant([call("c1"), call("c2")]), tool_result("c2", "2")], OPENAI)
    assert [message.tool_call_id for message in done[2:]] == ["c2", "c1"]
    assert done[3] == tool_result("c1", "No result was provided for this call.", is_error=True)
    assert [change.path for change in report.changes] == ["messages[1].content[0]"]
    assert report.warnings == ("answered with an error: 1 x tool call (it has no result)",)


def test_one_result_answers_one_of_two_calls_with_the_same_id() -> None:
    done, report = prepare([assistant([call("c1"), call("c1")]), tool_result("c1", "1")], OPENAI)
    first, second = done[0].tool_calls
    assert done[1:] == (tool_result(first.id, "1"), pairing._no_result(second))
    assert [change.path for change in report.changes] == ["messages[0].content[1]"] * 2


def test_a_result_answers_the_latest_call_of_its_id() -> None:
    thread = [assistant([call("c1")]), user("wait"), assistant([call("c1")]), tool_result("c1", "1")]
    done, _ = prepare(thread, OPENAI)
    assert [message.text for message in done if message.role == "tool"] == [pairing.NO_RESULT, "1"]
    assert done[4].tool_call_id == done[3].tool_calls[0].id != "c1"


def test_results_are_put_after_their_call() -> None:
    thread = [
        assistant([call("c1"), call("c2")]),
        user("wait"),
        tool_result("c1", "1"),
        tool_result("c2", "2"),
    ]
    done, report = prepare(thread, ANTHROPIC)
    assert done == (thread[0], thread[2], thread[3], thread[1])
    assert kinds(report) == [("moved", "result", "not_after_its_call")] * 2
    assert report.lossless


def test_the_order_of_results_is_kept() -> None:
    thread = (assistant([call("c1"), call("c2")]), tool_result("c2", "2"), tool_result("c1", "1"))
    assert prepare(thread, ANTHROPIC)[0] is thread


def test_a_result_without_its_call_is_quoted() -> None:
    stray = tool_result("c9", [TextPart("4\n5"), PICTURE], is_error=True)
    thread = [assistant([call("c1")]), stray, tool_result("c1", "3")]
    done, report = prepare(thread, OPENAI)
    assert done[:2] == (thread[0], thread[2])
    assert done[2].role == "user"
    assert done[2].text == "The error of a tool call that is not in this conversation:\n> 4\n> 5"
    assert done[2].parts[1:] == (PICTURE,)
    assert ("reduced", "result", "orphan_result") in kinds(report)


def test_a_second_result_is_dropped() -> None:
    thread = [assistant([call("c1")]), tool_result("c1", "3"), tool_result("c1", "4"), user("and?")]
    done, report = prepare(thread, GROQ)
    assert done == (*thread[:2], thread[3])
    assert kinds(report) == [("dropped", "result", "repeated_result")]


def test_orphans_may_be_refused_all_at_once() -> None:
    thread = [
        tool_result("c0", "0"),
        assistant([TextPart("So:"), call("c1"), call("c2")]),
        tool_result("c1", "1"),
        tool_result("c1", "1"),
    ]
    with pytest.raises(ValidationError) as caught:
        prepare(thread, OPENAI, orphans="refuse")
    assert caught.value.errors == (
        ("messages[0]", "orphan_result"),
        ("messages[3]", "repeated_result"),
        ("messages[1].content[2]", "orphan_call"),
    )
    late = [assistant([call("c1")]), user("wait"), tool_result("c1", "1")]
    assert prepare(late, OPENAI, orphans="refuse") == prepare(late, OPENAI)


# Gemini's placeholder


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("gemini-3.8-flash", True),
        ("gemini-4-argon", True),
        ("gemini-flash-latest", True),
        ("", True),
        ("gemini-2.5-pro", False),
        ("models/gemini-2.5-pro", False),
        ("gemini-1.5-flash", False),
        ("gemma-4-27b", False),
    ],
)
def test_gemini_is_told_that_a_call_has_no_signature(model: str, wanted: bool) -> None:
    target = replace(GEMINI, model=model)
    made = ToolCall("c1", "add", provider_data={"item_id": "fc_1"}, origin=OPENAI.origin)
    thread = (assistant([made, call("c2")]), tool_result("c1", "1"), tool_result("c2", "2"))
    done, report = prepare(thread, target)
    first, second = done[0].tool_calls
    assert first.provider_data == (UNSIGNED_CALL if wanted else {})
    assert first.origin == (target.origin if wanted else None)
    assert second == call("c2")
    assert report.lossless
    assert prepare(done, target)[1] == Report()
    assert prepared(*done, to=OPENAI)[0].tool_calls == (call("c1"), call("c2"))
    assert prepare(done, OPENAI)[1].lossless


def test_geminis_own_signatures_stay_and_go_nowhere_else() -> None:
    turn = assistant(
        [
            ToolCall("c1", "add", provider_data=SIGNED, origin=GEMINI.origin),
            call("c2"),
            TextPart("", provider_data=SIGNED, origin=GEMINI.origin),
        ]
    )
    thread = (turn, tool_result("c1", "1"), tool_result("c2", "2"))
    assert prepare(thread, GEMINI)[0] is thread
    done, report = prepare(thread, ANTHROPIC)
    assert done[0] == assistant([call("c1"), call("c2")])
    assert kinds(report) == [("dropped", "signature", "foreign_origin")] * 2
    other = prepared(*thread, to=replace(GEMINI, model="gemini-4-argon"))
    assert other[0].tool_calls[0].provider_data == UNSIGNED_CALL


# Media


def test_images_of_the_assistant_go_to_the_user() -> None:
    drawn = assistant([TextPart("Here:"), PICTURE, PAPER])
    intro = TextPart("From the assistant's last message:")
    for target in (ANTHROPIC, OPENAI, GROQ):
        done, report = prepare([user("draw"), drawn, user("nicer")], target)
        assert done[1] == assistant([TextPart("Here:")])
        assert done[2] == user([intro, PICTURE, PAPER, TextPart("nicer")])
        assert kinds(report) == [
            ("moved", "image", "not_taken_there"),
            ("moved", "file", "not_taken_there"),
        ]
        assert report.lossless
    for target in (GEMINI, OTHER):
        assert prepare([user("draw"), drawn], target)[1] == Report()


@pytest.mark.parametrize("after", [(), (system("Be brief."),), (assistant("There."),)])
def test_they_get_a_message_of_their_own_where_no_user_speaks(after: tuple[Message, ...]) -> None:
    drawn = assistant([PICTURE, call("c1")])
    done = prepared(user("draw"), drawn, tool_result("c1", "3"), *after, to=ANTHROPIC)
    shown = user([TextPart("From the assistant's last message:"), PICTURE])
    assert done == (user("draw"), assistant([call("c1")]), tool_result("c1", "3"), shown, *after)


def test_images_of_results_go_where_they_are_taken() -> None:
    asked = assistant([call("c1", "look"), call("c2", "read")])
    results = (tool_result("c1", [PICTURE]), tool_result("c2", [TextPart("Read."), PAPER]))
    thread = (asked, *results, user("and?"))
    for target in (ANTHROPIC, OPENAI, OTHER):
        assert prepare(thread, target)[0] is thread
    assert prepared(*thread, to=GEMINI)[1:] == thread[1:]
    assert prepared(*thread, to=GROQ) == (
        asked,
        tool_result("c1", [TextPart("The result is an image; it follows.")]),
        tool_result("c2", [TextPart("Read.")]),
        user(
            [
                TextPart("From the result of the call to look:"),
                PICTURE,
                TextPart("From the result of the call to read:"),
                PAPER,
                TextPart("and?"),
            ]
        ),
    )


def test_audio_is_kept_by_who_holds_it_and_read_by_others() -> None:
    target = Target("openai", "chat", "gpt-audio")
    spoken = assistant([AudioPart(b"", id="audio_1", transcript="Hello.", origin=target.origin)])
    silent = assistant([TextPart("Listen."), AudioPart(b"x", origin=target.origin)])
    assert prepare([spoken], target)[0] == (spoken,)
    done, report = prepare([spoken, silent], GEMINI)
    assert done == (assistant([TextPart("Hello.")]), assistant([TextPart("Listen.")]))
    assert kinds(report) == [("reduced", "audio", "foreign_origin"), ("dropped", "audio", "foreign_origin")]
    assert prepared(silent, to=OTHER) == (silent,)


# Properties


@st.composite
def answers(draw: st.DrawFn, by: Target, seen: tuple[Message, ...], number: int) -> Message:
    """What `by` says after `seen`, in its own manner; its calls have fresh ids in its own grammar."""
    origin = by.origin
    bound = replace(origin, prefix=fingerprint(seen))
    parts: list[Part] = []
    words = draw(st.sampled_from(["", "Yes.", "No."]))
    count = draw(st.integers(0, 3))
    ids = [f"{number}{place}".ljust(9, "x") for place in range(count)]
    if by is ANTHROPIC and draw(st.booleans()):
        parts.append(ReasoningPart("Hm.", signature=f"sig{number}", origin=bound))
        parts.append(OpaquePart({"type": "web_search_tool_result"}, origin=origin))
    if by is OPENAI and draw(st.booleans()):
        parts.append(ReasoningPart("Hm.", provider_data={"item": {"id": f"rs{number}"}}, origin=bound))
        parts.append(OpaquePart({"type": "web_search_call"}, origin=origin))
    if by is GROQ and draw(st.booleans()):
        parts.append(ReasoningPart("Hm.", origin=origin))
    data: dict[str, Any] = {GEMINI: SIGNED, OPENAI: {"item_id": f"m{number}"}}.get(by, {})
    if words or data:
        parts.append(TextPart(words, provider_data=data, origin=origin if data else None))
    if draw(st.booleans()):
        parts.append(PICTURE)
    for place, id in enumerate(ids):
        own = data if by is OPENAI or place == 0 else {}
        arguments = {"n": draw(st.integers(0, 2))}
        parts.append(ToolCall(id, "add", arguments, provider_data=own, origin=origin if own else None))
    return assistant(parts) if parts else assistant("Well.")


contents: list[str | tuple[Part, ...]] = ["3", "", (TextPart("Look:"), PICTURE), (PICTURE,), (PAPER,)]
results = st.sampled_from(contents)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[tuple[Message, ...], list[tuple[int, Target]]]:
    """A thread that several providers built, unedited, and who said what where.

    A decoder binds to the thread as it is stored or as it was sent.
    """
    thread: list[Message] = [system("Be brief.")] if draw(st.booleans()) else []
    said: list[tuple[int, Target]] = []
    for number in range(1, draw(st.integers(1, 5)) + 1):
        if not thread or thread[-1].role != "tool" or draw(st.booleans()):
            thread.append(draw(st.sampled_from([user("hi"), user([TextPart("See:"), PICTURE])])))
        by = draw(st.sampled_from(TARGETS[:5]))
        seen = prepared(*thread, to=by) if draw(st.booleans()) else tuple(thread)
        message = draw(answers(by, seen, number))
        said.append((len(thread), by))
        thread.append(message)
        calls = draw(st.permutations(message.tool_calls))
        thread += [tool_result(call.id, draw(results), is_error=draw(st.booleans())) for call in calls]
    return tuple(thread), said


ODD_IDS = ("", "functions.add:0", "x" * 70, "c1", "c1", "any thing")


@st.composite
def edited(draw: st.DrawFn) -> tuple[Message, ...]:
    """A conversation that somebody cut, shuffled, repeated and gave odd call ids."""
    thread = list(draw(conversations())[0])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(thread) - 1))
        message = thread[place]
        match draw(st.sampled_from(["cut", "move", "repeat", "say", "id"])):
            case "cut" if len(thread) > 1:
                del thread[place]
            case "move":
                thread.insert(draw(st.integers(0, len(thread) - 1)), thread.pop(place))
            case "repeat":
                thread.insert(draw(st.integers(0, len(thread))), message)
            case "say":
                thread.insert(place, draw(st.sampled_from([user("More."), assistant("Less.")])))
            case _ if message.tool_calls:
                call = message.tool_calls[0]
                id = draw(st.sampled_from(ODD_IDS))
                parts = [replace(part, id=id) if part is call else part for part in message.parts]
                thread[place] = replace(message, content=tuple(parts))
                if draw(st.booleans()):
                    thread = [replace(m, tool_call_id=id) if m.tool_call_id == call.id else m for m in thread]
    return tuple(thread)


targets = st.sampled_from(TARGETS)
SETTINGS = settings(deadline=None, max_examples=200)


def before_row(messages: Sequence[Message], index: int) -> Sequence[Message]:
    while index and messages[index - 1].role == "assistant":
        index -= 1
    return messages[:index]


def assert_fit(done: Sequence[Message], target: Target) -> None:
    """What no target would refuse: calls and results in their places, nothing foreign, media where taken."""
    waiting: set[str] = set()
    ids: list[str] = []
    for index, message in enumerate(done):
        if message.role == "tool":
            assert message.tool_call_id in waiting
            waiting.remove(message.tool_call_id)
        else:
            assert not waiting
        waiting |= {call.id for call in message.tool_calls}
        ids += [call.id for call in message.tool_calls]
        for part in message.parts:
            private = type(part) in (ReasoningPart, OpaquePart) or part.provider_data
            assert target.owns(part.origin) or not private
            if private and part.origin and part.origin.prefix:
                assert part.origin.prefix in (fingerprint(done[:index]), fingerprint(before_row(done, index)))
            if type(part) is ImagePart and message.role == "assistant":
                assert target in (GEMINI, OTHER)
            if type(part) in (ImagePart, FilePart) and message.role == "tool":
                assert target not in (GROQ, MISTRAL)
        if target is GEMINI and message.tool_calls:
            assert "thoughtSignature" in message.tool_calls[0].provider_data
    assert not waiting
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(GRAMMARS[target.provider], id) for id in ids)


@given(edited(), targets)
@SETTINGS
def test_any_thread_is_made_fit(thread: tuple[Message, ...], target: Target) -> None:
    done, report = prepare(thread, target)
    assert_fit(done, target)
    assert (done is thread) is (not report.changes)
    assert prepare(done, target) == (done, Report())
    assert all(re.fullmatch(r"messages\[\d+\](\.content\[\d+\])?", change.path) for change in report.changes)
    assert bool(report.warnings) is not report.lossless


@given(edited(), targets)
@SETTINGS
def test_a_stored_thread_is_prepared_alike_and_not_touched(
    thread: tuple[Message, ...], target: Target
) -> None:
    stored = to_json(Thread(thread))
    outcome = prepare(thread, target)
    assert to_json(Thread(thread)) == stored
    loaded = from_json(stored, Thread).messages
    assert prepare(loaded, target) == outcome
    assert fingerprint(loaded) == fingerprint(thread)


@given(edited(), targets, st.data())
@SETTINGS
def test_ids_once_given_stay(thread: tuple[Message, ...], target: Target, data: st.DataObject) -> None:
    def ids(messages: Sequence[Message]) -> list[str]:
        return [call.id for message in messages for call in message.tool_calls]

    before = ids(prepared(*thread[: data.draw(st.integers(0, len(thread)))], to=target))
    assert ids(prepared(*thread, to=target))[: len(before)] == before


@given(edited(), targets, targets)
@SETTINGS
def test_what_another_was_sent_is_made_fit_too(
    thread: tuple[Message, ...], one: Target, other: Target
) -> None:
    assert_fit(prepared(*prepared(*thread, to=one), to=other), other)


@given(conversations())
@SETTINGS
def test_nothing_of_its_own_is_lost_to_a_provider(
    conversation: tuple[tuple[Message, ...], list[tuple[int, Target]]],
) -> None:
    """After A, B and C, A gets its own parts back byte for byte, but for the conversation they name."""
    thread, said = conversation
    for target in TARGETS[:5]:
        done, report = prepare(thread, target)
        own = [thread[place] for place, by in said if by is target]
        assert not [change for change in report.changes if change.reason == "prefix_changed"]
        kept = [_unbound(message) for message in done if message.role == "assistant"]
        for message in own:
            parts = [part for part in message.parts if target is GEMINI or type(part) is not ImagePart]
            assert not parts or _unbound(replace(message, content=tuple(parts))) in kept


def _unbound(message: Message) -> str:
    """The message as stored, without the digests in its origins."""
    parts = [
        replace(part, origin=replace(part.origin, prefix="")) if part.origin is not None else part
        for part in message.parts
    ]
    return to_json(replace(message, content=tuple(parts)))


@given(conversations(), targets)
@SETTINGS
def test_an_edit_takes_the_thinking_after_it(
    conversation: tuple[tuple[Message, ...], list[tuple[int, Target]]], target: Target
) -> None:
    thread = (user("An edit."), *conversation[0])
    done, report = prepare(thread, target)
    assert not any(part.origin and part.origin.prefix for message in done for part in message.parts)
    bound = [
        part
        for message in thread
        for part in message.parts
        if type(part) is ReasoningPart and part.origin and part.origin.prefix and target.owns(part.origin)
    ]
    dropped = [change for change in report.changes if change.reason == "prefix_changed"]
    assert len([change for change in dropped if change.what == "reasoning"]) == len(bound)
