"""Rows N of the parity table: the fake."""

from __future__ import annotations

import pytest

import allm
from allm.loops.effects import Sleep
from allm.providers.fake import FakeAdapter
from tests.test_loop import Script


def test_f221_script_or_scripts_but_not_both() -> None:
    script = [{"text": "Hello"}]
    assert allm.generate(allm.Engine("fake", adapter_options={"script": script}), "hi").text == "Hello"
    engine = allm.Engine("fake", adapter_options={"scripts": [script, [{"text": "again"}]]})
    assert [allm.generate(engine, "hi").text for _ in range(2)] == ["Hello", "again"]
    for wrong in ({"script": script, "scripts": [script]}, {"script": [{"txt": "x"}]}):
        with pytest.raises(allm.ConfigurationError):
            allm.generate(allm.Engine("fake", adapter_options=wrong), "hi")


def test_f223_each_engine_has_its_own_place_in_equal_scripts() -> None:
    options = {"scripts": [[{"text": "one"}], [{"text": "two"}]]}
    first, second = (allm.Engine("fake", adapter_options=options) for _ in range(2))
    assert allm.generate(first, "hi").text == "one"
    assert allm.generate(second, "hi").text == "one"
    assert allm.generate(first.put_param("seed", 1), "hi").text == "two"


def test_f224_entries_for_waits_errors_and_usage() -> None:
    script: Script = [
        {"delay": 2},
        {"usage": {"input_tokens": 3}},
        {"text": "x"},
        {"error": "overloaded"},
        {"text": "y"},
    ]
    played = list(FakeAdapter([script]).play(allm.Request(), None))  # type: ignore[arg-type]
    assert [item.seconds for item in played if isinstance(item, Sleep)] == [2.0]
    assert [item.usage.input_tokens for item in played if isinstance(item, allm.UsageReported)] == [3]
    assert isinstance(played[-1], allm.StreamFailed)
    assert played[-1].error.reason == "overloaded"
