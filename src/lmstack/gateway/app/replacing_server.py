"""Extend Granian: replace a worker that dies or grows too large, keep every listening socket open, change settings in use.

Granian has no public interface for most of this. tests/unit/gateway/test_replacing_server.py runs it.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from granian.log import logger as log
from granian.server import MPServer
from starlette.types import ASGIApp

from lmstack.gateway.app import keeper_line, worker_age, worker_memory
from lmstack.gateway.app.endings import reason
from lmstack.gateway.app.kept import Kept
from lmstack.gateway.app.listeners import Listeners
from lmstack.gateway.app.replacement import LOOK, PAUSE_SECONDS, Replacements
from lmstack.gateway.app.server_files import FOLDER_VARIABLE, Change, ServerFiles, environment
from lmstack.gateway.app.worker_start import STARTED, Start, load_app, run_worker, start_with_blocked_signals

# A worker has this time to finish its requests before it is killed. docker-compose.yml allows 45 s, supervisord 30 s.
STOP_SECONDS = 40

# Granian's own methods have no type annotations.
_Granian: Any = MPServer


class ReplacingServer(_Granian):  # type: ignore[misc]
    """Run the workers, and start a new worker in the place of one that dies.

    A worker that dies before it has started is tried again while another worker serves. When no worker serves, the
    server stops: the next start would fail in the same way. SIGHUP replaces all workers, and applies a change.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, workers_kill_timeout=STOP_SECONDS)
        self._files = ServerFiles(os.environ.get(FOLDER_VARIABLE))
        self._replacements = Replacements(self, self._files)
        keeper = keeper_line.get()
        self._kept = Kept(keeper, self._replacements) if keeper else None
        self._listeners = Listeners(self.workers, keeper)
        self._stop_reason = ""  # empty while no failed start stops the server
        self._failed_starts = [0] * self.workers  # in a row, for each worker
        self._start_times: dict[int, float] = {}  # when to start the successor of a dead worker, in monotonic seconds
        self.reload_signal = False
        self._began, self._deaths = time.time(), 0
        self._memory, self._ages = worker_memory.Watch(), worker_age.Ages()

    def serve(self, *args: Any, **kwargs: Any) -> None:
        """Serve until a signal ends the server."""
        super().serve(*args, target_loader=load_app, **kwargs)

    def _init_shared_socket(self) -> None:
        """Listen, or exit with an error line."""
        try:
            self._listeners.open(self.bind_addr, self.bind_port, self.backlog)
        except OSError as error:
            log.error(
                f"lmstack: cannot listen on {self.bind_addr} port {self.bind_port}: {error}. Is another program using it?"
            )
            sys.exit(1)

    def _spawn_worker(
        self, idx: int, target: Any, callback_loader: Callable[..., ASGIApp], begun: Start | None = None
    ) -> Any:
        before = self.wrks[idx] if idx < len(self.wrks) else None
        place = 0 if before is None else 1 - before.place if before.is_alive() else before.place
        listener, begun = self._listeners.of(idx, place), begun or (self._kept.start() if self._kept else Start())
        self._ssp, self._shd, self._sso = None, listener.holder, listener.socket
        line = self._kept.line if self._kept else None
        run = partial(run_worker, begun, self._listeners.sockets, line, target)
        worker = super()._spawn_worker(idx, run, partial(callback_loader, start=begun))
        worker.begun, worker.place, worker.born_at = begun, place, time.time()
        worker.start = partial(start_with_blocked_signals, worker.start)
        return worker

    def start_worker(self, idx: int, change: Change | None) -> Any:
        """Start one more worker and return it. With a change, it starts with the new settings and must serve all models."""
        if change is None or not change.id:
            worker = self._make_worker(idx)
            worker.start()
            return worker
        begun = Start(names=change.names, log=self._files.start_log, config_file=change.config_file)
        path = self._files.write_candidate(change)
        worker = self._make_worker(idx, begun=begun)
        with environment({**change.environ, "CONFIG_FILE_PATH": path}):
            worker.start()
        return worker

    def took_over(self, idx: int, worker: Any) -> None:
        """Use a started worker in the place of an old one, which may be dead."""
        self.wrks[idx] = worker
        self._start_times.pop(idx, None)
        self._failed_starts[idx] = 0

    def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
        """Replace workers until a signal ends the server.

        Granian's own loop keeps a list of deaths. A worker can be missing there, or be listed twice, and then its
        successor is stopped. This loop asks each worker whether it lives.
        """
        self._make_worker = partial(self._spawn_worker, target=spawn_target, callback_loader=target_loader)
        if self._kept:
            self._kept.wake_with(self.main_loop_interrupt.set)
        while True:
            if self._kept and self._leaves(self._kept):
                return
            serving = [(w.idx, w.place) for w in self.wrks if w.is_alive() and w.begun.flags[STARTED]]
            self._listeners.choose(serving)
            self._report()
            self.main_loop_interrupt.wait(self._seconds_to_next_look(len(serving) < self.workers))
            self.main_loop_interrupt.clear()
            self.interrupt_children.clear()  # Granian's list of deaths. If it is not empty at the end, the status is 1.
            if self.interrupt_signal:
                return
            if self.reload_signal:
                self.reload_signal = False
                self._start_times = dict.fromkeys(self._start_times, time.monotonic())
                self._replacements.replace_all()
            failed = self._replace_dead()
            if failed:
                self.interrupt_children.extend(failed)
                return
            self._replacements.look()
            for idx, why in (*self._memory.too_large(self.wrks), *self._ages.too_old(self.wrks)):
                self._replacements.replace(idx, why)

    def _leaves(self, kept: Kept) -> bool:
        """Do what the keeper says. Return whether another server has the place of this one, and all workers have ended."""
        if kept.obey(self.wrks):
            self.wrks.clear()
            self._start_times.clear()
        return kept.has_left()

    def _report(self) -> None:
        if self._kept and self._kept.leaves:
            return
        workers = [
            {"number": w.idx + 1, "pid": w.inner.pid, "started_at": w.born_at} for w in self.wrks if w.is_alive()
        ]
        self._files.report(
            {"pid": os.getpid(), "started_at": self._began, "replaced": self._deaths, "workers": workers, "reload": self._replacements.reload}
        )  # fmt: skip

    def _seconds_to_next_look(self, starting: bool) -> float | None:
        start = max(0.0, min(self._start_times.values()) - time.monotonic()) if self._start_times else None
        look = LOOK if starting else None
        pauses = (start, look, self._replacements.pause, self._memory.pause, self._ages.pause(self.wrks))
        return min((seconds for seconds in pauses if seconds is not None), default=None)

    def _replace_dead(self) -> list[int]:
        """Plan and start successors of dead workers. Return the workers that must stop the server, because their start failed."""
        failed = [idx for idx in self._newly_dead() if not self._plan_successor(idx)]
        return failed or [idx for idx in self._due() if not self._start_successor(idx)]

    def shutdown(self, exit_code: int = 0) -> None:
        """Stop the workers and exit. After a failed start, the last line of the log says why."""
        self.wrks += self._replacements.stop()
        try:
            super().shutdown(exit_code)
        finally:
            if self._stop_reason:
                log.error(f"lmstack: {self._stop_reason}; the server stops. See the error above.")

    def _drop_shared_socket(self) -> None:
        """Close all listening sockets."""
        self._listeners.close()

    def _newly_dead(self) -> list[int]:
        return [idx for idx, worker in enumerate(self.wrks) if idx not in self._start_times and not worker.is_alive()]

    def _due(self) -> list[int]:
        return [idx for idx, at in self._start_times.items() if at <= time.monotonic()]

    def _plan_successor(self, idx: int) -> bool:
        """Set the time at which the successor of a dead worker starts. Return False when the server must stop."""
        worker = self.wrks[idx]
        what = f"worker-{idx + 1} (PID {worker.inner.pid}) {reason(worker.inner.exitcode)}"
        if not worker.begun.flags[STARTED]:
            return self._plan_next_try(idx, f"{what} before it had started")
        log.warning(f"lmstack: {what}; a new worker replaces it")
        self._deaths += 1
        self._failed_starts[idx] = 0
        self._start_times[idx] = time.monotonic()
        return True

    def _plan_next_try(self, idx: int, what: str) -> bool:
        """Set the time of the next try after a failed start. Return False when no other worker serves."""
        if not any(worker.begun.flags[STARTED] and worker.is_alive() for worker in self.wrks):
            self._stop_reason = what
            return False
        pause = PAUSE_SECONDS[min(self._failed_starts[idx], len(PAUSE_SECONDS) - 1)]
        self._failed_starts[idx] += 1
        self._start_times[idx] = time.monotonic() + pause
        log.warning(f"lmstack: {what}; the other workers serve, and the next try is in {pause} s")
        return True

    def _start_successor(self, idx: int) -> bool:
        """Start a worker in the place of a dead one. Return False when the server must stop."""
        try:
            worker = self.start_worker(idx, None)
        except OSError as error:  # The machine has no memory, or no process id, for one more process.
            return self._plan_next_try(idx, f"worker-{idx + 1} cannot be created ({error})")
        del self._start_times[idx]
        self.wrks[idx] = worker
        return True
