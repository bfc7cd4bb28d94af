"""Results into Markdown: pure functions of the results' JSON.

A page holds blocks between `<!-- table NAME -->` and `<!-- end -->`; `filled` writes each anew and leaves
the text around them alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from benchmarks.figures import FLAT, Results, beside, growth, names, number, ratio, series, times, value
from benchmarks.plan import CALL, CHUNK, DELTA, DIALECT_NAMES, DIALECTS, OURS, REFERENCES, STREAMED
from benchmarks.targets import judged_targets

LABELS: Final = {
    "floor": "*floor*",
    "floor_httpx2": "*floor over httpx2*",
    "ours": "**allm**",
    "ours_fast": "**allm, `fast`**",
    "ours_streamed": "**allm**, streamed",
    "ours_fast_streamed": "**allm, `fast`**, streamed",
    "openai_sdk": "openai SDK",
    "anthropic_sdk": "anthropic SDK",
    "google_genai": "google-genai",
    "pydantic_ai": "pydantic-ai",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def shown(results: Results, row: str, cell: str, metric: str) -> str:
    """A number, or why there is none."""
    numbers = results["results"].get(row, {}).get(cell) or {}
    if "error" in numbers:
        return str(numbers["error"]) if str(numbers["error"]).startswith(">") else "failed"
    return number(value(results, row, cell, metric))


def label(cell: str) -> str:
    """A client, with its dialect where that is not Chat."""
    name, _, proto = cell.partition("/")
    other = f" ({DIALECT_NAMES[proto]})" if proto not in ("", "chat") else ""
    return LABELS.get(name, name) + other


def _by(results: Results, row: str, metric: str) -> list[str]:
    """The cells of a row that have a number, the best first."""
    found = {cell: value(results, row, cell, metric) for cell in results["results"].get(row, {})}
    return sorted([cell for cell in found if found[cell] is not None], key=lambda cell: found[cell] or 0.0)


def _columns(results: Results, columns: Sequence[tuple[str, str, str]]) -> str:
    """A table of (heading, row, metric) columns; the clients in the order of the first."""
    cells = dict.fromkeys(cell for _, row, metric in columns for cell in _by(results, row, metric))
    lines = [
        [label(cell), *[shown(results, row, cell, metric) for _, row, metric in columns]] for cell in cells
    ]
    return table(["", *[heading for heading, _, _ in columns]], lines)


# --- the tables ------------------------------------------------------------------------------------------


def imports(results: Results) -> str:
    return _columns(
        results,
        [
            ("import and construct, CPU ms", "import", "import_cpu_ms"),
            ("modules", "import", "modules"),
            ("memory, MB", "import", "rss_mb"),
            ("installed, MB", "import", "installed_mb"),
            ("distributions", "import", "distributions"),
        ],
    )


def stream(results: Results) -> str:
    """Cost per chunk and the factor over the floor, by dialect."""
    lines = []
    for proto in DIALECTS:
        cells = [cell for cell in _by(results, "stream sync", CHUNK) if cell.endswith(f"/{proto}")]
        for cell in cells:
            costs = []
            for row in ("stream sync", "stream async"):
                cost = value(results, row, cell, CHUNK)
                costs += [number(cost), times(ratio(cost, value(results, row, f"floor/{proto}", CHUNK)))]
            lines.append(
                [DIALECT_NAMES[proto], LABELS.get(cell.partition("/")[0], cell.partition("/")[0]), *costs]
            )
    head = ["dialect", "client", "blocking, µs/chunk", "of the floor", "awaited, µs/chunk", "of the floor"]
    return table(head, lines)


def _crowds(results: Results, delay: int) -> list[tuple[int, str]]:
    rows = [row for row in results["results"] if re.fullmatch(rf"streams \d+, {delay} ms", row)]
    return sorted((int(row.split()[1].rstrip(",")), row) for row in rows)


def streams(results: Results) -> str:
    return _columns(
        results,
        [
            (f"{n:,}, {'10 ms' if delay else 'burst'}", row, CHUNK)
            for delay in (10, 0)
            for n, row in reversed(_crowds(results, delay))
        ],
    )


def first_token(results: Results) -> str:
    columns = [
        (f"{n:,} streams, {heading}", row, metric)
        for n, row in reversed(_crowds(results, 10))
        if n >= 200
        for heading, metric in (
            ("p99", "ttft_p99_ms"),
            ("p50", "ttft_p50_ms"),
            ("all done late, s", "late_s"),
        )
    ]
    return _columns(results, columns)


def memory(results: Results) -> str:
    return _columns(
        results,
        [
            ("of Python, KiB per open stream", "memory traced", "kib_per_stream_traced"),
            ("of the process, KiB per open stream", "memory rss", "kib_per_stream_rss"),
            ("the process, MB", "memory rss", "rss_after_mb"),
        ],
    )


def calls(results: Results) -> str:
    return _columns(
        results,
        [
            ("one after another, µs/call", "calls 1", CALL),
            ("64 at once, µs/call", "calls 64", CALL),
            ("tool loop, µs/turn", "tool loop", "cpu_us_per_turn"),
        ],
    )


def dialect_calls(results: Results) -> str:
    return _columns(results, [("µs/call", "calls dialects", CALL)])


def tool_arguments(results: Results) -> str:
    sizes = (10_000, 100_000, 1_000_000)
    return _columns(
        results, [(f"{size // 1000:,} KB, µs/delta", f"tool arguments {size}", DELTA) for size in sizes]
    )


def stored(results: Results) -> str:
    return _columns(
        results,
        [
            ("dump, µs/message", "stored", "dump_us_per_msg"),
            ("load, µs/message", "stored", "load_us_per_msg"),
            ("bytes/message", "stored", "bytes_per_msg"),
        ],
    )


def history(results: Results) -> str:
    sizes = results["plans"].get("history", ["", {"sizes": []}])[1]["sizes"]
    columns = [(f"{n:,} messages, µs/call", "history", f"cpu_us_at_{n}") for n in sizes]
    return _columns(results, [("µs per message", "history", "cpu_us_per_msg"), *columns])


# --- beside each other -----------------------------------------------------------------------------------

MAIN: Final = (
    ("import", "import", "import_cpu_ms"),
    ("stream, blocking", "stream sync", CHUNK),
    ("stream, awaited", "stream async", CHUNK),
    ("50 streams, burst", "streams 50, 0 ms", CHUNK),
    ("200 streams, burst", "streams 200, 0 ms", CHUNK),
    ("1,000 streams, burst", "streams 1000, 0 ms", CHUNK),
    ("1 stream, 10 ms", "streams 1, 10 ms", CHUNK),
    ("50 streams, 10 ms", "streams 50, 10 ms", CHUNK),
    ("200 streams, 10 ms", "streams 200, 10 ms", CHUNK),
    ("1,000 streams, 10 ms", "streams 1000, 10 ms", CHUNK),
    ("200 streams, first token p99", "streams 200, 10 ms", "ttft_p99_ms"),
    ("1,000 streams, first token p99", "streams 1000, 10 ms", "ttft_p99_ms"),
    ("memory of an open stream", "memory traced", "kib_per_stream_traced"),
    ("call, not streamed", "calls 1", CALL),
    ("call, not streamed, 64 at once", "calls 64", CALL),
    ("call, not streamed", "calls dialects", CALL),
    ("tool arguments, 10 KB", "tool arguments 10000", DELTA),
    ("tool arguments, 100 KB", "tool arguments 100000", DELTA),
    ("tool arguments, 1 MB", "tool arguments 1000000", DELTA),
    ("tool loop", "tool loop", "cpu_us_per_turn"),
    ("dump", "stored", "dump_us_per_msg"),
    ("load", "stored", "load_us_per_msg"),
    ("history, per message", "history", "cpu_us_per_msg"),
)
"""(heading, row, metric) of every scenario: less is better in all."""


def _lines(results: Results, mine: str) -> list[tuple[str, str, str, str, float]]:
    """(heading, row, metric, dialect, our number) of all that `mine` was measured in."""
    return [
        (f"{heading}, {DIALECT_NAMES[proto]}" if proto else heading, row, metric, proto, cost)
        for heading, row, metric in MAIN
        for proto in ("", *DIALECTS)
        if (cost := value(results, row, f"{mine}/{proto}", metric)) is not None
    ]


def ratios(results: Results, mine: str) -> str:
    """Ours, its factor over the references, and each peer's factor over ours."""
    clients = [name for name in names(results) if name not in (*OURS, *STREAMED)]
    lines = []
    for heading, row, metric, proto, cost in _lines(results, mine):
        costs = [(name, beside(results, row, name, proto, metric)) for name in clients]
        lines.append(
            [heading, number(cost)]
            + [times(ratio(cost, of) if name in REFERENCES else ratio(of, cost)) for name, of in costs]
        )
    heads = [
        f"of {LABELS[name]}" if name in REFERENCES else f"{LABELS.get(name, name)} costs" for name in clients
    ]
    return table(["", LABELS[mine], *heads], lines)


def not_leading(results: Results) -> str:
    """Every scenario in which a library of the run does better than ours, or that none does."""
    lines = []
    for mine in OURS:
        for heading, row, metric, proto, cost in _lines(results, mine):
            for name in names(results):
                found = beside(results, row, name, proto, metric)
                if name not in (*REFERENCES, *OURS, *STREAMED) and found is not None and found < cost:
                    ours, theirs = number(cost), number(found)
                    lines.append([heading, LABELS[mine], ours, LABELS.get(name, name), theirs])
    if not lines:
        return "In no scenario of this run did another library need less."
    return table(["scenario", "", "ours", "does better", "its number"], lines)


def growing(results: Results) -> str:
    lines = []
    for heading, cells in series(results).items():
        for cell, points in cells.items():
            rate = growth(points)
            if rate is not None:
                costs = [f"{number(cost / size)} at {size:,}" for size, cost in points]
                verdict = "flat" if rate <= FLAT else "**grows**"
                lines.append([heading, label(cell), ", ".join(costs), times(rate), verdict])
    return table(["units", "client", "CPU µs per unit", "a unit at the large end", ""], lines)


# --- the run ---------------------------------------------------------------------------------------------


def targets(results: Results) -> str:
    head = ["target", "", "limit", "measured", "met"]
    return table(head, [list(line) for line in judged_targets(results)])


def run(results: Results) -> str:
    machine = results["machine"]
    rounds = [
        numbers["rounds"]
        for cells in results["results"].values()
        for numbers in cells.values()
        if numbers and "rounds" in numbers
    ]
    versions = sorted({f"{n} {v}" for found in results["versions"].values() for n, v in found.items()})
    spreads = sorted(
        numbers["spread"]
        for cells in results["results"].values()
        for numbers in cells.values()
        if numbers and "spread" in numbers
    )
    middle = spreads[len(spreads) // 2] if spreads else 0.0
    least, most = min(rounds, default=0), max(rounds, default=0)
    counted = str(least) if least == most else f"{least} to {most}"
    return (
        f"{machine['date']}, Python {machine['python']}, {machine['system']}, {machine['cores']} cores; "
        f"medians of {counted} rounds; between the rounds of a number lay {100 * middle:.0f} % of it "
        f"(median).\n\nVersions: {'; '.join(versions)}."
    )


TABLES: Final[dict[str, Callable[[Results], str]]] = {
    "run": run,
    "targets": targets,
    "ratios": lambda results: ratios(results, "ours"),
    "ratios_fast": lambda results: ratios(results, "ours_fast"),
    "not_leading": not_leading,
    "imports": imports,
    "stream": stream,
    "streams": streams,
    "first_token": first_token,
    "memory": memory,
    "calls": calls,
    "dialect_calls": dialect_calls,
    "tool_arguments": tool_arguments,
    "stored": stored,
    "history": history,
    "growth": growing,
}

_BLOCK: Final = re.compile(r"<!-- table (\w+) -->.*?<!-- end -->", re.DOTALL)


def filled(page: str, results: Results) -> str:
    """The page with its blocks written from `results`. Raises `KeyError` for a block of an unknown name."""
    return _BLOCK.sub(
        lambda block: f"<!-- table {block[1]} -->\n{TABLES[block[1]](results)}\n<!-- end -->", page
    )


def tables(results: Results) -> str:
    """All tables under their names: a page of their own."""
    return "\n\n".join([f"## {name}\n\n{write(results)}" for name, write in TABLES.items()]) + "\n"
