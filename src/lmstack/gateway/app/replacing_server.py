"""Extend Granian: replace a worker that dies, keep the port of a single worker open, say what happened in the log.

Granian has no public interface for the second and third part. tests/unit/gateway/test_replacing_server.py runs it.
"""

import importlib
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any

from granian import _signals
from granian.log import logger as log
from granian.net import SocketSpec  # type: ignore[attr-defined]  # it is not in the module's list of exports
from granian.server import MPServer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmstack.gateway.app.serve import collect_and_freeze

# A worker has this time to finish its requests before it is killed. docker-compose.yml allows 45 s, supervisord 30 s.
STOP_SECONDS = 40
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The pauses after failed starts of one worker in a row. The last one repeats.
PAUSE_SECONDS = (1, 2, 4, 8, 16, 32, 60)


# Granian's own methods have no type annotations.
_Granian: Any = MPServer


class ReplacingServer(_Granian):  # type: ignore[misc]
    """Run the workers, and start a new worker in the place of one that dies.

    A worker that dies before it has started is tried again while another worker serves. When no worker serves, the
    server stops: the next start would fail in the same way.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, workers_kill_timeout=STOP_SECONDS)
        # Shared with the workers: one flag for each, set by a worker once LiteLLM has started in it.
        self._has_started = RawArray("b", self.workers)
        self._stop_reason = ""  # empty while no failed start stops the server
        self._failed_starts = [0] * self.workers  # in a row, for each worker
        self._start_times: dict[int, float] = {}  # when to start the successor of a dead worker, in monotonic seconds

    def serve(self, *args: Any, **kwargs: Any) -> None:
        """Serve until a signal ends the server."""
        super().serve(*args, target_loader=partial(load_app, self._has_started), **kwargs)

    def _init_shared_socket(self) -> None:
        """Listen, or exit with an error line.

        Where Granian can (Linux), each worker has a listening socket of its own, and the kernel spreads the connections.
        When a single worker dies, no process would listen. So its socket belongs to this process, and connections
        wait there until the next worker takes them. Several workers would take unequal shares from one socket.
        """
        try:
            if self.workers > 1:
                super()._init_shared_socket()
            else:
                self._listen()
        except (OSError, RuntimeError) as error:
            log.error(
                f"lmstack: cannot listen on {self.bind_addr} port {self.bind_port}: {error}. Is another program using it?"
            )
            sys.exit(1)

    def _listen(self) -> None:
        holder = SocketSpec(self.bind_addr, self.bind_port, self.backlog).build()
        self._ssp, self._shd, self._sfd = None, holder, holder.get_fd()
        self._sso = socket.socket(fileno=self._sfd)
        self._sso.set_inheritable(True)

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Callable[..., ASGIApp]) -> Any:
        self._has_started[idx] = 0
        worker = super()._spawn_worker(idx, partial(run_worker, target), partial(callback_loader, idx))
        worker.start = partial(start_with_blocked_signals, worker.start)
        return worker

    def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
        """Replace dead workers until a signal ends the server. SIGHUP replaces all workers.

        Granian's own loop keeps a list of deaths. A worker can be missing there, or be listed twice, and then its
        successor is stopped. This loop asks each worker whether it lives.
        """
        while True:
            self.main_loop_interrupt.wait(self._seconds_to_next_start())
            self.main_loop_interrupt.clear()
            self.interrupt_children.clear()  # Granian's list of deaths. If it is not empty at the end, the status is 1.
            if self.interrupt_signal:
                return
            if self.reload_signal:
                self._start_times.clear()
                self._reload(spawn_target, target_loader)
            failed = self._replace_dead(spawn_target, target_loader)
            if failed:
                self.interrupt_children.extend(failed)
                return

    def _replace_dead(self, spawn_target: Any, target_loader: Any) -> list[int]:
        """Plan and start successors of dead workers. Return the workers that must stop the server, because their start failed."""
        failed = [idx for idx in self._newly_dead() if not self._plan_successor(idx)]
        return failed or [idx for idx in self._due() if not self._start_successor(idx, spawn_target, target_loader)]

    def shutdown(self, exit_code: int = 0) -> None:
        """Stop the workers and exit. After a failed start, the last line of the log says why."""
        try:
            super().shutdown(exit_code)
        finally:
            if self._stop_reason:
                log.error(f"lmstack: {self._stop_reason}; the server stops. See the error above.")

    def _newly_dead(self) -> list[int]:
        return [idx for idx, worker in enumerate(self.wrks) if idx not in self._start_times and not worker.is_alive()]

    def _due(self) -> list[int]:
        return [idx for idx, at in self._start_times.items() if at <= time.monotonic()]

    def _seconds_to_next_start(self) -> float | None:
        return max(0.0, min(self._start_times.values()) - time.monotonic()) if self._start_times else None

    def _plan_successor(self, idx: int) -> bool:
        """Set the time at which the successor of a dead worker starts. Return False when the server must stop."""
        process = self.wrks[idx].inner
        what = f"worker-{idx + 1} (PID {process.pid}) {_reason(process.exitcode)}"
        if not self._has_started[idx]:
            return self._plan_next_try(idx, f"{what} before it had started")
        log.warning(f"lmstack: {what}; a new worker replaces it")
        self._failed_starts[idx] = 0
        self._start_times[idx] = time.monotonic()
        return True

    def _plan_next_try(self, idx: int, what: str) -> bool:
        """Set the time of the next try after a failed start. Return False when no other worker serves."""
        if not any(self._has_started[worker.idx] and worker.is_alive() for worker in self.wrks):
            self._stop_reason = what
            return False
        pause = PAUSE_SECONDS[min(self._failed_starts[idx], len(PAUSE_SECONDS) - 1)]
        self._failed_starts[idx] += 1
        self._start_times[idx] = time.monotonic() + pause
        log.warning(f"lmstack: {what}; the other workers serve, and the next try is in {pause} s")
        return True

    def _start_successor(self, idx: int, spawn_target: Any, target_loader: Any) -> bool:
        """Start a worker in the place of a dead one. Return False when the server must stop."""
        worker = self._spawn_worker(idx, spawn_target, target_loader)
        try:
            worker.start()
        except OSError as error:  # The machine has no memory, or no process id, for one more process.
            return self._plan_next_try(idx, f"worker-{idx + 1} cannot be created ({error})")
        del self._start_times[idx]
        self.wrks[idx] = worker
        return True


def start_with_blocked_signals(start: Callable[[], None]) -> None:
    """Start a worker process. A stop signal reaches it only after ``run_worker`` has unblocked it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_worker(target: Callable[..., None], *args: Any) -> None:
    """Run a worker. Until it has its own signal handlers, a stop signal ends it immediately.

    A fork keeps the handlers of the main process. They would drop the signal, and the server would wait for STOP_SECONDS.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    _signals.set_loop_signals = set_plain_signals
    target(*args)


def set_plain_signals(loop: object) -> Any:
    """Let a stop signal end the worker, and return the event that it sets.

    Granian itself uses the event loop's handlers. The loop runs twice: the app starts in the first run and serves in
    the second. uvloop drops a signal that comes between them. The server would then wait for STOP_SECONDS.
    """
    return _signals.set_sync_signals()  # type: ignore[no-untyped-call]


def load_app(has_started: Any, target: str, idx: int) -> ASGIApp:
    """Return the app named ``module:attribute`` for one worker. It sets the worker's flag when it has started."""
    module, _, name = target.partition(":")
    app: ASGIApp = getattr(importlib.import_module(module), name)

    def noting(send: Send) -> Send:
        async def note(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                collect_and_freeze()
                has_started[idx] = 1
            await send(message)

        return note

    def serve(scope: Scope, receive: Receive, send: Send) -> Any:
        return app(scope, receive, noting(send) if scope["type"] == "lifespan" else send)

    return serve


def _reason(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with status {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:  # Most real-time signals have no name.
        return f"was ended by signal {-exit_code}"
