"""The clock of one run: how long the next read may take before one of its deadlines passes."""

from __future__ import annotations

import threading
import time
from typing import Final

from msgspec.structs import replace

from allm.data.failure import ErrorInfo
from allm.errors import AllmError, raised
from allm.limits import Timeouts

FRAME_SECONDS = 0.05
"""How long the end of the connection's frame is awaited after a complete answer: a new connection costs
more than that."""

_PHASES: Final = ("connect", "response", "stream")


class StopFlag:
    """Whether a run is to stop. Any thread may set it; the one that drives the run may wait for it."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: threading.Event | None = None  # made for the first wait: most runs never wait

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._event is not None:
            self._event.set()

    def wait(self, seconds: float) -> bool:
        """Whether it was set within these seconds."""
        self._event = self._event or threading.Event()
        return self._set or self._event.wait(seconds)


class Pace:
    """Deadlines of the run, of the request being read, and of the silence between two events."""

    __slots__ = ("_connect", "_end", "_request", "_run", "_timeouts", "_waiting", "_which")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._run = _after(time.monotonic(), timeouts.run)
        self._connect: float | None = None
        self._request: float | None = None
        self._end = self._run  # whichever of the two comes first
        self._waiting: float | None = None
        self._which = "first_event"

    def opening(self, timeouts: Timeouts) -> Timeouts:
        """A request is about to be sent; gives its deadlines, none of them after the run's own."""
        run = self.run_remaining()
        now = time.monotonic()
        self._timeouts = timeouts
        self._connect = _after(now, timeouts.connect)
        self._request = _after(now, timeouts.request)
        self._end = least(self._request, self._run)
        self._waiting = _after(now, timeouts.first_event)
        self._which = "first_event"
        return timeouts if run is None else replace(timeouts, request=least(timeouts.request, run))

    def remaining(self, progress: bool) -> float | None:
        """Seconds for the next read; `progress` says that the last one made an event. Raises when over."""
        now = time.monotonic()
        if progress and self._which == "idle":
            self._waiting = _after(now, self._timeouts.idle)
        elif progress:
            self._which = "idle"  # the first read after the headers still waits for the first event
        deadline = least(self._end, self._waiting)
        if deadline is None:
            return None
        if deadline <= now:
            raise self.passed()
        return deadline - now

    def run_remaining(self) -> float | None:
        """Seconds until the run's own deadline; raises when it has passed."""
        if self._run is None:
            return None
        left = self._run - time.monotonic()
        if left <= 0:
            raise self.passed()
        return left

    def named(self, error: AllmError) -> AllmError:
        """A timeout that a transport raised, by the name of the deadline that it kept; all else as it is."""
        phase = error.info.phase
        if error.info.reason != "timeout" or error.info.code is not None or phase not in _PHASES:
            return error
        now = time.monotonic()
        if all(moment > now for moment in self._deadlines(phase).values()):
            return error  # one that the reader of the answer set
        return self.passed(phase)

    def passed(self, phase: str | None = None) -> AllmError:
        """The error for the deadline that has passed first; `phase`: how far the request had come."""
        limits = self._deadlines(phase)
        name = min(limits, key=lambda name: limits[name], default="run")
        text = f"no answer within the deadline Timeouts.{name} ({getattr(self._timeouts, name)} s)"
        phase = phase or ("response" if name == "first_event" else "stream")
        return raised(
            ErrorInfo(reason="timeout", message=text, code=name, retryable=name != "run", phase=phase)
        )

    def _deadlines(self, phase: str | None) -> dict[str, float]:
        """The moments that end a wait, by name of the field of `Timeouts`."""
        own = ("connect", self._connect) if phase == "connect" else (self._which, self._waiting)
        limits = (("run", self._run), ("request", self._request), own)
        return {name: moment for name, moment in limits if moment is not None}


def _after(now: float, seconds: float | None) -> float | None:
    return None if seconds is None else now + seconds


def least(a: float | None, b: float | None) -> float | None:
    """The smaller of two; `None` is no bound."""
    if a is None or b is None:
        return a if b is None else b
    return min(a, b)
