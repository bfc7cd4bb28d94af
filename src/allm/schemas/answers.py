"""The JSON value in the text of an answer, and schemas as answers can be asked for."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from allm.errors import ValidationError
from allm.schemas.typed import inlined


def answer_value(text: str, root: str | None = None) -> Any:
    """The JSON value in the text of an answer; `root` is the property of its object that holds the value.

    Beside JSON alone, what stands between fences is taken, with words around it; no other guess is made.
    Raises `ValidationError` with the reason.
    """
    text = text.strip(_SPACE)
    if not text:
        raise ValidationError.of("the answer is not JSON", ("", "it is empty"))
    if text[0] not in '{["' and _FENCE in text:
        text = _fenced(text)
    try:
        value = msgspec.json.decode(text.encode("utf-8", "surrogatepass"))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValidationError.of("the answer is not JSON", ("", str(error))) from None
    if root is not None and isinstance(value, dict) and root in value:
        return value[root]
    return value


_SPACE: Final = " \t\n\r"
_FENCE: Final = "```"


def _fenced(text: str) -> str:
    """What stands between the line of the first fence and the last one. JSON may itself hold fences."""
    _, _, inside = text.partition(_FENCE)
    _, _, inside = inside.partition("\n")
    return inside.rpartition(_FENCE)[0] or inside


def is_object(schema: dict[str, Any]) -> bool:
    """Whether every value that fits is an object by the words of its root, as providers read it."""
    target = inlined(schema, {**schema.get("definitions", {}), **schema.get("$defs", {})})
    return target.get("type") == "object" or not _SHAPING & target.keys()


_SHAPING: Final = frozenset({"type", "$ref", "enum", "const", "anyOf", "oneOf", "allOf"})


def in_object(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """An object whose one property `name` is what `schema` describes; references follow it there."""
    inner = {key: item for key, item in schema.items() if key not in ("$schema", "$defs", "definitions")}
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    moved: dict[str, Any] = _moved({"properties": {name: inner}, **shared}, f"#/properties/{name}")
    return {"type": "object", "required": [name], "additionalProperties": False, **moved}


def _moved(node: Any, root: str) -> Any:
    """A copy whose references to the root, and to what is not a definition, begin at `root`."""
    if isinstance(node, list):
        return [_moved(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _moved(item, root) for key, item in node.items()}
    ref = node.get("$ref")
    if isinstance(ref, str) and ref.startswith("#") and not ref.startswith(("#/$defs/", "#/definitions/")):
        copy["$ref"] = root + ref[1:]
    return copy
