"""What one proxy worker process owns: its writer, its sender, and what it has seen of each model's health.

Made on first use, and anew after a fork: threads do not survive one.
"""

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lmledger.delivery import Sender, Target, target_from
from lmledger.records import Ended, Fault, Record
from lmledger.store import StoreOptions, Writer

log = logging.getLogger("lmledger")

DEFAULT_LEDGER = "/app/logs/litellm.db"


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last thing this worker saw a model do. ``at`` in Unix seconds; ``fault`` None: it answered."""

    at: float
    fault: Fault | None


class Worker:
    """Use ``get()``; tests make their own."""

    def __init__(self, path: Path, target: Target | None) -> None:
        self._writer = Writer(StoreOptions(path, events=target is not None))
        self._sender = Sender(path, target) if target else None
        self.sightings: dict[str, Sighting] = {}

    async def write(self, record: Record) -> None:
        """Make a record durable, then let the sender look."""
        await self._writer.write(record)
        self._woken_by(record)

    def post(self, record: Record) -> None:
        """Queue a record without waiting."""
        self._writer.post(record)
        self._woken_by(record)

    def note_health(self, deployment: str | None, fault: Fault | None) -> None:
        """Remember how the last attempt of a deployment went; /health shows it without a paid probe."""
        if deployment:
            self.sightings[deployment] = Sighting(time.time(), fault)

    def close(self, seconds: float = 5.0) -> None:
        """Commit and stop sending; what was not delivered stays in the outbox."""
        self._writer.close(seconds)
        if self._sender:
            self._sender.close(seconds)

    def _woken_by(self, record: Record) -> None:
        if self._sender and isinstance(record, Ended):
            self._sender.wake()


_lock = threading.Lock()
_worker: Worker | None = None
_pid = 0


def get() -> Worker:
    """This process's worker."""
    global _worker, _pid
    if _worker is None or _pid != os.getpid():
        with _lock:
            if _worker is None or _pid != os.getpid():
                path = Path(os.environ.get("LEDGER_PATH") or DEFAULT_LEDGER)
                _worker, _pid = Worker(path, target_from(os.environ)), os.getpid()
    return _worker
