"""What one worker process of the proxy owns: its writer, its sender, and the last result of each model.

It is made at the first use, and made again after a fork, because threads do not survive a fork.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from lmstack.delivery.contract import Target, target_from
from lmstack.delivery.sender import Sender
from lmstack.gateway.alerting import Alerting
from lmstack.gateway.keyring import Keyring
from lmstack.gateway.rates import Rates
from lmstack.gateway.results import LedgerResults, Results
from lmstack.gateway.shared_rates import SharedRates, shared_from
from lmstack.gateway.traces import Traces, open_traces
from lmstack.ledger import rates_file
from lmstack.ledger.housekeeping import Bounds
from lmstack.ledger.records import Ended, Record, Verdict
from lmstack.ledger.writer import StoreOptions, Writer

log = logging.getLogger(__name__)

DEFAULT_LEDGER = "/app/logs/litellm.db"
TRACE_SECONDS = 4.0  # a stop waits for the receiver of traces, at most


class Worker:
    """The state of one process. Use ``get()``; tests make their own."""

    def __init__(
        self, path: Path, target: Target | None, bounds: Bounds | None = None, shared: SharedRates | None = None
    ) -> None:
        self._writer = Writer(StoreOptions(path, target is not None, bounds or Bounds()))
        self._sender = Sender(path, target, owner=self._writer.worker) if target else None
        self.traces: Traces | None = None
        self.alerting = Alerting(path, self._writer.worker)
        self.path = path
        self.keyring, self.rates = Keyring(path), Rates(rates_file.beside(path))
        self.shared_rates = shared  # over several hosts
        self.results = Results()
        self.shared_results = LedgerResults(path, since=time.time())

    async def write(self, record: Record) -> Verdict:
        """Make a record durable and return its verdict. Then let the sender look for events."""
        self._note(record)
        verdict = await self._writer.write(record)
        self._wake_sender(record)
        return verdict

    def counts(self) -> dict[str, int]:
        """Return how many records went to the spool file first, and how many are lost."""
        return {"spooled": self._writer.spooled, "unrecorded": self._writer.unrecorded}

    def post(self, record: Record) -> None:
        """Queue a record without waiting."""
        self._note(record)
        self._writer.post(record)
        self._wake_sender(record)

    def close(self, seconds: float = 5.0) -> None:
        """Commit all records and stop sending. Events that were not delivered stay in the outbox."""
        self.keyring.close()
        if self.shared_rates is not None:
            self.shared_rates.close()
        self.alerting.stop()
        self._writer.close(seconds)
        if self._sender:
            self._sender.close(seconds)
        self.alerting.close(seconds)
        if self.traces is not None:
            self.traces.close(TRACE_SECONDS)

    def _note(self, record: Record) -> None:
        """Count the tokens of an answer for its key, and let its spans be made."""
        if self.traces is not None:
            self.traces.offer(record)
        if isinstance(record, Ended) and record.call.key_id is not None:
            tokens = (record.usage.prompt or 0) + (record.usage.completion or 0)
            if tokens:
                self.rates.add_tokens(record.call.key_id, tokens)
                if self.shared_rates is not None:
                    self.shared_rates.add_tokens(record.call.key_id, tokens)

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
                made = Worker(path, target_from(os.environ), _bounds(os.environ), shared_from(os.environ))
                made.traces = open_traces()
                _worker, _pid = made, os.getpid()
    return _worker
