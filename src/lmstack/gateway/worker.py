"""What one proxy worker process owns: its writer, its sender, and what it has seen of each model's health.

Made on first use, and anew after a fork: threads do not survive one.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmstack.delivery.contract import Target, target_from
from lmstack.delivery.sender import Sender
from lmstack.ledger.housekeeping import Bounds
from lmstack.ledger.records import Ended, Fault, Record, Verdict
from lmstack.ledger.writer import StoreOptions, Writer

log = logging.getLogger(__name__)

DEFAULT_LEDGER = "/app/logs/litellm.db"


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last thing this worker saw a model do. ``at`` in Unix seconds; ``fault`` None: it answered."""

    at: float
    fault: Fault | None


class Worker:
    """Use ``get()``; tests make their own."""

    def __init__(self, path: Path, target: Target | None, bounds: Bounds | None = None) -> None:
        self._writer = Writer(StoreOptions(path, target is not None, bounds or Bounds()))
        self._sender = Sender(path, target, owner=self._writer.worker) if target else None
        self.sightings: dict[str, Sighting] = {}

    async def write(self, record: Record) -> Verdict:
        """Make a record durable, then let the sender look."""
        verdict = await self._writer.write(record)
        self._woken_by(record)
        return verdict

    def counts(self) -> dict[str, int]:
        """What the ledger did not take at once: kept in the spool, and lost."""
        return {"spooled": self._writer.spooled, "unrecorded": self._writer.unrecorded}

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


def _bounds(environ: Mapping[str, str]) -> Bounds:
    default = Bounds()
    return Bounds(
        float(environ.get("LEDGER_KEEP_DAYS") or default.keep_days), float(environ.get("LEDGER_MAX_MB") or default.max_mb)
    )  # fmt: skip


def is_strict() -> bool:
    """Whether LEDGER_MODE=strict: what cannot be recorded is refused. Answers also when there is no worker yet."""
    return os.environ.get("LEDGER_MODE", "").lower() == "strict"


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
                _worker, _pid = Worker(path, target_from(os.environ), _bounds(os.environ)), os.getpid()
    return _worker
