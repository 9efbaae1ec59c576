"""What the writer's thread does with its files: the connection, the spool, the other workers. Only that thread may use it.

What the ledger does not take (locked, full, read-only, damaged) goes to the spool within SPOOL_AFTER_SECONDS and into the
ledger when it can. What not even the spool takes waits in memory, and what no longer fits there is counted.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path

from lmstack.ledger import apply, spool
from lmstack.ledger.housekeeping import Bounds, tidy
from lmstack.ledger.neighbours import Neighbours
from lmstack.ledger.records import Record, Started, Verdict
from lmstack.ledger.schema import DEAD_AFTER_SECONDS, LedgerVersionError, connect, migrate, writing

log = logging.getLogger(__name__)

QUEUE_SIZE = 20_000
SPOOL_AFTER_SECONDS = 0.25
RETRY_SECONDS = 0.5
CLOSE_SECONDS = 2.0
TIDY_SECONDS = 0.05
LOOK_BEHIND_SECONDS = 5.0


class Tried(Enum):
    """How something with the ledger went."""

    DONE = "done"
    BUSY = "busy"  # locked: it passes
    BROKEN = "broken"  # no file, no room, damaged: opened anew at the next try


class Session:
    """``lost``: records that nothing took; ``spooled``: records that the ledger did not take at once."""

    def __init__(self, path: Path, events: bool, bounds: Bounds, worker: str, warn: Callable[[str], None]) -> None:
        self.path, self.events, self.bounds, self.worker, self.warn = path, events, bounds, worker, warn
        self.lost = self.spooled = 0
        self.spool = spool.Spool(path, worker)
        self.neighbours = Neighbours(worker, DEAD_AFTER_SECONDS)
        self.held: list[Record] = []
        self.conn: sqlite3.Connection | None = None
        self.inode = 0
        self.next_try = 0.0
        self.busy_until = 0.0
        self.next_look = 0.0

    def store(self, records: Sequence[Record]) -> list[Verdict]:
        """Make records durable and return a verdict for each. A start under a budget is only let in by the ledger itself,
        which knows what was spent."""
        if not records and not self.held:
            return []
        if self.spool.pending and not self._is_busy() and any(_is_limited(record) for record in records):
            self._take_over()
        waiting = [*self.held, *records]
        if not self.spool.pending:
            verdicts = self._commit(waiting)
            if verdicts is not None:
                self.held = []
                return verdicts[len(waiting) - len(records) :]
        durable = self._keep([record for record in waiting if not _is_limited(record)])
        return [Verdict(False, checked=False) if _is_limited(record) else Verdict(durable) for record in records]

    def hold(self, records: Iterable[Record]) -> None:
        """Keep in memory what could not be stored; the oldest is lost when there is no room."""
        waiting = [*self.held, *(record for record in records if not _is_limited(record))]
        self.lost += max(0, len(waiting) - QUEUE_SIZE)
        self.held = waiting[-QUEUE_SIZE:]

    def beat(self) -> None:
        """Show that we live, take over spools, end what dead workers left, keep the file within its bounds."""
        if self.held:
            self.store([])
        if self.spool.pending and not self._is_busy():
            self._take_over()
        if not self.spool.pending:
            self._try(self._beat)
        if not self._is_busy():
            self._try(self._tidy)

    def close(self) -> None:
        """Make durable what is held, in the spool if the ledger takes nothing; then close the file."""
        if self.held:
            self.store([])
            self.lost += len(self.held)
        deadline = time.monotonic() + CLOSE_SECONDS
        while self.spool.pending and time.monotonic() < deadline:
            self.next_try = 0.0
            self._take_over()
            if self.spool.pending:  # locked by another worker, for one
                time.sleep(0.05)
        if self.conn is not None:
            self._try(self._part)
            self._drop()
        self.spool.let_go()

    def _keep(self, records: list[Record]) -> bool:
        """Spool records, or hold them; whether they are durable."""
        try:
            self.spool.append(records)
        except OSError:
            self.held = []
            self.hold(records)
            return False
        self.held = []
        # Taken over at the next beat: as long as the ledger is stuck, nothing may wait for it.
        self.spooled += len(records)
        return True

    def _commit(self, records: list[Record]) -> list[Verdict] | None:
        """Verdicts when the ledger took the records within SPOOL_AFTER_SECONDS, else None."""
        deadline = time.monotonic() + SPOOL_AFTER_SECONDS
        verdicts: list[Verdict] = []
        while True:
            tried = self._try(lambda conn: verdicts.extend(self._apply(conn, records)))
            if tried is Tried.DONE:
                return verdicts
            if tried is Tried.BROKEN or time.monotonic() >= deadline:
                return None

    def _take_over(self) -> None:
        """Move our spool into the ledger, in the order of its lines."""
        for path in self.spool.files():
            if self._try(lambda conn, path=path: self._ingest(conn, path)) is not Tried.DONE:  # type: ignore[misc]
                return
        self.spool.emptied()  # also where another worker took us for dead, and has taken it over

    def _ingest(self, conn: sqlite3.Connection, path: Path, dead: str | None = None) -> None:
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            self._apply(conn, list(spool.read(path)), dead)
        path.unlink(missing_ok=True)

    def _apply(self, conn: sqlite3.Connection, records: list[Record], dead: str | None = None) -> list[Verdict]:
        """Our own records, or those that a ``dead`` worker left."""
        how = apply.adopt if dead else apply.transaction
        verdicts = how(conn, records, dead or self.worker, self.events)
        refused = sum(not verdict.durable and verdict.over is None for verdict in verdicts)
        if refused:
            self.lost += refused
            self.warn(f"{refused} records are lost: SQLite refuses them")
        return verdicts

    def _beat(self, conn: sqlite3.Connection) -> None:
        apply.beat(conn, self.worker, time.time())
        beats = apply.beats(conn)
        dead = self.neighbours.dead(beats, time.monotonic())
        if dead or time.monotonic() >= self.next_look:
            self._look_behind(conn, beats, dead)
            self.next_look = time.monotonic() + LOOK_BEHIND_SECONDS
        if dead:
            with writing(conn):
                apply.interrupt_orphans(conn, dead, time.time(), self.events)

    def _look_behind(self, conn: sqlite3.Connection, beats: Iterable[str], dead: list[str]) -> None:
        """Take over the spools of the dead, before their rows are called interrupted: how they ended may be in there.
        A spool whose worker lives is locked by it, whether that worker has come to the ledger yet or not."""
        gone = {spool.name_of(worker) for worker in dead}
        for path in spool.left_behind(self.path, set(beats).difference(dead)):
            unknown = spool.worker_of(self.path, path) not in gone
            if not spool.is_held(path) and not (unknown and _age(path) < DEAD_AFTER_SECONDS):
                self._ingest(conn, path, dead=path.name)

    def _tidy(self, conn: sqlite3.Connection) -> None:
        """Delete what is due, for TIDY_SECONDS at most: commits wait behind it."""
        until = time.monotonic() + TIDY_SECONDS
        while gone := tidy(conn, self.bounds, time.time()):
            if "pending" in gone:
                self.warn(f"the ledger is full (LEDGER_MAX_MB): {gone['pending']} undelivered events were dropped")
            if time.monotonic() > until:
                return

    def _part(self, conn: sqlite3.Connection) -> None:
        """An orderly end: nobody has to wait for our heartbeat to run out, unless we left something open."""
        sql = "DELETE FROM workers WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM requests WHERE status = 'started' AND worker = ?1)"
        conn.execute(sql, (self.worker,))

    def _try(self, work: Callable[[sqlite3.Connection], object]) -> Tried:
        """Do something with the ledger. A failure is said once a minute, and mended where it can be."""
        conn = self._open()
        if conn is None:
            return Tried.BROKEN
        try:
            work(conn)
        except sqlite3.OperationalError as error:  # locked, disk full, read-only, I/O error: they pass
            self.warn(f"{error}; requests go on, {self.spool.pending + len(self.held)} records wait")
            if "locked" in str(error) or "busy" in str(error):
                self.busy_until = time.monotonic() + RETRY_SECONDS
                return Tried.BUSY
            self._drop()
        except Exception as error:
            if _is_damage(error):
                self._set_aside(error, self.inode)
            else:
                self.warn(f"{type(error).__name__}: {error}")
        else:
            return Tried.DONE
        return Tried.BROKEN

    def _is_busy(self) -> bool:
        """Whether the ledger was locked a moment ago: each try waits, and what comes after it waits behind it."""
        return time.monotonic() < self.busy_until

    def _open(self) -> sqlite3.Connection | None:
        """The connection to the file that the path leads to now: another worker may have set the last one aside."""
        inode = _inode(self.path)
        if self.conn is not None and inode == self.inode:
            return self.conn
        self._drop()
        if time.monotonic() < self.next_try:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            conn = connect(self.path)
            migrate(conn)
        except (OSError, sqlite3.Error, LedgerVersionError) as error:
            if _is_damage(error):
                self._set_aside(error, inode)
            else:
                self.warn(f"cannot open {self.path}: {error}; requests go on and are spooled")
        else:
            self.conn, self.inode = conn, _inode(self.path)
            return conn
        self.next_try = time.monotonic() + RETRY_SECONDS
        return None

    def _drop(self) -> None:
        conn, self.conn = self.conn, None
        if conn is not None:
            with contextlib.suppress(sqlite3.Error):
                conn.close()

    def _set_aside(self, error: Exception, inode: int) -> None:
        """Rename a damaged file and go on with a new one, unless another worker has done so already."""
        self._drop()
        with contextlib.suppress(OSError), _alone(self.path):
            if _inode(self.path) != inode:
                return
            aside = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
            text = "ledger: %s is damaged (%s); it is kept as %s and a new one begins"
            log.error(text, self.path, error, aside.name)
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")


def _is_limited(record: Record) -> bool:
    return isinstance(record, Started) and bool(record.limits)


def _is_damage(error: Exception) -> bool:
    """No ledger, or a broken one: SQLite has no class of its own for that. Its subclasses mean other things."""
    return type(error) is sqlite3.DatabaseError


def _age(path: Path) -> float:
    """Seconds since it was written, whichever way the clock was set since."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that all workers of a ledger share, beside it."""
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
