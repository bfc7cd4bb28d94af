"""What preparing did to a thread, and what of it is a loss."""

from __future__ import annotations

from typing import Final

from allm.data import Data


class Change(Data, frozen=True):
    """One thing that `prepare` did. `path` points into the messages that were given.

    `action` is `dropped`, `reduced`, `answered`, `moved`, `rewritten` or `added`; `what` names the part
    (`reasoning`, `opaque`, `signature`, `call_id` ...), `reason` is a word. A rewritten call id stands for
    the id of its result too.
    """

    path: str
    action: str
    what: str
    reason: str


class Report(Data, frozen=True):
    """What `prepare` did: calls and results first, then part by part in the order of the thread."""

    changes: tuple[Change, ...] = ()

    @property
    def lossless(self) -> bool:
        """Whether the target is told all that the thread says."""
        return not any(map(_loses, self.changes))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was lost, a line for each kind, with its count."""
        counts: dict[tuple[str, str, str], int] = {}
        for change in filter(_loses, self.changes):
            kind = (change.action, change.what, change.reason)
            counts[kind] = counts.get(kind, 0) + 1
        return tuple([_warning(*kind, count) for kind, count in counts.items()])


_HARMLESS: Final = frozenset({"handle", "item_id", "placeholder"})
_NAMES: Final = {
    "reasoning": "reasoning part",
    "opaque": "item of the provider's own",
    "provider_data": "part's provider data",
    "signature": "signature",
    "result": "tool result",
    "call": "tool call",
    "audio": "audio part",
    "file": "file",
}
_ACTIONS: Final = {"reduced": "turned into text", "answered": "answered with an error"}
_REASONS: Final = {
    "foreign_origin": "made by another provider, endpoint or model",
    "no_origin": "it is not known which provider made it",
    "prefix_changed": "the conversation before it was changed",
    "unsigned": "it carries no signature",
    "orphan_call": "it has no result",
    "orphan_result": "its call is not in the thread",
    "repeated_result": "its call was answered before",
}


def _loses(change: Change) -> bool:
    return change.action in ("dropped", "reduced", "answered") and change.what not in _HARMLESS


def _warning(action: str, what: str, reason: str, count: int) -> str:
    return f"{_ACTIONS.get(action, action)}: {count} x {_NAMES[what]} ({_REASONS[reason]})"
