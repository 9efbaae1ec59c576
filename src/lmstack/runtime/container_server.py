"""The server inside the proxy's container: what it reports, and how a change of settings reaches it.

lmstack.gateway.app.ask_server is the other end. It runs inside the container and gets the change on its standard input. So no
file changes hands between two users, and a Docker engine on another machine works too.
"""

import json
from typing import Any

import yaml

from lmstack import proc
from lmstack.errors import LmError
from lmstack.runtime import server_control
from lmstack.runtime.compose_project import ComposeProject, service_name
from lmstack.runtime.engine import docker_client, engine_errors
from lmstack.runtime.workers import Worker, Workers
from lmstack.stack.project import PROXY_SERVICE

MODULE = "lmstack.gateway.app.ask_server"
CONFIG = "/app/config/litellm-config.yaml"
ANSWER_SECONDS = 30.0


class ContainerServer:
    """Asks the server of one compose project."""

    def __init__(self, compose: ComposeProject) -> None:
        self.compose = compose

    def report(self) -> dict[str, Any]:
        """Return what the server reports; empty when it does not run, or cannot change its settings."""
        if self._container() is None:
            return {}
        try:
            return self._ask("report", ANSWER_SECONDS)
        except LmError:  # An older lmstack in the container, or a container that just ends.
            return {}

    def workers(self) -> Workers:
        """Return the worker processes. Their process ids are those inside the container."""
        found = self.report()
        rows = [Worker(w["number"], w["pid"], w["memory_mb"], w["started_at"]) for w in found.get("workers", ())]
        return Workers(tuple(rows), found.get("replaced", 0))

    def change(self, asked: dict[str, Any]) -> None:
        """Have the server apply a change; return when all its workers are new. Raises UnhealthyError when it does not work."""
        seconds = asked["seconds"] + server_control.MARGIN_SECONDS
        asked = {**asked, "config_file": CONFIG, "wait": seconds}
        found = self._ask("change", seconds + ANSWER_SECONDS, json.dumps(asked))
        if found["state"] == "failed":
            raise server_control.refused(found["error"], found["log"])
        if found["state"] == "late":
            raise server_control.late()
        if found["state"] != "done":
            raise LmError("the server in the container cannot be reached", "start it again: lm restart")

    def settings(self, env: dict[str, str]) -> dict[str, str]:
        """Return the environment that compose would give a new container.

        A variable that the present container has, and a new one would not have, is empty. An empty one counts as unset.
        """
        argv = self.compose.argv("config")
        done = proc.run(argv, timeout=ANSWER_SECONDS, cwd=self.compose.root, env=env)
        found = yaml.safe_load(done.stdout)["services"][PROXY_SERVICE].get("environment") or {}
        # Compose writes a dollar sign twice, so that its output can be read again as a compose file.
        wanted = {str(k): str(v).replace("$$", "$") for k, v in found.items() if v is not None}
        return {**dict.fromkeys(self._given_names(), ""), **wanted}

    def forget_settings(self) -> None:
        """Delete the changed settings from the container's volume: a new container does not use them."""
        if self._container() is not None:
            self._ask("forget", ANSWER_SECONDS)

    def _given_names(self) -> set[str]:
        """Return the names of the variables that compose gave to the container; the image has the others."""
        container = self._container()
        if container is None:
            raise LmError("the container does not run any more", "start it again: lm restart")
        with engine_errors():
            image = docker_client().images.get(container.attrs["Image"])
        names = [_names(one.attrs["Config"].get("Env") or []) for one in (container, image)]
        return names[0] - names[1]

    def _container(self) -> Any:
        found = self.compose.containers()
        return next((c for c in found if service_name(c) == PROXY_SERVICE and c.status == "running"), None)

    def _ask(self, what: str, seconds: float, given: str | None = None) -> dict[str, Any]:
        argv = self.compose.argv("exec", "-T", PROXY_SERVICE, "python3", "-m", MODULE, what)
        env = self.compose.environment()
        done = proc.run(argv, timeout=seconds, cwd=self.compose.root, env=env, given=given)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def _names(env: list[str]) -> set[str]:
    return {entry.partition("=")[0] for entry in env}
