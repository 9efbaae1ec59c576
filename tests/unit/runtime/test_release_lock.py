"""Another release is installed from recorded hashes. A real pip installs tiny wheels of a local package index."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lmstack.errors import LmError
from lmstack.runtime import release_lock, releases
from lmstack.stack.project import Project

pytestmark = pytest.mark.exhaustive  # pip makes an environment and installs, 4 s of CPU each time

VERSION = "1.106.10"


def wheel(index: Path, name: str, version: str, requires: str = "", content: str = "") -> Path:
    """Write a wheel with one module into the index."""
    path = index / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{name}.py", content)
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package index with a release of LiteLLM, and let pip use no other."""
    made = tmp_path / "index"
    made.mkdir()
    # No index has that certifi: our own requirement counts in its place (pins.OVERRIDES).
    requires = 'Provides-Extra: proxy\nRequires-Dist: tiny; extra == "proxy"\nRequires-Dist: certifi>=9999\n'
    wheel(made, "litellm", VERSION, requires)
    wheel(made, "certifi", "2026.7.1")
    wheel(made, "tiny", "1.0")
    wheel(made, "prisma", "0.15.0")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "CONFIG_FILE": os.devnull,
        "NO_INDEX": "1",
        "FIND_LINKS": str(made),
        "NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return made


def project_in(folder: Path) -> Project:
    (folder / ".lmstack").mkdir(parents=True)
    return Project(folder)


def versions(project: Project) -> str:
    python = str(releases.folder(project, VERSION) / "bin" / "python")
    done = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_first_installation_records_each_package_and_the_second_installs_the_same(
    tmp_path: Path, index: Path
) -> None:
    first, second = project_in(tmp_path / "first"), project_in(tmp_path / "second")
    releases.install(first, VERSION)
    lock = release_lock.lock_file(first, VERSION)
    assert re.findall(r"^(\S+) --hash=sha256:[0-9a-f]{64}$", lock.read_text(), re.MULTILINE) == [
        "certifi==2026.7.1", f"litellm=={VERSION}", "prisma==0.15.0", "tiny==1.0"
    ]  # fmt: skip
    assert releases.recorded(first, VERSION) == f"4 packages with the hashes in .lmstack/locks/{lock.name}"

    wheel(index, "tiny", "2.0")  # the index goes on; the lock does not
    shutil.copytree(lock.parent, release_lock.lock_file(second, VERSION).parent)
    releases.install(second, VERSION)
    assert "tiny==1.0\n" in versions(second)


def test_a_package_that_is_not_the_recorded_one_is_refused(tmp_path: Path, index: Path) -> None:
    project = project_in(tmp_path / "stack")
    releases.install(project, VERSION)
    releases.prune(project, set())  # a rollback or another machine installs it again
    wheel(index, "tiny", "1.0", content="# what somebody put in its place\n")
    with pytest.raises(LmError) as refused:
        releases.install(project, VERSION)
    lock = release_lock.lock_file(project, VERSION)
    assert str(refused.value) == f"LiteLLM {VERSION} was not installed: tiny is not the package that {lock} records"
    assert f"rm {lock}" in refused.value.hint
    assert not releases.folder(project, VERSION).exists()

    lock.unlink()
    releases.install(project, VERSION)
    assert releases.python_of(project, VERSION) is not None


def test_a_package_that_the_lock_does_not_name_is_not_installed(tmp_path: Path, index: Path) -> None:
    project = project_in(tmp_path / "stack")
    releases.install(project, VERSION)
    releases.prune(project, set())
    (index / "tiny-1.0-py3-none-any.whl").unlink()
    with pytest.raises(LmError, match=r"could not be installed as .* records it: .*tiny==1\.0"):
        releases.install(project, VERSION)


def test_a_source_package_is_refused_because_building_it_runs_code_without_a_hash(tmp_path: Path, index: Path) -> None:
    (index / "tiny-1.0-py3-none-any.whl").unlink()
    source = tmp_path / "tiny-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    subprocess.run([sys.executable, "-m", "tarfile", "-c", str(index / "tiny-1.0.tar.gz"), source.name], cwd=tmp_path, check=True)  # fmt: skip
    project = project_in(tmp_path / "stack")
    with pytest.raises(LmError, match=rf"LiteLLM {VERSION} could not be installed: .*tiny"):
        releases.install(project, VERSION)
    assert not (tmp_path / "ran").exists()
    assert not release_lock.lock_file(project, VERSION).exists()


@pytest.mark.parametrize("text", ["", "# LiteLLM\ntiny==1.0 --hash=sha256:00\n"])
def test_a_damaged_lock_is_refused(text: str, tmp_path: Path, index: Path) -> None:
    project = project_in(tmp_path / "stack")
    lock = release_lock.lock_file(project, VERSION)
    lock.parent.mkdir()
    lock.write_text(text)
    with pytest.raises(LmError, match="is damaged: it does not name LiteLLM"):
        release_lock.install(Path(sys.executable), VERSION, lock)


def test_a_release_that_the_index_lacks_is_one_clear_error(tmp_path: Path, index: Path) -> None:
    with pytest.raises(LmError, match=r"the package index has no LiteLLM 1\.108\.9 for this Python"):
        releases.install(project_in(tmp_path / "stack"), "1.108.9")
