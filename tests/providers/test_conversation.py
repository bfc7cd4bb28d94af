"""What a conversation keeps of the requests before: the same bytes as without, and nothing done twice."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import allm
from allm.data.messages import Message, assistant, system, tool_result, user
from allm.data.requests import Request, ToolSpec
from allm.errors import AllmError
from allm.ports import CallContext, WireAdapter
from allm.preparing import Target, fingerprint
from allm.providers import resolve
from allm.providers.conversation import _Piece
from allm.providers.encoding import HttpAdapter
from allm.providers.openai.chat import OpenAIChat, Quirks
from tests.four_dialects import CHAT, DIALECTS, GENERATE, MESSAGES, Dialect
from tests.test_preparing import ANTHROPIC, GEMINI, GROQ, MISTRAL, OPENAI, SETTINGS, edited

TOOLS = (ToolSpec("add", "adds", {"type": "object", "properties": {"n": {"type": "integer"}}}),)
NO_VARIANT: dict[str, Any] = {}
VARIANTS = st.sampled_from(
    [
        NO_VARIANT,
        NO_VARIANT,
        {"model": "another"},
        {"system": "Be kind."},
        {"tools": TOOLS},
        {"orphans": "refuse"},
    ]
)
WIRES = (ANTHROPIC, OPENAI, GEMINI, GROQ, MISTRAL)
dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=repr)


def fresh(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same messages, nothing kept with them."""
    return tuple([copy.copy(message) for message in messages])


def outcome(encode: Callable[[], Any]) -> Any:
    try:
        http = encode()
    except AllmError as error:
        return error.info
    return http.body, http.warnings


def assert_same(
    adapter: WireAdapter, endpoint: str, messages: Sequence[Message], orphans: str = "answer", **fields: Any
) -> None:
    """What is sent is what would be sent of messages that were never sent before."""
    ctx = CallContext(base_url="https://h/v1", adapter_options={"endpoint": endpoint}, orphans=orphans)

    def sent(given: Sequence[Message]) -> Any:
        return outcome(lambda: adapter.encode(Request(messages=tuple(given), **fields), ctx))

    assert sent(messages) == sent(fresh(messages))


def assert_same_in(dialect: Dialect, messages: Sequence[Message], **fields: Any) -> None:
    assert_same(dialect.adapter, dialect.name, messages, **{"model": dialect.model, **fields})


def kept(messages: Sequence[Message]) -> list[_Piece]:
    return [piece for message in messages for piece in message._sent]


def is_reused(before: list[_Piece], thread: Sequence[Message]) -> bool:
    """Whether what was sent last stands behind what was kept `before`."""
    chain = thread[-1]._sent[0].chain() if thread[-1]._sent else []
    return len(chain) > 1 and all(any(piece is known for known in before) for piece in chain[:-1])


def held(*threads: Sequence[Message]) -> int:
    """The bytes that these messages keep: all that is reachable from their pieces, each object once."""
    seen: dict[int, Any] = {}
    waiting: list[Any] = [piece for thread in threads for piece in kept(thread)]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen and not isinstance(value, type | Message | HttpAdapter):
            seen[id(value)] = value
            waiting += gc.get_referents(value)
    return sum(len(bytes(v)) if isinstance(v, msgspec.Raw) else sys.getsizeof(v) for v in seen.values())


def asked(count: int, part: str = "text", signed: bool = False) -> tuple[Message, ...]:
    """A conversation of `count` messages that ends with the user's; `signed` as Gemini signs its calls."""
    messages: list[Message] = []
    own: dict[str, Any] = {}
    if signed:
        own = {"provider_data": {"thoughtSignature": "c2ln"}, "origin": allm.Origin("gemini", "generate")}
    for number in range(count // 4):
        call = allm.ToolCall(f"call{number}", "add", {"n": number}, f'{{"n": {number}}}', **own)
        said = allm.TextPart("Let me see.")
        messages += [user("Add one."), assistant([said, call]), tool_result(call.id, str(number + 1))]
        messages.append(assistant("It is done.") if part == "text" else assistant([allm.TextPart("Done.")]))
    return (*messages, user("Thanks."))


# The same bytes


@dialects
def test_recorded_answers_in_one_conversation(dialect: Dialect) -> None:
    """Every recorded answer is said in one growing conversation, its calls answered."""
    if not dialect.records:
        pytest.skip("the recorded exchanges are not here")
    thread: tuple[Message, ...] = ()
    reused = 0
    for record in dialect.records:
        thread = (*thread, user("and now?"))
        before = kept(thread)
        assert_same_in(dialect, thread)
        reused += is_reused(before, thread)
        answer = dialect.answer(record, Request(model=dialect.model, messages=thread)).message
        results = [tool_result(call.id, "{}") for call in answer.tool_calls]
        thread = (*thread, answer, *results)
        if results:
            assert_same_in(dialect, thread)
    assert reused > len(dialect.records) * 0.8  # but those behind an answer that says nothing


@pytest.mark.parametrize("target", WIRES, ids=[target.provider for target in WIRES])
@SETTINGS
@given(edited(), st.data())
def test_any_conversation(target: Target, thread: tuple[Message, ...], data: st.DataObject) -> None:
    """Cut anywhere, sent in any order, to this model and others, with other systems and tools."""
    ends = st.lists(st.integers(1, len(thread)), min_size=1, max_size=6)
    for end in data.draw(ends.map(sorted) | ends):
        to = data.draw(st.sampled_from([target, target, target, *WIRES]))
        fields = {"model": to.model, **data.draw(VARIANTS)}
        assert_same(resolve(to.provider), to.endpoint, thread[:end], **fields)


@pytest.mark.parametrize(
    "changed",
    [
        {"system": "Be kind."},
        {"tools": TOOLS},
        {"model": "claude-haiku-5-5"},
        {"messages": (assistant("Yes."), system("Be brief."), user("again"))},
    ],
    ids=["system", "tools", "model", "system message"],
)
def test_thinking_is_bound_to_what_comes_before(changed: dict[str, Any]) -> None:
    question = user("hi")
    origin = allm.Origin("anthropic", "messages", MESSAGES.model, fingerprint([question], "Be brief."))
    thought = allm.ReasoningPart("Hm.", signature="s", origin=origin)
    thread = (question, assistant([thought, allm.TextPart("Yes.")]), user("sure?"))
    fields = {"model": MESSAGES.model, "system": "Be brief.", **changed}
    added = fields.pop("messages", ())

    def thinks(messages: Sequence[Message], **fields: Any) -> bool:
        return b"thinking" in MESSAGES.encode(Request(messages=tuple(messages), **fields)).body

    assert thinks(thread, model=MESSAGES.model, system="Be brief.")
    assert not thinks((*thread, *added), **fields)


@dialects
def test_another_beginning_with_the_same_end(dialect: Dialect) -> None:
    thread = asked(8)
    assert_same_in(dialect, thread)
    assert_same_in(dialect, (user("Add two."), *thread[1:]))
    assert_same_in(dialect, thread)
    assert_same_in(dialect, thread[4:])
    assert_same_in(dialect, thread)
    assert_same_in(dialect, (*thread[:-1], assistant("Wait."), user("For what?"), thread[-1]))


@dialects
def test_media_that_wait_for_the_user(dialect: Dialect) -> None:
    call = allm.ToolCall("c", "draw")
    picture = allm.ImagePart(allm.Image.from_bytes(b"picture", "image/png"))
    thread = (user("Draw."), assistant([call]), tool_result("c", [picture]))
    assert_same_in(dialect, thread)
    assert_same_in(dialect, (*thread, user("Again.")))


@dialects
@pytest.mark.parametrize(
    "added",
    [
        (user("again"),),
        (assistant(""), user("again")),
        (assistant([allm.ReasoningPart("Hm.")]), user("again")),
        (tool_result("call0", "late"),),
        (assistant("Yes."), tool_result("call0", "late"), user("again")),
        (assistant([allm.ToolCall("call0", "add", {"n": 1})]), tool_result("call0", "2")),
        (assistant([allm.ToolCall("open", "add", {"n": 1})]), user("never mind")),
        (assistant("Yes."), system("Be brief."), user("again")),
        (assistant("It is  "),),
        (assistant("Yes."), user("")),
        (),
    ],
    ids=[
        "two users", "empty answer", "answer that is left out", "second result", "late result", "id again",
        "open call", "system message", "begun answer", "empty question", "nothing",
    ],
)  # fmt: skip
def test_what_comes_behind(dialect: Dialect, added: tuple[Message, ...]) -> None:
    thread = asked(8)
    assert_same_in(dialect, thread)
    assert_same_in(dialect, (*thread, *added))
    assert_same_in(dialect, (*thread, *added, assistant("Good."), user("Bye.")))


def test_another_adapter_of_the_same_name() -> None:
    """What a server wants of thinking is its own."""
    thought = allm.ReasoningPart("Hm.", origin=allm.Origin("mine", "chat"))
    thread = (user("hi"), assistant([thought, allm.TextPart("Yes.")]), user("sure?"))
    servers = [OpenAIChat("mine", "https://h/v1", quirks=Quirks(replay=word)) for word in ("reasoning", "")]
    for server in (*servers, *servers):
        assert_same(server, "chat", thread)


def test_text_that_cannot_be_encoded_is_refused_and_forgotten() -> None:
    thread = (*asked(4), assistant("Yes."), user("\ud800"))
    for _ in range(2):
        with pytest.raises(allm.ValidationError, match="lone_surrogate"):
            CHAT.encode(Request(model=CHAT.model, messages=thread))
    assert_same_in(CHAT, (*thread[:-1], user("fine")))


# What is kept, and where


def test_a_conversation_is_kept_once() -> None:
    """What its messages keep is, put together, what went out: each message of it once."""
    thread = asked(8)
    for number in range(20):
        body = CHAT.encode(Request(model=CHAT.model, messages=thread)).body
        items = b",".join(bytes(item) for piece in kept(thread) for item in piece.items)
        assert b'"messages":[%b]' % items in body
        thread = (*thread, assistant(f"Answer {number}."), user("Go on."))


class Sender:
    """Whom each request of a conversation goes to, and with what: `number` counts the requests."""

    def __init__(self, *adapters: WireAdapter, bound: bool = False, **fields: Callable[[int], Any]) -> None:
        self.adapters = adapters
        self.bound = bound  # answers with thinking that hangs on what came before
        self.fields = {"model": lambda _: MESSAGES.model, **fields}

    def __call__(self, number: int, thread: tuple[Message, ...]) -> int:
        fields = {name: make(number) for name, make in self.fields.items()}
        adapter = self.adapters[number % len(self.adapters)]
        return len(adapter.encode(Request(messages=thread, **fields), CallContext()).body)

    def answer(self, text: str) -> Message:
        if not self.bound:
            return assistant(text)
        origin = allm.Origin("anthropic", "messages", MESSAGES.model, "head:before")
        return assistant([allm.ReasoningPart("Hm.", signature="s", origin=origin), allm.TextPart(text)])


def made_anew(_: int) -> tuple[ToolSpec, ...]:
    return (allm.from_json(allm.to_json(TOOLS[0]), ToolSpec),)


def another(number: int) -> str:
    return f"This is request {number}. " + "Be kind. " * 500


ANTHROPIC_API, CHAT_API = MESSAGES.adapter, CHAT.adapter
SENDERS = {
    "the same": (Sender(ANTHROPIC_API), 1),
    "another system prompt": (Sender(CHAT_API, system=another), 1),
    "another system prompt, bound": (Sender(ANTHROPIC_API, bound=True, system=another), 1),
    "tools made anew": (Sender(CHAT_API, tools=made_anew), 1),
    "tools made anew, bound": (Sender(ANTHROPIC_API, bound=True, tools=made_anew), 1),
    "another model": (Sender(CHAT_API, model="model {}".format), 2),
    "two adapters": (Sender(CHAT_API, ANTHROPIC_API), 2),
    "three adapters": (Sender(CHAT_API, ANTHROPIC_API, GENERATE.adapter), 2),
    "a fallback now and then": (Sender(*[CHAT_API] * 6, ANTHROPIC_API), 2),
}


@pytest.mark.parametrize("name", SENDERS)
def test_what_is_kept_is_not_more_than_was_sent(name: str) -> None:
    """Whatever changes from one request to the next: at most two conversations are kept, and each once."""
    sender, targets = SENDERS[name]
    thread: tuple[Message, ...] = ()
    for number in range(60):
        thread = (*thread, user(f"{number}" + "x" * 1000))
        sent = sender(number, thread)
        assert held(thread) < targets * 1.5 * sent + 4000
        thread = (*thread, sender.answer("y" * 1000))


def test_a_window_that_moves_keeps_what_is_in_it() -> None:
    thread = tuple(message for _ in range(40) for message in (user("x" * 1000), assistant("y" * 1000)))
    for start in range(0, 60, 2):
        window = thread[start : start + 19]
        sent = len(CHAT.encode(Request(model=CHAT.model, messages=window)).body)
    assert held(thread) < 1.5 * sent


@pytest.mark.parametrize(
    "name", [name for name in SENDERS if name not in ("another model", "three adapters")]
)
def test_what_is_kept_is_gone_on_with(name: str) -> None:
    """Whatever system prompt and tools are, but what thinking is bound to; so for two targets in turn."""
    sender, _ = SENDERS[name]
    thread: tuple[Message, ...] = (user("hi"), sender.answer("Yes."))
    reused = []
    for number in range(20):
        thread = (*thread, user("again"))
        before = kept(thread)
        sender(number, thread)
        reused.append(is_reused(before, thread))
        thread = (*thread, sender.answer("Yes."))
    anew = {"two adapters": 2, "a fallback now and then": 2, "another system prompt, bound": 20}
    assert reused.count(False) == anew.get(name, 1)


def test_tools_that_differ_in_bytes_alone_are_others() -> None:
    """`1` and `true` are equal, and not the same to thinking that is bound to them."""
    one, true = [(ToolSpec("add", schema={"default": default}),) for default in (1, True)]
    assert one == true
    question = user("hi")
    origin = allm.Origin("anthropic", "messages", MESSAGES.model, fingerprint([question], None, one))
    thought = allm.ReasoningPart("Hm.", signature="s", origin=origin)
    thread: tuple[Message, ...] = (question, assistant([thought, allm.TextPart("Yes.")]), user("sure?"))
    for tools in (one, true, one):
        assert_same_in(MESSAGES, thread, tools=tools)
        thread = (*thread, assistant("Yes."), user("again"))


def test_a_message_at_the_end_of_many_conversations_keeps_two() -> None:
    last = user("Go on.")
    for number in range(5):
        thread, model = asked(8), f"model {number}"
        CHAT.encode(Request(model=model, messages=thread))
        assert_same_in(CHAT, (*thread, assistant("Yes."), last), model=model)
        assert len(last._sent) <= 2


@pytest.mark.parametrize("sent", [True, False], ids=["sent before", "not sent before"])
@dialects
def test_branches_share_what_they_have_in_common(dialect: Dialect, sent: bool) -> None:
    common = (*asked(200, signed=dialect is GENERATE), assistant("Well."))
    if sent:
        dialect.encode(Request(model=dialect.model, messages=common[:-1]))
    branches = [(*common, user(f"Question {number}.")) for number in range(50)]
    for branch in branches:
        size = len(dialect.encode(Request(model=dialect.model, messages=branch)).body)
        assert_same_in(dialect, branch)
    assert held(*branches) < 2 * size + 50 * 1500


def test_branches_for_many_targets_share_no_more_than_two() -> None:
    """What a branch for another target stood behind is let go, not held by the branch."""
    common = (*asked(200), assistant("Well."))
    branches = [(*common, user(f"Question {number}.")) for number in range(20)]
    for number, branch in enumerate(branches):
        size = len(CHAT.encode(Request(model=f"model {number}", messages=branch)).body)
    assert held(*branches) < 2 * 2 * size + 20 * 1500


def test_it_goes_with_its_messages() -> None:
    """No cycle holds what is kept: it goes at once, not when somebody collects."""

    def pieces() -> int:
        return sum(type(value) is _Piece for value in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before, thread = pieces(), asked(8)
        CHAT.encode(Request(model=CHAT.model, messages=thread))
        assert pieces() == before + 2
        del thread
        assert pieces() == before
    finally:
        gc.enable()


def test_a_message_is_the_same_value_with_what_it_keeps() -> None:
    thread = asked(8)
    MESSAGES.encode(Request(model=MESSAGES.model, messages=thread))
    fingerprint(thread)
    last = thread[-1]
    assert {"_sent", "_link"} <= last.__dict__.keys()
    for other in (copy.copy(last), copy.deepcopy(last), pickle.loads(pickle.dumps(last)), user("Thanks.")):
        assert other.__dict__ == {}
        assert (other, repr(other), allm.to_json(other)) == (last, repr(last), allm.to_json(last))


# Nothing twice: counted in calls of Python functions, which no clock disturbs


def calls_of(run: Callable[[], Any]) -> int:
    count = 0

    def seen(_frame: Any, event: str, _what: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def growing(dialect: Dialect, count: int, part: str) -> Iterator[int]:
    """How many calls it takes to encode a conversation that is new, then after each further turn of it."""
    thread = asked(count, part, signed=dialect is GENERATE)
    for number in range(3):
        request = Request(model=dialect.model, messages=thread)
        yield calls_of(lambda request=request: dialect.encode(request))  # type: ignore[misc]  # a lambda's default
        thread = (*thread, assistant([allm.TextPart(f"{number}.")]), user("Go on."))


@dialects
@pytest.mark.parametrize("part", ["text", "parts"])
def test_a_turn_costs_what_it_adds(dialect: Dialect, part: str) -> None:
    """The cost of one more turn does not grow with the conversation; the first call's grows as that does."""
    sizes = [[*growing(dialect, count, part)] for count in (40, 400, 800)]
    small, middle, large = sizes
    assert large[1:] == middle[1:]
    assert max(large[1:]) <= max(small[1:])
    assert large[0] - middle[0] < 1.1 * (middle[0] - small[0]) * 400 / 360
