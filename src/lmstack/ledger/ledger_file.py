"""The writer's connection to the ledger: opened when it is needed, and again after a failure. For one thread.

A damaged file is renamed and kept, and a new ledger begins. Another worker may do that at the same time.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

from lmstack.ledger.schema import LedgerVersionError, connect, migrate
from lmstack.ledger.timing import Timing

log = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of some work on the ledger."""

    COMMITTED = "committed"
    BUSY = "busy"  # another connection has locked the file: try again soon
    BROKEN = "broken"  # no file, no space, or a damaged file: the next try opens it again


class LedgerFile:
    """One connection that follows the path: when another worker replaces the file, the next work goes to the new one."""

    def __init__(self, path: Path, timing: Timing, warn: Callable[[str], None]) -> None:
        self.path, self.timing, self.warn = path, timing, warn
        self._conn: sqlite3.Connection | None = None
        self._inode = 0
        self._next_open = 0.0
        self._busy_until = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the ledger was locked a moment ago. Each try waits, and everything behind it waits, too."""
        return time.monotonic() < self._busy_until

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._conn is not None

    def run(self, work: Callable[[sqlite3.Connection], object]) -> Outcome:
        """Do some work with the connection. Log a failure, and repair what can be repaired.

        BROKEN does not mean that nothing was written: a COMMIT may succeed and report an error all the same.
        """
        conn = self._open()
        if conn is None:
            return Outcome.BROKEN
        try:
            work(conn)
        except Exception as error:
            return self._failed(conn, error)
        return Outcome.COMMITTED

    def open_at_once(self) -> None:
        """Let the next work open the file without waiting."""
        self._next_open = 0.0

    def close(self) -> None:
        """Close the connection. The next work opens it again."""
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(sqlite3.Error, OSError):
                conn.close()

    def _failed(self, conn: sqlite3.Connection, error: Exception) -> Outcome:
        if _is_lock(error):
            self._busy_until = time.monotonic() + self.timing.retry
        if is_damage(error):
            self._set_aside(error, self._inode)
            return Outcome.BROKEN
        if conn.in_transaction or (isinstance(error, sqlite3.OperationalError) and not _is_lock(error)):
            self.close()  # disk full, read-only, I/O error: a new connection may work
        self.warn(f"{type(error).__name__}: {error}; requests go on, and it is tried again")
        return Outcome.BUSY if _is_lock(error) else Outcome.BROKEN

    def _open(self) -> sqlite3.Connection | None:
        inode = inode_of(self.path)
        if self._conn is not None and inode == self._inode:
            return self._conn
        self.close()
        if time.monotonic() < self._next_open:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._conn, self._inode = _migrated(self.path), inode_of(self.path)
        except (OSError, sqlite3.Error, LedgerVersionError) as error:
            self._next_open = time.monotonic() + self.timing.retry
            if is_damage(error):
                self._set_aside(error, inode)
            else:
                self.warn(f"cannot open {self.path}: {error}; requests go on, and their records go to the spool file")
        return self._conn

    def _set_aside(self, error: Exception, inode: int) -> None:
        """Rename a damaged file, unless another worker has done so already."""
        self.close()
        with contextlib.suppress(OSError), _locked(self.path):
            if inode_of(self.path) != inode:
                return
            aside = _unused_name(self.path)
            text = "ledger: %s is damaged (%s); it is kept as %s and a new ledger begins"
            log.error(text, self.path, error, aside.name)
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")


def _migrated(path: Path) -> sqlite3.Connection:
    conn = connect(path)
    try:
        migrate(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def _unused_name(path: Path) -> Path:
    """Return a name for a damaged ledger. A rename to a name that exists would delete the file of that name."""
    seconds = int(time.time())
    while (aside := path.with_name(f"{path.name}.corrupt-{seconds}")).exists():
        seconds += 1
    return aside


def _is_lock(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "busy" in str(error))


def is_damage(error: Exception) -> bool:
    """Return whether the file is damaged or no database. SQLite has no class for that; its subclasses mean other things."""
    return type(error) is sqlite3.DatabaseError


def inode_of(path: Path) -> int:
    """Return the inode number of a file, 0 when there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that all workers of a ledger share."""
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
