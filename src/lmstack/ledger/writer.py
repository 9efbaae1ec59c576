"""The one writer of the ledger: a bounded queue and one thread per worker process, commits in groups.

It never blocks the event loop (hooks await a future) and never raises into a request. What it does with the files is in
session.py. It must not know LiteLLM.
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

log = logging.getLogger(__name__)

BATCH_SIZE = 500
BEAT_SECONDS = 2.0
WAIT_SECONDS = 0.5
# A request under a budget must know its verdict: it waits for longer.
BUDGET_WAIT_SECONDS = 5.0
WARN_EVERY_SECONDS = 60.0
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

    def __init__(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Verdict]") -> None:
        self.loop, self.future = loop, future

    def settle(self, verdict: Verdict) -> None:
        """On the loop's own thread; the first verdict counts."""
        if not self.future.done():
            self.future.set_result(verdict)


Told = tuple["Waiter | threading.Event", Verdict]


def _tell(told: list[Told]) -> None:
    """Report verdicts: one wake-up for each event loop, however many wait there."""
    waiting: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Verdict]]] = {}
    for one, verdict in told:
        if isinstance(one, Waiter):
            waiting.setdefault(one.loop, []).append((one, verdict))
        else:
            one.set()
    for loop, pairs in waiting.items():
        with contextlib.suppress(RuntimeError):  # the loop may be closed by the time a late commit reports back
            loop.call_soon_threadsafe(_settle, pairs)


def _settle(pairs: list[tuple[Waiter, Verdict]]) -> None:
    for waiter, verdict in pairs:
        waiter.settle(verdict)


class Writer:
    """Takes records from any thread; ``write`` awaits the commit, ``post`` does not."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._next_warning = 0.0
        self._session = Session(options.path, options.events, options.bounds, self.worker, self.warn)
        self._refused = 0
        self._thread = threading.Thread(target=self._run, name="lmstack-writer", daemon=True)
        self._thread.start()

    @property
    def unrecorded(self) -> int:
        """How many records are lost."""
        return self._refused + self._session.lost

    @property
    def spooled(self) -> int:
        """How many records the ledger did not take at once."""
        return self._session.spooled

    def post(self, record: Record, waiter: "Waiter | None" = None) -> None:
        """Queue a record; when the queue is full it is counted as unrecorded instead of slowing the request."""
        if self._queue.qsize() < QUEUE_SIZE:
            self._queue.put((record, waiter))
            return
        self._refused += 1
        if waiter is not None:
            waiter.settle(Verdict(False, checked=False))
        self.warn(f"{self.unrecorded} records are lost: the ledger at {self.options.path} and its spool take nothing")

    async def write(self, record: Record) -> Verdict:
        """Queue a record and wait for its verdict, at most WAIT_SECONDS (BUDGET_WAIT_SECONDS under a budget)."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop, loop.create_future())
        # Not asyncio.wait_for, which makes a second future for each of millions.
        limited = isinstance(record, Started) and bool(record.limits)
        timer = loop.call_later(BUDGET_WAIT_SECONDS if limited else WAIT_SECONDS, self._too_late, waiter)
        self.post(record, waiter)
        try:
            return await waiter.future
        finally:
            timer.cancel()

    def _too_late(self, waiter: "Waiter") -> None:
        waiter.settle(Verdict(False, checked=False, late=True))
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
        """Until ``close``. Nothing else may end this thread: without it nothing would be recorded any more."""
        next_beat = 0.0
        while not self._stop.is_set():
            batch = self._take(min(BEAT_SECONDS, max(0.0, next_beat - time.monotonic())))
            verdicts = iter(self._store([record for record, _ in batch if record is not None]))
            paired = [(done, next(verdicts) if record is not None else Verdict(True)) for record, done in batch]
            _tell([(done, verdict) for done, verdict in paired if done is not None])
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_SECONDS
                self._guarded(self._session.beat)
        self._guarded(self._session.close)

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
