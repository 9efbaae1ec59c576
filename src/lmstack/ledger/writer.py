"""The one writer of the ledger: a bounded queue and one thread per worker process, commits in groups.

It never blocks the event loop (hooks await a future) and never raises into a request. What the file does not take
(locked, full, read-only, corrupt) goes to the spool within SPOOL_AFTER_SECONDS and into the ledger when it can;
what not even the spool takes waits in memory, and what no longer fits there is counted. It must not know LiteLLM.
"""

import asyncio
import contextlib
import logging
import os
import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lmstack.ledger import apply, spool
from lmstack.ledger.housekeeping import Bounds, tidy
from lmstack.ledger.records import Record
from lmstack.ledger.schema import DEAD_AFTER_SECONDS, LedgerVersionError, connect, migrate, writing

log = logging.getLogger(__name__)

QUEUE_SIZE = 20_000
BATCH_SIZE = 500
BEAT_SECONDS = 2.0
WAIT_SECONDS = 0.5
SPOOL_AFTER_SECONDS = 0.25
RETRY_SECONDS = 0.5
WARN_EVERY_SECONDS = 60.0
TIDY_EVERY_BEATS = 5
Job = tuple[Record | None, "Waiter | threading.Event | None"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where the ledger is, whether TaskMaster is to be told, and how large it may grow."""

    path: Path
    events: bool
    bounds: Bounds = field(default_factory=Bounds)


class Waiter:
    """Somebody on an event loop who waits for a commit."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[bool]") -> None:
        self.loop, self.future = loop, future

    def settle(self, durable: bool) -> None:
        """On the loop's own thread; the first verdict counts."""
        if not self.future.done():
            self.future.set_result(durable)


def _tell(done: "list[Waiter | threading.Event]", durable: bool) -> None:
    """Report a commit: one wake-up for each event loop, however many wait there."""
    waiting: dict[asyncio.AbstractEventLoop, list[Waiter]] = {}
    for one in done:
        if isinstance(one, Waiter):
            waiting.setdefault(one.loop, []).append(one)
        else:
            one.set()
    for loop, waiters in waiting.items():
        with contextlib.suppress(RuntimeError):  # the loop may be closed by the time a late commit reports back
            loop.call_soon_threadsafe(_settle, waiters, durable)


def _settle(waiters: list[Waiter], durable: bool) -> None:
    for waiter in waiters:
        waiter.settle(durable)


class Writer:
    """Takes records from any thread; ``write`` awaits the commit, ``post`` does not."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self.unrecorded = 0
        self.spooled = 0
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._next_warning = 0.0
        self._session = _Session(self)
        self._thread = threading.Thread(target=self._run, name="lmstack-writer", daemon=True)
        self._thread.start()

    def post(self, record: Record, waiter: "Waiter | None" = None) -> None:
        """Queue a record; when the queue is full it is counted as unrecorded instead of slowing the request."""
        if self._queue.qsize() < QUEUE_SIZE:
            self._queue.put((record, waiter))
            return
        self.unrecorded += 1
        if waiter is not None:
            waiter.settle(False)
        self.warn(f"{self.unrecorded} records are lost: the ledger at {self.options.path} and its spool take nothing")

    async def write(self, record: Record) -> bool:
        """Queue a record and wait until it is durable (ledger or spool), at most WAIT_SECONDS; False when it is not yet."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop, loop.create_future())
        # Not asyncio.wait_for, which makes a second future for each of millions.
        timer = loop.call_later(WAIT_SECONDS, self._too_late, waiter)
        self.post(record, waiter)
        try:
            return await waiter.future
        finally:
            timer.cancel()

    def _too_late(self, waiter: "Waiter") -> None:
        waiter.settle(False)
        self.warn("a commit took longer than a request may wait for it; it goes on in the background")

    def flush(self, seconds: float) -> bool:
        """Wait until everything queued so far is durable; False when that takes longer."""
        committed = threading.Event()
        self._queue.put((None, committed))
        return committed.wait(seconds)

    def close(self, seconds: float = 5.0) -> None:
        """Make durable what is queued, in the spool if the ledger takes nothing, and end the thread."""
        self.flush(seconds)
        self._stop.set()
        self._queue.put((None, None))
        self._thread.join(seconds)

    def warn(self, text: str) -> None:
        """Say it at most once a minute."""
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + WARN_EVERY_SECONDS
            log.warning("ledger: %s", text)

    def _run(self) -> None:
        next_beat = 0.0
        while not self._stop.is_set():
            batch = self._take(min(BEAT_SECONDS, max(0.0, next_beat - time.monotonic())))
            records = [record for record, _ in batch if record is not None]
            durable = self._store(records)
            _tell([done for _, done in batch if done is not None], durable)
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_SECONDS
                self._session.beat()
        self._session.close()

    def _store(self, records: list[Record]) -> bool:
        try:
            return self._session.store(records)
        except Exception:  # a bug of ours; without this thread nothing would ever be recorded again
            self.unrecorded += len(records)
            log.exception("ledger: %s records are lost", len(records))
            return False

    def _take(self, wait: float) -> list[Job]:
        try:
            batch = [self._queue.get(timeout=wait)] if wait > 0 else [self._queue.get_nowait()]
        except queue.Empty:
            return []
        while len(batch) < BATCH_SIZE:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch


class _Session:
    """The writer thread's side: the connection, the spool, the other workers. Only that thread may use it."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.options = writer, writer.options
        self.spool = spool.Spool(writer.options.path, writer.worker)
        self.conn: sqlite3.Connection | None = None
        self.inode = 0
        self.next_try = 0.0
        self.held: list[Record] = []
        self.beats = 0
        # Another worker's last beat, and when by our own clock it was first seen: no jump of the clock kills a worker.
        self.seen: dict[str, tuple[float, float]] = {}
        self.beaten_at = 0.0
        self.looked_behind = False

    def store(self, records: list[Record]) -> bool:
        """Make records durable; False when neither the ledger nor the spool took them (they are held in memory)."""
        if not records and not self.held:
            return True
        waiting, self.held = self.held + records, []
        if not self.spool.pending and self._commit(waiting):
            return True
        try:
            self.spool.append(waiting)
        except OSError:
            room = QUEUE_SIZE - len(waiting)
            self.held = waiting if room >= 0 else waiting[-QUEUE_SIZE:]
            self.writer.unrecorded += max(0, -room)
            return False
        # Taken over at the next beat: as long as the ledger is stuck, nothing may wait for it.
        self.writer.spooled += len(waiting)
        return True

    def beat(self) -> None:
        """Show that we live, take over spools, end what dead workers left, keep the file within its bounds."""
        self.beats += 1
        if self.held:
            self.store([])
        if self.spool.pending:
            self._take_over()
        if not self.spool.pending:
            self._guard(self._beat)
        if self.beats % TIDY_EVERY_BEATS == 0:
            self._guard(self._tidy)

    def close(self) -> None:
        """Last chance for what is held; then close the file."""
        if self.held:
            self.store([])
            self.writer.unrecorded += len(self.held)
        if self.spool.pending:
            self._take_over()
        if self.conn is not None:
            self._guard(self._part)
            self._drop()

    def _commit(self, records: list[Record]) -> bool:
        deadline = time.monotonic() + SPOOL_AFTER_SECONDS
        while True:
            if self._guard(lambda conn: self._apply(conn, records)):
                return True
            if time.monotonic() >= deadline or self.conn is None:
                return False

    def _take_over(self) -> None:
        """Move our spool into the ledger, in the order of its lines."""
        for path in self.spool.files():
            if not self._guard(lambda conn, path=path: self._ingest(conn, path)):  # type: ignore[misc]
                return
        self.spool.pending = 0  # also where another worker took us for dead, and has taken it over

    def _ingest(self, conn: sqlite3.Connection, path: Path, dead: str | None = None) -> None:
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            self._apply(conn, list(spool.read(path)), dead)
        path.unlink(missing_ok=True)

    def _apply(self, conn: sqlite3.Connection, records: list[Record], dead: str | None = None) -> None:
        """Our own records, or those that a ``dead`` worker left."""
        how = apply.adopt if dead else apply.transaction
        refused = how(conn, records, dead or self.writer.worker, self.options.events)
        if refused:
            self.writer.unrecorded += refused
            self.writer.warn(f"{refused} records are lost: SQLite refuses them")

    def _beat(self, conn: sqlite3.Connection) -> None:
        apply.beat(conn, self.writer.worker, time.time())
        beats = apply.beats(conn)
        dead = self._dead(beats)
        if dead or not self.looked_behind:
            self._look_behind(conn, beats, dead)
        if dead:
            with writing(conn):
                apply.interrupt_orphans(conn, dead, time.time(), self.options.events)

    def _look_behind(self, conn: sqlite3.Connection, beats: Iterable[str], dead: list[str]) -> None:
        """Take over the spools of the dead, before their rows are called interrupted: how they ended may be in there.
        Who is not on the ledger may only not have come to it yet, so its spool must have lain for a while."""
        unknown = spool.left_behind(self.options.path, beats)
        self.looked_behind = True
        for path in spool.left_behind(self.options.path, set(beats).difference(dead)):
            if path in unknown and _age(path) < DEAD_AFTER_SECONDS:
                self.looked_behind = False
            else:
                self._ingest(conn, path, dead=path.name)

    def _dead(self, beats: dict[str, float]) -> list[str]:
        now, dead = time.monotonic(), []
        if now - self.beaten_at > DEAD_AFTER_SECONDS / 3:
            self.seen.clear()  # what kept us from it (a locked file, a full disk) kept the others from it too
        self.beaten_at = now
        for worker, beat_at in beats.items():
            last = self.seen.get(worker)
            if last is None or last[0] != beat_at:
                self.seen[worker] = (beat_at, now)
            elif worker != self.writer.worker and now - last[1] > DEAD_AFTER_SECONDS:
                dead.append(worker)
        self.seen = {worker: value for worker, value in self.seen.items() if worker in beats}
        return dead

    def _tidy(self, conn: sqlite3.Connection) -> None:
        gone = tidy(conn, self.options.bounds, time.time())
        if "pending" in gone:
            self.writer.warn(f"the ledger is full (LEDGER_MAX_MB): {gone['pending']} undelivered events were dropped")

    def _part(self, conn: sqlite3.Connection) -> None:
        """An orderly end: nobody has to wait for our heartbeat to run out, unless we left something open."""
        sql = "DELETE FROM workers WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM requests WHERE status = 'started' AND worker = ?1)"
        conn.execute(sql, (self.writer.worker,))

    def _guard(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Do something with the ledger; a failure is said once a minute, and mended where it can be."""
        conn = self._open()
        if conn is None:
            return False
        try:
            work(conn)
            return True
        except sqlite3.OperationalError as error:  # locked, disk full, read-only, I/O error: they pass
            self.writer.warn(f"{error}; requests go on, {self.spool.pending + len(self.held)} records wait")
            if "locked" not in str(error) and "busy" not in str(error):
                self._drop()
        except Exception as error:
            if _is_damage(error):
                self._corrupt(error)
            else:
                self.writer.warn(f"{type(error).__name__}: {error}")
        return False

    def _open(self) -> sqlite3.Connection | None:
        path = self.options.path
        if self.conn is not None and (self.beats % TIDY_EVERY_BEATS or _inode(path) == self.inode):
            return self.conn
        self._drop()
        if time.monotonic() < self.next_try:
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            conn = connect(path)
            migrate(conn)
        except (OSError, sqlite3.Error, LedgerVersionError) as error:
            if _is_damage(error):
                self._corrupt(error)
            else:
                self.writer.warn(f"cannot open {path}: {error}; requests go on and are spooled")
        else:
            self.conn, self.inode = conn, _inode(path)
            return conn
        self.next_try = time.monotonic() + RETRY_SECONDS
        return None

    def _drop(self) -> None:
        if self.conn is not None:
            self.conn.close()
            self.conn = None

    def _corrupt(self, error: Exception) -> None:
        """Set a damaged file aside and go on with a new one; another worker may have done it already."""
        same = self.conn is None or _inode(self.options.path) == self.inode
        self._drop()
        if not same:
            return
        aside = self.options.path.with_name(f"{self.options.path.name}.corrupt-{int(time.time())}")
        log.error(
            "ledger: %s is damaged (%s); it is kept as %s and a new one begins", self.options.path, error, aside.name
        )
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{self.options.path}{suffix}")
            try:
                part.rename(f"{aside}{suffix}")
            except OSError:
                continue


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
