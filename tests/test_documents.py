"""The examples run, and the guides' code gives what it shows."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```" in page.read_text()]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
PROVIDERS = {
    "10": ("openai", "gemini"),
    "11": ("openai", "gemini"),
    "12": ("openai", "anthropic", "gemini"),
    "13": ("openai", "gemini"),
}
"""Whom an example can ask, where it can ask several."""

RUNS = [
    pytest.param(example, provider, id=f"{example.name}-{provider}" if provider else example.name)
    for example in EXAMPLES
    for provider in PROVIDERS.get(example.name[:2], ("",))
]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide(guide: Path) -> None:
    outcome = doctest.testfile(str(guide), module_relative=False)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(("example", "provider"), RUNS)
def test_example(example: Path, provider: str) -> None:
    """Without keys: an example asks the local model, the fake, or a scripted server."""
    if "local" in example.read_text() and not has_local_model():
        pytest.skip("the local model is not installed; `python -m allm.ext.weights` fetches it")
    done = run(example, provider)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_an_example_names_the_providers_that_it_is_for() -> None:
    done = run(ROOT / "examples" / "10_generate_image.py", "anthropic")
    assert done.returncode == 1
    assert done.stderr == "this example is for openai and gemini, not for anthropic\n"


def run(example: Path, provider: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    environment = {**kept, "ALLM_PROVIDER": provider or "openai"}
    environment.pop("ALLM_MODEL", None)
    return subprocess.run([sys.executable, str(example)], env=environment, capture_output=True, text=True)


def has_local_model() -> bool:
    from importlib.util import find_spec

    from allm.ext.weights import default_path

    return find_spec("xllamacpp") is not None and default_path() is not None
