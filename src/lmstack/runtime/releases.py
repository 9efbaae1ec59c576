"""Releases of LiteLLM for the local runtime.

The pinned release is in lm's own environment. Any other has its own environment below .lmstack/, so that an upgrade and a
rollback change nothing that works.
"""

import contextlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from lmstack import files, proc
from lmstack.errors import LmError, MissingToolError
from lmstack.releases.proven import upgrade_command
from lmstack.runtime import release_lock
from lmstack.runtime.installed_by import install_command
from lmstack.runtime.processes import SERVER
from lmstack.stack import proxy_side
from lmstack.stack.project import Project

LIST_SECONDS, KEYS_SECONDS = 60.0, 120.0
_PREFIX = "litellm-"


def installed() -> str | None:
    """Return the release in lm's own environment, None when it has none."""
    try:
        return importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        return None


def folder(project: Project, version: str) -> Path:
    """Return the folder for the environment of another release."""
    return project.state / f"{_PREFIX}{version}"


def python_of(project: Project, version: str) -> Path | None:
    """Return the interpreter that has this release; None when it is not installed."""
    if installed() == version:
        return Path(sys.executable)
    made = folder(project, version)
    return made / "bin" / "python" if _mark(made).exists() else None


def command(project: Project, version: str) -> list[str]:
    """Return the command that serves this release, without its arguments; raise MissingToolError when it is not installed."""
    python = python_of(project, version)
    if python is not None:
        return [str(python), "-m", SERVER]
    here = installed()
    if here is not None:
        raise MissingToolError(
            f"LiteLLM {version} is not installed here; this environment has {here}", f"get it with: {upgrade_command(version)}"
        )  # fmt: skip
    raise MissingToolError(
        "the LiteLLM proxy is not installed in this Python environment",
        f"install it: {install_command()}; or use Docker: lm up --runtime docker",
    )


def environ(project: Project, version: str) -> dict[str, str]:
    """Return the variables with which another release finds the proxy's side of lmstack, and nothing else of lm."""
    if installed() == version:
        return {}
    side = project.state / "proxy-side"
    side.mkdir(parents=True, exist_ok=True)
    package = side / proxy_side.PACKAGE.name
    package.mkdir(exist_ok=True)
    for name in (*proxy_side.MODULES, *proxy_side.FOLDERS):
        link, source = package / name, proxy_side.PACKAGE / name
        if not link.is_symlink() or link.resolve() != source.resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(source)
    return {"PYTHONPATH": str(side)}


def available() -> list[str]:
    """Return every release of the configured package index, newest first; raise LmError when it does not answer."""
    argv = [sys.executable, "-m", "pip", "index", "versions", "litellm", "--disable-pip-version-check"]
    done = proc.run(argv, timeout=LIST_SECONDS, check=False)
    for line in done.stdout.splitlines():
        head, _, listed = line.partition(":")
        if head.strip() == "Available versions":
            return [name.strip() for name in listed.split(",")]
    last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    raise LmError(f"the package index did not list the releases: {last}", "is the network up? pip config list shows which index is used")  # fmt: skip


def install(project: Project, version: str) -> None:
    """Make the environment of another release from its lock, unless it exists. When that fails, no environment is left."""
    if python_of(project, version) is not None:
        return
    made, lock = folder(project, version), release_lock.lock_file(project, version)
    try:
        proc.run([sys.executable, "-m", "venv", "--clear", str(made)], timeout=LIST_SECONDS)
        release_lock.install(made / "bin" / "python", version, lock)
        files.write(_mark(made), json.dumps({"lock": lock.name}) + "\n")
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def recorded(project: Project, version: str) -> str:
    """Return what holds the hashes of a release; "" for the release that is installed with lm."""
    lock = release_lock.lock_file(project, version)
    if installed() == version or not lock.exists():
        return ""
    return f"{release_lock.packages(lock)} packages with the hashes in {lock.relative_to(project.root)}"


def prune(project: Project, keep: set[str]) -> None:
    """Remove the environments of all releases except those to ``keep``."""
    for made in project.state.glob(f"{_PREFIX}*"):
        if made.name.removeprefix(_PREFIX) not in keep:
            shutil.rmtree(made, ignore_errors=True)


def in_use(project: Project, pids: Iterable[int]) -> set[str]:
    """Return the releases that these processes run."""
    import psutil

    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error, IndexError):
            program = Path(psutil.Process(pid).cmdline()[0])
            found |= {made.name.removeprefix(_PREFIX) for made in program.parents if made.parent == project.state}
    return found


def legal_keys(argv: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Return which configuration keys a release knows. ``argv`` starts the interpreter that has the release."""
    script = (resources.files("lmstack.config") / "legal_keys.py").read_text(encoding="utf-8")
    given = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", **(env or {})}
    done = proc.run([*argv, "-"], timeout=KEYS_SECONDS, env=given, given=script)
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def _mark(made: Path) -> Path:
    """Return the file that says that an environment is complete."""
    return made / "installed.json"
