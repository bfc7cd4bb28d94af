"""Deadlines say which field of `Timeouts` they are, whoever notices that they have passed."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

import allm
from allm.drivers import pace
from allm.drivers.http.calls import failure
from allm.drivers.pace import Pace
from allm.testing import scripted
from tests.faces import PATIENCE, WAYS, Way

LONG = allm.Timeouts(connect=90.0, first_event=90.0, idle=90.0, request=90.0)


def late(timeouts: allm.Timeouts, phase: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a transport's timeout in `phase` is called `seconds` after the request was sent."""
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(pace, "time", clock)
    kept = Pace(timeouts)
    kept.opening(timeouts)
    if phase == "stream":
        kept.remaining(False)
        kept.remaining(True)
        kept.remaining(True)
    clock.monotonic = lambda: seconds
    return kept.named(failure("timeout", "too late", phase)).info


@pytest.mark.parametrize(
    ("field", "phase"),
    [
        ("connect", "connect"), ("request", "connect"), ("run", "connect"),
        ("first_event", "response"), ("request", "response"), ("run", "response"),
        ("idle", "stream"), ("request", "stream"), ("run", "stream"),
    ],
)  # fmt: skip
def test_a_timeout_has_its_name(field: str, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = allm.Timeouts(**{**{name: getattr(LONG, name) for name in LONG.__struct_fields__}, field: 5.0})
    info = late(timeouts, phase, 5.0, monkeypatch)
    assert info.message == f"no answer within the deadline Timeouts.{field} (5.0 s)"
    assert (info.code, info.phase, info.retryable) == (field, phase, field != "run")


def test_a_timeout_before_any_deadline_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert late(LONG, "response", 3.0, monkeypatch).message == "too late"


def test_what_is_no_timeout_of_a_transport_stays_as_it_is() -> None:
    kept = Pace(LONG)
    for error in (failure("cancelled", "x", "stream"), failure("timeout", "x", "tool"), kept.passed()):
        assert kept.named(error) is error


@pytest.mark.parametrize("field", ["first_event", "request", "run"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_server_that_does_not_answer(way: Way, field: str) -> None:
    over = threading.Event()

    def never(request: Any) -> list[Any]:
        over.wait(PATIENCE)
        return [{"text": "late"}]

    with scripted(never) as server:
        engine = server.engine("openai:m", transport=way.transport, retry=False)
        with pytest.raises(allm.DeadlineExceededError, match=rf"Timeouts\.{field} \(0\.05 s\)") as caught:
            way.face.generate(engine, "Hi", timeouts=allm.Timeouts(**{field: 0.05}))
        over.set()
    assert caught.value.info.code == field
    assert caught.value is not caught.value.__cause__
