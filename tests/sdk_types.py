"""The request types of the official SDKs, read as closed schemas: what `openai`, `anthropic` and
`google-genai` would let a program send.

`problems(dialect, body)` gives every way in which a body does not fit, as `path: why`. An unknown key is
one, a missing key too. TypedDicts (OpenAI, Anthropic) are walked here, because pydantic neither forbids
their unknown keys nor looks into an `Iterable`; Google's types are pydantic models that forbid unknown
keys, and what they read must come out again as it went in.
"""

from __future__ import annotations

import json
import types
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Union

import pytest
import typing_extensions

from allm.ports import HttpRequest
from tests.four_dialects import Dialect

_NONE = type(None)
_SCALARS: dict[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float), bool: (bool,)}
_FAR = 2
_LISTS = (list, Iterable, Sequence)
_MAPS = (dict, Mapping)


def misfits(dialect: Dialect, sent: HttpRequest) -> list[str]:
    """What the dialect's SDK says against a request; where it is not installed, the test is skipped."""
    needs_sdk(dialect)
    return problems(dialect.name, json.loads(sent.body), beta="anthropic-beta" in sent.headers)


def needs_sdk(dialect: Dialect) -> None:
    pytest.importorskip(dialect.sdk, reason=f"the SDK {dialect.sdk} is not installed")


def problems(dialect: str, body: Any, *, beta: bool = False) -> list[str]:
    """How `body` differs from what the dialect's SDK takes; none is a pass.

    `dialect` is `chat`, `responses`, `messages` or `generate`; `beta` asks Anthropic's beta types, which
    a request with the header `anthropic-beta` is made from. Raises `ImportError` where the SDK is absent.
    """
    if dialect == "generate":
        return _model_problems(body)
    return _problems(body, _params(dialect, beta), "body")


@cache
def _params(dialect: str, beta: bool) -> Any:
    if dialect == "chat":
        from openai.types.chat.completion_create_params import CompletionCreateParams

        return CompletionCreateParams
    if dialect == "responses":
        from openai.types.responses.response_create_params import ResponseCreateParams

        return ResponseCreateParams
    if beta:
        from anthropic.types.beta.message_create_params import MessageCreateParams as BetaParams

        return BetaParams
    from anthropic.types.message_create_params import MessageCreateParams

    return MessageCreateParams


def _problems(value: Any, kind: Any, path: str) -> list[str]:
    """How `value`, which is JSON data, differs from the annotation `kind`."""
    kind = _bare(kind)
    origin = typing.get_origin(kind)
    if kind is Any or kind is object:
        return []
    if kind is _NONE or kind is None:
        return [] if value is None else _differs(value, "null", path)
    if origin in (Union, types.UnionType):
        return _union(value, kind, path)
    if origin is typing.Literal:
        allowed = typing.get_args(kind)
        fits = any(type(value) is type(word) and value == word for word in allowed)
        return [] if fits else _differs(value, f"one of {allowed}", path)
    if typing_extensions.is_typeddict(kind):
        return _typed_dict(value, kind, path)
    if kind in _SCALARS:
        fits = isinstance(value, _SCALARS[kind]) and (kind is bool or not isinstance(value, bool))
        return [] if fits else _differs(value, kind.__name__, path)
    return _container(value, kind, origin or kind, path)


def _container(value: Any, kind: Any, origin: Any, path: str) -> list[str]:
    arguments = typing.get_args(kind)
    if origin in _LISTS or getattr(origin, "__name__", "") == "SequenceNotStr":
        if not isinstance(value, list):
            return _differs(value, "a list", path)
        item = arguments[0] if arguments else Any
        return [line for i, each in enumerate(value) for line in _problems(each, item, f"{path}[{i}]")]
    if origin in _MAPS:
        if not isinstance(value, dict):
            return _differs(value, "an object", path)
        item = arguments[1] if arguments else Any
        return [line for key, each in value.items() for line in _problems(each, item, f"{path}.{key}")]
    return _differs(value, f"something else than {kind!r}", path)


def _typed_dict(value: Any, kind: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return _differs(value, kind.__name__, path)
    fields, required = _fields(kind)
    missing = [f"{path}.{key}: missing, {kind.__name__} needs it" for key in required if key not in value]
    unknown = [f"{path}.{key}: unknown to {kind.__name__}" for key in value if key not in fields]
    inner = [
        line for key in value if key in fields for line in _problems(value[key], fields[key], f"{path}.{key}")
    ]
    return missing + unknown + inner


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The annotations of a TypedDict, resolved, and which of them must be there.

    Read from the annotations: under `from __future__ import annotations` the class itself does not know
    which fields are `Required`.
    """
    hints = typing_extensions.get_type_hints(kind, include_extras=True)
    required = [name for name, hint in hints.items() if _is_required(hint) or name in kind.__required_keys__]
    return hints, tuple(required)


def _is_required(hint: Any) -> bool:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return typing.get_origin(hint) in (typing.Required, typing_extensions.Required)


@cache
def _bare(kind: Any) -> Any:
    """An annotation without `Required`, `NotRequired`, `Annotated` and alias."""
    while True:
        origin = typing.get_origin(kind)
        if origin in (typing.Required, typing.NotRequired, typing.Annotated):
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        else:
            return kind


def _union(value: Any, kind: Any, path: str) -> list[str]:
    """None where one member fits; else what is wrong with the member that was meant."""
    nearest: list[str] = []
    members = sorted(_members(kind), key=lambda member: _distance(value, member))
    for member in members:
        found = _problems(value, member, path)
        if not found:
            return []
        nearest = nearest or found
    if isinstance(value, dict) and "type" in value and _distance(value, members[0]) == _FAR:
        return [f"{path}: nothing here has the type {value['type']!r}"]
    return nearest


@cache
def _members(kind: Any) -> tuple[Any, ...]:
    """The members of a union, those of unions in it included."""
    kind = _bare(kind)
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return (kind,)
    return tuple(inner for member in typing.get_args(kind) for inner in _members(member))


def _distance(value: Any, kind: Any) -> int:
    """How far a member of a union is from what `value` calls itself: 0 is near. It orders the search."""
    if isinstance(value, list):
        return 0 if typing.get_origin(kind) is not None else _FAR
    if not typing_extensions.is_typeddict(kind) or not isinstance(value, dict):
        return 1
    fields, _ = _fields(kind)
    named = [key for key in ("type", "role", "stream") if key in value and key in fields]
    return 0 if named and not any(_problems(value[key], fields[key], "") for key in named) else _FAR


def _differs(value: Any, wanted: str, path: str) -> list[str]:
    return [f"{path}: {value!r:.80} is not {wanted:.300}"]


def _model_problems(body: Any) -> list[str]:
    """Google's types read the body; what they hold must be the body again, key for key."""
    import pydantic

    with warnings.catch_warnings(record=True) as warned:  # a word that no enum has is a warning there
        warnings.simplefilter("always")
        try:
            read = _gemini_body().model_validate_json(json.dumps(body))
        except pydantic.ValidationError as error:
            return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    written = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
    unknown = [f"body: {each.message}" for each in warned if each.category is UserWarning]
    return unknown + _changed(body, written, "body")


@cache
def _gemini_body() -> Any:
    """The REST body of generateContent. The SDK types only its own flat form of it: these are its fields,
    where the SDK's own writer for the Developer API puts them."""
    import pydantic
    from google.genai import types as sdk

    flat = sdk.GenerateContentConfig.model_fields

    def optional(*names: str) -> dict[str, Any]:
        return {name: (flat[name].annotation, None) for name in names}

    settings = pydantic.create_model(
        "GenerationConfig", __base__=sdk.GenerationConfig, **optional("image_config")
    )
    fields: dict[str, Any] = {
        "contents": (list[sdk.Content], ...),
        "system_instruction": (sdk.Content, None),
        "tools": (list[sdk.Tool], None),
        "generation_config": (settings, None),
        **optional("tool_config", "safety_settings", "cached_content", "labels"),
        **optional("service_tier", "store", "continuation_token"),
    }
    closed: Any = sdk.Content.__base__  # camelCase on the wire, no unknown keys, bytes as base64
    return pydantic.create_model("GenerateContentBody", __base__=closed, **fields)


def _changed(sent: Any, written: Any, path: str) -> list[str]:
    if isinstance(sent, dict) and isinstance(written, dict):
        lost = [f"{path}.{key}: not kept by the SDK" for key in sent.keys() - written.keys()]
        keys: Iterable[Any] = [key for key in sent if key in written]
        return lost + [line for key in keys for line in _changed(sent[key], written[key], f"{path}.{key}")]
    if isinstance(sent, list) and isinstance(written, list) and len(sent) == len(written):
        return [
            line
            for i, pair in enumerate(zip(sent, written, strict=True))
            for line in _changed(*pair, f"{path}[{i}]")
        ]
    return [] if _same(sent, written) else _differs(sent, f"what the SDK makes of it: {written!r:.80}", path)


def _same(sent: Any, written: Any) -> bool:
    """Equal, but for the alphabet of base64, the case of words and 1 for 1.0: the SDK rewrites these."""
    if isinstance(sent, str) and isinstance(written, str):
        return sent.translate(_URL_SAFE).casefold() == written.translate(_URL_SAFE).casefold()
    return isinstance(sent, bool) == isinstance(written, bool) and bool(sent == written)


_URL_SAFE = str.maketrans("+/", "-_")
