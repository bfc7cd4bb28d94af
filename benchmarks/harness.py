"""The shared harness, where it stands beside the checkout, with our clients put into it.

Nothing is written there: its files are copied to a folder of the cache, our clients beside its own.
Environments are made once and live in the harness's folder for them; ours hold the wheel of this checkout and
are made anew when the source has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.plan import Row

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
HARNESS: Final = HERE / ".." / ".." / "shared" / "perf"
CACHE: Final = Path(os.environ.get("ALLM_BENCH_CACHE") or Path.home() / ".cache" / "allm-bench")

OURS: Final = {"allm": "", "allm_fast": "[fast]"}
"""Our environments: the name, and the extras of the wheel."""

_TOOLS: Final = (
    "pip",
    "setuptools",
    "pkg_resources",
    "_distutils_hack",
)  # of every environment, of no client


def present() -> bool:
    return (HARNESS / "worker.py").exists()


def source_digest() -> str:
    """What the wheel is made of, so that numbers of two builds are never mixed."""
    digest = hashlib.sha256()
    for path in sorted([ROOT / "pyproject.toml", *(ROOT / "src").rglob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Harness:
    """The copy with our clients in it, and its modules."""

    def __init__(self) -> None:
        folder = CACHE / "harness"
        for path in HARNESS.rglob("*"):
            if path.suffix in (".py", ".c"):
                _copy(path, folder / path.relative_to(HARNESS))
        for path in (HERE / "clients").glob("ours*.py"):
            _copy(path, folder / "clients" / path.name)
        sys.path.insert(0, str(folder))
        self._run = import_module("run")
        self._venvs = import_module("venvs")
        self._server = import_module("server")
        fixtures: Any = import_module("server.fixtures")
        self._answers = fixtures.answers
        fixtures.answers = self._answer
        self.clients: dict[str, dict[str, Any]] = self._run.client_meta()

    def _answer(self, spec: str) -> Any:
        """`ones-N` is N deltas of one character; the rest is the harness's."""
        kind, _, size = spec.partition("-")
        return [("", ["x"] * int(size), [])] if kind == "ones" else self._answers(spec)

    def prepare(self, names: list[str]) -> dict[str, str]:
        """Make the environments of these clients that are not there; what failed, by name."""
        failed = {}
        for name in names:
            meta = self.clients[name]
            for venv in {meta["VENV"], *meta["VENV_FOR"].values()}:
                error = self._ours(venv) if venv in OURS else self._venvs.ensure(venv)
                if error:
                    failed[name] = error
        return failed

    def _ours(self, venv: str) -> str | None:
        folder, digest = self._venvs.ROOT / venv, source_digest()
        mark = folder / ".source"
        if mark.exists() and mark.read_text() == digest:
            return None
        shutil.rmtree(folder, ignore_errors=True)
        python = str(self._venvs.python_of(venv))
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, f"{_wheel()}{OURS[venv]}"]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                return done.stderr[-600:]
        mark.write_text(digest)
        return None

    def server(self, specs: list[str]) -> Any:
        """The replay server as a context manager; `url(spec, **options)` is what a client is pointed at."""
        return self._server.Replay(specs, cpu=0 if (os.cpu_count() or 1) > 1 else None)

    def server_proof(self, server: Any, chunks: int) -> dict[str, Any]:
        proof: dict[str, Any] = self._run.server_proof(server, chunks)
        return proof

    def measure(self, row: Row, base: dict[str, str], client: str, proto: str) -> Any:
        """One measurement in a fresh process: its numbers, None where the client has no such thing, or
        `{"error": text}`."""
        work = self._run.work
        return work(self.clients, client, row.scenario, proto, row.limit, base=base, **row.options)

    def closing(self, client: str) -> dict[str, float]:
        """How soon sockets are closed, by one of our environments."""
        python = str(self._venvs.python_of(self.clients[client]["VENV"]))
        done = subprocess.run([python, str(HERE / "closing.py")], capture_output=True, text=True, check=True)
        numbers: dict[str, float] = json.loads(done.stdout)
        return numbers

    def imports(self, client: str) -> dict[str, float] | None:
        """Import and construction, once with bytecode to be written and once without."""
        found: dict[str, Any] = self._run.do_imports(self.clients, [client], 1)
        return found.get(client)

    def installed(self, client: str) -> dict[str, float]:
        """What a client's environment holds, without bytecode and without the tools that install."""
        site = next((self._venvs.ROOT / self.clients[client]["VENV"] / "lib").glob("python3*/site-packages"))
        tops = [top for top in site.iterdir() if not top.name.startswith(_TOOLS)]
        files = [file for top in tops for file in (top.rglob("*") if top.is_dir() else [top])]
        size = sum(f.stat().st_size for f in files if f.is_file() and f.parent.name != "__pycache__")
        return {
            "installed_mb": size / 2**20,
            "distributions": sum(top.name.endswith(".dist-info") for top in tops),
        }

    def versions(self, client: str) -> dict[str, str]:
        """The versions of what a client was asked to be."""
        venv = self.clients[client]["VENV"]
        wanted = [name.split("==")[0].split("[")[0].split(">")[0] for name in self._venvs.VENVS.get(venv, [])]
        names = ["pyallm", "msgspec", "httpx2", "aiohttp", "urllib3"] if venv in OURS else wanted
        program = (
            "import sys; from importlib.metadata import distributions as all;"
            "print([(d.name, d.version) for d in all() if d.name in sys.argv[1:]])"
        )
        command = [str(self._venvs.python_of(venv)), "-c", program, *names]
        return dict(_literal(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def _literal(text: str) -> Any:
    from ast import literal_eval

    return literal_eval(text.strip())


def _copy(source: Path, target: Path) -> None:
    """Without the modes, which may be those of a read-only folder; only what has changed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    if not target.exists() or target.read_bytes() != data:
        target.write_bytes(data)


def _wheel() -> Path:
    folder = CACHE / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))
