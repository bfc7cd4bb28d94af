"""The schemas of Python types, and JSON values converted to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from allm.errors import ConfigurationError, ValidationError
from allm.schemas.checking import Problem, child, subschemas


def schema_name(type: Any) -> str:
    """A name for the schema of a type that every provider takes: letters, digits and underscores."""
    name = getattr(type, "__name__", "")
    return "".join([c if c.isascii() and c.isalnum() else "_" for c in name])[:64] or "response"


def schema_of(type: Any) -> dict[str, Any]:
    """The JSON Schema of a Python type, its root written out, other named types under `$defs`.

    Knows what msgspec knows (Struct, dataclass, TypedDict, NamedTuple, Enum, Literal, containers,
    unions, `Annotated` with `Meta`), pydantic models at any depth, and unions of them at the root.
    Raises `ConfigurationError` for any other type.
    """
    (schema,), defs = schemas_of((type,))
    return with_definitions(inlined(schema, defs), defs)


def schemas_of(types: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One schema for each type, and the definitions that all of them refer to as `#/$defs/<name>`."""
    try:
        return _components(types)
    except TypeError:
        members = [(type,) if _accepted(type) else _members(type) for type in types]
    flat, defs = _components([member for group in members for member in group])
    parts = iter(flat)
    grouped = [[next(parts) for _ in group] for group in members]
    return [group[0] if len(group) == 1 else {"anyOf": group} for group in grouped], defs


def inlined(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """`schema` with a `$ref` at its own root replaced by what it refers to; siblings win."""
    seen: set[str] = set()
    while isinstance(ref := schema.get("$ref"), str) and ref not in seen:
        seen.add(ref)
        target = defs.get(ref.removeprefix("#/$defs/"))
        if target is None:
            break
        schema = {**target, **{name: item for name, item in schema.items() if name != "$ref"}}
    return schema


def with_definitions(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """`schema` with those of `defs` under `$defs` that it leads to, in their order."""
    used: set[str] = set()
    waiting: list[Any] = [schema]
    while waiting:
        for node in subschemas(waiting.pop()):
            name = str(node.get("$ref", "")).removeprefix("#/$defs/")
            if name in defs and name not in used:
                used.add(name)
                waiting.append(defs[name])
    kept = {name: item for name, item in defs.items() if name in used}
    return {**schema, "$defs": kept} if kept else schema


def _components(types: Iterable[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    types = tuple(types)
    taken: set[str] = set()
    for _ in range(2):  # the second time with the names that msgspec gave, where they clash
        extra: dict[str, Any] = {}
        schemas, defs = msgspec.json.schema_components(
            types, schema_hook=_model_hook(extra, taken), ref_template="#/$defs/{name}"
        )
        taken = set(defs)
        if not taken & set(extra):
            break
    return list(schemas), {**defs, **extra}


def _model_hook(extra: dict[str, Any], taken: set[str]) -> Callable[[type], dict[str, Any]]:
    """Schemas of pydantic models for msgspec; their definitions go to `extra`, renamed on a clash."""

    def hook(type: Any) -> dict[str, Any]:
        if not _is_model(type):
            raise NotImplementedError  # so msgspec is told that a hook does not know a type
        schema: dict[str, Any] = dict(type.model_json_schema())
        inner = schema.pop("$defs", {})
        names = {name: _free_name(name, inner[name], extra, taken) for name in inner}
        for name, item in inner.items():
            extra[names[name]] = _renamed(item, names)
        result: dict[str, Any] = _renamed(schema, names)
        return result

    return hook


def _free_name(name: str, item: Any, extra: dict[str, Any], taken: set[str]) -> str:
    free, number = name, 2
    while free in taken or (free in extra and extra[free] != item):
        free, number = f"{name}_{number}", number + 1
    return free


def _renamed(node: Any, names: dict[str, str]) -> Any:
    """A copy whose references follow `names`."""
    if isinstance(node, list):
        return [_renamed(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _renamed(item, names) for key, item in node.items()}
    if isinstance(ref := node.get("$ref"), str):
        name = ref.removeprefix("#/$defs/")
        copy["$ref"] = f"#/$defs/{names.get(name, name)}"
    return copy


def _accepted(type: Any) -> bool:
    try:
        _components((type,))
    except TypeError:
        return False
    return True


def _is_union(type: Any) -> bool:
    return get_origin(type) in (Union, UnionType)


def _members(type: Any) -> tuple[Any, ...]:
    if _is_union(type) and all(map(_accepted, get_args(type))):
        return get_args(type)
    raise ConfigurationError(f"no JSON Schema can be made for the type {type!r}")


def _is_model(type: Any) -> bool:
    return hasattr(type, "model_json_schema") and hasattr(type, "model_validate_json")


def convert(value: Any, type: Any) -> Any:
    """The JSON value `value` as `type`; whole floats pass for integers, nothing else is guessed.

    Raises `ValidationError` with the path and the reason, `ConfigurationError` for a type that
    `schema_of` does not know.
    """
    if _is_model(type):
        return _model(value, type)
    try:
        return msgspec.convert(value, type, str_keys=True, dec_hook=_nested_model)
    except msgspec.ValidationError as error:
        return _again(value, type, error)
    except RecursionError:
        raise ValidationError.of("the value does not fit", ("", "nested too deeply")) from None
    except TypeError:
        if not _is_union(type):
            raise ConfigurationError(f"values cannot be converted to the type {type!r}") from None
    return _first_fitting(value, get_args(type))


def _again(value: Any, type: Any, error: msgspec.ValidationError) -> Any:
    try:
        return msgspec.convert(_whole(value), type, str_keys=True, dec_hook=_nested_model)
    except msgspec.ValidationError:
        raise ValidationError.of("the value does not fit", _located(error)) from error


def _whole(value: Any) -> Any:
    """A copy in which floats such as 3.0 are integers: JSON has one kind of number."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _located(error: msgspec.ValidationError) -> Problem:
    reason, _, path = str(error).partition(" - at `$")
    return path.removesuffix("`").removeprefix("."), reason.replace("`", "")


def _first_fitting(value: Any, types: Sequence[Any]) -> Any:
    found: list[Problem] = []
    for type in types:
        try:
            return convert(value, type)
        except ValidationError as error:
            found += error.errors
    raise ValidationError.of("the value fits no member of the union", *found)


def _model(value: Any, type: Any) -> Any:
    """A pydantic model by its own rules for JSON."""
    try:
        return type.model_validate_json(msgspec.json.encode(value))
    except ValueError as error:
        raise ValidationError.of("the value does not fit", *_model_problems(error)) from error


def _model_problems(error: ValueError) -> list[Problem]:
    listed = getattr(error, "errors", None)
    if not callable(listed):
        return [("", str(error))]
    return [(_joined(item.get("loc", ())), str(item.get("msg", ""))) for item in listed()]


def _joined(location: Iterable[str | int]) -> str:
    path = ""
    for step in location:
        path = f"{path}[{step}]" if isinstance(step, int) else child(path, str(step))
    return path


def _nested_model(type: Any, value: Any) -> Any:
    if not _is_model(type):
        raise NotImplementedError(f"no conversion to {type!r}")
    try:
        return type.model_validate_json(msgspec.json.encode(value))
    except ValueError as error:
        listed = [f"{path}: {reason}" if path else reason for path, reason in _model_problems(error)]
        raise ValueError("; ".join(listed)) from None
