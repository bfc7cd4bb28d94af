"""Handlers that the processes of `test_processes.py` import."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec

import allm

FOREVER = 3600.0  # seconds; a process that sleeps so long is killed


class Point(msgspec.Struct):
    x: int


class Stubborn:
    """It leaves the process as a pickle that nobody can read."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not here")


@allm.tool(isolation="process")
def moved(point: Point, ctx: allm.ToolContext) -> list[Any]:
    """Move it."""
    return [os.getpid(), point.x, ctx.context, ctx.engine, ctx.idempotency_key]


@allm.tool(isolation="process")
async def awaited(n: int) -> int:
    """Awaited there."""
    await asyncio.sleep(0)
    return n


@allm.tool(isolation="process")
def answer(kind: str) -> Any:
    """What may come of a call."""
    print("printed")
    match kind:
        case "ask":
            return allm.AskUser("Which?", ["x"])
        case "halt":
            return allm.Halt("enough", 1)
        case "raise":
            raise ZeroDivisionError("by zero")
        case "exit":
            raise SystemExit(3)
        case "die":
            os._exit(7)
        case "unpicklable":
            return lambda: None
        case "unreadable":
            return Stubborn()
    return kind * 300_000


def stuck(arguments: dict[str, Any]) -> None:
    """Say which process this is, then never end."""
    path = Path(arguments["path"])
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(FOREVER)
