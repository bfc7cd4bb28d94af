"""Layer B: `Engine`, an immutable value that says how calls are made. It has no field for a key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import msgspec

from allm import keys as key_levels
from allm.data.freeform import json_value
from allm.data.requests import ModelRef, ToolSpec
from allm.errors import ConfigurationError, ValidationError
from allm.limits import Limits, Timeouts
from allm.options import (
    APPLICATION_KINDS,
    ENGINE_KINDS,
    KINDS,
    LOOP_PARAMS,
    REQUEST_FIELDS,
    check_kinds,
    check_names,
    listed,
)
from allm.retry import NO_RETRY, RetryPolicy

if TYPE_CHECKING:
    from allm.budget import Budget
    from allm.prices import Price
    from allm.tools import Tool

_PARAMS = (*REQUEST_FIELDS, *LOOP_PARAMS)
_UNCOMPARED = frozenset({"id"})

application: dict[str, Any] = {}
"""Application defaults, as `configure` set them: `model`, `tools`, `params`, `adapter_options` ..."""

_APPLICATION = (
    "model",
    "adapter",
    "base_url",
    "tools",
    "params",
    "adapter_options",
    "retry",
    "timeouts",
    "limits",
    "middleware",
    "fallbacks",
    "budget",
    "prices",
)


def configure(
    *,
    keys: Mapping[str, str] | None = None,
    key_source: Any = None,
    env_file: str | None = None,
    **defaults: Any,
) -> None:
    """Set application defaults, below the engine and above the library: model, tools, params ...

    `configure()` without arguments clears the defaults. `env_file=".env"` switches that level on.
    """
    check_names(defaults, _APPLICATION, "application default")
    check_kinds({**defaults, "keys": keys, "key_source": key_source, "env_file": env_file}, APPLICATION_KINDS)
    _check_port("adapter", defaults.get("adapter"))
    model_text(defaults.get("model"))
    if "adapter_options" in defaults:
        defaults["adapter_options"] = adapter_options(defaults["adapter_options"])
    if "params" in defaults:
        check_names(defaults["params"], _PARAMS, "param")
        check_kinds(defaults["params"], KINDS, "params.")
    if "tools" in defaults:
        defaults["tools"] = as_tools(defaults["tools"])
    for name in ("middleware", "fallbacks"):
        if name in defaults:
            defaults[name] = tuple(defaults[name])
    if not defaults and keys is None and key_source is None and env_file is None:
        application.clear()
    application.update(defaults)
    key_levels.configure_keys(
        keys=dict(keys) if keys is not None else None,
        key_source=key_source,
        env_file=env_file,
    )


def as_tools(tools: Iterable[Any]) -> tuple[Tool, ...]:
    """Tools, specifications, functions, and what modules, instances and classes hold, as tools in order.

    Raises `ValidationError` where two of them have one name.
    """
    if not listed(tools):
        raise ValidationError.of("invalid tools", ("tools", f"must_be_a_list: not {type(tools).__name__}"))
    made = tuple([made for item in tools for made in _tools_of(item)])
    names = [item.name for item in made]
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValidationError.of(f"two tools of one list are called {twice!r}", ("tools", "duplicate_name"))
    return made


def _tools_of(item: Any) -> Iterable[Tool]:
    """The tools that one entry of a list of tools stands for."""
    from allm.tools import Tool, from_object, needs_instance, tool

    if isinstance(item, Tool):
        if needs_instance(item):
            raise ConfigurationError(f"the tool {item.name!r} is a method: pass it from an instance")
        return (item,)
    if isinstance(item, ToolSpec):
        return (Tool.from_spec(item),)
    if found := from_object(item):
        return found
    if callable(item):
        return (tool(item),)
    raise ConfigurationError(
        f"{type(item).__name__!r} is not a tool: pass a function, @allm.tool, allm.Tool, or what holds some"
    )


def merge_tools(mine: tuple[Tool, ...], over: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """`over` replaces tools of the same name in place; new ones come after, in their order."""
    if not mine or not over:
        return mine or over
    named = {item.name: item for item in over}
    kept = [named.pop(item.name, item) for item in mine]
    return (*kept, *[item for item in over if named.get(item.name) is item])


class EngineFields(TypedDict, total=False):
    """The fields of an `Engine` beside its model; all optional."""

    adapter: Any
    base_url: str | None
    adapter_options: Mapping[str, Any]
    image_adapter: Any
    embed_adapter: Any
    tools: Iterable[Any]
    params: Mapping[str, Any]
    context: Mapping[str, Any]
    system: str | None
    tool_executor: Any
    tool_result_encoder: Any
    retry: RetryPolicy | Literal[False] | None
    timeouts: Timeouts
    limits: Limits
    transport: Any
    observers: Iterable[Any]
    middleware: Iterable[Any]
    fallbacks: Iterable[Any] | None
    budget: Budget | None
    prices: Mapping[str, Price]
    on_unsupported: Literal["adapt", "raise", "pass"] | None
    orphans: Literal["answer", "refuse"] | None
    metadata: Mapping[str, Any]
    id: str
    trusted: bool


class _Keeping:
    """What was worked out of an object that never changes, kept with it; no part of its value."""

    __slots__ = ("_kept",)

    _kept: Any

    def _keep(self, value: Any) -> None:
        object.__setattr__(self, "_kept", value)


class Engine(_Keeping):
    """How calls are made: model, adapter, tools, parameters, policies. Immutable, comparable, shareable.

    >>> engine = Engine("anthropic:claude-sonnet-5-5", params={"temperature": 0})

    `model` is `provider:model`, `model@provider`, `(provider, model)`, or a bare id with `adapter=`
    (a provider's name, or an object that implements a port). `params` holds call options that apply
    to every call; options of a call win. `id` is kept by the `with_` and `put_` methods and is not
    compared.
    """

    __slots__ = (
        "adapter", "adapter_options", "base_url", "budget", "context", "embed_adapter", "fallbacks", "id",
        "image_adapter", "limits", "metadata", "middleware", "model", "observers", "on_unsupported",
        "orphans", "params", "prices", "retry", "system", "timeouts", "tool_executor", "tool_result_encoder",
        "tools", "transport", "trusted",
    )  # fmt: skip

    adapter: Any
    id: str
    model: str | None
    params: dict[str, Any]
    tools: tuple[Tool, ...]
    timeouts: Timeouts
    limits: Limits
    retry: RetryPolicy
    adapter_options: dict[str, Any]
    context: dict[str, Any]
    metadata: dict[str, Any]
    system: str | None
    base_url: str | None
    observers: tuple[Any, ...]
    middleware: tuple[Any, ...]
    fallbacks: tuple[Engine | str, ...] | None
    budget: Budget | None
    prices: dict[str, Price]
    on_unsupported: str | None
    orphans: str | None
    tool_executor: Any
    tool_result_encoder: Any
    transport: Any
    image_adapter: Any
    embed_adapter: Any
    trusted: bool

    def __init__(self, model: Any = None, **fields: Unpack[EngineFields]) -> None:
        check_names(fields, _FIELDS, "engine option")
        check_kinds(fields, ENGINE_KINDS)
        for slot in ("adapter", "image_adapter", "embed_adapter"):
            _check_port(slot, fields.get(slot))
        params = dict(fields.get("params", {}))
        check_names(params, _PARAMS, "param (the provider's own go into params={'options': {...}})")
        check_kinds(params, KINDS, "params.")
        retry = fields.get("retry", RetryPolicy())
        values = {
            "model": model_text(model),
            "adapter": fields.get("adapter"),
            "base_url": fields.get("base_url"),
            "adapter_options": adapter_options(fields.get("adapter_options", {})),
            "image_adapter": fields.get("image_adapter"),
            "embed_adapter": fields.get("embed_adapter"),
            "tools": as_tools(fields.get("tools", ())),
            "params": params,
            "context": dict(fields.get("context", {})),
            "tool_executor": fields.get("tool_executor"),
            "tool_result_encoder": fields.get("tool_result_encoder"),
            "retry": retry or NO_RETRY,
            "timeouts": fields.get("timeouts") or Timeouts(),
            "limits": fields.get("limits") or Limits(),
            "transport": fields.get("transport", "auto"),
            "observers": tuple(fields.get("observers", ())),
            "middleware": tuple(fields.get("middleware", ())),
            "fallbacks": _fallbacks(fields.get("fallbacks")),
            "budget": fields.get("budget"),
            "prices": dict(fields.get("prices", {})),
            "on_unsupported": fields.get("on_unsupported"),
            "orphans": fields.get("orphans"),
            "metadata": json_value(fields.get("metadata", {}), "metadata"),
            "system": fields.get("system"),
            "id": fields.get("id") or os.urandom(8).hex(),
            "trusted": fields.get("trusted", True),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._keep(None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an Engine is immutable; use engine.merge({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("an Engine is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Engine):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self.__slots__ if n not in _UNCOMPARED)

    def __reduce__(self) -> Any:
        return _rebuilt, ({name: getattr(self, name) for name in self.__slots__},)

    def __repr__(self) -> str:
        shown = [repr(self.model)]
        if self.adapter is not None:
            shown.append(f"adapter={getattr(self.adapter, 'name', self.adapter)!r}")
        if self.base_url:
            shown.append(f"base_url={self.base_url!r}")
        if self.tools:
            shown.append(f"tools={[item.name for item in self.tools]}")
        if self.params:
            shown.append(f"params={self.params!r}")
        return f"Engine({', '.join(shown)})"

    def merge(self, **fields: Any) -> Engine:
        """A copy with these fields. `tools` replace by name, `params`, `context`, `metadata`,
        `adapter_options` and `prices` are merged key by key, all else is replaced."""
        mine = {name: getattr(self, name) for name in self.__slots__}
        check_names(fields, (*_FIELDS, "model"), "engine option")
        check_kinds(fields, ENGINE_KINDS)
        for name in ("params", "context", "metadata", "adapter_options", "prices"):
            if name in fields:
                fields[name] = {**mine[name], **fields[name]}
        if "tools" in fields:
            fields["tools"] = merge_tools(self.tools, as_tools(fields["tools"]))
        return _rebuilt({**mine, **fields})

    def with_model(self, model: Any) -> Engine:
        return self.merge(model=model)

    def put_tool(self, item: Any) -> Engine:
        return self.merge(tools=[item])

    def put_tools(self, items: Iterable[Any]) -> Engine:
        return self.merge(tools=items)

    def put_param(self, name: str, value: Any) -> Engine:
        return self.merge(params={name: value})

    def put_context(self, name: str, value: Any) -> Engine:
        return self.merge(context={name: value})

    def to_data(self) -> dict[str, Any]:
        """The engine as JSON data: adapter by name, tools by specification, no handlers, no keys.

        Raises `ConfigurationError` where an adapter, transport or the like is an object of your own, and
        where there is middleware: without it the loaded engine would do what it guards against.
        """
        if self.middleware:
            named = ", ".join(type(item).__name__ for item in self.middleware)
            text = f"middleware is code and cannot be stored ({named}); store the engine without it"
            raise ConfigurationError(f"{text} and attach it after loading: engine.merge(middleware=[...])")
        data: dict[str, Any] = {"model": self.model, "id": self.id}
        for name in ("adapter", "image_adapter", "embed_adapter", "transport"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(f"{name} is an object and cannot be stored; use its registered name")
            data[name] = value
        for name in (
            "base_url",
            "system",
            "on_unsupported",
            "orphans",
            "params",
            "context",
            "metadata",
            "adapter_options",
        ):
            data[name] = json_value(msgspec.to_builtins(getattr(self, name)), name)
        for name in ("retry", "timeouts", "limits"):
            data[name] = msgspec.to_builtins(getattr(self, name))
        data["prices"] = msgspec.to_builtins(self.prices)
        if self.budget is not None:
            data["budget"] = msgspec.to_builtins(self.budget)
        data["tools"] = msgspec.to_builtins([item.spec for item in self.tools])
        stored = {name: value for name, value in data.items() if value not in (None, {}, [])}
        if self.fallbacks is not None:  # none at all is not the same as not said
            stored["fallbacks"] = [
                item if isinstance(item, str) else item.to_data() for item in self.fallbacks
            ]
        return stored

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Engine:
        """The engine that `to_data` wrote. Nothing is imported: attach handlers with `allm.bind`.

        With a base URL of its own it takes no stored key until `trust_base_url()`.
        """
        fields = _stored(data, dict[str, Any])
        kinds: dict[str, Any] = {
            "retry": RetryPolicy,
            "timeouts": Timeouts,
            "limits": Limits,
            "adapter_options": dict[str, Any],
            "fallbacks": list[Any],
            "tools": list[ToolSpec],
        }
        if "budget" in fields:
            from allm.budget import Budget

            kinds["budget"] = Budget
        if "prices" in fields:
            from allm.prices import Price

            kinds["prices"] = dict[str, Price]
        fields |= {name: _stored(fields[name], kind) for name, kind in kinds.items() if name in fields}
        if "fallbacks" in fields:
            fields["fallbacks"] = [
                item if isinstance(item, str) else cls.from_data(item) for item in fields["fallbacks"]
            ]
        trusted = "base_url" not in fields and "base_url" not in fields.get("adapter_options", {})
        return cls(fields.pop("model", None), **{**fields, "trusted": trusted})

    def trust_base_url(self) -> Engine:
        """Let an engine that was loaded from data use stored keys with its own base URL."""
        return self.merge(trusted=True)

    @property
    def ref(self) -> ModelRef:
        """Provider and model id. Raises `ConfigurationError` where no model and no adapter is set."""
        return reference(self.model, self.adapter)


_FIELDS = tuple(name for name in Engine.__slots__ if name != "model")


def _stored(data: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ValidationError.of("the stored engine cannot be loaded", ("engine", str(error))) from None


def _rebuilt(fields: dict[str, Any]) -> Engine:
    return Engine(fields.pop("model"), **fields)


_ANSWERS = ("complete", "acomplete", "stream", "astream", "play")
_ENCODES = ("encode", "decoder", "explain")


def _check_port(slot: str, given: Any) -> None:
    """An adapter is a provider's name or an object with the methods of a port (`allm.ports`)."""
    if given is None or (isinstance(given, str) and given):
        return
    if isinstance(given, type):
        raise ConfigurationError(f"{slot} takes an object: write {given.__name__}(...), not the class")
    has = {name for name in (*_ANSWERS, *_ENCODES) if callable(getattr(given, name, None))}
    if has.issuperset(_ENCODES) or has.intersection(_ANSWERS):
        return
    if has:
        what = f"it has {', '.join(sorted(has))} and lacks {', '.join(n for n in _ENCODES if n not in has)}"
    else:
        what = f"it has none of {', '.join(_ANSWERS[:4])}, and not {', '.join(_ENCODES)}"
    raise ConfigurationError(
        f"{slot} takes a provider's name or an adapter; {type(given).__name__!r} is neither: {what}"
    )


def _fallbacks(given: Iterable[Any] | None) -> tuple[Engine | str, ...] | None:
    return None if given is None else tuple(given)


def model_text(model: Any) -> str | None:
    """A model in any spelling as `provider:model` or a bare id. Raises `ConfigurationError` for no model."""
    if isinstance(model, ModelRef):
        return str(model)
    if isinstance(model, tuple) and len(model) == 2:
        return f"{model[0]}:{model[1]}"
    if model is None or (isinstance(model, str) and model):
        return model
    raise ConfigurationError(f"model must be 'provider:model' or a (provider, model) pair, not {model!r}")


def bind(engine: Engine, tools: Iterable[Any]) -> Engine:
    """The engine with handlers attached: `tools` replace those of the same name, none may be new."""
    attached = as_tools(tools)
    check_names([item.name for item in attached], [item.name for item in engine.tools], "tool")
    return engine.merge(tools=attached)


def adapter_name(adapter: Any) -> str:
    """What an adapter, given by its name or as an object, is called."""
    name: str = adapter if isinstance(adapter, str) else getattr(adapter, "name", type(adapter).__name__)
    return name


def reference(model: str | None, adapter: Any) -> ModelRef:
    """Model text and adapter as provider and id; an adapter that is an object gives its name."""
    if adapter is not None:
        name = adapter_name(adapter)
        return ModelRef.parse(model, name) if model is not None else ModelRef(name)
    if model is None:
        raise ConfigurationError(
            "no model: Engine('openai:gpt-6-luna'), Engine('local'), or pass model= to the call"
        )
    return ModelRef.parse(model)


_SECRET_HEADERS = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization"}
)


def adapter_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an adapter as JSON values. Keys do not travel in them: they are data, stored and logged."""
    options: dict[str, Any] = json_value(given, "adapter_options")
    headers = options.get("headers") or {}
    if not isinstance(headers, Mapping):
        raise ValidationError.of("invalid option", ("adapter_options.headers", "must_be_a_mapping"))
    for name in headers:
        if name.lower() in _SECRET_HEADERS:
            raise ConfigurationError(
                f"the header {name!r} carries a key: pass api_key= instead of adapter_options"
            )
    return options
