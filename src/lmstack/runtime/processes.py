"""The processes of the local runtime: find them, record them, end them. Uses nothing that only Linux has."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lmstack import files
from lmstack.errors import LmError

if TYPE_CHECKING:
    import psutil

MARK = "LMSTACK_HOME"
# The modules that the local runtime starts.
SUPERVISOR, EMBEDDED = "supervisor.supervisord", "lmstack.runtime.embedded"
KEEPER, SERVER = "lmstack.gateway.app.keeper", "lmstack.gateway.app.serve"
# macOS allows 104 bytes, Linux 108; supervisord first binds a longer name beside it.
MAX_SOCKET_PATH = 90
# A recorded process is the same one when its creation time differs by less: clocks round differently.
SAME_SECONDS = 1.0


def socket_path(root: Path) -> Path:
    """Return the path of supervisord's socket. It does not depend on environment variables.

    A long path does not fit into a socket address. Such a stack has its socket in a private folder of /tmp.
    """
    near = root / ".lmstack" / "supervisor.sock"
    if len(os.fsencode(near)) <= MAX_SOCKET_PATH:
        return near
    folder = Path("/tmp") / f"lmstack-{os.getuid()}"  # noqa: S108 - private, and checked below
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise LmError(f"cannot create {folder}: {error.strerror}", "move the stack to a shorter path") from None
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise LmError(f"{folder} is open to other users", f"repair it with: chmod 700 {folder}")
    return folder / (hashlib.sha256(os.fsencode(root)).hexdigest()[:16] + ".sock")


def processes(root: Path, known: Iterable[int] = ()) -> list[int]:
    """Return the pids of every process that this folder's local runtime started, with their children.

    A process is ours when it is recorded, or when its command line or environment names this folder. macOS hides some
    environments. ``known`` are pids that supervisord has reported.
    """
    import psutil

    recorded, own, reported = _recorded(root), {os.getpid(), os.getppid()}, set(known)
    found = set()
    for process in psutil.process_iter():
        ours = process.pid in reported or _is_recorded(process, recorded) or _is_ours(process, root)
        if ours and process.pid not in own:
            found.add(process.pid)
            with contextlib.suppress(psutil.Error, OSError):
                found |= {child.pid for child in process.children(recursive=True) if _lives(child)}
    return sorted(found - own)


def record_processes(root: Path, known: Iterable[int]) -> None:
    """Write pid and creation time of every process of this stack into .lmstack/processes.json."""
    import psutil

    found = []
    for pid in processes(root, known):
        with contextlib.suppress(psutil.Error):
            found.append([pid, psutil.Process(pid).create_time()])
    files.write(_record_file(root), json.dumps(found) + "\n")


def forget_processes(root: Path) -> None:
    """Delete the record: nothing runs any more."""
    files.remove(_record_file(root))


def is_supervised(root: Path) -> bool:
    """Return whether this folder's supervisord lives. Right after its start it does not answer yet."""
    import psutil

    named, recorded = str(root / ".lmstack" / "supervisord.conf"), _recorded(root)
    supervisor = {pid: created for pid, created in recorded.items() if pid == _supervisor_pid(root)}
    return any(
        _is_recorded(process, supervisor) or {SUPERVISOR, named} <= set(_cmdline(process))
        for process in psutil.process_iter()
    )


def end_processes(pids: list[int], seconds: float, already_stopping: bool) -> None:
    """Wait until the processes end, and kill those that do not end within ``seconds``.

    Unless they are ``already_stopping``, send SIGTERM first. psutil compares creation times, so that a new process with
    an old pid is never signalled.
    """
    import psutil

    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            alive.append(psutil.Process(pid))
    if not already_stopping:
        _signal(alive, "terminate")
    stuck = _alive_after(alive, seconds)
    _signal(stuck, "kill")
    _alive_after(stuck, 5)


def _alive_after(found: "list[psutil.Process]", seconds: float) -> "list[psutil.Process]":
    """Wait until the processes have ended, and return those that still live after ``seconds``.

    psutil.wait_procs also waits for a zombie. The supervisor of `lm up --foreground` stays one until that command ends.
    """
    deadline = time.monotonic() + seconds
    while (alive := [process for process in found if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _lives(process: "psutil.Process") -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _signal(found: "Iterable[psutil.Process]", method: str) -> None:
    import psutil

    for process in found:
        with contextlib.suppress(psutil.Error):
            getattr(process, method)()


def _recorded(root: Path) -> dict[int, float]:
    """Return the recorded creation time of each pid; empty when there is no readable record."""
    try:
        found = json.loads(files.read(_record_file(root)) or "[]")
        return {int(pid): float(created) for pid, created in found}
    except (ValueError, TypeError, LmError):
        return {}


def _is_recorded(process: "psutil.Process", recorded: dict[int, float]) -> bool:
    """Return whether this is a recorded process that lives, and not a later one with the same pid."""
    import psutil

    if process.pid not in recorded:
        return False
    try:
        same = abs(process.create_time() - recorded[process.pid]) < SAME_SECONDS
        return same and _lives(process)
    except psutil.Error:
        return False


def _is_ours(process: "psutil.Process", root: Path) -> bool:
    programs = {
        SUPERVISOR: str(root / ".lmstack" / "supervisord.conf"),
        KEEPER: str(root / ".lmstack" / "server"),
        SERVER: str(root / "litellm-config.yaml"),
        EMBEDDED: str(root),
    }
    words = set(_cmdline(process))
    # The module counts too: another program, such as the user's own `litellm`, may read our configuration.
    if any({module, named} <= words for module, named in programs.items()):
        return True
    import psutil

    with contextlib.suppress(psutil.Error, OSError, SystemError):
        return process.environ().get(MARK) == str(root)
    return False


def _cmdline(process: "psutil.Process") -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _supervisor_pid(root: Path) -> int | None:
    try:
        return int(files.read(root / ".lmstack" / "supervisord.pid") or "")
    except (ValueError, LmError):
        return None


def _record_file(root: Path) -> Path:
    return root / ".lmstack" / "processes.json"
