"""Measure the library beside the floor and other libraries, and write results, tables and plots.

    python -m benchmarks             # everything; goes on where an earlier run stopped
    python -m benchmarks --quick     # small sizes, two rounds, written to the cache only
    python -m benchmarks --only stream,calls --clients ours,openai_sdk --rounds 5
    python -m benchmarks --report    # tables, plots and the page from what is there

Needs Linux, a C compiler, and the shared harness beside the checkout (`../shared/perf`) for the server and
the peers. Without it our library is measured alone, in process and over a small server, as
`python -m benchmarks.alone` does. `PERF_NICE=-10` (as root) keeps other work off the measured core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks import harness, measure, report
from benchmarks.plan import CLIENTS, REFERENCES, rows

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "results"
PAGE: Final = HERE.parent / "docs" / "performance.md"
PLOTTING: Final = harness.CACHE / "plotting"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, written to the cache only")
    parser.add_argument("--only", default="", help="rows whose names begin so, separated by commas")
    parser.add_argument("--clients", default=",".join(CLIENTS), help="the floor is always among them")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of every number (5; 2 with --quick)")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have measured")
    parser.add_argument("--report", action="store_true", help="write tables and plots, measure nothing")
    return parser.parse_args()


def measured(chosen: argparse.Namespace, folder: Path) -> None:
    """Measure what is missing and write `results.json`."""
    bench = harness.Harness()
    asked = {*chosen.clients.split(","), *REFERENCES}
    names = [name for name in CLIENTS if name in asked]
    for name, error in bench.prepare(names).items():
        print(f"{name} is left out: {error}", file=sys.stderr)
        names.remove(name)
    path = harness.CACHE / ("quick.json" if chosen.quick else "state.json")
    if chosen.fresh:
        path.unlink(missing_ok=True)
    state = measure.State(path, harness.source_digest())
    wanted = tuple(chosen.only.split(","))
    plan = [row for row in rows(chosen.quick) if row.name.startswith(wanted)]
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    measure.run(bench, state, plan, names, rounds, wanted)
    found = measure.results(bench, state, chosen.quick)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def written(folder: Path) -> None:
    """Tables and plots of the results in `folder`; the page, where these are the committed ones."""
    found = json.loads((folder / "results.json").read_text())
    (folder / "tables.md").write_text(report.tables(found))
    if folder == RESULTS:
        PAGE.write_text(report.filled(PAGE.read_text(), found))
    drawn(folder)


def drawn(folder: Path) -> None:
    """The plots, by an environment that has what they need."""
    python = str(PLOTTING / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", str(PLOTTING)], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        subprocess.run([*pip, "pip>=25.1"], check=True)
        subprocess.run([*pip, "--group", f"{HERE.parent / 'pyproject.toml'}:bench"], check=True)
    command = [python, "-m", "benchmarks.plots", str(folder / "results.json"), str(folder)]
    subprocess.run(command, check=True, cwd=HERE.parent)


def main() -> None:
    chosen = options()
    if not harness.present() and not chosen.report:
        print(
            "The shared harness is not beside this checkout: our library alone is measured.", file=sys.stderr
        )
        from benchmarks import alone

        alone.main()
        return
    folder = harness.CACHE / "quick" if chosen.quick else RESULTS
    if not chosen.report:
        measured(chosen, folder)
    written(folder)
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
