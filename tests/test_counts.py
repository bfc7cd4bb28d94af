"""Counts of work stay at their recorded baselines: how the library is kept fast without a clock.

What is counted and how it is recorded anew: `benchmarks/counts.py`.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import counts

STORED = counts.recorded()
RECORDED: dict[str, Any] = STORED["counts"].get(counts.minor(), {})
WATCHED: dict[str, float] = STORED["instructions"].get(counts.build(), {})
OTHER: dict[str, Any] = STORED["counts"][max(STORED["counts"])]
NAMES = [(kind, name) for kind, named in (RECORDED or OTHER).items() for name in named]


@pytest.fixture(scope="module")
def measured() -> counts.Counts:
    return counts.in_fresh_process()


def check(said: counts.Judged, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails what is worse, and tells what is better."""
    if said.better:
        with capsys.disabled():
            print(f"\n{said.better}", end="")
    assert not said.worse, said.worse


@pytest.mark.parametrize(("kind", "name"), NAMES, ids=[f"{kind}: {name}" for kind, name in NAMES])
def test_a_count_stays_at_its_baseline(
    kind: str, name: str, measured: counts.Counts, capsys: pytest.CaptureFixture[str]
) -> None:
    if not RECORDED and kind != "calls":
        pytest.skip(f"{kind} differ by the version of Python, and none are recorded for {counts.minor()}")
    baseline = (RECORDED or OTHER)[kind][name]
    margin = counts.MARGINS[kind] if RECORDED else counts.OTHER_VERSION
    check(counts.judged(f"{kind}, {name}", measured[kind][name], baseline, margin), capsys)


def test_everything_that_is_counted_has_a_baseline(measured: counts.Counts) -> None:
    assert set(NAMES) == {(kind, name) for kind, named in measured.items() for name in named}


@pytest.mark.skipif(not counts.has_valgrind(), reason="valgrind is not installed")
@pytest.mark.skipif(not WATCHED, reason=f"no instructions are recorded for {counts.build()}")
def test_instructions_stay_at_their_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    found = counts.instructions()
    assert set(found) == set(WATCHED)
    said = [
        counts.judged(f"instructions, {name}", count, WATCHED[name], counts.MARGINS["instructions"])
        for name, count in found.items()
    ]
    for one in said:
        check(counts.Judged(better=one.better), capsys)
    assert not [one.worse for one in said if one.worse]


@pytest.mark.parametrize(
    ("found", "worse", "better"),
    [
        (100.0, False, False),
        (101.0, False, False),
        (101.2, True, False),
        (91.0, False, False),
        (89.0, False, True),
        (0.0, False, True),
    ],
)
def test_a_count_is_judged_by_its_margin(found: float, worse: bool, better: bool) -> None:
    said = counts.judged("calls", found, 100.0, counts.Margin(0.01, 0.1))
    assert (bool(said.worse), bool(said.better)) == (worse, better)


def test_a_verdict_names_both_numbers_and_the_next_step() -> None:
    worse = counts.judged("calls, dump", 12.0, 9.0, counts.Margin(0.01, 0.1)).worse
    assert worse == "calls, dump: 12.00, recorded 9.00, allowed 9.19"
    assert "--record" in counts.judged("calls, dump", 3.0, 9.0, counts.Margin(0.01)).better


def closure(requirements: list[str], extra: str = "") -> set[str]:
    """The distributions that these requirements bring, by the metadata of what is installed here."""
    found: set[str] = set()
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found |= {name}.union(*[closure(requires(name) or [], e) for e in ("", *requirement.extras)])
    return found


def test_installing_brings_fewer_than_ten_distributions() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    needed = closure(project["dependencies"])
    assert {"msgspec", "httpx2", "httpcore2"} <= needed
    assert len({project["name"], *needed}) < 10, sorted(needed)


def test_the_closure_follows_extras_and_markers() -> None:
    assert closure(["coverage; python_version < '3'"]) == set()
    assert closure(["httpx2"]) < closure(["httpx2", "pytest-xdist"])
    assert "colorama" not in closure(["pytest; sys_platform != 'win32'"])
