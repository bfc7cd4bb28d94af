"""The measuring: rounds over the rows of the plan, kept after each number so that a run can go on later."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.harness import ROOT, Harness, source_digest
from benchmarks.plan import OURS, REFERENCES, STREAMED, Row

Rounds = list[dict[str, Any] | None]

_WARM: Final = {"warm": "text-20-4", "warm_tool": "tool-300-4"}


class State:
    """Every number so far: `cells[row]["client/dialect"]` is a list of rounds.

    Numbers of a row whose plan has changed are dropped; those of ours and of the references also where
    the library has changed, because ratios are of one run and of one build.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        stored = json.loads(path.read_text()) if path.exists() else {}
        self.cells: dict[str, dict[str, Rounds]] = stored.get("cells", {})
        self.plans: dict[str, Any] = stored.get("plans", {})
        self.source = source
        if stored.get("source") != source:
            for cells in self.cells.values():
                for cell in [c for c in cells if c.partition("/")[0] in (*OURS, *STREAMED, *REFERENCES)]:
                    del cells[cell]

    def open(self, row: Row) -> None:
        """The numbers of `row` are those of its plan as it is now."""
        plan = [row.spec, dict(row.options), dict(row.server)]
        if self.plans.get(row.name) != plan:
            self.plans[row.name], self.cells[row.name] = plan, {}

    def rounds(self, row: str, cell: str) -> Rounds:
        return self.cells.setdefault(row, {}).setdefault(cell, [])

    def add(self, row: str, cell: str, numbers: dict[str, Any] | None) -> None:
        self.rounds(row, cell).append(numbers)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({"source": self.source, "plans": self.plans, "cells": self.cells}))
        draft.replace(self.path)


def run(
    harness: Harness,
    state: State,
    plan: Sequence[Row],
    names: Sequence[str],
    rounds: int,
    wanted: tuple[str, ...] = ("",),
) -> None:
    """Measure what is missing of `plan` for the clients `names`, up to `rounds` rounds of each; imports and
    closing, which need no server, where `wanted` has the start of their names."""
    clients = {name: harness.clients[name] for name in names}
    if "import".startswith(wanted):
        importing = [(name, "") for name in names if name not in STREAMED]
        _turns(state, "import", importing, rounds, lambda name, _: harness.imports(name))
    if "closing".startswith(wanted):
        ours = [(name, "") for name in names if name in OURS]
        _turns(state, "closing", ours, rounds, lambda name, _: harness.closing(name))
    specs = sorted({row.spec for row in plan} | set(_WARM.values()))
    with harness.server(specs) as server:
        warm = {name: server.url(spec) for name, spec in _WARM.items()}
        for row in plan:
            base = {"main": server.url(row.spec, **row.server), **warm}
            measured = partial(harness.measure, row, base)
            state.open(row)
            _turns(state, row.name, row.cells(clients), rounds, measured)


def _turns(
    state: State,
    row: str,
    cells: Iterable[tuple[str, str]],
    rounds: int,
    measure: Callable[[str, str], Any],
) -> None:
    """Clients take turns inside a round; who cannot, or failed, is asked once."""
    cells, began = list(cells), time.monotonic()
    for number in range(rounds):
        for name, proto in cells:
            cell = f"{name}/{proto}"
            done = state.rounds(row, cell)
            if len(done) <= number and (not done or is_number(done[0])):
                state.add(row, cell, measure(name, proto))
    print(f"{row}: {time.monotonic() - began:.0f} s", flush=True)


def is_number(numbers: dict[str, Any] | None) -> bool:
    return numbers is not None and "error" not in numbers


def merged(rounds: Rounds) -> dict[str, Any] | None:
    """The medians of the rounds that gave numbers, how many these were, and for each number how far apart
    they were: `spread` is (largest - smallest) / median of the first number."""
    good = [numbers for numbers in rounds if numbers is not None and "error" not in numbers]
    if not good:
        return rounds[0] if rounds else None
    names = [name for name, value in good[0].items() if isinstance(value, int | float)]
    middle = {name: _short(median(numbers[name] for numbers in good)) for name in names}
    first = [numbers[names[0]] for numbers in good]
    spread = (max(first) - min(first)) / middle[names[0]] if middle[names[0]] else 0.0
    return {**middle, "rounds": len(good), "spread": round(spread, 2)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def results(harness: Harness, state: State, quick: bool) -> dict[str, Any]:
    """All that the report needs, as JSON: medians by row and cell, versions, and the machine."""
    names = dict.fromkeys(cell.partition("/")[0] for cells in state.cells.values() for cell in cells)
    kept = {
        row: {cell: merged(rounds) for cell, rounds in cells.items() if rounds}
        for row, cells in state.cells.items()
    }
    for name in names:
        cell = kept.get("import", {}).get(f"{name}/")
        if cell is not None:
            cell |= {key: _short(value) for key, value in harness.installed(name).items()}
    recorded = json.loads((ROOT / "benchmarks" / "counts.json").read_text())["counts"]
    return {
        "results": kept,
        "plans": state.plans,
        "counts": recorded[max(recorded)],
        "neutral": [name for name in names if harness.clients[name]["NEUTRAL"]],
        "versions": {name: harness.versions(name) for name in names},
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "date": time.strftime("%Y-%m-%d"),
            "quick": quick,
            "source": source_digest(),
        },
    }
