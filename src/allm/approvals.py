"""Calls that wait for a person: what they are named by, what is decided, and what follows from it. Pure.

A waiting call is named by a digest of its id, name and arguments, so that a decision holds for this very
call and no other: `StepResult.metadata["approvals"]` and `ChatResult.metadata["approvals"]` are
`{call id: digest}`. Digests and decisions are data: they may be stored, and decided on in another process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import TextPart, ToolCall
from allm.data.failure import ErrorInfo
from allm.data.messages import Message, Thread
from allm.data.sessions import Decision as Decision
from allm.errors import ToolError, ValidationError
from allm.tools import Tool, error_message

_DOMAIN: Final = b"allm approval 1\n"


def approval_digest(call: ToolCall) -> str:
    """SHA-256, in hex, of the call's id, name and arguments; the order of keys does not count."""
    named = msgspec.json.encode([call.id, call.name, call.arguments], order="sorted")
    return sha256(_DOMAIN + named).hexdigest()


def approve(call: ToolCall | str, arguments: dict[str, Any] | None = None) -> Decision:
    """Let a waiting call run: the call, or its digest. `arguments` replace the model's, which is told."""
    if arguments is not None and not isinstance(arguments, dict):
        problem = ("arguments", f"must_be_a_dict: not {type(arguments).__name__}")
        raise ValidationError.of("invalid decision", problem)
    return Decision(digest=_digest(call), approved=True, arguments=arguments)


def deny(call: ToolCall | str, reason: str = "") -> Decision:
    """Refuse a waiting call: the call, or its digest. The model is told, with the reason."""
    if not isinstance(reason, str):
        raise ValidationError.of("invalid decision", ("reason", f"not_a_string: {type(reason).__name__}"))
    return Decision(digest=_digest(call), approved=False, reason=reason)


def _digest(call: ToolCall | str) -> str:
    if isinstance(call, str):
        return call
    if not isinstance(call, ToolCall):
        problem = ("call", f"must_be_a_ToolCall_or_its_digest: not {type(call).__name__}")
        raise ValidationError.of("invalid decision", problem)
    return approval_digest(call)


class ReadyCall(Struct, frozen=True):
    """A call to run. `position` is its place among the calls of its message, `asked` what the model asked;
    `call` is that, with the arguments that were decided on."""

    position: int
    asked: ToolCall
    call: ToolCall


class Decided(Struct, frozen=True):
    """What follows from decisions: the calls to run, the answers to denied ones, what still waits; each in
    call order."""

    run: tuple[ReadyCall, ...] = ()
    denied: tuple[Message, ...] = ()
    waiting: tuple[ToolCall, ...] = ()


def decide(
    thread: Thread, pending: Sequence[ToolCall], decisions: Iterable[Decision], tools: Iterable[Tool]
) -> Decided:
    """What follows from `decisions` on the calls that are pending at the end of `thread`.

    All or nothing: raises one `ValidationError` with every decision whose digest is that of no waiting
    call (its arguments may have changed since), that comes twice, or whose arguments do not fit the tool,
    and with every pending call that is not what the model asked for.
    """
    given = list(decisions)
    asked = _unanswered(thread)
    found = list(_forged(pending, asked))
    by_digest = {approval_digest(call): call for call in pending}
    named = {tool.name: tool for tool in tools}
    decided: dict[str, Decision] = {}
    for index, decision in enumerate(given):
        call = by_digest.get(decision.digest)
        if call is None:
            found.append((f"decisions[{index}].digest", "of_no_waiting_call: it may have changed since"))
        elif call.id in decided:
            found.append((f"decisions[{index}].digest", f"decided_twice: the call {call.id}"))
        else:
            decided[call.id] = decision
            found += _unfit(f"decisions[{index}]", call, decision, named.get(call.name))
    if found:
        raise ValidationError.of("invalid decisions", *found)
    return Decided(
        run=tuple(
            ReadyCall(position, call, _edited(call, decided[call.id]))
            for position, call in asked.values()
            if call.id in decided and decided[call.id].approved
        ),
        denied=tuple(
            _denial(call, decided[call.id].reason)
            for _, call in asked.values()
            if call.id in decided and not decided[call.id].approved
        ),
        waiting=tuple(call for call in pending if call.id not in decided),
    )


def _unanswered(thread: Thread) -> dict[str, tuple[int, ToolCall]]:
    """The calls of the last assistant message that have no result: id to position and call."""
    answered = set()
    for message in reversed(thread.messages):
        if message.role == "tool":
            answered.add(message.tool_call_id)
        elif message.role == "assistant":
            calls = enumerate(message.tool_calls)
            return {call.id: (position, call) for position, call in calls if call.id not in answered}
    return {}


def _forged(pending: Sequence[ToolCall], asked: dict[str, tuple[int, ToolCall]]) -> Iterator[tuple[str, str]]:
    for index, call in enumerate(pending):
        _, original = asked.get(call.id, (0, None))
        if original is None or approval_digest(original) != approval_digest(call):
            yield f"pending[{index}]", f"not_a_call_of_the_thread_without_result: {call.id}"


def _unfit(path: str, call: ToolCall, decision: Decision, tool: Tool | None) -> Iterator[tuple[str, str]]:
    """Why the approved call cannot run."""
    if not decision.approved:
        return
    if tool is None:
        yield path, f"unknown_tool: {call.name}"
    elif tool.manual:
        yield path, f"a_manual_tool_is_run_by_the_caller: {call.name}"
    else:
        try:
            tool.bind_arguments(_edited(call, decision))
        except ToolError as error:
            for where, why in error.info.problems:
                yield f"{path}.arguments.{where}".rstrip("."), why


def _edited(call: ToolCall, decision: Decision) -> ToolCall:
    if decision.arguments is None or decision.arguments == call.arguments:
        return call
    return replace(call, arguments=decision.arguments, raw_arguments=None, arguments_invalid=False)


def _denial(call: ToolCall, reason: str) -> Message:
    why = f": {reason}" if reason else ""
    text = f"the user did not allow this call{why}"
    return error_message(call, ErrorInfo(reason="tool_failed", code="denied", message=text, call_id=call.id))


def told(ready: ReadyCall, message: Message) -> Message:
    """The answer of a call; where its arguments were changed, it says what really ran."""
    if ready.call == ready.asked:
        return message
    ran = msgspec.json.encode(ready.call.arguments, order="sorted").decode()
    note = f"The user changed the arguments of this call; it ran with {ran}. Its result:"
    if isinstance(message.content, str):
        return replace(message, content=f"{note}\n{message.content}")
    return replace(message, content=(TextPart(note), *message.content))
