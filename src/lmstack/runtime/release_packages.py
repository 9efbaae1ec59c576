"""Which packages a LiteLLM release needs: what pip resolves, with our requirements in place of some of LiteLLM's.

Each LiteLLM release asks for the newest version of some packages. A mirror of the package index may not have it yet. uv can
override a requirement (pyproject.toml), but pip cannot. So LiteLLM and its requirements are resolved one after the other.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lmstack import proc
from lmstack.releases.pins import OVERRIDES

PIP_SECONDS = 1800.0
# A source package would run its own code while it is built, with build tools that no hash covers.
PIP_INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--only-binary", ":all:")
_EXTRA = "proxy"


class ResolveError(Exception):
    """The package index cannot give what a release needs. ``output``: what pip wrote."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def resolve(python: Path, version: str) -> list[dict[str, Any]]:
    """Return the packages of a release, as pip reports them. Installs nothing. Raises ResolveError when the index lacks one."""
    release = _report(python, "--no-deps", f"litellm=={version}")
    return [*release, *_report(python, *requirements(release[0]["metadata"]), "prisma>=0.15")]


def requirements(metadata: Mapping[str, Any]) -> list[str]:
    """Return what a release of LiteLLM with its proxy needs on this platform, with OVERRIDES in place of its own."""
    ours = {canonicalize_name(Requirement(text).name): text for text in OVERRIDES}
    needed = [r for r in map(Requirement, metadata.get("requires_dist") or ()) if _applies(r)]
    return [ours.get(canonicalize_name(r.name)) or str(r).partition(";")[0].strip() for r in needed]


def _applies(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", _EXTRA))


def _report(python: Path, *wanted: str) -> list[dict[str, Any]]:
    done = proc.run(
        [str(python), *PIP_INSTALL, "--dry-run", "--ignore-installed", "--report", "-", *wanted],
        timeout=PIP_SECONDS,
        check=False,
    )
    if done.code:
        raise ResolveError(done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return found
