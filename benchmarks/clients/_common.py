"""What is asked without the shared harness, which brings its own file of this name."""

from __future__ import annotations

from typing import Any, Final

PROMPT: Final = "Write about a river."
KEY: Final = "no-key-is-needed-on-this-machine"
MODEL: Final = {
    "chat": "gpt-4.1-mini",
    "resp": "gpt-4.1-mini",
    "anth": "claude-sonnet-4-5",
    "gem": "gemini-2.5-flash",
}
ROWS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"file": {"type": "string"}, "rows": {"type": "array", "items": {"type": "object"}}},
}
_SENTENCE: Final = "The river rose in the night, and by the morning the meadows stood under brown water. "


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"TOOL_OK {a + b}"


def plain(n: int) -> list[tuple[str, str]]:
    """`n` messages of about 200 characters, by turns of the user and the assistant."""
    return [("user" if i % 2 == 0 else "assistant", f"{i}: {2 * _SENTENCE}") for i in range(n)]
