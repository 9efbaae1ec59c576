"""The operator's end of the private files of the keeper, which holds the port: what it starts, and how a new server takes over.

lmstack.gateway.app.keeper_files has the other end. A takeover has three steps. The new server serves all models, and gets the
new connections. It is tested. Then it stays, and the server before it finishes its requests. Until then that one can go on.
"""

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

from lmstack import files
from lmstack.errors import LmError, UnhealthyError
from lmstack.runtime import base, launching, server_control
from lmstack.runtime.logs import last_error
from lmstack.runtime.server_control import MARGIN_SECONDS, POLL_SECONDS, current_slot, folder, keeper_folder, read_json
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

# The configuration of a server on trial, beside the one in use: LiteLLM looks for our callback there.
TRIAL = ".litellm-config.trial.yaml"
# The keeper itself does what is ordered in a moment. A busy machine needs longer.
ANSWER_SECONDS = 30.0
# A server that is taken back has finished its requests in this time, unless they are long streams.
LEAVE_SECONDS = 5.0


def write_launch(project: Project, plan: Plan, settings: dict[str, str]) -> None:
    """Write what the keeper starts, with its settings. Nothing runs meanwhile."""
    server_control.forget_environment(project)
    server_control.write_environment(project, settings, server_control.SLOTS[0])
    files.remove(project.root / TRIAL)
    found = {
        "slot": server_control.SLOTS[0], "argv": launching.server_command(project, plan), "address": plan.settings.host, "port": plan.settings.port,
        "environ": launching.server_environment(project, plan), "workers": plan.workers, "config_file": str(project.config_file),
        "release": plan.settings.version,
    }  # fmt: skip
    files.write(keeper_folder(project) / "launch.json", json.dumps(found), files.PRIVATE)


def runs(project: Project, plan: Plan) -> bool:
    """Return whether the keeper starts the release of this plan. A new release may have stayed when `lm` was killed."""
    return read_json(keeper_folder(project) / "launch.json").get("release") == plan.settings.version


def can_take_over(project: Project, pid: int | None) -> bool:
    """Return whether the keeper with this pid lets a new server take the place of the present one."""
    return bool(server_control.keeper(project, pid).get("takes_over")) and bool(server_control.report(project, pid))


class Takeover:
    """A new server with this plan, which takes the place of the present one."""

    def __init__(self, project: Project, pid: int, plan: Plan, config: str, settings: dict[str, str]) -> None:
        self._project, self._pid, self._plan, self._config, self._settings = project, pid, plan, config, settings
        self._id, now = uuid.uuid4().hex, server_control.SLOTS.index(current_slot(project))
        self._slot = server_control.SLOTS[1 - now]

    def run(self, options: base.UpOptions, say: base.Say, prove: Callable[[], None]) -> None:
        """Let the new server serve, then ``prove``, then let it stay.

        If that fails or is interrupted, the present server goes on, and the error is raised.
        """
        try:
            self._start(options)
            self._wait("serving", options.timeout + MARGIN_SECONDS)
            say("The new server serves all models, and gets the new connections. Testing it …")
            prove()
            self._order("keep")
            self._wait("kept", ANSWER_SECONDS)
        except BaseException:
            if not self._has_stayed():
                raise

    def _start(self, options: base.UpOptions) -> None:
        project, plan = self._project, self._plan
        server_control.write_environment(project, self._settings, self._slot)
        files.write(project.root / TRIAL, self._config)
        self._order(
            "start", lm=os.getpid(), seconds=options.timeout, slot=self._slot, names=list(plan.names), config=str(project.root / TRIAL),
            argv=launching.server_command(project, plan), environ=launching.server_environment(project, plan), release=plan.settings.version,
        )  # fmt: skip

    def _order(self, do: str, **more: Any) -> None:
        path = keeper_folder(self._project) / "order.json"
        files.write(path, json.dumps({"id": self._id, "do": do, **more}), files.PRIVATE)
        try:
            os.kill(self._pid, signal.SIGUSR1)
        except OSError as error:
            files.remove(path)
            raise LmError(f"the keeper of the port, process {self._pid}, cannot be reached: {error.strerror}", "start it again: lm restart") from None  # fmt: skip

    def _wait(self, wanted: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self._state()
            if found.get("state") == wanted:
                return
            if found.get("state") == "failed":
                raise self._refused(found["error"])
            if not _lives(self._pid):
                raise self._refused("the keeper of the port has ended")
            time.sleep(POLL_SECONDS)
        raise self._refused("the new server did not serve every model in time")

    def _has_stayed(self) -> bool:
        """Take the new server back; return whether it is too late, because it has stayed."""
        if self._state().get("state") not in ("failed", "kept"):
            try:
                self._order("back")
                self._wait("kept", ANSWER_SECONDS)
            except LmError:  # It failed, as ordered; or the keeper has ended.
                pass
        if self._state().get("state") == "kept":
            return True
        deadline = time.monotonic() + LEAVE_SECONDS
        while server_control.keeper(self._project, self._pid).get("leaving") and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        files.remove(self._project.root / TRIAL)
        return False

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = server_control.keeper(self._project, self._pid).get("takeover", {})
        return found if found.get("id") == self._id else {}

    def _refused(self, why: str) -> UnhealthyError:
        log = files.read(folder(self._project, self._slot) / "start.log") or ""
        # Granian's own last line does not name the cause.
        found = last_error([line for line in log.splitlines() if "lifespan startup failed" not in line])
        quoted = f". Its last error: {found}" if found else ""
        return UnhealthyError(f"{why}{quoted}", "correct it and try again; lm logs has the rest")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
