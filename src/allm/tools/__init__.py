"""Tools: a specification for the model plus a handler, made from a function or by hand.

Nothing here runs a handler: `invocation` prepares the run, `outcome`, `failed` and `error_message`
turn what came of it into data.
"""

from __future__ import annotations

from allm.tools.base import Tool, importable_name, imported, invocation, is_async
from allm.tools.docstrings import read_docstring
from allm.tools.failures import (
    answers_of,
    error_message,
    failed,
    interrupted,
    not_run,
    timed_out,
    unknown_tool,
)
from allm.tools.functions import FunctionTool, from_object, needs_instance, tool
from allm.tools.results import encode_result, outcome
from allm.tools.values import RESERVED_REASONS, AskUser, Halt, Outcome, ToolContext

__all__ = [
    "RESERVED_REASONS",
    "AskUser",
    "FunctionTool",
    "Halt",
    "Outcome",
    "Tool",
    "ToolContext",
    "answers_of",
    "encode_result",
    "error_message",
    "failed",
    "from_object",
    "importable_name",
    "imported",
    "interrupted",
    "invocation",
    "is_async",
    "needs_instance",
    "not_run",
    "outcome",
    "read_docstring",
    "timed_out",
    "tool",
    "unknown_tool",
]
