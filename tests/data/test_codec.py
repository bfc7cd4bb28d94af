"""Every value survives storage; what a newer version wrote is kept; hostile input is refused by name."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from allm.data import codec, content, events, messages, requests, responses, sessions
from allm.data.codec import TYPES, from_json, from_msgpack, to_json, to_msgpack
from allm.errors import SessionError, ValidationError
from tests import strategies

SLOW = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=60
)
ALL: dict[Any, Any] = {**strategies.STRUCTS, **strategies.EVENTS}
BY_CLASS = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


def same(left: Any, right: Any) -> bool:
    """Equal and of the same types throughout: True is not 1, a list is not a tuple."""
    return bool(left == right) and repr(left) == repr(right)


def sorted_maps(value: Any) -> Any:
    """`value` with the keys of its maps in the order in which they are stored."""
    if isinstance(value, msgspec.Struct):
        changes = {name: sorted_maps(getattr(value, name)) for name in value.__struct_fields__}
        return type(value)(**changes)
    if isinstance(value, dict):
        return {key: sorted_maps(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return type(value)(sorted_maps(item) for item in value)
    return value


def test_every_layer_a_struct_has_a_word_and_a_strategy() -> None:
    assert set(TYPES.values()) == set(ALL)
    assert len(TYPES) == len(ALL)


@BY_CLASS
def test_json_round_trip(cls: Any) -> None:
    @SLOW
    @given(ALL[cls])
    def check(value: Any) -> None:
        stored = to_json(value)
        for loaded in (from_json(stored), from_json(stored.encode(), cls), from_json(f" {stored}\n")):
            assert same(sorted_maps(loaded), sorted_maps(value))
        assert to_json(from_json(stored)) == stored

    check()


@BY_CLASS
def test_msgpack_round_trip(cls: Any) -> None:
    @SLOW
    @given(ALL[cls])
    def check(value: Any) -> None:
        stored = to_msgpack(value)
        for loaded in (from_msgpack(stored), from_msgpack(stored, cls)):
            assert same(sorted_maps(loaded), sorted_maps(value))
        assert to_msgpack(from_msgpack(stored)) == stored

    check()


@SLOW
@given(strategies.any_value)
def test_both_forms_hold_the_same(value: Any) -> None:
    assert to_json(from_msgpack(to_msgpack(value))) == to_json(value)


@SLOW
@given(strategies.any_value)
def test_any_order_of_keys_loads(value: Any) -> None:
    """Databases reorder the keys of JSON columns."""
    tree = json.loads(to_json(value))
    turned = json.dumps(dict(reversed(tree.items())), indent=1)
    assert to_json(from_json(turned)) == to_json(value)


def test_the_document_is_as_settled() -> None:
    session = sessions.Session(
        id="s", thread=messages.Thread((messages.user("hi"),)), metadata={"b": 1, "a": 2}
    )
    assert to_json(session) == (
        '{"allm":1,"type":"session","id":"s","thread":{"messages":[{"role":"user","content":"hi"}]},'
        '"metadata":{"a":2,"b":1}}'
    )
    assert to_json(events.TextDelta("x")) == '{"allm":1,"type":"text_delta","text":"x"}'
    assert to_json(messages.Thread()) == '{"allm":1,"type":"thread"}'
    assert from_json('{"allm":1,"type":"thread"}') == messages.Thread()


def test_a_field_named_type_gives_way_to_the_envelope() -> None:
    shape = requests.json_schema("x", {"type": "object"})
    assert json.loads(to_json(shape))["type"] == "response_format"
    assert json.loads(to_json(shape))["type_"] == "json_schema"
    assert from_json(to_json(shape)) == shape
    assert from_msgpack(to_msgpack(shape)) == shape


# --- what a newer version wrote ---------------------------------------------------------------------


def objects(value: Any, tree: Any) -> Iterator[tuple[msgspec.Struct, dict[str, Any]]]:
    """Every struct in `value` beside the object that stands for it in `tree`."""
    if isinstance(value, tuple):
        for item, node in zip(value, tree, strict=True):
            yield from objects(item, node)
    if not isinstance(value, msgspec.Struct):
        return
    if isinstance(value, content.OpaquePart) and tree.get("type") != "opaque":
        return
    yield value, tree
    for name in value.__struct_fields__:
        if name in tree and name != "extra":
            yield from objects(getattr(value, name), tree[name])


NEWER_PART = {"type": "newer_part", "frames": [1, {"b": None}], "text": 7}


@SLOW
@given(strategies.any_value, strategies.json_values)
def test_unknown_fields_and_parts_at_every_depth_are_kept(value: Any, news: Any) -> None:
    if type(value) is events.RawChunk and "allm" in (value.data if isinstance(value.data, dict) else ()):
        return
    tree = json.loads(to_json(value))
    for struct, node in list(objects(value, tree)):
        if "extra" in struct.__struct_fields__:
            node["newer_field"] = news
        if isinstance(struct, messages.Message) and isinstance(node.get("content"), list):
            node["content"].insert(0, NEWER_PART)
    loaded = from_json(json.dumps(tree))
    assert type(loaded) is type(value)
    assert json.loads(to_json(loaded)) == tree
    packed = from_msgpack(to_msgpack(loaded))
    assert packed == loaded


@SLOW
@given(strategies.any_event, strategies.words)
def test_unknown_events_are_kept(event: Any, word: str) -> None:
    if word in TYPES:
        return
    tree = {**json.loads(to_json(event)), "type": word, "newer_field": [1]}
    loaded = from_json(json.dumps(tree), events.Event)
    assert isinstance(loaded, events.RawChunk)
    assert loaded.data == tree
    assert json.loads(to_json(loaded)) == tree
    assert from_msgpack(to_msgpack(loaded)) == loaded


def test_unknown_words_are_kept() -> None:
    stored = '{"allm":1,"type":"session","status":"dreaming","thread":{"messages":[{"role":"critic"}]}}'
    assert from_json(stored).status == "dreaming"
    assert json.loads(to_json(from_json(stored))) == json.loads(stored)


def test_an_unknown_part_is_opaque_and_goes_back_as_it_came() -> None:
    stored = {"allm": 1, "type": "message", "role": "user", "content": [NEWER_PART]}
    loaded = from_json(json.dumps(stored))
    assert loaded.content == (content.OpaquePart(NEWER_PART),)
    assert json.loads(to_json(loaded)) == stored


def test_an_opaque_part_that_looks_like_ours_stays_opaque() -> None:
    message = messages.assistant((content.OpaquePart({"type": "text", "text": "x"}),))
    assert from_json(to_json(message)) == message


def test_a_providers_chunk_is_not_taken_for_a_newer_event() -> None:
    chunk = events.RawChunk({"type": "ping", "n": 1})
    assert json.loads(to_json(chunk))["type"] == "raw_chunk"
    assert from_json(to_json(chunk)) == chunk


def test_extra_never_hides_a_field() -> None:
    message = messages.Message(
        "user", "x", extra={"role": "system", "extra": 1, "type": 2, "allm": 3, "new": 4}
    )
    assert json.loads(to_json(message)) == {
        "allm": 1, "type": "message", "role": "user", "content": "x", "new": 4,
        "extra": {"role": "system", "extra": 1, "type": 2, "allm": 3},
    }  # fmt: skip
    assert from_json(to_json(message)) == message


def test_a_known_event_with_an_unknown_field_is_refused_with_its_name() -> None:
    with pytest.raises(ValidationError, match=r"unknown_field.*newer_field"):
        from_json('{"allm":1,"type":"text_delta","text":"x","newer_field":1}')


# --- the envelope -----------------------------------------------------------------------------------


def test_a_newer_major_version_is_named() -> None:
    with pytest.raises(SessionError, match=r"version 7.*version 1"):
        from_json('{"allm":7,"type":"session"}')
    with pytest.raises(SessionError, match=r"version 7.*version 1"):
        from_msgpack(msgspec.msgpack.encode({"allm": 7, "type": "session"}))


@pytest.mark.parametrize("version", ["0", "-1", "true", "1.5", '"1"', "null", "[]"])
def test_a_version_that_is_none(version: str) -> None:
    with pytest.raises(ValidationError, match="allm: invalid_version"):
        from_json(f'{{"allm":{version},"type":"session"}}')


def test_without_an_envelope_the_type_must_be_given() -> None:
    with pytest.raises(ValidationError, match="type="):
        from_json('{"role":"user","content":"x"}')
    assert from_json('{"role":"user","content":"x"}', messages.Message) == messages.user("x")
    assert from_json('{"type":"text","text":"x"}', content.Part) == content.TextPart("x")
    assert from_json('{"type":"newer","n":1}', content.Part) == content.OpaquePart({"type": "newer", "n": 1})


def test_another_type_than_asked_for() -> None:
    stored = to_json(messages.user("x"))
    with pytest.raises(ValidationError, match="unexpected_type message"):
        from_json(stored, sessions.Session)
    with pytest.raises(ValidationError, match="unexpected_type message"):
        from_json(stored, events.Event)
    with pytest.raises(ValidationError, match="unexpected_type newer"):
        from_json('{"allm":1,"type":"newer"}', sessions.Session)
    with pytest.raises(ValidationError, match="unknown_type"):
        from_json(stored, dict)


# --- hostile input ----------------------------------------------------------------------------------

HEAD = '{"allm":1,"type":"session",'
MESSAGE = HEAD + '"thread":{"messages":[{"role":"user","content":'
DEEP = 100_000
HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "empty": (b"", "malformed"),
    "no JSON": (b"hello", "malformed"),
    "a list": (b"[]", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "no UTF-8": (HEAD.encode() + b'"id":"\xff"}', "invalid_unicode"),
    "lone surrogate in text": (HEAD + '"id":"\ud800"}', "invalid_unicode"),
    "lone surrogate escaped": (HEAD + '"id":"\\ud800"}', "malformed"),
    "cut off": (HEAD + '"id":"x"', "malformed"),
    "comma at the end": (HEAD + "}", "malformed"),
    "two documents": (HEAD + '"id":"x"}{}', "malformed"),
    "NaN": (HEAD + '"context":{"a":NaN}}', "malformed"),
    "Infinity": (HEAD + '"context":{"a":Infinity}}', "malformed"),
    "huge exponent": (HEAD + '"context":{"a":1e999}}', "number_out_of_range"),
    "huge integer": (HEAD + '"context":{"a":1' + "0" * 30 + "}}", "context.a: integer_out_of_range"),
    "endless integer": (HEAD + '"revision":' + "9" * 5000 + "}", "out_of_range"),
    "huge typed integer": (HEAD + '"revision":1' + "0" * 30 + "}", "revision: integer_out_of_range"),
    "deep list": (HEAD + '"context":{"a":' + "[" * DEEP + "]" * DEEP + "}}", "nested_too_deeply"),
    "deep map": (HEAD + '"context":' + '{"a":' * DEEP + "1" + "}" * DEEP + "}", "nested_too_deeply"),
    "deep unknown field": (HEAD + '"new":' + "[" * 500 + "]" * 500 + "}", "new.*nested_too_deeply"),
    "deep and not closed": (HEAD + '"context":{"a":' + "[" * DEEP, "nested_too_deeply"),
    "wrong type": (HEAD + '"revision":"1"}', r"revision: invalid_type \(Expected int, got str\)"),
    "wrong type deep": (MESSAGE + "7}]}}", r"thread.messages\[0\].content: invalid_type"),
    "a map as content": (MESSAGE + '{"a":1}}]}}', r"thread.messages\[0\].content: invalid_type"),
    "null where text is": (HEAD + '"status":null}', "status: invalid_type"),
    "missing field": (HEAD + '"thread":{"messages":[{}]}}', r"messages\[0\]: missing_field .*role"),
    "extra is no map": (HEAD + '"extra":1}', "extra: invalid_type"),
    "part without a type": (MESSAGE + '[{"text":"x"}]}]}}', r"content\[0\]: missing_field"),
    "part with a number as type": (MESSAGE + '[{"type":1}]}]}}', r"content\[0\].type: invalid_type"),
    "bad base64": (
        MESSAGE + '[{"type":"audio","data":"%%%"}]}]}}',
        r"thread.messages\[0\].content\[0\].data: invalid_base64",
    ),
    "image without a source": (MESSAGE + '[{"type":"image","image":{}}]}]}}', "exactly_one_of_data_url_path"),
    "image with two sources": (
        MESSAGE + '[{"type":"image","image":{"url":"x","path":"y"}}]}]}}',
        r"thread.messages\[0\].content\[0\].image.*exactly_one",
    ),
    "type is a list": (b'{"allm":1,"type":["session"]}', "type: missing_type"),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json(data: str | bytes, reason: str) -> None:
    for expected in (None, sessions.Session):
        with pytest.raises(ValidationError, match=reason):
            from_json(data, expected)


PACK = msgspec.msgpack.encode
HOSTILE_PACKED: dict[str, bytes] = {
    "empty": b"",
    "no map": b"\x01",
    "short map": b"\xde",
    "map without end": b"\xdf\xff\xff\xff\xff",
    "deep": b"\x81\xa4allm" + b"\x91" * DEEP,
    "deep context": PACK({"allm": 1, "type": "session"})[:1].replace(b"\x82", b"\x83")
    + PACK({"allm": 1, "type": "session"})[1:] + b"\xa7context\x81\xa1a" + b"\x91" * 500 + b"\xc0",
    "NaN": PACK({"allm": 1, "type": "session", "context": {"a": float("nan")}}),
    "typed NaN": PACK({"allm": 1, "type": "request", "temperature": float("nan")}),
    "infinity": PACK({"allm": 1, "type": "embedding_response", "vectors": [[float("inf")]]}),
    "bytes in a map": PACK({"allm": 1, "type": "session", "context": {"a": b"x"}}),
    "bytes as text": PACK({"allm": 1, "type": "session", "id": b"x"}),
    "numbers as keys": PACK({"allm": 1, "type": "session", "context": {1: 2}}),
    "number as a field": PACK({"allm": 1, "type": "session", 1: 2}),
    "extension": PACK({"allm": 1, "type": "session", "context": {"a": msgspec.msgpack.Ext(5, b"x")}}),
    "bytes as type": PACK({"allm": 1, "type": b"session"}),
    "cut in the head": PACK({"allm": 1, "type": "session"})[:-3],
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE_PACKED.values(), ids=HOSTILE_PACKED.keys())
def test_hostile_msgpack(data: bytes) -> None:
    for expected in (None, sessions.Session):
        with pytest.raises(ValidationError):
            from_msgpack(data, expected)


def refused_or_loaded(load: Callable[[Any], Any], data: bytes) -> None:
    try:
        value = load(data)
    except (ValidationError, SessionError):
        return
    to_json(value)
    to_msgpack(value)


@SLOW
@given(st.binary(max_size=64))
def test_noise(data: bytes) -> None:
    refused_or_loaded(from_json, data)
    refused_or_loaded(from_msgpack, data)


@SLOW
@given(strategies.any_value, st.data())
def test_damaged_documents(value: Any, data: DataObject) -> None:
    for stored, load in ((to_json(value).encode(), from_json), (to_msgpack(value), from_msgpack)):
        at = data.draw(st.integers(0, len(stored) - 1))
        byte = data.draw(st.integers(0, 255))
        refused_or_loaded(load, stored[:at])
        refused_or_loaded(load, stored[:at] + bytes((byte,)) + stored[at + 1 :])


@SLOW
@given(strategies.any_value, strategies.json_values, st.data())
def test_any_json_in_the_place_of_any_other(value: Any, other: Any, data: DataObject) -> None:
    tree = json.loads(to_json(value))
    nodes: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            nodes.append((node, key))
            if isinstance(item, dict | list):
                collect(item)

    collect(tree)
    node, key = data.draw(st.sampled_from(nodes))
    node[key] = other
    refused_or_loaded(from_json, json.dumps(tree).encode())
    refused_or_loaded(from_msgpack, PACK(tree))


@pytest.mark.parametrize(
    "value",
    [
        messages.Thread((messages.user("hi"),)),
        sessions.Session(id="s", thread=messages.Thread((messages.user("hi"),))),
        responses.ChatResult(steps=(responses.StepResult(response=responses.Response(id="r")),)),
        content.ToolCall("c", "add", {"a": 1}),
        events.TextDelta("hi"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_this_version_wrote_is_read_in_one_pass(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage, which looks at each object, is for documents of other versions."""
    monkeypatch.setattr(codec, "_upgraded", None)
    assert from_json(to_json(value)) == value
    assert from_json(to_json(value).encode(), type(value)) == value
    assert from_msgpack(to_msgpack(value)) == value


@pytest.mark.parametrize("word", [b"", b"\xa6thre", b"\xbfthre", b"\xd9"])
def test_msgpack_that_is_cut_in_its_envelope(word: bytes) -> None:
    whole = to_msgpack(messages.Thread())
    with pytest.raises(ValidationError):
        from_msgpack(whole[: whole.index(b"\xa6thread")] + word)


def test_of_duplicate_keys_the_last_wins() -> None:
    assert from_json('{"allm":1,"type":"session","id":"a","id":"b"}').id == "b"
    assert from_json('{"allm":1,"type":"thread","type":"session"}') == sessions.Session()


@pytest.mark.parametrize("data", [None, 7, {}, [], object()])
def test_input_that_is_no_text(data: Any) -> None:
    with pytest.raises(ValidationError):
        from_json(data)
    with pytest.raises(ValidationError):
        from_msgpack(data)


def deep_list() -> Any:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    return deep


UNUSABLE: dict[str, tuple[Any, str]] = {
    "deep": (lambda: content.OpaquePart(deep_list()), "nested_too_deeply"),
    "key": (lambda: content.OpaquePart({"a": {1: 2}}), "data.*key_not_a_string"),
    "bytes": (
        lambda: content.TextPart("x", provider_data={"a": [b"x"]}),
        r"provider_data.a\[0\]: type_bytes",
    ),
    "extra": (lambda: messages.Message("user", extra={"a": object()}), "extra.a: type_object"),
    "infinite": (lambda: events.ToolHalt("c", "stop", float("inf")), "value: not_a_finite_number"),
}


@pytest.mark.parametrize(("build", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_free_form_values_are_refused_on_entry(build: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        build()


UNWRITABLE: dict[str, tuple[Any, str]] = {
    "object": (object(), "type_object"),
    "dict": ({"role": "user"}, "type_dict"),
    "None": (None, "type_NoneType"),
    "nan": (requests.Request(temperature=float("nan")), "temperature: not_a_finite_number"),
    "huge": (responses.Usage(input_tokens=2**70), "input_tokens: integer_out_of_range"),
    "surrogate": (messages.user("\ud800"), "invalid_unicode"),
}


@pytest.mark.parametrize(("value", "reason"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_cannot_be_stored_is_refused_when_written(value: Any, reason: str) -> None:
    for write in (to_json, to_msgpack):
        with pytest.raises(ValidationError, match=reason):
            write(value)


def test_loading_imports_and_runs_nothing() -> None:
    name = "this_module_must_not_be_imported"
    tool = requests.ToolSpec("x", handler=f"{name}:run")
    hooks: list[Any] = []
    before = set(sys.modules)
    sys.addaudithook(lambda event, arguments: hooks.append((event, arguments)) if watching else None)
    watching = True
    loaded = from_json(to_json(requests.Request(tools=(tool,))))
    watching = False
    assert loaded.tools[0].handler == f"{name}:run"
    assert set(sys.modules) - before <= {"msgspec"}
    assert not [event for event, _ in hooks if event in ("import", "exec", "compile", "open")]


def test_a_long_session_costs_little() -> None:
    turns = tuple(messages.user("hello") if i % 2 else messages.assistant("hi") for i in range(2000))
    session = sessions.Session(thread=messages.Thread(turns))
    stored = to_json(session)
    started = time.perf_counter()
    for _ in range(5):
        from_json(stored)
        to_json(session)
    assert (time.perf_counter() - started) / 5 < 0.1  # measured: 3 ms


def test_what_a_newer_version_wrote_into_an_empty_thread_is_kept() -> None:
    value = responses.ChatResult(base=messages.Thread(extra={"": None, "newer": 1}))
    assert from_json(to_json(value)) == value
    assert json.loads(to_json(value))["base"] == {"": None, "newer": 1}


def test_a_long_conversation_of_text_is_looked_at_by_columns() -> None:
    """What is dumped is checked without a call of Python for each message."""

    def calls(count: int) -> int:
        thread = messages.Thread(tuple([messages.Message("user", "hi") for _ in range(count)]))
        seen: list[str] = []
        before = sys.getprofile()
        sys.setprofile(lambda frame, event, what: seen.append(event))
        try:
            to_json(thread)
        finally:
            sys.setprofile(before)
        return seen.count("call")

    assert calls(10) == calls(1000)


def test_one_bad_value_among_many_is_found() -> None:
    said = [messages.Message("user", "hi", metadata={"n": 1}) for _ in range(3)]
    said[1].metadata["n"] = float("nan")
    with pytest.raises(ValidationError) as error:
        to_json(messages.Thread(tuple(said)))
    assert [path for path, _ in error.value.errors] == ["messages[1].metadata.n"]
