"""The targets of the design, each with how it is read from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

from benchmarks.figures import FLAT, Results, beside, growth, names, number, ratio, series, value
from benchmarks.plan import CALL, CHUNK, DELTA, DIALECT_NAMES, DIALECTS, OURS, REFERENCES, SDKS, STREAMED

Found = tuple[float, str]  # a number, and where it was found
Find = Callable[[Results, str], Iterable[Found | None]]

WHO: Final = {"ours": "default", "ours_fast": "`fast`"}
MODES: Final = {"stream sync": "blocking", "stream async": "awaited"}
CROWDS: Final = ("streams 200, 10 ms", "streams 1000, 10 ms")


class Target(NamedTuple):
    """A limit on what `find` gives: of several numbers the worst one counts."""

    what: str
    find: Find
    limit: float
    unit: str = "×"
    at_least: bool = False
    who: tuple[str, ...] = OURS


class Line(NamedTuple):
    """A line of the target table, all text."""

    what: str
    who: str
    limit: str
    measured: str
    met: str


def judged_targets(results: Results) -> Iterator[Line]:
    for target in TARGETS:
        for mine in target.who:
            yield judged(target, mine, results)


def judged(target: Target, mine: str, results: Results) -> Line:
    """The worst of what was found, and by how much the limit is missed."""
    word = "at least" if target.at_least else "at most"
    limit = f"{word} {number(target.limit)}{target.unit}"
    found = [one for one in target.find(results, mine) if one is not None]
    if not found:
        return Line(target.what, WHO[mine], limit, "", "not measured")
    worst, where = (min if target.at_least else max)(found)
    measured = f"{number(worst)}{target.unit}{f' ({where})' if where else ''}"
    short = ratio(target.limit, worst) if target.at_least else ratio(worst, target.limit)
    met = "yes" if short is not None and short <= 1 else f"**no**, by a factor of {number(short)}"
    return Line(target.what, WHO[mine], limit, measured, met)


def _found(number: float | None, where: str = "") -> Found | None:
    return None if number is None else (number, where)


def _stream_over(reference: str, results: Results, mine: str) -> Iterator[Found | None]:
    """The factor over a reference, in every dialect and mode in which both were measured."""
    for row, mode in MODES.items():
        for proto in DIALECTS:
            cost = value(results, row, f"{mine}/{proto}", CHUNK)
            floor = value(results, row, f"{reference}/{proto}", CHUNK)
            yield _found(ratio(cost, floor), f"{DIALECT_NAMES[proto]}, {mode}")


def _peers(results: Results, *, neutral: bool = False) -> list[str]:
    others = [name for name in names(results) if name not in (*OURS, *STREAMED, *REFERENCES)]
    return [name for name in others if not neutral or name in results["neutral"]]


def _stream_beside_peers(proto: str, results: Results, mine: str) -> Iterator[Found | None]:
    """How much more the best library that normalises costs, in one dialect."""
    for row, mode in MODES.items():
        cost = value(results, row, f"{mine}/{proto}", CHUNK)
        for name in _peers(results, neutral=True):
            yield _found(ratio(value(results, row, f"{name}/{proto}", CHUNK), cost), f"{name}, {mode}")


def _crowd_over(reference: str, metric: str, results: Results, mine: str) -> Iterator[Found | None]:
    for row in CROWDS:
        cost, floor = (
            value(results, row, f"{mine}/chat", metric),
            value(results, row, f"{reference}/chat", metric),
        )
        yield _found(ratio(cost, floor), row)


def _crowd_beside_peers(metric: str, results: Results, mine: str) -> Iterator[Found | None]:
    for row in CROWDS:
        cost = value(results, row, f"{mine}/chat", metric)
        for name in _peers(results):
            of = beside(results, row, name, "chat", metric)
            yield _found(ratio(cost, of), f"{name}, {row}")


def _call_of_best_sdk(results: Results, mine: str) -> Iterator[Found | None]:
    for row in ("calls 1", "calls 64"):
        found = [beside(results, row, name, "chat", CALL) for name in SDKS]
        best = min((cost for cost in found if cost is not None), default=None)
        yield _found(ratio(value(results, row, f"{mine}/chat", CALL), best), row)


def _open_stream(results: Results, mine: str) -> Iterator[Found | None]:
    """Counted over a transport that plays its answers: the same whatever the transport."""
    for face in ("stream", "async stream"):
        held = results["counts"].get("memory", {}).get(f"bytes of an open {face}")
        yield _found(None if held is None else held / 1024, face)


def _cell(row: str, metrics: tuple[str, ...], results: Results, mine: str) -> Iterator[Found | None]:
    """Numbers of our cells of a row, in every dialect that they were measured in."""
    for metric in metrics:
        for proto in ("", *DIALECTS):
            named = DIALECT_NAMES.get(proto, "") if len(metrics) == 1 else metric.partition("_")[0]
            yield _found(value(results, row, f"{mine}/{proto}", metric), named)


def _growth(results: Results, mine: str) -> Iterator[Found | None]:
    for heading, cells in series(results).items():
        for cell, points in cells.items():
            if cell.partition("/")[0] == mine:
                yield _found(growth(points), heading)


TARGETS: Final = (
    Target("one stream, per chunk, of the floor", partial(_stream_over, "floor"), 2.0, who=("ours_fast",)),
    Target(
        "one stream, per chunk, of the floor on httpx2",
        partial(_stream_over, "floor_httpx2"),
        1.35,
        who=("ours",),
    ),
    *[
        Target(
            f"best library that normalises, {DIALECT_NAMES[proto]}, of ours",
            partial(_stream_beside_peers, proto),
            limit,
            at_least=True,
            who=(who,),
        )
        for who, proto, limit in (
            ("ours_fast", "chat", 25.0),
            ("ours_fast", "anth", 7.0),
            ("ours", "chat", 8.0),
            ("ours", "anth", 2.0),
        )
    ],
    Target(
        "200 and 1,000 streams, 10 ms, of the floor",
        partial(_crowd_over, "floor", CHUNK),
        1.5,
        who=("ours_fast",),
    ),
    Target(
        "their first token, p99, of the floor",
        partial(_crowd_over, "floor", "ttft_p99_ms"),
        2.0,
        who=("ours_fast",),
    ),
    Target(
        "200 and 1,000 streams, 10 ms, of the best peer",
        partial(_crowd_beside_peers, CHUNK),
        1.0,
        who=("ours",),
    ),
    Target(
        "their first token, p99, of the best peer",
        partial(_crowd_beside_peers, "ttft_p99_ms"),
        1.0,
        who=("ours",),
    ),
    Target(
        "a call that is not streamed, of the best official SDK", _call_of_best_sdk, 0.25, who=("ours_fast",)
    ),
    Target("a call that is not streamed, of the best official SDK", _call_of_best_sdk, 0.5, who=("ours",)),
    Target("memory of an open stream over the transport's own", _open_stream, 8.0, " KiB"),
    Target("import and construction", partial(_cell, "import", ("import_cpu_ms",)), 45.0, " ms"),
    Target("the same", partial(_cell, "import", ("modules",)), 90.0, " modules"),
    Target("a call with a history, per message", partial(_cell, "history", ("cpu_us_per_msg",)), 1.0, " µs"),
    Target("tool arguments, 1 MB", partial(_cell, "tool arguments 1000000", (DELTA,)), 4.0, " µs/delta"),
    Target("a tool turn", partial(_cell, "tool loop", ("cpu_us_per_turn",)), 200.0, " µs"),
    Target(
        "dump and load, per message",
        partial(_cell, "stored", ("dump_us_per_msg", "load_us_per_msg")),
        0.6,
        " µs",
    ),
    Target("growth: a unit at the large end", _growth, FLAT),
    Target("a socket closed after cancel", partial(_cell, "closing", ("slowest_ms",)), 5.0, " ms"),
)
