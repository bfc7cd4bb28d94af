"""Cost against size, as PNG and SVG: run by the benchmark's own environment, which has matplotlib.

python -m benchmarks.plots RESULTS.json FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib

from benchmarks.figures import Points, Results, history, series, value
from benchmarks.plan import CHUNK, OURS, REFERENCES
from benchmarks.report import label

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLE: Final = {
    "figure.figsize": (7.5, 4.5),
    "figure.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "svg.hashsalt": "allm",
}
_COLOURS: Final = {
    "ours": "#c1272d",
    "ours_fast": "#f0772b",
    "floor": "#222222",
    "floor_httpx2": "#888888",
    "openai_sdk": "#1f77b4",
    "anthropic_sdk": "#2ca02c",
    "google_genai": "#9467bd",
    "pydantic_ai": "#8c564b",
    "mirascope": "#17becf",
    "litellm": "#bcbd22",
}
_MARKERS: Final = {"chat": "o", "resp": "D", "anth": "s", "gem": "^"}


def plot(path: Path, title: str, size: str, cost: str, cells: dict[str, Points]) -> None:
    """One figure: a line for each cell, both axes logarithmic; colours are clients, markers dialects."""
    figure, axes = plt.subplots()
    for cell, points in sorted(cells.items(), key=lambda named: -named[1][-1][1]):
        name, _, proto = cell.partition("/")
        axes.plot(
            [n for n, _ in points],
            [costs for _, costs in points],
            color=_COLOURS.get(name),
            label=label(cell).replace("`", "").replace("*", ""),
            linewidth=2.4 if name in OURS else 1.3,
            linestyle="--" if name in REFERENCES else "-",
            marker=_MARKERS[proto],
            markersize=4.5,
        )
    axes.set(title=title, xlabel=size, ylabel=cost, xscale="log", yscale="log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda n, _: f"{n:,g}"))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        figure.savefig(path.with_suffix(f".{kind}"), bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def _per_unit(cells: dict[str, Points]) -> dict[str, Points]:
    return {cell: [(n, total / n) for n, total in points] for cell, points in cells.items()}


def _crowds(results: Results, delay: int) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for n in (1, 50, 200, 1000):
        row = f"streams {n}, {delay} ms"
        for cell in results["results"].get(row, {}):
            cost = value(results, row, cell, CHUNK)
            if cost is not None:
                found.setdefault(cell, []).append((n, cost))
    return found


def draw(results: Results, folder: Path) -> None:
    grown: dict[str, Any] = series(results)
    events = "one-character events, awaited"
    figures = (
        (
            "events",
            "A stream of one-character events",
            "events",
            "CPU µs per event",
            _per_unit(grown[events]),
        ),
        (
            "tool_arguments",
            "Tool arguments in 4-character deltas",
            "deltas",
            "CPU µs per delta",
            _per_unit(grown["4-character deltas of tool arguments"]),
        ),
        (
            "history",
            "One call that sends a conversation",
            "messages",
            "CPU µs per call",
            history(results, "history"),
        ),
        (
            "turns",
            "One call in a thread, a turn being two messages",
            "messages",
            "CPU µs per call",
            grown["messages of a thread"],
        ),
        (
            "streams",
            "Streams at once, 10 ms between chunks",
            "streams",
            "CPU µs per chunk",
            _crowds(results, 10),
        ),
        ("streams_burst", "Streams at once, burst", "streams", "CPU µs per chunk", _crowds(results, 0)),
    )
    with plt.rc_context(STYLE):
        for name, title, size, cost, cells in figures:
            if cells:
                plot(folder / name, title, size, cost, cells)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
