"""The listening sockets of the workers. All of them belong to the main process, so none closes with its worker.

On Linux each worker has its own, and a small program in the kernel spreads new connections evenly over those that serve.
"""

import ctypes
import errno
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from granian.net import SocketSpec  # type: ignore[attr-defined]  # it is not in the module's list of exports

# SO_ATTACH_REUSEPORT_CBPF of Linux. Python's socket module does not name it. It needs no privilege.
_ATTACH = 51
# Classic BPF, linux/bpf_common.h: load the ancillary value "random"; take it modulo k; compare with k; return k.
_LOAD, _MODULO, _IF_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56

# When a main process was killed, its workers give the port up within two seconds (parent.py).
FREE_SECONDS = 5.0


@dataclass
class Listener:
    """A listening socket. Its holder, Granian's object, owns the handle."""

    holder: Any
    socket: socket.socket


class Listeners:
    """Two places for each worker, so that a worker and its successor need not share a socket.

    The successor of a dead worker takes its place, and serves what waits there. The successor of a worker that leaves takes
    the other place. So the one that leaves has no new connection when it stops. Where the kernel takes no program, both
    places are one socket; where it does not even spread connections, all workers share one.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._open: list[Listener] = []
        self._chosen: list[int] = []
        self._steers = False

    def open(self, address: str, port: int, backlog: int) -> None:
        """Listen. Raises OSError or RuntimeError."""
        linux = sys.platform == "linux"
        if linux:
            _wait_until_free(address, port)
        self._listen(self._workers if linux else 1, address, port, backlog)
        if linux and self._attach([*range(self._workers)]):
            self._steers = True
            self._listen(self._workers, address, port, backlog)

    @property
    def sockets(self) -> list[socket.socket]:
        """Return all listening sockets."""
        return [one.socket for one in self._open]

    def of(self, idx: int, place: int) -> Listener:
        """Return the socket of a worker in one of its two places, 0 or 1."""
        return self._open[self._number(idx, place) % len(self._open)]

    def choose(self, serving: Sequence[tuple[int, int]]) -> None:
        """Let only the workers with these numbers and places get new connections."""
        chosen = [self._number(idx, place) for idx, place in serving]
        if self._steers and chosen and chosen != self._chosen and self._attach(chosen):
            self._chosen = chosen

    def _number(self, idx: int, place: int) -> int:
        return idx + place * self._workers

    def _listen(self, count: int, address: str, port: int, backlog: int) -> None:
        for _ in range(count):
            holder = SocketSpec(address, port, backlog).build()
            found = socket.socket(fileno=holder.get_fd())
            found.set_inheritable(True)
            found.listen(backlog)  # Here, and not in the worker: the kernel numbers the sockets in this order.
            self._open.append(Listener(holder, found))

    def _attach(self, chosen: list[int]) -> bool:
        """Give the kernel a program that picks one of these sockets at random; return whether it takes it.

        The kernel numbers the sockets in the order in which they began to listen.
        """
        steps = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(chosen))]
        for number, idx in enumerate(chosen):
            steps += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, idx)]
        steps.append((_RETURN, 0, 0, chosen[0]))
        text = b"".join(struct.pack("HBBI", *step) for step in steps)
        program = ctypes.create_string_buffer(text, len(text))
        try:
            value = struct.pack("HP", len(steps), ctypes.addressof(program))
            self._open[0].socket.setsockopt(socket.SOL_SOCKET, _ATTACH, value)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close all sockets of this process."""
        for listener in self._open:
            listener.socket.close()


def _wait_until_free(address: str, port: int) -> None:
    """Wait until no process listens there. Raises OSError if that takes too long.

    The kernel would let us share the port with a server of the same user. But its sockets would then have other numbers than
    our program expects, and connections would wait at sockets from which no process accepts.
    """
    deadline = time.monotonic() + FREE_SECONDS
    while True:
        try:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Open connections do not count.
                probe.bind((address, port))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.05)
