"""One folder's Docker Compose project: its name, files, variables, containers and volumes.

Every compose command of lm is built here, after a check that the compose file and the project name belong to this folder.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmstack import proc
from lmstack.errors import ConfigError, LmError
from lmstack.runtime.base import LogQuery, load_state
from lmstack.runtime.engine import (
    Engine,
    compose_command,
    docker_client,
    engine_conflict,
    engine_errors,
    require_engine,
)
from lmstack.runtime.logs import wanted_lines
from lmstack.stack.project import PROXY_SERVICE, Project

SERVICES = (PROXY_SERVICE, "redis")
_LABEL = "com.docker.compose"


class ComposeProject:
    """Builds and runs compose commands for one stack's folder."""

    def __init__(self, project: Project) -> None:
        self.root = project.root
        self.project = project

    @property
    def override(self) -> Path:
        """Return the path of the second compose file, which `lm up` writes when LITELLM_MOUNT is on."""
        return self.project.state / "compose.mounted.yml"

    @property
    def name(self) -> str:
        """Return the project name as compose finds it: environment, .env, ``name`` in the compose file, folder's name.

        Every command gives it to compose, so that compose never acts on another project than the one that lm checked.
        """
        entry = self.project.env_entries().get("COMPOSE_PROJECT_NAME")
        chosen = os.environ.get("COMPOSE_PROJECT_NAME") or (entry.value if entry else "")
        name = chosen or self.project.compose_name() or self.root.name
        return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-")

    def argv(self, *words: str) -> list[str]:
        """Return a compose command for our files; raise ConfigError when the compose file is not ours."""
        self.require_own_file()
        extra = ["-f", str(self.override)] if self.override.exists() else []
        files = ["--project-directory", str(self.root), "-f", str(self.project.compose_file), *extra]
        return [*compose_command(), "-p", self.name, *files, *words]

    def environment(self) -> dict[str, str]:
        """Return the variables that every compose command needs.

        Other containers with the same project name are not ours. Compose must not remove them as orphans, even if the
        user's shell tells it to.
        """
        return {
            "LITELLM_IMAGE": os.environ.get("LITELLM_IMAGE", ""),
            "COMPOSE_REMOVE_ORPHANS": "0",
            "COMPOSE_IGNORE_ORPHANS": "1",
        }

    def run(self, words: list[str], timeout: float, env: dict[str, str] | None = None, show: bool = False) -> None:
        """Run a compose command and wait for it; raise LmError when it fails."""
        proc.run(self.argv(*words), timeout=timeout, cwd=self.root, env=env or self.environment(), show=show)

    def log_tail(self, lines: int) -> str:
        """Return the last log lines of the proxy's container."""
        argv = self.argv("logs", "--no-log-prefix", "--tail", str(lines), PROXY_SERVICE)
        done = proc.run(argv, timeout=30, cwd=self.root, check=False)
        return done.stdout or done.stderr

    def logs(self, query: LogQuery) -> Iterator[str]:
        """Return the chosen lines of `docker compose logs`."""
        self.require_own_name()
        chosen = LogQuery(level=query.level, call_id=query.call_id, tail=query.tail)
        if query.tail and (query.level or query.call_id):
            # `--tail` of compose counts all lines, and not only the chosen ones.
            yield from wanted_lines(self._all_lines(replace(query, follow=False, tail=None)), chosen)
            query = replace(query, since=None, tail=0)
            if not query.follow:
                return
        for line in self._all_lines(query):
            yield from wanted_lines(iter([line]), replace(chosen, tail=None))

    def _all_lines(self, query: LogQuery) -> Iterator[str]:
        words = ["logs", "--no-log-prefix", *(["-f"] if query.follow else [])]
        words += ["--since", f"{int(query.since)}s"] if query.since else []
        words += [] if query.tail is None else ["--tail", str(query.tail)]
        argv = self.argv(*words, query.service or PROXY_SERVICE)
        return proc.lines(argv, cwd=self.root, env=self.environment())

    def require_own_file(self) -> None:
        """Raise ConfigError unless the compose file of this folder is ours."""
        foreign = self.project.foreign_compose()
        if foreign is not None:
            raise ConfigError(foreign, "make a stack with: lm init; or name the stack's folder with -C FOLDER")

    def engine_conflict(self) -> str | None:
        """Return why the engine is not the one on which this stack was started; None when it is."""
        state = load_state(self.project)
        return engine_conflict(Engine(**state.engine)) if state is not None and state.engine else None

    def require_same_engine(self) -> None:
        """Raise LmError when the stack was started on another engine: here, it would look as if nothing ran."""
        conflict = self.engine_conflict()
        if conflict is not None:
            state = load_state(self.project)
            before = Engine(**state.engine).chosen_by if state is not None else ""
            raise LmError(
                conflict,
                f"repeat the command with {before or 'DOCKER_HOST and DOCKER_CONTEXT unset'}; "
                f"if that engine is gone for good: rm {self.project.state / 'state.json'}",
            )

    def require_own_name(self) -> None:
        """Raise LmError unless the compose file is ours and no other engine or folder has this project."""
        self.require_own_file()
        self.require_free_name()

    def require_free_name(self) -> None:
        """Raise LmError when another engine or another folder has this project. Compose knows only its name."""
        self.require_same_engine()
        require_engine()
        name = self.name
        for container in list_containers([f"{_LABEL}.project={name}"]):
            place = container.labels.get(f"{_LABEL}.project.working_dir", "")
            if place and Path(place).resolve() != self.root:
                raise ConfigError(
                    f"the Docker project name '{name}' belongs to the stack in {place}",
                    f"give this stack its own name: COMPOSE_PROJECT_NAME=... in {self.project.env_file}",
                )

    def containers(self) -> list[Any]:
        """Return the containers of this folder's stack, running or not."""
        labels = [f"{_LABEL}.project={self.name}", f"{_LABEL}.oneoff=False"]
        return [container for container in list_containers(labels) if self._is_of_this_folder(container)]

    def volumes(self) -> set[str]:
        """Return the names of the volumes with this project's name."""
        return list_volumes(self.name)

    def _is_of_this_folder(self, container: Any) -> bool:
        place = container.labels.get(f"{_LABEL}.project.working_dir", "")
        return bool(place) and Path(place).resolve() == self.root and service_name(container) in SERVICES


def list_containers(labels: list[str], stopped: bool = True) -> list[Any]:
    """Return the containers with these labels. One that is removed meanwhile is left out."""
    with engine_errors():
        found: list[Any] = docker_client().containers.list(all=stopped, filters={"label": labels}, ignore_removed=True)
    return found


def list_volumes(project_name: str) -> set[str]:
    """Return the names of the volumes that compose made for the project with this name."""
    label = f"{_LABEL}.project={project_name}"
    with engine_errors():
        return {volume.name for volume in docker_client().volumes.list(filters={"label": label})}


def service_name(container: Any) -> str:
    """Return the compose service that a container belongs to; "" when it belongs to none."""
    return str(container.labels.get(f"{_LABEL}.service", ""))
