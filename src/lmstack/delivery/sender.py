"""The sender: takes leased events from the outbox to TaskMaster or a webhook, at least once, and in order for each task.

Each worker process has one such thread for each target, and a few threads that post. A lane (the queue of one task) is leased, so an
event has one sender at a time. A slow receiver delays only the lanes that it is slow on.
An outage of the receiver must not delay a model call: this thread shares only the SQLite file with it.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from lmstack.delivery.availability import Availability
from lmstack.delivery.contract import Target
from lmstack.delivery.inbox import Inbox, Results
from lmstack.delivery.poster import Poster, failure_of
from lmstack.ledger import outbox, retries
from lmstack.ledger.outbox import LeasedEvent, RunOutcome
from lmstack.ledger.schema import connect, writing

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
RETRY_SECONDS = 1.0
PARALLEL = 8
RUN_EVENTS = 50
LOCK_WAIT_MS = 5000
BATCH_LANES, BATCH_EVENTS = 50, 100
# A correction of the clock is smaller than this.
CLOCK_SLACK_SECONDS = 5.0
WARN_EVERY_SECONDS = 60.0

Job = list[list[LeasedEvent]]  # the runs that one thread posts
Post = Callable[[httpx.Client, Job], list[RunOutcome]]


class Sender:
    """Sends until it is closed. ``wake`` makes it look for events now. ``clock`` gives Unix seconds; tests set it."""

    def __init__(
        self, path: Path, target: Target, clock: Callable[[], float] = time.time, owner: str = "", poll: float | None = None
    ) -> None:  # fmt: skip
        self._path, self._target, self._clock = path, target, clock
        self._poll = POLL_SECONDS if poll is None else poll  # between two looks, while nothing wakes it
        # The name of the worker: when the worker is found dead, the leases of this name are released.
        self._owner = owner or f"{os.getpid()}:{os.urandom(4).hex()}"
        self._wake, self._stop = threading.Event(), threading.Event()
        self._poster = Poster(target, self._stop.is_set)
        self._inbox = Inbox()
        self._receiver = Availability()
        self._is_back = False
        self._last_seen = clock()  # the wall clock at the last look
        self._file: tuple[int, int] | None = None
        self._next_warning = 0.0
        self._thread = threading.Thread(target=self._run, name="lmstack-sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look for new events now."""
        self._wake.set()

    def stop(self) -> None:
        """Begin no further post. Does not wait for those under way."""
        self._stop.set()
        self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Finish the posts under way, release the leases, end the thread."""
        self.stop()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Exception):  # the logging of a failure may fail, too
                self._attempt_session()

    def _attempt_session(self) -> None:
        try:
            self._session()
        except Exception as error:  # the thread must survive a locked or missing file
            self._stop.wait(RETRY_SECONDS)
            self._warn(f"{type(error).__name__}: {error}; it is tried again")

    def _session(self) -> None:
        """Use one connection and one pool of threads. Events that were sent while the file was stuck are sent again."""
        identity = _identity(self._path)
        if identity is None:
            self._stop.wait(POLL_SECONDS)
            return
        conn = connect(self._path)
        try:
            # No request waits for this thread, so it may wait long for a lock. The writer may not.
            conn.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
            self._inbox.begin(identity == self._file)
            self._file = identity
            with writing(conn):
                retries.repair_due_times(conn, self._clock())
            # Before any new lease: these outcomes may be in the ledger already, because a COMMIT can succeed and
            # report an error. Then their lanes are released, and settling them again changes nothing.
            self._settle(conn)
            # Posts of the last session have all ended. A lease that is left comes from a COMMIT with an error.
            with writing(conn):
                outbox.release(conn, self._owner, self._target.column)
            with self._poster.client(PARALLEL) as client, ThreadPoolExecutor(PARALLEL) as pool:
                self._serve(conn, client, pool, identity)
                pool.shutdown()
                self._collect(conn)
                outbox.release(conn, self._owner, self._target.column)
        finally:
            conn.close()

    def _serve(
        self, conn: sqlite3.Connection, client: httpx.Client, pool: ThreadPoolExecutor, identity: tuple[int, int]
    ) -> None:
        """Lease, post and settle, until the sender is closed or the path leads to another file."""
        while not self._stop.is_set() and _identity(self._path) == identity:
            self._check_clock(conn)
            submitted = self._submit(conn, client, pool)
            collected = self._collect(conn, POLL_SECONDS if self._inbox.under_way else 0.0)
            if not collected and not submitted and not self._inbox.under_way:
                self._wake.wait(self._poll)
                self._wake.clear()

    def _check_clock(self, conn: sqlite3.Connection) -> None:
        """Make the lanes due when the wall clock was set back: their due times lie too far in the future."""
        now = self._clock()
        if now < self._last_seen - CLOCK_SLACK_SECONDS:
            self._receiver.not_before = 0.0
            with writing(conn):
                retries.end_waits_after_clock_change(conn, now)
        self._last_seen = now

    def _submit(self, conn: sqlite3.Connection, client: httpx.Client, pool: ThreadPoolExecutor) -> bool:
        """Give work to the free threads. Return False when there was nothing to do."""
        down = self._receiver.is_down
        slots = (1 if down else PARALLEL) - self._inbox.under_way
        now = self._clock()
        if slots <= 0 or now < self._receiver.not_before:
            return False
        if self._poster.target.batch:
            most = 1 if down else BATCH_EVENTS
            runs = outbox.lease(conn, self._owner, now, 1 if down else BATCH_LANES, most, most, self._target.column)
            jobs, post = [runs] if runs else [], self._poster.batch
        else:
            runs = outbox.lease(conn, self._owner, now, slots, 1 if down else RUN_EVENTS, target=self._target.column)
            jobs, post = [[run] for run in runs], self._poster.run
        for job in jobs:
            self._start(pool, post, client, job)
        return bool(jobs)

    def _start(self, pool: ThreadPoolExecutor, post: Post, client: httpx.Client, job: Job) -> None:
        self._inbox.under_way += 1
        once = [job]
        try:
            pool.submit(_work, post, client, once, self._inbox.results, self._target.variable)
        except Exception as error:  # the system gives no more threads
            # The pool keeps work that it could not start, and another of its threads may do it later.
            with contextlib.suppress(IndexError):
                self._inbox.results.put(_failed(once.pop(), error, self._target.variable))

    def _collect(self, conn: sqlite3.Connection, wait_seconds: float = 0.0) -> bool:
        """Settle the outcomes that came back, in one transaction. Return False when there were none."""
        for outcomes in self._inbox.take(0.0 if self._inbox.unsettled else wait_seconds):
            self._is_back |= self._receiver.learn(outcomes, self._clock())
            self._warn_of(outcomes)
        return self._settle(conn)

    def _settle(self, conn: sqlite3.Connection) -> bool:
        if not self._inbox.unsettled:
            return False
        with writing(conn):
            for outcome in self._inbox.unsettled:
                outbox.settle(conn, self._owner, outcome, self._clock())
            if self._is_back:
                retries.end_waits(conn, self._clock(), self._target.column)
        self._inbox.unsettled, self._is_back = [], False
        return True

    def _warn_of(self, outcomes: list[RunOutcome]) -> None:
        failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
        if failures:
            self._warn(f"{self._target.title} did not take an event: {failures[0].error}")

    def _warn(self, text: str) -> None:
        """Log a warning, at most once a minute."""
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + WARN_EVERY_SECONDS
            log.warning("delivery: %s", text)


def _work(post: Post, client: httpx.Client, once: list[Job], results: Results, variable: str) -> None:
    """Post a job in a thread of the pool. The thread that takes the job out of ``once`` reports on it, exactly once."""
    try:
        job = once.pop()
    except IndexError:
        return
    try:
        results.put(post(client, job))
    except Exception as error:
        results.put(_failed(job, error, variable))


def _failed(job: Job, error: Exception, variable: str) -> list[RunOutcome]:
    return [RunOutcome(run, 0, failure_of(error, variable)) for run in job]


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file the path leads to now, None when there is none. A damaged ledger gets another name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
