"""`examples/run_all.py` passes for every provider without keys, and says so where an example does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHOICES = ("ALLM_PROVIDER", "ALLM_MODEL", "ALLM_IMAGE_MODEL", "ALLM_EXAMPLE_SECONDS")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(("provider", "passed"), [("openai", 15), ("anthropic", 12), ("gemini", 15)])
def test_all_pass(provider: str, passed: int, tmp_path: Path) -> None:
    """Each asks a scripted server, in the provider's own format; the directory does not matter."""
    done = run(EXAMPLES / "run_all.py", tmp_path, ALLM_PROVIDER=provider)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *lines, last = done.stdout.splitlines()
    assert first.startswith(f"asking a scripted server in place of {provider}:")
    assert [line.split()[0] for line in lines] == sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
    assert last == f"{provider}: {passed} passed, 0 failed, {15 - passed} skipped"


def test_all_that_it_can_do_pass_on_the_local_model(tmp_path: Path) -> None:
    if not has_local_model():
        pytest.skip("the local model is not installed; `python -m allm.ext.weights` fetches it")
    done = run(EXAMPLES / "run_all.py", tmp_path, ALLM_PROVIDER="local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "local: 9 passed, 0 failed, 6 skipped"


def test_a_wrong_answer_fails_the_example_and_the_run(tmp_path: Path) -> None:
    example = (EXAMPLES / "01_plain_text.py").read_text()
    wrong = example.replace('{"text": "OK"}', '{"text": "Not at all"}')
    done = run_folder(tmp_path, {"01_right.py": "print('not shown')", "02_wrong.py": wrong})
    assert done.returncode == 1
    _, right, rest = done.stdout.split("\n", 2)
    assert right.split()[:2] == ["01_right.py", "passed:"]
    assert "02_wrong.py" in rest
    assert "    Not at all\n" in rest
    assert "exit code 1" in rest
    assert "AssertionError" in rest
    assert rest.endswith("openai: 1 passed, 1 failed, 0 skipped\n")


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        ("03_single_tool_call", '"sky": "sunny"', '"sky": "grey"', "what a tool gave reaches the model"),
        ("05_multi_turn_chat", "first.thread.add_user", "allm.Thread().add_user", "is said again, unchanged"),
        ("06_structured_output", ", response_format=Report", "", "JSON is asked for by a schema"),
        ("07_manual_tool_round_trip", "asked.thread.add_message(found)", "'And?'", "without a result"),
    ],
)
def test_what_is_sent_is_looked_at(tmp_path: Path, name: str, old: str, new: str, why: str) -> None:
    example = (EXAMPLES / f"{name}.py").read_text()
    assert old in example
    done = run_folder(tmp_path, {f"{name}.py": example.replace(old, new)})
    assert done.returncode == 1
    assert why in done.stdout.split("AssertionError")[-1]


def test_a_script_that_hangs_is_ended(tmp_path: Path) -> None:
    hangs = "import threading; print('waiting', flush=True); threading.Event().wait()"
    done = run_folder(tmp_path, {"01_hangs.py": hangs}, ALLM_EXAMPLE_SECONDS="1")
    assert done.returncode == 1
    _, hung, *_, last = done.stdout.splitlines()
    assert hung.split(maxsplit=1) == ["01_hangs.py", "failed: not done after 1 s"]
    assert last == "openai: 0 passed, 1 failed, 0 skipped"


def test_a_marker_leaves_a_provider_out_and_says_why(tmp_path: Path) -> None:
    scripts = {
        "01_left_out.py": "NOT_FOR = {'openai': 'it cannot'}\nraise SystemExit('this was run')",
        "02_run.py": "NOT_FOR = {'local': 'it cannot'}",
        "03_unread.py": "NOT_FOR = {'openai': why()}",
        "04_broken.py": "def",
    }
    done = run_folder(tmp_path, scripts)
    assert done.returncode == 1
    _, left_out, ran, unread, broken, last = done.stdout.splitlines()
    assert left_out.split(maxsplit=1) == ["01_left_out.py", "skipped: it cannot"]
    assert ran.split()[:2] == ["02_run.py", "passed:"]
    assert "failed: it cannot be read" in unread
    assert "failed: it cannot be read" in broken
    assert last == "openai: 1 passed, 2 failed, 1 skipped"


def test_nothing_that_passed_is_a_failure(tmp_path: Path) -> None:
    done = run_folder(tmp_path, {"01_left_out.py": "NOT_FOR = {'openai': 'it cannot'}"})
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "openai: 0 passed, 0 failed, 1 skipped")


def test_an_example_refuses_a_provider_that_it_is_not_for(tmp_path: Path) -> None:
    done = run(EXAMPLES / "10_generate_image.py", tmp_path, ALLM_PROVIDER="anthropic")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "this example is not for anthropic: it makes no pictures\n"


def test_an_unknown_provider(tmp_path: Path) -> None:
    done = run(EXAMPLES / "run_all.py", tmp_path, ALLM_PROVIDER="opneai")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ALLM_PROVIDER is 'opneai'; it can be openai, anthropic, gemini, local\n"


@pytest.mark.parametrize(
    ("model", "takes"), [("gpt-4.1", True), ("gpt-6-luna", False), ("anthropic:claude-sonnet-5-5", False)]
)
def test_the_model_can_be_chosen_and_is_sent_only_what_it_takes(
    tmp_path: Path, model: str, takes: bool
) -> None:
    example = (EXAMPLES / "01_plain_text.py").read_text()
    shown = example.replace("    print(response.text)", "    print(response.model, *response.warnings)")
    (tmp_path / "01_shown.py").write_text(shown)
    copy(tmp_path)
    done = run(tmp_path / "01_shown.py", tmp_path, ALLM_MODEL=model)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == model.rpartition(":")[2]
    assert ("temperature is left out" in done.stdout) is not takes


def run_folder(folder: Path, scripts: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """`run_all` among these scripts."""
    copy(folder)
    for name, text in scripts.items():
        (folder / name).write_text(text)
    return run(folder / "run_all.py", folder, **environment)


def copy(folder: Path) -> None:
    for name in ("run_all.py", "_common.py", "_checks.py"):
        shutil.copy(EXAMPLES / name, folder)


def run(script: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, started in `folder`, without keys."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("_API_KEY") and name not in CHOICES
    }
    if "PYTHONPATH" in kept:
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, kept["PYTHONPATH"].split(os.pathsep)))
    command = [sys.executable, str(script)]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True)


def has_local_model() -> bool:
    from allm.ext.weights import default_path

    return find_spec("xllamacpp") is not None and default_path() is not None
