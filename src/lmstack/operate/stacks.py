"""The stacks of this machine and user: a list of folders, written at each start."""

import json
from pathlib import Path

from lmstack import files
from lmstack.errors import LmError
from lmstack.runtime import base
from lmstack.runtime.choose import runtime_for
from lmstack.stack.project import Project


def remember(root: Path) -> None:
    """Add a folder to the list. A list that cannot be written stops nothing."""
    try:
        files.write(_list_file(), json.dumps(sorted({*_folders(), str(root)}), indent=2) + "\n")
    except LmError:
        return


def known() -> list[dict[str, object]]:
    """Every stack whose folder still holds one: ``folder``, ``running``, ``runtime``, ``url``, ``started_at``."""
    return [_row(Project(Path(folder))) for folder in _folders() if Project(Path(folder)).is_stack]


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


def _runs(runtime: str, project: Project) -> bool:
    try:
        return any(service.state == "running" for service in runtime_for(runtime, project).services())
    except (LmError, OSError):
        return False


def _folders() -> list[str]:
    try:
        found = json.loads(files.read(_list_file()) or "[]")
    except (ValueError, LmError):
        return []
    return [folder for folder in found if isinstance(folder, str)] if isinstance(found, list) else []


def _list_file() -> Path:
    import platformdirs

    return platformdirs.user_state_path("lmstack") / "stacks.json"
