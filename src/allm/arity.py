"""How many values a function of the user's can be called with. Loaded where one is given."""

from __future__ import annotations

from inspect import signature
from typing import Any, Final
from weakref import WeakKeyDictionary

_KNOWN: Final[WeakKeyDictionary[Any, dict[int, bool]]] = WeakKeyDictionary()


def takes(function: Any, count: int) -> bool:
    """Whether `function` can be called with `count` values; builtins that do not say are believed.

    Signatures are read once for each function: that costs as much as a good part of a call.
    """
    plain = getattr(function, "__func__", function)
    if plain is not function:  # a bound method is another object each time
        count += 1
    try:
        known = _KNOWN.setdefault(plain, {})
    except TypeError:  # not hashable, or an object of `__slots__`
        return _binds(plain, count)
    if count not in known:
        known[count] = _binds(plain, count)
    return known[count]


def _binds(function: Any, count: int) -> bool:
    try:
        signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # some builtins have no signature
        pass
    return True
