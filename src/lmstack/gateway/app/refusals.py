"""Count the requests that the gate refused, and write the counts to the ledger every few seconds.

They leave no row: a client without a key must not fill the ledger, and must not choose the task that pays.
"""

import asyncio
import logging
import time
from collections import Counter, deque

from lmstack.gateway import worker
from lmstack.ledger.records import Refused

log = logging.getLogger(__name__)

WRITE_SECONDS = 2.0
KEEP_LAST = 20
MAX_PATH = 200
LOG_SECONDS = 60.0


class Refusals:
    """What one worker has refused since the last write. Its methods run on the event loop and never raise."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._last: deque[tuple[float, str, str, str]] = deque(maxlen=KEEP_LAST)
        self._unlogged = 0
        self._next_log = 0.0

    def note(self, reason: str, address: str, path: str) -> None:
        """Count one refused request. ``address``: of the client."""
        if not self._counts:
            asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)
        self._counts[reason] += 1
        self._last.append((time.time(), address, _shown(path), reason))

    def write(self) -> None:
        """Post the counts to the ledger's writer, and log them at most once a minute."""
        if not self._counts:
            return
        try:
            self._unlogged += sum(self._counts.values())
            worker.get().post(Refused(int(time.time()) // 60, dict(self._counts), tuple(self._last)))
            self._log()
        except Exception:
            log.exception("lmstack: the counts of refused requests could not be written")
        self._counts.clear()
        self._last.clear()

    def _log(self) -> None:
        if time.monotonic() < self._next_log:
            return
        _, address, path, reason = self._last[-1]
        log.warning(
            "lmstack: %d requests were refused. The last one: %s, %s from %s. Show them with: lm errors",
            self._unlogged, reason, path, address,
        )  # fmt: skip
        self._next_log, self._unlogged = time.monotonic() + LOG_SECONDS, 0


def _shown(path: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in path[:MAX_PATH])
