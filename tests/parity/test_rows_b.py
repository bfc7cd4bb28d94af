"""Rows B of the parity table: validation."""

from __future__ import annotations

from typing import Any

import pytest

import allm
from tests.test_loop import DONE, double, fake, requests


def test_f034_three_problems_in_one_error() -> None:
    bad = allm.Request(
        messages=(allm.user("hi"),), tools=(double.spec, double.spec), temperature=2.5, max_tokens=0
    )
    with pytest.raises(allm.ValidationError) as caught:
        allm.validate(bad)
    assert caught.value.errors == (
        ("tools", "duplicate_name"),
        ("temperature", "out_of_range"),
        ("max_tokens", "must_be_positive"),
    )


@pytest.mark.parametrize("verb", ["generate", "step", "chat", "stream_generate", "stream_step", "stream"])
@pytest.mark.parametrize("given", [[], allm.Thread(), allm.Message("critic", "x")])
def test_f040_what_is_invalid_reaches_no_adapter(verb: str, given: Any) -> None:
    engine = fake(DONE)
    with pytest.raises(allm.ValidationError):
        getattr(allm, verb)(engine, given)
    assert requests(engine) == []


@pytest.mark.parametrize("verb", ["generate", "step", "chat", "stream_generate", "stream_step", "stream"])
def test_f034_two_tools_of_one_name_in_a_list(verb: str) -> None:
    """Of an engine, a call, a request, the application; of two levels, the later replaces the earlier."""
    twice = [double, double.spec]
    engine = fake(DONE)
    request = allm.Request(messages=(allm.user("hi"),), tools=(double.spec, double.spec))
    for build in (
        lambda: allm.Engine("fake", tools=twice),
        lambda: engine.put_tools(twice),
        lambda: allm.configure(tools=twice),
        lambda: getattr(allm, verb)(engine, "hi", tools=twice),
        lambda: getattr(allm, verb)(engine, request),
    ):
        with pytest.raises(allm.ValidationError, match="'double'") as caught:
            build()
        assert caught.value.errors == (("tools", "duplicate_name"),)
    assert requests(engine) == []
    getattr(allm, verb)(fake(DONE, tools=[double]), "hi", tools=[double])


def test_f041_the_type_of_a_part_that_is_none_is_named() -> None:
    parts: Any = (allm.TextPart("a"), {"type": "text"})
    with pytest.raises(allm.ValidationError, match="invalid_part_type: dict") as caught:
        allm.generate(fake(DONE), allm.Message("user", parts))
    assert caught.value.errors == (("messages[0].content[1]", "invalid_part_type: dict"),)
