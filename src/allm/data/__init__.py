"""Layer A: frozen structs, plain data. Nothing here touches a file, a socket, the clock or a key."""

from __future__ import annotations

from msgspec import Struct


class Data(Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True, forbid_unknown_fields=True):
    """Frozen, compared by value; defaults are neither written nor shown. What a newer version wrote
    into a struct that has `extra` is kept there by the codec and written back."""
