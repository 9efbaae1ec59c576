"""The sender: takes leased events from the outbox to TaskMaster, at least once, in order per task.

One thread per worker process, and a few that post. A task's lane is leased, so an event has one sender at a time over
all workers, and a slow receiver holds up nothing but the lanes that it is slow on.
An outage of the receiver costs a model call nothing: this thread shares only the SQLite file with it.
"""

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from lmstack.delivery.contract import Target
from lmstack.delivery.poster import PAUSE_AFTER_GONE_SECONDS, Poster, unposted
from lmstack.ledger import outbox
from lmstack.ledger.outbox import Outgoing, Settled
from lmstack.ledger.schema import connect, writing

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
RETRY_SECONDS = 1.0
PARALLEL = 8
RUN_EVENTS = 50
LOCK_WAIT_MS = 5000
BATCH_LANES, BATCH_EVENTS = 50, 100
# A clock that is adjusted goes back by less.
CLOCK_SLACK_SECONDS = 5.0
# This many failures with no success between: the receiver is down. Then one probe at a time, further and further apart.
DOWN_AFTER = 2 * PARALLEL
PROBE_SECONDS = (1, 2, 5, 10, 30)

Job = list[list[Outgoing]]  # the runs that one thread posts
Post = Callable[[httpx.Client, Job], list[Settled]]


@dataclass(slots=True)
class Inbox:
    """The outcomes of posts: how many are still under way, and which the ledger has not taken yet.

    Each post puts one list, with an outcome for each of its lanes.
    """

    results: "queue.SimpleQueue[list[Settled]]" = field(default_factory=queue.SimpleQueue)
    under_way: int = 0
    unsettled: list[Settled] = field(default_factory=list)

    def take(self, wait: bool) -> list[list[Settled]]:
        """Return the posts that came back since the last look; with ``wait``, wait up to POLL_SECONDS for the first."""
        found: list[list[Settled]] = []
        while True:
            try:
                come = self.results.get(timeout=POLL_SECONDS) if wait and not found else self.results.get_nowait()
            except queue.Empty:
                return found
            self.under_way -= 1
            self.unsettled += come
            found.append(come)

    def begin(self, same_file: bool) -> None:
        """Start a new session. All posts of the last one have ended; outcomes for another file mean nothing here."""
        self.take(wait=False)
        self.under_way = 0
        if not same_file:
            self.unsettled = []


class Sender:
    """Sends until stopped. ``wake`` makes it look at once instead of at the next poll; ``clock`` is for tests."""

    def __init__(self, path: Path, target: Target, clock: Callable[[], float] = time.time, owner: str = "") -> None:
        self._path, self._clock = path, clock
        # A worker's own name, so that its leases are given back when it is found dead.
        self._owner = owner or f"{os.getpid()}:{os.urandom(4).hex()}"
        self._wake, self._stop = threading.Event(), threading.Event()
        self._poster = Poster(target, self._stop.is_set)
        self._inbox = Inbox()
        self._recovered = False
        self._failures = 0
        self._not_before = 0.0
        self._last_seen = 0.0  # the wall clock at the last look
        self._file: tuple[int, int] | None = None
        self._next_warning = 0.0
        self._thread = threading.Thread(target=self._run, name="lmstack-sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be something new to send."""
        self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Finish the posts under way, give the leases back, end the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Exception):  # also what fails while a failure is told
                self._attend()

    def _attend(self) -> None:
        try:
            self._session()
        except Exception as error:  # the thread must outlive a locked or missing file
            self._stop.wait(RETRY_SECONDS)
            self._warn(f"{type(error).__name__}: {error}")

    def _session(self) -> None:
        """One connection, one pool. When the file is stuck, what was sent meanwhile is sent again: at least once."""
        identity = _identity(self._path)
        if identity is None:
            self._stop.wait(POLL_SECONDS)
            return
        conn = connect(self._path)
        try:
            # Nobody waits for this thread, so it can wait for its turn; a request's writer cannot.
            conn.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
            self._inbox.begin(identity == self._file)
            self._file = identity
            with writing(conn):
                outbox.mend_due_times(conn, self._clock())
            with self._poster.client(PARALLEL) as client, ThreadPoolExecutor(PARALLEL) as pool:
                self._serve(conn, client, pool, identity)
                pool.shutdown()
                self._collect(conn, wait=False)
                outbox.release(conn, self._owner)
        finally:
            conn.close()

    def _serve(
        self, conn: sqlite3.Connection, client: httpx.Client, pool: ThreadPoolExecutor, identity: tuple[int, int]
    ) -> None:
        """Lease, post and settle, until stopped or until the path leads to another file."""
        while not self._stop.is_set() and _identity(self._path) == identity:
            self._notice_the_clock(conn)
            busy = self._submit(conn, client, pool)
            collected = self._collect(conn, wait=self._inbox.under_way > 0)
            if not collected and not busy and not self._inbox.under_way:
                self._wake.wait(POLL_SECONDS)
                self._wake.clear()

    def _notice_the_clock(self, conn: sqlite3.Connection) -> None:
        """When the wall clock was set back, times to come lie too far ahead: all that waits is due now."""
        now = self._clock()
        if now < self._last_seen - CLOCK_SLACK_SECONDS:
            self._not_before = 0.0
            with writing(conn):
                outbox.clock_set_back(conn, now)
        self._last_seen = now

    def _submit(self, conn: sqlite3.Connection, client: httpx.Client, pool: ThreadPoolExecutor) -> bool:
        """Fill the free slots; False when there was nothing to do."""
        down = self._failures >= DOWN_AFTER
        slots = (1 if down else PARALLEL) - self._inbox.under_way
        now = self._clock()
        if slots <= 0 or now < self._not_before:
            return False
        if self._poster.target.batch:
            most = 1 if down else BATCH_EVENTS
            runs = outbox.lease(conn, self._owner, now, 1 if down else BATCH_LANES, most, most)
            jobs, post = [runs] if runs else [], self._poster.batch
        else:
            runs = outbox.lease(conn, self._owner, now, slots, 1 if down else RUN_EVENTS)
            jobs, post = [[run] for run in runs], self._poster.run
        for job in jobs:
            self._start(pool, post, client, job)
        return bool(jobs)

    def _start(self, pool: ThreadPoolExecutor, post: Post, client: httpx.Client, job: Job) -> None:
        self._inbox.under_way += 1
        once = [job]
        try:
            pool.submit(self._do, post, client, once, self._inbox.results)
        except Exception as error:  # no thread is to be had right now
            # The pool keeps what it could not start a thread for, and another thread of it may run that later.
            with contextlib.suppress(IndexError):
                self._inbox.results.put([Settled(run, 0, unposted(error)) for run in once.pop()])

    def _do(
        self, post: Post, client: httpx.Client, once: list[Job], results: "queue.SimpleQueue[list[Settled]]"
    ) -> None:
        """In a thread of the pool: report back exactly once, whatever happens. Who takes the job reports on it."""
        try:
            job = once.pop()
        except IndexError:
            return
        try:
            results.put(post(client, job))
        except Exception as error:
            results.put([Settled(run, 0, unposted(error)) for run in job])

    def _collect(self, conn: sqlite3.Connection, wait: bool) -> bool:
        """Settle what has come back, all in one transaction; False when nothing has."""
        for post in self._inbox.take(wait and not self._inbox.unsettled):
            self._recovered |= self._judge(post)
        if not self._inbox.unsettled:
            return False
        with writing(conn):
            for result in self._inbox.unsettled:
                outbox.settle(conn, self._owner, result, self._clock())
            if self._recovered:
                outbox.hurry(conn, self._clock())
        self._inbox.unsettled, self._recovered = [], False
        return True

    def _judge(self, results: list[Settled]) -> bool:
        """Learn from one post whether the receiver is up; True when it has just come back."""
        was_down = self._failures >= DOWN_AFTER
        if any(result.delivered for result in results):
            self._failures = 0
        failures = [result.failure for result in results if result.failure is not None]
        if failures:
            self._warn(f"TaskMaster did not take an event: {failures[0].error}")
        if any(failure.status == 410 for failure in failures):
            self._not_before = self._clock() + PAUSE_AFTER_GONE_SECONDS
        elif any(not failure.final for failure in failures):
            self._failures += 1
        if self._failures >= DOWN_AFTER:
            step = min(self._failures - DOWN_AFTER, len(PROBE_SECONDS) - 1)
            self._not_before = max(self._not_before, self._clock() + PROBE_SECONDS[step])
        return was_down and self._failures == 0

    def _warn(self, text: str) -> None:
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + 60
            log.warning("delivery: %s", text)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file the path leads to now, None when to none: a damaged ledger is set aside under another name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
