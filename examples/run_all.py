"""Run every example, each in a process of its own: `python examples/run_all.py`, from any directory.

ALLM_PROVIDER, ALLM_MODEL and ALLM_IMAGE_MODEL choose who is asked: see `_common.py`. ALLM_EXAMPLE_SECONDS
is how long one script may take (180). The exit code is 0 only if every script that was run has passed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from _common import PROVIDERS, chat_model, provider

HERE = Path(__file__).resolve().parent
LIMIT = float(os.environ.get("ALLM_EXAMPLE_SECONDS", "180"))


class Outcome(NamedTuple):
    word: str  # passed, failed or skipped
    note: str = ""
    output: str = ""


def main() -> int:
    name = provider()
    print(f"asking {who(name)}")
    counts: Counter[str] = Counter()
    for script in sorted(HERE.glob("[0-9][0-9]_*.py")):
        print(f"{script.name:32}", end="", flush=True)
        outcome = outcome_of(script, name)
        counts[outcome.word] += 1
        print(f"{outcome.word}: {outcome.note}")
        if outcome.output:
            print(textwrap.indent(outcome.output.rstrip(), "    "))
    print(f"{name}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 0 if counts["passed"] and not counts["failed"] else 1


def who(name: str) -> str:
    chosen = PROVIDERS[name]
    if chosen.scripted:
        return f"a scripted server in place of {chat_model(name)}: {' or '.join(chosen.keys)} is not set"
    return chat_model(name)


def outcome_of(script: Path, name: str) -> Outcome:
    try:
        why = not_for(script).get(name)
    except (SyntaxError, ValueError) as error:
        return Outcome("failed", f"it cannot be read: {error}")
    return run(script) if why is None else Outcome("skipped", why)


def not_for(script: Path) -> dict[str, str]:
    """`NOT_FOR` of a script: providers and why it leaves them out. The script is read, not run."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="NOT_FOR")], value=value):
                found: dict[str, str] = ast.literal_eval(value)
                return found
    return {}


def run(script: Path) -> Outcome:
    """What a script prints is shown where it fails only."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        return Outcome("failed", f"not done after {LIMIT:g} s", text(error.output))
    took = f"{time.monotonic() - began:.1f} s"
    if done.returncode:
        return Outcome("failed", f"{took}, exit code {done.returncode}", text(done.stdout))
    return Outcome("passed", took)


def text(output: bytes | None) -> str:
    return (output or b"").decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
