"""Fixtures that all tests may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import allm
from allm import engine, keys
from tests.faces import FACES, Face, no_threads_left


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """Each face in turn; what the test started must have ended with it."""
    chosen: Face = request.param
    with no_threads_left():
        yield chosen
        allm.close()
    chosen.last = None


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No application defaults, no keys on any level."""
    monkeypatch.setattr(keys, "_levels", keys._Levels())
    for name in ("OPENAI", "FAKE", "ANTHROPIC", "GEMINI", "GOOGLE", "VOYAGE"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)


@pytest.fixture(autouse=True)
def application() -> Iterator[None]:
    """What a test configures is forgotten after it."""
    before = dict(engine.application)
    yield
    engine.application.clear()
    engine.application.update(before)
