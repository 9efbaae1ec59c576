"""The stacks of this machine and user, with their state."""

from pathlib import Path

from lmstack.errors import LmError
from lmstack.runtime import base
from lmstack.runtime.choose import runtime_for
from lmstack.runtime.leftovers import leftovers
from lmstack.stack import registry
from lmstack.stack.project import Project


def known() -> list[dict[str, object]]:
    """Return a row for each stack that was started: ``folder``, ``running``, ``runtime``, ``url``, ``started_at``.

    A folder that holds no stack any more is listed only while its gateway still runs.
    """
    projects = [Project(Path(folder)) for folder in registry.started_folders()]
    rows = [_row(project) if project.is_stack else _deleted_row(project) for project in projects]
    return [row for row in rows if row]


def _row(project: Project) -> dict[str, object]:
    state = base.load_state(project)
    running = state is not None and _runs(state.runtime, project)
    return {
        "folder": str(project.root),
        "running": running,
        "runtime": state.runtime if state else None,
        "url": state.url if state else None,
        "started_at": state.started_at if state and running else None,
    }


def _deleted_row(project: Project) -> dict[str, object]:
    found = leftovers(project)
    if not found:
        return {}
    runtime = "local" if found[0].pid else "docker"
    return {"folder": str(project.root), "running": True, "runtime": runtime, "url": None, "started_at": None}


def _runs(runtime: str, project: Project) -> bool:
    try:
        return any(service.state == "running" for service in runtime_for(runtime, project).services())
    except (LmError, OSError):
        return False
