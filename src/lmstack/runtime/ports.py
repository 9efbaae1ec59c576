"""Ports of this machine: which are free, and which process listens. Uses nothing that only Linux has."""

import contextlib
import socket
from collections.abc import Iterator

from lmstack.errors import LmError
from lmstack.runtime.base import Address

_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared, never bound


def check_port_free(wanted: Address, own: Address | None = None) -> None:
    """Raise LmError unless the address can be used; the error names its holder. LiteLLM would silently choose another port.

    ``own`` is the address of the gateway that runs here. It stops before the new one starts.
    """
    wanted = Address(_plain(wanted.host), wanted.port)
    own = Address(_plain(own.host), own.port) if own else None
    if own == wanted:
        return
    if own is not None and own.port == wanted.port and _overlap(own.host, wanted.host):
        # Our own gateway would refuse the bind. What else listens there is in the way.
        holder = next(
            (who for host, who in _listeners(wanted.port) if host != own.host and _overlap(host, wanted.host)), ""
        )
        if holder:
            raise _taken(wanted, "Address already in use", holder)
        return
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((wanted.host, wanted.port))
        except OSError as error:
            holder = next((who for host, who in _listeners(wanted.port) if _overlap(host, wanted.host)), "")
            raise _taken(wanted, error.strerror or "", holder) from None


def _taken(wanted: Address, reason: str, holder: str) -> LmError:
    return LmError(
        f"port {wanted.port} on {wanted.host} cannot be used: {reason}" + (f"; {holder} has it" if holder else ""),
        f"stop that program, or choose another port: lm up --port {_next_free(wanted.port)}",
    )


def _plain(host: str) -> str:
    host = host.strip("[]")
    return "127.0.0.1" if host == "localhost" else host


def _overlap(one: str, other: str) -> bool:
    """Return whether two addresses with the same port exclude each other: they are equal, or one stands for all."""
    return one == other or not {one, other}.isdisjoint(_EVERY_ADDRESS)


def free_port() -> int:
    """Return a port of the loopback that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listeners(port: int) -> Iterator[tuple[str, str]]:
    """Yield address and process (name and pid) of every listener on a port, unless the system hides it from this user."""
    import psutil

    for process in psutil.process_iter():
        # Process by process, because macOS shows the whole list only to root.
        with contextlib.suppress(psutil.Error, OSError):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr[1] == port:
                    yield one.laddr[0], f"{process.name()} (process {process.pid})"


def _next_free(port: int) -> int:
    """Return the next higher port that can be bound on the loopback."""
    for candidate in range(port + 1, min(port + 100, 65536)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            return candidate
    return free_port()
