"""Prove that an adapter keeps the ports' promises.

In pytest, each case a test:

>>> import pytest
>>> from allm.testing import conformance
>>> subject = conformance.Subject(make=MyAdapter, samples={...})  # doctest: +SKIP
>>> @pytest.mark.parametrize("case", conformance.cases(subject), ids=str)  # doctest: +SKIP
... def test_conformance(case):
...     case.run()

By hand: `print(conformance.check(subject))`. An adapter for images is an `ImageSubject`, one for embeddings
an `EmbeddingSubject`, a tool executor an `ExecutorSubject`, an encoder of tool results an `EncoderSubject`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from allm.testing import adapter_cases, media_cases, tool_cases, wire_cases
from allm.testing.media_cases import EmbeddingSubject, ImageSubject, MediaSubject
from allm.testing.subjects import SAMPLES, STATUSES, Case, Sample, Subject
from allm.testing.tool_cases import EncoderSubject, ExecutorSubject

__all__ = [
    "SAMPLES",
    "STATUSES",
    "Case",
    "EmbeddingSubject",
    "EncoderSubject",
    "ExecutorSubject",
    "ImageSubject",
    "Report",
    "Sample",
    "Subject",
    "cases",
    "check",
]


class Report(Struct, frozen=True):
    """What a run proved: names of the cases that passed, and why the others did not."""

    passed: tuple[str, ...]
    failed: dict[str, str]

    @property
    def ok(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} passed, {len(self.failed)} failed"]
        return "\n".join([*lines, *(f"  {text}" for text in self.failed.values())])


def cases(subject: Subject | Any) -> list[Case]:
    """The cases for a subject. A bare adapter is a chat subject without samples: its wire cases say what is
    missing."""
    if isinstance(subject, ExecutorSubject | EncoderSubject):
        return list(tool_cases.cases(subject))
    known = subject if isinstance(subject, Subject) else Subject(make=lambda: subject)
    wire = hasattr(known.make(), "encode")
    shared = wire_cases if wire else adapter_cases
    if isinstance(known, MediaSubject):
        return [*shared.cases(known), *media_cases.cases(known, wire)]
    return [*shared.cases(known), *(wire_cases.chat_cases(known) if wire else ())]


def check(subject: Subject | Any) -> Report:
    """Run all cases; nothing is raised for one that fails."""
    passed, failed = [], {}
    for case in cases(subject):
        try:
            case.run()
        except AssertionError as error:
            failed[case.name] = str(error)
        else:
            passed.append(case.name)
    return Report(tuple(passed), failed)
