"""The examples run, and the guides' code gives what it shows."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide(guide: Path) -> None:
    outcome = doctest.testfile(str(guide), module_relative=False)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example(example: Path) -> None:
    if "local" in example.read_text() and not has_local_model():
        pytest.skip("the local model is not installed; `python -m allm.ext.weights` fetches it")
    environment = {name: value for name, value in os.environ.items() if name != "ALLM_MODEL"}
    done = subprocess.run([sys.executable, str(example)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def has_local_model() -> bool:
    from importlib.util import find_spec

    from allm.ext.weights import default_path

    return find_spec("xllamacpp") is not None and default_path() is not None
