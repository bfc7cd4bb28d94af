"""A conversation on its way into a body: prepared, encoded, and kept for the requests that go on with it.

A conversation grows at its end: what a request holds is for the most part what the one before it held. So
the last message of a request keeps what was new in it, a piece of the conversation; a request that goes on
behind it prepares and encodes what is new again, and copies the pieces.
See `docs/decisions/0009-a-conversation-keeps-its-bytes.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import is_
from typing import Any, Final, NamedTuple
from weakref import ref

from msgspec import Raw, Struct
from msgspec.structs import replace

from allm.data.content import Origin
from allm.data.messages import Message
from allm.data.requests import ToolSpec
from allm.preparing import Ready, Target, head_of, is_paired, readied
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

    def goes_with(self, other: Asked) -> bool:
        """Whether it goes to the same target in the same way, with whatever system prompt and tools."""
        same = (self.target, self.orphans) == (other.target, other.orphans)
        return same and self.adapter is other.adapter


class _Piece(Struct, frozen=True, weakref=True):
    """What some messages of a conversation became, behind those of the piece `before`.

    `given` are the messages: the one that keeps the piece before, then those that came after it. The last
    has the piece itself and is not among them, nor in `ready`: so nothing here refers to its own keeper, and
    a piece goes when that goes. `ready` is what was new, `items` one that stands for many, or none. `whom`
    is without system prompt and tools: what hangs on these says so (`Ready.head`).
    """

    whom: Asked
    before: ref[_Piece] | None
    given: tuple[Message, ...]
    ready: Ready
    items: tuple[Raw, ...]

    def chain(self) -> list[_Piece]:
        """The conversation up to here, from its first piece; nothing where one was let go."""
        pieces: list[_Piece] = [self]
        while (link := pieces[-1].before) is not None:
            piece = link()
            if piece is None:
                return []
            pieces.append(piece)
        pieces.reverse()
        return pieces


class _Known(NamedTuple):
    """What the messages before `place` became. The one at `place` keeps the piece and goes out as it is."""

    place: int = 0
    ready: Ready = Ready(())
    items: tuple[Raw, ...] = ()
    link: ref[_Piece] | None = None


_NOTHING: Final = _Known()

Encode = Callable[[tuple[Message, ...]], list[Any]]


def conversation(given: tuple[Message, ...], asked: Asked, encode: Encode) -> Said:
    """The messages of a request as they go out. `encode` makes items of messages, turn by turn."""
    said = _behind(_known(given, asked), given, asked, encode)
    if said is None:
        _forget(given, asked)
        start = _last_turn(given)
        if start:  # in two pieces, so that other requests can go on behind the first
            _anew(given[:start], asked, encode)
            said = _behind(_known(given, asked), given, asked, encode)
    return said or _anew(given, asked, encode)


def _known(given: tuple[Message, ...], asked: Asked) -> _Known | None:
    """The longest beginning that is known for this target, if what follows can simply be put behind it."""
    for place in range(len(given) - 1, -1, -1):
        for piece in given[place]._sent:
            if piece.whom.goes_with(asked):
                new = given[place + 1 :]
                if not (new and asked.answers) or new[0].role == "assistant":
                    return _joined(piece, given, place, asked) if _stands_alone(new) else None
    return None


def _joined(piece: _Piece, given: tuple[Message, ...], place: int, asked: Asked) -> _Known | None:
    """All that the piece at a place stands behind; `None` where that is not what `given` begins with."""
    pieces = piece.chain()
    before = chain.from_iterable([piece.given for piece in pieces])
    if not pieces or not _same(tuple(before), given[:place]):
        return None
    ready = Ready.joined([piece.ready for piece in pieces])
    if ready.head and ready.head != head_of(asked.system, asked.tools):
        return None
    return _Known(place, ready, tuple(chain.from_iterable([piece.items for piece in pieces])), ref(piece))


def _stands_alone(new: Sequence[Message]) -> bool:
    """Whether messages are prepared without a change to those before: nothing of them belongs there."""
    return is_paired(new) and all(message.role != "system" for message in new)


def _last_turn(given: tuple[Message, ...]) -> int:
    """Where the model last took the word; 0 where that is no place to part a conversation."""
    for place in range(len(given) - 1, 0, -1):
        if given[place].role == "assistant" and given[place - 1].role != "assistant":
            return place if _stands_alone(given[place:]) else 0
    return 0


def _anew(given: tuple[Message, ...], asked: Asked, encode: Encode) -> Said:
    ready = readied(given, Target.of(asked.target), asked.system, asked.tools, asked.orphans)
    return _said(given, asked, _NOTHING, ready, encode(ready.messages))


def _behind(known: _Known | None, given: tuple[Message, ...], asked: Asked, encode: Encode) -> Said | None:
    """What is known, with what came since behind it; `None` where that cannot simply be put there."""
    if known is None:
        return None
    count = known.place + 1
    before = replace(known.ready, messages=(*known.ready.messages, given[known.place]))
    if count == len(given):
        return Said(before.messages, [*known.items], list(before.report.warnings))
    target = Target.of(asked.target)
    ready = readied(given, target, asked.system, asked.tools, asked.orphans, count=count, before=before)
    new = encode(ready.messages[len(before.messages) :])
    if known.items and new and asked.answers and new[0]["role"] != asked.answers:
        return None
    return _said(given, asked, known, ready, new)


def _said(given: tuple[Message, ...], asked: Asked, known: _Known, ready: Ready, new: list[Any]) -> Said:
    """All items; what is new is kept where what may follow changes nothing of it."""
    items = (Raw(body_of(new)[1:-1]),) if new else ()
    answered = bool(new and asked.answers) and new[-1]["role"] == asked.answers
    if ready.messages and ready.messages[-1] is given[-1] and not answered:
        done = replace(ready, messages=ready.messages[:-1]).since(known.ready)
        begun = done.messages if ready.messages is given else given[known.place : -1]
        piece = _Piece(replace(asked, system=None, tools=()), known.link, begun, done, items)
        others = [other for other in given[-1]._sent if not other.whom.goes_with(asked)]
        given[-1].__dict__["_sent"] = (piece, *others[:1])
    return Said(ready.messages, [*known.items, *items], list(ready.report.warnings))


def _forget(given: tuple[Message, ...], asked: Asked) -> None:
    """Let go of what these messages keep, as they are encoded anew, but for the newest of other targets."""
    spared: Asked | None = None
    for message in reversed(given):
        if message._sent:
            others = [piece for piece in message._sent if not piece.whom.goes_with(asked)]
            spared = spared or (others[0].whom if others else None)
            left = [piece for piece in others if spared is not None and piece.whom.goes_with(spared)]
            message.__dict__["_sent"] = tuple(left)


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether these are the same objects."""
    return len(one) == len(other) and all(map(is_, one, other))
