"""An answer in JSON while it arrives: a push parser, and views of what it has so far.

`JsonParser` looks at each character once and builds in place. `shown()` gives a snapshot that costs the
depth of the place being written, not the size of the answer: it refers to what is there and remembers how
much of it there was. Strings are joined when they are looked at. What is shown only grows: a field stays,
a list gets longer, a string goes on. Nothing here raises for what a model writes; the finished answer is
judged by `Response.parse`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Self

import msgspec

from allm.data.events import Event, MessageStarted, TextDelta
from allm.errors import AllmError
from allm.schemas import convert
from allm.shapes import Shape, shape_of

MISSING: Final[Any] = object()

_MAX_DEPTH: Final = 100
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_RUN: Final = re.compile(r'[^"\\]+')  # of a string, up to its end or an escape
_SCALAR: Final = re.compile(r"[-+.0-9A-Za-z]*")
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES: Final = {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip
_FENCE: Final = "```"
_LOST: Final = "\ufffd"  # in place of half a surrogate pair


# What the parser builds. A child is a node, or a str, number, boolean or None that is complete.


class _Object:
    """Position and child by key. A key that comes again is kept under its position, a number, unseen."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[str | int, tuple[int, Any]] = {}

    def __len__(self) -> int:
        return len(self.entries)


class _Array:
    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[Any] = []

    def __len__(self) -> int:
        return len(self.items)


class _Text:
    """A string that is being written."""

    __slots__ = ("length", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.length = 0


class _Cut:
    """A node as it was: its first `count` children or pieces. `last` is the last child as it was, where
    that was being written too."""

    __slots__ = ("count", "last", "node")

    def __init__(self, node: Any, count: int, last: _Cut | None = None) -> None:
        self.node = node
        self.count = count
        self.last = last

    def child(self, position: int, child: Any) -> Any:
        return self.last if self.last is not None and position == self.count - 1 else child


class JsonParser:
    """JSON in pieces, cut anywhere. What follows the value, or its first mistake, is passed over.

    Words before a fenced block are passed over too, as `Response.parse` does.
    """

    __slots__ = ("_changes", "_held", "_high", "_key", "_root", "_stack", "_state", "_text")

    def __init__(self) -> None:
        self._stack: list[_Object | _Array] = []
        self._root: Any = MISSING
        self._state: _State = JsonParser._start
        self._text: _Text | None = None  # the string being written; a key where `_key` is None
        self._key: str | None = ""
        self._held: list[str] = []  # pieces of a token that may go on
        self._high = 0  # first half of a surrogate pair
        self._changes = 0

    def feed(self, text: str) -> bool:
        """Take the next piece; true where there is more to show."""
        before, at = self._changes, 0
        while at < len(text):
            at = self._state(self, text, at)
        return self._changes != before

    def shown(self) -> Any:
        """What there is, as a snapshot: `MISSING`, a complete scalar, or what `view` makes readable."""
        cut: _Cut | None = None
        if self._text is not None and self._key is not None:
            cut = _Cut(self._text, len(self._text.pieces))
        for node in reversed(self._stack):
            cut = _Cut(node, len(node), cut)
        return self._root if cut is None else cut

    # States: each takes what it can of `text` from `at` on, and says how far it came.

    def _start(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at < len(text):
            self._state = JsonParser._value if text[at] in '{["' else JsonParser._prose
        return at

    def _prose(self, text: str, at: int) -> int:
        """Words before the fence, which itself may come in pieces."""
        seen = "".join(self._held) + text[at:]
        found = seen.find(_FENCE)
        if found < 0:
            self._held = [seen[-2:]]
            return len(text)
        self._held = []
        self._state = JsonParser._fence_line
        return len(text) - (len(seen) - found - len(_FENCE))

    def _fence_line(self, text: str, at: int) -> int:
        end = text.find("\n", at)
        if end < 0:
            return len(text)
        self._state = JsonParser._value
        return end + 1

    def _value(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        mark = text[at]
        if mark == '"':
            self._text = _Text()
            self._put(self._text)
            self._state = JsonParser._string
            return at + 1
        if mark in "{[" and len(self._stack) < _MAX_DEPTH:
            node = _Object() if mark == "{" else _Array()
            self._put(node)
            self._stack.append(node)
            self._state = JsonParser._first_key if mark == "{" else JsonParser._first_item
            return at + 1
        if mark in "-0123456789tfn":
            self._state = JsonParser._scalar
            return at
        return self._end(text)

    def _put(self, child: Any) -> None:
        self._changes += 1
        if not self._stack:
            self._root = child
        elif isinstance(top := self._stack[-1], _Array):
            top.items.append(child)
        else:
            key, place = self._key or "", len(top.entries)
            top.entries[place if key in top.entries else key] = (place, child)

    def _settle(self, text: str) -> None:
        """The string that was being written is complete."""
        if not self._stack:
            self._root = text
        elif isinstance(top := self._stack[-1], _Array):
            top.items[-1] = text
        else:
            place = len(top.entries) - 1
            top.entries[place if place in top.entries else self._key or ""] = (place, text)

    def _first_item(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at < len(text):
            self._state = JsonParser._after if text[at] == "]" else JsonParser._value
        return at

    def _first_key(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at < len(text):
            self._state = JsonParser._after if text[at] == "}" else JsonParser._next_key
        return at

    def _next_key(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        if text[at] != '"':
            return self._end(text)
        self._text, self._key = _Text(), None
        self._state = JsonParser._string
        return at + 1

    def _colon(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        if text[at] != ":":
            return self._end(text)
        self._state = JsonParser._value
        return at + 1

    def _after(self, text: str, at: int) -> int:
        """Behind a value, or at the end of an empty container."""
        if not self._stack:
            return self._end(text)
        at = _after_space(text, at)
        if at == len(text):
            return at
        is_array = isinstance(self._stack[-1], _Array)
        if text[at] == ("]" if is_array else "}"):
            self._stack.pop()
            self._state = JsonParser._after
        elif text[at] == ",":
            self._state = JsonParser._value if is_array else JsonParser._next_key
        else:
            return self._end(text)
        return at + 1

    def _scalar(self, text: str, at: int) -> int:
        """A number or a word: shown when its end is seen, for 12 may be the beginning of 123."""
        end = _end_of(_SCALAR, text, at)
        self._held.append(text[at:end])
        if end < len(text):
            try:
                value = msgspec.json.decode("".join(self._held))
            except msgspec.MsgspecError:
                return self._end(text)
            self._held = []
            self._put(value)
            self._state = JsonParser._after
        return end

    def _string(self, text: str, at: int) -> int:
        end = _end_of(_RUN, text, at)
        if end > at:
            self._write(text[at:end])
        if end == len(text):
            return end
        if text[end] == "\\":
            self._state = JsonParser._escape
        else:
            self._close()
        return end + 1

    def _write(self, piece: str) -> None:
        node = self._open()
        if self._high:
            self._high = 0
            piece = _LOST + piece
        node.pieces.append(piece)
        node.length += len(piece)
        self._changes += self._key is not None

    def _open(self) -> _Text:
        assert self._text is not None  # the states of strings come after a quotation mark only
        return self._text

    def _close(self) -> None:
        if self._high:
            self._write("")
        whole, self._text = "".join(self._open().pieces), None
        if self._key is None:
            self._key = whole
            self._state = JsonParser._colon
        else:
            self._settle(whole)
            self._changes += 1  # a value that is shown when complete may be due
            self._state = JsonParser._after

    def _escape(self, text: str, at: int) -> int:
        mark = text[at]
        if mark == "u":
            self._state = JsonParser._unit
        elif mark in _ESCAPES:
            self._write(_ESCAPES[mark])
            self._state = JsonParser._string
        else:
            return self._end(text)
        return at + 1

    def _unit(self, text: str, at: int) -> int:
        """The four digits behind `\\u`."""
        held = "".join(self._held)
        end = at + 4 - len(held)
        held += text[at:end]
        if len(held) < 4:
            self._held = [held]
            return len(text)
        self._held = []
        if not _HEX.fullmatch(held):
            return self._end(text)
        self._take(int(held, 16))
        self._state = JsonParser._string
        return end

    def _take(self, unit: int) -> None:
        """A UTF-16 code unit; two of them can be one character."""
        if self._high and 0xDC00 <= unit < 0xE000:
            high, self._high = self._high, 0
            self._write(chr(0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00)))
        elif 0xD800 <= unit < 0xDC00:
            if self._high:
                self._write("")
            self._high = unit
        else:
            self._write(_LOST if 0xDC00 <= unit < 0xE000 else chr(unit))

    def _end(self, text: str) -> int:
        """The value is whole, or broken: nothing more is taken."""
        self._state = JsonParser._over
        return len(text)

    def _over(self, text: str, at: int) -> int:
        return len(text)


_State = Callable[[JsonParser, str, int], int]


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _after_space(text: str, at: int) -> int:
    return _end_of(_SPACE, text, at)


# What the consumer sees


class _View:
    """A snapshot; it does not change, so it is its own copy."""

    __slots__ = ("_cut", "_shape")

    def __init__(self, cut: _Cut, shape: Shape) -> None:
        self._cut = cut
        self._shape = shape

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class PartialObject(_View):
    """A Struct, dataclass or model so far: its fields as attributes, `None` while they have not come.

    Of a union the fields of all members, until a tag or a `Literal` that is complete says which it is.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name not in (self._shape.fields or {}):
            raise AttributeError(f"{self._shape.name} has no field {name!r}")
        found = self._found(name)
        return None if found is MISSING else found

    def _found(self, name: str) -> Any:
        places = (self._shape.fields or {}).get(name, {})
        come = (_entry(self._cut, key, hint) for key, hint in places.items())
        return next((value for value in come if value is not MISSING), MISSING)

    def __contains__(self, name: str) -> bool:
        """Whether this field has come."""
        return self._found(name) is not MISSING

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PartialObject):
            return NotImplemented
        return self._shape.fields == other._shape.fields and _come(self) == _come(other)

    def __repr__(self) -> str:
        return (
            f"{self._shape.name}({', '.join([f'{name}={value!r}' for name, value in _come(self).items()])})"
        )


class PartialMapping(_View, Mapping[str, Any]):
    """A dict or TypedDict so far: the keys that have come."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        found = _entry(self._cut, key, self._shape.keys.get(key, self._shape.values))
        if found is MISSING:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return (key for key in _keys(self._cut) if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


class PartialList(_View, Sequence[Any]):
    """A list, set or tuple so far: the items that have come; the last may still grow."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._item(at) for at in range(*index.indices(len(self)))]
        return self._item(range(len(self))[index])

    def _item(self, at: int) -> Any:
        cut, places = self._cut, self._shape.places
        hint = places[at] if at < len(places) else self._shape.items
        return _readable(cut.child(at, cut.node.items[at]), hint)

    def __len__(self) -> int:
        count = self._cut.count
        return count - 1 if count and self._item(count - 1) is MISSING else count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | PartialList):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return repr(list(self))


def _keys(cut: _Cut) -> list[str]:
    return [key for key in islice(cut.node.entries, cut.count) if isinstance(key, str)]


def _child(cut: _Cut, key: str) -> Any:
    found = cut.node.entries.get(key)
    return MISSING if found is None or found[0] >= cut.count else cut.child(*found)


def _entry(cut: _Cut, key: str, hint: Any) -> Any:
    child = _child(cut, key)
    return MISSING if child is MISSING else _readable(child, hint)


def _come(value: PartialObject) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value._shape.fields or {} if name in value}


def _readable(child: Any, hint: Any) -> Any:
    """A child as the consumer sees it; `MISSING` where it is shown only when it is complete."""
    shape = shape_of(hint)
    cut = _Cut(child, len(child)) if isinstance(child, _Object | _Array) else child
    if not isinstance(cut, _Cut):
        return _leaf(cut, shape)
    if isinstance(cut.node, _Text):
        return "".join(cut.node.pieces[: cut.count]) if shape.text else MISSING
    if isinstance(cut.node, _Array):
        return PartialList(cut, shape)
    shape = _member(cut, shape)
    return PartialMapping(cut, shape) if shape.fields is None else PartialObject(cut, shape)


def _member(cut: _Cut, shape: Shape) -> Shape:
    """The member of a union that the object is, as its tags say; the union while more than one is left."""
    left = [
        member
        for member in shape.members
        if all(_may_hold(_child(cut, key), values) for key, values in member.tags.items())
    ]
    return left[0] if len(left) == 1 else shape


def _may_hold(child: Any, values: tuple[Any, ...]) -> bool:
    return child is MISSING or isinstance(child, _Cut) or child in values


def _leaf(value: Any, shape: Shape) -> Any:
    if shape.leaf is None or shape.text:
        return value
    try:
        return convert(value, shape.leaf)
    except AllmError:
        return value  # the finished answer will say what is wrong with it


def plain(value: Any) -> Any:
    """A partial value as JSON builtins, copied: what of it has come, under the names it has in JSON."""
    cut = getattr(value, "_cut", value)
    if isinstance(cut, _Object | _Array):
        cut = _Cut(cut, len(cut))
    if not isinstance(cut, _Cut):
        return cut
    node = cut.node
    if isinstance(node, _Text):
        return "".join(node.pieces[: cut.count])
    if isinstance(node, _Array):
        return [plain(cut.child(at, item)) for at, item in enumerate(node.items[: cut.count])]
    return {key: plain(cut.child(*node.entries[key])) for key in _keys(cut)}


class PartialAnswer:
    """The answer of a run as `type`, while its events come. A model turn that begins begins it anew.

    `root` is the property that the value was asked for in; `waiting` passes over the turns before the second
    pass of a run that has two.
    """

    __slots__ = ("_due", "_parser", "_root", "_type", "_waiting")

    def __init__(self, type: Any, root: str | None = None, waiting: bool = False) -> None:
        self._type = type
        self._root = root
        self._waiting = waiting
        self._begin()

    def _begin(self) -> None:
        self._parser = JsonParser()
        self._due = 0

    def take(self, event: Event) -> Any:
        """The value after this event, where it has grown; else `MISSING`."""
        if isinstance(event, TextDelta):
            return MISSING if self._waiting else self.feed(event.text)
        if isinstance(event, MessageStarted):
            self._begin()
            self._waiting = self._waiting and event.halted is None
        return MISSING

    def feed(self, text: str) -> Any:
        if not self._parser.feed(text):
            return MISSING
        shown = self._parser.shown()
        if self._root is not None and isinstance(shown, _Cut) and isinstance(shown.node, _Object):
            shown = _child(shown, self._root)
        if shown is MISSING or not self._is_due(shown):
            return MISSING
        return _readable(shown, self._type)

    def _is_due(self, shown: Any) -> bool:
        """A view joins no string before it is asked to; an answer that is itself one string has no view,
        and is joined each time it has grown by an eighth."""
        if not isinstance(shown, _Cut) or not isinstance(shown.node, _Text):
            return True
        length = shown.node.length
        if length < self._due:
            return False
        self._due = length + length // 8 + 1
        return True
