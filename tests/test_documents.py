"""The guides' code gives what it shows, their scripts run, and their links lead somewhere."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import allm
from allm.ext import weights

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
GUIDES = [page for page in PAGES if "```" in page.read_text()]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\((?!\.\./benchmarks/results)([^)\s:]*)\)")  # results are made, not kept
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
SCRIPTS = [
    pytest.param(block, id=page.name)
    for page in GUIDES
    for block in BLOCK.findall(page.read_text())
    if 'if __name__ == "__main__":' in block
]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide(guide: Path) -> None:
    outcome = doctest.testfile(str(guide), module_relative=False)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_script(script: str, tmp_path: Path) -> None:
    """It prints what its comments say."""
    path = tmp_path / "script.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(allm.__file__).parents[1])}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment)
    assert (done.stdout.splitlines(), done.stderr) == (re.findall(r"print\(.*  # (.+)", script), "")
    assert done.stdout


def anchors(page: Path) -> set[str]:
    """The names of the headings, as those who show the pages make them."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if f"(docs/{page.name})" not in readme] == []


def test_the_readme_says_how_much_is_fetched() -> None:
    assert (
        f"its weights, {weights.ARCHIVE_SIZE / 1e6:.0f} MB, are fetched" in (ROOT / "README.md").read_text()
    )
