"""Arguments of a call that come in pieces, each addressed by a JSON path (RFC 9535; Vertex only)."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct

_STEP = re.compile(
    r"""\.(?P<name>[^.\[\]'"\s]+) | \[(?P<index>\d{1,9})\]
    | \['(?P<single>(?:[^'\\]|\\.)*)'\] | \[(?P<double>"(?:[^"\\]|\\.)*")\]""",
    re.VERBOSE,
)
_QUOTES = {"\\'": "'", '"': '\\"'}


class PartialArg(Struct, gc=False, rename="camel"):
    """A value, or a piece of a string; the path comes again while `will_continue`."""

    json_path: str = "$"
    string_value: str | None = None
    number_value: float | int | None = None
    bool_value: bool | None = None
    will_continue: bool | None = None

    @property
    def value(self) -> Any:
        for value in (self.string_value, self.bool_value, self.number_value):
            if value is not None:
                return value
        return None


def assembled(pieces: list[PartialArg]) -> str:
    """The JSON text of the arguments; where a path leads nowhere or too deep, that of the pieces.

    The second is a list, so the call is taken for one with invalid arguments.
    """
    root: dict[str, Any] = {}
    try:
        for path, value in _values(pieces):
            _put(root, _steps(path), value)
        return msgspec.json.encode(root).decode()
    except (ValueError, RecursionError):
        return msgspec.json.encode(pieces).decode()


def _values(pieces: list[PartialArg]) -> list[tuple[str, Any]]:
    """Path and value of each argument, in the order in which they began."""
    found: list[tuple[str, list[Any]]] = []
    growing: dict[str, list[Any]] = {}
    for piece in pieces:
        values = growing.pop(piece.json_path, None)
        if values is None:
            values = []
            found.append((piece.json_path, values))
        values.append(piece.value)
        if piece.will_continue:
            growing[piece.json_path] = values
    return [(path, _joined(values)) for path, values in found]


def _joined(values: list[Any]) -> Any:
    texts = [value for value in values if isinstance(value, str)]
    return "".join(texts) if len(texts) == len(values) else values[-1]


def _steps(path: str) -> list[str | int]:
    if not path.startswith("$"):
        raise ValueError(path)
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise ValueError(path)
        steps.append(_step(step))
        at = step.end()
    return steps


def _step(match: re.Match[str]) -> str | int:
    if match["index"] is not None:
        return int(match["index"])
    if match["name"] is not None:
        return match["name"]
    quoted = match["double"]
    if quoted is None:  # the escapes are those of JSON, but for the quotes
        text = re.sub(r"""\\.|\"""", lambda found: _QUOTES.get(found[0], found[0]), match["single"])
        quoted = f'"{text}"'
    return msgspec.json.decode(quoted, type=str)


def _put(root: dict[str, Any], steps: list[str | int], value: Any) -> None:
    """Set the value at the end of the steps. Raises `ValueError` where they do not fit what is there."""
    if not steps:
        raise ValueError("no path")
    holder: Any = root
    for step, after in pairwise(steps):
        holder = _held(holder, step, [] if isinstance(after, int) else {})
    if _held(holder, steps[-1], value) is not value:
        holder[steps[-1]] = value


def _held(holder: Any, step: str | int, new: Any) -> Any:
    """What `holder` has at `step`; `new` where it had nothing. A list grows by one at a time."""
    if isinstance(step, str) and isinstance(holder, dict):
        return holder.setdefault(step, new)
    if isinstance(step, int) and isinstance(holder, list) and step <= len(holder):
        if step == len(holder):
            holder.append(new)
        return holder[step]
    raise ValueError("a path that does not fit")
