"""JSON Schema in the dialects of the providers, and a report of what a dialect cannot keep.

`adapted(schema, dialect)` is for structured output, `tool_schema(schema, dialect)` for the parameters of
a tool. Sources: OpenAI's guide to structured outputs and its client's `_pydantic.py` (3.54), Anthropic's
guide and its client's `_transform.py` (2.12), google-genai 3.4's text on `response_json_schema`, and
recorded refusals, all read in November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import inf
from typing import Any, Final

import msgspec
from msgspec import Struct

from allm.data.freeform import json_value
from allm.errors import ValidationError

Schema = dict[str, Any]


class Adapted(Struct, frozen=True):
    """A schema as a provider takes it.

    `strict`: the provider can be made to keep it (on OpenAI's wire `strict`; elsewhere its constrained
    decoding at all). It then fits no value that the original does not fit, but for what `losses` names.
    Where it is false, `schema` is the original with only that changed which the API refuses outright.
    `losses`: what the provider will not enforce, or why it cannot be strict, one line each, each with the
    place as a JSON pointer.
    """

    schema: Schema
    strict: bool
    losses: tuple[str, ...] = ()


class _Dialect(Struct, frozen=True, kw_only=True):
    """`keeps`: keywords that go through as they are. `describes`: other constraints go into the
    description and are a loss; without it they end strictness. `closed`: objects name all they may hold;
    `all_required`: and must hold it. `object_root`: of structured output; a tool's always is an object.
    `not_at_root`: keywords that are refused there. `type_lists`: `type` may be a list. `wraps`: a `$ref`
    with a description goes into an `anyOf`, else the description goes. `literals`: what an
    enum may hold. `min_items`: the largest that is taken. `recursion`: `any`; `optional`, through
    properties that may be left out; or `none`. `levels`, `properties`: most nested objects, and properties
    in all.
    """

    keeps: frozenset[str]
    formats: frozenset[str] | None
    describes: bool
    closed: bool
    not_at_root: tuple[str, ...]
    recursion: str
    all_required: bool = False
    object_root: bool = False
    type_lists: bool = True
    wraps: bool = True
    literals: str = "scalars"
    min_items: float = inf
    levels: int = 0
    properties: int = 0


_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_TEXTS: Final = frozenset({"title", "description"})
_DIALECTS: Final = {
    "openai": _Dialect(
        keeps=_TEXTS | {
            "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
            "multipleOf", "minItems", "maxItems",
        },
        formats=_FORMATS,
        describes=False,
        closed=True,
        all_required=True,
        object_root=True,
        not_at_root=("anyOf", "oneOf", "allOf", "enum", "const", "not"),
        recursion="any",
        levels=10,
        properties=5000,
    ),
    "anthropic": _Dialect(
        keeps=_TEXTS | {"default", "minItems"},
        formats=_FORMATS | {"uri"},
        describes=True,
        closed=True,
        not_at_root=("anyOf", "oneOf", "allOf"),
        recursion="none",
        type_lists=False,
        wraps=False,
        min_items=1,
    ),
    "gemini": _Dialect(
        keeps=_TEXTS | {"minItems", "maxItems", "minimum", "maximum", "prefixItems", "propertyOrdering"},
        formats=None,
        describes=True,
        closed=False,
        not_at_root=(),
        recursion="optional",
        literals="text_and_numbers",
    ),
}  # fmt: skip

_DEPTH: Final = 100  # as deep as free-form data may be at all
_CHAIN: Final = 100  # definitions that stand for each other, one after the other
_INLINED: Final = 1000  # a small schema can name itself many times over
# Where the schemas are that are read here: by name, in a list, alone.
_MAPS: Final = ("properties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONE: Final = ("items", "additionalProperties")
_SILENT: Final = frozenset({
    "$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "deprecated", "readOnly", "writeOnly",
    "discriminator",
})  # fmt: skip
_NOTES: Final = frozenset({"default", "examples", "contentEncoding", "contentMediaType"})
_BESIDE: Final = (_TEXTS | _NOTES | _SILENT) - {"$defs", "definitions"}
# The type that a keyword speaks about: values of other types pass it.
_SPEAKS_OF: Final = {
    **dict.fromkeys(("properties", "required", "additionalProperties", "patternProperties", "propertyNames",
                     "minProperties", "maxProperties", "dependentRequired"), "object"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"), "array"),
    **dict.fromkeys(("pattern", "minLength", "maxLength", "format"), "string"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
}  # fmt: skip
_TYPED: Final = frozenset({"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"})
# Keywords that are read together: two schemas that both use one of them are not simply put together.
_TOGETHER: Final = (
    {"properties", "patternProperties", "additionalProperties"},
    {"items", "prefixItems"},
    {"contains", "minContains", "maxContains"},
    {"if", "then", "else"},
)
_READ_TOGETHER: Final = ("enum", "const", "properties", "required", "additionalProperties")
_DEFINITION: Final = re.compile(r"#/(?:\$defs|definitions)/([^/]+)")
_LOOKAROUND: Final = re.compile(r"(?<!\\)(?:\\\\)*\(\?<?[=!]")


def adapted(schema: Schema, dialect: str) -> Adapted:
    """`schema` for structured output in `dialect`: `openai`, `anthropic` or `gemini`.

    Pure; adapting the result again changes nothing. The result is kept and shared: do not change it. A
    root that is no object is never wrapped: OpenAI refuses one, which is a loss, the others take it.
    Raises `ValidationError` for an unknown dialect or a schema that is malformed or nested too deeply.
    """
    return _kept(schema, dialect, "answer")


def tool_schema(schema: Schema, dialect: str, *, strict: bool = False) -> Adapted:
    """`schema` for a tool's parameters: with `strict` as `adapted`, else with only that changed which the
    API refuses outright. The root must be an object everywhere; an empty schema is a tool without
    parameters."""
    return _kept(schema, dialect, "strict_tool" if strict else "tool")


def _kept(schema: Schema, dialect: str, use: str) -> Adapted:
    """The same schemas are sent with every call: each is adapted once."""
    try:
        text = msgspec.json.encode(schema)
    except (TypeError, ValueError, UnicodeError, RecursionError):
        return _made(schema, dialect, use)  # which names what is wrong
    return _made_of(text, dialect, use)


@lru_cache(maxsize=1024)
def _made_of(text: bytes, dialect: str, use: str) -> Adapted:
    return _made(msgspec.json.decode(text), dialect, use)


def _made(schema: Schema, dialect: str, use: str) -> Adapted:
    copy, known = _read(schema, dialect)
    if use == "tool":
        plain, _, losses = _accepted(copy, known, True)
        return Adapted(plain, False, losses)
    return _adapted(copy, known, known.object_root or use == "strict_tool")


def _read(schema: Any, dialect: str) -> tuple[Schema, _Dialect]:
    """A copy of the schema whose keywords have values of the right kind, and the dialect."""
    if dialect not in _DIALECTS:
        raise ValidationError.of("unknown dialect", (dialect, f"known: {', '.join(_DIALECTS)}"))
    copy = json_value(schema, "schema")
    problems = list(_malformed(copy, "schema")) if isinstance(copy, dict) else [("schema", "not_an_object")]
    if problems:
        raise ValidationError.of("the schema cannot be used", *problems)
    return copy, _DIALECTS[dialect]


def _malformed(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """The keywords that are read here and have a value of the wrong kind."""
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        fits, kind = _KINDS.get(name, (None, ""))
        if fits is not None and not fits(value):
            yield f"{path}.{name}", f"must_be_{kind}"
            continue
        for place, inner in _schemas_at(name, value):
            if isinstance(inner, dict | bool):
                yield from _malformed(inner, f"{path}.{name}{place}")
            else:
                yield f"{path}.{name}{place}", "not_a_schema"


def _schemas_at(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The schemas that the value of a keyword holds, each with its place in it."""
    if name in _MAPS:
        yield from ((f".{key}", inner) for key, inner in value.items())
    elif name in _LISTS:
        yield from ((f"[{place}]", inner) for place, inner in enumerate(value))
    elif name in _ONE:
        yield "", value


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_KINDS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(_MAPS, (lambda value: isinstance(value, dict), "an_object")),
    **dict.fromkeys(_LISTS, (lambda value: isinstance(value, list) and bool(value), "a_list")),
    "enum": (lambda value: isinstance(value, list), "a_list"),
    "required": (_texts, "a_list_of_names"),
    "type": (lambda value: isinstance(value, str) or (_texts(value) and bool(value)), "a_type_or_a_list"),
    "$ref": (lambda value: isinstance(value, str), "a_string"),
    "minItems": (lambda value: isinstance(value, int | float), "a_number"),
}


def _adapted(schema: Schema, dialect: _Dialect, object_root: bool) -> Adapted:
    plain, strict, losses = _accepted(schema, dialect, object_root)
    reduction = _Reduction(plain, dialect)
    reduced = reduction.run()
    losses = tuple(dict.fromkeys((*losses, *reduction.losses)))
    strict = strict and reduction.strict
    return Adapted(reduced if strict else plain, strict, losses)


def _accepted(schema: Schema, dialect: _Dialect, object_root: bool) -> tuple[Schema, bool, tuple[str, ...]]:
    """The schema without what the API refuses outright, whether its root serves, and the losses."""
    node = _Definitions(schema).inlined(schema)
    node = _with_items({name: value for name, value in node.items() if name != "$schema"})
    if not object_root:
        return node, True, ()
    if not _TYPED & node.keys() or "object" in _types(node):
        node = {**node, "type": "object"}
        node.setdefault("properties", {})
    if node.get("type") != "object":
        return node, False, ("#: the root is not an object; put it into one property of an object",)
    moved = {name: node.pop(name) for name in dialect.not_at_root if name in node}
    losses = tuple([f"#: {name} is refused at the root; it is in the description" for name in moved])
    return _described(node, moved), True, losses


def _with_items(node: Any) -> Any:
    """Every array says what its items are, were it only `{}`: an array without is refused."""
    if not isinstance(node, dict):
        return node
    copy = dict(node)
    for name, value in node.items():
        if name in _MAPS:
            copy[name] = {key: _with_items(inner) for key, inner in value.items()}
        elif name in _LISTS:
            copy[name] = [_with_items(inner) for inner in value]
        elif name in _ONE:
            copy[name] = _with_items(value)
    if "array" in _types(node) and not {"items", "prefixItems"} & node.keys():
        copy["items"] = {}
    return copy


class _Reduction:
    """One schema being written for one dialect: definitions are written when something refers to them."""

    def __init__(self, root: Schema, dialect: _Dialect) -> None:
        self.root = root
        self.dialect = dialect
        self.known = _Definitions(root)
        self.written: dict[str, Schema] = {}
        self.waiting: list[str] = []
        self.losses: list[str] = []
        self.strict = True

    def run(self) -> Schema:
        result = self.write(self.root, "#", 0)
        while self.waiting:
            name = self.waiting.pop()
            self.written[name] = self.write(self.known.schemas[name], f"#/$defs/{name}", 0)
        self.check(result)
        if self.written:
            order = [name for name in self.known.schemas if name in self.written]
            result["$defs"] = {name: self.written[name] for name in order}
        return result

    def lose(self, path: str, what: str) -> None:
        self.losses.append(f"{path}: {what}")

    def give_up(self, path: str, why: str) -> None:
        self.strict = False
        self.lose(path, why)

    def write(self, node: Any, path: str, depth: int) -> Schema:
        """The dialect's form of one schema."""
        if node is False or depth > _DEPTH:
            why = "no value fits" if node is False else f"nested deeper than {_DEPTH} levels"
            self.give_up(path, why)
            return {}
        node = self.known.inlined({} if node is True else node)
        if "$ref" in node:
            return self.reference(node, path)
        node = _typed(node)
        if self.dialect.closed and not _TYPED & node.keys():
            self.give_up(path, "any value is allowed; say of which type it is")
        if isinstance(node.get("type"), list) and not self.dialect.type_lists:
            node = _split(node)
        return self.keywords(node, path, depth + 1)

    def reference(self, node: Schema, path: str) -> Schema:
        """A `$ref`, alone: what describes it stands beside an `anyOf` around it, or goes."""
        if not node.keys() <= _BESIDE | {"$ref"}:
            self.give_up(path, "a $ref stands beside constraints that it cannot be put together with")
        alone = {"$ref": self.referred(node["$ref"], path)}
        texts = {name: value for name, value in node.items() if name in _TEXTS}
        notes = {name: value for name, value in node.items() if name in _NOTES}
        if not (texts or notes) or not self.dialect.wraps:
            return alone
        return _described({**texts, "anyOf": [alone]}, notes)

    def referred(self, ref: str, path: str) -> str:
        name = _definition(ref)
        if name not in self.known.schemas:
            if ref != "#":
                self.give_up(path, f"the $ref {ref!r} leads to no definition")
            return ref
        if name not in self.written:
            self.written[name] = {}
            self.waiting.append(name)
        return "#/$defs/" + name.replace("~", "~0").replace("/", "~1")

    def keywords(self, node: Schema, path: str, depth: int) -> Schema:
        result: Schema = {}
        notes: Schema = {}
        for name, value in node.items():
            at = f"{path}/{name}"
            if name in _SILENT or name in _READ_TOGETHER or _says_nothing(name, value):
                continue
            if name == "type":
                result[name] = value
            elif name == "items":
                result[name] = self.write(value, at, depth)
            elif name == "prefixItems" and self.keeps(name, value):
                result[name] = [self.write(inner, f"{at}/{i}", depth) for i, inner in enumerate(value)]
            elif name == "anyOf":
                result[name] = self.branches(value, at, depth)
            elif name == "oneOf" and "anyOf" not in node:
                result["anyOf"] = self.alternatives(value, at, path, depth)
            elif self.keeps(name, value):
                result[name] = value
            else:
                self.drop(name, value, path, notes)
        if {"enum", "const"} & node.keys():
            self.choices(node, result, path)
        elif isinstance(result.get("type"), list) and not self.dialect.type_lists:
            self.give_up(path, "a list of types stands beside alternatives")
        if "object" in _types(node):
            self.object(node, result, path, depth)
        if self.dialect.closed and "array" in _types(node) and "items" not in result:
            self.give_up(path, "the array does not say what its items are")
        return _described(result, notes)

    def keeps(self, name: str, value: Any) -> bool:
        if name == "format":
            return self.dialect.formats is None or value in self.dialect.formats
        if name == "pattern" and _LOOKAROUND.search(str(value)):
            return False
        if name == "minItems" and value > self.dialect.min_items:
            return False
        return name in self.dialect.keeps

    def drop(self, name: str, value: Any, path: str, notes: Schema) -> None:
        """A keyword that the dialect has no place for."""
        notes[name] = value
        if name in _NOTES:
            return
        if name != "allOf" and (self.dialect.describes or name == "format"):
            self.lose(path, f"{name} is not enforced")
        else:
            self.give_up(path, f"{name} is not taken")

    def branches(self, inner: list[Any], path: str, depth: int) -> list[Schema]:
        kept = [(place, node) for place, node in enumerate(inner) if node is not False]
        if not kept:
            self.give_up(path, "no value fits")
        return [self.write(node, f"{path}/{place}", depth) for place, node in kept]

    def alternatives(self, inner: list[Any], at: str, path: str, depth: int) -> list[Schema]:
        """`oneOf` as `anyOf`: the same where no value fits two of them."""
        if not _exclusive([self.known.followed(node) for node in inner]):
            if self.dialect.describes:
                self.lose(path, "oneOf became anyOf: a value may fit several alternatives")
            else:
                self.give_up(path, "oneOf is not taken, and its alternatives are not told apart")
        return self.branches(inner, at, depth)

    def object(self, node: Schema, result: Schema, path: str, depth: int) -> None:
        fields = node.get("properties", {})
        required = node.get("required", [])
        extra = node.get("additionalProperties", True)
        closed = self.dialect.closed
        if closed:
            self.check_closed(fields, required, extra, result, path)
        kept = {
            name: self.write(inner, f"{path}/properties/{name}", depth)
            for name, inner in fields.items()
            if not (closed and inner is False)  # closing the object says the same
        }
        if closed or fields:
            result["properties"] = kept
        if self.dialect.all_required:
            required = list(kept)
        if required or self.dialect.all_required:
            result["required"] = required
        if closed or extra is False:
            result["additionalProperties"] = False
        elif isinstance(extra, dict):
            result["additionalProperties"] = self.write(extra, f"{path}/additionalProperties", depth)

    def check_closed(
        self, fields: Schema, required: list[str], extra: Any, result: Schema, path: str
    ) -> None:
        if (isinstance(extra, dict) and extra) or (extra is not False and not fields):
            self.give_up(path, "a free map: its keys are not named")
        for name in required:
            if fields.get(name, False) is False:
                self.give_up(path, f"the required property {name!r} is not described")
        if fields and "anyOf" in result:
            self.give_up(path, "properties stand beside alternatives that do not name them")

    def choices(self, node: Schema, result: Schema, path: str) -> None:
        """`enum` and `const`, only the values that the type allows."""
        values = _values(node, _types(node) if "type" in node else None)
        if not values:
            self.give_up(path, "no value fits")
        elif any(isinstance(value, dict | list) for value in values):
            self.give_up(path, "a choice between objects or arrays is not taken")
        elif self.dialect.literals == "text_and_numbers":
            self.literals(values, result, path)
        else:
            result.update({"const": values[0]} if "const" in node else {"enum": values})
            if isinstance(result.get("type"), list) and not self.dialect.type_lists:
                del result["type"]  # the values say it

    def literals(self, values: list[Any], result: Schema, path: str) -> None:
        """Where an enum holds text and numbers only: null and booleans by their types."""
        kinds: dict[str, list[Any]] = {}
        for value in values:
            kinds.setdefault(_kind(value), []).append(value)
        written: list[Schema] = []
        for kind, inner in kinds.items():
            if kind == "boolean" and len(set(inner)) == 1:
                self.lose(path, "which of the two booleans is not enforced")
                written.append(_described({"type": kind}, {"const": inner[0]}))
            else:
                free = kind in ("null", "boolean")
                written.append({"type": kind} if free else {"type": kind, "enum": inner})
        result.pop("type", None)
        if len(written) == 1 and "description" not in written[0]:
            result.update(written[0])
        elif "anyOf" in result:
            self.give_up(path, "an enum of several types stands beside alternatives")
        else:
            result["anyOf"] = written

    def check(self, result: Schema) -> None:
        """What only the whole shows: references that come back, and size."""
        nodes = {"#": result, **{f"#/$defs/{name}": node for name, node in self.written.items()}}
        how = "must" if self.dialect.recursion == "any" else self.dialect.recursion
        if endless := _endless({name: set(_links(node, how)) for name, node in nodes.items()}):
            self.give_up(endless[0], _LOOPS[how])
        if self.dialect.levels and max(map(_levels, nodes.values())) > self.dialect.levels:
            self.give_up("#", f"objects are nested deeper than {self.dialect.levels} levels")
        if self.dialect.properties and sum(map(_count, nodes.values())) > self.dialect.properties:
            self.give_up("#", f"more than {self.dialect.properties} properties")


_LOOPS: Final = {
    "must": "the schema contains itself and may not end once every property is required",
    "optional": "the schema contains itself through a property that is required",
    "none": "the schema contains itself",
}


# Reading a schema


class _Definitions:
    """The definitions of a schema by name, and what each is without references of its own."""

    def __init__(self, root: Schema) -> None:
        self.schemas: dict[str, Any] = {**root.get("definitions", {}), **root.get("$defs", {})}
        self.resolved: dict[str, Schema | None] = {}
        self.chain = 0
        self.left = _INLINED

    def followed(self, node: Any) -> Any:
        """What a bare `$ref` leads to in the end."""
        seen: set[str] = set()
        while isinstance(node, dict) and (name := _definition(node.get("$ref"))) in self.schemas:
            if name in seen:
                return None
            seen.add(name)
            node = self.schemas[name]
        return node

    def inlined(self, node: Schema) -> Schema:
        """`node` with its `allOf`, and with a `$ref` that stands beside constraints or at the root, put
        together with the rest, where that is the same; else as it is."""
        own = {name: value for name, value in node.items() if name not in ("allOf", "$ref")}
        parts = list(node.get("allOf", ()))
        if "$ref" in node:
            parts.insert(0, {"$ref": node["$ref"]})
        if len(parts) == 1 and parts[0].keys() == {"$ref"} and own.keys() <= _BESIDE:
            return {**parts[0], **own}
        if not parts or self.left == 0:
            return node
        self.left -= 1
        whole: Schema | None = {}
        for part in parts:
            alone = self.without_references(part)
            whole = None if whole is None or alone is None else _together(whole, alone)
        whole = None if whole is None else _together(whole, own)
        return node if whole is None else whole

    def without_references(self, node: Any) -> Schema | None:
        """A schema that has neither `$ref` nor `allOf`; `None` where that cannot be."""
        if isinstance(node, bool):
            return {} if node else None
        node = self.inlined(node)
        if "allOf" in node:
            return None
        return self.target(_definition(node["$ref"])) if "$ref" in node else node

    def target(self, name: str) -> Schema | None:
        if name not in self.resolved:
            self.resolved[name] = None  # what comes back to itself on the way stands for nothing
            if name in self.schemas and self.chain < _CHAIN:
                self.chain += 1
                self.resolved[name] = self.without_references(self.schemas[name])
                self.chain -= 1
        return self.resolved[name]


def _definition(ref: Any) -> str:
    """The name that `#/$defs/name` refers to; empty for any other reference."""
    match = _DEFINITION.fullmatch(ref) if isinstance(ref, str) else None
    return match[1].replace("~1", "/").replace("~0", "~") if match else ""


def _together(first: Schema, second: Schema) -> Schema | None:
    """One schema that fits what both fit; `None` where that takes more than putting their keywords
    together. What only describes comes from the second."""
    for keywords in _TOGETHER:
        mine, yours = first.keys() & keywords, second.keys() & keywords
        if mine and yours and not (mine | yours <= {"properties"}):
            return None
    whole = dict(first)
    for name, value in second.items():
        if name not in whole or whole[name] == value or name in _TEXTS | _NOTES | _SILENT:
            whole[name] = value
        elif name == "required":
            whole[name] = list(dict.fromkeys([*whole[name], *value]))
        elif name == "properties" and not whole[name].keys() & value.keys():
            whole[name] = {**whole[name], **value}
        else:
            return None
    return whole


def _typed(node: Schema) -> Schema:
    """With the type that its keywords speak of, where it names none: that only narrows."""
    if _TYPED & node.keys():
        return node
    spoken = dict.fromkeys(_SPEAKS_OF[name] for name in node if name in _SPEAKS_OF)
    return {"type": next(iter(spoken)), **node} if len(spoken) == 1 else node


def _types(node: Schema) -> list[Any]:
    types = node.get("type")
    return list(types) if isinstance(types, list) else [types]


def _split(node: Schema) -> Schema:
    """A list of types as alternatives, each with the keywords that speak of it."""
    types = _types(node)
    if len(types) == 1:
        return {**node, "type": types[0]}
    if {"enum", "const", "anyOf", "oneOf"} & node.keys():
        return node
    common = {name: value for name, value in node.items() if name not in _SPEAKS_OF and name != "type"}
    return {**common, "anyOf": [{"type": kind, **_speaking_of(kind, node)} for kind in types]}


def _speaking_of(kind: Any, node: Schema) -> Schema:
    kind = "number" if kind == "integer" else kind
    return {name: value for name, value in node.items() if _SPEAKS_OF.get(name) == kind}


def _says_nothing(name: str, value: Any) -> bool:
    if name == "uniqueItems":
        return value is False
    return name in ("minLength", "minItems", "minProperties") and bool(value == 0)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names.get(type(value), "")


def _values(node: Schema, types: list[Any] | None) -> list[Any]:
    """The values that `enum` and `const` leave, without those of another type."""
    values = [node["const"]] if "const" in node else list(node["enum"])
    if "const" in node and "enum" in node and _key(node["const"]) not in map(_key, node["enum"]):
        return []
    return [value for value in values if types is None or _of_type(value, types)]


def _of_type(value: Any, types: list[Any]) -> bool:
    kind = _kind(value)
    whole = isinstance(value, float) and value.is_integer()
    return kind in types or (kind == "integer" and "number" in types) or (whole and "integer" in types)


def _key(value: Any) -> Any:
    """Equal where JSON says equal: 1 and true are not."""
    if isinstance(value, dict | list):
        return msgspec.json.encode(value, order="deterministic")
    return type(value) is bool, value


def _exclusive(nodes: list[Any]) -> bool:
    """Whether no value can fit two of the schemas, as far as types, choices and tags show."""
    if not all(isinstance(node, dict) for node in nodes):
        return False
    if _apart([_spoken_types(node) for node in nodes]) or _apart([_chosen(node) for node in nodes]):
        return True
    tags = [_tags(node) for node in nodes]
    return any(_apart([tag.get(name) for tag in tags]) for name in (tags[0] if tags else ()))


def _spoken_types(node: Schema) -> set[Any] | None:
    if "type" not in node:
        return None
    types = set(_types(node))
    return types | {"integer"} if "number" in types else types


def _chosen(node: Any) -> set[Any] | None:
    if not isinstance(node, dict) or not ({"enum", "const"} & node.keys()):
        return None
    return {_key(value) for value in _values(node, None)}


def _tags(node: Schema) -> dict[str, set[Any]]:
    """The required properties of an object that have a few known values."""
    if node.get("type") != "object" or not isinstance(node.get("properties"), dict):
        return {}
    found = {name: _chosen(node["properties"].get(name)) for name in node.get("required") or ()}
    return {name: values for name, values in found.items() if values is not None}


def _apart(sets: list[set[Any] | None]) -> bool:
    known = [values for values in sets if values is not None]
    return len(known) == len(sets) and len(set().union(*known)) == sum(map(len, known))


# Reading what was written


def _inner(node: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas inside, each with how it is reached: `must` (the value has it), `may` or `optional`."""
    for name, field in node.get("properties", {}).items():
        yield ("must" if name in node.get("required", ()) else "optional"), field
    if isinstance(items := node.get("items"), dict):
        yield ("must" if node.get("minItems", 0) > 0 else "may"), items
    if isinstance(extra := node.get("additionalProperties"), dict):
        yield "may", extra
    for branch in (*node.get("anyOf", ()), *node.get("prefixItems", ())):
        yield "may", branch


def _links(node: Schema, how: str) -> Iterator[str]:
    """The references that count: all, those not behind an `optional` property, or those that `must` be."""
    if "$ref" in node:
        yield node["$ref"]
    for reached, field in _inner(node):
        if how == "none" or reached == "must" or (how == "optional" and reached == "may"):
            yield from _links(field, how)


def _endless(links: dict[str, set[str]]) -> list[str]:
    """The names from which one can follow links for ever."""
    back: dict[str, list[str]] = {name: [] for name in links}
    open = {name: len(to & links.keys()) for name, to in links.items()}
    for name, to in links.items():
        for other in to & links.keys():
            back[other].append(name)
    ended = [name for name, count in open.items() if not count]
    while ended:
        for name in back[ended.pop()]:
            open[name] -= 1
            if not open[name]:
                ended.append(name)
    return [name for name, count in open.items() if count]


def _levels(node: Schema) -> int:
    below = max((_levels(field) for _, field in _inner(node)), default=0)
    return below + ("properties" in node)


def _count(node: Schema) -> int:
    return len(node.get("properties", ())) + sum(_count(field) for _, field in _inner(node))


def _described(node: Schema, notes: Schema) -> Schema:
    """`node` with `notes` in its description, as `(minimum: 1)`."""
    if not notes:
        return node
    listed = ", ".join(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in notes.items())
    said: Iterable[Any] = (node.get("description"), f"({listed})")
    return {**node, "description": " ".join(str(text) for text in said if text)}
