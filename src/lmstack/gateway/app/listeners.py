"""The listening sockets of the workers. All of them belong to the main process, so none closes with its worker.

On Linux each worker has its own, and a small program in the kernel spreads new connections evenly over those that serve.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from granian import net

from lmstack.gateway.app.keeper_line import KeeperLine
from lmstack.gateway.app.ports import Ports

_holder: Any = net.SocketHolder  # type: ignore[attr-defined]  # it is not in the module's list of exports


@dataclass
class Listener:
    """A listening socket, and Granian's object for it. Its handle belongs to the socket."""

    holder: Any
    socket: socket.socket


class Listeners:
    """Two places for each worker, so that a worker and its successor need not share a socket.

    The successor of a dead worker takes its place, and serves what waits there. The successor of a worker that leaves takes
    the other place. So the one that leaves has no new connection when it stops. Where the kernel takes no program, both
    places are one socket; where it does not even spread connections, all workers share one.
    """

    def __init__(self, workers: int, keeper: KeeperLine | None = None) -> None:
        self._workers, self._keeper = workers, keeper
        self._ports = Ports()
        self._open: list[Listener] = []

    def open(self, address: str, port: int, backlog: int) -> None:
        """Listen, or use the sockets of the keeper. Raises OSError."""
        if self._keeper:
            self._ports.sockets = self._keeper.sockets
        else:
            self._ports.open(address, port, backlog, self._workers, 2)
        self._open = [Listener(_holder(one.fileno(), False, backlog), one) for one in self.sockets]

    @property
    def sockets(self) -> list[socket.socket]:
        """Return all listening sockets."""
        return self._ports.sockets

    def of(self, idx: int, place: int) -> Listener:
        """Return the socket of a worker in one of its two places, 0 or 1."""
        return self._open[self._number(idx, place) % len(self._open)]

    def choose(self, serving: Sequence[tuple[int, int]]) -> None:
        """Let only the workers with these numbers and places get new connections. When there are none, nothing changes.

        With a keeper, the keeper decides: another server may have taken the place of this one.
        """
        numbers = [self._number(idx, place) for idx, place in serving]
        if self._keeper:
            self._keeper.tell_serving(numbers)
        else:
            self._ports.choose(numbers)

    def _number(self, idx: int, place: int) -> int:
        return idx + place * self._workers

    def close(self) -> None:
        """Close all sockets of this process."""
        self._ports.close()
