"""The guides' code gives what it shows."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```" in page.read_text()]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide(guide: Path) -> None:
    outcome = doctest.testfile(str(guide), module_relative=False)
    assert outcome.attempted > 0
    assert outcome.failed == 0
