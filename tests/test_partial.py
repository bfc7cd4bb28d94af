"""Partial values: the push parser, the views of a type, and `partial` on streams of every face."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import sys
from collections.abc import Callable, Iterator
from datetime import date
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allm
from allm import partial as partials
from allm.data.events import MessageStarted, TextDelta
from allm.errors import OutputError
from allm.partial import MISSING, JsonParser, PartialAnswer, PartialList, PartialObject, plain
from allm.providers.fake import FakeAdapter
from tests.faces import AwaitedFace, Face

STRINGS = st.text(max_size=8) | st.sampled_from(['"\\/\b\f\n\r\t', "```", "\U0001f600é\u2028", "}]{[,:"])
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    STRINGS | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=12,
)
CONTAINERS = st.lists(JSON, max_size=4) | st.dictionaries(STRINGS, JSON, max_size=4)


def cut(text: str, size: int = 4) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def shown(text: str, type: Any = Any, size: int = 1) -> list[Any]:
    """The values that came, and the last one again at its end."""
    answer = PartialAnswer(type)
    values = [answer.feed(piece) for piece in cut(text, size)]
    return [value for value in values if value is not MISSING]


def grew(before: Any, after: Any) -> bool:
    """Whether nothing of `before` is gone: no field, no item, no character."""
    if isinstance(before, str):
        return isinstance(after, str) and after.startswith(before)
    if isinstance(before, dict):
        kept = isinstance(after, dict) and list(after)[: len(before)] == list(before)
        return kept and all(grew(before[key], after[key]) for key in before)
    if isinstance(before, list):
        kept = isinstance(after, list) and len(after) >= len(before)
        return kept and all(map(grew, before, after))
    return type(before) is type(after) and before == after


# The parser


@settings(deadline=None)
@given(CONTAINERS, st.booleans(), st.sampled_from([None, 1]), st.integers(1, 7))
def test_what_is_shown_only_grows_and_ends_whole(
    value: Any, escaped: bool, indent: int | None, size: int
) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    views = shown(text, size=size)
    seen = [plain(view) for view in views]
    assert all(map(grew, seen, seen[1:]))
    assert msgspec.json.encode(seen[-1]) == msgspec.json.encode(json.loads(text))
    again = [plain(view) for view in views]
    assert again == seen, "a snapshot stays as it was"


@settings(deadline=None, max_examples=300)
@given(
    st.text(st.sampled_from('{}[]",:\\u0dD8cCeE19-+.tfn`\n a\ud800\udc00'), max_size=60)
    | CONTAINERS.map(json.dumps),
    st.integers(1, 5),
    st.integers(0, 60),
)
def test_nothing_that_a_model_writes_raises(text: str, size: int, at: int) -> None:
    hostile = text[:at] + text[at + 1 :]
    seen = [plain(view) for view in shown(hostile, size=size)]
    assert all(map(grew, seen, seen[1:]))
    for view in shown(hostile, list[dict[str, int]], size):
        repr(view)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 5000, 100),
        ('{"a":' * 5000, 100),
    ],
)
def test_deep_nesting_ends_the_showing(text: str, expected: int) -> None:
    value, depth = plain(shown(text, size=97)[-1]), 0
    while value:
        value, depth = value[0] if isinstance(value, list) else value["a"], depth + 1
    assert depth == expected - 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a":12', [{}]),
        ('{"a":12,', [{}, {"a": 12}]),
        ("[1.5e3]", [[], [1500.0]]),
        ("[-]", [[]]),
        ("[1e999]", [[]]),
        ("[tru", [[]]),
        ("[truth]", [[]]),
        ("[true,null]", [[], [True], [True, None]]),
        ('["\\u00e9"]', [[], [""], ["é"], ["é"]]),
        ('["\\ud83d\\ude00"]', [[], [""], ["\U0001f600"], ["\U0001f600"]]),
        ('["\\ud83dx"]', [[], [""], ["\ufffdx"], ["\ufffdx"]]),
        ('["\\ud83d"]', [[], [""], ["\ufffd"]]),
        ('["\\ud83d\\ud83d\\ude00"]', [[], [""], ["\ufffd"], ["\ufffd\U0001f600"], ["\ufffd\U0001f600"]]),
        ('["\\ude00\\n"]', [[], [""], ["\ufffd"], ["\ufffd\n"], ["\ufffd\n"]]),
        ('["\\uzz', [[], [""]]),
        ('["\\q', [[], [""]]),
        ('{"a":1,"a":"xyz"}', [{}, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}]),
        ('{"a" 1}', [{}]),
        ("{1}", [{}]),
        ("[1 2]", [[], [1]]),
        ("[,", [[]]),
        ('"ab"', ["", "a", "ab", "ab"]),
        ("12", []),
        ("no JSON at all", []),
        ("", []),
        ('Sure!\n```json\n{"a":[]}\n``` and more', [{}, {"a": []}]),
        ("``x``` \n[]```[1]", [[]]),
    ],
)
def test_what_is_shown_character_by_character(text: str, values: list[Any]) -> None:
    assert [plain(value) for value in shown(text)] == values


def test_a_value_is_whole_when_it_is_closed_and_the_rest_is_passed_over() -> None:
    parser = JsonParser()
    assert parser.feed('{"a": ["b"]} thanks')
    assert not parser.feed('{"c": 1}')
    assert plain(parser.shown()) == {"a": ["b"]}
    assert JsonParser().shown() is MISSING


# Work: the characters looked at and the lines run, not the time taken


LONG: dict[str, Callable[[int], Any]] = {
    "one string": lambda size: {"text": "x" * size},
    "escapes": lambda size: {"text": "\n\u00e9" * (size // 8)},
    "a list of numbers": lambda size: list(range(100_000, 100_000 + size // 8)),
    "a list of objects": lambda size: [{"name": "Ada", "age": 36}] * (size // 30),
    "many keys": lambda size: {f"key{number}": number for number in range(size // 14)},
    "a number": lambda size: [int("1" * size)] if size < 1 else ["1" * size],
    "words before it": lambda size: "y" * size,
}


def work(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Lines run and characters looked at, to show `text` in deltas of four characters."""
    lines = looked = 0

    class Counted:
        def __init__(self, pattern: Any) -> None:
            self.pattern = pattern

        def match(self, given: str, at: int) -> Any:
            nonlocal looked
            found = self.pattern.match(given, at)
            looked += 1 + (found.end() - at if found else 0)
            return found

    def line(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += 1
        return line

    for name in ("_SPACE", "_RUN", "_SCALAR"):
        monkeypatch.setattr(partials, name, Counted(getattr(partials, name)))
    answer, pieces = PartialAnswer(Any), cut(text)
    before = sys.gettrace()
    sys.settrace(line)
    try:
        for piece in pieces:
            answer.feed(piece)
    finally:
        sys.settrace(before)
    monkeypatch.undo()
    return lines, looked


@pytest.mark.parametrize("kind", LONG)
def test_the_work_is_linear_in_the_answer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (json.dumps(LONG[kind](size)) for size in (6000, 24_000))
    if kind == "words before it":
        small, large = small.strip('"'), large.strip('"')
    few, many = work(small, monkeypatch), work(large, monkeypatch)
    assert many[0] <= 5 * few[0]
    assert many[1] <= 5 * few[1] + 50
    assert many[1] <= 3 * len(large), "each character is looked at once, and the ends of runs once more"


def test_a_snapshot_joins_no_string_and_copies_no_container() -> None:
    parser = JsonParser()
    parser.feed('{"items": [' + '"a", ' * 1000 + '"')
    before = partials_size(parser)
    for _ in range(100):
        parser.feed("abcd")
        parser.shown()
    assert partials_size(parser) == before + 100


def test_an_answer_that_is_one_string_is_joined_as_it_grows_by_an_eighth() -> None:
    for answer, text in ((PartialAnswer(str), '"'), (PartialAnswer(str, root="value"), '{"value": "')):
        answer.feed(text)
        values = [answer.feed("abcd") for _ in range(25_000)]
        lengths = [len(value) for value in values if value is not MISSING]
        assert lengths[:3] == [4, 8, 12]
        assert sum(lengths) < 10 * 100_000
        assert answer.feed('"') == "abcd" * 25_000


def partials_size(parser: JsonParser) -> int:
    """The pieces of the string that is open: they are kept, not joined."""
    return len(parser._open().pieces)


# Types


class Colour(enum.Enum):
    red = "red"


class Step(msgspec.Struct):
    text: str
    minutes: int | None = None


class Recipe(msgspec.Struct, rename="camel"):
    full_title: str
    items: list[Step]
    colour: Colour = Colour.red
    day: date | None = None
    kind: Literal["sweet", "salty"] = "sweet"


@dataclasses.dataclass
class Plain:
    name: str
    keys: dict[str, list[int]]


class Model(pydantic.BaseModel):
    name: str
    size: int = pydantic.Field(alias="theSize")
    inner: Plain | None = None


class Typed(TypedDict):
    name: str
    when: NotRequired[date]


class Pair(NamedTuple):
    first: str
    second: Step


X = TypeVar("X")


@dataclasses.dataclass
class Box(Generic[X]):
    held: X
    many: list[X]


UserId = NewType("UserId", str)


@attrs.define
class Attributes:
    name: str


@dataclasses.dataclass
class Lost:
    name: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037


class One(msgspec.Struct, tag="one"):
    a: int = 0
    day: int = 0


class Two(msgspec.Struct, tag="two", rename={"day": "theDay"}):
    b: str = ""
    day: date | None = None


@dataclasses.dataclass
class Cat:
    kind: Literal["cat"]
    at: int = 0


@dataclasses.dataclass
class Dog:
    kind: Literal["dog", "wolf"]
    at: date = date.min


class Bird(pydantic.BaseModel):
    kind: Literal[Colour.red]
    at: Annotated[str, {"not": "hashable"}] = ""


class TypedCat(TypedDict):
    kind: Literal["cat"]
    at: NotRequired[str]


class TypedDog(TypedDict):
    kind: Literal["dog"]
    at: NotRequired[date]


class Painter:
    name = "painter"

    def complete(self, request: allm.ImageRequest, ctx: Any) -> allm.ImageResponse:
        raise AssertionError("nothing is asked for")


def last(text: str, type: Any) -> Any:
    return shown(text, type)[-1]


def test_fields_of_a_struct_under_their_names_in_python() -> None:
    view = last('{"fullTitle": "Pancakes", "items": [{"text": "Mix", "minutes": 3}, {"text": "Fr', Recipe)
    assert view.full_title == "Pancakes"
    assert [step.text for step in view.items] == ["Mix", "Fr"]
    assert (view.items[0].minutes, view.items[1].minutes) == (3, None)
    assert (view.colour, view.day) == (None, None)
    assert "items" in view
    assert "day" not in view
    assert "fullTitle" not in view
    with pytest.raises(AttributeError, match="Recipe has no field 'title'"):
        _ = view.title
    assert repr(view) == (
        "Recipe(full_title='Pancakes', items=[Step(text='Mix', minutes=3), Step(text='Fr')])"
    )


def test_dates_enums_and_literals_come_whole_and_converted() -> None:
    text = '{"colour": "red", "day": "2026-11-21", "kind": "salty", "items": []'
    views = shown(text, Recipe)
    assert {view.colour for view in views} == {None, Colour.red}
    assert {view.day for view in views} == {None, date(2026, 11, 21)}
    assert {view.kind for view in views} == {None, "salty"}
    assert {len(view) for view in shown('["red", "red"', list[Colour])} == {0, 1, 2}
    assert last('{"colour": "blue", "kind": 1', Recipe).colour == "blue", "parse will say so"


@pytest.mark.parametrize(
    ("type", "text", "read", "expected"),
    [
        (Plain, '{"name": "a", "keys": {"x": [1, 2', lambda v: v.keys, {"x": [1]}),
        (Model, '{"theSize": 3, "inner": {"name": "b"', lambda v: (v.size, v.inner.name), (3, "b")),
        (Typed, '{"name": "a", "when": "2026-11-2', lambda v: dict(v), {"name": "a"}),
        (Typed, '{"name": "a", "when": "2026-11-21"', lambda v: v["when"], date(2026, 11, 21)),
        (Pair, '["a", {"text": "b"', lambda v: (v[0], v[1].text), ("a", "b")),
        (tuple[int, ...], "[1, 2,", lambda v: v, [1, 2]),
        (tuple[str, Step], '["a", {"text": "b"', lambda v: v[1].text, "b"),
        (set[str], '["a", "b', lambda v: v, ["a", "b"]),
        (Box[Step], '{"held": {"text": "a"}, "many": [{"text": "b"', lambda v: v.many[0].text, "b"),
        (Step | Plain, '{"name": "a"', lambda v: (v.name, v.text), ("a", None)),
        (str | date, '"2026', lambda v: v, "2026"),
        (UserId, '"us', lambda v: v, "us"),
        (Annotated[list[Step], "x"], '[{"text": "a"', lambda v: v[-1].text, "a"),
        (list[Step] | None, '[{"text": "a"', lambda v: v[0].text, "a"),
        (dict[str, Step], '{"k": {"text": "a"', lambda v: v["k"].text, "a"),
        (Any, '{"k": ["a"', lambda v: v, {"k": ["a"]}),
        (Attributes, '{"name": "a', lambda v: v.name, "a"),
        (Lost, '{"name": "a', lambda v: v.name, "a"),
        (Annotated[str, {"not": "hashable"}], '"a', lambda v: v, "a"),
        (list[Annotated[Step, {"not": "hashable"}]], '[{"text": "a', lambda v: v[0].text, "a"),
    ],
)
def test_types(type: Any, text: str, read: Callable[[Any], Any], expected: Any) -> None:
    assert read(last(text, type)) == expected


def test_a_tag_that_is_complete_says_which_member_of_a_union_it_is() -> None:
    views = shown('{"type":"one","a":12}', One | Two)
    assert list(dict.fromkeys(map(repr, views))) == ["One | Two()", "One()", "One(a=12)"]
    assert views[-1].b is None, "what could be asked for before still can"
    assert "b" not in views[-1]
    with pytest.raises(AttributeError, match="One has no field 'c'"):
        _ = views[-1].c
    late = shown('[{"theDay":"2026-11-21","b":"x","type":"two"}]', list[One | Two])
    assert [repr(view) for view in late[-1]] == ["Two(b='x', day=datetime.date(2026, 11, 21))"]
    assert {view[0].day for view in late if view} == {None, date(2026, 11, 21)}


@pytest.mark.parametrize(
    ("type", "text", "expected"),
    [
        (Cat | Dog, '{"kind":"dog","at":"2026-11-21"', "Dog(kind='dog', at=datetime.date(2026, 11, 21))"),
        (Cat | Dog, '{"at":"2026-11-21","kind":"wol', "Cat | Dog(at=datetime.date(2026, 11, 21))"),
        (Cat | Dog | None, '{"kind":"cow","at":"2026', "Cat | Dog(kind='cow')"),
        (Cat | Bird, '{"kind":"red","at":"x', "Bird(kind='red', at='x')"),
        (Dog | Step, '{"kind":"cow","text":"x', "Step(text='x')"),
        (TypedCat | TypedDog, '{"kind":"cat","at":"2026-11-21"', "{'kind': 'cat', 'at': '2026-11-21'}"),
        (TypedCat | TypedDog, '{"kind":"dog","at":"2026-11-21"', None),
        (TypedCat | dict[str, date], '{"x":"2026-11-21"', "{'x': datetime.date(2026, 11, 21)}"),
    ],
)
def test_members_of_unions(type: Any, text: str, expected: str | None) -> None:
    expected = expected or "{'kind': 'dog', 'at': datetime.date(2026, 11, 21)}"
    assert repr(last(text, type)) == expected


def test_views_read_like_what_they_stand_for() -> None:
    numbers = last("[1, 2, 3, 4, ", list[int])
    assert isinstance(numbers, PartialList)
    assert (numbers[-1], numbers[1:3], len(numbers), 3 in numbers) == (4, [2, 3], 4, True)
    assert numbers == [1, 2, 3, 4]
    assert numbers != [1]
    assert numbers != 1
    assert repr(numbers) == "[1, 2, 3, 4]"
    with pytest.raises(IndexError):
        _ = numbers[4]
    mapping = last('{"a": 1, "b": {"c": 2, ', dict[str, Any])
    assert mapping == {"a": 1, "b": {"c": 2}}
    assert (len(mapping), list(mapping), mapping.get("z")) == (2, ["a", "b"], None)
    assert repr(mapping) == "{'a': 1, 'b': {'c': 2}}"
    first, second = last('{"text": "a"', Step), last('{"text": "a", "mi', Step)
    assert isinstance(first, PartialObject)
    assert first == second
    assert first != last('{"text": "b"', Step)
    assert first != Step("a")
    for view in (numbers, mapping, first):
        assert copy.deepcopy(view) is copy.copy(view) is view


def test_a_value_in_an_object_is_shown_without_it() -> None:
    answer = PartialAnswer(list[int], root="value")
    values = [answer.feed(piece) for piece in cut('{"value": [1, 22, 3]}', 1)]
    assert [list(value) for value in values if value is not MISSING] == [[], [1], [1, 22], [1, 22, 3]]
    disobedient = PartialAnswer(list[int], root="value")
    assert disobedient.feed("[1, ") == [1]


def test_turns_begin_anew_and_the_first_pass_is_not_shown() -> None:
    answer = PartialAnswer(list[int], waiting=True)
    assert answer.take(TextDelta("[9, ")) is MISSING
    assert answer.take(MessageStarted()) is MISSING
    assert answer.take(TextDelta("[8, ")) is MISSING
    assert answer.take(MessageStarted(halted="completed")) is MISSING
    assert answer.take(TextDelta("[1, ")) == [1]
    answer.take(MessageStarted())
    assert answer.take(TextDelta("[2, ")) == [2]


# Streams


def read(face: Face, stream: Any, type: Any, most: int = 10_000) -> list[Any]:
    if not isinstance(face, AwaitedFace):
        with stream:
            return [value for value, _ in zip(stream.partial(type), range(most), strict=False)]

    async def work() -> list[Any]:
        values: list[Any] = []
        async with stream:
            async for value in stream.partial(type):
                values.append(value)
                if len(values) == most:
                    break
        return values

    return face.run(work)  # type: ignore[no-any-return]


def fake(*scripts: list[dict[str, Any]]) -> allm.Engine:
    return allm.Engine(adapter=FakeAdapter(list(scripts)))


TEXT = json.dumps({"fullTitle": "Pancakes", "items": [{"text": "Mix"}, {"text": "Fry", "minutes": 3}]})


@pytest.mark.parametrize("verb", ["stream_generate", "stream_step", "stream"])
def test_a_stream_gives_partial_values_then_the_value(face: Face, verb: str) -> None:
    stream = face.make(verb, fake([{"text": cut(TEXT)}]), "?", response_format=Recipe)
    *values, final = read(face, stream, Recipe)
    assert final == msgspec.json.decode(TEXT, type=Recipe)
    titles = [value.full_title for value in values]
    assert sorted(set(map(str, titles)), key=len)[-1] == "Pancakes"
    counts = [len(value.items or ()) for value in values]
    assert counts == sorted(counts)
    assert counts[-1] == 2


def test_after_some_events_it_goes_on_from_there(face: Face) -> None:
    engine = fake([{"text": cut(TEXT)}])
    stream = face.make("stream_generate", engine, "?", response_format=Recipe)
    if isinstance(face, AwaitedFace):

        async def work() -> list[Any]:
            async with stream:
                for _ in range(5):
                    await anext(stream)
                return [value async for value in stream.partial(Recipe)]

        values = face.run(work)
    else:
        for _ in range(5):
            next(stream)
        values = list(stream.partial(Recipe))
    assert all("full_title" in value for value in values[:-1])
    assert values[-1] == msgspec.json.decode(TEXT, type=Recipe)


def test_asked_for_in_the_second_pass_it_does_not_wait_for_another() -> None:
    engine = fake([{"text": "Let me think."}], [{"text": cut(TEXT)}])
    stream = allm.stream(engine, "?", response_format=Recipe, structured_finalize=True)
    while not (type(event := next(stream)) is TextDelta and event.text.startswith("{")):
        pass
    *values, final = stream.partial(Recipe)
    assert len(values) > 1
    assert final == msgspec.json.decode(TEXT, type=Recipe)


def test_a_stream_that_was_read_gives_the_value_alone() -> None:
    stream = allm.stream_generate(fake([{"text": TEXT}]), "?", response_format=Recipe)
    response = stream.result()
    assert list(stream.partial(Recipe)) == [response.parse(Recipe)]


def test_a_run_that_fails_raises_after_what_it_gave(face: Face) -> None:
    script: list[dict[str, Any]] = [{"text": ["[1, ", "2, "]}, {"error": "overloaded"}]
    stream = face.make("stream", fake(script), "?", response_format=list[int])
    seen: list[Any] = []
    with pytest.raises(allm.OverloadedError):
        seen += read(face, stream, list[int])
    quiet = face.make("stream", fake(script), "?", response_format=list[int], raise_on_error=False)
    assert read(face, quiet, list[int]) == [[1], [1, 2]]


def test_an_answer_that_does_not_fit_raises_at_the_end() -> None:
    stream = allm.stream(fake([{"text": '["a"]'}]), "?")
    values: Iterator[Any] = stream.partial(list[int])
    assert next(values) == ["a"]
    with pytest.raises(OutputError, match=r"\[0\]: Expected int"):
        next(values)


def test_leaving_early(face: Face) -> None:
    stream = face.make("stream", fake([{"text": cut(TEXT)}]), "?", response_format=Recipe)
    assert len(read(face, stream, Recipe, most=3)) == 3


def test_what_has_no_text_has_no_partial_value() -> None:
    stream = allm.stream_generate_image(allm.Engine(image_adapter=Painter()), "a cat")
    with pytest.raises(allm.ConfigurationError, match="in text"):
        next(stream.partial(dict))
