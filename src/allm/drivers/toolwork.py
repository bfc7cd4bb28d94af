"""Handlers on daemon threads: context carried in, late results dropped, abandoned ones counted."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

from allm.data.content import ToolCall
from allm.data.failure import ErrorInfo
from allm.errors import ToolError
from allm.loops.effects import ToolDone
from allm.tools import timed_out

MAX_ABANDONED = 32


class _Abandoned:
    """Threads nobody waits for any more but that still run, over the whole process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.alive: set[threading.Thread] = set()

    def add(self, thread: threading.Thread) -> None:
        with self.lock:
            self.alive.add(thread)

    def count(self) -> int:
        with self.lock:
            self.alive = {thread for thread in self.alive if thread.is_alive()}
            return len(self.alive)


abandoned = _Abandoned()


def start_thread(position: int, work: Callable[[], Any], put: Callable[[ToolDone], None]) -> threading.Thread:
    """Run `work` on a daemon thread with the caller's context variables; `put` gets what came of it."""
    if abandoned.count() > MAX_ABANDONED:
        raise ToolError(
            ErrorInfo(
                reason="tool_failed",
                code="too_many_abandoned",
                message=f"more than {MAX_ABANDONED} timed-out handlers are still running; give them timeouts of their own",
                phase="tool",
            )
        )
    context = contextvars.copy_context()

    def main() -> None:
        began = time.monotonic()
        value, error = None, None
        try:
            value = context.run(work)
        except BaseException as caught:  # a handler that exits ends its call, not the process
            error = caught
        put(ToolDone(position, value, error, time.monotonic() - began))

    thread = threading.Thread(target=main, daemon=True, name=f"allm-tool-{position}")
    thread.start()
    return thread


def too_late(call: ToolCall, seconds: float) -> ToolError:
    """What a call ends with when its timeout passes first."""
    return ToolError(timed_out(call.name, call, seconds))
