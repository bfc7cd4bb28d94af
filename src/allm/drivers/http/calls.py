"""One exchange: until when it may wait, how far it came, whether it was cancelled."""

from __future__ import annotations

import time
from typing import Any, Protocol

from allm.data.failure import RETRYABLE, ErrorInfo
from allm.errors import AllmError, raised
from allm.limits import Timeouts


def failure(reason: str, message: str, phase: str | None, **more: Any) -> AllmError:
    """The library's error of a reason; retryable as the reason is, unless said."""
    more.setdefault("retryable", reason in RETRYABLE)
    return raised(ErrorInfo(reason=reason, message=message, phase=phase, **more))


def earlier(first: float | None, seconds: float | None) -> float | None:
    """The earlier of a moment and `seconds` from now; None is never."""
    second = None if seconds is None else time.monotonic() + seconds
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


class Interruptible(Protocol):
    def interrupt(self, call: Call) -> None: ...


class Call:
    """One request and its answer. `phase` is connect, response or stream; `received` counts bytes."""

    __slots__ = ("_line", "_timeouts", "_total", "cancelled", "deadline", "phase", "received")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._total = earlier(None, timeouts.request)
        self._line: Interruptible | None = None
        self.deadline: float | None = None
        self.cancelled = False
        self.received = 0
        self.phase = "connect"

    def begin(self, line: Interruptible | None = None) -> None:
        """Start, or start over, on a connection."""
        self._line = line
        self.received = 0
        self.phase = "connect"
        self.deadline = earlier(self._total, self._timeouts.connect)

    def writing(self) -> None:
        self.phase = "response"
        self.deadline = earlier(self._total, self._timeouts.idle)

    def waiting(self) -> None:
        self.deadline = earlier(self._total, self._timeouts.first_event)

    def reading(self, timeout: float | None) -> None:
        self.deadline = earlier(None, timeout)

    def left(self) -> float | None:
        """Seconds until the deadline; DeadlineExceededError after it, CancelledError after `cancel`."""
        if self.cancelled:
            raise self.ended()
        if self.deadline is None:
            return None
        rest = self.deadline - time.monotonic()
        if rest <= 0:
            raise self.expired()
        return rest

    def expired(self) -> AllmError:
        what = {"connect": "no connection", "response": "no answer"}.get(self.phase, "nothing more came")
        return failure("timeout", f"{what} within the time allowed", self.phase)

    def ended(self) -> AllmError:
        return failure("cancelled", "the call was cancelled", self.phase)

    def cancel(self) -> None:
        """End the call from any thread; what waits for it raises CancelledError."""
        self.cancelled = True
        line = self._line
        if line is not None:
            line.interrupt(self)
