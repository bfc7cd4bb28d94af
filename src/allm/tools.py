"""Tools: a specification for the model plus a handler, made from a function or by hand.

Nothing here runs a handler: `invocation` prepares the run, `outcome`, `failed` and `error_message`
turn what came of it into data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import MethodType, UnionType
from typing import Annotated, Any, Final, Generic, ParamSpec, TypeVar, Union, get_args, get_origin, overload

import msgspec
from msgspec import Struct

from allm.data.content import AudioPart, FilePart, Image, ImagePart, OpaquePart, Part, TextPart, ToolCall
from allm.data.failure import ErrorInfo
from allm.data.freeform import json_value
from allm.data.messages import Message
from allm.data.requests import ToolSpec
from allm.errors import AllmError, ConfigurationError, ToolError, ValidationError
from allm.schemas import convert, inlined, problems, schemas_of, with_definitions

P = ParamSpec("P")
R = TypeVar("R")

RESERVED_REASONS: Final = frozenset(
    {
        "completed", "manual_tool_calls", "ask_user", "tool_error", "max_turns", "halt_when", "error",
        "cancelled", "refused", "budget",
    }
)  # fmt: skip
"""Words of `ChatResult.halted_reason` that a tool may not use in `Halt`."""

RESERVED_NAMES: Final = frozenset({"auto", "none", "required"})
"""Words of `tool_choice`, so no tool may be called like that."""

ASK_USER_PLACEHOLDER: Final = "<awaiting user response>"

_NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_MAX_NAME: Final = 64
_MAX_MESSAGE: Final = 4000  # characters of an error's text that the model sees

MAX_RESULT: Final = 256 * 1024
"""Bytes of text that the result of a tool may have, unless the tool says otherwise."""

Approval = bool | Callable[[ToolCall], bool]
"""Whether a call waits for a person's decision: of all calls, or by a function of the call."""


class ToolContext(Struct, frozen=True, kw_only=True):
    """What a handler may know of its call, in any parameter annotated with this class.

    `context` is the caller's own (call over session over engine). `idempotency_key` is the same
    when an interrupted run is resumed. With `isolation="process"` there is no engine.
    """

    context: dict[str, Any] = {}
    session_id: str | None = None
    request_id: str | None = None
    run_id: str | None = None
    call: ToolCall | None = None
    engine: Any = None
    idempotency_key: str | None = None


class _Value:
    """A frozen value that is no Struct because its constructor takes what a Struct's cannot."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")


class AskUser(_Value):
    """Returned by a handler: the run stops and the user is asked. `options` are the caller's own."""

    __slots__ = ("choices", "options", "question")
    __match_args__ = ("question", "choices", "options")
    question: str
    choices: tuple[str, ...]
    options: dict[str, Any]

    def __init__(self, question: str, choices: Sequence[str] = (), **options: Any) -> None:
        given: tuple[Any, Any] = (question, choices)
        if not isinstance(given[0], str) or isinstance(given[1], str):
            raise ValidationError.of("invalid question", ("ask_user", "not_a_text_with_a_list_of_choices"))
        object.__setattr__(self, "question", question)
        object.__setattr__(self, "choices", tuple(map(str, choices)))
        object.__setattr__(self, "options", json_value(options, "options"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AskUser):
            return NotImplemented
        return (self.question, self.choices, self.options) == (other.question, other.choices, other.options)

    def __repr__(self) -> str:
        return f"AskUser({self.question!r}, {self.choices!r}, **{self.options!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _ask_user, (self.question, self.choices, self.options)


def _ask_user(question: str, choices: tuple[str, ...], options: dict[str, Any]) -> AskUser:
    return AskUser(question, choices, **options)


class Halt(Struct, frozen=True):
    """Returned by a handler: `value` answers the call, and the loop ends with the word `reason`."""

    reason: str
    value: Any = None


class Outcome(Struct, frozen=True, kw_only=True):
    """A handler's return as data: the tool message, and what the loop has to do about it."""

    message: Message
    is_error: bool = False
    halt_reason: str | None = None
    halt_value: Any = None
    ask: AskUser | None = None
    error: ErrorInfo | None = None


class Tool(_Value):
    """A tool: `spec` is what is known about it as data, `handler` what runs (None: nothing yet).

    Made like this, the handler takes one argument, the object of arguments, or two, that and the
    `ToolContext`: the second where it is required or annotated so. Arguments are checked against
    `schema` first. `@tool` makes one from a function with ordinary parameters.

    `timeout` is seconds. `on_interrupted` says what happens to a call of which nobody knows whether
    it ran: `"report"` to the model or `"retry"`. `isolation="process"` runs each call in a process of
    its own that is killed when its time is up: the handler must be importable, arguments and result
    must pickle, the context has no engine, and starting the process counts as time.
    `requires_approval` lets calls wait for a decision (`allm.approve`, `allm.deny`): all, or those for
    which a function of the call says so. `max_result` is bytes of text; a larger result is a failure
    that the model is told of.

    Raises `ValidationError` with every wrong argument, `ConfigurationError` for the handler.
    """

    __slots__ = ("_takes_context", "handler", "isolation", "max_result", "requires_approval", "spec")
    __match_args__ = ("spec", "handler")
    spec: ToolSpec
    handler: Callable[..., Any] | None
    isolation: str
    requires_approval: Approval
    max_result: int
    _takes_context: bool

    def __init__(
        self,
        *,
        name: str,
        description: str = "",
        schema: dict[str, Any] | None = None,
        handler: Callable[..., Any] | None = None,
        manual: bool = False,
        timeout: float | None = None,
        strict: bool | None = None,
        on_interrupted: str = "report",
        isolation: str = "thread",
        requires_approval: Approval = False,
        max_result: int = MAX_RESULT,
        metadata: dict[str, Any] | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        schema = {"type": "object", "properties": {}} if schema is None else schema
        found = [
            *_spec_problems(name, description, schema, timeout, on_interrupted),
            *_extra_problems(strict, metadata, examples),
            *_policy_problems(manual, isolation, requires_approval, max_result),
        ]
        if found:
            raise ValidationError.of("invalid tool", *found)
        if handler is not None:
            _check_handler(handler, isolation)
        spec = ToolSpec(
            name=name,
            description=description,
            schema=schema,
            strict=strict,
            manual=manual,
            timeout=timeout,
            on_interrupted=on_interrupted,
            examples=tuple(examples),
            handler=reference(handler),
            metadata={**(metadata or {}), **({_APPROVAL_MARK: True} if requires_approval else {})},
        )
        self._fill(spec, handler, _Policies(isolation, requires_approval, max_result))

    @classmethod
    def from_spec(cls, spec: ToolSpec, handler: Callable[..., Any] | None = None) -> Tool:
        """The tool of a loaded specification, which is kept as it is; nothing is imported.

        Where some calls needed approval, all do now: the function that told them apart is not data.
        """
        made = Tool.__new__(Tool)
        if handler is not None:
            _check_handler(handler, "thread")
        made._fill(spec, handler, _Policies(requires_approval=_APPROVAL_MARK in spec.metadata))
        return made

    def _fill(self, spec: ToolSpec, handler: Callable[..., Any] | None, policies: _Policies) -> None:
        object.__setattr__(self, "spec", spec)
        object.__setattr__(self, "handler", handler)
        for name in _Policies.__struct_fields__:
            object.__setattr__(self, name, getattr(policies, name))
        object.__setattr__(self, "_takes_context", handler is not None and self._wants_context(handler))

    def _wants_context(self, handler: Callable[..., Any]) -> bool:
        return _argument_count(handler) == 2

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def description(self) -> str:
        return self.spec.description

    @property
    def schema(self) -> dict[str, Any]:
        return self.spec.schema

    @property
    def manual(self) -> bool:
        return self.spec.manual

    @property
    def timeout(self) -> float | None:
        return self.spec.timeout

    @property
    def is_async(self) -> bool:
        """Whether the handler is an `async def` (or calls one)."""
        return is_async(self.handler)

    @property
    def _policies(self) -> _Policies:
        return _Policies(*[getattr(self, name) for name in _Policies.__struct_fields__])

    def bind_arguments(self, call: ToolCall) -> dict[str, Any]:
        """The call's arguments, checked; a copy, so that a handler may change them.

        Raises `ToolError` with code `invalid_arguments` and a message for the model.
        """
        arguments = _arguments(self.name, call)
        if found := problems(arguments, self.spec.schema):
            raise _invalid_arguments(self.name, call, found)
        return arguments

    def _prepared(self, call: ToolCall, context: ToolContext) -> Callable[[], Any]:
        assert self.handler is not None
        arguments = self.bind_arguments(call)
        if self._takes_context:
            return partial(self.handler, arguments, context)
        return partial(self.handler, arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the handler as it is: no checks, no conversion."""
        if self.handler is None:
            raise ConfigurationError(f"the tool {self.name!r} has no handler")
        return self.handler(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tool) or type(self) is not type(other):
            return NotImplemented
        mine, theirs = (self.spec, self._policies), (other.spec, other._policies)
        return mine == theirs and _same(self.handler, other.handler)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, handler={self.spec.handler!r})"

    def __copy__(self) -> Tool:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tool:
        from copy import deepcopy

        return _rebuilt(type(self), deepcopy(self.spec, memo), self.handler, self._policies, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.spec, _portable(self.handler), self._policies)


class _Policies(Struct, frozen=True):
    """How a tool is run: what of it is no part of the specification."""

    isolation: str = "thread"
    requires_approval: Approval = False
    max_result: int = MAX_RESULT


_APPROVAL_MARK: Final = "requires_approval"  # in the metadata of a specification, so that loading keeps it


class FunctionTool(Tool, Generic[P, R]):
    """What `@tool` makes: the schema comes from the function's parameters, and it stays callable.

    In a class it is a method: `instance.method` is the tool bound to the instance.
    """

    __slots__ = ("_parameters", "_receiver")
    _parameters: tuple[_Parameter, ...]
    _receiver: str  # what the first parameter is: "self", "cls" or nothing

    def _wants_context(self, handler: Callable[..., Any]) -> bool:
        return False  # its parameters say so one by one

    def _describe(self, parameters: tuple[_Parameter, ...], receiver: str) -> None:
        object.__setattr__(self, "_parameters", parameters)
        object.__setattr__(self, "_receiver", receiver)

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
        arguments = _arguments(self.name, call)
        found: list[tuple[str, str]] = []
        bound = dict(self._converted(arguments, found))
        if found:
            # The schema's own words list every problem and every choice, where it sees any.
            raise _invalid_arguments(self.name, call, problems(arguments, self.spec.schema) or found)
        return bound

    def _converted(
        self, arguments: dict[str, Any], found: list[tuple[str, str]]
    ) -> Iterator[tuple[str, Any]]:
        rest = dict(arguments)
        others: _Parameter | None = None
        for parameter in self._parameters:
            name = parameter.name
            if parameter.kind == "others":
                others = parameter
            elif parameter.kind != "context" and name in rest:
                yield from _one(name, rest.pop(name), parameter.type, found)
            elif parameter.kind != "context" and parameter.required:
                found.append((name, "required, but missing"))
        for name, value in rest.items():
            if others is None or any(name == parameter.name for parameter in self._parameters):
                found.append((name, "unknown property"))
            else:
                yield from _one(name, value, others.type, found)

    def _prepared(self, call: ToolCall, context: ToolContext) -> Callable[[], Any]:
        assert self.handler is not None
        if needs_instance(self):
            raise ConfigurationError(f"the tool {self.name!r} is a method: pass it from an instance")
        keywords = self.bind_arguments(call)
        for parameter in self._parameters:
            if parameter.kind == "context":
                keywords[parameter.name] = context
        first = [
            keywords.pop(parameter.name, parameter.default)
            for parameter in self._parameters
            if parameter.positional
        ]
        return partial(self.handler, *first, **keywords)


class _Parameter(Struct, frozen=True):
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
    function, receiver = _unwrapped(given)
    if not callable(function) or isinstance(function, Tool):
        raise ConfigurationError(f"@tool makes tools of functions, not of {function!r}")
    parameters = _parameters_of(function, local, receiver)
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
        _check_importable(function, receiver)
    spec = msgspec.structs.replace(base.spec, handler=None if receiver else reference(function))
    return _function_tool(spec, function, base._policies, parameters, receiver)


def _function_tool(
    spec: ToolSpec, handler: Any, policies: _Policies, parameters: tuple[_Parameter, ...], receiver: str
) -> FunctionTool[Any, Any]:
    made: FunctionTool[Any, Any] = FunctionTool.__new__(FunctionTool)
    made._fill(spec, handler, policies)
    made._describe(parameters, receiver)
    return made


def _unwrapped(given: Any) -> tuple[Any, str]:
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
    unbound = not isinstance(value.handler, MethodType)
    return isinstance(value, FunctionTool) and value._receiver == "self" and unbound


def reference(handler: Any) -> str | None:
    """`module:qualified.name` of a function that can be imported; None for any other handler."""
    module, name = getattr(handler, "__module__", None), getattr(handler, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or isinstance(handler, MethodType):
        return None
    return None if "<" in name else f"{module}:{name}"


def importable_name(handler: Any) -> str | None:
    """The `reference` under which another process finds this very handler, or the tool made of it."""
    name = reference(handler)
    if name is None:
        return None
    module, _, path = name.partition(":")
    found = _walk(sys.modules.get(module), path)
    return name if (found.handler if isinstance(found, Tool) else found) is handler else None


def imported(name: str) -> Callable[..., Any]:
    """The handler of an `importable_name`."""
    from importlib import import_module

    module, _, path = name.partition(":")
    found: Any = _walk(import_module(module), path)
    if isinstance(found, Tool):
        found = found.handler
    handler: Callable[..., Any] = found
    return handler


def _spec_problems(
    name: Any, description: Any, schema: Any, timeout: Any, on_interrupted: Any
) -> Iterator[tuple[str, str]]:
    yield from _name_problems(name)
    if not isinstance(description, str):
        yield "description", "not_a_string"
    if not isinstance(schema, dict):
        yield "schema", "not_a_map"
    elif schema.get("type", "object") != "object":
        yield "schema", "type_must_be_object"
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < timeout < float("inf")):
        yield "timeout", "must_be_positive"
    if on_interrupted not in ("report", "retry"):
        yield "on_interrupted", "must_be_report_or_retry"


def _extra_problems(strict: Any, metadata: Any, examples: Any) -> Iterator[tuple[str, str]]:
    if strict is not None and type(strict) is not bool:
        yield "strict", "must_be_true_or_false"
    if metadata is not None and not isinstance(metadata, dict):
        yield "metadata", "not_a_map"
    if not isinstance(examples, tuple | list) or not all(isinstance(item, str) for item in examples):
        yield "examples", "not_a_list_of_texts"


def _policy_problems(
    manual: Any, isolation: Any, requires_approval: Any, max_result: Any
) -> Iterator[tuple[str, str]]:
    if type(manual) is not bool:
        yield "manual", "must_be_a_boolean"
    if isolation not in ("thread", "process"):
        yield "isolation", "must_be_thread_or_process"
    if not (isinstance(requires_approval, bool) or callable(requires_approval)):
        yield "requires_approval", "must_be_a_boolean_or_a_function"
    elif is_async(requires_approval):
        yield "requires_approval", "must_not_be_async"
    elif manual and requires_approval:
        yield "requires_approval", "a_manual_tool_is_run_by_the_caller"
    if isinstance(max_result, bool) or not isinstance(max_result, int) or max_result < 1:
        yield "max_result", "must_be_positive"


def _name_problems(name: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(name, str) or not name:
        yield "name", "empty"
    elif name in RESERVED_NAMES:
        yield "name", "reserved_tool_name"
    elif len(name) > _MAX_NAME or not _NAME_LETTERS.issuperset(name):
        yield "name", "invalid_format"


def _check_handler(handler: Any, isolation: str) -> None:
    if isinstance(handler, Tool):
        raise ConfigurationError(
            f"the handler is the tool {handler.name!r} itself: pass that, or its .handler"
        )
    if not callable(handler):
        raise ConfigurationError(f"the handler {handler!r} cannot be called")
    if isolation == "process":
        _check_importable(handler, "")
        if importable_name(handler) is None:
            raise ConfigurationError(
                f"isolation='process': {reference(handler)} leads to something else than {handler!r}"
            )


def _check_importable(handler: Any, receiver: str) -> None:
    name = reference(handler)
    if name is None or receiver or "." in name.partition(":")[2]:
        raise ConfigurationError(
            f"isolation='process' needs a function at the top of a module, not {handler!r}"
        )


def _argument_count(handler: Callable[..., Any]) -> int:
    """1 or 2: whether a handler made by hand takes the context as well."""
    import inspect

    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return 1
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in ordered)
    named = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if required > 2 or named or not (ordered or variadic):
        raise ConfigurationError(
            f"a handler takes (arguments) or (arguments, context), {handler!r} does not; "
            "for ordinary parameters use @tool"
        )
    annotated = len(ordered) > 1 and _is_context(ordered[1].annotation)
    return 2 if required == 2 or annotated else 1


def _is_context(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.split("|")[0].strip().rpartition(".")[2] == "ToolContext"
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(_is_context(inner) for inner in get_args(annotation))
    return annotation is ToolContext


def is_async(handler: Any) -> bool:
    """Whether calling `handler` gives an awaitable, as far as can be known without calling it."""
    while isinstance(handler, partial | MethodType):
        handler = handler.func if isinstance(handler, partial) else handler.__func__
    if isinstance(handler, Tool):
        return handler.is_async
    code = getattr(handler, "__code__", None)
    if code is None:
        calls = getattr(type(handler), "__call__", None)  # noqa: B004 - its code is wanted
        code = getattr(calls, "__code__", None)
    flags = getattr(code, "co_flags", 0)
    marker = getattr(handler, "_is_coroutine_marker", None)  # set by inspect.markcoroutinefunction
    marked = marker is not None and marker is getattr(sys.modules.get("inspect"), "_is_coroutine_mark", None)
    return marked or bool(isinstance(flags, int) and flags & 0x80)  # inspect.CO_COROUTINE


# Parameters and their schema


def _parameters_of(function: Any, local: dict[str, Any], receiver: str) -> tuple[_Parameter, ...]:
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


def _parameter(item: Any, hint: Any) -> _Parameter:
    required = item.default is item.empty
    default = None if required else item.default
    positional = item.kind is item.POSITIONAL_ONLY
    if _is_context(hint):
        return _Parameter(item.name, hint, "context", required, default, positional)
    if item.kind is item.VAR_KEYWORD:
        return _Parameter(item.name, hint, "others", False)
    if not required and default is None and hint is not Any:
        hint = Union[hint, None]  # noqa: UP007 - a hint may be no class
    return _Parameter(item.name, hint, "value", required, default, positional, _note(hint))


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


def _schema(name: str, parameters: tuple[_Parameter, ...], notes: dict[str, str]) -> dict[str, Any]:
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


def _schemas(name: str, shown: list[_Parameter]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
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


def _described(parameter: _Parameter, schema: dict[str, Any], notes: dict[str, str]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    note = parameter.note or notes.get(parameter.name, "")
    if note and "description" not in schema:
        extra["description"] = note
    if not parameter.required:
        # A default that JSON cannot show stays the function's own business.
        with suppress(ValidationError, TypeError, ValueError, OverflowError):
            extra["default"] = json_value(msgspec.to_builtins(parameter.default))
    return extra


# Docstrings

_GOOGLE: Final = frozenset({"args:", "arguments:", "parameters:", "params:", "keyword args:"})


def read_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """The first paragraph, and the descriptions of parameters (Google, NumPy or Sphinx style)."""
    if not text or not text.strip():
        return "", {}
    import inspect

    lines = inspect.cleandoc(text).splitlines()
    notes: dict[str, str] = {}
    for name, note in (*_google(lines), *_numpy(lines), *_sphinx(lines)):
        if note:
            notes.setdefault(name.lstrip("*\\"), note)
    return _summary(lines), notes


def _summary(lines: list[str]) -> str:
    taken: list[str] = []
    for index, line in enumerate(lines):
        starts_section = line.strip().lower() in _GOOGLE or line.startswith(":") or _underlined(lines, index)
        if not line.strip() or starts_section:
            break
        taken.append(line.strip())
    return " ".join(taken)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _underlined(lines: list[str], index: int) -> bool:
    below = lines[index + 1].strip() if index + 1 < len(lines) else ""
    return len(below) > 2 and set(below) == {"-"} and not lines[index].startswith(" ")


def _google(lines: list[str]) -> Iterator[tuple[str, str]]:
    for start, line in enumerate(lines):
        if line.lower() in _GOOGLE:
            inside = _until(lines[start + 1 :], lambda text: not text.startswith(" "))
            for head, rest in _entries(inside):
                name, colon, note = head.partition(":")
                while colon and name.count("(") > name.count(")"):  # a colon inside the type
                    more, colon, note = note.partition(":")
                    name += colon + more
                if colon:
                    yield name.partition("(")[0].strip(), _text([note, *rest])


def _numpy(lines: list[str]) -> Iterator[tuple[str, str]]:
    for start, line in enumerate(lines):
        if line.lower() in ("parameters", "other parameters") and _underlined(lines, start):
            body = lines[start + 2 :]
            ends = [index for index in range(len(body)) if _underlined(body, index)]
            for head, rest in _entries(body[: ends[0]] if ends else body):
                for name in head.partition(":")[0].split(","):
                    yield name.strip(), _text(rest)


def _sphinx(lines: list[str]) -> Iterator[tuple[str, str]]:
    for start, line in enumerate(lines):
        if line.startswith((":param ", ":parameter ", ":arg ", ":argument ")):
            head, _, note = line[1:].partition(":")
            more = _until(lines[start + 1 :], lambda text: not text.startswith(" "))
            yield head.split()[-1], _text([note, *more])


def _until(lines: list[str], ends: Callable[[str], bool]) -> list[str]:
    """The lines before the first non-blank one at which a section ends."""
    for index, line in enumerate(lines):
        if line.strip() and ends(line):
            return lines[:index]
    return lines


def _entries(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each line at the section's own indentation, with the deeper lines below it."""
    filled = [line for line in lines if line.strip()]
    level = _indent(filled[0]) if filled else 0
    head, rest = "", list[str]()
    for line in filled:
        if _indent(line) > level:
            rest.append(line)
            continue
        if head:
            yield head, rest
        head, rest = line.strip(), []
    if head:
        yield head, rest


def _text(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines if line.strip())


# Copies and pickles


def _portable(handler: Any) -> Any:
    """The handler as pickle can store it: by name where that name now leads to the tool."""
    name = reference(handler)
    if name is None:
        return handler
    module, _, path = name.partition(":")
    found = _walk(sys.modules.get(module), path)
    return name if isinstance(found, Tool) else handler


def _same(one: Any, other: Any) -> bool:
    """Bound methods of equal objects count as equal, which Python's own comparison denies."""
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return bool(one.__func__ == other.__func__ and one.__self__ == other.__self__)
    return bool(one == other)


def _walk(found: Any, path: str) -> Any:
    for step in path.split("."):
        found = getattr(found, step, None)
    return found


def _rebuilt(
    kind: type[Tool], spec: ToolSpec, handler: Any, policies: _Policies, twin: Tool | None = None
) -> Tool:
    if isinstance(handler, str):
        from importlib import import_module

        module, _, path = handler.partition(":")
        twin = _walk(import_module(module), path)
        handler = twin.handler if isinstance(twin, Tool) else twin
        if isinstance(twin, FunctionTool) and twin._receiver == "cls":
            handler = getattr(handler, "__func__", handler)
    elif isinstance(handler, Tool):  # a bound method: pickle looked its name up on the instance
        twin, handler = handler, handler.handler
    if not issubclass(kind, FunctionTool):
        made = Tool.__new__(Tool)
        made._fill(spec, handler, policies)
        return made
    if isinstance(twin, FunctionTool):
        return _function_tool(spec, handler, policies, twin._parameters, twin._receiver)
    function, receiver = _unwrapped(handler)
    return _function_tool(spec, handler, policies, _parameters_of(function, {}, receiver), receiver)


# Running


def invocation(tool: Tool, call: ToolCall, context: ToolContext) -> Callable[[], Any]:
    """A callable without arguments that calls the handler; of an async one it gives the coroutine.

    Arguments are checked and converted now: raises `ToolError` with code `invalid_arguments`, or
    `not_found` where the tool has no handler.
    """
    if tool.handler is None:
        message = f"the tool {tool.name!r} has no handler"
        raise ToolError(_failure(tool.name, call, "not_found", message))
    return tool._prepared(call, context)


def _arguments(name: str, call: ToolCall) -> dict[str, Any]:
    if call.arguments_invalid:
        shown = (call.raw_arguments or "")[:200]
        raise _invalid_arguments(name, call, [("", f"not a JSON object with distinct keys: {shown}")])
    copy: dict[str, Any] = json_value(call.arguments, "arguments")
    return copy


def _one(name: str, value: Any, type: Any, found: list[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    try:
        yield name, convert(value, type)
    except ValidationError as error:
        for path, reason in error.errors:
            found.append((name + path if path.startswith("[") or not path else f"{name}.{path}", reason))


def _invalid_arguments(name: str, call: ToolCall, found: list[tuple[str, str]]) -> ToolError:
    listed = "; ".join(f"{path}: {reason}" if path else reason for path, reason in found)
    info = _failure(name, call, "invalid_arguments", f"invalid arguments for {name}: {listed}")
    return ToolError(msgspec.structs.replace(info, problems=tuple(found)))


def _failure(name: str, call: ToolCall, code: str, message: str, **extra: Any) -> ErrorInfo:
    return ErrorInfo(
        reason="tool_failed",
        code=code,
        message=_clean(message),
        call_id=call.id,
        phase="tool",
        extra={"tool_name": name, **extra},
    )


def failed(tool_name: str, call: ToolCall, error: BaseException | ErrorInfo) -> ErrorInfo:
    """A failed execution as data, with reason `tool_failed` and the ids of the call.

    The code is the `ToolError`'s own, `handler_exit` for `SystemExit`, else `handler_raised`.
    """
    if isinstance(error, ToolError):
        error = error.info
    if isinstance(error, ErrorInfo):
        return msgspec.structs.replace(
            error,
            call_id=error.call_id or call.id,
            phase=error.phase or "tool",
            extra={"tool_name": tool_name, **error.extra},
        )
    code = "handler_exit" if isinstance(error, SystemExit) else "handler_raised"
    kind = type(error)
    try:
        text = error.info.message if isinstance(error, AllmError) else str(error)
    except Exception:  # an exception's own code may fail
        text = ""
    message = f"{kind.__name__}: {text}" if text else kind.__name__
    return _failure(tool_name, call, code, message, exception=f"{kind.__module__}.{kind.__qualname__}")


def timed_out(tool_name: str, call: ToolCall, seconds: float) -> ErrorInfo:
    """The failure of a handler that did not end in time."""
    return _failure(tool_name, call, "timeout", f"the tool {tool_name} gave no result within {seconds:g} s")


def interrupted(call: ToolCall) -> ErrorInfo:
    """The failure of a call of which nobody knows whether it ran: its run was cut and resumed."""
    text = (
        f"the run was interrupted while the tool {call.name} was running: it may or may not have taken "
        "effect, and was not run again"
    )
    return _failure(call.name, call, "interrupted", text)


def not_run(call: ToolCall) -> ErrorInfo:
    """The failure of a call that was not run: its run was cut and not resumed."""
    return _failure(call.name, call, "not_run", f"the tool {call.name} was not run: the run was interrupted")


def unknown_tool(call: ToolCall, names: Sequence[str]) -> ErrorInfo:
    """The failure of a call to a tool that does not exist; `names` are those that do."""
    known, name = ", ".join(names) or "none", call.name[:_MAX_NAME]
    return _failure(name, call, "not_found", f"there is no tool {name!r}; the tools are: {known}")


def error_message(call: ToolCall, info: ErrorInfo) -> Message:
    """The tool message that tells the model: `{"error": "..."}`."""
    text = _clean(info.message or info.code or info.reason)
    content = msgspec.json.encode({"error": text}).decode()
    return Message("tool", content, tool_call_id=call.id, is_error=True)


def _clean(text: str) -> str:
    return _sendable(text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "...")


def _sendable(text: str) -> str:
    """`text` with lone surrogates replaced: file names may hold some, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


# Results

Content = str | tuple[Part, ...]
_BYTES: Final = (bytes, bytearray, memoryview)  # as text in base64 they would say nothing to a model
_RESULT_PARTS: Final = (TextPart, ImagePart, AudioPart, FilePart, OpaquePart)


def encode_result(value: Any) -> Content:
    """A handler's return as content: text as it is, images and parts as parts, all else as JSON.

    Raises `ToolError` with code `encoding_failed` for what JSON cannot hold: bytes, NaN, cycles, objects.
    """
    if isinstance(value, str):
        return _sendable(value)
    if parts := _as_parts(value):
        return parts
    return _json(value)


def _as_parts(value: Any) -> tuple[Part, ...]:
    items = value if isinstance(value, list | tuple) else (value,)
    if not any(isinstance(item, Image) or type(item) in _RESULT_PARTS for item in items):
        return ()
    found: list[Part] = []
    for item in items:
        if isinstance(item, Image):
            found.append(ImagePart(item))
        elif isinstance(item, str):
            found.append(TextPart(_sendable(item)))
        elif type(item) in _RESULT_PARTS:
            found.append(item)
        else:
            return ()
    return tuple(found)


def _json(value: Any) -> str:
    import json

    def dumped(plain: Any, ascii: bool) -> str:
        return json.dumps(plain, allow_nan=False, ensure_ascii=ascii, separators=(",", ":"))

    try:
        if callable(dump := getattr(value, "model_dump_json", None)) and not isinstance(value, type):
            return str(dump())
        plain = msgspec.to_builtins(value, str_keys=True, builtin_types=_BYTES, enc_hook=_plain)
        text = dumped(plain, ascii=False)
        return text if text == _sendable(text) else dumped(plain, ascii=True)
    except Exception as error:  # the value's own code may raise anything
        raise _not_encodable(value, error) from error


def _not_encodable(value: Any, error: BaseException) -> ToolError:
    message = f"a result of type {type(value).__name__} cannot be encoded: {error}"
    return ToolError(ErrorInfo(reason="tool_failed", code="encoding_failed", message=message, phase="tool"))


def _plain(value: Any) -> Any:
    """What msgspec does not know, as something it does."""
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from os import PathLike, fspath

    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if isinstance(value, PathLike):
        return str(fspath(value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet) or type(value).__name__ in (
        "dict_keys",
        "dict_values",
        "range",
        "deque",
    ):
        return list(value)
    if callable(listed := getattr(value, "tolist", None)):  # arrays and their scalars
        return listed()
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    raise NotImplementedError(f"objects of type {type(value).__name__} are not JSON")


def outcome(
    tool: Tool, call: ToolCall, value: Any, encoder: Callable[[Any], Content] = encode_result
) -> Outcome:
    """What a handler returned, as data. Never raises: what cannot be used is an error outcome.

    `encoder` turns a value into text or parts.
    """
    if isinstance(value, AskUser):
        asked = Message("tool", ASK_USER_PLACEHOLDER, tool_call_id=call.id)
        return Outcome(message=asked, ask=value)
    try:
        if isinstance(value, Halt):
            return _halted(tool, call, value, encoder)
        if hasattr(value, "__await__"):
            getattr(value, "close", _nothing)()  # a coroutine that nobody awaits would warn
            raise ToolError(_failure(tool.name, call, "invalid_return", "the handler returned an awaitable"))
        content = _within(tool, call, _encoded(value, encoder))
        return Outcome(message=Message("tool", content, tool_call_id=call.id))
    except Exception as error:  # the encoder is the user's
        info = failed(tool.name, call, error)
        if not isinstance(error, ToolError):
            info = msgspec.structs.replace(info, code="encoding_failed")
        return Outcome(message=error_message(call, info), is_error=True, error=info)


def _halted(tool: Tool, call: ToolCall, halt: Halt, encoder: Callable[[Any], Content]) -> Outcome:
    reason: Any = halt.reason
    if not isinstance(reason, str) or not reason or reason in RESERVED_REASONS:
        why = f"Halt cannot have the reason {reason!r}: the word is reserved or empty"
        raise ToolError(_failure(tool.name, call, "invalid_return", why, reserved_halt=str(reason)))
    content = _within(tool, call, _encoded(halt.value, encoder))
    message = Message("tool", content, tool_call_id=call.id)
    return Outcome(message=message, halt_reason=halt.reason, halt_value=_halt_data(halt.value, content))


def _halt_data(value: Any, content: Content) -> Any:
    """The value of a `Halt` as JSON data; the content where it has no such form."""
    if not isinstance(content, str):
        return msgspec.to_builtins(content)
    try:
        return content if isinstance(value, str) else json_value(msgspec.json.decode(_json(value)))
    except (ToolError, ValidationError, msgspec.DecodeError):
        return content


def _within(tool: Tool, call: ToolCall, content: Content) -> Content:
    """The content, unless it has more text than the tool may return."""
    texts = [content] if isinstance(content, str) else [p.text for p in content if type(p) is TextPart]
    size = sum(len(text.encode()) for text in texts)
    if size <= tool.max_result:
        return content
    message = (
        f"the result of {tool.name} has {size} bytes, more than the {tool.max_result} that it may have; "
        "ask for less"
    )
    raise ToolError(_failure(tool.name, call, "result_too_large", message, size=size))


def _nothing() -> None: ...


def _encoded(value: Any, encoder: Callable[[Any], Content]) -> Content:
    content: Any = encoder(value)
    if isinstance(content, str):
        return _sendable(content)
    if isinstance(content, list | tuple) and (parts := _as_parts(content)):
        return parts
    raise _not_encodable(content, TypeError("the encoder must give text or parts"))
