"""Extend Granian: replace a worker that dies, keep the port of a single worker open, say what happened in the log.

Granian has no public interface for the second and third part. tests/unit/gateway/test_replacing_server.py runs it.
"""

import importlib
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any

from granian.log import logger as log
from granian.net import SocketSpec  # type: ignore[attr-defined]  # it is not in the module's list of exports
from granian.server import MPServer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmstack.gateway.app.serve import collect_and_freeze

# A worker has this time to finish its requests before it is killed. docker-compose.yml allows 45 s, supervisord 30 s.
STOP_SECONDS = 40


# Granian's own methods have no type annotations.
_Granian: Any = MPServer


class ReplacingServer(_Granian):  # type: ignore[misc]
    """Run the workers, and start a new worker in the place of one that dies.

    A worker that dies before it has started once stops the whole server: its successor would fail in the same way.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, respawn_failed_workers=True, workers_kill_timeout=STOP_SECONDS)
        # Shared with the workers: one flag for each, set by a worker once LiteLLM has started in it.
        self._has_started = RawArray("b", self.workers)

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
        return super()._spawn_worker(idx, target, partial(callback_loader, idx))

    def _respawn_workers(self, workers: list[int], spawn_target: Any, target_loader: Any, delay: float = 0) -> None:
        """Replace these workers. They have died, or SIGHUP asks for new ones."""
        dead = [idx for idx in workers if not self.wrks[idx].is_alive()]
        failed = [idx for idx in dead if not self._has_started[idx]]
        if failed:
            self._stop_after_failed_start(failed)
            return
        for idx in dead:
            process = self.wrks[idx].inner
            log.warning(
                f"lmstack: worker-{idx + 1} (PID {process.pid}) {_reason(process.exitcode)}; a new worker replaces it"
            )
        super()._respawn_workers(workers, spawn_target, target_loader, delay)
        # Granian stops when a worker dies twice within 5.5 s. Two bad requests in a row must not stop the gateway.
        self.respawned_wrks.clear()
        self._notice_missed_deaths()

    def _stop_after_failed_start(self, failed: list[int]) -> None:
        for idx in failed:
            reason = _reason(self.wrks[idx].inner.exitcode)
            log.error(
                f"lmstack: worker-{idx + 1} {reason} before it had started; the server stops. See the lines above."
            )
        self.interrupt_children.extend(failed)  # Granian then exits with status 1.
        self.interrupt_signal = True
        self.main_loop_interrupt.set()

    def _notice_missed_deaths(self) -> None:
        """Report dead workers that Granian's loop overlooks. That can happen when two workers die at the same moment."""
        known = set(self.interrupt_children)
        self.interrupt_children.extend(w.idx for w in self.wrks if not w.is_alive() and w.idx not in known)
        if self.interrupt_children:
            self.main_loop_interrupt.set()


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
    if exit_code is not None and exit_code < 0:
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"
