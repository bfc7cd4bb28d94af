"""JSON values checked against a schema, and what of a schema is not checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

Problem = tuple[str, str]
"""A path such as `items[0].name` (empty for the value itself) and a reason for people and models."""

_SHOWN: Final = 60  # characters of a value that a reason quotes


def problems(value: Any, schema: Any) -> list[Problem]:
    """Everything in the JSON value `value` that breaks `schema`, as (path, reason) pairs.

    Never raises: keywords nobody knows, or whose own value makes no sense, are passed over
    (`unknown_keywords` names them).
    """
    try:
        return _Checker(schema).check(value, schema, "")
    except RecursionError:
        return [("", "nested too deeply")]


class _Checker:
    """One validation: the root of the schema, and the references being followed right now."""

    __slots__ = ("active", "root")

    def __init__(self, root: Any) -> None:
        self.root = root
        self.active: set[tuple[int, str]] = set()

    def check(self, value: Any, schema: Any, path: str) -> list[Problem]:
        if schema is False:
            return [(path, "is not allowed")]
        if not isinstance(schema, dict):
            return []
        found: list[Problem] = []
        for keyword in schema:
            rule = _RULES.get(keyword)
            if rule is not None:
                try:
                    found += rule(self, value, schema, path)
                except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError):
                    continue  # the keyword's own value makes no sense
        return found

    def fits(self, value: Any, schema: Any, path: str) -> bool:
        return not self.check(value, schema, path)


def child(path: str, key: str) -> str:
    """The path of a property of what stands at `path`."""
    return f"{path}.{key}" if path else key


def _shown(value: Any) -> str:
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
}


def _type_name(value: Any) -> str:
    return next((name for name in ("integer", *_TYPES) if _TYPES[name](value)), type(value).__name__)


def _type(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    allowed = schema["type"]
    names = [allowed] if isinstance(allowed, str) else list(allowed)
    if any(name not in _TYPES or _TYPES[name](value) for name in names):
        return []
    return [(path, f"expected {' or '.join(names)}, got {_type_name(value)}")]


def _canonical(value: Any) -> Any:
    """A hashable stand-in, equal where JSON says equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((key, _canonical(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "array", tuple([_canonical(item) for item in value])
    return type(value) is bool, value


def _enum(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    found = _canonical(value)
    if any(_canonical(choice) == found for choice in schema["enum"]):
        return []
    choices = ", ".join(_shown(choice) for choice in schema["enum"])
    return [(path, f"must be one of {choices}, got {_shown(value)}")]


def _const(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if _canonical(schema["const"]) == _canonical(value):
        return []
    return [(path, f"must be {_shown(schema['const'])}, got {_shown(value)}")]


# Objects


def _properties(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return []
    found: list[Problem] = []
    for name, inner in schema["properties"].items():
        if name in value:
            found += checker.check(value[name], inner, child(path, name))
    return found


def _pattern_properties(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return []
    found: list[Problem] = []
    for pattern, inner in schema["patternProperties"].items():
        for name in value:
            if _matches(pattern, name, False):
                found += checker.check(value[name], inner, child(path, name))
    return found


def _additional(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return []
    known, patterns = schema.get("properties") or {}, schema.get("patternProperties") or {}
    rest = [key for key in value if key not in known and not any(_matches(p, key, False) for p in patterns)]
    inner = schema["additionalProperties"]
    if inner is False:
        return [(child(path, key), "unknown property") for key in rest]
    return [problem for key in rest for problem in checker.check(value[key], inner, child(path, key))]


def _required(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return []
    return [(child(path, name), "required, but missing") for name in schema["required"] if name not in value]


def _property_names(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return []
    inner = schema["propertyNames"]
    found = [(child(path, key), checker.check(key, inner, "")) for key in value]
    return [(at, f"the name {reason}") for at, inside in found for _, reason in inside]


def _dependent_required(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return []
    return [
        (child(path, other), f"required together with {name}, but missing")
        for name, others in schema["dependentRequired"].items()
        if name in value
        for other in others
        if other not in value
    ]


# Arrays


def _items(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, list):
        return []
    inner, start = schema["items"], len(schema.get("prefixItems") or ())
    found: list[Problem] = []
    for index, item in enumerate(value[start:], start):
        found += checker.check(item, inner, f"{path}[{index}]")
    return found


def _prefix_items(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, list):
        return []
    found: list[Problem] = []
    for index, (item, inner) in enumerate(zip(value, schema["prefixItems"], strict=False)):
        found += checker.check(item, inner, f"{path}[{index}]")
    return found


def _contains(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, list):
        return []
    count = sum(checker.fits(item, schema["contains"], f"{path}[{i}]") for i, item in enumerate(value))
    least, most = schema.get("minContains", 1), schema.get("maxContains")
    if count < least:
        return [(path, f"must hold at least {least} matching items, has {count}")]
    if most is not None and count > most:
        return [(path, f"must hold at most {most} matching items, has {count}")]
    return []


def _unique_items(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, list) or schema["uniqueItems"] is not True:
        return []
    if len({_canonical(item) for item in value}) == len(value):
        return []
    return [(path, "the items must differ from each other")]


# Sizes, numbers, text


_Rule = Callable[[_Checker, Any, dict[str, Any], str], list[Problem]]


def _size(keyword: str, kind: type[str] | type[list[Any]] | type[dict[str, Any]], unit: str) -> _Rule:
    least = keyword.startswith("min")

    def rule(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
        if not isinstance(value, kind):
            return []
        bound, size = schema[keyword], len(value)
        if size >= bound if least else size <= bound:
            return []
        return [(path, f"must have at {'least' if least else 'most'} {bound} {unit}, has {size}")]

    return rule


def _bound(keyword: str, holds: Callable[[Any, Any], bool], words: str) -> _Rule:
    def rule(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
        if not _is_number(value) or holds(value, schema[keyword]):
            return []
        return [(path, f"must be {words} {schema[keyword]}, got {_shown(value)}")]

    return rule


def _multiple_of(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not _is_number(value):
        return []
    step = schema["multipleOf"]
    if isinstance(value, int) and isinstance(step, int):
        whole = value % step == 0
    else:
        from fractions import Fraction  # exact in decimal: 0.0075 is a multiple of 0.0001

        whole = Fraction(repr(value)) % Fraction(repr(step)) == 0
    return [] if whole else [(path, f"must be a multiple of {step}, got {_shown(value)}")]


def _matches(pattern: str, text: str, otherwise: bool) -> bool:
    """Whether `pattern` is found in `text`; `otherwise` where Python cannot read the pattern."""
    import re

    try:
        return re.search(pattern, text) is not None
    except re.error:
        return otherwise


def _pattern(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if not isinstance(value, str) or _matches(schema["pattern"], value, True):
        return []
    return [(path, f"must match the pattern {schema['pattern']}, got {_shown(value)}")]


# Combinations and references


def _all_of(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    return [problem for inner in schema["allOf"] for problem in checker.check(value, inner, path)]


def _any_of(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    tried: list[list[Problem]] = []
    for inner in schema["anyOf"]:
        found = checker.check(value, inner, path)
        if not found:
            return []
        tried.append(found)
    return _no_branch(tried, path)


def _one_of(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    tried = [checker.check(value, inner, path) for inner in schema["oneOf"]]
    fitting = tried.count([])
    if fitting == 1:
        return []
    if fitting:
        return [(path, f"must fit exactly one of the alternatives, fits {fitting}")]
    return _no_branch(tried, path)


def _no_branch(tried: list[list[Problem]], path: str) -> list[Problem]:
    """What to tell where no alternative fits: of the only one of the right type, its own problems."""
    meant = [
        found for found in tried if not any(at == path and why.startswith("expected ") for at, why in found)
    ]
    if len(meant) == 1:
        return meant[0]
    reasons = dict.fromkeys(why if at == path else f"{at} {why}" for found in tried for at, why in found[:1])
    return [(path, f"fits none of the alternatives ({'; '.join(reasons)})")]


def _not(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    if checker.fits(value, schema["not"], path):
        return [(path, f"must not fit {_shown(schema['not'])}")]
    return []


def _if(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    branch = "then" if checker.fits(value, schema["if"], path) else "else"
    return checker.check(value, schema.get(branch, True), path)


def _ref(checker: _Checker, value: Any, schema: dict[str, Any], path: str) -> list[Problem]:
    target = _resolve(checker.root, schema["$ref"])
    key = (id(target), path)
    if target is None or key in checker.active:  # a reference that comes back to itself adds nothing
        return []
    checker.active.add(key)
    try:
        return checker.check(value, target, path)
    finally:
        checker.active.discard(key)


def _resolve(root: Any, ref: Any) -> Any:
    """The schema that a local reference (`#`, `#/$defs/X`) points to; None where there is none."""
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        return None
    if "%" in ref:
        from urllib.parse import unquote

        ref = unquote(ref)
    node = root
    for step in ref.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        elif isinstance(node, dict) and step in node:
            node = node[step]
        else:
            return None
    return node


_RULES: Final[dict[str, _Rule]] = {
    "$ref": _ref,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "required": _required,
    "propertyNames": _property_names,
    "dependentRequired": _dependent_required,
    "minProperties": _size("minProperties", dict, "properties"),
    "maxProperties": _size("maxProperties", dict, "properties"),
    "items": _items,
    "prefixItems": _prefix_items,
    "contains": _contains,
    "uniqueItems": _unique_items,
    "minItems": _size("minItems", list, "items"),
    "maxItems": _size("maxItems", list, "items"),
    "minLength": _size("minLength", str, "characters"),
    "maxLength": _size("maxLength", str, "characters"),
    "pattern": _pattern,
    "minimum": _bound("minimum", lambda value, bound: bool(value >= bound), "at least"),
    "maximum": _bound("maximum", lambda value, bound: bool(value <= bound), "at most"),
    "exclusiveMinimum": _bound("exclusiveMinimum", lambda value, bound: bool(value > bound), "greater than"),
    "exclusiveMaximum": _bound("exclusiveMaximum", lambda value, bound: bool(value < bound), "less than"),
    "multipleOf": _multiple_of,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
}

# Annotations say nothing about validity, `then` and the like are read by another keyword's rule.
_SILENT: Final = frozenset(
    {
        "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples",
        "deprecated", "readOnly", "writeOnly", "format", "contentEncoding", "contentMediaType",
        "discriminator", "then", "else", "minContains", "maxContains",
    }
)  # fmt: skip
_ONE: Final = (
    "additionalProperties", "propertyNames", "items", "contains", "not", "if", "then", "else",
)  # fmt: skip
_LISTS: Final = ("prefixItems", "allOf", "anyOf", "oneOf")
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions")


def unknown_keywords(schema: Any) -> list[str]:
    """The keywords anywhere in `schema` that `problems` does not check, sorted.

    Annotations such as `title` or `format` are not listed. `$ref` is, where one leads nowhere in
    the document; `pattern` and `patternProperties`, where Python cannot read one.
    """
    found: set[str] = set()
    for node in subschemas(schema):
        found.update(name for name in node if name not in _RULES and name not in _SILENT)
        if "$ref" in node and _resolve(schema, node["$ref"]) is None:
            found.add("$ref")
        if isinstance(node.get("items"), list):
            found.add("items")
        found.update(_unreadable(node))
    return sorted(found)


def _unreadable(node: dict[str, Any]) -> Iterator[str]:
    import re

    inside = node.get("patternProperties")
    named = [("pattern", node["pattern"])] if "pattern" in node else []
    named += [("patternProperties", pattern) for pattern in inside or ()] if isinstance(inside, dict) else []
    for keyword, pattern in named:
        try:
            re.compile(pattern)
        except (re.error, TypeError):
            yield keyword


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """`schema` and every schema inside it, without following references."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield node
        waiting += [node[name] for name in _ONE if name in node]
        waiting += [inner for name in _LISTS if isinstance(node.get(name), list) for inner in node[name]]
        waiting += [
            inner for name in _MAPS if isinstance(node.get(name), dict) for inner in node[name].values()
        ]
