"""A stack that an earlier lmstack wrote is updated; what its user edited stays."""

import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from lmstack.stack import assets, proxy_side
from lmstack.stack.project import Project
from support import ROOT


def released(commit: str, name: str) -> str:
    done = subprocess.run(["git", "show", f"{commit}:{name}"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the earlier release is not in this clone's history")
    return done.stdout


@pytest.mark.parametrize("commit", ["1cdc526", "1e97f66"])
def test_the_files_of_an_earlier_release_are_replaced(tmp_path: Path, commit: str) -> None:
    for name in assets._OLD:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(released(commit, name))
    written = assets.refresh(Project(tmp_path))
    assert set(assets._OLD) <= set(written)
    assert "src/lmstack/gateway/calls/hooks.py" in written
    assert "lmstack.gateway" in (tmp_path / "callbacks" / "taskmaster.py").read_text()
    assert assets.refresh(Project(tmp_path)) == []


def test_what_a_user_edited_stays(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM mine\n")
    assets.refresh(Project(tmp_path))
    assert (tmp_path / "Dockerfile").read_text() == "FROM mine\n"


def test_the_image_gets_every_file_that_the_proxy_imports() -> None:
    """The engine sees only what .dockerignore lets in."""
    lets_in = [line[1:] for line in assets.asset_texts()[".dockerignore"].splitlines() if line.startswith("!")]
    for source in proxy_side.sources():
        path = PurePosixPath("src/lmstack") / source.relative_to(proxy_side.PACKAGE).as_posix()
        assert any(path.match(pattern) or _below(path, pattern) for pattern in lets_in), path


def _below(path: PurePosixPath, pattern: str) -> bool:
    folder, deep, name = pattern.partition("/**/")
    return bool(deep) and folder in map(str, path.parents) and path.match(name)


def test_everything_that_the_proxy_side_imports_of_lmstack_is_shipped_with_it() -> None:
    shipped = {path.relative_to(proxy_side.PACKAGE).with_suffix("").as_posix() for path in proxy_side.sources()}
    for source in proxy_side.sources():
        for module in re.findall(r"^from lmstack\.([\w.]+) import", source.read_text(), re.MULTILINE):
            path = module.replace(".", "/")
            assert path in shipped or f"{path}/__init__" in shipped, f"{source}: lmstack.{module}"


def test_a_checkout_is_up_to_date() -> None:
    assert assets.refresh(Project(ROOT)) == []


def test_the_source_in_a_checkout_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    mine = tmp_path / "src" / "lmstack" / "gateway" / "__init__.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("# work that is not committed\n")
    assert assets.refresh(Project(tmp_path)) == []
    assert mine.read_text() == "# work that is not committed\n"
