"""What a partial value of a Python type looks like: its fields, items and values, and what it shows early."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from msgspec import Struct


class Shape(Struct):
    """A type, or all members of a union in one.

    `fields` of a class: attribute to the names that it may have in JSON, each with its type; `None` where
    objects are maps, with types in `keys` and, for all other keys, `values`. Arrays: `places` first, then
    `items`. `text`: a string may be shown before it is complete. `leaf`: what complete scalars are converted
    to. `members`: of a union, those that are made from objects; `tags` of a member: name in JSON to the
    values that it has there and other members may not.
    """

    name: str = "object"
    fields: dict[str, dict[str, Any]] | None = None
    keys: dict[str, Any] = {}
    values: Any = Any
    places: tuple[Any, ...] = ()
    items: Any = Any
    text: bool = False
    leaf: Any = None
    tags: dict[str, tuple[Any, ...]] = {}
    members: tuple[Shape, ...] = ()


def shape_of(type: Any) -> Shape:
    """The shape of any type; one that is not known takes everything as it comes."""
    try:
        return _kept(type)
    except TypeError:  # not hashable
        return _made(type)


@lru_cache(maxsize=512)
def _kept(type: Any) -> Shape:
    return _made(type)


def _made(type: Any) -> Shape:
    shape = Shape()
    for member in _members(type):
        _add(shape, member, type)
    if len(shape.members) == 1:
        shape.members = ()  # there is nothing to choose
    elif shape.members:
        shape.name = " | ".join([member.name for member in shape.members])
        for member in shape.members:
            _complete(member, shape)
    return shape


def _complete(member: Shape, union: Shape) -> None:
    """Fields of the other members stay, as such that do not come: what was asked for once may be again."""
    if member.fields is not None:
        others = [name for name in union.fields or {} if name not in member.fields]
        member.fields = {**member.fields, **{name: {} for name in others}}


def _members(type: Any) -> Iterator[Any]:
    """The types of a union, seen through `Annotated`, `NewType` and aliases."""
    origin = get_origin(type)
    if origin in (Union, UnionType):
        for member in get_args(type):
            yield from _members(member)
    elif origin is Annotated:
        yield from _members(get_args(type)[0])
    elif (inner := getattr(type, "__supertype__", None) or getattr(type, "__value__", None)) is not None:
        yield from _members(inner)
    else:
        yield type


def _add(shape: Shape, member: Any, whole: Any) -> None:
    kind, args = get_origin(member) or member, get_args(member)
    if kind in (Any, object, str) or isinstance(kind, TypeVar):
        shape.text = True
    elif kind in (int, float, bool, NoneType, None):
        return
    elif is_typeddict(kind):
        keys = _hints(kind)
        shape.keys = _joined(shape.keys, keys)
        shape.members += (Shape(kind.__name__, keys=keys, tags=_tags(kind, keys)),)
    elif _is(kind, tuple):
        _add_places(shape, kind, args)
    elif _is(kind, Mapping):
        shape.values = args[1] if len(args) == 2 else Any
    elif _is(kind, Collection) and not _is(kind, (str, bytes, bytearray)):
        shape.items = args[0] if args else Any
    elif (fields := _fields(kind, args)) is not None:
        shape.name = getattr(kind, "__name__", shape.name)
        before = shape.fields or {}
        shape.fields = {**before, **{name: _joined(before.get(name, {}), fields[name]) for name in fields}}
        keys = {key: hint for places in fields.values() for key, hint in places.items()}
        shape.members += (Shape(shape.name, fields, tags=_tags(kind, keys)),)
    else:
        shape.leaf = whole


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The types of both; one of a name that both have is any of the two."""
    both = {key: _either(one[key], other[key]) for key in one.keys() & other.keys()}
    return {**one, **other, **both}


def _either(one: Any, other: Any) -> Any:
    try:
        return Union[one, other]  # noqa: UP007 - not every hint knows the operator
    except TypeError:  # not hashable
        return one


def _tags(kind: Any, keys: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What tells objects of a class from those of others: its tag, and fields of type `Literal`."""
    literals = {key: get_args(hint) for key, hint in keys.items() if get_origin(hint) is Literal}
    tags = {key: tuple([getattr(value, "value", value) for value in literals[key]]) for key in literals}
    config = getattr(kind, "__struct_config__", None)
    if config is not None and config.tag is not None:
        tags[config.tag_field] = (config.tag,)
    return tags


def _is(kind: Any, wanted: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, wanted)


def _add_places(shape: Shape, kind: Any, args: tuple[Any, ...]) -> None:
    if hasattr(kind, "_fields"):
        shape.places = tuple(_hints(kind).values())
    elif len(args) == 2 and args[1] is Ellipsis:
        shape.items = args[0]
    else:
        shape.places = args


def _fields(kind: Any, args: tuple[Any, ...]) -> dict[str, dict[str, Any]] | None:
    """The fields of a class that is made from a JSON object; `None` for any other type."""
    models = getattr(kind, "model_fields", None)
    if models is not None:
        return {name: {_alias(field) or name: field.annotation} for name, field in models.items()}
    if hasattr(kind, "__struct_fields__"):
        names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    elif dataclasses.is_dataclass(kind):
        names = {field.name: field.name for field in dataclasses.fields(kind)}
    elif hasattr(kind, "__attrs_attrs__"):
        names = {field.name: field.name for field in kind.__attrs_attrs__}
    else:
        return None
    hints = _hints(kind)
    given = dict(zip(getattr(kind, "__parameters__", ()), args, strict=False))
    return {name: {key: _filled(hints.get(name, Any), given)} for name, key in names.items()}


def _alias(field: Any) -> str | None:
    """The name of a pydantic field in JSON, where it has one of its own."""
    found = field.validation_alias or field.alias
    return found if isinstance(found, str) else None


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except (NameError, TypeError, AttributeError):  # a name that cannot be found from here
        return {}


def _filled(hint: Any, given: dict[Any, Any]) -> Any:
    """The hint with the arguments of a generic class."""
    if isinstance(hint, TypeVar):
        return given.get(hint, Any)
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple([given.get(p, Any) for p in parameters])] if parameters and given else hint
