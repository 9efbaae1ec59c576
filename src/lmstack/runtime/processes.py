"""Ports, sockets and processes of the local runtime. Uses nothing that only Linux has."""

import contextlib
import hashlib
import os
import socket
from pathlib import Path
from typing import Any

from lmstack.errors import LmError

MARK = "LMSTACK_HOME"
SUPERVISOR = "supervisor.supervisord"
# macOS allows 104 bytes, Linux 108; supervisord first binds a longer name beside it.
MAX_SOCKET_PATH = 90


def check_port_free(host: str, port: int) -> None:
    """Raise LmError, with who holds the port, unless it can be bound. LiteLLM would silently choose another one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            holder = _holder(port)
            raise LmError(
                f"port {port} on {host} cannot be used: {error.strerror}" + (f"; {holder} has it" if holder else ""),
                f"stop what has it, or choose another: lm up --port {_next_free(port)}",
            ) from None


def _holder(port: int) -> str:
    """Name and pid of the process that listens on a port; "" where this user may not know it."""
    import psutil

    for process in psutil.process_iter():
        # Process by process, because macOS shows nobody but root the whole list.
        with contextlib.suppress(psutil.Error, OSError):
            ports = [c.laddr[1] for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr]
            if port in ports:
                return f"{process.name()} (process {process.pid})"
    return ""


def _next_free(port: int) -> int:
    """The next port above that can be bound on the loopback."""
    for candidate in range(port + 1, min(port + 100, 65536)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            return candidate
    return free_port()


def free_port() -> int:
    """A port of the loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def socket_path(root: Path) -> Path:
    """supervisord's socket, the same for every caller, whatever its environment says. Socket paths are limited to about
    100 bytes: a stack that lies deep has it in a folder of /tmp that is this user's alone."""
    near = root / ".lmstack" / "supervisor.sock"
    if len(os.fsencode(near)) <= MAX_SOCKET_PATH:
        return near
    folder = Path("/tmp") / f"lmstack-{os.getuid()}"  # noqa: S108 - private, and checked below
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise LmError(f"cannot make {folder}: {error.strerror}", "move the stack to a shorter path") from None
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise LmError(f"{folder} is open to other users", f"mend it with: chmod 700 {folder}")
    return folder / (hashlib.sha256(os.fsencode(root)).hexdigest()[:16] + ".sock")


def processes(root: Path) -> list[int]:
    """Pids of everything that this folder's local runtime started, and of what those started.

    Found by what their command lines name, and by the mark in their environment where the system shows it: macOS does
    not for every program.
    """
    import psutil

    found = set()
    own = {os.getpid(), os.getppid()}
    for process in psutil.process_iter():
        if process.pid not in own and _is_ours(process, root):
            found.add(process.pid)
            with contextlib.suppress(psutil.Error, OSError):
                found |= {child.pid for child in process.children(recursive=True)}
    return sorted(found - own)


def is_supervised(root: Path) -> bool:
    """Whether this folder's supervisord lives; right after its start it does not answer yet."""
    import psutil

    named = str(root / ".lmstack" / "supervisord.conf")
    return any(SUPERVISOR in words and named in words for words in map(_cmdline, psutil.process_iter()))


def _is_ours(process: Any, root: Path) -> bool:
    words = _cmdline(process)
    programs = {
        SUPERVISOR: str(root / ".lmstack" / "supervisord.conf"),
        "--config": str(root / "litellm-config.yaml"),
        "lmstack.runtime.embedded": str(root),
    }
    if any(program in words and named in words for program, named in programs.items()):
        return True
    import psutil

    with contextlib.suppress(psutil.Error, OSError, SystemError):
        return bool(process.environ().get(MARK) == str(root))
    return False


def end_processes(pids: list[int], seconds: float, asked: bool) -> None:
    """Wait for processes to end. ``asked``: their supervisor ends them already; else each gets SIGTERM first. Who is left
    after that is killed. psutil compares the time of creation, so that a reused pid is never met."""
    import psutil

    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            alive.append(psutil.Process(pid))
    if not asked:
        _each(alive, "terminate")
    _, stuck = psutil.wait_procs(alive, timeout=seconds)
    _each(stuck, "kill")
    psutil.wait_procs(stuck, timeout=5)


def _each(found: list[Any], action: str) -> None:
    import psutil

    for process in found:
        with contextlib.suppress(psutil.Error):
            getattr(process, action)()


def _cmdline(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
