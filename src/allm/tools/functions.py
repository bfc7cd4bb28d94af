"""Tools made of functions: names, descriptions and schemas come from what is written there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import MethodType
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, Union, get_origin, overload

import msgspec
from msgspec import Struct

from allm.data.content import ToolCall
from allm.data.freeform import json_value
from allm.data.requests import ToolSpec
from allm.errors import ConfigurationError, ValidationError
from allm.schemas import convert, inlined, problems, schemas_of, with_definitions
from allm.tools.base import (
    MAX_RESULT,
    Approval,
    Policies,
    Tool,
    arguments_of,
    check_importable,
    is_context,
    reference,
)
from allm.tools.docstrings import read_docstring
from allm.tools.failures import invalid_arguments
from allm.tools.values import ToolContext

P = ParamSpec("P")
R = TypeVar("R")


class FunctionTool(Tool, Generic[P, R]):
    """What `@tool` makes: the schema comes from the function's parameters, and it stays callable.

    In a class it is a method: `instance.method` is the tool bound to the instance.
    """

    __slots__ = ("_contexts", "_others", "_parameters", "_positional", "_receiver", "_values")
    _parameters: tuple[Parameter, ...]
    _values: dict[str, Parameter]  # those that the model fills, by name
    _contexts: tuple[str, ...]  # the names of those that get the `ToolContext`
    _others: Parameter | None  # `**kwargs`
    _positional: tuple[Parameter, ...]
    _receiver: str  # what the first parameter is: "self", "cls" or nothing

    def _wants_context(self, handler: Callable[..., Any]) -> bool:
        return False  # its parameters say so one by one

    def _describe(self, parameters: tuple[Parameter, ...], receiver: str) -> None:
        fields = {
            "_parameters": parameters,
            "_values": {item.name: item for item in parameters if item.kind == "value"},
            "_contexts": tuple([item.name for item in parameters if item.kind == "context"]),
            "_others": next((item for item in parameters if item.kind == "others"), None),
            "_positional": tuple([item for item in parameters if item.positional]),
            "_receiver": receiver,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function as it is: no checks, no conversion."""
        result: R = super().__call__(*args, **kwargs)
        return result

    @property
    def __wrapped__(self) -> Callable[P, R]:
        assert self.handler is not None
        return self.handler

    @property
    def __name__(self) -> str:
        return getattr(self.handler, "__name__", self.name)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if not self._receiver or isinstance(self.handler, MethodType):
            return self
        receiver = owner if self._receiver == "cls" else instance
        if receiver is None or self.handler is None:
            return self
        made: FunctionTool[Any, Any] = FunctionTool.__new__(FunctionTool)
        made._fill(self.spec, MethodType(self.handler, receiver), self._policies)
        made._describe(self._parameters, self._receiver)
        return made

    def bind_arguments(self, call: ToolCall) -> dict[str, Any]:
        """Keyword arguments for the function, converted to the annotated types.

        Raises `ToolError` with code `invalid_arguments`; the message names every path and reason.
        """
        arguments = arguments_of(self.name, call)
        found: list[tuple[str, str]] = []
        bound = self._converted(arguments, found)
        if found:
            # The schema's own words list every problem and every choice, where it sees any.
            raise invalid_arguments(self.name, call, problems(arguments, self.spec.schema) or found)
        return bound

    def _converted(self, arguments: dict[str, Any], found: list[tuple[str, str]]) -> dict[str, Any]:
        """The arguments as the types of their parameters; what does not fit goes to `found`."""
        bound: dict[str, Any] = {}
        for name, parameter in self._values.items():
            if name in arguments:
                _bind(name, arguments[name], parameter.type, bound, found)
            elif parameter.required:
                found.append((name, "required, but missing"))
        for name, value in arguments.items():
            if name in self._values:
                continue
            if self._others is None or any(name == parameter.name for parameter in self._parameters):
                found.append((name, "unknown property"))
            else:
                _bind(name, value, self._others.type, bound, found)
        return bound

    def _prepared(self, call: ToolCall, context: ToolContext) -> Callable[[], Any]:
        assert self.handler is not None
        if needs_instance(self):
            raise ConfigurationError(f"the tool {self.name!r} is a method: pass it from an instance")
        keywords = self.bind_arguments(call)
        for name in self._contexts:
            keywords[name] = context
        first = [keywords.pop(parameter.name, parameter.default) for parameter in self._positional]
        return partial(self.handler, *first, **keywords)


def _bind(name: str, value: Any, type: Any, bound: dict[str, Any], found: list[tuple[str, str]]) -> None:
    try:
        bound[name] = convert(value, type)
    except ValidationError as error:
        for path, reason in error.errors:
            found.append((name + path if path.startswith("[") or not path else f"{name}.{path}", reason))


class Parameter(Struct, frozen=True):
    """`kind` is `value`, `context`, or `others` for `**kwargs`."""

    name: str
    type: Any
    kind: str = "value"
    required: bool = True
    default: Any = None
    positional: bool = False
    note: str = ""


# Making tools


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    manual: bool = False,
    timeout: float | None = None,
    strict: bool | None = None,
    on_interrupted: str = "report",
    isolation: str = "thread",
    requires_approval: Approval = False,
    max_result: int = MAX_RESULT,
    metadata: dict[str, Any] | None = None,
    examples: Sequence[str] = (),
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a `Tool` of a function, sync or async: `@tool` or `@tool(name=..., timeout=...)`.

    Name, description and JSON Schema come from the function's name, docstring and annotations;
    a parameter annotated `ToolContext` gets the context and is not shown to the model. Parameters
    are described in the docstring (Google, NumPy or Sphinx style) or by `Annotated[T, "text"]`.
    Options are those of `Tool`. Raises `ConfigurationError` for a type that has no schema.
    """
    # Classes made inside a function are found by name only there, if annotations are strings.
    local = sys._getframe(1).f_locals
    if function is not None:
        return _from_function(function, local, options)
    return lambda function: _from_function(function, local, options)


def _from_function(given: Any, local: dict[str, Any], options: dict[str, Any]) -> FunctionTool[Any, Any]:
    function, receiver = unwrapped(given)
    if not callable(function) or isinstance(function, Tool):
        raise ConfigurationError(f"@tool makes tools of functions, not of {function!r}")
    parameters = parameters_of(function, local, receiver)
    options = dict(options)
    name = options.pop("name", None) or getattr(function, "__name__", type(function).__name__)
    described = options.pop("description", None)
    summary, notes = read_docstring(function.__doc__) if hasattr(function, "__name__") else ("", {})
    base = Tool(
        name=name,
        description=summary if described is None else described,
        schema=_schema(name, parameters, notes),
        **options,
    )
    if base.isolation == "process":
        check_importable(function, receiver)
    spec = msgspec.structs.replace(base.spec, handler=None if receiver else reference(function))
    return function_tool(spec, function, base._policies, parameters, receiver)


def function_tool(
    spec: ToolSpec, handler: Any, policies: Policies, parameters: tuple[Parameter, ...], receiver: str
) -> FunctionTool[Any, Any]:
    """The tool of all that is known of it; nothing is read from the function."""
    made: FunctionTool[Any, Any] = FunctionTool.__new__(FunctionTool)
    made._fill(spec, handler, policies)
    made._describe(parameters, receiver)
    return made


def unwrapped(given: Any) -> tuple[Any, str]:
    """The plain function, and what its first parameter receives."""
    if isinstance(given, staticmethod):
        return given.__func__, ""
    if isinstance(given, classmethod):
        return given.__func__, "cls"
    scope = getattr(given, "__qualname__", "").rpartition(".")[0]
    if not scope or scope.endswith("<locals>") or isinstance(given, MethodType):
        return given, ""
    code = getattr(given, "__code__", None)
    first = code.co_varnames[0] if code is not None and code.co_argcount else ""
    return given, "self" if first == "self" else ""


def from_object(obj: Any) -> list[Tool]:
    """The tools that a module, an instance or a class holds, in the order of their definition.

    Of a class only those that need no instance; a class of which all do is a `ConfigurationError`.
    """
    from types import ModuleType

    if isinstance(obj, ModuleType):
        found = [value for value in vars(obj).values() if isinstance(value, Tool)]
    else:
        owner = obj if isinstance(obj, type) else type(obj)
        names = {name: None for base in reversed(owner.__mro__) for name in vars(base)}
        names.update(dict.fromkeys(getattr(obj, "__dict__", ())))
        held = [getattr(obj, name) for name in names if _holds_tool(obj, owner, name)]
        found = [value for value in held if isinstance(value, Tool)]
        usable = [value for value in found if not needs_instance(value)]
        if found and not usable:
            raise ConfigurationError(f"the tools of {owner.__name__} are methods: pass an instance")
        found = usable
    return [value for index, value in enumerate(found) if not any(value is other for other in found[:index])]


def _holds_tool(obj: Any, owner: type, name: str) -> bool:
    """Looks without running properties."""
    static = getattr(obj, "__dict__", {}).get(name)
    for base in owner.__mro__:
        static = vars(base).get(name) if static is None else static
    return isinstance(getattr(static, "__func__", static), Tool)


def needs_instance(value: Tool) -> bool:
    """Whether it is the tool of a method that was taken from the class."""
    method = isinstance(value, FunctionTool) and value._receiver == "self"
    return method and not isinstance(value.handler, MethodType)


# Parameters and their schema


def parameters_of(function: Any, local: dict[str, Any], receiver: str) -> tuple[Parameter, ...]:
    """What the function takes; `local` holds names that its annotations may use."""
    import inspect

    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the parameters of {function!r} cannot be read: {error}") from None
    hints = _hints(function, local)
    return tuple(
        _parameter(item, hints.get(item.name, Any))
        for item in given[1 if receiver else 0 :]
        if item.kind is not item.VAR_POSITIONAL
    )


def _parameter(item: Any, hint: Any) -> Parameter:
    required = item.default is item.empty
    default = None if required else item.default
    positional = item.kind is item.POSITIONAL_ONLY
    if is_context(hint):
        return Parameter(item.name, hint, "context", required, default, positional)
    if item.kind is item.VAR_KEYWORD:
        return Parameter(item.name, hint, "others", False)
    if not required and default is None and hint is not Any:
        hint = Union[hint, None]  # noqa: UP007 - a hint may be no class
    return Parameter(item.name, hint, "value", required, default, positional, _note(hint))


def _note(hint: Any) -> str:
    """The description in `Annotated[T, "text"]`; msgspec reads that of `Meta` itself."""
    if get_origin(hint) is not Annotated:
        return ""
    return next((item for item in hint.__metadata__ if isinstance(item, str)), "")


def _hints(function: Any, local: dict[str, Any]) -> dict[str, Any]:
    """The annotations of the parameters, evaluated; the return's may stay unknown."""
    from typing import get_type_hints

    inner = function.func if isinstance(function, partial) else function
    if not hasattr(inner, "__annotations__"):
        inner = type(inner).__call__
    while hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__

    def holder() -> None: ...

    names = getattr(inner, "__globals__", {})
    try:
        written = getattr(inner, "__annotations__", {})
        holder.__annotations__ = {name: hint for name, hint in written.items() if name != "return"}
        try:
            return get_type_hints(holder, names, include_extras=True)
        except NameError:
            return get_type_hints(holder, {**names, **local, **_closure(inner)}, include_extras=True)
    except Exception as error:  # annotations run any code
        raise ConfigurationError(f"the annotations of {function!r} cannot be read: {error}") from error


def _closure(function: Any) -> dict[str, Any]:
    code, closure = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    cells = zip(code.co_freevars if code else (), closure or (), strict=False)
    found = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _schema(name: str, parameters: tuple[Parameter, ...], notes: dict[str, str]) -> dict[str, Any]:
    shown = [parameter for parameter in parameters if parameter.kind != "context"]
    schemas, defs = _schemas(name, shown)
    properties: dict[str, Any] = {}
    others: Any = False
    for parameter, schema in zip(shown, schemas, strict=True):
        if parameter.kind == "others":
            others = schema or True
            continue
        extra = _described(parameter, schema, notes)
        # Some providers refuse a reference that has siblings.
        properties[parameter.name] = {**inlined(schema, defs), **extra} if extra else schema
    result: dict[str, Any] = {"type": "object", "properties": properties}
    if required := [p.name for p in shown if p.required and p.kind == "value"]:
        result["required"] = required
    result["additionalProperties"] = others
    return with_definitions(result, defs)


def _schemas(name: str, shown: list[Parameter]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        return schemas_of([parameter.type for parameter in shown])
    except (ConfigurationError, TypeError, ValueError):
        pass
    for parameter in shown:  # find the one to blame
        try:
            schemas_of([parameter.type])
        except (ConfigurationError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the parameter {parameter.name!r} of the tool {name!r}: {error}"
            ) from error
    raise ConfigurationError(f"the parameters of the tool {name!r} have no common schema")


def _described(parameter: Parameter, schema: dict[str, Any], notes: dict[str, str]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    note = parameter.note or notes.get(parameter.name, "")
    if note and "description" not in schema:
        extra["description"] = note
    if not parameter.required:
        # A default that JSON cannot show stays the function's own business.
        with suppress(ValidationError, TypeError, ValueError, OverflowError):
            extra["default"] = json_value(msgspec.to_builtins(parameter.default))
    return extra
