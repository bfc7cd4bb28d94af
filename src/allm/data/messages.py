"""Messages and threads, and the short constructors `system`, `user`, `assistant`, `tool_result`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

from allm.data import Data
from allm.data.content import Part, ReasoningPart, TextPart, ToolCall
from allm.data.freeform import normalise, tupled

ROLES: Final = ("system", "user", "assistant", "tool")


class Message(Data, frozen=True, dict=True):
    """One message. `content` is a string or a tuple of parts in the provider's order.

    `role` is one of `ROLES`. A `tool` message answers the call `tool_call_id` and says in
    `is_error` whether the tool failed.

    The `__dict__` is for what the library derives from a message and keeps with it. It is no part of the
    value: comparisons, copies, pickles and documents are without it.
    """

    _sent: ClassVar[Any] = ()  # what the conversation up to here became (`allm.providers.conversation`)
    _link: ClassVar[Any] = None  # the digest of the conversation up to here (`allm.preparing`)

    role: str
    content: str | tuple[Part, ...] = ""
    name: str | None = None
    tool_call_id: str | None = None
    is_error: bool = False
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.metadata or self.extra:
            normalise(self, "metadata", "extra")
        if type(self.content) is not str:
            tupled(self, "content")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts; a plain string is one `TextPart`."""
        if isinstance(self.content, str):
            return (TextPart(self.content),) if self.content else ()
        return self.content

    @property
    def text(self) -> str:
        """The visible text: all text parts joined, no reasoning."""
        if isinstance(self.content, str):
            return self.content
        return "".join([part.text for part in self.content if type(part) is TextPart])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        if isinstance(self.content, str):
            return ()
        return tuple([part for part in self.content if type(part) is ToolCall])

    @property
    def reasoning(self) -> str:
        """The model's thinking as text, all reasoning parts joined."""
        if isinstance(self.content, str):
            return ""
        return "".join([part.text for part in self.content if type(part) is ReasoningPart])


def system(text: str) -> Message:
    return Message("system", text)


def user(content: str | Iterable[Part]) -> Message:
    return Message("user", _content(content))


def assistant(content: str | Iterable[Part]) -> Message:
    return Message("assistant", _content(content))


def tool_result(tool_call_id: str, content: str | Iterable[Part], *, is_error: bool = False) -> Message:
    """The answer to the call `tool_call_id`: what you append in manual mode."""
    return Message("tool", _content(content), tool_call_id=tool_call_id, is_error=is_error)


def _content(content: str | Iterable[Part]) -> Any:
    """Kept as given where it is neither text nor parts: validation names the mistake later."""
    if isinstance(content, str | dict) or not isinstance(content, Iterable):
        return content
    return tuple(content)


class Thread(Data, frozen=True):
    """A conversation. Every helper returns a new thread; the messages themselves are shared."""

    messages: tuple[Message, ...] = ()
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.metadata or self.extra:
            normalise(self, "metadata", "extra")
        if type(self.messages) is not tuple:
            tupled(self, "messages")

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def last_message(self) -> Message | None:
        return self.messages[-1] if self.messages else None

    def add_message(self, message: Message) -> Thread:
        return self.add_messages((message,))

    def add_messages(self, messages: Iterable[Message]) -> Thread:
        return Thread((*self.messages, *messages), self.metadata, self.extra)

    def add_system(self, text: str) -> Thread:
        return self.add_message(system(text))

    def add_user(self, content: str | Iterable[Part]) -> Thread:
        return self.add_message(user(content))

    def add_assistant(self, content: str | Iterable[Part]) -> Thread:
        return self.add_message(assistant(content))
