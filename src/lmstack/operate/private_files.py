"""A check of `lm doctor`: may other users of this machine read what the gateway writes? Changes nothing.

With Docker the ledger is in a volume of the engine, which only root can reach; the other files are the same in both runtimes.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from lmstack.operate.checks import OK, WARN, Finding
from lmstack.stack.project import Project

_ENTER = stat.S_IXGRP | stat.S_IXOTH
_READ_OR_WRITE = stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH
# Environments of other LiteLLM releases, and links to lmstack's own code: nothing in them is private, and they are large.
_PUBLIC = ("litellm-", "proxy-side")


def private_files(project: Project) -> list[Finding]:
    """Check the folders of ledger, logs, state and backups: one finding for each folder that is open to others."""
    folders = {project.logs: "the ledger and the logs", project.state: "the state", project.root / "backups": "the backups"}  # fmt: skip
    found = [finding for path, what in folders.items() if (finding := _open_folder(path, what)) is not None]
    return found or [Finding("files", OK, "only you can read ledger, logs, state and backups")]


def _open_folder(folder: Path, what: str) -> Finding | None:
    """Return the finding for a folder in which other users can read a file; None when they cannot."""
    exposed = sorted(_exposed(folder))
    if not exposed:
        return None
    more = f" and {len(exposed) - 1} more" if len(exposed) > 1 else ""
    named = f"{exposed[0].relative_to(folder)} ({_mode(exposed[0]):o}){more}"
    return Finding(
        f"files {folder.name}", WARN, f"{folder.name}/ has mode {_mode(folder):o}, and others can read {named}",
        f"other users of this machine can read {what}", f"chmod 700 {shlex.quote(str(folder))}",
    )  # fmt: skip


def _exposed(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that other users can reach and read. A folder that they cannot enter hides its files."""
    if not _mode(folder) & _ENTER:
        return
    for path in folder.iterdir() if os.access(folder, os.R_OK) else ():
        if path.is_symlink():
            continue
        if path.is_dir():
            yield from () if path.name.startswith(_PUBLIC) else _exposed(path)
        elif path.is_file() and _mode(path) & _READ_OR_WRITE:
            yield path


def _mode(path: Path) -> int:
    """Return the mode of a file; 0 when it is gone, as a log is that was just rotated."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
