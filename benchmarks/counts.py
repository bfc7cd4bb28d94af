"""Counts of work that do not depend on how busy the machine is, with recorded baselines.

    python -m benchmarks.counts             # what is measured, beside what is recorded
    python -m benchmarks.counts --record    # make it the baseline of this Python

Function calls (Python and built in) per unit of a workload; memory blocks and bytes that an open stream and
an event of it hold; modules that are loaded; where valgrind is installed, instructions per unit. A count
per unit is the difference between two sizes, so that what comes once is not in it. The transport plays its
answers, so none of its work and memory is counted.

Baselines stand in `counts.json`: calls, memory and modules by the minor version of Python, instructions by
the very build, because another compiler makes other instructions.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import allm
from allm.ports import HttpHead
from allm.testing.played import Answer
from benchmarks import wire
from benchmarks.workloads import WORKLOADS, Run, engine

HERE: Final = Path(__file__).parent
BASELINES: Final = HERE / "counts.json"

Counts = dict[str, dict[str, float]]  # kind of count -> what was counted -> count per unit

_HELD_SIZE: Final = 50
_IMPORTS: Final = {
    "import": "import allm",
    "a stream that is built": (
        "import allm; allm.stream(allm.Engine('openai:gpt-6-luna'), 'x', api_key='k')"
    ),
}
_WATCHED: Final = (*(f"decode {name}" for name in wire.DIALECTS), "stream chat", "call")


class Margin(NamedTuple):
    """How far above its baseline a count may be: a share of it, and an amount."""

    share: float
    amount: float = 0.0

    def ceiling(self, baseline: float) -> float:
        return baseline * (1 + self.share) + self.amount


MARGINS: Final = {
    "calls": Margin(0.01, 0.1),
    "memory": Margin(0.03, 2.0),
    "modules": Margin(0.0),
    "instructions": Margin(0.03, 20.0),
}
OTHER_VERSION: Final = Margin(0.25, 2.0)  # of calls, where only another Python was recorded
WELL_BELOW: Final = 0.9


class Judged(NamedTuple):
    """What a count is worth: `worse` and `better` are sentences, empty where there is nothing to say."""

    worse: str = ""
    better: str = ""


def judged(what: str, measured: float, baseline: float, margin: Margin) -> Judged:
    """A count beside its baseline: worse above the margin, better where it is time to record anew."""
    said = f"{what}: {measured:,.2f}, recorded {baseline:,.2f}"
    if measured > margin.ceiling(baseline):
        return Judged(worse=f"{said}, allowed {margin.ceiling(baseline):,.2f}")
    if measured < WELL_BELOW * baseline:
        return Judged(better=f"{said}: record it with `python -m benchmarks.counts --record`")
    return Judged()


def minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def build() -> str:
    """The interpreter and the one compiled dependency, as far as they decide about instructions."""
    python = f"Python {platform.python_version()}, {platform.python_compiler()}, {platform.machine()}"
    return f"{python}, msgspec {version('msgspec')}"


def measured() -> Counts:
    """All counts but the instructions, in this process: it should be a fresh one."""
    calls = {name: _per_unit(partial(_calls, load.make), load.size) for name, load in WORKLOADS.items()}
    memory = _held("blocks", _blocks)
    tracemalloc.start()
    memory |= _held("bytes", _bytes)
    tracemalloc.stop()
    modules: dict[str, float] = {name: _modules(code) for name, code in _IMPORTS.items()}
    return {"calls": calls, "memory": memory, "modules": modules}


def in_fresh_process() -> Counts:
    """`measured()` of an interpreter of its own, with a fixed seed for hashes."""
    command = [sys.executable, "-m", "benchmarks.counts", "--json"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=_environment(), cwd=HERE.parent
    )
    counts: Counts = json.loads(done.stdout)
    return counts


def instructions() -> dict[str, float]:
    """Instructions per unit of some workloads. Needs valgrind, a few seconds for each."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = pool.map(lambda name: [_instructions(name, times) for times in (1, 3)], _WATCHED)
        return {
            name: round((three - one) / 2 / WORKLOADS[name].size)
            for name, (one, three) in zip(_WATCHED, counted, strict=True)
        }


def has_valgrind() -> bool:
    return shutil.which("valgrind") is not None


# --- counting --------------------------------------------------------------------------------------------


def _per_unit(count: Callable[[int], float], size: int) -> float:
    """What one unit more costs, after a first run that loads what is loaded late."""
    count(size)
    small, large = count(size), count(2 * size)
    return round((large - small) / size, 2)


def _calls(make: Callable[[int], Run], n: int) -> int:
    run, calls = make(n), 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def _bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _engine(events: int) -> allm.Engine:
    """An engine whose answers hold `events` events, one a read."""
    body = tuple(wire.text_stream("chat", wire.words(events)))
    answer = Answer(HttpHead(200, {"content-type": "text/event-stream"}), body)
    return engine("chat", lambda _: answer)


def _open_streams(gauge: Callable[[], int], n: int) -> int:
    """By how much a gauge rises with `n` streams that are open, each after some events."""
    made = _engine(20)
    with ExitStack() as held:
        before = gauge()
        for _ in range(n):
            stream = held.enter_context(allm.stream(made, "Hi.", api_key="k"))
            for _ in range(10):
                next(stream)
        return gauge() - before


def _open_async_streams(gauge: Callable[[], int], n: int) -> int:
    async def work() -> int:
        made = _engine(20)
        async with AsyncExitStack() as held:
            before = gauge()
            for _ in range(n):
                stream = await held.enter_async_context(allm.aio.stream(made, "Hi.", api_key="k"))
                for _ in range(10):
                    await anext(stream)
            return gauge() - before

    return asyncio.run(work())


def _read_events(gauge: Callable[[], int], n: int) -> int:
    """By how much a gauge rises while `n` events of a stream are read and dropped."""
    with allm.stream(_engine(n + 2), "Hi.", api_key="k") as events:
        next(events)
        before = gauge()
        for _ in range(n):
            next(events)
        return gauge() - before


_HELD: Final = {
    "an open stream": _open_streams,
    "an open async stream": _open_async_streams,
    "an event that was read": _read_events,
}


def _held(unit: str, gauge: Callable[[], int]) -> dict[str, float]:
    return {f"{unit} of {name}": _per_unit(partial(rise, gauge), _HELD_SIZE) for name, rise in _HELD.items()}


def _modules(code: str) -> int:
    program = f"import sys; before = set(sys.modules); {code}; print(len(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=_environment()
    )
    return int(done.stdout)


def _instructions(name: str, times: int) -> int:
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={os.devnull}"]
    work = [sys.executable, "-m", "benchmarks.workloads", name, str(WORKLOADS[name].size), str(times)]
    done = subprocess.run(
        [*valgrind, *work], check=True, capture_output=True, text=True, env=_environment(), cwd=HERE.parent
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind counted nothing: {done.stderr[-300:]}")
    return int(found[1].replace(",", ""))


def _environment() -> dict[str, str]:
    """Without what a coverage run puts there, and with hashes that are the same each time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return {**kept, "PYTHONHASHSEED": "0"}


# --- the command -----------------------------------------------------------------------------------------


def recorded() -> dict[str, Any]:
    """`{"counts": {minor version: Counts}, "instructions": {build: {name: number}}}`."""
    stored: dict[str, Any] = json.loads(BASELINES.read_text())
    return stored


def _record(counts: Counts, watched: dict[str, float]) -> None:
    stored = recorded() if BASELINES.exists() else {"counts": {}, "instructions": {}}
    stored["counts"][minor()] = counts
    if watched:
        stored["instructions"][build()] = watched
    BASELINES.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts of work, beside their recorded baselines.")
    parser.add_argument("--record", action="store_true", help="make what is measured the baseline")
    parser.add_argument("--json", action="store_true", help="count in this process and print JSON")
    chosen = parser.parse_args()
    if chosen.json:
        print(json.dumps(measured()))
        return
    counts = in_fresh_process()
    watched = instructions() if has_valgrind() else {}
    if chosen.record:
        _record(counts, watched)
    stored = recorded()
    baselines = {**stored["counts"].get(minor(), {}), "instructions": stored["instructions"].get(build(), {})}
    for kind, found in {**counts, "instructions": watched}.items():
        for name, count in found.items():
            baseline = baselines.get(kind, {}).get(name)
            print(f"{kind:13} {name:34} {count:12,.2f}", "" if baseline is None else f"{baseline:12,.2f}")


if __name__ == "__main__":
    main()
