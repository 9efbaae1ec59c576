"""Start a supervisord with the programs of a plan, in one of the two slots of a stack's folder."""

import os
import sys

from lmstack import files, proc
from lmstack.runtime import releases, server_control, supervisor
from lmstack.runtime.processes import MARK, conf_path, pid_path, record_processes, socket_path
from lmstack.runtime.programs import programs
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project


def server_settings(project: Project, plan: Plan, model_port: int | None) -> dict[str, str]:
    """Return the variables that the server reads from its private file. A change replaces all of them."""
    found = {**plan.environ, "LEDGER_PATH": str(project.ledger)}
    return found if model_port is None else {**found, "EMBEDDED_API_BASE": f"http://127.0.0.1:{model_port}/v1"}


def start(project: Project, plan: Plan, model_port: int | None, slot: str, takes_over: bool = False) -> None:
    """Start supervisord. With ``takes_over``, its server waits for the sockets of the running one."""
    root, started = project.root, programs(project, plan, model_port)
    server_control.write_environment(project, server_settings(project, plan, model_port), slot)
    if takes_over:
        server_control.write_task(project, slot, plan.names)
    files.write(conf_path(root, slot), supervisor.supervisor_conf(started, socket_path(root, slot), slot), 0o600)
    argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(conf_path(root, slot))]
    env = _environment(project, plan, slot) | supervisor.argument_variables(started)
    pid = proc.start_detached(argv, env=env, cwd=root, log=project.logs / "supervisord.log")
    files.write(pid_path(root, slot), f"{pid}\n")
    record_processes(root, [pid])


def _environment(project: Project, plan: Plan, slot: str) -> dict[str, str]:
    """Return the environment of supervisord. The settings are not in it: they may change while it runs."""
    env = {**os.environ, MARK: str(project.root), "PYTHONUNBUFFERED": "1"}
    env[server_control.FOLDER_VARIABLE] = str(server_control.folder(project, slot))
    env |= releases.environ(project, plan.settings.version)
    # A log file has no terminal: no colour codes in it.
    env["NO_COLOR"] = "1"
    return env
