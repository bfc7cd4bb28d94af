"""Helpers for tests of programs that use `allm`: a scripted model (`fake`) and scripted services on this
machine (`scripted`), readers of event lists, recordings of real exchanges (`record`, `replay`, `recorded`),
and proofs for adapters (`conformance`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from allm.data.content import ToolCall
from allm.data.events import Event, TextDelta, ToolCallCompleted
from allm.providers.fake import FakeAdapter

if TYPE_CHECKING:
    import allm.testing.conformance as conformance
    from allm.testing.recording import record as record
    from allm.testing.recording import recorded as recorded
    from allm.testing.recording import replay as replay
    from allm.testing.servers import scripted as scripted

__all__ = [
    "FakeAdapter",
    "collect",
    "conformance",
    "fake",
    "record",
    "recorded",
    "replay",
    "scripted",
    "text",
    "tool_calls",
]
_HOMES: Final = {
    **dict.fromkeys(("record", "recorded", "replay"), "allm.testing.recording"),
    "scripted": "allm.testing.servers",
}


def __getattr__(name: str) -> Any:
    """What only some tests use is loaded when it is first asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "conformance":
        return import_module("allm.testing.conformance")
    raise AttributeError(f"module 'allm.testing' has no attribute {name!r}")


@contextmanager
def fake(*scripts: list[dict[str, Any]]) -> Iterator[FakeAdapter]:
    """A strict scripted model: `with fake([{"text": "Hi"}]) as model: Engine(adapter=model)`.

    `model.requests` holds what was asked. Leaving the block raises `ConfigurationError` for scripts that
    were not played, unless the block raised itself.
    """
    adapter = FakeAdapter(list(scripts))
    yield adapter
    adapter.assert_exhausted()


def collect(stream: Iterable[Event]) -> list[Event]:
    """All events of a stream. Raises what the run raises."""
    return list(stream)


def text(events: Iterable[Event]) -> str:
    """The visible text of the deltas among `events`."""
    return "".join([event.text for event in events if type(event) is TextDelta])


def tool_calls(events: Iterable[Event]) -> list[ToolCall]:
    """The completed tool calls among `events`, in order."""
    return [event.call for event in events if type(event) is ToolCallCompleted]
