"""The closed union of events. Streaming is the primitive: every result is a fold over these.

Fields are in the order that a positional `match` sees; later versions append, never reorder.
"""

from __future__ import annotations

from typing import Any

from allm.data import Data
from allm.data.content import AudioPart, ImagePart, OpaquePart, ReasoningPart, TextPart, ToolCall
from allm.data.failure import ErrorInfo
from allm.data.freeform import normalise, tupled
from allm.data.messages import Message
from allm.data.responses import ChatResult, Response, StepResult, Usage


class _Event(Data, frozen=True, tag_field="type", gc=False):
    pass


class _Holder(Data, frozen=True, tag_field="type"):
    pass


class MessageStarted(_Holder, frozen=True, tag="message_started"):
    """The first event of a model turn; comes once, with the attempt that brings content.

    `asked` is what was said to the model for this turn alone: words of the loop itself (a correction, a
    nudge), or of a user who spoke after a cut. `halted` is set in the second pass of a structured chat: what
    the first halted with. No filter hides them, so that a run that is cut in this turn goes on in it.
    """

    id: str | None = None
    model: str | None = None
    asked: tuple[Message, ...] = ()
    halted: str | None = None

    def __post_init__(self) -> None:
        if type(self.asked) is not tuple:
            tupled(self, "asked")


class TextDelta(_Event, frozen=True, tag="text_delta"):
    """Visible text as it arrives. `index` is the position of its part in the message."""

    text: str
    index: int = 0


class TextCompleted(_Holder, frozen=True, tag="text_completed"):
    """The whole text of part `index`. `part` is set where the part holds more than text."""

    text: str
    index: int = 0
    part: TextPart | None = None


class ReasoningDelta(_Event, frozen=True, tag="reasoning_delta"):
    text: str
    index: int = 0


class ReasoningCompleted(_Holder, frozen=True, tag="reasoning_completed"):
    """The whole thinking of part `index`. `part` is set where it holds more than text."""

    text: str
    index: int = 0
    part: ReasoningPart | None = None


class ToolCallStarted(_Event, frozen=True, tag="tool_call_started"):
    id: str
    name: str
    index: int = 0


class ToolCallDelta(_Event, frozen=True, tag="tool_call_delta"):
    """A piece of the text of the arguments of call `id`."""

    id: str
    text: str


class ToolCallCompleted(_Holder, frozen=True, tag="tool_call_completed"):
    call: ToolCall
    index: int | None = None


class UsageReported(_Holder, frozen=True, tag="usage"):
    """What the turn used so far; the last one of a turn holds. Before `message_completed`."""

    usage: Usage


class MessageCompleted(_Holder, frozen=True, tag="message_completed"):
    """The model turn is whole. From a decoder: all but the message, which the fold fills in."""

    response: Response


class ToolExecutionStarted(_Holder, frozen=True, tag="tool_execution_started"):
    """Comes before the handler runs."""

    call: ToolCall


class ToolExecutionCompleted(_Holder, frozen=True, tag="tool_execution_completed"):
    """The handler is done, after `elapsed` seconds. `result` is what it came to, before hooks: a run that is
    cut here knows it and does not run the tool again."""

    id: str
    name: str
    is_error: bool = False
    elapsed: float = 0.0
    result: ToolResultEncoded | None = None


class ToolResultEncoded(_Holder, frozen=True, tag="tool_result_encoded"):
    """The message with which call `message.tool_call_id` is answered. `halt` says how the call ends the loop,
    where it does, so that a run that is cut here still ends."""

    message: Message
    halt: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.halt:
            normalise(self, "halt")


class AskUserRequested(_Holder, frozen=True, tag="ask_user_requested"):
    call_id: str
    question: str
    choices: tuple[str, ...] = ()


class ToolHalt(_Holder, frozen=True, tag="tool_halt"):
    """A tool ended the loop with its own word; `value` is its result as JSON data."""

    call_id: str
    reason: str
    value: Any = None

    def __post_init__(self) -> None:
        normalise(self, "value")


class StepCompleted(_Holder, frozen=True, tag="step_completed"):
    result: StepResult


class ChatCompleted(_Holder, frozen=True, tag="chat_completed"):
    result: ChatResult


class Retrying(_Holder, frozen=True, tag="retrying"):
    """Attempt `attempt` failed; the next one starts after `delay` seconds.

    Where the reason is `output_invalid` the answer had come, and did not fit: what came of it is void.
    """

    attempt: int
    delay: float
    error: ErrorInfo


class RawChunk(_Holder, frozen=True, tag="raw_chunk"):
    """Something the provider sent that has no event of its own; `part` where it must go back."""

    data: Any
    index: int | None = None
    part: OpaquePart | ImagePart | AudioPart | None = None


class StreamFailed(_Holder, frozen=True, tag="error"):
    """The run failed. A record, not an exception; nothing comes after it."""

    error: ErrorInfo


Event = (
    MessageStarted
    | TextDelta
    | TextCompleted
    | ReasoningDelta
    | ReasoningCompleted
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallCompleted
    | UsageReported
    | MessageCompleted
    | ToolExecutionStarted
    | ToolExecutionCompleted
    | ToolResultEncoded
    | AskUserRequested
    | ToolHalt
    | StepCompleted
    | ChatCompleted
    | Retrying
    | RawChunk
    | StreamFailed
)

EVENT_TYPES: tuple[type[Event], ...] = Event.__args__
"""Every event class, in the order of the union."""
