"""A stack that an earlier lmstack wrote is updated; what its user edited stays."""

import subprocess
from pathlib import Path

import pytest

from lmstack.stack import assets
from lmstack.stack.project import Project
from support import ROOT


def first_release(name: str) -> str:
    done = subprocess.run(["git", "show", f"1cdc526:{name}"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the first release is not in this clone's history")
    return done.stdout


def test_the_files_of_the_first_release_are_replaced(tmp_path: Path) -> None:
    for name in assets._OLD:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(first_release(name))
    written = assets.refresh(Project(tmp_path))
    assert set(assets._OLD) <= set(written)
    assert "src/lmstack/gateway/calls/hooks.py" in written
    assert "lmstack.gateway" in (tmp_path / "callbacks" / "taskmaster.py").read_text()
    assert assets.refresh(Project(tmp_path)) == []


def test_what_a_user_edited_stays(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM mine\n")
    assets.refresh(Project(tmp_path))
    assert (tmp_path / "Dockerfile").read_text() == "FROM mine\n"


def test_a_checkout_is_up_to_date() -> None:
    assert assets.refresh(Project(ROOT)) == []
