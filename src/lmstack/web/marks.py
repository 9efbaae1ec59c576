"""What the workers must remember together about logins: used links, ended sessions, failed tries. One small SQLite file.

It is beside the ledger, with mode 600, and holds random ids and counts only. All functions block: call them in a thread.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from lmstack.ledger.schema import connect, writing

WINDOW_SECONDS = 60
MOST_FAILURES, MOST_FROM_ONE_ADDRESS = 60, 5  # in one window


class Marks:
    """The file of marks. Each method raises sqlite3.Error when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def use(self, mark: str, until: float, now: float) -> bool:
        """Mark an id as used until a time. Return False when it was marked before."""
        with self._open() as conn, writing(conn):
            conn.execute("DELETE FROM used WHERE until < ?", (now,))
            return conn.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (mark, until)).rowcount == 1

    def is_used(self, mark: str) -> bool:
        """Return whether an id is marked."""
        with self._open() as conn:
            return conn.execute("SELECT 1 FROM used WHERE mark = ?", (mark,)).fetchone() is not None

    def has_room(self, address: str, now: float) -> bool:
        """Return whether a login from this address may be tried."""
        with self._open() as conn:
            sql = "SELECT COUNT(*), COALESCE(SUM(address = ?), 0) FROM failures WHERE at > ? AND at <= ?"
            everybody, own = conn.execute(sql, (address, now - WINDOW_SECONDS, now)).fetchone()
            return bool(everybody < MOST_FAILURES and own < MOST_FROM_ONE_ADDRESS)

    def fail(self, address: str, now: float) -> None:
        """Count a failed login."""
        with self._open() as conn, writing(conn):
            conn.execute("DELETE FROM failures WHERE at <= ?", (now - WINDOW_SECONDS,))
            conn.execute("INSERT INTO failures VALUES (?, ?)", (now, address))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        conn = connect(self._path)
        try:
            conn.execute("CREATE TABLE IF NOT EXISTS used (mark TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID")
            conn.execute("CREATE TABLE IF NOT EXISTS failures (at REAL NOT NULL, address TEXT NOT NULL)")
            yield conn
        finally:
            conn.close()
