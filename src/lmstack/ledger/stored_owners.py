"""Which key has made a file or batch that a provider keeps. The provider knows only the gateway, so it would show all keys the same."""

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from lmstack.ledger.schema import connect, writing


def add(path: Path, owner: str, ids: Iterable[str]) -> None:
    """Record who has made files or batches. The first owner stays. Raises sqlite3.Error and OSError."""
    with contextlib.closing(connect(path)) as conn:
        conn.execute("PRAGMA busy_timeout = 5000")
        with writing(conn):
            conn.executemany("INSERT OR IGNORE INTO stored_owners VALUES (?,?)", [(id_, owner) for id_ in ids])


def is_owner(path: Path, owner: str, id_: str) -> bool:
    """Return whether a key has made a file or batch. Raises sqlite3.Error and OSError."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as conn:
        found = conn.execute("SELECT owner FROM stored_owners WHERE id = ?", (id_,)).fetchone()
    return found is not None and found[0] == owner
