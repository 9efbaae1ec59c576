"""Open the ledger's SQLite file, run transactions on it, and bring it to the newest schema.

Only the writer migrates. A reader never alters a file, and refuses a ledger that is newer than this code.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from lmstack.ledger.migrations import MIGRATIONS

VERSION = len(MIGRATIONS)
BUSY_MS = 250


class LedgerVersionError(Exception):
    """A newer lmstack wrote this ledger."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger for writing. WAL mode lets readers and several workers use it at the same time."""
    with contextlib.suppress(OSError):  # The file exists, or SQLite reports what is wrong.
        # Only this user may read the file. SQLite gives its companion files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    conn = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        conn.execute("PRAGMA auto_vacuum = INCREMENTAL")  # Has an effect on a new file only.
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = NORMAL")  # Survives a killed process. A power cut may lose the last commits.
        conn.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        conn.close()
        raise
    return conn


@contextlib.contextmanager
def writing(conn: sqlite3.Connection) -> Iterator[None]:
    """Run one write transaction on a connection in autocommit mode. Any exception rolls it back."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def migrate(conn: sqlite3.Connection) -> None:
    """Bring ``conn`` (autocommit mode) to ``VERSION``. Several workers may call this at the same time.

    Raises LedgerVersionError for a newer file, sqlite3.Error when the file cannot be written.
    """
    if _applied(conn) == VERSION:
        return
    with writing(conn):
        conn.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT, applied_at REAL)")
        for number in range(_applied(conn) + 1, VERSION + 1):
            step = MIGRATIONS[number - 1]
            step(conn)
            conn.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, step.__name__, time.time()))


def check_version(conn: sqlite3.Connection) -> None:
    """Raise LedgerVersionError when the file is newer than this code."""
    _applied(conn)


def _applied(conn: sqlite3.Connection) -> int:
    try:
        row = conn.execute("SELECT COALESCE(MAX(number), 0) FROM migrations").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # a new file
            return 0
        raise
    applied = int(row[0])
    if applied > VERSION:
        raise LedgerVersionError(
            f"the ledger has schema {applied}, but this lmstack knows only schema {VERSION}: upgrade lmstack"
        )
    return applied
