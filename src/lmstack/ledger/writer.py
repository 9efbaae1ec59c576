"""The writer: takes records from any thread and commits them in groups. One queue and one thread per worker process.

It must never block the event loop, never raise into a request, and not know LiteLLM. See session.py for the files.
"""

import asyncio
import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lmstack.ledger.housekeeping import Bounds
from lmstack.ledger.records import Record, Started, Verdict
from lmstack.ledger.session import QUEUE_SIZE, Session
from lmstack.ledger.timing import Timing

log = logging.getLogger(__name__)

BATCH_SIZE = 500
WAIT_SECONDS = 0.5
# A request under a budget waits for longer, because it needs its verdict.
BUDGET_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where the ledger is, whether events are queued for TaskMaster, and how large it may grow."""

    path: Path
    events: bool
    bounds: Bounds = field(default_factory=Bounds)
    timing: Timing = field(default_factory=Timing)


class Waiter:
    """A request on an event loop that waits for its commit."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Verdict]") -> None:
        self.loop, self.future = loop, future

    def settle(self, verdict: Verdict) -> None:
        """Give the waiter its verdict. The first one counts. Call this on the thread of the loop."""
        if not self.future.done():
            self.future.set_result(verdict)


Job = tuple[Record | None, "Waiter | threading.Event | None"]


class Writer:
    """Takes records from any thread. ``write`` waits for the commit, ``post`` does not."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._next_warning = 0.0
        self._next_beat = 0.0
        self._session = Session(options.path, options.events, options.bounds, self.worker, self.warn, options.timing)
        self._refused = 0
        self._thread = threading.Thread(target=self._run, name="lmstack-writer", daemon=True)
        self._thread.start()

    @property
    def unrecorded(self) -> int:
        """How many records are lost."""
        return self._refused + self._session.lost

    @property
    def spooled(self) -> int:
        """How many records went to the spool file first."""
        return self._session.spooled

    def post(self, record: Record, waiter: "Waiter | None" = None) -> None:
        """Queue a record. When the queue is full, count it as lost instead of slowing down the request."""
        if self._queue.qsize() < QUEUE_SIZE:
            self._queue.put((record, waiter))
            return
        self._refused += 1
        if waiter is not None:
            waiter.settle(Verdict(False, checked=False))
        self.warn(f"{self.unrecorded} records are lost: {self.options.path} and its spool file cannot be written")

    async def write(self, record: Record) -> Verdict:
        """Queue a record and return its verdict. Wait for at most WAIT_SECONDS (BUDGET_WAIT_SECONDS under a budget)."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop, loop.create_future())
        # asyncio.wait_for would make a second future for each of millions of records.
        limited = isinstance(record, Started) and bool(record.limits)
        timer = loop.call_later(BUDGET_WAIT_SECONDS if limited else WAIT_SECONDS, self._too_late, waiter)
        self.post(record, waiter)
        try:
            return await waiter.future
        finally:
            timer.cancel()

    def _too_late(self, waiter: "Waiter") -> None:
        waiter.settle(Verdict(False, checked=False, late=True))
        self.warn("a commit takes longer than a request may wait; the request goes on, the commit too")

    def flush(self, seconds: float) -> bool:
        """Wait until everything in the queue is durable. Return False when that takes longer than ``seconds``."""
        committed = threading.Event()
        self._queue.put((None, committed))
        return committed.wait(seconds)

    def close(self, seconds: float = 5.0) -> None:
        """Make durable what is in the queue, in the spool file if necessary, and end the thread."""
        self.flush(seconds)
        self._stop.set()
        self._queue.put((None, None))
        self._thread.join(seconds)

    def warn(self, text: str) -> None:
        """Log a warning, at most once a minute. Never raises."""
        with contextlib.suppress(Exception):
            if time.monotonic() >= self._next_warning:
                self._next_warning = time.monotonic() + self.options.timing.warning
                log.warning("ledger: %s", text)

    def _run(self) -> None:
        """Work until ``close``. Nothing else may end this thread: without it nothing is recorded any more."""
        while not self._stop.is_set():
            self._guarded(self._turn)
        self._guarded(self._session.close)

    def _turn(self) -> None:
        batch = self._take(min(self.options.timing.heartbeat, max(0.0, self._next_beat - time.monotonic())))
        verdicts = iter(self._store([record for record, _ in batch if record is not None]))
        paired = [(waiting, next(verdicts) if record is not None else Verdict(True)) for record, waiting in batch]
        _report([(waiting, verdict) for waiting, verdict in paired if waiting is not None])
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self.options.timing.heartbeat
            self._session.beat()

    def _store(self, records: list[Record]) -> list[Verdict]:
        try:
            return self._session.store(records)
        except Exception as error:
            self._session.hold(records)
            self.warn(f"{type(error).__name__}: {error}; {len(records)} records wait in memory")
            return [Verdict(False, checked=False) for _ in records]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.warn(f"{type(error).__name__}: {error}; it is tried again")

    def _take(self, wait: float) -> list[Job]:
        """Return what is in the queue, at most BATCH_SIZE jobs. Wait up to ``wait`` seconds for the first."""
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


def _report(verdicts: list[tuple["Waiter | threading.Event", Verdict]]) -> None:
    """Give each waiter its verdict. Wake each event loop only once, however many requests wait there."""
    waiting: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Verdict]]] = {}
    for one, verdict in verdicts:
        if isinstance(one, Waiter):
            waiting.setdefault(one.loop, []).append((one, verdict))
        else:
            one.set()
    for loop, pairs in waiting.items():
        with contextlib.suppress(RuntimeError, OSError):  # the loop is closed by the time a late commit reports back
            loop.call_soon_threadsafe(_settle, pairs)


def _settle(pairs: list[tuple[Waiter, Verdict]]) -> None:
    for waiter, verdict in pairs:
        waiter.settle(verdict)
