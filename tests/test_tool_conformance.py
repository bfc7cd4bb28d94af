"""Conformance of tool executors and encoders: good ones pass, and broken ones fail in the right case."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm.testing import conformance
from allm.testing.conformance import Case, EncoderSubject, ExecutorSubject
from allm.tools import encode_result, invocation


class Plain:
    """What runs without an executor, as one."""

    def execute(self, tool: Any, call: Any, context: Any) -> Any:
        return invocation(tool, call, context)()


class Awaited:
    async def execute(self, tool: Any, call: Any, context: Any) -> Any:
        value = invocation(tool, call, context)()
        return await value if tool.is_async else value


class Encoder:
    def encode(self, value: Any) -> Any:
        return encode_result(value)


class Shouting:
    """All as JSON, in capitals."""

    def encode(self, value: Any) -> str:
        return json.dumps(str(value)).upper()


GOOD = {
    "plain": ExecutorSubject(make=Plain),
    "awaited": ExecutorSubject(make=Awaited),
    "encoder": EncoderSubject(make=Encoder, values=({1, 2}, allm.Usage())),
    "shouting": EncoderSubject(make=Shouting),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{name}-{case}")
        for name, subject in GOOD.items()
        for case in conformance.cases(subject)
    ],
)
def test_f227_executors_and_encoders(case: Case) -> None:
    case.run()


def executor(change: Callable[[Any, Any, Any], Any]) -> ExecutorSubject:
    class Broken:
        def execute(self, tool: Any, call: Any, context: Any) -> Any:
            return change(tool, call, context)

    return ExecutorSubject(make=Broken)


def ran(tool: Any, call: Any, context: Any) -> Any:
    return invocation(tool, call, context)()


def swallowing(tool: Any, call: Any, context: Any) -> Any:
    try:
        return ran(tool, call, context)
    except Exception as error:
        return str(error)


def mixing_up(tool: Any, call: Any, context: Any) -> Any:
    """Of several calls it runs the first each time."""
    first = {"value": 0} if isinstance(call.arguments.get("value"), int) else call.arguments
    return ran(tool, replace(call, arguments=first), context)


def without_context(tool: Any, call: Any, context: Any) -> Any:
    return ran(tool, call, allm.ToolContext(call=call))


def wrapped(tool: Any, call: Any, context: Any) -> Any:
    value = ran(tool, call, context)
    return value if tool.is_async else {"ok": value}


COMING_THROUGH = ("value", "text", "nothing", "parts", "context", "arguments", "ask_user", "halt", "no_json")


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (wrapped, {*COMING_THROUGH, "parallel"}),
        (swallowing, {"raises", "no_handler", "policy"}),
        (without_context, {"context"}),
        (mixing_up, {"parallel"}),
    ],
)
def test_a_broken_executor_fails_in_the_right_case(change: Any, fails: set[str]) -> None:
    report = conformance.check(executor(change))
    assert {name.partition(".")[0] for name in report.failed} == fails, report


class Changing(Encoder):
    def encode(self, value: Any) -> Any:
        if isinstance(value, list):
            value.append(1)
        return super().encode(value)


class Counting(Encoder):
    count = 0

    def encode(self, value: Any) -> Any:
        Counting.count += 1
        return f"{Counting.count}"


class Objects(Encoder):
    def encode(self, value: Any) -> Any:
        return value


class Later:
    async def encode(self, value: Any) -> Any:
        return "x"


@pytest.mark.parametrize(
    ("make", "fails"),
    [
        (Changing, {"pure.list", "pure.parts", "content.parts"}),
        (Objects, {"content.nothing", "content.number", "content.flag", "content.map", "content.surrogate"}),
        (Later, {"encode"}),
        (object, {"encode"}),
    ],
)
def test_a_broken_encoder_fails_in_the_right_case(make: Any, fails: set[str]) -> None:
    report = conformance.check(EncoderSubject(make=make))
    assert fails <= set(report.failed), report


def test_an_encoder_that_changes_values_spoils_no_other_proof() -> None:
    assert conformance.check(EncoderSubject(make=Changing)).failed
    assert conformance.check(EncoderSubject(make=Encoder)).failed == {}


def test_an_encoder_that_counts_is_not_pure() -> None:
    assert "pure.map" in conformance.check(EncoderSubject(make=Counting)).failed


def test_what_has_no_method_says_so() -> None:
    assert "no method execute" in conformance.check(ExecutorSubject(make=object)).failed["execute"]
