"""Replace running workers one after the other: the new one serves before the old one leaves.

A change is proven first: a new worker starts with the new settings and serves every model. Until then nothing has changed
for clients, and if it fails, everything stays as it was.
"""

import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from granian.log import logger as log

from lmstack.gateway.app.endings import reason
from lmstack.gateway.app.old_workers import START_SECONDS, OldWorkers
from lmstack.gateway.app.server_files import Change, ServerFiles, UnreadableError
from lmstack.gateway.app.worker_start import STARTED

# How often the state of a replacement is looked at, in seconds.
LOOK = 0.1
# For each worker that serves, at most so many old ones may finish requests. Then the next replacement waits.
MAX_OLD = 2
# The pauses after failed starts of one worker in a row. The last one repeats.
PAUSE_SECONDS = (1, 2, 4, 8, 16, 32, 60)


class Server(Protocol):
    """What replacements need of the server."""

    wrks: list[Any]

    def start_worker(self, idx: int, change: Change | None) -> Any:
        """Start a worker and return it, with a change that is not proven. Raises OSError."""

    def took_over(self, idx: int, worker: Any) -> None:
        """Use a started worker in the place of an old one."""


@dataclass
class Candidate:
    """A new worker that has not started yet. Times in monotonic seconds."""

    idx: int
    worker: Any
    deadline: float


class Replacements:
    """The replacements that are under way. ``look`` does what is due, and never waits."""

    def __init__(self, server: Server, files: ServerFiles) -> None:
        self._server, self._files = server, files
        self._queue: list[int] = []
        self._single: list[int] = []  # of those, the ones that a failed change must not drop
        self._waits_since: float | None = None  # for old workers to leave, in monotonic seconds
        self._candidate: Candidate | None = None
        self.old = OldWorkers()
        self._change: Change | None = None
        self._proven = False
        self._failures, self._not_before = 0, 0.0
        self.reload: Mapping[str, str] = {}  # what `lm` reads: id, state (running, done, failed), error

    @property
    def pause(self) -> float | None:
        """Return the seconds until the next look, None when nothing is under way."""
        return LOOK if self._queue or self._candidate or self.old.workers or self._change else None

    def replace_all(self) -> None:
        """Begin the change that `lm` has written. Without one, replace all workers by new ones with the same settings."""
        if self._change and not self._proven:
            self._fail("another change came before this one was proven")
        try:
            change = self._files.take_change()
        except UnreadableError as error:
            log.error(f"lmstack: {error}, and nothing is changed")
            self.reload = {"id": error.id, "state": "failed", "error": str(error)}
            return
        log.info("lmstack: SIGHUP received; new workers replace the present ones")
        self._single = [*([self._candidate.idx] if self._candidate else []), *self._queue]
        self._end_candidate()  # It has the settings of before, so it proves nothing.
        self._change, self._proven = change, False
        self._queue, self._not_before, self._waits_since = list(range(len(self._server.wrks))), 0.0, None
        self._report("running")

    def replace(self, idx: int, why: str) -> None:
        """Replace one worker, with the settings that run. Nothing happens when that is under way."""
        tries = self._change is not None and not self._proven
        if idx in (self._single if tries else self._queue) or (
            not tries and self._candidate and self._candidate.idx == idx
        ):
            return
        log.warning(f"lmstack: {why}; a new worker replaces it")
        (self._single if tries else self._queue).append(idx)

    def look(self) -> None:
        """Do what is due."""
        self._look_at_candidate()
        self.old.look()
        self._start_next()
        if self._proven and self._change and not self._queue and not self._candidate and self.old.have_left():
            log.info("lmstack: all workers are replaced")
            self._report("done")
            self._change = None
            gc.collect()  # The objects of the old workers refer to themselves.

    def leave(self, workers: list[Any]) -> None:
        """Let these workers finish their requests and end: another server takes the new connections."""
        if self._change and not self._proven:
            self._fail("another server takes the place of this one")
        self._end_candidate()
        self._queue, self._single, self._change = [], [], None
        for worker in workers:
            self.old.add(worker)

    def stop(self) -> list[Any]:
        """End what starts. Return the old workers that still finish requests."""
        self._end_candidate()
        if self._change and not self._proven:
            self._files.forget_candidate(self._change)
        return self.old.workers

    def _start_next(self) -> None:
        if self._candidate or not self._queue or time.monotonic() < self._not_before:
            return
        if self._too_many_leave():
            return
        change = self._change if self._change and not self._proven else None
        idx = self._queue.pop(0)
        try:
            worker = self._server.start_worker(idx, change)
        except OSError as error:  # No memory, no process id, or no room for the candidate's file.
            self._failed(idx, f"worker-{idx + 1} cannot be created ({error})")
            return
        seconds = change.seconds if change else START_SECONDS
        self._candidate = Candidate(idx, worker, time.monotonic() + seconds)

    def _too_many_leave(self) -> bool:
        """Return whether the next replacement must wait for old workers. A change that is not proven fails in the end."""
        now = time.monotonic()
        if len(self.old.workers) < MAX_OLD * len(self._server.wrks):
            self._waits_since = None
            return False
        self._waits_since = self._waits_since or now
        if self._change and not self._proven and now > self._waits_since + self._change.seconds:
            self._waits_since = None
            self._fail(
                f"{len(self.old.workers)} old workers still finish requests, such as long streams; try again later"
            )
        return True

    def _look_at_candidate(self) -> None:
        found = self._candidate
        if found is None:
            return
        what = f"worker-{found.idx + 1} (PID {found.worker.inner.pid})"
        if not found.worker.is_alive():
            self._candidate = None
            self._failed(found.idx, f"{what} {reason(found.worker.inner.exitcode)} before it had started")
        elif found.worker.begun.flags[STARTED]:
            self._candidate = None
            self._take_over(found)
        elif time.monotonic() > found.deadline:
            self._candidate = None
            _kill(found.worker)
            self._failed(found.idx, f"{what} did not start in time")

    def _take_over(self, found: Candidate) -> None:
        """Let a started worker take the place of the old one."""
        try:
            if self._change and not self._proven:
                self._files.commit(self._change)
        except OSError as error:
            _kill(found.worker)
            self._failed(found.idx, f"the new configuration cannot be written ({error})")
            return
        self._proven = self._change is not None
        if self._proven:
            self._single = []
        self._failures = 0
        old = self._server.wrks[found.idx]
        self._server.took_over(found.idx, found.worker)
        self.old.add(old)

    def _failed(self, idx: int, why: str) -> None:
        """Give the change up, or try this worker again later while the old one serves."""
        if self._change and not self._proven:
            self._fail(why)
            return
        seconds = PAUSE_SECONDS[min(self._failures, len(PAUSE_SECONDS) - 1)]
        self._failures += 1
        self._queue.insert(0, idx)
        self._not_before = time.monotonic() + seconds
        log.warning(f"lmstack: {why}; the old worker serves, and the next try is in {seconds} s")

    def _fail(self, why: str) -> None:
        """Forget a change that is not proven."""
        self._end_candidate()
        if self._change:
            self._files.forget_candidate(self._change)
        self._show_start_log()
        log.error(f"lmstack: {why}; the present workers go on, and nothing has changed")
        self._report("failed", why)
        self._queue, self._single, self._change, self._waits_since = self._single, [], None, None

    def _end_candidate(self) -> None:
        if self._candidate:
            _kill(self._candidate.worker)
            self._candidate = None

    def _show_start_log(self) -> None:
        """Add the output of a failed start to the server's log. The file stays for `lm up`."""
        path = self._files.start_log
        if path and path.exists():
            sys.stderr.write(path.read_text(encoding="utf-8", errors="replace"))
            sys.stderr.flush()

    def _report(self, state: str, error: str = "") -> None:
        self.reload = {"id": self._change.id if self._change else "", "state": state, "error": error}


def _kill(worker: Any) -> None:
    worker.kill()
    worker.join()
