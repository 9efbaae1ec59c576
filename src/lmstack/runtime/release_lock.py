"""The lock of another LiteLLM release: each package with its version and hash.

The first installation asks the package index which packages the release needs, and writes the lock. Every installation,
the first one too, takes only packages with these hashes. The hashes are of the packages for one platform and one Python, so
each pair has its own lock.
"""

import re
import shlex
import sys
import sysconfig
from pathlib import Path
from typing import Any

from lmstack import files, proc
from lmstack.errors import LmError
from lmstack.runtime import release_packages
from lmstack.runtime.release_packages import PIP_INSTALL, PIP_SECONDS
from lmstack.stack.project import Project


def lock_file(project: Project, version: str) -> Path:
    """Return the lock of a release for this platform and this Python."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return project.state / "locks" / f"litellm-{version}-{python}-{sysconfig.get_platform()}.txt"


def install(python: Path, version: str, lock: Path) -> None:
    """Install a release into the environment of ``python``, from the lock. Without a lock, make it first.

    Raises LmError when the index lacks a package, or when a package is not the one that the lock records.
    """
    text = files.read(lock)
    if text is None:
        text = _resolved(python, version)
        files.write(lock, text)
    elif f"\nlitellm=={version} " not in text:
        raise LmError(f"{lock} is damaged: it does not name LiteLLM {version}", f"delete it: {_delete(lock)}")
    done = proc.run(
        [str(python), *PIP_INSTALL, "--require-hashes", "--no-deps", "-r", str(lock)], timeout=PIP_SECONDS, check=False
    )
    if done.code:
        raise _difference(done.stderr, version, lock)


def packages(lock: Path) -> int:
    """Return how many packages a lock names."""
    return (files.read(lock) or "").count(" --hash=")


def _resolved(python: Path, version: str) -> str:
    """Return the text of a new lock. Installs nothing."""
    try:
        found = sorted(map(_line, release_packages.resolve(python, version)))
    except release_packages.ResolveError as error:
        is_missing = re.search(rf"found for litellm(\[proxy\])?=={re.escape(version)}", error.output)
        what = f"LiteLLM {version} could not be installed: {_last_error(error.output)}"
        if is_missing:
            what = f"the package index has no LiteLLM {version} for this Python"
        raise LmError(what, "see which there are: lm upgrade --check") from None
    return "\n".join((f"# LiteLLM {version}, recorded by `lm upgrade` at its first installation.", *found, ""))


def _line(package: dict[str, Any]) -> str:
    name, version = package["metadata"]["name"], package["metadata"]["version"]
    digest = package["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
    if not digest:
        raise LmError(f"the package index gives no hash for {name} {version}", "use another index: pip config list")
    return f"{name.lower()}=={version} --hash=sha256:{digest}"


def _difference(output: str, version: str, lock: Path) -> LmError:
    """Return the error for an installation from a lock that failed."""
    changed = re.search(r"^\s+(\S+) from .*:\n\s+Expected sha256", output, re.MULTILINE)
    if changed:
        return LmError(
            f"LiteLLM {version} was not installed: {changed[1].partition('==')[0]} is not the package that {lock} records",
            f"find out why it changed; to record the present packages instead: {_delete(lock)}",
        )
    return LmError(
        f"LiteLLM {version} could not be installed as {lock} records it: {_last_error(output)}",
        f"is the network up? To choose the packages again: {_delete(lock)}",
    )


def _last_error(output: str) -> str:
    lines = [line for line in output.strip().splitlines() if line.startswith("ERROR")] or output.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ")[:300] if lines else "pip said nothing"


def _delete(lock: Path) -> str:
    return f"rm {shlex.quote(str(lock))}"
