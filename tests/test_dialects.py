"""Schemas in the providers' dialects: what is kept, what is reported, and that narrowing is sound."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allm.dialects import adapted, tool_schema
from allm.errors import ValidationError
from allm.schemas import problems, schema_of

DIALECTS = ("openai", "anthropic", "gemini")


def fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def field(schema: Any, dialect: str, **rest: Any) -> Any:
    """One property `f` of a closed object, as the dialect writes it."""
    return adapted({**fields(f=schema), **rest}, dialect).schema["properties"]["f"]


# Objects


def test_openai_closes_every_object_and_requires_every_property() -> None:
    inner = fields(x={"type": "integer"})
    found = adapted(fields(a={"type": "string"}, b=inner), "openai")
    closed = {**inner, "required": ["x"], "additionalProperties": False}
    assert found.strict
    assert not found.losses
    assert found.schema == {
        **fields(a={"type": "string"}, b=closed),
        "required": ["a", "b"],
        "additionalProperties": False,
    }


def test_anthropic_closes_objects_and_leaves_optional_properties_optional() -> None:
    found = adapted({**fields(a={"type": "string"}, b={"type": "null"}), "required": ["a"]}, "anthropic")
    assert found.strict
    assert found.schema["required"] == ["a"]
    assert found.schema["additionalProperties"] is False


def test_gemini_leaves_objects_open() -> None:
    schema = {**fields(a={"type": "string"}), "additionalProperties": {"type": "integer"}}
    found = adapted(schema, "gemini")
    assert (found.schema, found.strict, found.losses) == (schema, True, ())


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "free", [{"type": "object"}, {"type": "object", "additionalProperties": {"type": "integer"}}]
)
def test_a_free_map_cannot_be_strict_and_goes_as_it_is(dialect: str, free: dict[str, Any]) -> None:
    schema = fields(f=free)
    found = adapted(schema, dialect)
    assert (found.schema, found.strict) == (schema, False)
    assert found.losses == ("#/properties/f: a free map: its keys are not named",)


def test_a_required_property_without_a_schema_cannot_be_strict() -> None:
    found = adapted({**fields(a={"type": "string"}), "required": ["a", "b"]}, "openai")
    assert found.losses == ("#: the required property 'b' is not described",)


def test_a_property_that_may_not_be_there_is_left_out() -> None:
    assert adapted(fields(a={"type": "null"}, b=False), "openai").schema["properties"] == {
        "a": {"type": "null"}
    }


# Keywords


def test_openai_keeps_the_constraints_it_knows() -> None:
    number = {"type": "number", "minimum": 0, "exclusiveMaximum": 9, "multipleOf": 0.5}
    text = {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a", "format": "date"}
    items = {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 3}
    schema = fields(number=number, text=text, items=items)
    found = adapted(schema, "openai")
    assert (found.schema["properties"], found.strict, found.losses) == (schema["properties"], True, ())


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "null"}, "uniqueItems": True},
        {"type": "array", "items": {"type": "null"}, "contains": {"type": "null"}},
        {"type": "string", "not": {"const": "x"}},
        {"type": "string", "if": {"const": "x"}},
        {"type": "string", "pattern": "a(?=b)"},
        {**fields(x={"type": "null"}), "patternProperties": {"^y": {"type": "null"}}},
        {**fields(x={"type": "null"}), "minProperties": 1},
    ],
)
def test_openai_cannot_be_strict_about_what_it_does_not_take(schema: dict[str, Any]) -> None:
    whole = fields(f=schema)
    found = adapted(whole, "openai")
    assert (found.schema, found.strict) == (whole, False)
    assert len(found.losses) == 1
    assert found.losses[0].startswith("#/properties/f: ")
    assert found.losses[0].endswith(" is not taken")


def test_anthropic_puts_constraints_into_the_description_and_says_so() -> None:
    found = adapted(fields(age={"type": "integer", "minimum": 0, "description": "In years."}), "anthropic")
    assert found.schema["properties"]["age"] == {
        "type": "integer",
        "description": "In years. (minimum: 0)",
    }
    assert (found.strict, found.losses) == (True, ("#/properties/age: minimum is not enforced",))


@pytest.mark.parametrize(("least", "kept"), [(0, {}), (1, {"minItems": 1}), (2, {})])
def test_anthropic_takes_one_item_at_least_and_no_more(least: int, kept: dict[str, int]) -> None:
    found = field({"type": "array", "items": {"type": "null"}, "minItems": least}, "anthropic")
    assert {name: value for name, value in found.items() if name == "minItems"} == kept
    assert ("description" in found) == (least == 2)


@pytest.mark.parametrize(
    ("dialect", "format", "kept"),
    [("openai", "date", True), ("openai", "uri", False), ("anthropic", "uri", True),
     ("anthropic", "regex", False), ("gemini", "regex", True)],
)  # fmt: skip
def test_a_format_that_is_not_known_is_described(dialect: str, format: str, kept: bool) -> None:
    found = adapted(fields(f={"type": "string", "format": format}), dialect)
    assert found.strict
    assert ("format" in found.schema["properties"]["f"]) == kept
    assert bool(found.losses) != kept


def test_annotations_are_no_losses() -> None:
    schema = {"type": "integer", "title": "T", "default": 5, "examples": [1], "deprecated": True}
    for dialect in DIALECTS:
        assert adapted(fields(f=schema), dialect).losses == ()
    assert field(schema, "openai") == {
        "type": "integer",
        "title": "T",
        "description": "(default: 5, examples: [1])",
    }
    assert field(schema, "anthropic")["default"] == 5


def test_keywords_name_the_type_they_speak_of() -> None:
    assert field({"minimum": 3}, "openai") == {"type": "number", "minimum": 3}


@pytest.mark.parametrize("anything", [True, {}, {"description": "Whatever."}])
def test_any_value_cannot_be_strict_where_types_are_asked_for(anything: Any) -> None:
    for dialect in ("openai", "anthropic"):
        found = adapted(fields(f=anything), dialect)
        assert not found.strict
        assert found.losses == ("#/properties/f: any value is allowed; say of which type it is",)
    assert adapted(fields(f=anything), "gemini").strict


def test_nothing_that_fits_is_a_loss() -> None:
    for nothing in ({"type": "array", "items": False}, {"type": "string", "enum": [1]}, {"anyOf": [False]}):
        assert not adapted(fields(f=nothing), "openai").strict


# Choices and unions


def test_choices_are_those_that_the_type_allows() -> None:
    schema = {"type": ["string", "null"], "enum": ["a", None, 3, True]}
    assert field(schema, "openai") == {"type": ["string", "null"], "enum": ["a", None]}
    assert field(schema, "anthropic") == {"enum": ["a", None]}
    parts = [{"type": "string", "enum": ["a"]}, {"type": "null"}]
    assert field(schema, "gemini") == {"anyOf": parts}


def test_gemini_has_no_const_and_no_boolean_enum() -> None:
    assert field({"const": "a"}, "gemini") == {"type": "string", "enum": ["a"]}
    assert field({"enum": [True, False]}, "gemini") == {"type": "boolean"}
    found = adapted(fields(f={"const": True}), "gemini")
    assert found.losses == ("#/properties/f: which of the two booleans is not enforced",)


def test_a_list_of_types_becomes_alternatives_for_anthropic() -> None:
    schema = {"type": ["array", "null"], "items": {"type": "integer"}, "title": "T"}
    parts = [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]
    assert field(schema, "anthropic") == {"title": "T", "anyOf": parts}
    assert field(schema, "openai") == schema
    assert field({"type": ["string"]}, "anthropic") == {"type": "string"}


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "string"}, {"type": "integer"}],
        [{"const": "a"}, {"enum": ["b", "c"]}],
        [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
    ],
)
def test_alternatives_that_are_told_apart_become_any_of_without_a_loss(branches: list[Any]) -> None:
    def tagged(tag: str) -> dict[str, Any]:
        return {**fields(kind={"const": tag}), "required": ["kind"]}

    schema = {**fields(f={"oneOf": branches}), "$defs": {"A": tagged("a"), "B": tagged("b")}}
    for dialect in DIALECTS:
        found = adapted(schema, dialect)
        assert (found.strict, found.losses) == (True, ())
        assert len(found.schema["properties"]["f"]["anyOf"]) == 2


def test_alternatives_that_overlap_are_a_loss() -> None:
    schema = fields(f={"oneOf": [{"type": "integer"}, {"type": "number"}]})
    assert not adapted(schema, "openai").strict
    found = adapted(schema, "anthropic")
    assert found.losses == ("#/properties/f: oneOf became anyOf: a value may fit several alternatives",)


def test_all_of_is_put_together_where_that_is_the_same() -> None:
    text = {"type": "string", "minLength": 1}
    assert field({"allOf": [text], "description": "D"}, "openai") == {**text, "description": "D"}
    parts = [{**fields(a=text), "required": ["a"]}, fields(b=text)]
    assert field({"allOf": parts}, "openai")["required"] == ["a", "b"]
    assert field({"allOf": parts}, "anthropic")["required"] == ["a"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_of_that_contradicts_cannot_be_strict(dialect: str) -> None:
    parts = [{"type": "integer", "minimum": 1}, {"type": "integer", "minimum": 2}]
    found = adapted(fields(f={"allOf": parts}), dialect)
    assert (found.strict, found.losses) == (False, ("#/properties/f: allOf is not taken",))


def test_the_places_of_a_tuple_stay() -> None:
    schema = {"type": "array", "prefixItems": [{"type": "null"}, {"type": "string"}], "items": {}}
    assert field(schema, "gemini") == schema
    assert not adapted(fields(f={**schema, "prefixItems": [False, True]}), "gemini").strict
    assert not adapted(fields(f=schema), "openai").strict


@pytest.mark.parametrize(
    ("dialect", "schema", "why"),
    [
        ("openai", {"enum": [{}, []]}, "a choice between objects or arrays is not taken"),
        ("openai", {"const": 1, "enum": [2]}, "no value fits"),
        ("openai", {"minItems": 1}, "the array does not say what its items are"),
        ("openai", {"allOf": [True, {"type": "null"}, False]}, "allOf is not taken"),
        ("openai", {"oneOf": [{"const": [1]}, {"const": [1]}]}, "oneOf is not taken, and its"),
        ("openai", {**fields(x={"type": "null"}), "anyOf": [{"type": "null"}]}, "properties stand beside"),
        ("anthropic", {"type": ["string", "null"], "anyOf": [{"minLength": 1}]}, "a list of types stands"),
        ("gemini", {"enum": ["a", None], "anyOf": [{"type": "string"}]}, "an enum of several types stands"),
    ],
)
def test_what_else_cannot_be_strict(dialect: str, schema: dict[str, Any], why: str) -> None:
    found = adapted(fields(f=schema), dialect)
    assert not found.strict
    assert any(why in loss for loss in found.losses)


# References


def test_definitions_are_adapted_and_unused_ones_left_out() -> None:
    schema = {
        **fields(f={"$ref": "#/definitions/A"}),
        "definitions": {"A": fields(x={"type": "null"}), "B": {"type": "null"}},
    }
    found = adapted(schema, "openai").schema
    assert found["properties"] == {"f": {"$ref": "#/$defs/A"}}
    assert found["$defs"].keys() == {"A"}
    assert found["$defs"]["A"]["additionalProperties"] is False


def test_what_describes_a_reference_stands_beside_an_any_of() -> None:
    defs = {"$defs": {"A": {"type": "string"}}}
    for schema in ({"$ref": "#/$defs/A"}, {"allOf": [{"$ref": "#/$defs/A"}]}):
        for dialect in ("openai", "gemini"):
            found = field({**schema, "description": "Mine.", "default": "x"}, dialect, **defs)
            assert found == {"description": 'Mine. (default: "x")', "anyOf": [{"$ref": "#/$defs/A"}]}
        assert field({**schema, "description": "Mine."}, "anthropic", **defs) == {"$ref": "#/$defs/A"}


def test_a_reference_beside_constraints_is_written_out() -> None:
    schema = {"$ref": "#/$defs/A", "maxLength": 2}
    defs = {"$defs": {"A": {"type": "string", "minLength": 1}}}
    assert field(schema, "openai", **defs) == {"type": "string", "minLength": 1, "maxLength": 2}


def test_a_reference_beside_constraints_that_clash_cannot_be_strict() -> None:
    schema = {"$ref": "#/$defs/A", "minLength": 2}
    defs = {"A": {"type": "string", "minLength": 1}}
    assert not adapted({**fields(f=schema), "$defs": defs}, "openai").strict


@pytest.mark.parametrize("ref", ["#/$defs/Nobody", "#/properties/f", "https://example.com/schema"])
def test_a_reference_to_no_definition_cannot_be_strict(ref: str) -> None:
    found = adapted(fields(f={"$ref": ref}), "openai")
    assert found.losses == (f"#/properties/f: the $ref {ref!r} leads to no definition",)


def test_a_reference_to_the_root_is_kept() -> None:
    found = adapted(fields(f={"anyOf": [{"$ref": "#"}, {"type": "null"}]}), "openai")
    assert found.strict
    assert found.schema["properties"]["f"]["anyOf"][0] == {"$ref": "#"}


def test_definitions_that_are_each_other_say_nothing() -> None:
    defs = {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}
    schema = {**fields(f={"oneOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}), "$defs": defs}
    assert not adapted(schema, "openai").strict


def node(**next: Any) -> dict[str, Any]:
    return {**fields(value={"type": "integer"}, **next), "required": ["value", *next]}


LINK = {"$ref": "#/$defs/Node"}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (node(next={"anyOf": [LINK, {"type": "null"}]}), {"openai"}),
        (node(children={"type": "array", "items": LINK}), {"openai"}),
        ({**node(), "properties": {**node()["properties"], "next": LINK}}, {"gemini"}),
        (node(children={"type": "array", "items": LINK, "minItems": 1}), set()),
    ],
)
def test_schemas_that_contain_themselves(schema: dict[str, Any], strict: set[str]) -> None:
    """OpenAI follows them unless requiring everything has no end; Gemini where the property may be left
    out; Anthropic never."""
    whole = {"$ref": "#/$defs/Node", "$defs": {"Node": schema}}
    assert {dialect for dialect in DIALECTS if adapted(whole, dialect).strict} == strict


def test_definitions_that_stand_for_each_other_end() -> None:
    circle = {"A": {"allOf": [{"$ref": "#/$defs/B"}]}, "B": {"allOf": [{"$ref": "#/$defs/A"}]}}
    long = {f"D{i}": {"allOf": [{"$ref": f"#/$defs/D{i + 1}"}]} for i in range(2000)}
    wide = {f"W{i}": {"allOf": [{"$ref": f"#/$defs/W{i + 1}"}] * 2} for i in range(60)}
    split = {
        f"S{i}": {"anyOf": [{"$ref": f"#/$defs/S{i + 1}", "minLength": 1, "type": "string"}] * 2}
        for i in range(60)
    }
    again = {"R": fields(f={"$ref": "#/$defs/R", "required": ["f"]})}
    for defs in (circle, long, wide, split, again):
        schema = {**fields(f={"$ref": f"#/$defs/{next(iter(defs))}", "maxLength": 9}), "$defs": defs}
        for dialect in DIALECTS:
            assert not adapted(schema, dialect).strict


# The root, sizes, tools


@pytest.mark.parametrize(
    "root", [{"type": "array", "items": {"type": "string"}}, {"anyOf": [{"type": "null"}]}, {"enum": ["a"]}]
)
def test_a_root_that_is_no_object(root: dict[str, Any]) -> None:
    refused = "#: the root is not an object; put it into one property of an object"
    found = adapted(root, "openai")
    assert (found.schema, found.strict, found.losses[0]) == (root, False, refused)
    assert adapted(root, "anthropic").strict
    assert adapted(root, "gemini").strict
    for dialect in DIALECTS:
        assert tool_schema(root, dialect).losses == (refused,)


def test_what_is_refused_at_the_root_goes_to_the_description() -> None:
    schema = {**fields(a={"type": "null"}, b={"type": "null"}), "anyOf": [{"required": ["a"]}]}
    found = adapted(schema, "openai")
    assert (found.strict, found.losses) == (
        True,
        ("#: anyOf is refused at the root; it is in the description",),
    )
    assert found.schema["description"] == '(anyOf: [{"required":["a"]}])'


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = fields(f=schema)
    return schema


def test_openai_has_limits() -> None:
    assert adapted(deep(10), "openai").strict
    assert adapted(deep(11), "openai").losses == ("#: objects are nested deeper than 10 levels",)
    many = fields(**{f"p{i}": {"type": "null"} for i in range(5001)})
    assert adapted(many, "openai").losses == ("#: more than 5000 properties",)


def test_a_tool_without_parameters() -> None:
    for dialect in DIALECTS:
        for schema in ({}, {"type": "object"}, fields()):
            assert tool_schema(schema, dialect).schema == fields()


def test_a_loose_tool_loses_only_what_is_refused() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **fields(a={"type": "array"}, b={"type": "integer", "minimum": 1}, c={"type": "object"}),
        "oneOf": [{"required": ["a"]}],
    }
    gemini = tool_schema(schema, "gemini")
    assert gemini.losses == ()
    assert gemini.schema["oneOf"] == schema["oneOf"]
    assert "$schema" not in gemini.schema
    for dialect in ("openai", "anthropic"):
        found = tool_schema(schema, dialect)
        assert found.losses == ("#: oneOf is refused at the root; it is in the description",)
        assert found.schema["properties"] == {
            "a": {"type": "array", "items": {}},
            "b": {"type": "integer", "minimum": 1},
            "c": {"type": "object"},
        }


def test_a_strict_tool_is_adapted_with_an_object_at_its_root() -> None:
    found = tool_schema(fields(a={"type": "integer", "minimum": 1}), "anthropic", strict=True)
    assert found.strict
    assert found.schema["additionalProperties"] is False
    assert not tool_schema({"type": "string"}, "anthropic", strict=True).strict


# Mistakes


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ([], "schema"),
        ({"properties": 5}, "schema.properties"),
        ({"anyOf": []}, "schema.anyOf"),
        (fields(a="string"), "schema.properties.a"),
        (fields(a={"enum": 3}), "schema.properties.a.enum"),
        (fields(a={"type": 3}), "schema.properties.a.type"),
        (fields(a={"type": "array", "items": [{}]}), "schema.properties.a.items"),
    ],
)
def test_a_malformed_schema_names_the_place(schema: Any, path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        adapted(schema, "openai")
    assert caught.value.errors[0][0] == path


def test_a_schema_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ValidationError, match="nested_too_deeply"):
        adapted(deep(60), "openai")


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(ValidationError, match="known: openai, anthropic, gemini"):
        tool_schema({}, "chat")


# Properties

TEXT = st.sampled_from(["a", "b", "ab", "abc", ""])
NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(-2, 3)


def some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


SCALARS = st.one_of(
    some(minLength=st.integers(0, 2), maxLength=st.integers(0, 3), pattern=st.just("^a"), format=TEXT)
    .map(lambda rest: {"type": "string", **rest}),
    some(minimum=NUMBERS, maximum=NUMBERS, exclusiveMinimum=NUMBERS, multipleOf=st.just(2))
    .flatmap(lambda rest: st.sampled_from(["integer", "number"]).map(lambda kind: {"type": kind, **rest})),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}]),
    st.lists(st.one_of(TEXT, NUMBERS, st.booleans(), st.none()), min_size=1, max_size=3)
    .map(lambda values: {"enum": values}),
    st.one_of(TEXT, NUMBERS, st.booleans()).map(lambda value: {"const": value}),
    st.sampled_from(["A", "B"]).map(lambda name: {"$ref": f"#/$defs/{name}"}),
)  # fmt: skip
NOTES = some(title=TEXT, description=TEXT, default=TEXT)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = some(
        required=st.lists(NAMES, max_size=2, unique=True),
        additionalProperties=st.booleans() | inner,
        minProperties=st.integers(0, 1),
    )
    arrays = some(
        minItems=st.integers(0, 2), maxItems=st.integers(0, 3), uniqueItems=st.booleans(), items=inner
    )
    branches = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.dictionaries(NAMES, inner | st.booleans(), max_size=3), objects)
        .map(lambda pair: {**fields(**pair[0]), **pair[1]}),
        arrays.map(lambda rest: {"type": "array", **rest}),
        st.tuples(st.sampled_from(["anyOf", "oneOf", "allOf"]), branches).map(lambda pair: dict([pair])),
        st.tuples(inner, NOTES).map(lambda pair: {**pair[0], **pair[1]}),
    )  # fmt: skip


SCHEMAS = st.recursive(SCALARS, nested, max_leaves=6)
ROOTS = st.builds(
    lambda properties, rest, a, b: {**fields(**properties), **rest, "$defs": {"A": a, "B": b}},
    st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=3),
    some(required=st.lists(NAMES, max_size=2, unique=True)),
    SCHEMAS,
    SCHEMAS,
)


def value_of(draw: Any, schema: Any, root: Any, depth: int = 0) -> Any:
    """A value that mostly fits `schema`."""
    while isinstance(schema, dict) and "$ref" in schema:
        depth += 1
        schema = root["$defs"].get(schema["$ref"].rpartition("/")[2]) if depth < 6 else {}
    if not isinstance(schema, dict):
        return None
    for keyword in ("anyOf", "enum"):
        if keyword in schema:
            chosen = draw(st.sampled_from(schema[keyword]))
            return chosen if keyword == "enum" else value_of(draw, chosen, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "string")
    kind = kind if isinstance(kind, str) else draw(st.sampled_from(kind))
    if kind == "object":
        inside, required = schema.get("properties", {}), schema.get("required", [])
        names = [name for name in (*inside, *required) if name in required or draw(st.booleans())]
        return {name: value_of(draw, inside.get(name), root, depth + 1) for name in names}
    if kind == "array":
        size = draw(st.integers(schema.get("minItems", 0), 2)) if schema.get("minItems", 0) <= 2 else 3
        return [value_of(draw, schema.get("items"), root, depth + 1) for _ in range(size)]
    simple = {"string": TEXT, "boolean": st.booleans(), "null": st.none()}
    return draw(simple.get(kind, NUMBERS))


@given(ROOTS, st.sampled_from(DIALECTS), st.data())
def test_what_fits_the_strict_schema_fits_the_original(schema: Any, dialect: str, data: Any) -> None:
    found = adapted(schema, dialect)
    value = value_of(data.draw, found.schema, found.schema)
    if found.strict and not found.losses and not problems(value, found.schema):
        assert problems(value, schema) == []


@given(ROOTS | SCHEMAS, st.sampled_from(DIALECTS))
def test_adapting_is_pure_and_again_changes_nothing(schema: Any, dialect: str) -> None:
    before = deepcopy(schema)
    for adapt in (adapted, tool_schema, lambda *given: tool_schema(*given, strict=True)):
        once = adapt(schema, dialect)
        again = adapt(once.schema, dialect)
        assert (again.schema, again.strict) == (once.schema, once.strict)
        assert set(again.losses) <= set(once.losses)
    assert schema == before


@given(ROOTS, st.sampled_from(["openai", "anthropic"]))
def test_every_strict_object_is_closed(schema: Any, dialect: str) -> None:
    found = adapted(schema, dialect)
    if found.strict:
        for inner in objects_in(found.schema):
            assert inner["additionalProperties"] is False
            assert dialect == "anthropic" or inner["required"] == list(inner["properties"])


def objects_in(value: Any) -> list[dict[str, Any]]:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [item for inner in below for item in objects_in(inner)]
    return [value, *found] if isinstance(value, dict) and value.get("type") == "object" else found


class Address(msgspec.Struct):
    street: str
    number: int | None = None


class Person(msgspec.Struct):
    name: str
    homes: list[Address] = []
    mood: str = "fine"


def test_the_schema_of_a_python_type_is_strict_everywhere() -> None:
    for dialect in DIALECTS:
        found = adapted(schema_of(Person), dialect)
        assert (found.strict, found.losses) == (True, ())
