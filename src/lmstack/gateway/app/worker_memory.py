"""How much memory a worker uses, and the limit for it."""

import time
from collections.abc import Iterable
from typing import Any

from lmstack.gateway.app.process_memory import shared_fairly_mb
from lmstack.gateway.app.worker_age import number
from lmstack.gateway.app.worker_start import STARTED

# A worker is measured this often, in seconds. It must be above the limit twice in a row: one large request is no leak.
INTERVAL, SAMPLES = 15.0, 2
# A worker is replaced at the earliest at this age, in seconds.
MIN_AGE = 60.0


def limit_mb() -> float | None:
    """Return LITELLM_WORKER_MAX_MB, None when there is no limit."""
    return number("LITELLM_WORKER_MAX_MB")


def memory_mb(pid: int) -> float:
    """Return the memory of a process in MB. Systems other than Linux do not tell shares: there all its pages count.

    0 when the process is gone.
    """
    used = shared_fairly_mb(pid)
    return _resident_mb(pid) if used is None else used


def _resident_mb(pid: int) -> float:
    from granian._granian import ProcInfoCollector

    try:
        found: Any = ProcInfoCollector().memory([pid])
        return float(found.get(pid, 0)) / 1024 / 1024
    except Exception:  # Granian raises its own kinds of errors.
        return 0.0


class Watch:
    """Measures the workers from time to time."""

    def __init__(self) -> None:
        self._next = 0.0
        self._above: dict[int, int] = {}  # for each pid: how often in a row it was above the limit

    @property
    def pause(self) -> float | None:
        """Return the seconds until the next measurement, None while there is no limit."""
        return max(0.0, self._next - time.monotonic()) if limit_mb() else None

    def too_large(self, workers: Iterable[Any]) -> list[tuple[int, str]]:
        """Return the workers that must be replaced, each with the reason. Measures only when that is due."""
        limit = limit_mb()
        if limit is None or time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + INTERVAL
        used = {worker: memory_mb(worker.inner.pid) for worker in workers if self._counts(worker)}
        above = {worker: mb for worker, mb in used.items() if mb > limit}
        self._above = {worker.inner.pid: self._above.get(worker.inner.pid, 0) + 1 for worker in above}
        found = [worker for worker in above if self._above[worker.inner.pid] >= SAMPLES]
        return [
            (worker.idx, f"worker-{worker.idx + 1} (PID {worker.inner.pid}) uses {above[worker]:.0f} MB, above the limit of {limit:g} MB")
            for worker in found
        ]  # fmt: skip

    def _counts(self, worker: Any) -> bool:
        """Return whether a worker serves for some time. If a new one is too large, one replacement would follow the other."""
        return bool(worker.is_alive() and worker.begun.flags[STARTED] and time.time() - worker.born_at >= MIN_AGE)
