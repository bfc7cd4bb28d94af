"""Compact tools: the model sees one line of each, and asks for the rest with `tool_help`.

For an engine with many tools, whose schemas would fill the prompt of every call. Expressed as tools around
tools: nothing else in the library knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from allm.data.content import ToolCall
from allm.data.requests import ToolSpec
from allm.engine import as_tools
from allm.errors import ToolError, ValidationError
from allm.tools import Tool, ToolContext, invocation

HELP_NAME: Final = "tool_help"
MAX_SUMMARY: Final = 160  # characters

_HELP_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "names": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The names of the tools to describe.",
        }
    },
    "required": ["names"],
    "additionalProperties": False,
}
_HELP_DESCRIPTION: Final = (
    "Gives the full description and the JSON Schema of the arguments of tools that are marked [compact]. "
    "Ask for it before you call such a tool, unless its arguments are plain."
)


def compact(tools: Iterable[Any]) -> list[Tool]:
    """The tools as stubs, in their order, and after them `tool_help`, which tells the model more.

    >>> import allm
    >>> @allm.tool
    ... def weather(city: str, days: int = 1) -> str:
    ...     "The forecast for a city. Days are counted from today."
    >>> stub, more = compact([weather])
    >>> stub.description
    'The forecast for a city. Arguments: city [days] [compact]'

    The line is `metadata["summary"]` of the tool, else the first sentence of its description; the schema is
    `{"type": "object"}`. A call is checked against the full schema before the handler runs; what does not
    fit goes back to the model with the full description.

    Only the tools given are made compact, so others may stand beside them: `tools=[search, *compact(rest)]`.
    Make all compact in one call: `tool_help` knows the tools that it was made with.
    To force one, pass it with the call as it is: `tools=[weather], tool_choice="weather"`. In manual mode
    answer `tool_help` with `more(call.arguments)`. Without tools the list is empty. Raises
    `ValidationError` where a tool has that name.
    """
    full = as_tools(tools)
    if any(item.name == HELP_NAME for item in full):
        raise ValidationError.of("invalid tools", ("tools", "duplicate_name"))
    return [*map(CompactTool, full), _help_tool(full)] if full else []


class CompactTool(Tool):
    """A tool that shows the model less than it takes: `full` is the tool itself."""

    __slots__ = ("full",)
    full: Tool

    def __init__(self, full: Tool) -> None:
        for name in Tool.__slots__:
            object.__setattr__(self, name, getattr(full, name))
        object.__setattr__(self, "spec", _stub(full.spec))
        object.__setattr__(self, "full", full)

    def bind_arguments(self, call: ToolCall) -> dict[str, Any]:
        """The call's arguments by the full schema; the error for the model has the help text, too."""
        try:
            return self.full.bind_arguments(call)
        except ToolError as error:
            raise _helped(error, self.full.spec) from None

    def _prepared(self, call: ToolCall, context: ToolContext) -> Callable[[], Any]:
        try:
            return invocation(self.full, call, context)
        except ToolError as error:
            raise _helped(error, self.full.spec) from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CompactTool):
            return NotImplemented
        return self.full == other.full

    def __deepcopy__(self, memo: dict[int, Any]) -> CompactTool:
        from copy import deepcopy

        return CompactTool(deepcopy(self.full, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return CompactTool, (self.full,)


def described(spec: ToolSpec) -> str:
    """The help text for one tool: name, description, the JSON Schema of its arguments."""
    schema = msgspec.json.encode(spec.schema).decode()
    return f"{spec.name}: {spec.description}\nArguments (JSON Schema): {schema}"


def _stub(spec: ToolSpec) -> ToolSpec:
    line = " ".join(filter(None, (_summary(spec), _hint(spec.schema), "[compact]")))
    return msgspec.structs.replace(
        spec, description=line, schema={"type": "object"}, strict=None, examples=()
    )


def _summary(spec: ToolSpec) -> str:
    given = spec.metadata.get("summary")
    text = " ".join((given if isinstance(given, str) else _first_sentence(spec.description)).split())
    return text if len(text) <= MAX_SUMMARY else text[: MAX_SUMMARY - 3] + "..."


def _first_sentence(text: str) -> str:
    head, stop, _ = " ".join(text.split()).partition(". ")
    return head + stop.strip()


def _hint(schema: dict[str, Any]) -> str:
    """Required arguments in the order of the schema, then optional ones sorted and in brackets."""
    names = list(schema.get("properties", {}))
    required = schema.get("required", [])
    listed = [name for name in names if name in required]
    listed += [f"[{name}]" for name in sorted(names) if name not in required]
    return f"Arguments: {' '.join(listed)}" if listed else ""


def _helped(error: ToolError, spec: ToolSpec) -> ToolError:
    return ToolError(msgspec.structs.replace(error.info, message=f"{error.info.message}\n{described(spec)}"))


def _help_tool(full: tuple[Tool, ...]) -> Tool:
    return Tool(
        name=HELP_NAME,
        description=_HELP_DESCRIPTION,
        schema=_HELP_SCHEMA,
        handler=_Help({item.name: item.spec for item in full}),
        on_interrupted="retry",
        metadata={"allm_builtin": HELP_NAME},
    )


class _Help(msgspec.Struct, frozen=True):
    """The handler of `tool_help`: data, so that it is compared and pickled like the tools it describes."""

    specs: dict[str, ToolSpec]

    def __call__(self, arguments: dict[str, Any]) -> str:
        return "\n\n".join(map(self._one, arguments["names"])) or self._known("no names were given")

    def _one(self, name: str) -> str:
        spec = self.specs.get(name)
        return described(spec) if spec is not None else self._known(f"no compact tool is called {name!r}")

    def _known(self, problem: str) -> str:
        return f"{problem}; the compact tools are: {', '.join(self.specs)}"
