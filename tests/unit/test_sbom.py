"""The SBOM lists what is locked."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import sbom
from lmstack import __version__
from support import ROOT


def locked() -> dict[tuple[str, str], set[str]]:
    """Return the hashes of each package and version in the lock."""
    found: dict[tuple[str, str], set[str]] = {}
    for block in re.split(r"\n(?=\S)", (ROOT / "requirements" / "runtime.txt").read_text()):
        if named := re.match(r"([\w.-]+)(?:\[.*\])?==(\S+)", block):
            found[named[1], named[2]] = set(re.findall(r"sha256:([0-9a-f]{64})", block))
    return found


def hashes(component: dict[str, Any]) -> set[str]:
    references = component.get("externalReferences", [])
    return {h["content"] for reference in references for h in reference.get("hashes", []) if h["alg"] == "SHA-256"}


@pytest.mark.exhaustive
def test_the_sbom_lists_every_locked_package_with_version_and_hashes(tmp_path: Path) -> None:
    target = tmp_path / "build" / "sbom.json"
    sbom.main(target)
    written = json.loads(target.read_text())
    assert (written["bomFormat"], written["metadata"]["component"]["name"]) == ("CycloneDX", "lmstack")
    assert written["metadata"]["component"]["version"] == __version__
    listed = {(c["name"], c["version"]): hashes(c) for c in written["components"]}
    assert len(listed) > 150
    assert all(listed.values())
    assert listed == locked()
    assert "serialNumber" not in written  # the same lock gives the same file
    assert "timestamp" not in written["metadata"]
    assert str(ROOT) not in target.read_text()
