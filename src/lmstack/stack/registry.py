"""The list of folders in which this user has started a stack on this machine. A list that fails stops nothing."""

import contextlib
import json
from pathlib import Path

from lmstack import files
from lmstack.errors import LmError


def started_folders() -> list[str]:
    """Return the folders of the list; empty when there is none or it is not readable."""
    try:
        found = json.loads(files.read(_list_file()) or "[]")
    except (ValueError, LmError):
        return []
    return [folder for folder in found if isinstance(folder, str)] if isinstance(found, list) else []


def remember(root: Path) -> None:
    """Add a folder to the list."""
    _write({*started_folders(), str(root)})


def forget(root: Path) -> None:
    """Take a folder off the list."""
    _write(set(started_folders()) - {str(root)})


def _write(folders: set[str]) -> None:
    with contextlib.suppress(LmError):
        files.write(_list_file(), json.dumps(sorted(folders), indent=2) + "\n")


def _list_file() -> Path:
    import platformdirs

    return platformdirs.user_state_path("lmstack") / "stacks.json"
