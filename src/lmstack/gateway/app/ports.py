"""The listening sockets of one port, and the program in the kernel that spreads new connections. Standard library only.

The server opens them itself, or its keeper does (keeper.py) and the server inherits them.
"""

import ctypes
import errno
import socket
import struct
import sys
import time
from collections.abc import Sequence

# SO_ATTACH_REUSEPORT_CBPF of Linux. Python's socket module does not name it. It needs no privilege.
_ATTACH = 51
# Classic BPF, linux/bpf_common.h: load the ancillary value "random"; take it modulo k; compare with k; return k.
_LOAD, _MODULO, _IF_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56

# When a main process was killed, its workers give the port up within two seconds (parent.py).
FREE_SECONDS = 5.0


class Ports:
    """The sockets, in the order in which the kernel numbers them. It numbers them as they begin to listen.

    Where the kernel takes no program, there is one socket for each worker; where it does not even spread connections, there
    is one.
    """

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.steers = False
        self._chosen: list[int] = []

    def open(self, address: str, port: int, backlog: int, workers: int, each: int, first: int = 0) -> None:
        """Listen with ``each`` sockets for each worker. ``first``: the number of the first one to get connections.

        Raises OSError.
        """
        linux = sys.platform == "linux"
        address = {"localhost": "127.0.0.1"}.get(address, address.strip("[]"))
        if linux:
            _wait_until_free(address, port)
        self._listen(workers if linux else 1, address, port, backlog)
        if linux and self._attach([*range(workers)]):
            self.steers = True
            self._listen(workers * (each - 1), address, port, backlog)
            self.choose([*range(first, first + workers)])

    def choose(self, numbers: Sequence[int]) -> bool:
        """Let only these sockets get new connections; return whether they do."""
        wanted = list(numbers)
        if wanted != self._chosen and self.steers and wanted and self._attach(wanted):
            self._chosen = wanted
        return wanted == self._chosen

    def close(self) -> None:
        """Close the handles of this process."""
        for one in self.sockets:
            one.close()

    def _listen(self, count: int, address: str, port: int, backlog: int) -> None:
        for _ in range(count):
            found = socket.socket(_family(address))
            self.sockets.append(found)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Accepted connections inherit it.
            if ":" in address:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
            found.setblocking(False)
            found.bind((address, port))
            found.set_inheritable(True)
            found.listen(backlog)

    def _attach(self, chosen: list[int]) -> bool:
        """Give the kernel a program that picks one of these sockets at random; return whether it takes it."""
        steps = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(chosen))]
        for number, idx in enumerate(chosen):
            steps += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, idx)]
        steps.append((_RETURN, 0, 0, chosen[0]))
        text = b"".join(struct.pack("HBBI", *step) for step in steps)
        program = ctypes.create_string_buffer(text, len(text))
        try:
            value = struct.pack("HP", len(steps), ctypes.addressof(program))
            self.sockets[0].setsockopt(socket.SOL_SOCKET, _ATTACH, value)
        except OSError:
            return False
        return True


def stop_listening(sockets: Sequence[socket.socket]) -> None:
    """Take the sockets out of the kernel's group for this port. Accepted connections live on.

    A closed handle would not do: each worker has one. The next server's sockets would join the group, and the kernel would
    give connections to sockets from which no process accepts.
    """
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RD)
        except OSError:  # Another process was faster, or the system is not Linux and refuses it.
            continue


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _wait_until_free(address: str, port: int) -> None:
    """Wait until no process listens there. Raises OSError if that takes too long.

    The kernel would let us share the port with a server of the same user. But its sockets would then have other numbers than
    our program expects, and connections would wait at sockets from which no process accepts.
    """
    deadline = time.monotonic() + FREE_SECONDS
    while True:
        try:
            with socket.socket(_family(address)) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Open connections do not count.
                probe.bind((address, port))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.05)
