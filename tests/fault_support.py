"""The fault server in process, and what its word for an expectation means for a result of ours."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import allm
from allm.errors import KINDS
from tests.four_dialects import DIALECTS

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


def cases(*groups: str) -> list[Any]:
    """Parameters `dialect`, `scenario` and `mode` for all that the server does in these groups."""
    server = load()
    return [
        pytest.param(dialect, scenario, mode, id=f"{dialect.name}-{scenario['name']}-{mode}")
        for dialect in DIALECTS
        for scenario in (server.listing() if server is not None else ())
        if scenario["group"] in groups
        for mode in ("stream", "plain")
        if scenario["modes"] in (mode, "both")
    ]


_EXPECTED = {"s500_html": "error:status:502"}  # listed as 500, sent as 502


def expectation(scenario: dict[str, Any]) -> set[str]:
    """The words of which one must hold."""
    listed: str = _EXPECTED.get(scenario["name"], scenario["expect"])
    return set(listed.split("|"))


_WORDS = {
    "rate_limited": "rate_limit",
    "quota_exceeded": "rate_limit",
    "authentication_failed": "auth",
    "permission_denied": "auth",
    "overloaded": "overloaded",
    "provider_error": "provider",
    "provider_unavailable": "provider",
}


def verdicts(
    server: Any, dialect: str, scenario: dict[str, Any], result: allm.Response | allm.AllmError
) -> set[str]:
    """The words of `--list` that this result satisfies."""
    name = scenario["name"]
    if isinstance(result, allm.AllmError):
        return _failure(result.info)
    if scenario["kind"] == "tool":
        return _calls(server, name, result)
    if name in _CUT_SHORT:
        return _cut_short(server, dialect, name, result)
    if (dialect, name) == ("generate", "sse_after_terminal") and result.text.startswith(server.TEXT):
        return {"same"}  # no end marker there: what comes after the finish reason may count
    return _text(server, name, result.text)


def _failure(info: allm.ErrorInfo) -> set[str]:
    words = {KINDS.get(info.reason), _WORDS.get(info.reason), f"status:{info.status}"}
    return {f"error:{word}" for word in words if word} | {"bounded"}


def _calls(server: Any, name: str, result: allm.Response) -> set[str]:
    wanted = [server.TOOL_ARGS]
    if name == "ok_tools2":
        wanted.append({"city": "Oslo", "days": 1})
    same = [call.arguments for call in result.tool_calls] == wanted
    return {"same", "same-ish"} if same else {f"other calls: {result.tool_calls}"}


_CUT_SHORT = {"filtered": "content_filter", "length": "length"}


def _cut_short(server: Any, dialect: str, name: str, result: allm.Response) -> set[str]:
    """Half of the text, and the reason for it. Responses of this server end filtered answers, too, by
    `max_output_tokens`."""
    reason = "length" if dialect == "responses" else _CUT_SHORT[name]
    same = result.text == "".join(server.TEXT_PARTS[:5]) and result.finish_reason == reason
    return {"same"} if same else {f"other answer: {result.text!r}, {result.finish_reason}"}


def _text(server: Any, name: str, text: str) -> set[str]:
    texts = {
        server.TEXT: {"same", "same-ish"},
        server.SEP_TEXT: {"same-text:sep"},
        "".join(server.HOSTILE_TEXT): {"same-text:hostile"},
        "x" * 100_000: {"same-text:many"},
    }
    if text in texts:
        return texts[text]
    if name in ("sse_lone_surrogate", "sse_bad_utf8") and "�" in text:
        text.encode()
        return {"same-ish"}
    if name == "sse_many_tiny" and len(text) == 100_000:
        return {"same-text:many"}
    if name in ("missing_fields", "empty_choices") and not text:
        return {"same-ish"}
    return {f"other text: {text[:200]!r}"}
