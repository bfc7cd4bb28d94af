"""A tool: a specification for the model, the handler that runs, and how it is run.

Nothing here runs a handler: `invocation` prepares the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MethodType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from msgspec import Struct

from allm.data.content import ToolCall
from allm.data.freeform import json_value
from allm.data.requests import ToolSpec
from allm.errors import ConfigurationError, ToolError, ValidationError
from allm.schemas import problems
from allm.tools.failures import MAX_NAME, failure, invalid_arguments
from allm.tools.values import FrozenValue, ToolContext

RESERVED_NAMES: Final = frozenset({"auto", "none", "required"})
"""Words of `tool_choice`, so no tool may be called like that."""

_NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
MAX_RESULT: Final = 256 * 1024
"""Bytes of text that the result of a tool may have, unless the tool says otherwise."""

Approval = bool | Callable[[ToolCall], bool]
"""Whether a call waits for a person's decision: of all calls, or by a function of the call."""

STDIN: Final = "<stdin>"
"""What Python calls the file of a program that it reads from standard input."""

_APPROVAL_MARK: Final = "requires_approval"  # in the metadata of a specification, so that loading keeps it


class Tool(FrozenValue):
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
    that the model is told of. `is_async` says whether the handler is an `async def` (or calls one).

    Raises `ValidationError` with every wrong argument, `ConfigurationError` for the handler.
    """

    __slots__ = (
        "_takes_context", "handler", "is_async", "isolation", "max_result", "requires_approval", "spec",
    )  # fmt: skip
    __match_args__ = ("spec", "handler")
    spec: ToolSpec
    handler: Callable[..., Any] | None
    is_async: bool
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
        self._fill(spec, handler, Policies(isolation, requires_approval, max_result))

    @classmethod
    def from_spec(cls, spec: ToolSpec, handler: Callable[..., Any] | None = None) -> Tool:
        """The tool of a loaded specification, which is kept as it is; nothing is imported.

        Where some calls needed approval, all do now: the function that told them apart is not data.
        """
        made = Tool.__new__(Tool)
        if handler is not None:
            _check_handler(handler, "thread")
        made._fill(spec, handler, Policies(requires_approval=_APPROVAL_MARK in spec.metadata))
        return made

    def _fill(self, spec: ToolSpec, handler: Callable[..., Any] | None, policies: Policies) -> None:
        object.__setattr__(self, "spec", spec)
        object.__setattr__(self, "handler", handler)
        object.__setattr__(self, "is_async", is_async(handler))
        for name in Policies.__struct_fields__:
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
    def _policies(self) -> Policies:
        return Policies(*[getattr(self, name) for name in Policies.__struct_fields__])

    def bind_arguments(self, call: ToolCall) -> dict[str, Any]:
        """The call's arguments, checked; a copy, so that a handler may change them.

        Raises `ToolError` with code `invalid_arguments` and a message for the model.
        """
        arguments = arguments_of(self.name, call)
        if found := problems(arguments, self.spec.schema):
            raise invalid_arguments(self.name, call, found)
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

        from allm.tools.copies import rebuilt

        return rebuilt(type(self), deepcopy(self.spec, memo), self.handler, self._policies, self)

    def __reduce__(self) -> tuple[Any, ...]:
        from allm.tools.copies import portable, rebuilt

        return rebuilt, (type(self), self.spec, portable(self.handler), self._policies)


class Policies(Struct, frozen=True):
    """How a tool is run: what of it is no part of the specification."""

    isolation: str = "thread"
    requires_approval: Approval = False
    max_result: int = MAX_RESULT


def invocation(tool: Tool, call: ToolCall, context: ToolContext) -> Callable[[], Any]:
    """A callable without arguments that calls the handler; of an async one it gives the coroutine.

    Arguments are checked and converted now: raises `ToolError` with code `invalid_arguments`, or
    `not_found` where the tool has no handler.
    """
    if tool.handler is None:
        message = f"the tool {tool.name!r} has no handler"
        raise ToolError(failure(tool.name, call, "not_found", message))
    return tool._prepared(call, context)


def arguments_of(name: str, call: ToolCall) -> dict[str, Any]:
    """A copy of the arguments; raises `ToolError` where the model wrote no object."""
    if call.arguments_invalid:
        shown = (call.raw_arguments or "")[:200]
        raise invalid_arguments(name, call, [("", f"not a JSON object with distinct keys: {shown}")])
    copy: dict[str, Any] = json_value(call.arguments, "arguments")
    return copy


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


def _name_problems(name: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(name, str) or not name:
        yield "name", "empty"
    elif name in RESERVED_NAMES:
        yield "name", f"reserved_tool_name: {name!r}"
    elif len(name) > MAX_NAME or not _NAME_LETTERS.issuperset(name):
        yield "name", f"invalid_format: {name[: MAX_NAME + 1]!r}"


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


# Handlers


def _check_handler(handler: Any, isolation: str) -> None:
    if isinstance(handler, Tool):
        raise ConfigurationError(
            f"the handler is the tool {handler.name!r} itself: pass that, or its .handler"
        )
    if not callable(handler):
        raise ConfigurationError(f"the handler {handler!r} cannot be called")
    if isolation == "process":
        check_importable(handler, "")
        if importable_name(handler) is None:
            raise ConfigurationError(
                f"isolation='process': {reference(handler)} leads to something else than {handler!r}"
            )


def check_importable(handler: Any, receiver: str) -> None:
    """Raises `ConfigurationError` for what another process cannot find: methods and inner functions."""
    name = reference(handler)
    if name is None or receiver or "." in name.partition(":")[2]:
        raise ConfigurationError(
            f"isolation='process' needs a function at the top of a module, not {handler!r}"
        )
    if name.startswith("__main__:") and not _has_file(sys.modules["__main__"]):
        raise ConfigurationError(
            f"isolation='process' needs a function of a module: no other process can import "
            f"{handler.__name__!r} from a prompt, from standard input or from `python -c`; put it into a file"
        )


def _has_file(main: Any) -> bool:
    """Whether the main module is imported once more in a process that is spawned."""
    return getattr(main, "__spec__", None) is not None or getattr(main, "__file__", STDIN) != STDIN


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
    found = walk(sys.modules.get(module), path)
    return name if (found.handler if isinstance(found, Tool) else found) is handler else None


def imported(name: str) -> Callable[..., Any]:
    """The handler of an `importable_name`."""
    from importlib import import_module

    module, _, path = name.partition(":")
    found: Any = walk(import_module(module), path)
    if isinstance(found, Tool):
        found = found.handler
    handler: Callable[..., Any] = found
    return handler


def walk(found: Any, path: str) -> Any:
    """What a dotted path leads to; `None` where it leads nowhere."""
    for step in path.split("."):
        found = getattr(found, step, None)
    return found


def _same(one: Any, other: Any) -> bool:
    """Bound methods of equal objects count as equal, which Python's own comparison denies."""
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return bool(one.__func__ == other.__func__ and one.__self__ == other.__self__)
    return bool(one == other)


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
    annotated = len(ordered) > 1 and is_context(ordered[1].annotation)
    return 2 if required == 2 or annotated else 1


def is_context(annotation: Any) -> bool:
    """Whether a parameter with this annotation is given the `ToolContext`."""
    if isinstance(annotation, str):
        return annotation.split("|")[0].strip().rpartition(".")[2] == "ToolContext"
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(is_context(inner) for inner in get_args(annotation))
    return annotation is ToolContext
