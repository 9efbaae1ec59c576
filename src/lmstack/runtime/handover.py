"""Let a new server take the place of the running one, for another LiteLLM release or a new lmstack. No request is refused.

Both run for a moment, each under a supervisord of its own. The new server serves every model before it gets a connection. If
it does not get so far, it is stopped, and the running one has never noticed.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from lmstack import files
from lmstack.errors import LmError, UnhealthyError
from lmstack.runtime import base, launching, server_control, slots, supervisor
from lmstack.runtime.logs import last_error
from lmstack.runtime.processes import end_processes, supervisor_pid
from lmstack.runtime.programs import PROXY
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

POLL_SECONDS = 0.1
_ENDED = ("BACKOFF", "EXITED", "FATAL", "STOPPED", "UNKNOWN")


def can_hand_over(project: Project, plan: Plan) -> bool:
    """Return whether the running server can give its sockets to one with this plan."""
    slot = slots.current(project.root)
    found = server_control.report(project, _server_pid(project, slot), slot)
    return found.get("hands_over") == plan.workers and not _leaving_pids(project, slots.other(slot))


def hand_over(project: Project, plan: Plan, config: str, options: base.UpOptions, log_tail: Callable[[], str]) -> None:
    """Start a server beside the running one, and return when it serves in its place.

    Raises LmError when that does not work. Then the running server serves as before. ``log_tail`` returns the end of the log.
    """
    old, before = slots.current(project.root), files.read(project.config_file)
    new, running = slots.other(old), _server_pid(project, old)
    if running is None:
        raise LmError("the server does not run any more", "start it again: lm restart")
    files.write(project.config_file, config)
    try:
        launching.start(project, plan, None, new, takes_over=True)
        _wait(project, old, running, new, options.timeout, log_tail)
    except BaseException:
        _give_up(project, old, running, new)
        if before is not None:
            files.write(project.config_file, before)
        raise
    slots.choose(project.root, new)
    server_control.order(project, old, running, {"order": "leave", "supervisor": supervisor_pid(project.root, old)})


def _wait(project: Project, old: str, running: int, new: str, seconds: float, log_tail: Callable[[], str]) -> None:
    """Wait until the new server serves. When it waits for the sockets, tell the running one to send them."""
    deadline, asked, seen = time.monotonic() + seconds, False, None
    door = server_control.folder(project, new) / server_control.TAKE_SOCKET
    while time.monotonic() < deadline:
        info = _proxy_info(project, new)
        pid = info["pid"] or None if info else None
        if info and (info["statename"] in _ENDED or (seen and pid != seen)):
            raise UnhealthyError(f"the new server does not start, and the gateway runs on as before{_quoted(log_tail())}", "see its log: lm logs")  # fmt: skip
        seen = pid or seen
        if not asked and door.exists():
            server_control.order(project, old, running, {"order": "hand_over", "socket": str(door)})
            asked = True
        if server_control.report(project, pid, new).get("serves"):
            return
        time.sleep(POLL_SECONDS)
    raise UnhealthyError(f"the new server did not serve within {seconds:g} s, and the gateway runs on as before{_quoted(log_tail())}", "see its log: lm logs")  # fmt: skip


def _give_up(project: Project, old: str, running: int, new: str) -> None:
    """Stop the new server. The running one tells the kernel again who serves."""
    pids = supervisor.pids(project.root, new) or [pid for pid in [supervisor_pid(project.root, new)] if pid]
    with contextlib.suppress(LmError):
        server_control.order(project, old, running, {"order": "keep"})
    reached = supervisor.shut_down(project.root, new)
    end_processes(pids, supervisor.STOP_SECONDS + 5, already_stopping=reached)
    server_control.forget_environment(project, new)


def _leaving_pids(project: Project, slot: str) -> list[int]:
    """Return the processes of a server that left its place before, and still finishes requests."""
    return supervisor.pids(project.root, slot)


def _server_pid(project: Project, slot: str) -> int | None:
    info = _proxy_info(project, slot)
    return info["pid"] or None if info else None


def _proxy_info(project: Project, slot: str) -> dict[str, Any] | None:
    infos = supervisor.process_infos(project.root, slot) or []
    return next((info for info in infos if info["name"] == PROXY), None)


def _quoted(log: str) -> str:
    found = last_error(log.splitlines())
    return f". Its last error: {found}" if found else ""
