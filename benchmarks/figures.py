"""Reading the results' JSON: numbers, ratios, growth. All pure.

`results["results"][row]["client/dialect"]` holds the medians of a cell, or `{"error": text}`, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.plan import CHUNK, DELTA, OURS, REFERENCES, STREAMED

Results = dict[str, Any]


def number(value: float | None) -> str:
    """Three digits that matter, more where the number is larger."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def times(value: float | None) -> str:
    return "" if value is None else f"{number(value)}×"


def value(results: Results, row: str, cell: str, metric: str) -> float | None:
    """A number of a cell, None where there is none."""
    numbers = results["results"].get(row, {}).get(cell) or {}
    found = numbers.get(metric)
    return float(found) if isinstance(found, int | float) else None


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def names(results: Results) -> list[str]:
    """All clients of the run, references and ours first."""
    seen = dict.fromkeys(cell.partition("/")[0] for cells in results["results"].values() for cell in cells)
    return sorted(seen, key=lambda name: name not in (*REFERENCES, *OURS, *STREAMED))


def beside(results: Results, row: str, name: str, proto: str, metric: str) -> float | None:
    """A peer's number in the same dialect; else in the only one that it speaks, where the row is not about
    dialects."""
    found = value(results, row, f"{name}/{proto}", metric)
    if found is not None or row in ("stream sync", "stream async", "calls dialects") or "tool arg" in row:
        return found
    others = [cell for cell in results["results"].get(row, {}) if cell.startswith(f"{name}/")]
    return value(results, row, others[0], metric) if others else None


# --- growth ----------------------------------------------------------------------------------------------

FLAT: Final = 1.2

Points = list[tuple[int, float]]  # (size, CPU µs in all)


def growth(points: Points) -> float | None:
    """How much more a unit costs at the large end than before: the cost of each unit between the last two
    sizes, over that between the first and the last but one. What comes once is in neither. None with
    fewer than three sizes, or where the small sizes drown in noise."""
    if len(points) < 3:
        return None
    (first, low), (before, middle), (last, high) = points[0], points[-2], points[-1]
    small, large = (middle - low) / (before - first), (high - middle) / (last - before)
    return large / small if small > 0 else None


def series(results: Results) -> dict[str, dict[str, Points]]:
    """The growth scenarios: heading -> cell -> points."""
    found: dict[str, dict[str, Points]] = {}
    for mode, word in (("sync", "blocking"), ("async", "awaited")):
        sizes = [(n, f"characters {n} {mode}") for n in (1000, 10_000, 100_000)]
        found[f"one-character events, {word}"] = _totals(results, sizes, CHUNK)
    deltas = [(n // 4, f"tool arguments {n}") for n in (10_000, 100_000, 1_000_000)]
    found["4-character deltas of tool arguments"] = _totals(results, deltas, DELTA)
    found["messages of a thread"] = history(results, "turns")
    return found


def history(results: Results, row: str) -> dict[str, Points]:
    """The cost of a call by the messages that it sends, of a row of that kind."""
    sizes = results["plans"].get(row, ["", {"sizes": []}])[1]["sizes"]
    cells = results["results"].get(row, {})
    return _known({cell: [(n, value(results, row, cell, f"cpu_us_at_{n}")) for n in sizes] for cell in cells})


def _totals(results: Results, sizes: Sequence[tuple[int, str]], metric: str) -> dict[str, Points]:
    cells = dict.fromkeys(cell for _, row in sizes for cell in results["results"].get(row, {}))
    costs = {cell: [(n, value(results, row, cell, metric)) for n, row in sizes] for cell in cells}
    return {cell: [(n, n * cost) for n, cost in points] for cell, points in _known(costs).items()}


def _known(cells: dict[str, list[tuple[int, float | None]]]) -> dict[str, Points]:
    """The points that have a number, of the cells that have any."""
    known = {cell: [(n, cost) for n, cost in points if cost is not None] for cell, points in cells.items()}
    return {cell: points for cell, points in known.items() if points}
