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
