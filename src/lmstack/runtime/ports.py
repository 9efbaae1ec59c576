"""Ports of this machine: which are free, and which process listens. Uses nothing that only Linux has."""

import contextlib
import socket

from lmstack.errors import LmError


def check_port_free(host: str, port: int) -> None:
    """Raise LmError unless the port can be used; the error names its holder. LiteLLM would silently choose another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            holder = _holder(port)
            raise LmError(
                f"port {port} on {host} cannot be used: {error.strerror}" + (f"; {holder} has it" if holder else ""),
                f"stop that program, or choose another port: lm up --port {_next_free(port)}",
            ) from None


def free_port() -> int:
    """Return a port of the loopback that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _holder(port: int) -> str:
    """Return name and pid of the process that listens on a port; "" where the system hides it from this user."""
    import psutil

    for process in psutil.process_iter():
        # Process by process, because macOS shows the whole list only to root.
        with contextlib.suppress(psutil.Error, OSError):
            ports = [c.laddr[1] for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr]
            if port in ports:
                return f"{process.name()} (process {process.pid})"
    return ""


def _next_free(port: int) -> int:
    """Return the next higher port that can be bound on the loopback."""
    for candidate in range(port + 1, min(port + 100, 65536)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            return candidate
    return free_port()
