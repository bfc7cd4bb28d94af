"""What comes back: `Usage`, `Response` of one call, `StepResult`, `ChatResult` of a whole run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, overload

from allm.data import Data
from allm.data.content import ToolCall
from allm.data.failure import ErrorInfo
from allm.data.freeform import normalise, tupled
from allm.data.messages import Message, Thread
from allm.errors import OutputError, ValidationError

T = TypeVar("T")


class Usage(Data, frozen=True, kw_only=True):
    """Tokens, with one meaning on every provider. Not reported is `None`, never 0.

    `input_tokens` is the whole prompt, cached reads and writes included; `output_tokens` includes
    reasoning. Costs are in US dollars. `raw` is the provider's own object.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    input_cost: float | None = None
    output_cost: float | None = None
    total_cost: float | None = None
    raw: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.raw or self.extra:
            normalise(self, "raw", "extra")

    def plus(self, other: Usage | None) -> Usage:
        """The sum; a counter that only one side reports keeps that side's value."""
        if other is None:
            return self
        added = {}
        for name in _COUNTERS:
            mine, theirs = getattr(self, name), getattr(other, name)
            added[name] = mine if theirs is None else theirs if mine is None else mine + theirs
        return Usage(**added)


_COUNTERS = tuple(name for name in Usage.__struct_fields__ if name not in ("raw", "extra"))


class Response(Data, frozen=True, kw_only=True):
    """The folded answer of one model call.

    `finish_reason` is `stop`, `length`, `tool_calls`, `content_filter`, `paused`, `error`, `cancelled` or
    `other`; `raw_finish_reason` is the provider's own word. `error` is set where the call failed on
    the way: text, calls and usage up to there are kept.
    """

    message: Message = Message("assistant")
    id: str | None = None
    request_id: str | None = None
    provider: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    raw_finish_reason: str | None = None
    usage: Usage | None = None
    refusal: str | None = None
    warnings: tuple[str, ...] = ()
    error: ErrorInfo | None = None
    provider_data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.provider_data or self.metadata or self.extra:
            normalise(self, "provider_data", "metadata", "extra")
        if type(self.warnings) is not tuple:
            tupled(self, "warnings")

    @property
    def output_text(self) -> str:
        return self.message.text

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def reasoning(self) -> str:
        return self.message.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls

    @overload
    def parse(self, type: type[T]) -> T: ...
    @overload
    def parse(self, type: Any) -> Any: ...
    def parse(self, type: Any) -> Any:
        """The JSON answer as `type`: msgspec Struct, dataclass, TypedDict, list, union, pydantic model.

        Beside JSON alone, one block between fences is taken, with words around it. Raises `OutputError` that
        holds the text, the paths and the reasons, with this response as `.partial`.
        """
        from allm.schemas import answer_value, convert

        try:
            return convert(answer_value(self.output_text, self.metadata.get("output_root")), type)
        except ValidationError as error:
            raise output_error(self, error.errors) from error


_SHOWN = 2000  # characters of an answer that a message quotes


def output_error(response: Response, problems: Iterable[tuple[str, str]]) -> OutputError:
    """The error of an answer that does not fit: its problems, its text in `info.extra["text"]`."""
    problems, text = tuple(problems), response.output_text
    why = "the answer does not fit"
    if response.refusal:
        why = f"the model refused ({response.refusal})"
    elif response.finish_reason not in ("stop", None):
        why = f"the answer ended with {response.finish_reason!r} and does not fit"
    if response.finish_reason == "length":
        why = "the answer was cut (max_tokens allows more) and does not fit"
    listed = "; ".join([f"{path or 'answer'}: {reason}" for path, reason in problems])
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    info = ErrorInfo(
        reason="output_invalid",
        message=f"{why}: {listed}; the text was: {shown}",
        provider=response.provider,
        model=response.model,
        request_id=response.request_id,
        phase="output",
        problems=problems,
        extra={"text": text},
    )
    return OutputError(info, response)


class StepResult(Data, frozen=True, kw_only=True, tag="step_result"):
    """One round trip and the tools it ran. Stores only its own messages.

    `done` is false where the model should be asked again. `halt` is the word that ended the loop in
    this step, if any; `base` is the thread before the step, set on the result of `step` only. `asked` is
    what the loop itself said to the model first: a correction, or the nudge of a second pass.
    """

    response: Response
    asked: tuple[Message, ...] = ()
    tool_results: tuple[Message, ...] = ()
    done: bool = False
    base: Thread | None = None
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.metadata or self.extra:
            normalise(self, "metadata", "extra")
        if type(self.asked) is not tuple or type(self.tool_results) is not tuple:
            tupled(self, "asked", "tool_results")

    @property
    def messages(self) -> tuple[Message, ...]:
        """What this step adds to the thread: nothing where the model's turn broke off."""
        if self.response.finish_reason in ("error", "cancelled"):
            return ()
        return (*self.asked, self.response.message, *self.tool_results)

    @property
    def text(self) -> str:
        return self.response.text

    @property
    def pending_tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that wait for the caller: to be run, or to be allowed."""
        return _pending(self.response, self.metadata)

    @property
    def thread(self) -> Thread:
        """The thread after this step. In a stored chat ask `ChatResult.thread_after(i)`."""
        if self.base is None:
            raise ValidationError.of("no thread here", ("step.base", "use_ChatResult.thread_after"))
        return self.base.add_messages(self.messages)


def _pending(response: Response, metadata: dict[str, Any]) -> tuple[ToolCall, ...]:
    """In mode `manual` all calls, else those that the metadata name."""
    named = metadata.get("manual_tool_calls", ())
    whole = metadata.get("mode") == "manual"
    return tuple([call for call in response.tool_calls if whole or call.id in named])


class ChatResult(Data, frozen=True, kw_only=True, tag="chat_result"):
    """A whole run. `base` is the thread it started from; `thread` is rebuilt from it.

    `halted_reason` is `completed`, `manual_tool_calls`, `ask_user`, `tool_error`, `max_turns`,
    `halt_when`, `error`, `cancelled`, or the word a tool gave.
    """

    base: Thread = Thread()
    steps: tuple[StepResult, ...] = ()
    halted_reason: str = "completed"
    pending_question: str | None = None
    pending_tool_call_id: str | None = None
    error: ErrorInfo | None = None
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.metadata or self.extra:
            normalise(self, "metadata", "extra")
        if type(self.steps) is not tuple:
            tupled(self, "steps")

    @property
    def thread(self) -> Thread:
        """All messages: those given, those of every step, and the question to the user, if any."""
        thread = self.thread_after(len(self.steps) - 1)
        if self.pending_question is not None:
            asked = Message(
                "assistant",
                self.pending_question,
                tool_call_id=self.pending_tool_call_id,
                metadata={"ask_user": True},
            )
            thread = thread.add_message(asked)
        return thread

    def thread_after(self, index: int) -> Thread:
        """The thread as it stood after step `index` (0-based)."""
        return self.base.add_messages([m for step in self.steps[: index + 1] for m in step.messages])

    @property
    def final_response(self) -> Response | None:
        return self.steps[-1].response if self.steps else None

    @property
    def text(self) -> str:
        return self.steps[-1].response.text if self.steps else ""

    @property
    def pending_tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of the last step that wait for the caller: to be run, or to be allowed."""
        return _pending(self.steps[-1].response, self.metadata) if self.steps else ()

    @property
    def usage(self) -> Usage:
        """The sum over all steps."""
        total = Usage()
        for step in self.steps:
            total = total.plus(step.response.usage)
        return total

    @overload
    def parse(self, type: type[T]) -> T: ...
    @overload
    def parse(self, type: Any) -> Any: ...
    def parse(self, type: Any) -> Any:
        """The final answer as `type`; see `Response.parse`."""
        return (self.final_response or Response()).parse(type)
