"""How a wait on an event loop is ended from outside, and whose cancelling it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import allm
from allm.drivers.kits import current_kit
from allm.testing.played import Played
from tests.faces import FACES, Face


class Opening:
    """Work of a task that waits for ever, and what interrupts it."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.interrupt: Callable[[], None] = lambda: None

    def hold(self, interrupt: Callable[[], None]) -> None:
        self.interrupt = interrupt

    async def forever(self) -> None:
        self.waits.set()
        await asyncio.get_running_loop().create_future()

    async def outcome(self) -> tuple[Any, int]:
        """What the interruptible wait gives, and how often the task is cancelled then."""
        task: Any = asyncio.current_task()
        try:
            given = await current_kit().interruptible(self.forever, self.hold)
        except asyncio.CancelledError:
            given = "cancelled"
        return given, task.cancelling()


@pytest.mark.parametrize(
    ("by_interrupt", "by_task", "expected"),
    [(1, 0, (None, 0)), (2, 0, (None, 0)), (0, 1, ("cancelled", 1)), (1, 1, ("cancelled", 1))],
)
def test_an_interrupt_is_told_from_a_cancelled_task(
    by_interrupt: int, by_task: int, expected: tuple[Any, int]
) -> None:
    async def main() -> tuple[Any, int]:
        opening = Opening()
        task = asyncio.create_task(opening.outcome())
        await opening.waits.wait()
        for _ in range(by_interrupt):
            opening.interrupt()
        for _ in range(by_task):
            task.cancel()
        return await task

    assert asyncio.run(main()) == expected


@pytest.mark.parametrize("face", FACES[1:], indirect=True, ids=["asyncio", "trio"])
def test_cancel_while_the_key_is_asked_for_opens_nothing(face: Face) -> None:
    opened: list[Any] = []

    def answer(request: Any) -> Any:
        opened.append(request)

    async def key(provider: str, origin: str) -> str:
        stream.cancel()
        await current_kit().sleep(0)  # until the loop has seen it
        return "k"

    engine = allm.Engine("openai:gpt-6-luna", transport=Played(answer))
    stream = face.make("stream", engine, "Hi", api_key=key)
    with pytest.raises(allm.CancelledError):
        face.result(stream)
    assert opened == []
