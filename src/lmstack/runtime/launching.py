"""What a start of the local runtime hands over: the command line and the environment of the keeper and of the server."""

import os

from lmstack.config.settings import BY_NAME
from lmstack.runtime import releases
from lmstack.runtime.processes import MARK
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project


def environment(project: Project, plan: Plan) -> dict[str, str]:
    """Return the environment of supervisord and of its programs.

    No setting is in it, also none of the user's shell: the server reads its settings from its private file. A setting that
    was removed since would come back with each restart.
    """
    settings = {*BY_NAME, *project.catalog().variables, *plan.settings.extra, *plan.environ}
    env = {name: value for name, value in os.environ.items() if name not in settings}
    # A log file has no terminal: no colour codes in it.
    return {**env, MARK: str(project.root), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def server_environment(project: Project, plan: Plan) -> dict[str, str]:
    """Return the environment of the server, without its settings."""
    return environment(project, plan) | releases.environ(project, plan.settings.version)


def server_settings(project: Project, plan: Plan, model_port: int | None) -> dict[str, str]:
    """Return the variables that the server reads from its private file. A change replaces all of them."""
    found = {**plan.environ, "LEDGER_PATH": str(project.ledger)}
    return found if model_port is None else {**found, "EMBEDDED_API_BASE": f"http://127.0.0.1:{model_port}/v1"}


def server_command(project: Project, plan: Plan) -> list[str]:
    """Return the command line of the server."""
    serve = [*releases.command(project, plan.settings.version), "--config", str(project.config_file)]
    serve += ["--host", plan.settings.host, "--port", str(plan.settings.port)]
    # docs/performance.md: Granian starts several workers as fast as one, and serves most per second.
    return [*serve, "--run_granian", "--num_workers", str(plan.workers)]
