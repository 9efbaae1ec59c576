"""Stacks that run on although their folder was deleted: without its files, neither runtime finds them.

Only a folder in which this user has started a stack is looked at. Containers must carry our settings.
"""

import contextlib
from pathlib import Path
from typing import Any

from lmstack.runtime import supervisor
from lmstack.runtime.base import Service, Stopped
from lmstack.runtime.compose_project import SERVICES, list_containers, list_volumes, service_name
from lmstack.runtime.processes import end_processes, processes
from lmstack.stack import registry
from lmstack.stack.project import PROXY_SERVICE, Project

STOP_SECONDS = 60
_OUR_SETTING = "LMSTACK_CONFIG_DIGEST="  # docker-compose.yml gives it to each of our proxies
_DETAIL = "its folder was deleted; stop it with: lm down"


def leftovers(project: Project) -> list[Service]:
    """Return what still runs of a stack after its folder was deleted; empty for every other folder."""
    if not _was_deleted(project):
        return []
    local = [Service(PROXY_SERVICE, "running", _DETAIL, pid) for pid in processes(project.root)[:1]]
    return local or [Service(service_name(c), "running", _DETAIL) for c in _containers(project.root)]


def stop_leftovers(project: Project) -> Stopped:
    """Stop the processes and remove the containers. Docker volumes, with the ledger in them, stay."""
    if not _was_deleted(project):
        return Stopped(False)
    pids = processes(project.root)
    end_processes(pids, supervisor.STOP_SECONDS + 5, already_stopping=False)
    containers = _containers(project.root)
    kept = {volume for name in {_project(c) for c in containers} for volume in list_volumes(name)}
    for container in containers:
        _remove(container)
    registry.forget(project.root)
    return Stopped(bool(pids or containers), kept=tuple(sorted(kept)))


def _remove(container: Any) -> None:
    """Stop and remove a container, which another command may do at the same time."""
    import docker
    from lmstack.runtime.engine import engine_errors

    with engine_errors(), contextlib.suppress(docker.errors.NotFound):
        container.stop(timeout=STOP_SECONDS)
        container.remove()


def _was_deleted(project: Project) -> bool:
    return not project.is_stack and str(project.root) in registry.started_folders()


def _containers(root: Path) -> list[Any]:
    """Return the containers that compose made from this folder, if its proxy carries our settings."""
    from lmstack.runtime.engine import engine_problem

    if engine_problem() is not None:
        return []
    label = f"com.docker.compose.project.working_dir={root}"
    found = [c for c in list_containers([label], stopped=False) if service_name(c) in SERVICES]
    ours = {_project(c) for c in found if service_name(c) == PROXY_SERVICE and _has_our_settings(c)}
    return [c for c in found if _project(c) in ours]


def _project(container: Any) -> str:
    return str(container.labels.get("com.docker.compose.project", ""))


def _has_our_settings(container: Any) -> bool:
    return any(value.startswith(_OUR_SETTING) for value in container.attrs["Config"].get("Env") or [])
