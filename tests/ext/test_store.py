"""The session store: compare-and-set, listing, and a file that is nobody else's business."""

from __future__ import annotations

import sqlite3
import stat
import sys
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

import allm
from allm.ext import store
from allm.ext.store import SQLiteStore


def session(id: str = "a", text: str = "Hi", revision: int = 1) -> allm.Session:
    thread = allm.Thread((allm.system("Be kind."), allm.user(text), allm.assistant("Hello")))
    return allm.Session(id=id, thread=thread, status="completed", revision=revision)


@pytest.fixture
def kept(tmp_path: Path) -> SQLiteStore:
    return SQLiteStore(tmp_path / "deep" / "sessions.db")


def test_what_is_saved_is_loaded(kept: SQLiteStore) -> None:
    kept.save(session())
    assert kept.load("a") == session()
    assert SQLiteStore(kept.path).load("a") == session()


def test_an_empty_store_makes_no_file(kept: SQLiteStore) -> None:
    assert kept.list() == ()
    assert not kept.delete("a")
    with pytest.raises(allm.SessionError, match="no session 'a'"):
        kept.load("a")
    assert not kept.path.exists()


def test_the_expected_revision_is_replaced(kept: SQLiteStore) -> None:
    kept.save(session())
    kept.save(session(revision=2), expected_revision=1)
    assert kept.load("a").revision == 2


@pytest.mark.parametrize(("expected", "found"), [(None, "that it is new"), (0, "revision 0")])
def test_a_conflict_says_so_and_changes_nothing(kept: SQLiteStore, expected: int | None, found: str) -> None:
    kept.save(session())
    with pytest.raises(allm.SessionError, match=f"conflict.*{found}, but revision 1 is stored") as caught:
        kept.save(session(text="other", revision=3), expected_revision=expected)
    assert caught.value.info.code == "revision_conflict"
    assert kept.load("a") == session()


def test_a_conflict_with_a_deleted_session(kept: SQLiteStore) -> None:
    kept.save(session())
    assert kept.delete("a")
    with pytest.raises(allm.SessionError, match="it is gone"):
        kept.save(session(revision=2), expected_revision=1)


def test_of_many_writers_one_wins(kept: SQLiteStore) -> None:
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


def test_the_list_is_newest_first_with_titles(kept: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1, 9))
    monkeypatch.setattr(store, "time", lambda: float(next(clock)))
    kept.save(session("a", "First\n\x1b[31m question"))
    kept.save(session("b", "x" * 100))
    assert [(entry.id, entry.messages) for entry in kept.list()] == [("b", 3), ("a", 3)]
    kept.save(session("a", "First\n\x1b[31m question", revision=2), expected_revision=1)
    first, second = kept.list()
    assert first == ("a", "First [31m question", 3.0, 2, "completed", 3)
    assert second.title == "x" * 77 + "..."


def test_a_session_needs_an_id(kept: SQLiteStore) -> None:
    with pytest.raises(allm.SessionError, match="without an id"):
        kept.save(replace(session(), id=None))


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_only_the_user_may_look(kept: SQLiteStore) -> None:
    kept.save(session())
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.write_text("this is a text of more than sixteen bytes")
    with pytest.raises(allm.SessionError, match="cannot be used"):
        SQLiteStore(path).list()


def test_a_store_of_a_newer_version(kept: SQLiteStore) -> None:
    kept.save(session())
    connection = sqlite3.connect(kept.path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(allm.SessionError, match="version 7"):
        kept.list()


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALLM_DATA", str(tmp_path / "d"))
    assert SQLiteStore().path == tmp_path / "d" / "sessions.db"
    monkeypatch.delenv("ALLM_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "w"))
    for platform, place in (("linux", tmp_path / "x" / "allm"), ("win32", tmp_path / "w" / "allm")):
        monkeypatch.setattr(sys, "platform", platform)
        assert store.data_dir() == place
    monkeypatch.setattr(sys, "platform", "darwin")
    assert store.data_dir().parts[-3:] == ("Library", "Application Support", "allm")
