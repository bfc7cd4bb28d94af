"""Two implementations of the port `SessionStore`: `SQLiteStore(path)` and, for tests, `MemoryStore()`.

Two writers never overwrite each other unseen, be they threads or processes: `save` names the revision that
the caller last saw, and a conflict is a `SessionError`. Documents are those of `allm.to_json`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from time import time
from typing import Final

import allm
from allm.ext.places import data_dir
from allm.ports import SessionEntry

_VERSION: Final = 1
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, revision INTEGER NOT NULL, updated REAL NOT NULL, title TEXT NOT NULL,
    status TEXT NOT NULL, messages INTEGER NOT NULL, document TEXT NOT NULL
) WITHOUT ROWID
"""
_INSERT: Final = """
INSERT INTO sessions (title, updated, revision, status, messages, document, id)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
"""
_UPDATE: Final = """
UPDATE sessions SET title = ?, updated = ?, revision = ?, status = ?, messages = ?, document = ?
WHERE id = ? AND revision = ?
"""
_REVISION: Final = "SELECT revision FROM sessions WHERE id = ?"
_TITLE: Final = 80


class MemoryStore:
    """Sessions in this process, gone with it; may be shared by threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[str, tuple[allm.Session, SessionEntry]] = {}

    def save(self, session: allm.Session, expected_revision: int | None = None) -> None:
        """Store `session` in the place of its revision `expected_revision`; `None`: it is a new one.

        Raises `SessionError` where another revision is stored: load it and apply the turn again.
        """
        entry = _entry(session)
        with self._lock:
            found = self._kept.get(entry.id)
            stored = None if found is None else found[0].revision
            if stored != expected_revision:
                raise _conflict(entry.id, expected_revision, stored)
            self._kept[entry.id] = (session, entry)

    def load(self, id: str) -> allm.Session:
        """The session `id`. Raises `SessionError` where there is none."""
        found = self._kept.get(id)
        if found is None:
            raise allm.SessionError(f"no session {id!r} is stored")
        return found[0]

    def list(self) -> tuple[SessionEntry, ...]:
        """All sessions, the one that was saved last first."""
        with self._lock:
            entries = [entry for _, entry in self._kept.values()]
        return tuple(sorted(entries, key=lambda entry: (-entry.updated, entry.id)))

    def delete(self, id: str) -> bool:
        """Forget the session `id`; whether there was one."""
        with self._lock:
            return self._kept.pop(id, None) is not None


class SQLiteStore:
    """Sessions in the SQLite file `path`, by default `default_path()`; made at the first save.

    Every operation opens the file for itself, so a store can be shared by threads and survives a
    fork. Raises `SessionError` where the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path).expanduser() if path is not None else default_path()

    def save(self, session: allm.Session, expected_revision: int | None = None) -> None:
        """Store `session` in the place of its revision `expected_revision`; `None`: it is a new one.

        Raises `SessionError` where another revision is stored: load it and apply the turn again.
        """
        entry = _entry(session)
        values = (*entry[1:], allm.to_json(session), entry.id)
        with self._open() as connection:
            if expected_revision is None:
                done = connection.execute(_INSERT, values)
            else:
                done = connection.execute(_UPDATE, (*values, expected_revision))
            if done.rowcount == 0:
                found = connection.execute(_REVISION, (entry.id,)).fetchone()
                raise _conflict(entry.id, expected_revision, found and found[0])

    def load(self, id: str) -> allm.Session:
        """The session `id`. Raises `SessionError` where there is none."""
        row = None
        if self.path.exists():
            with self._open() as connection:
                row = connection.execute("SELECT document FROM sessions WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise allm.SessionError(f"no session {id!r} is stored in {self.path}")
        return allm.from_json(row[0], allm.Session)

    def list(self) -> tuple[SessionEntry, ...]:
        """All sessions, the one that was saved last first."""
        if not self.path.exists():
            return ()
        columns = ", ".join(SessionEntry._fields)
        with self._open() as connection:
            rows = connection.execute(f"SELECT {columns} FROM sessions ORDER BY updated DESC, id").fetchall()
        return tuple(SessionEntry(*row) for row in rows)

    def delete(self, id: str) -> bool:
        """Forget the session `id`; whether there was one."""
        if not self.path.exists():
            return False
        with self._open() as connection:
            return connection.execute("DELETE FROM sessions WHERE id = ?", (id,)).rowcount > 0

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a transaction, which an exception takes back."""
        try:
            _make_private(self.path)
            connection = sqlite3.connect(self.path, timeout=10)
            try:
                with connection:
                    self._prepare(connection)
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise allm.SessionError(f"the sessions in {self.path} cannot be used: {error}") from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise allm.SessionError(
                f"{self.path} has version {version}, this library reads up to version {_VERSION}: update it"
            )
        if version < _VERSION:
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _entry(session: allm.Session) -> SessionEntry:
    """What the list says of a session that is saved now."""
    if not isinstance(session, allm.Session):
        raise allm.SessionError(f"a store keeps sessions (allm.Session), not {type(session).__name__}")
    if not session.id:
        raise allm.SessionError("a session without an id cannot be stored: give it one at the start")
    title, count = title_of(session), len(session.messages)
    return SessionEntry(session.id, title, time(), session.revision, session.status, count)


def _conflict(id: str, expected: int | None, found: int | None) -> allm.SessionError:
    wanted = "that it is new" if expected is None else f"revision {expected}"
    there = "it is gone" if found is None else f"revision {found} is stored"
    text = f"conflict: the session {id!r} was changed by someone else: expected {wanted}, but {there}"
    return allm.SessionError(allm.ErrorInfo(reason="session_invalid", code="revision_conflict", message=text))


def title_of(session: allm.Session) -> str:
    """The first text of the user, on one line and cut."""
    texts = (message.text for message in session.messages if message.role == "user")
    title = " ".join(next((text for text in texts if text.strip()), "").split())
    title = "".join(letter for letter in title if letter.isprintable())
    return title if len(title) <= _TITLE else f"{title[: _TITLE - 3]}..."


def default_path() -> Path:
    """The file of the default store: `sessions.db` in `data_dir()`."""
    return data_dir() / "sessions.db"


def _make_private(path: Path) -> None:
    """Conversations are nobody else's business: what is made here is open to the user only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
