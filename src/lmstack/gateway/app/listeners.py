"""The listening sockets of the workers. All of them belong to the main process, so none closes with its worker.

On Linux each worker has its own, and the kernel spreads new connections evenly. While a worker does not serve, a small
program in the kernel leaves its socket out. The successor serves the connections that wait there already.
"""

import ctypes
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from granian.net import SocketSpec  # type: ignore[attr-defined]  # it is not in the module's list of exports

# Linux: asm-generic/socket.h. Python's socket module does not name them.
_ATTACH, _DETACH = 51, 68
# Classic BPF, linux/bpf_common.h: load the ancillary value "random"; take it modulo k; compare with k; return k.
_LOAD, _MODULO, _IF_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56


@dataclass
class Listener:
    """A listening socket. Its holder, Granian's object, owns the handle."""

    holder: Any
    socket: socket.socket


class Listeners:
    """One socket for each worker, or one for all: for a single worker, and where a system does not spread connections."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._own = workers > 1 and sys.platform == "linux"
        self._open: list[Listener] = []
        self._chosen: list[int] = []

    def open(self, address: str, port: int, backlog: int) -> None:
        """Listen. Raises OSError or RuntimeError."""
        for _ in range(self._workers if self._own else 1):
            holder = SocketSpec(address, port, backlog).build()
            found = socket.socket(fileno=holder.get_fd())
            found.set_inheritable(True)
            self._open.append(Listener(holder, found))

    def of(self, idx: int) -> Listener:
        """Return the socket of a worker."""
        return self._open[idx if self._own else 0]

    def choose(self, serving: Sequence[int]) -> None:
        """Let these workers get all new connections. When none serves, new connections wait for each worker."""
        chosen = list(serving) or list(range(self._workers))
        if not self._own or chosen == self._chosen or not self._open:
            return
        self._chosen = chosen
        with suppress(OSError):  # An older kernel. Then a share of the connections waits for the successor.
            if len(chosen) == self._workers:
                self._open[0].socket.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
            else:
                self._attach(chosen)

    def _attach(self, chosen: list[int]) -> None:
        """Give the kernel a program that picks one of the chosen sockets. They are numbered in the order of opening."""
        steps = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(chosen))]
        for number, idx in enumerate(chosen):
            steps += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, idx)]
        steps.append((_RETURN, 0, 0, chosen[0]))
        text = b"".join(struct.pack("HBBI", *step) for step in steps)
        program = ctypes.create_string_buffer(text, len(text))
        self._open[0].socket.setsockopt(
            socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(steps), ctypes.addressof(program))
        )

    def close(self) -> None:
        """Close all sockets of this process."""
        for listener in self._open:
            listener.socket.close()
