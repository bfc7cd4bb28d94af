"""The fault server in process, and what its word for an expectation means for a result of ours."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import allm
from allm.errors import KINDS

PATH = Path(os.environ.get("ALLM_SHARED") or Path(__file__).resolve().parents[2] / "shared")
SERVER = PATH / "tools" / "faultserver.py"


def load() -> ModuleType | None:
    """The server's module, or `None` where it is not beside the checkout."""
    if not SERVER.exists():
        return None
    if "faultserver" not in sys.modules:
        spec = importlib.util.spec_from_file_location("faultserver", SERVER)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["faultserver"] = module
        spec.loader.exec_module(module)
    return sys.modules["faultserver"]


def verdicts(server: Any, scenario: dict[str, Any], result: allm.Response | allm.AllmError) -> set[str]:
    """The words of `--list` that this result satisfies."""
    if isinstance(result, allm.AllmError):
        kind = KINDS.get(result.info.reason, f"status:{result.info.status}")
        return {f"error:{kind}", "bounded"}
    if scenario["kind"] == "tool":
        wanted = [server.TOOL_ARGS]
        if scenario["name"] == "ok_tools2":
            wanted.append({"city": "Oslo", "days": 1})
        same = [call.arguments for call in result.tool_calls] == wanted
        return {"same", "same-ish"} if same else {f"other calls: {result.tool_calls}"}
    texts = {
        server.TEXT: {"same", "same-ish"},
        server.SEP_TEXT: {"same-text:sep"},
        "x" * 100_000: {"same-text:many"},
    }
    if result.text in texts:
        return texts[result.text]
    if scenario["name"] in ("sse_lone_surrogate", "sse_bad_utf8") and "�" in result.text:
        result.text.encode()
        return {"same-ish"}
    if scenario["name"] == "sse_many_tiny" and len(result.text) == 100_000:
        return {"same-text:many"}
    return {f"other text: {result.text[:200]!r}"}
