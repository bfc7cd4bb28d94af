"""Local JSON Schema validation against the reference library, and Python types as schemas."""

from __future__ import annotations

import dataclasses
import enum
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allm.errors import ConfigurationError, ValidationError
from allm.schemas import answer_value, convert, problems, schema_name, schema_of, unknown_keywords

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, 2.5])
    | st.text("ab", max_size=3)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
SIZES = st.integers(0, 3)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    names = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
    sizes = {
        f"{bound}{what}": SIZES for bound in ("min", "max") for what in ("Length", "Items", "Properties")
    }
    limits = {
        name: st.integers(-2, 2) for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    }
    rest: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "properties": named,
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$", "."]), inner, max_size=2),
        "additionalProperties": inner,
        "propertyNames": inner,
        "required": names,
        "dependentRequired": st.dictionaries(st.sampled_from("abc"), names, max_size=2),
        "items": inner,
        "prefixItems": some,
        "contains": inner,
        "minContains": SIZES,
        "maxContains": SIZES,
        "uniqueItems": st.booleans(),
        "multipleOf": st.sampled_from([1, 2, 0.5, 0.1]),
        "pattern": st.sampled_from(["^a", "b", "a$"]),
        "allOf": some,
        "anyOf": some,
        "oneOf": some,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "$ref": st.just("#/$defs/x"),
    }
    keywords = {**sizes, **limits, **rest}
    return st.lists(st.sampled_from(sorted(keywords)), max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: keywords[name] for name in chosen})
    )


LEAVES: st.SearchStrategy[Any] = st.booleans() | st.fixed_dictionaries({"type": TYPES})
SCHEMAS = st.recursive(LEAVES, schemas, max_leaves=5)


@settings(max_examples=600, deadline=None)
@given(value=VALUES, schema=SCHEMAS)
def test_agrees_with_the_reference_library(value: Any, schema: Any) -> None:
    if isinstance(schema, dict):
        schema = {**schema, "$defs": {"x": {"type": ["string", "array"], "maxLength": 2}}}
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (problems(value, schema) == []) == expected
    assert unknown_keywords(schema) == []


@settings(max_examples=200, deadline=None)
@given(value=VALUES, schema=st.recursive(SCALARS, lambda x: st.dictionaries(st.sampled_from(
    ["type", "properties", "items", "anyOf", "$ref", "required", "pattern", "minimum", "enum", "multipleOf"]
), x | st.lists(x), max_size=3)))  # fmt: skip
def test_nonsense_never_raises(value: Any, schema: Any) -> None:
    problems(value, schema)
    unknown_keywords(schema)


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ({"a": [1, "x"]}, {"properties": {"a": {"items": {"type": "integer"}}}},
         [("a[1]", "expected integer, got string")]),
        ({}, {"required": ["q"]}, [("q", "required, but missing")]),
        ({"z": 1}, {"properties": {}, "additionalProperties": False}, [("z", "unknown property")]),
        (True, {"type": "integer"}, [("", "expected integer, got boolean")]),
        (1.0, {"type": "integer"}, []),
        (1, {"const": True}, [("", "must be true, got 1")]),
        ("c", {"enum": ["a", "b"]}, [("", 'must be one of "a", "b", got "c"')]),
        ({"a": "x"}, {"anyOf": [{"type": "null"}, {"properties": {"a": {"type": "null"}}}]},
         [("a", "expected null, got string")]),
        ([1, True, 1.0], {"uniqueItems": True}, [("", "the items must differ from each other")]),
        (0.0075, {"multipleOf": 0.0001}, []),
        ({"a/b": 1}, {"properties": {"a/b": {"$ref": "#/definitions/x~1y"}},
                      "definitions": {"x/y": {"type": "null"}}}, [("a/b", "expected null, got integer")]),
        (1, {"$ref": "#"}, []),
    ],
)  # fmt: skip
def test_paths_and_reasons(value: Any, schema: Any, expected: list[tuple[str, str]]) -> None:
    assert problems(value, schema) == expected


def test_recursive_schema_and_depth() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert problems({"next": {"next": {}}}, tree) == []
    assert problems({"next": {"next": {"x": 1}}}, tree) == [("next.next.x", "unknown property")]
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"next": deep}
    assert problems(deep, tree) == [("", "nested too deeply")]


def test_unknown_keywords() -> None:
    schema = {
        "unevaluatedProperties": False,
        "properties": {"nullable": {"nullable": True}, "a": {"$ref": "#/$defs/none"}, "b": {"pattern": "("}},
        "const": {"unknown": 1},
        "title": "x",
    }
    assert unknown_keywords(schema) == ["$ref", "nullable", "pattern", "unevaluatedProperties"]


class Colour(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []


@dataclasses.dataclass
class Box:
    at: Point
    colour: Colour = Colour.RED
    day: date | None = None


class Person(TypedDict):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    age: int


class Pair(NamedTuple):
    left: int
    right: str


class Model:
    """Looks like a pydantic model: two methods are all that counts."""

    def __init__(self, size: int) -> None:
        self.size = size

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"size": {"$ref": "#/$defs/Point"}},
            "$defs": {"Point": {"type": "integer"}},
        }

    @classmethod
    def model_validate_json(cls, text: bytes) -> Model:
        size = msgspec.json.decode(text)["size"]
        if not isinstance(size, int):
            raise ValueError("size must be a number")
        return cls(size)


@pytest.mark.parametrize(
    ("type", "good", "converted", "bad", "path"),
    [
        (Point, {"x": 1, "y": 2}, Point(1, 2.0), {"x": "1"}, "x"),
        (Box, {"at": {"x": 1}, "day": "2024-02-03"}, Box(Point(1), day=date(2024, 2, 3)), {"at": {}}, "at"),
        (Person, {"name": "a", "age": 3}, {"name": "a", "age": 3}, {"name": "", "age": 3}, "name"),
        (list[Point], [{"x": 3.0}], [Point(3)], [{"x": 3.5}], "[0].x"),
        (Literal["a", 1], 1, 1, "b", ""),
        (int | str, "a", "a", 1.5, ""),
        (Node, {"value": 1, "children": [{"value": 2}]}, Node(1, [Node(2)]), {"children": []}, ""),
        (Pair, [1, "a"], Pair(1, "a"), [1, 2], "[1]"),
        (Point | Node, {"value": 1}, Node(1), {}, ""),
        (dict[str, int], {"a": 1}, {"a": 1}, {"a": "x"}, "[...]"),
    ],
)
def test_types(type: Any, good: Any, converted: Any, bad: Any, path: str) -> None:
    schema = schema_of(type)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert unknown_keywords(schema) == []
    assert problems(good, schema) == []
    assert problems(bad, schema) != []
    assert convert(good, type) == converted
    with pytest.raises(ValidationError) as caught:
        convert(bad, type)
    assert caught.value.errors[0][0] == path


def test_root_is_written_out_and_definitions_are_pruned() -> None:
    assert schema_of(Point) == {
        "title": "Point",
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "number", "default": 0.0}},
        "required": ["x"],
    }
    assert set(schema_of(Box)["$defs"]) == {"Point", "Colour"}
    assert set(schema_of(Node)["$defs"]) == {"Node"}


class Holder(msgspec.Struct):
    model: Model
    point: Point


def test_models_inside_structs_keep_their_definitions_apart() -> None:
    schema = schema_of(Holder)
    assert problems({"model": {"size": 3}, "point": {"x": 1}}, schema) == []
    assert len(problems({"model": {"size": "x"}, "point": {"x": "1"}}, schema)) == 2
    assert convert({"model": {"size": 3}, "point": {"x": 1}}, Holder).model.size == 3
    assert convert({"size": 3}, Model | Point).size == 3
    with pytest.raises(ValidationError) as caught:
        convert({"model": {"size": "x"}, "point": {"x": 1}}, Holder)
    assert caught.value.errors == (("model", "size must be a number"),)


def test_types_without_schema() -> None:
    for type in (complex, list[object], Point | complex):
        with pytest.raises(ConfigurationError):
            schema_of(type)


def many(type: Any) -> Any:
    return list[type]


def test_pydantic() -> None:
    pydantic: Any = pytest.importorskip("pydantic")
    inner: Any = pydantic.create_model("Inner", n=(int, ...))
    outer: Any = pydantic.create_model("Outer", items=(many(inner), ...))
    schema = schema_of(many(outer))
    assert problems([{"items": [{"n": 1}]}], schema) == []
    assert convert([{"items": [{"n": 1}]}], many(outer))[0].items[0].n == 1
    with pytest.raises(ValidationError) as caught:
        convert({"items": [{"n": "x"}]}, outer)
    assert caught.value.errors[0][0] == "items[0].n"
    assert convert({"x": 1}, outer | Point) == Point(1)


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        (Point, "Point"),
        (list[Point], "list"),
        (Point | None, "response"),
        (dataclasses.make_dataclass("Größe", []), "Gr__e"),
        (dataclasses.make_dataclass("X" * 80, []), "X" * 64),
    ],
)
def test_names_that_every_provider_takes(type: Any, expected: str) -> None:
    assert schema_name(type) == expected


@pytest.mark.parametrize(
    ("text", "root", "expected"),
    [
        (' {"value": 1}\n', None, {"value": 1}),
        ('{"value": 1}', "value", 1),
        ('{"other": 1}', "value", {"other": 1}),
        ("[1]", "value", [1]),
        ("Yes: ```json\n[1]\n``` .", None, [1]),
        ('"```"', None, "```"),
    ],
)
def test_the_value_in_the_text_of_an_answer(text: str, root: str | None, expected: Any) -> None:
    assert answer_value(text, root) == expected


@pytest.mark.parametrize(
    "text", ["", "  ", "yes", "```json", "[1] [2]", "```\n[1]\n```\n```\n[2]\n```", "[NaN]"]
)
def test_a_text_without_a_value(text: str) -> None:
    with pytest.raises(ValidationError, match="the answer is not JSON"):
        answer_value(text)
