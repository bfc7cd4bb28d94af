"""Tools rebuilt from copies and pickles: a handler travels by its name where that leads to it."""

from __future__ import annotations

import sys
from typing import Any

from allm.data.requests import ToolSpec
from allm.tools.base import Policies, Tool, reference, walk
from allm.tools.functions import FunctionTool, function_tool, parameters_of, unwrapped


def portable(handler: Any) -> Any:
    """The handler as pickle can store it: by name where that name now leads to the tool."""
    name = reference(handler)
    if name is None:
        return handler
    module, _, path = name.partition(":")
    found = walk(sys.modules.get(module), path)
    return name if isinstance(found, Tool) else handler


def rebuilt(
    kind: type[Tool], spec: ToolSpec, handler: Any, policies: Policies, twin: Tool | None = None
) -> Tool:
    """The tool again; `handler` may be a name. What a `twin` knows of its parameters is not read anew."""
    if isinstance(handler, str):
        from importlib import import_module

        module, _, path = handler.partition(":")
        twin = walk(import_module(module), path)
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
        return function_tool(spec, handler, policies, twin._parameters, twin._receiver)
    function, receiver = unwrapped(handler)
    return function_tool(spec, handler, policies, parameters_of(function, {}, receiver), receiver)
