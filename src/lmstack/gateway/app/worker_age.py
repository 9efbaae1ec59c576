"""How old a worker may become."""

import os
import time
from collections.abc import Iterable
from typing import Any

from lmstack.gateway.app.worker_start import STARTED

HOUR = 3600.0
# A worker that is too old is reported again after this time, in seconds, until it is replaced.
AGAIN_SECONDS = 1.0


def number(name: str) -> float | None:
    """Return a limit from the environment, None when it is 0, unset or no number: plain Docker passes on what `lm` would refuse."""
    try:
        return float(os.environ.get(name, "")) or None
    except ValueError:
        return None


class Ages:
    """Finds the workers that are too old. Times in Unix seconds."""

    def pause(self, workers: Iterable[Any]) -> float | None:
        """Return the seconds until the next worker is too old, None while there is no limit."""
        limit = _limit()
        born = [worker.born_at for worker in workers if self._counts(worker)]
        return max(AGAIN_SECONDS, min(born) + limit - time.time()) if limit and born else None

    def too_old(self, workers: Iterable[Any]) -> list[tuple[int, str]]:
        """Return the workers that must be replaced, each with the reason."""
        limit = _limit()
        if limit is None:
            return []
        found = [worker for worker in workers if self._counts(worker) and time.time() - worker.born_at >= limit]
        return [
            (worker.idx, f"worker-{worker.idx + 1} (PID {worker.inner.pid}) is {limit / HOUR:g} hours old")
            for worker in found
        ]

    def _counts(self, worker: Any) -> bool:
        return bool(worker.is_alive() and worker.begun.flags[STARTED])


def _limit() -> float | None:
    hours = number("LITELLM_WORKER_MAX_HOURS")
    return hours * HOUR if hours else None
