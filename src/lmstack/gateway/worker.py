"""What one worker process of the proxy owns: its writer, its sender, and the last outcome of each model.

It is made at the first use, and made again after a fork, because threads do not survive a fork.
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
from lmstack.ledger.records import Attempt, Ended, Fault, Record, Verdict
from lmstack.ledger.writer import StoreOptions, Writer

log = logging.getLogger(__name__)

DEFAULT_LEDGER = "/app/logs/litellm.db"


@dataclass(frozen=True, slots=True)
class LastResult:
    """The last attempt of a model or provider in this worker. ``at`` is Unix seconds. Without a ``fault`` it answered."""

    at: float
    fault: Fault | None
    whole_provider: bool = False  # the failure concerns all models of the provider


class Worker:
    """The state of one process. Use ``get()``; tests make their own."""

    def __init__(self, path: Path, target: Target | None, bounds: Bounds | None = None) -> None:
        self._writer = Writer(StoreOptions(path, target is not None, bounds or Bounds()))
        self._sender = Sender(path, target, owner=self._writer.worker) if target else None
        self.last_results: dict[str, LastResult] = {}
        self.provider_failures: dict[str, LastResult] = {}  # of providers that fail for all their models

    async def write(self, record: Record) -> Verdict:
        """Make a record durable and return its verdict. Then let the sender look for events."""
        verdict = await self._writer.write(record)
        self._wake_sender(record)
        return verdict

    def counts(self) -> dict[str, int]:
        """Return how many records went to the spool file first, and how many are lost."""
        return {"spooled": self._writer.spooled, "unrecorded": self._writer.unrecorded}

    def post(self, record: Record) -> None:
        """Queue a record without waiting."""
        self._writer.post(record)
        self._wake_sender(record)

    def note_result(self, attempt: Attempt, fault: Fault | None) -> None:
        """Note the outcome of a deployment's last attempt. An answer also shows that its provider works again."""
        if attempt.deployment:
            self.last_results[attempt.deployment] = LastResult(time.time(), fault)
        if fault is None and attempt.provider:
            self.provider_failures.pop(attempt.provider, None)

    def note_provider_failure(self, attempt: Attempt, fault: Fault | None) -> None:
        """Note a failure that concerns all models of a provider: it cannot be reached, or it refuses the key."""
        if attempt.provider and fault is not None:
            self.provider_failures[attempt.provider] = LastResult(time.time(), fault, whole_provider=True)

    def last_result(self, deployment: str, provider: str | None) -> LastResult | None:
        """Return the last result of a deployment, or the failure of its whole provider where that came later."""
        own, shared = self.last_results.get(deployment), self.provider_failures.get(provider or "")
        if own is None or shared is None:
            return own or shared
        return max(own, shared, key=lambda result: result.at)

    def close(self, seconds: float = 5.0) -> None:
        """Commit all records and stop sending. Events that were not delivered stay in the outbox."""
        self._writer.close(seconds)
        if self._sender:
            self._sender.close(seconds)

    def _wake_sender(self, record: Record) -> None:
        if self._sender and isinstance(record, Ended):
            self._sender.wake()


def _bounds(environ: Mapping[str, str]) -> Bounds:
    default = Bounds()
    return Bounds(
        float(environ.get("LEDGER_KEEP_DAYS") or default.keep_days), float(environ.get("LEDGER_MAX_MB") or default.max_mb)
    )  # fmt: skip


def is_strict() -> bool:
    """Return whether LEDGER_MODE is strict: a request that cannot be recorded is refused. Needs no worker."""
    return os.environ.get("LEDGER_MODE", "").lower() == "strict"


_lock = threading.Lock()
_worker: Worker | None = None
_pid = 0


def get() -> Worker:
    """Return the worker of this process."""
    global _worker, _pid
    if _worker is None or _pid != os.getpid():
        with _lock:
            if _worker is None or _pid != os.getpid():
                path = Path(os.environ.get("LEDGER_PATH") or DEFAULT_LEDGER)
                _worker, _pid = Worker(path, target_from(os.environ), _bounds(os.environ)), os.getpid()
    return _worker
