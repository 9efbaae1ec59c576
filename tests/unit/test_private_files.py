"""Files that the gateway writes are closed to the other users of the machine, whatever the umask of the user is."""

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmstack import files, proc
from lmstack.ledger import schema
from lmstack.operate import archive
from lmstack.operate.checks import env_file
from lmstack.operate.private_files import private_files
from lmstack.stack.project import Project


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Let every new file be open to everybody, so that only our own modes count."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    """Return who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_program_that_goes_on_writes_files_for_its_user_alone(tmp_path: Path) -> None:
    made = tmp_path / "litellm.db"
    code = f"import os; open({str(made)!r}, 'w').close(); os.mkdir({str(tmp_path / 'cache')!r})"
    pid = proc.start_detached([sys.executable, "-c", code], env={}, cwd=tmp_path, log=tmp_path / "log")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    assert (mode(made), mode(tmp_path / "cache"), mode(tmp_path / "log")) == (0o600, 0o700, 0o600)


def test_a_new_ledger_and_the_files_beside_it_are_for_their_user_alone(tmp_path: Path) -> None:
    with contextlib.closing(schema.connect(tmp_path / "litellm.db")) as conn:
        schema.migrate(conn)
        made = {path.name: mode(path) for path in tmp_path.iterdir()}
    assert made == dict.fromkeys(("litellm.db", "litellm.db-wal", "litellm.db-shm"), 0o600)


def test_a_backup_and_its_folder_are_for_their_user_alone(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: {}\n")
    target = tmp_path / "backups" / "one.tar.gz"
    archive.pack(target, {"models.yaml": tmp_path / "models.yaml"}, {})
    assert (mode(target.parent), mode(target)) == (0o700, 0o600)


def test_the_state_folder_is_for_its_user_alone_whoever_makes_it(tmp_path: Path) -> None:
    with files.locked(tmp_path / "locked" / "lock", "lm up"):
        assert mode(tmp_path / "locked") == 0o700
    files.ensure_writable_folder(tmp_path / "logs", 0o700)
    assert mode(tmp_path / "logs") == 0o700


def stack(root: Path) -> Project:
    """Make the files of a stack as an older lmstack or another program may have left them: open to everybody."""
    for name in (
        "logs/litellm.db",
        "logs/litellm.db-wal",
        "logs/litellm-proxy.log",
        ".lmstack/state.json",
        "backups/one.tar.gz",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Project(root)


def found(project: Project) -> dict[str, tuple[str, str, str]]:
    return {f.name: (f.status, f.what, f.fix) for f in private_files(project)}


def test_doctor_names_each_folder_that_is_open_and_the_command_that_closes_it(tmp_path: Path) -> None:
    project = stack(tmp_path / "my stack")
    assert found(project) == {
        f"files {name}": ("warn", f"{name}/ has mode 777, and others can read {file}", f"chmod 700 '{project.root / name}'")
        for name, file in (("logs", "litellm-proxy.log (666) and 2 more"), (".lmstack", "state.json (666)"), ("backups", "one.tar.gz (666)"))
    }  # fmt: skip
    for name, (_, _, fix) in found(project).items():
        subprocess.run(["sh", "-c", fix], check=True)
        assert name not in found(project)
    assert list(found(project)) == ["files"]


@pytest.mark.parametrize(
    "name", ["litellm.db", "litellm.db-wal", "litellm.db-shm", "litellm-proxy.log", "litellm.db.spool/a.jsonl"]
)
@pytest.mark.parametrize("wrong", [0o640, 0o604, 0o602])
def test_doctor_sees_one_open_file_in_an_open_folder(tmp_path: Path, name: str, wrong: int) -> None:
    project = stack(tmp_path / "stack")
    for path in project.root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o600)
    assert list(found(project)) == ["files"]
    (project.logs / name).parent.mkdir(exist_ok=True)
    (project.logs / name).touch()
    (project.logs / name).chmod(wrong)
    assert f"others can read {name} ({wrong:o})" in found(project)["files logs"][1]


def test_doctor_does_not_count_what_others_cannot_reach_nor_what_is_public(tmp_path: Path) -> None:
    project = stack(tmp_path / "stack")
    public = project.state / "litellm-1.106.10" / "lib"
    public.mkdir(parents=True)
    (public / "module.py").touch()
    (project.state / "state.json").unlink()
    project.logs.chmod(0o700)
    (project.root / "backups" / "one.tar.gz").chmod(0o600)
    (project.state / "link").symlink_to("/etc/passwd")
    assert list(found(project)) == ["files"]


@pytest.mark.parametrize("mode_of_env", [0o644, 0o660, 0o604])
def test_doctor_sees_an_open_env_file(tmp_path: Path, mode_of_env: int) -> None:
    project = Project(tmp_path)
    project.env_file.touch()
    project.env_file.chmod(mode_of_env)
    finding = env_file(project)
    assert (finding.status, finding.what, finding.fix) == ("warn", f".env has mode {mode_of_env:o}", "chmod 600 .env")
    project.env_file.chmod(0o600)
    assert env_file(project).status == "ok"
