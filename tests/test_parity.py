"""`docs/parity.md` is whole: every row once, each with a state, and every test it names exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"
SECTIONS = {  # the first row of each
    "A. Data and serialisation": 1, "B. Validation": 33, "C. Engine, options, keys, capability": 42,
    "D. Generate and streams": 62, "E. Steps, chat loop, tools": 84, "F. Structured output": 127,
    "G. Sessions": 139, "H. Errors, retry, telemetry": 156, "I. OpenAI": 169, "J. Anthropic": 182,
    "K. Gemini": 190, "L. Images": 201, "M. Later capabilities": 211,
    "N. Fakes, conformance, examples": 221, "O. Alloy": 229,
}  # fmt: skip
ROW = re.compile(r"\| (?P<name>\w+) \| (?P<what>[^|]+) \| (?P<state>\w+) \| (?P<text>[^|]+) \|")
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


class Row(NamedTuple):
    section: str
    name: str
    what: str
    state: str
    text: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        return TEST.findall(self.text)

    @property
    def words(self) -> str:
        """The text without the tests that it names."""
        return re.sub(r"[`,() ]*tests/[\w/]+\.py::\w+[`,() ]*", " ", self.text).strip()


def read() -> list[Row]:
    rows, section = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith(("| F", "| T")):
            found = ROW.fullmatch(line)
            assert found is not None, f"not a row of four cells: {line}"
            rows.append(Row(section, **found.groupdict()))
    return rows


ROWS = read()


@cache
def functions(path: str) -> frozenset[str]:
    """The tests in a file, read without running it."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_row_is_here_once_and_in_its_section() -> None:
    starts = sorted(SECTIONS.values())
    ends = [*starts[1:], 249]
    expected = [
        (section, f"F{number:03}")
        for section, (start, end) in zip(SECTIONS, zip(starts, ends, strict=True), strict=True)
        for number in range(start, end)
    ]
    expected += [("Traps", f"T{number:02}") for number in range(1, 68)]
    assert [(row.section, row.name) for row in ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_what_its_state_asks_for(row: Row) -> None:
    match row.state:
        case "yes":
            assert row.tests
            assert not row.words, "a row that holds names its tests and nothing else"
        case "differs":
            assert row.tests, "what we do instead is tested"
            assert len(row.words) > 20, "why, and what we do instead"
        case "open":
            assert row.words, "what is missing"
        case _:
            pytest.fail(f"no state: {row.state}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_tests_that_a_row_names_exist(row: Row) -> None:
    for path, name in row.tests:
        assert (ROOT / path).is_file(), path
        assert name in functions(path), f"{path} has no test {name}"


def test_the_tests_of_rows_are_named_by_their_rows() -> None:
    named = {(path, name, row.name.lower()) for row in ROWS for path, name in row.tests}
    for file in (ROOT / "tests" / "parity").glob("test_*.py"):
        path = file.relative_to(ROOT).as_posix()
        for name in functions(path):
            for row in re.findall(r"(?<=_)(f\d{3}|t\d{2})(?=_)", name):
                assert (path, name, row) in named, f"{row.upper()} does not name {path}::{name}"


def test_the_page_counts_right(capsys: pytest.CaptureFixture[str]) -> None:
    counted = Counter((row.name[0], row.state) for row in ROWS)
    said = " ".join(PAGE.read_text().split())
    for kind, what in (("F", "rows"), ("T", "traps")):
        yes, differs, still_open = (counted[kind, state] for state in ("yes", "differs", "open"))
        shown = f"the {what} {yes} are `yes`, {differs} `differs`, {still_open} `open`"
        with capsys.disabled():
            print(f"\nparity: of {shown}", end="")
        assert shown in said
    assert sum(counted.values()) == 248 + 67


def test_what_the_first_release_is_held_to_is_not_open() -> None:
    """Sections A to H and Alloy's, and the traps."""
    held = tuple(f"{letter}." for letter in "ABCDEFGHO")
    left = [row.name for row in ROWS if row.state == "open" and row.section.startswith((*held, "Traps"))]
    assert left == []
