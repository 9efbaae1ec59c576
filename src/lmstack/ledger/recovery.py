"""Find workers that died. Take over their spool files, and end the requests that they left open."""

import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lmstack.ledger import spool, workers
from lmstack.ledger.neighbours import Neighbours
from lmstack.ledger.schema import writing
from lmstack.ledger.timing import Timing

# Move a spool file into the ledger: the connection, the file, the name of the dead worker.
Ingest = Callable[[sqlite3.Connection, Path, str], None]


class Recovery:
    """For one thread. Only the monotonic clock of this process decides who is dead."""

    def __init__(self, path: Path, worker: str, timing: Timing, ingest: Ingest) -> None:
        self.path, self.timing, self.ingest = path, timing, ingest
        self.neighbours = Neighbours(worker, timing.dead_after)
        self._next_search = 0.0
        self._first_seen: dict[Path, float] = {}  # spool files of workers that are not in the ledger

    def run(self, conn: sqlite3.Connection, send_events: bool) -> None:
        """Look at the heartbeats and, from time to time, at the spool files."""
        now = time.monotonic()
        heartbeats = workers.heartbeats(conn)
        dead = self.neighbours.dead(heartbeats, now)
        if dead or now >= self._next_search:
            self._adopt_spools(conn, set(heartbeats).difference(dead), dead, now)
            self._next_search = now + self.timing.recovery
        if dead:
            with writing(conn):
                workers.interrupt_requests(conn, dead, time.time(), send_events)

    def _adopt_spools(self, conn: sqlite3.Connection, alive: Iterable[str], dead: Iterable[str], now: float) -> None:
        """Take over the spool files of dead workers. Their records come first: they may hold the end of a request."""
        known_dead = {spool.name_of(worker) for worker in dead}
        found = spool.left_behind(self.path, alive)
        self._first_seen = {path: self._first_seen.get(path, now) for path in found}
        for path in found:
            is_known = spool.worker_of(self.path, path) in known_dead
            # A worker may live and not be in the ledger yet. Its lock shows that, where the file system has locks.
            if (is_known or now - self._first_seen[path] >= self.timing.dead_after) and not spool.is_held(path):
                self.ingest(conn, path, path.name)
