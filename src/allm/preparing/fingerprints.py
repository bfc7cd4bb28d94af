"""A digest of what a model is shown: what a provider binds to its prefix is known again by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from allm.data.content import AudioPart, FilePart, ImagePart, Part, TextPart, ToolCall
from allm.data.messages import Message
from allm.data.requests import ToolSpec


def fingerprint(
    messages: Iterable[Message], system: str | None = None, tools: Iterable[ToolSpec] = ()
) -> str:
    """A digest of what a model is shown, `<system and tools>:<messages>`, for `Origin.prefix`.

    Roles, visible text, calls, results and media count. Ids, reasoning, provider data and metadata do
    not, so the digest outlives a stored session and a handoff.
    """
    chain = Chain()
    chain.add(messages)
    return f"{head_of(system, tools)}:{chain.digest()}"


class Chain:
    """The digest of messages that come one after the other: each makes a new one of the one before it."""

    __slots__ = ("_now", "_row", "_speaking")

    def __init__(self) -> None:
        self._now = digest_of(b"")
        self._speaking = False
        self._row = ""  # the digest before all that the assistant says in a row

    def add(self, messages: Iterable[Message]) -> None:
        for message in messages:
            speaks = message.role == "assistant"
            if speaks and not self._speaking:
                self._row = self._now
            self._speaking = speaks
            self._now = _linked(self._now, message)

    def digest(self) -> str:
        return self._now

    def digests(self) -> tuple[str, str]:
        """The digest, and that without what the assistant has said last, in a row."""
        return self._now, self._row if self._speaking else self._now


def digests_before(messages: Sequence[Message]) -> dict[int, tuple[str, str]]:
    """For each turn made of parts, the digests of what is before it."""
    chain, added, found = Chain(), 0, {}
    for index, message in enumerate(messages):
        if message.role == "assistant" and type(message.content) is not str:
            chain.add(messages[added:index])
            added = index
            found[index] = chain.digests()
    return found


def _linked(before: str, message: Message) -> str:
    """The digest after a message, which keeps it, with the one that it came behind."""
    link: tuple[str, str] | None = message._link
    if link is None or link[0] != before:
        shown = _shown(message)
        link = message.__dict__["_link"] = before, digest_of(encoded(before + shown)) if shown else before
    return link[1]


def head_of(system: str | None, tools: Iterable[ToolSpec]) -> str:
    """The digest of what goes before all messages."""
    shown = [_frame("s", system or "")]
    for tool in tools:
        shown += (_frame("n", tool.name), _frame("d", tool.description), _frame("p", _json(tool.schema)))
    return digest_of(encoded("".join(shown)))


def _shown(message: Message) -> str:
    """A message as the model sees it; each field says its length, so that no two read alike."""
    content, role = message.content, message.role
    if isinstance(content, str):
        shown = f"t{len(content)}:{content}" if content else ""
    else:
        shown = "".join([_shown_part(part) for part in content])
    if not shown and role != "tool":
        return ""
    return f"m{len(role)}:{role}{'!' if message.is_error else ''}{shown}"


def _shown_part(part: Part) -> str:
    if type(part) is TextPart:
        return _frame("t", part.text) if part.text else ""
    if type(part) is ToolCall:
        exact = part.arguments_invalid or part.kind != "function"
        arguments = _json(part.arguments) if not exact or part.raw_arguments is None else part.raw_arguments
        return _frame("c", part.name) + _frame("a", arguments)
    if type(part) is ImagePart:
        image = part.image
        return _frame("i", _source(image.data, image.url or image.path))
    if type(part) is AudioPart:
        return _frame("h", _source(part.data, part.transcript))
    if type(part) is FilePart:
        return _frame("f", _source(part.data, part.url or part.file_id))
    return ""


def _frame(tag: str, text: str) -> str:
    return f"{tag}{len(text)}:{text}"


def _source(data: bytes | None, name: str | None) -> str:
    return digest_of(data) if data else name or ""


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, order="deterministic").decode()
    except UnicodeEncodeError:  # a lone surrogate, which an encoder refuses by name
        import json

        return json.dumps(value, sort_keys=True)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def digest_of(data: bytes) -> str:
    import hashlib

    return hashlib.blake2b(data, digest_size=12).hexdigest()
