"""What the writer's thread does with its records: into the ledger, else into the spool file, else into memory.

What the ledger does not take (locked, full, read-only, damaged) goes to the spool file, and later into the ledger.
What the spool file does not take waits in memory. What has no room in memory is lost, and counted.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lmstack.ledger import apply, housekeeping, spool, workers
from lmstack.ledger.housekeeping import Bounds
from lmstack.ledger.ledger_file import LedgerFile, Outcome
from lmstack.ledger.records import Record, Started, Verdict
from lmstack.ledger.recovery import Recovery
from lmstack.ledger.timing import Timing
from lmstack.ledger.trusted_clock import TrustedClock

log = logging.getLogger(__name__)

QUEUE_SIZE = 20_000


class Session:
    """For one thread. ``lost``: records that nothing took. ``spooled``: records that went to the spool file."""

    def __init__(
        self,
        path: Path,
        send_events: bool,
        bounds: Bounds,
        worker: str,
        warn: Callable[[str], None],
        timing: Timing | None = None,
    ) -> None:
        self.send_events, self.bounds, self.worker, self.warn = send_events, bounds, worker, warn
        self.timing = timing or Timing()
        self.lost = self.spooled = 0
        self.held: list[Record] = []
        self.file = LedgerFile(path, self.timing, warn)
        self.spool = spool.Spool(path, worker)
        self.recovery = Recovery(path, worker, self.timing, self._ingest)
        self.clock = TrustedClock()
        self._warned_of_gap = False

    def store(self, records: Sequence[Record]) -> list[Verdict]:
        """Make records durable and return a verdict for each.

        Only the ledger itself can admit a start under a budget, because only the ledger knows what was spent.
        """
        if not records and not self.held:
            return []
        if self.spool.pending and not self.file.is_busy and any(_is_limited(record) for record in records):
            self._move_spool()
        waiting = [*self.held, *records]
        if not self.spool.pending:
            verdicts = self._commit(waiting)
            if verdicts is not None:
                self.held = []
                return verdicts[len(waiting) - len(records) :]
        durable = self._keep([record for record in waiting if not _is_limited(record)])
        return [Verdict(False, checked=False) if _is_limited(record) else Verdict(durable) for record in records]

    def hold(self, records: Iterable[Record]) -> None:
        """Keep records in memory. When there is no room, the oldest are lost."""
        waiting = [*self.held, *(record for record in records if not _is_limited(record))]
        self.lost += max(0, len(waiting) - QUEUE_SIZE)
        self.held = waiting[-QUEUE_SIZE:]

    def beat(self) -> None:
        """Write the heartbeat, move what waits into the ledger, recover from dead workers, delete old rows."""
        if self.held:
            self.store([])
        if self.spool.pending and not self.file.is_busy:
            self._move_spool()
        if not self.spool.pending:
            self.file.run(self._beat)
        if not self.file.is_busy:
            self.file.run(self._delete_old)

    def close(self) -> None:
        """Make durable what waits in memory, in the spool file if necessary. Then close the ledger."""
        if self.held:
            self.store([])
            self.lost += len(self.held)
        deadline = time.monotonic() + self.timing.close
        while self.spool.pending and time.monotonic() < deadline:
            self.file.open_at_once()
            self._move_spool()
            if self.spool.pending:  # another worker has locked the ledger, for example
                time.sleep(0.05)
        if self.file.is_open:
            self.file.run(lambda conn: workers.leave(conn, self.worker))
            self.file.close()
        self.spool.release_locks()

    def _commit(self, records: list[Record]) -> list[Verdict] | None:
        """Return verdicts when the ledger takes the records in time, else None.

        After the first error the commit is repeated: it may have succeeded. The ids of the records show that.
        """
        deadline = time.monotonic() + self.timing.commit
        verdicts: list[Verdict] = []
        was_broken = False
        while True:
            outcome = self.file.run(lambda conn: verdicts.extend(self._apply(conn, records)))
            if outcome is Outcome.COMMITTED:
                return verdicts
            if (outcome is Outcome.BROKEN and was_broken) or time.monotonic() >= deadline:
                return None
            was_broken = outcome is Outcome.BROKEN

    def _keep(self, records: list[Record]) -> bool:
        """Write records to the spool file, or keep them in memory. Return whether they are durable."""
        self.held = []
        if not records:
            return True
        try:
            self.spool.append(records)
        except OSError as error:
            self.warn(f"{error}; {len(records)} records wait in memory")
            self.hold(records)
            return False
        # They move into the ledger at the next heartbeat: while the ledger is stuck, nothing may wait for it.
        self.spooled += len(records)
        return True

    def _move_spool(self) -> None:
        """Move our spool files into the ledger, in the order of their lines."""
        for path in self.spool.files():
            if self.file.run(lambda conn, path=path: self._ingest(conn, path)) is not Outcome.COMMITTED:  # type: ignore[misc]
                return
        # Another worker may have taken us for dead, and moved the files: that is fine, too.
        self.spool.emptied()

    def _ingest(self, conn: sqlite3.Connection, path: Path, dead: str | None = None) -> None:
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            self._apply(conn, list(spool.read(path)), dead)
        path.unlink(missing_ok=True)

    def _apply(self, conn: sqlite3.Connection, records: list[Record], dead: str | None = None) -> list[Verdict]:
        """Apply our own records, or those of a ``dead`` worker."""
        write = workers.adopt if dead else apply.transaction
        verdicts = write(conn, records, dead or self.worker, self.send_events)
        refused = sum(not verdict.durable and verdict.exceeded is None for verdict in verdicts)
        if refused:
            self.lost += refused
            self.warn(f"SQLite refuses {refused} records; they are lost")
        return verdicts

    def _beat(self, conn: sqlite3.Connection) -> None:
        workers.write_heartbeat(conn, self.worker, time.time())
        self.recovery.run(conn, self.send_events)

    def _delete_old(self, conn: sqlite3.Connection) -> None:
        """Delete what is due, for a short time: commits wait behind it."""
        until = time.monotonic() + self.timing.housekeeping
        wall = time.time()
        now = self.clock.now(conn, wall, time.monotonic())
        self._warn_of_gap(conn, wall, now)
        while gone := housekeeping.delete_some(conn, self.bounds, now):
            if "pending" in gone:
                self.warn(f"the ledger is full (LEDGER_MAX_MB): {gone['pending']} undelivered events were deleted")
            if time.monotonic() > until:
                return

    def _warn_of_gap(self, conn: sqlite3.Connection, wall: float, now: float) -> None:
        """Log once that old requests are kept for longer, because the clock may be wrong."""
        if now == wall or self._warned_of_gap or not housekeeping.has_expired(conn, self.bounds, wall):
            return
        self._warned_of_gap = True
        log.warning(
            "ledger: there were no requests for %.0f days, or the clock was set ahead. Old requests are deleted only "
            "after the gateway has run for a day. Check the clock with: date",
            (wall - now) / 86400,
        )


def _is_limited(record: Record) -> bool:
    return isinstance(record, Started) and bool(record.limits)
