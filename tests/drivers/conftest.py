"""A transport for tests alone: `core` stands on httpcore2's connections where no proxy asks for them, too."""

from __future__ import annotations

import pytest

from allm.drivers import http
from allm.drivers.http.awaited import AsyncCoreLine, AsyncDial
from allm.drivers.http.blocking import CoreLine, Dial


@pytest.fixture(autouse=True)
def _core(monkeypatch: pytest.MonkeyPatch) -> None:
    blocking, awaited = http._dial, http._async_dial

    def dial(kind: str) -> Dial:
        return CoreLine if kind == "core" else blocking(kind)

    def async_dial(kind: str) -> AsyncDial:
        return AsyncCoreLine if kind == "core" else awaited(kind)

    monkeypatch.setattr(http, "_dial", dial)
    monkeypatch.setattr(http, "_async_dial", async_dial)
