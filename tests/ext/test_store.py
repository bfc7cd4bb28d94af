"""The session stores: compare-and-set, listing, and a file that is nobody else's business."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import allm
from allm.ext import store
from allm.ext.places import data_dir
from allm.ext.store import MemoryStore, SQLiteStore
from allm.ports import SessionStore
from tests.test_loop import DONE, calls, double, fake


def session(id: str = "a", text: str = "Hi", revision: int = 1) -> allm.Session:
    thread = allm.Thread((allm.system("Be kind."), allm.user(text), allm.assistant("Hello")))
    return allm.Session(id=id, thread=thread, status="completed", revision=revision)


@pytest.fixture
def file(tmp_path: Path) -> SQLiteStore:
    return SQLiteStore(tmp_path / "deep" / "sessions.db")


@pytest.fixture(params=["sqlite", "memory"])
def kept(request: pytest.FixtureRequest, file: SQLiteStore) -> SessionStore:
    return file if request.param == "sqlite" else MemoryStore()


def test_what_is_saved_is_loaded(kept: SessionStore) -> None:
    kept.save(session())
    assert kept.load("a") == session()


def test_another_store_on_the_file_has_the_same(file: SQLiteStore) -> None:
    file.save(session())
    assert SQLiteStore(file.path).load("a") == session()


def test_an_empty_store(kept: SessionStore) -> None:
    assert kept.list() == ()
    assert not kept.delete("a")
    with pytest.raises(allm.SessionError, match="no session 'a'"):
        kept.load("a")


def test_reading_makes_no_file(file: SQLiteStore) -> None:
    assert file.list() == ()
    assert not file.delete("a")
    assert not file.path.exists()


def test_the_expected_revision_is_replaced(kept: SessionStore) -> None:
    kept.save(session())
    kept.save(session(revision=2), expected_revision=1)
    assert kept.load("a").revision == 2


@pytest.mark.parametrize(("expected", "found"), [(None, "that it is new"), (0, "revision 0")])
def test_a_conflict_says_so_and_changes_nothing(kept: SessionStore, expected: int | None, found: str) -> None:
    kept.save(session())
    with pytest.raises(allm.SessionError, match=f"conflict.*{found}, but revision 1 is stored") as caught:
        kept.save(session(text="other", revision=3), expected_revision=expected)
    assert caught.value.info.code == "revision_conflict"
    assert kept.load("a") == session()


def test_a_conflict_with_a_deleted_session(kept: SessionStore) -> None:
    kept.save(session())
    assert kept.delete("a")
    with pytest.raises(allm.SessionError, match="it is gone"):
        kept.save(session(revision=2), expected_revision=1)


def test_of_many_writers_one_wins(kept: SessionStore) -> None:
    kept.save(session())
    outcomes: list[bool] = []

    def write(number: int) -> None:
        try:
            kept.save(session(text=str(number), revision=2), expected_revision=1)
            outcomes.append(True)
        except allm.SessionError:
            outcomes.append(False)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]


def test_the_list_is_newest_first_with_titles(kept: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1, 9))
    monkeypatch.setattr(store, "time", lambda: float(next(clock)))
    kept.save(session("a", "First\n\x1b[31m question"))
    kept.save(session("b", "x" * 100))
    assert [(entry.id, entry.messages) for entry in kept.list()] == [("b", 3), ("a", 3)]
    kept.save(session("a", "First\n\x1b[31m question", revision=2), expected_revision=1)
    first, second = kept.list()
    assert first == ("a", "First [31m question", 3.0, 2, "completed", 3)
    assert second.title == "x" * 77 + "..."


@pytest.mark.parametrize("wrong", [5, None, "s", {"id": "s"}])
def test_only_sessions_are_kept(kept: SessionStore, wrong: Any) -> None:
    with pytest.raises(
        allm.SessionError, match=rf"a store keeps sessions \(allm.Session\), not {type(wrong).__name__}"
    ):
        kept.save(wrong)
    assert kept.list() == ()


def test_a_session_needs_an_id(kept: SessionStore) -> None:
    with pytest.raises(allm.SessionError, match="without an id"):
        kept.save(replace(session(), id=None))


WRITER = """
import sys
import allm
from allm.ext.store import SQLiteStore

store, name = SQLiteStore(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
conflicts = 0
for number in range(25):
    while True:
        try:
            found = store.load("a")
            store.save(found.append_user(f"{name}{number}"), found.revision)
            break
        except allm.SessionError as error:
            assert error.info.code == "revision_conflict", error
            conflicts += 1
print(conflicts)
"""


def test_two_processes_lose_nothing(file: SQLiteStore) -> None:
    """Each puts in its 25 messages, loading again after each conflict; both begin at once."""
    file.save(allm.Session(id="a"))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file.path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(allm.__file__).parent.parent)},
        )
        for name in "xy"
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    outputs = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        outputs.append(writer.communicate(timeout=60)[0])
        assert writer.returncode == 0
    loaded = file.load("a")
    assert sorted(message.text for message in loaded.messages) == sorted(
        f"{name}{number}" for name in "xy" for number in range(25)
    )
    assert loaded.revision == 50
    assert all(output.strip().isdigit() for output in outputs)


def test_a_turn_is_kept_event_by_event(kept: SessionStore) -> None:
    """A checkpoint at each event; of two who go on with what is stored the second is told."""
    kept.save(session())
    engine = fake(calls(("c", "double", {"n": 2})), DONE, tools=[double])
    fold = allm.SessionFold(kept.load("a"), "Go on")
    late = allm.SessionFold(kept.load("a"), "Go on").session
    with allm.sessions.stream_reply(engine, kept.load("a"), "Go on") as events:
        stored = kept.load("a").revision
        for event in events:
            fold.add(event)
            kept.save(fold.session, stored)
            stored = fold.session.revision
            assert kept.load("a") == fold.session
    with pytest.raises(allm.SessionError, match="expected revision 1, but revision 3 is stored"):
        kept.save(late, 1)
    assert kept.list()[0].status == "completed"


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_only_the_user_may_look(file: SQLiteStore) -> None:
    file.save(session())
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.write_text("this is a text of more than sixteen bytes")
    with pytest.raises(allm.SessionError, match="cannot be used"):
        SQLiteStore(path).list()


def test_a_store_of_a_newer_version(file: SQLiteStore) -> None:
    file.save(session())
    connection = sqlite3.connect(file.path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(allm.SessionError, match="version 7"):
        file.list()


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALLM_DATA", str(tmp_path / "d"))
    assert SQLiteStore().path == tmp_path / "d" / "sessions.db"
    monkeypatch.delenv("ALLM_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "w"))
    for platform, place in (("linux", tmp_path / "x" / "allm"), ("win32", tmp_path / "w" / "allm")):
        monkeypatch.setattr(sys, "platform", platform)
        assert data_dir() == place
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data_dir().parts[-3:] == ("Library", "Application Support", "allm")
