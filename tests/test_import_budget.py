"""What using the package loads before the first request: little, and nothing of the network."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import pytest

EXPRESSIONS = (
    "",
    "allm.Engine('openai:gpt-6-luna')",
    "allm.Thread",
    "allm.TextDelta",
    "allm.chat",
    "allm.tool",
    "allm.stream(allm.Engine('openai:gpt-6-luna'), 'x', api_key='k')",
)
HEAVY = ("asyncio", "ssl", "socket", "httpx2", "anyio", "pydantic", "trio")
MOST = 90
PROGRAM = """
import sys, time
before, began = set(sys.modules), time.process_time()
import allm
{expression}
spent = time.process_time() - began
added = sorted(set(sys.modules) - before)
print(__import__("json").dumps([added, spent]))
"""


def loaded(expression: str) -> tuple[set[str], float]:
    """Modules over a bare interpreter, and CPU seconds."""
    command = [sys.executable, "-c", PROGRAM.format(expression=expression)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    modules, spent = json.loads(answer.stdout)
    return set(modules), spent


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=[text or "import" for text in EXPRESSIONS])
def test_import_budget(expression: str, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [loaded(expression) for _ in range(5)]
    modules = runs[0][0]
    with capsys.disabled():
        spent = 1000 * statistics.median(seconds for _, seconds in runs)
        print(f"\n{expression or 'import allm'}: {spent:.1f} ms, {len(modules)} modules", end="")
    assert not modules & set(HEAVY)
    assert len(modules) <= MOST, sorted(modules)
