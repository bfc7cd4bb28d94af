"""Helpers for tests of programs that use `allm`: a scripted model, and readers of event lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from allm.data.content import ToolCall
from allm.data.events import Event, TextDelta, ToolCallCompleted
from allm.providers.fake import FakeAdapter

__all__ = ["FakeAdapter", "collect", "fake", "text", "tool_calls"]


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
