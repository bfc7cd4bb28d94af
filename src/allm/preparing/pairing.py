"""Calls and their results: each result is put right after its call, and what is missing is mended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from allm.data.content import TextPart, ToolCall
from allm.data.messages import Message
from allm.errors import ValidationError
from allm.preparing.reports import Change

NO_RESULT: Final = "No result was provided for this call."


def is_paired(messages: Sequence[Message]) -> bool:
    """Whether each turn's calls are answered right after it, each once and nothing else."""
    waiting: set[str] = set()
    for message in messages:
        if message.role == "tool":
            id = message.tool_call_id or ""
            if id not in waiting:
                return False
            waiting.remove(id)
        elif waiting:
            return False
        elif type(message.content) is not str and message.role == "assistant":
            ids = [part.id for part in message.content if type(part) is ToolCall]
            waiting = set(ids)
            if len(waiting) != len(ids):
                return False
    return not waiting


def paired(messages: Sequence[Message], orphans: str, changes: list[Change]) -> Iterator[tuple[int, Message]]:
    """The messages with every result right after its call; what is missing or too much is mended."""
    turns: list[_Turn] = []
    waiting: dict[str, list[_Turn]] = {}  # a turn stands here once for each open call, the newest last
    seen: set[str] = set()
    problems: list[tuple[str, str]] = []
    for source, message in enumerate(messages):
        if message.role != "tool":
            turns.append(_Turn(source, message))
            for call in _calls(message):
                waiting.setdefault(call.id, []).append(turns[-1])
                seen.add(call.id)
            continue
        id, path = message.tool_call_id or "", f"messages[{source}]"
        if waiting.get(id):
            turn = waiting[id].pop()
            turn.results.append((source, message))
            if turn is not turns[-1]:
                changes.append(Change(path, "moved", "result", "not_after_its_call"))
        elif id in seen:
            problems.append((path, "repeated_result"))
            changes.append(Change(path, "dropped", "result", "repeated_result"))
        else:
            problems.append((path, "orphan_result"))
            changes.append(Change(path, "reduced", "result", "orphan_result"))
            turns.append(_Turn(source, _quoted(message)))
    for turn in turns:
        for index, call in turn.unanswered() if _calls(turn.message) else ():
            path = f"messages[{turn.source}].content[{index}]"
            problems.append((path, "orphan_call"))
            changes.append(Change(path, "answered", "call", "orphan_call"))
            turn.results.append((turn.source, _no_result(call)))
    if problems and orphans == "refuse":
        raise ValidationError.of("calls and results do not fit together", *problems)
    return ((source, row) for turn in turns for source, row in ((turn.source, turn.message), *turn.results))


def _calls(message: Message) -> list[ToolCall]:
    if message.role != "assistant" or type(message.content) is str:
        return []
    return [part for part in message.content if type(part) is ToolCall]


class _Turn:
    """An assistant message and the results of its calls, each with its place among the given messages."""

    __slots__ = ("message", "results", "source")

    def __init__(self, source: int, message: Message) -> None:
        self.source = source
        self.message = message
        self.results: list[tuple[int, Message]] = []

    def unanswered(self) -> Iterator[tuple[int, ToolCall]]:
        """Calls without a result, with their place in the message; of equal ids the first has the first."""
        answered: dict[str, int] = {}
        for _, result in self.results:
            id = result.tool_call_id or ""
            answered[id] = answered.get(id, 0) + 1
        for index, part in enumerate(self.message.content):
            if type(part) is ToolCall:
                left = answered[part.id] = answered.get(part.id, 0) - 1
                if left < 0:
                    yield index, part


def _no_result(call: ToolCall) -> Message:
    return Message("tool", NO_RESULT, tool_call_id=call.id, is_error=True)


def _quoted(result: Message) -> Message:
    """A result without its call, as something the user says."""
    said = "\n".join([f"> {line}" for line in result.text.splitlines()])
    kind = "The error" if result.is_error else "The result"
    text = TextPart(f"{kind} of a tool call that is not in this conversation:\n{said}")
    return Message("user", (text, *[part for part in result.parts if type(part) is not TextPart]))
