"""Layer A values as JSON or msgpack: `{"allm": 1, "type": "session", ...fields}`.

The envelope (`allm`, `type`) is at the top level only, defaults are omitted, and the keys of free-form
maps are sorted. What a newer version wrote is kept: unknown fields in `extra` (and written back in
their place), unknown parts as `OpaquePart`, unknown events as `RawChunk`. Nothing is imported or run.

A key of `extra` that would hide a field of its struct stays in a nested `extra` object. At the top
level a field named `type` is written as `type_`, for the envelope has the name.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import isfinite
from operator import attrgetter
from types import UnionType
from typing import Any, Final, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import msgspec
from msgspec import Struct

from allm.data import content, events, failure, media, messages, requests, responses, sessions
from allm.data.freeform import json_value
from allm.errors import SessionError, ValidationError

T = TypeVar("T")

VERSION: Final = 1

# `usage` and `image` are the tags of an event and of a part, so the plain structs have longer names.
_NAMES: Final[dict[type[Struct], str]] = {
    content.Origin: "origin",
    content.Image: "image_source",
    failure.ErrorInfo: "error_info",
    messages.Message: "message",
    messages.Thread: "thread",
    requests.ModelRef: "model_ref",
    requests.ToolSpec: "tool_spec",
    requests.ResponseFormat: "response_format",
    requests.Request: "request",
    responses.Usage: "token_usage",
    responses.Response: "response",
    sessions.Session: "session",
    sessions.SessionTurn: "session_turn",
    sessions.Progress: "progress",
    sessions.Decision: "decision",
    media.ImageRequest: "image_request",
    media.EmbeddingRequest: "embedding_request",
}
_PARTS: Final[tuple[type[Struct], ...]] = get_args(content.Part)
_TAGGED: Final = (
    responses.StepResult, responses.ChatResult, media.ImageResponse, media.EmbeddingResponse,
    *media.MEDIA_EVENTS, *_PARTS, *events.EVENT_TYPES,
)  # fmt: skip

TYPES: Final[dict[str, type[Struct]]] = {name: cls for cls, name in _NAMES.items()} | {
    str(cls.__struct_config__.tag): cls for cls in _TAGGED
}
"""Every type of document by the word in its `type`."""

_WORDS: Final = {cls: word for word, cls in TYPES.items()}
_PART_TAGS: Final = frozenset(_WORDS[cls] for cls in _PARTS)
_FAILURES: Final = (
    msgspec.MsgspecError, ValidationError, ValueError, TypeError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip
_LOW, _HIGH = -(2**63), 2**64 - 1

_JSON: Final = msgspec.json.Encoder(order="deterministic")
_MSGPACK: Final = msgspec.msgpack.Encoder(order="deterministic")


def to_json(value: Struct) -> str:
    """A layer A value as a JSON document.

    Raises `ValidationError` with the path of anything that JSON cannot hold.
    """
    try:
        if _plain(value):
            return _with_json_envelope(value, _JSON.encode(value)).decode()
        return _JSON_ORDERED.encode(_document(value, binary=False)).decode()
    except _FAILURES as error:
        raise _refusal("cannot be written", error) from error


def to_msgpack(value: Struct) -> bytes:
    """A layer A value as a msgpack document: the same fields, bytes without base64. Raises as `to_json`."""
    try:
        if _plain(value):
            return _with_msgpack_envelope(value, _MSGPACK.encode(value))
        return _MSGPACK_ORDERED.encode(_document(value, binary=True))
    except _FAILURES as error:
        raise _refusal("cannot be written", error) from error


@overload
def from_json(data: str | bytes, type: type[T]) -> T: ...
@overload
def from_json(data: str | bytes, type: Any = None) -> Any: ...
def from_json(data: str | bytes, type: Any = None) -> Any:
    """The value of a JSON document.

    `type` is a struct class or a union such as `Part` or `Event`: the document must hold one of
    these, and may then come without its envelope. Raises `ValidationError` with the path for
    anything that does not fit, `SessionError` for a document of a newer major version.
    """
    return _load(_FORMATS["json"], data, type)


@overload
def from_msgpack(data: bytes, type: type[T]) -> T: ...
@overload
def from_msgpack(data: bytes, type: Any = None) -> Any: ...
def from_msgpack(data: bytes, type: Any = None) -> Any:
    """The value of a msgpack document; `type` and errors as for `from_json`."""
    return _load(_FORMATS["msgpack"], data, type)


# --- what a class holds ---------------------------------------------------------------------------


class _Field(Struct, frozen=True):
    name: str
    default: Any
    check: Callable[[Any], bool] | None  # of the values that are not plain by their type


class _Plan(Struct, frozen=True):
    fields: tuple[_Field, ...]
    checked: tuple[tuple[str, Callable[[Any], bool]], ...]
    hints: dict[str, Any]
    tag: str | None
    own_keys: frozenset[str]  # of the object of this class, wherever it stands


@cache
def _plan(cls: type[Struct]) -> _Plan:
    hints = get_type_hints(cls)
    fields = tuple(
        _Field(info.name, _default(info), _check_for(info.name, hints[info.name]))
        for info in msgspec.structs.fields(cls)
    )
    tag = cls.__struct_config__.tag
    names = frozenset(field.name for field in fields) | ({"type"} if tag else set())
    return _Plan(
        fields=fields,
        checked=tuple((field.name, field.check) for field in fields if field.check is not None),
        hints=hints,
        tag=None if tag is None else str(tag),
        own_keys=names,
    )


def _default(info: msgspec.structs.FieldInfo) -> Any:
    if info.default is not msgspec.NODEFAULT:
        return info.default
    return msgspec.NODEFAULT if info.default_factory is msgspec.NODEFAULT else info.default_factory()


def _leaves(hint: Any) -> set[Any]:
    """The plain types that a hint is built from."""
    arguments = [item for item in get_args(hint) if item is not Ellipsis]
    if not arguments:
        return {hint}
    found: set[Any] = {dict} if get_origin(hint) is dict else set()
    return found.union(*map(_leaves, arguments))


def _check_for(name: str, hint: Any) -> Callable[[Any], bool] | None:
    leaves = _leaves(hint)
    if name == "extra":
        return _extra_plain
    if dict in leaves or Any in leaves:
        return _free_plain
    if any(isinstance(leaf, type) and issubclass(leaf, Struct) for leaf in leaves):
        return _nested_plain
    return _numbers_plain if leaves & {int, float} else None


# --- is a value plain: may msgspec write it as it stands? -------------------------------------------


def _plain(value: Any) -> bool:
    """False where the slow writer is needed; raises `ValidationError` where no writer can help."""
    cls = type(value)
    if cls not in _WORDS:
        raise ValidationError.of("not a layer A value", ("", f"type_{cls.__name__}"))
    return _struct_plain(value) and cls is not requests.ResponseFormat and not _is_foreign_event(value)


def _struct_plain(value: Struct) -> bool:
    plain = True
    for name, check in _plan(type(value)).checked:
        item = getattr(value, name)
        if _tells(item):
            try:
                plain = check(item) and plain
            except ValidationError as error:
                raise _below(name, error) from None
    return plain


def _nested_plain(value: Any) -> bool:
    if isinstance(value, Struct):
        return _struct_plain(value) and not _is_foreign_part(value)
    if not isinstance(value, tuple | list):
        return True  # of the wrong type: the loader names it
    plain = True
    for index in _telling(value):
        try:
            plain = _nested_plain(value[index]) and plain
        except ValidationError as error:
            raise _below(f"[{index}]", error) from None
    return plain


def _tells(item: Any) -> bool:
    return type(item) is not str and (bool(item) or isinstance(item, Struct))  # an empty thread is false


def _telling(values: Sequence[Any]) -> Iterable[int]:
    """The places of those that have something to look at. Where all are of one class they are read field by
    field: a conversation is many messages, of which most are text."""
    kinds = set(map(type, values))
    kind = kinds.pop() if len(values) > 1 and len(kinds) == 1 else None
    if kind is None or not issubclass(kind, Struct):
        return range(len(values))
    found: set[int] = set()
    for name, _ in _plan(kind).checked:
        column = [*map(attrgetter(name), values)]
        kinds = set(map(type, column))
        if kinds == {str} or (kinds == {dict} and not any(column)):
            continue
        places = [place for place, item in enumerate(column) if type(item) is not str]
        found.update([place for place in places if _tells(column[place])])
    return sorted(found)


def _extra_plain(value: Any) -> bool:
    json_value(value)
    return False


def _free_plain(value: Any) -> bool:
    json_value(value)
    return True


def _numbers_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_numbers_plain, value))
    if isinstance(value, int) and not _LOW <= value <= _HIGH:
        raise ValidationError.of("not a JSON value", ("", "integer_out_of_range"))
    if isinstance(value, float) and not isfinite(value):
        raise ValidationError.of("not a JSON value", ("", "not_a_finite_number"))
    return True


def _is_foreign_part(value: Any) -> TypeGuard[content.OpaquePart]:
    """Whether this is a part of a type that only a newer version knows: written back as it came."""
    if type(value) is not content.OpaquePart or value.origin or value.provider_data or value.extra:
        return False
    data = value.data
    word = data.get("type") if isinstance(data, dict) else None
    return isinstance(word, str) and word not in _PART_TAGS


def _is_foreign_event(value: Any) -> bool:
    """Whether this is a document of a type that only a newer version knows, its envelope included."""
    if type(value) is not events.RawChunk or value.index is not None or value.part is not None:
        return False
    data = value.data
    if not isinstance(data, dict) or type(data.get("allm")) is not int or data["allm"] != VERSION:
        return False
    return isinstance(data.get("type"), str) and data["type"] not in TYPES


# --- writing ----------------------------------------------------------------------------------------

_JSON_ORDERED: Final = msgspec.json.Encoder()
_MSGPACK_ORDERED: Final = msgspec.msgpack.Encoder()


@cache
def _json_head(cls: type[Struct]) -> bytes:
    """What stands before the fields; of a tagged class msgspec itself writes the type."""
    if _plan(cls).tag is not None:
        return b'{"allm":%d' % VERSION
    return b'{"allm":%d,"type":"%s"' % (VERSION, _WORDS[cls].encode())


def _with_json_envelope(value: Struct, body: bytes) -> bytes:
    comma = b"," if len(body) > 2 else b""
    return b"".join((_json_head(type(value)), comma, memoryview(body)[1:]))


def _with_msgpack_envelope(value: Struct, body: bytes) -> bytes:
    count, start = _map_head(body) or (0, 0)
    head = _VERSION_ITEM
    if _plan(type(value)).tag is None:
        head += _TYPE_ITEM + _MSGPACK.encode(_WORDS[type(value)])
        count += 1
    return b"".join((_map_start(count + 1), head, memoryview(body)[start:]))


_VERSION_ITEM: Final = _MSGPACK.encode("allm") + _MSGPACK.encode(VERSION)
_TYPE_ITEM: Final = _MSGPACK.encode("type")


def _map_head(data: bytes) -> tuple[int, int] | None:
    """The number of items of a msgpack map and where they start; None where it is no map we write."""
    if data[:1] == b"\xde" and len(data) >= 3:
        return int.from_bytes(data[1:3], "big"), 3
    return (data[0] & 15, 1) if data and data[0] & 0xF0 == 0x80 else None


def _map_start(count: int) -> bytes:
    return bytes((0x80 | count,)) if count < 16 else b"\xde" + count.to_bytes(2, "big")


def _document(value: Struct, binary: bool) -> dict[str, Any]:
    if isinstance(value, events.RawChunk) and _is_foreign_event(value):
        return {"allm": VERSION, **_sorted(value.data)}
    body = _object(value, binary, frozenset(("allm", "type", "type_")))
    if type(value) is requests.ResponseFormat and "type" in body:
        body["type_"] = body.pop("type")
    return {"allm": VERSION, "type": _WORDS[type(value)], **body}


def _object(value: Struct, binary: bool, taken: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A struct as a map: fields in order, then `extra` in place, what would clash in its own map."""
    plan = _plan(type(value))
    result: dict[str, Any] = {} if plan.tag is None else {"type": plan.tag}
    for field in plan.fields:
        item = getattr(value, field.name)
        if field.name != "extra" and not _same(item, field.default):
            result[field.name] = _builtin(item, binary)
    extra = _sorted(getattr(value, "extra", {}))
    taken |= plan.own_keys
    kept = {key: item for key, item in extra.items() if key in taken}
    result |= {key: item for key, item in extra.items() if key not in taken}
    return {**result, "extra": kept} if kept else result


def _same(item: Any, default: Any) -> bool:
    return item is default or (type(item) is type(default) and bool(item == default))


def _builtin(value: Any, binary: bool) -> Any:
    if isinstance(value, Struct):
        return _sorted(value.data) if _is_foreign_part(value) else _object(value, binary)
    if isinstance(value, dict):
        return _sorted(value)
    if isinstance(value, tuple | list):
        return [_builtin(item, binary) for item in value]
    if isinstance(value, bytes) and not binary:
        return b64encode(value).decode()
    return value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, tuple | list) else value


# --- reading ----------------------------------------------------------------------------------------


class _Format(Struct, frozen=True):
    decoder: Callable[..., Any]  # of a type: an object with `.decode(data)`
    word: Callable[[bytes], bytes]  # the type of a document that starts as we write it; empty of any other
    native: tuple[type, ...]  # builtins beyond those of JSON


_JSON_HEAD: Final = re.compile(rb'\{"allm":\s*1,\s*"type":\s*"([a-z_]+)"')


def _json_word(data: bytes) -> bytes:
    found = _JSON_HEAD.match(data)
    return found[1] if found else b""


def _msgpack_word(data: bytes) -> bytes:
    _, start = _map_head(data) or (0, 0)
    lead = _VERSION_ITEM + _TYPE_ITEM
    at = start + len(lead)
    if data[start:at] != lead or not b"\xa0" <= data[at : at + 1] <= b"\xbf":  # a text of up to 31 bytes
        return b""
    return data[at + 1 : at + 1 + (data[at] & 31)]


_FORMATS: Final = {
    "json": _Format(cache(msgspec.json.Decoder), _json_word, ()),
    "msgpack": _Format(cache(msgspec.msgpack.Decoder), _msgpack_word, (bytes,)),
}


@cache
def _document_type(cls: type[Struct]) -> type[Struct]:
    """The fields of a class and its envelope, so that a document is read as it stands, without a copy."""
    plan = _plan(cls)
    fields = [
        (name, plan.hints[name]) if default is msgspec.NODEFAULT else (name, plan.hints[name], default)
        for name, default in ((field.name, field.default) for field in plan.fields)
    ]
    envelope = [("allm", int), ("type", str)]
    return msgspec.defstruct(cls.__name__, [*envelope, *fields], kw_only=True, forbid_unknown_fields=True)


def _load(form: _Format, data: str | bytes, expected: Any) -> Any:
    try:
        raw = data if isinstance(data, bytes) else _bytes(data)
        wanted = None if expected is None else _members(expected)
        value = _typed(form, raw, wanted)
        if value is None:
            value = _upgraded(form, raw, expected, wanted)
        _struct_plain(value)  # a stored value is held to what may be stored: finite, not too deep
    except _FAILURES as error:
        raise _refusal("cannot be loaded", error) from error
    return value


def _bytes(data: Any) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(memoryview(data))


def _members(expected: Any) -> tuple[type[Struct], ...]:
    found = get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)
    if not all(member in _WORDS for member in found):
        raise ValidationError.of("no such type of document", ("type", f"unknown_type {expected!r}"))
    return found


def _typed(form: _Format, raw: bytes, wanted: tuple[type[Struct], ...] | None) -> Struct | None:
    """The first stage: one pass, nothing unknown. None where the second has to look."""
    try:
        cls = TYPES.get(form.word(raw).decode())
        if cls is None or cls is requests.ResponseFormat or (wanted is not None and cls not in wanted):
            return None
        document = form.decoder(_document_type(cls)).decode(raw)
        if document.allm != VERSION or document.type != _WORDS[cls]:  # it says two things
            return None
        return cls(**{name: getattr(document, name) for name in cls.__struct_fields__})
    except _FAILURES:
        return None


def _upgraded(form: _Format, raw: bytes, expected: Any, wanted: tuple[type[Struct], ...] | None) -> Struct:
    """The second stage: what is unknown is moved to where an older version can hold it."""
    tree = form.decoder(Any).decode(raw)
    if not isinstance(tree, dict):
        raise ValidationError.of("not a document", ("", "not_an_object"))
    if "allm" not in tree:
        if wanted is None:
            raise ValidationError.of("no envelope", ("allm", "missing: a document without it needs type="))
        return _converted(form, tree, expected)
    word = _word(tree)
    cls = TYPES.get(word)
    if cls is None and (wanted is None or events.RawChunk in wanted):
        return events.RawChunk({**tree})
    del tree["allm"]
    if cls is None and wanted is not None and content.OpaquePart in wanted:
        return content.OpaquePart(tree)
    if cls is None or (wanted is not None and cls not in wanted):
        raise ValidationError.of("another type of document", ("type", f"unexpected_type {word}"))
    if _plan(cls).tag is None:
        del tree["type"]
    if cls is requests.ResponseFormat and "type_" in tree:
        tree["type"] = tree.pop("type_")
    return _converted(form, tree, cls)


def _word(tree: dict[str, Any]) -> str:
    """The type in the envelope, after the version has been looked at."""
    version, word = tree["allm"], tree.get("type")
    if type(version) is not int or version < 1:
        raise ValidationError.of("not a version", ("allm", "invalid_version"))
    if version > VERSION:
        raise SessionError(
            f"the document has version {version}, this library reads up to version {VERSION}: update it"
        )
    if not isinstance(word, str):
        raise ValidationError.of("no type of document", ("type", "missing_type"))
    return word


def _converted(form: _Format, tree: dict[str, Any], hint: Any) -> Struct:
    value: Struct = msgspec.convert(_lifted(tree, hint), hint, builtin_types=form.native)
    return value


def _lifted(tree: Any, hint: Any) -> Any:
    """`tree` with everything unknown at the place that `hint` has for it."""
    if isinstance(tree, list):
        element = _element(hint)
        return tree if element is None else [_lifted(item, element) for item in tree]
    if not isinstance(tree, dict):
        return tree
    structs = [cls for cls in _alternatives(hint) if isinstance(cls, type) and issubclass(cls, Struct)]
    cls = _chosen(tree, structs)
    if cls is not None:
        return _lifted_object(tree, cls)
    if isinstance(tree.get("type"), str):
        if content.OpaquePart in structs:
            return {"type": "opaque", "data": tree}
        if events.RawChunk in structs:
            return {"type": "raw_chunk", "data": tree}
    return tree


def _chosen(tree: dict[str, Any], structs: list[Any]) -> Any:
    if len(structs) == 1:
        return structs[0]
    return next((cls for cls in structs if _plan(cls).tag == tree.get("type")), None)


def _lifted_object(tree: dict[str, Any], cls: type[Struct]) -> dict[str, Any]:
    plan = _plan(cls)
    result = {key: _lifted(item, plan.hints.get(key)) for key, item in tree.items() if key in plan.own_keys}
    unknown = {key: item for key, item in tree.items() if key not in plan.own_keys}
    if unknown and "extra" not in plan.own_keys:
        return result | unknown  # the conversion names them
    if unknown and isinstance(result.get("extra", {}), dict):
        result["extra"] = {**result.get("extra", {}), **unknown}
    return result


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _element(hint: Any) -> Any:
    """The hint of the items of the first tuple in `hint`."""
    return next((get_args(item)[0] for item in _alternatives(hint) if get_origin(item) is tuple), None)


# --- what went wrong --------------------------------------------------------------------------------

_AT: Final = re.compile(r"^(.*) - at `(?:key in )?\$(.*)`$", re.DOTALL)
_REASONS: Final = (
    ("Object missing", "missing_field"),
    ("Object contains unknown", "unknown_field"),
    ("Invalid base64", "invalid_base64"),
    ("Invalid value", "unknown_type"),
    ("Expected", "invalid_type"),
    ("Number out", "number_out_of_range"),
    ("Integer value out", "integer_out_of_range"),
)


def _below(name: str, error: ValidationError) -> ValidationError:
    problems = tuple((_joined(name, path), reason) for path, reason in error.errors)
    return ValidationError.of("not a JSON value", *problems)


def _joined(head: str, path: str) -> str:
    if not path or not head:
        return head or path
    return f"{head}{path}" if path.startswith("[") else f"{head}.{path}"


def _refusal(what: str, error: BaseException) -> Exception:
    """The exception of this library for whatever a codec raised."""
    if isinstance(error, ValidationError):
        return ValidationError.of(f"the document {what}", *error.errors)
    found = _AT.match(str(error))
    text, path = (found[1], found[2].removeprefix(".")) if found else (str(error), "")
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        problems = tuple((_joined(path, inner), reason) for inner, reason in cause.errors)
        return ValidationError.of(f"the document {what}", *problems)
    reason = next((word for start, word in _REASONS if text.startswith(start)), _general(error))
    return ValidationError.of(f"the document {what}", (path, f"{reason}{_detail(reason, text)}"))


def _general(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested_too_deeply"
    if isinstance(error, UnicodeError):
        return "invalid_unicode"
    if isinstance(error, OverflowError):
        return "number_out_of_range"
    return "invalid_value" if isinstance(error, msgspec.ValidationError) else "malformed"


def _detail(reason: str, text: str) -> str:
    """msgspec's own words where they say more than the reason: they name types and fields, no values."""
    shown = reason in ("invalid_type", "missing_field", "unknown_field")
    return f" ({text.replace('`', '')})" if shown else ""
