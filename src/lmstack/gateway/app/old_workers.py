"""Workers that finish their requests and end, because another one has their place."""

import time
from dataclasses import dataclass
from typing import Any

from granian.log import logger as log

from lmstack.gateway.app.parent import FINISH_SECONDS
from lmstack.gateway.app.worker_start import LEAVING, STARTED

# For this time an old worker, which gets no new connections, ends those that it has after each answer.
LEAVE_SECONDS = 1.0
# From the signal that stops a worker until it certainly takes no new connection any more.
SETTLE_SECONDS = 0.3
START_SECONDS = 120.0


@dataclass
class Leaver:
    """An old worker. Times in monotonic seconds."""

    worker: Any
    stop_at: float
    stopped_at: float | None = None


class OldWorkers:
    """All old workers that have not ended. ``look`` does what is due, and never waits."""

    def __init__(self) -> None:
        self._leavers: list[Leaver] = []

    @property
    def workers(self) -> list[Any]:
        """Return the workers."""
        return [leaver.worker for leaver in self._leavers]

    def add(self, worker: Any) -> None:
        """Let a worker leave. It gets no new connections."""
        worker.begun.flags[LEAVING] = 1
        self._leavers.append(Leaver(worker, time.monotonic() + LEAVE_SECONDS))

    def look(self) -> None:
        """Stop those that had time to end their kept connections, and kill those that do not finish."""
        for leaver in list(self._leavers):
            self._look_at(leaver)

    def have_left(self) -> bool:
        """Return whether none of them accepts connections any more."""
        now = time.monotonic()
        return all(one.stopped_at is not None and now >= one.stopped_at + SETTLE_SECONDS for one in self._leavers)

    def _look_at(self, leaver: Leaver) -> None:
        now, worker = time.monotonic(), leaver.worker
        if not worker.is_alive():
            worker.join()
            self._leavers.remove(leaver)
            log.info(f"Stopped old worker-{worker.idx + 1}")
        elif leaver.stopped_at is None:
            # A worker that has not started yet took the place of a dead one. It must serve what waits there.
            if now >= leaver.stop_at + (0 if worker.begun.flags[STARTED] else START_SECONDS):
                worker.terminate()
                leaver.stopped_at = now
        elif now >= leaver.stopped_at + FINISH_SECONDS:
            log.warning(f"lmstack: old worker-{worker.idx + 1} has not finished in {FINISH_SECONDS:g} s and is killed")
            worker.kill()
