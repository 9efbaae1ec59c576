"""Hand the listening sockets of a running server to a new one, for example of another LiteLLM release.

Both servers are started by `lm`. The new one waits at a socket in its private folder, and the running one sends its listening
sockets there. They are the same sockets, so connections that wait are never lost, and the kernel counts them as before.
"""

import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from granian.log import logger as log

from lmstack.gateway.app.listeners import Listeners
from lmstack.gateway.app.replacement import Replacements
from lmstack.gateway.app.server_files import ServerFiles

SOCKET = "take.sock"
# The running server sends its sockets as soon as `lm` sees that the new one waits.
WAIT_SECONDS = 120.0
SEND_SECONDS = 5.0
_MOST_SOCKETS = 128


class Server(Protocol):
    """What a handover needs of the server."""

    wrks: list[Any]
    workers: int


class Handover:
    """Both sides: a server that takes the place of a running one, and a server that leaves its place to another."""

    def __init__(self, server: Server, files: ServerFiles, listeners: Listeners, replacements: Replacements) -> None:
        self._server, self._files, self._listeners, self._replacements = server, files, listeners, replacements
        self._joining = files.to_take_over()
        self._first_places: dict[int, int] = {}
        self._then: Callable[[], None] | None = None  # what to do when all workers have left

    @property
    def joins(self) -> bool:
        """Return whether this server does not yet serve in the place of a running one."""
        return self._joining is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the models that a first worker must serve before this server takes the place of a running one."""
        return self._joining or ()

    @property
    def leaves(self) -> bool:
        """Return whether another server has taken the place of this one."""
        return self._then is not None

    def first_place(self, idx: int) -> int:
        """Return the place of a worker's first process."""
        return self._first_places.get(idx, 0)

    def open(self, address: str, port: int, backlog: int) -> None:
        """Listen, or get the sockets of the running server. Raises OSError, RuntimeError, ValueError or KeyError."""
        if self._joining is None:
            self._listeners.open(address, port, backlog)
            return
        found, handles = take(self._files.folder or Path())
        if found["workers"] != self._server.workers:
            raise ValueError("the running server has another number of workers")
        self._listeners.adopt(handles, backlog, found["steers"])
        # The workers of the running server keep their places, and ours take the others.
        self._first_places = {idx: 1 - place for idx, place in found["places"]}

    def steer(self, serving: Sequence[tuple[int, int]]) -> None:
        """Let the workers that serve get new connections. A new server waits until all its workers serve."""
        if self.leaves or (self.joins and len(serving) < self._server.workers):
            return
        if self.joins:
            log.info("lmstack: this server takes the place of the running one")
            self._files.took_over()
            self._joining = None
        self._listeners.choose(serving)

    def obeys(self) -> bool:
        """Do what `lm` orders beside a change; return whether it ordered something."""
        try:
            order = self._files.take_order()
            self._obey(order)
        except (OSError, ValueError, KeyError) as error:
            log.error(f"lmstack: an order of lm cannot be followed ({type(error).__name__}: {error})")
            return True
        return bool(order)

    def _obey(self, order: dict[str, Any]) -> None:
        if order.get("order") == "hand_over":
            places = [(worker.idx, worker.place) for worker in self._server.wrks]
            found = {"workers": self._server.workers, "steers": self._listeners.steers, "places": places}
            give(order["socket"], found, self._listeners.handles)
        elif order.get("order") == "keep":
            self._listeners.forget_choice()
        elif order.get("order") == "leave":
            log.info("lmstack: another server takes new connections; the workers finish their requests")
            self._replacements.leave_all([worker for worker in self._server.wrks if worker.is_alive()])
            self._server.wrks = []
            # A supervisor would start this server again if it ended by itself.
            self._then = partial(os.kill, order["supervisor"] or os.getpid(), signal.SIGTERM)

    def look(self) -> None:
        """End this server, or its supervisor, when all workers have left."""
        self._replacements.look()
        if self._then and not self._replacements.leaving:
            self._then()
            self._then = _wait_for_the_end


def _wait_for_the_end() -> None:
    """Do nothing: the signal that was sent ends the server."""


def give(path: str, found: dict[str, Any], handles: Sequence[int]) -> None:
    """Send file handles, and what the new server must know of them. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(SEND_SECONDS)
        line.connect(_near(path))
        socket.send_fds(line, [json.dumps(found).encode()], list(handles))


def take(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """Wait for the handles of the running server. Raises OSError, or ValueError for an answer that is not whole."""
    path = _near(str(folder / SOCKET))
    with suppress(FileNotFoundError):
        Path(path).unlink()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen(1)
        door.settimeout(WAIT_SECONDS)
        line, _ = door.accept()
    Path(path).unlink()
    with line:
        line.settimeout(SEND_SECONDS)
        text, handles, _, _ = socket.recv_fds(line, 65536, _MOST_SOCKETS)
    return json.loads(text), handles


def _near(path: str) -> str:
    """Return a path from the current folder. The address of a socket has room for about 100 bytes."""
    return os.path.relpath(path)
