"""What a handler is told of its call, and what it may return to steer the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from allm.data.content import ToolCall
from allm.data.failure import ErrorInfo
from allm.data.freeform import json_value
from allm.data.messages import Message
from allm.errors import ValidationError

RESERVED_REASONS: Final = frozenset(
    {
        "completed", "manual_tool_calls", "ask_user", "tool_error", "max_turns", "halt_when", "error",
        "cancelled", "refused", "budget",
    }
)  # fmt: skip
"""Words of `ChatResult.halted_reason` that a tool may not use in `Halt`."""


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


class FrozenValue:
    """A frozen value that is no Struct because its constructor takes what a Struct's cannot."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")


class AskUser(FrozenValue):
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
