"""The operator's end of the private files through which a change reaches the running server.

lmstack.gateway.app.server_files has the server's end. SIGHUP goes to the keeper, which hands it on.
"""

import json
import os
import signal
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmstack import files
from lmstack.errors import LmError, UnhealthyError
from lmstack.runtime import base
from lmstack.runtime.logs import last_error
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

# Two servers may run at the same time. Each has a slot: a folder for its files, and sockets.
SLOTS = ("a", "b")
POLL_SECONDS = 0.1
# The server itself ends a start that takes too long. After this time more, lm does not wait any longer.
MARGIN_SECONDS = 30.0
APPLYING = "Applying the change: a new worker tries it; then it replaces the present ones, and no request is refused …"


def keeper_folder(project: Project) -> Path:
    """Return the private folder of the files of the keeper, which starts the server."""
    return project.state / "server"


def current_slot(project: Project) -> str:
    """Return the slot of the server that serves, or will serve."""
    slot = read_json(keeper_folder(project) / "launch.json").get("slot")
    return slot if slot in SLOTS else SLOTS[0]


def folder(project: Project, slot: str = "") -> Path:
    """Return the private folder of the files of a slot's server; by default of the present one's."""
    return keeper_folder(project) / (slot or current_slot(project))


def write_environment(project: Project, settings: Mapping[str, str], slot: str) -> None:
    """Write the settings with which the server of a slot starts."""
    for path in (keeper_folder(project), folder(project, slot)):
        files.ensure_writable_folder(path, 0o700)
    for name in ("next.json", "report.json", "start.log"):
        files.remove(folder(project, slot) / name)
    files.write(folder(project, slot) / "environment.json", json.dumps(dict(settings)), files.PRIVATE)


def forget_environment(project: Project) -> None:
    """Delete the settings and the reports: nothing runs any more."""
    for path in keeper_folder(project).rglob("*"):
        if not path.is_dir():
            files.remove(path)


def environment(project: Project) -> dict[str, str]:
    """Return the settings with which the server runs."""
    return dict(read_json(folder(project) / "environment.json"))


def keeper(project: Project, pid: int | None) -> dict[str, Any]:
    """Return what the keeper with this pid reports: the server, and the last takeover. Empty when it reports nothing."""
    found = read_json(keeper_folder(project) / "keeper.json")
    return found if pid is not None and found.get("pid") == pid else {}


def report(project: Project, pid: int | None) -> dict[str, Any]:
    """Return what the server of the keeper with this pid reports: its workers, and the last change.

    Empty when it reports nothing.
    """
    kept = keeper(project, pid)
    found = read_json(folder(project, kept["slot"]) / "report.json") if kept else {}
    return found if kept and found.get("pid") == kept["server"] else {}


def change(
    project: Project,
    plan: Plan,
    config: str,
    settings: Mapping[str, str],
    pid: int,
    options: base.UpOptions,
    say: base.Say,
) -> None:
    """Have the running server apply a change; return when all its workers are new.

    Raises UnhealthyError when the change does not work. Then the gateway goes on as before.
    """
    ask = {**asked(plan, config, settings, options), "config_file": str(project.config_file)}
    files.remove(folder(project) / "start.log")
    files.write(folder(project) / "next.json", json.dumps(ask), files.PRIVATE)
    say(APPLYING)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        files.remove(folder(project) / "next.json")
        raise LmError(
            f"the server, process {pid}, cannot be reached: {error.strerror}", "start it again: lm restart"
        ) from None
    _wait(project, str(ask["id"]), pid, options.timeout)


def asked(plan: Plan, config: str, settings: Mapping[str, str], options: base.UpOptions) -> dict[str, Any]:
    """Return what the server needs to know of a change. ``settings`` replace those of the last change."""
    return {
        "id": uuid.uuid4().hex, "names": plan.names, "seconds": options.timeout, "environment": dict(settings), "config": config,
    }  # fmt: skip


def _wait(project: Project, wanted: str, pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds + MARGIN_SECONDS
    while time.monotonic() < deadline:
        state = report(project, pid).get("reload", {})
        if state.get("id") == wanted and state["state"] == "done":
            return
        if state.get("id") == wanted and state["state"] == "failed":
            raise refused(state["error"], files.read(folder(project) / "start.log") or "")
        time.sleep(POLL_SECONDS)
    raise late()


def late() -> UnhealthyError:
    """Return the error for a change that has not ended in time."""
    return UnhealthyError("the server has not replaced all its workers in time", "see its log: lm logs; or start it again: lm restart")  # fmt: skip


def refused(why: str, log: str) -> UnhealthyError:
    """Return the error for a change that does not work, with the last error in what the new worker printed."""
    found = last_error(log.splitlines())
    quoted = f". Its last error: {found}" if found else ""
    return UnhealthyError(
        f"the change does not work, and the gateway runs on as before: {why}{quoted}", "correct it and run 'lm up' again; lm logs has the rest"
    )  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty when there is none."""
    try:
        found = json.loads(files.read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
