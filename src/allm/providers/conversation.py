"""A conversation on its way into a body: prepared, encoded, and kept for the requests that go on with it.

A conversation grows at its end: what a request holds is for the most part what the one before it held. So
the last message of a request keeps what the messages up to it became; a request that goes on behind it
prepares and encodes what is new, and copies the rest.
See `docs/decisions/0009-a-conversation-keeps-its-bytes.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from allm.data.content import Origin
from allm.data.messages import Message
from allm.data.requests import ToolSpec
from allm.preparing import Ready, Target, is_paired, readied
from allm.providers.encoding import Said, body_of


class Asked(Struct, frozen=True):
    """Whom a conversation goes to, and with what: all that its encoding hangs on beside the messages.

    `answers` is the model's role on the wire, in a dialect that makes one turn of neighbours of one role.
    """

    adapter: Any
    target: Origin
    system: str | None
    tools: tuple[ToolSpec, ...]
    orphans: str
    answers: str = ""

    def is_like(self, other: Asked) -> bool:
        same = (self.target, self.system, self.orphans) == (other.target, other.system, other.orphans)
        return same and self.adapter is other.adapter and _same(self.tools, other.tools)


class _Sent(Struct, frozen=True):
    """What the messages of a request became: `ready` for the target, then `items`, of which one may stand for
    many. Their last message keeps it and is in neither tuple here, so that both go away together."""

    asked: Asked
    before: tuple[Message, ...]
    ready: Ready
    items: tuple[Raw, ...]

    def leads_to(self, given: tuple[Message, ...], asked: Asked) -> bool:
        """Whether `given` begins with these messages, in the same way, and what follows is prepared alone."""
        if not self.asked.is_like(asked) or not _same(self.before, given[: len(self.before)]):
            return False
        new = given[len(self.before) + 1 :]
        return is_paired(new) and all(message.role != "system" for message in new)


Encode = Callable[[tuple[Message, ...]], list[Any]]


def conversation(given: tuple[Message, ...], asked: Asked, encode: Encode) -> Said:
    """The messages of a request as they go out. `encode` makes items of messages, turn by turn."""
    place, sent = _last_sent(given)
    if sent is not None and len(sent.before) == place and sent.leads_to(given, asked):
        said = _behind(sent, given, asked, encode)
        if said is not None:
            if place + 1 < len(given):
                given[place].__dict__.pop("_sent", None)  # one conversation is kept once
            return said
    ready = readied(given, Target.of(asked.target), asked.system, asked.tools, asked.orphans)
    return _said(given, asked, ready, (), encode(ready.messages))


def _last_sent(given: tuple[Message, ...]) -> tuple[int, _Sent | None]:
    for place in range(len(given) - 1, -1, -1):
        sent = given[place]._sent
        if sent is not None:
            return place, sent
    return 0, None


def _behind(sent: _Sent, given: tuple[Message, ...], asked: Asked, encode: Encode) -> Said | None:
    """What was sent, with what came since behind it; `None` where that cannot simply be put there."""
    count = len(sent.before) + 1
    before = replace(sent.ready, messages=(*sent.ready.messages, given[count - 1]))
    target = Target.of(asked.target)
    ready = readied(given, target, asked.system, asked.tools, asked.orphans, count=count, before=before)
    items = encode(ready.messages[len(before.messages) :])
    if items and asked.answers and items[0]["role"] != asked.answers:
        return None
    return _said(given, asked, ready, sent.items, items)


def _said(
    given: tuple[Message, ...], asked: Asked, ready: Ready, known: tuple[Raw, ...], new: list[Any]
) -> Said:
    """All items; they are kept where what may follow changes nothing of them."""
    items = (*known, Raw(body_of(new)[1:-1])) if new else known
    answered = bool(new and asked.answers) and new[-1]["role"] == asked.answers
    if ready.messages and ready.messages[-1] is given[-1] and not answered:
        before = given[:-1]
        done = before if ready.messages is given else ready.messages[:-1]
        given[-1].__dict__["_sent"] = _Sent(asked, before, replace(ready, messages=done), items)
    return Said(ready.messages, [*items], list(ready.report.warnings))


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether these are the same objects."""
    return len(one) == len(other) and all(map(is_, one, other))
