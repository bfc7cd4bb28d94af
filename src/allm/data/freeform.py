"""Free-form maps (metadata, context, arguments, options): checked and made JSON values on entry."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from allm.errors import ValidationError

MAX_DEPTH = 100
_LOW, _HIGH = -(2**63), 2**64 - 1
_ATOMS = frozenset((str, type(None), bool))


def json_value(value: Any, path: str = "", depth: int = 0) -> Any:
    """`value` as JSON builtins: str keys, finite floats, 64-bit integers, lists for tuples.

    Raises `ValidationError` with the path of the first value that JSON cannot hold.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is int:
        if _LOW <= value <= _HIGH:
            return value
        raise ValidationError.of("not a JSON value", (path, "integer_out_of_range"))
    if kind is float:
        if isfinite(value):
            return value
        raise ValidationError.of("not a JSON value", (path, "not_a_finite_number"))
    if depth >= MAX_DEPTH:
        raise ValidationError.of("not a JSON value", (path, "nested_too_deeply"))
    if kind is dict or isinstance(value, Mapping):
        result: dict[str, Any] = {}
        for key, item in value.items():
            if type(key) is str and (type(item) in _ATOMS or (type(item) is int and _LOW <= item <= _HIGH)):
                result[key] = item  # nearly all are these: no path is made for them
                continue
            if not isinstance(key, str):
                raise ValidationError.of("not a JSON value", (f"{path}.{key!r}", "key_not_a_string"))
            result[str(key)] = json_value(item, f"{path}.{key}" if path else str(key), depth + 1)
        return result
    if isinstance(value, list | tuple):
        return [
            item
            if type(item) in _ATOMS or (type(item) is int and _LOW <= item <= _HIGH)
            else json_value(item, f"{path}[{i}]", depth + 1)
            for i, item in enumerate(value)
        ]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float):
        return json_value(int(value) if isinstance(value, int) else float(value), path, depth)
    raise ValidationError.of("not a JSON value", (path, f"type_{kind.__name__}"))


def normalise(struct: Struct, *names: str) -> None:
    """Make the named free-form fields of a frozen struct JSON values, as it is constructed."""
    for name in names:
        value = getattr(struct, name)
        if value:
            force_setattr(struct, name, json_value(value, name))


def tupled(struct: Struct, *names: str) -> None:
    """Make tuples of the lists given for the named fields of a frozen struct, as it is constructed."""
    for name in names:
        value = getattr(struct, name)
        if type(value) is list:
            force_setattr(struct, name, tuple(value))
