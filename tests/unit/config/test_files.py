"""A file that is written keeps its link, its inode where it has another name, its owner and its mode."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lmstack import files
from lmstack.errors import LmError
from support import ROOT

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to another user")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o660, 0o400])
@pytest.mark.parametrize("secret", [False, True])
def test_a_file_keeps_its_link_and_its_mode_and_a_secret_one_is_closed_to_strangers(
    tmp_path: Path, mode: int, secret: bool
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("a\n")
    real.chmod(mode)
    link.symlink_to(real)
    assert files.write(link, "b\r\n", files.PRIVATE if secret else 0o644)
    assert link.is_symlink()
    assert real.read_bytes() == b"b\r\n"
    assert stat.S_IMODE(real.stat().st_mode) == (mode & ~0o007 if secret else mode)


def test_a_new_secret_file_is_private_and_the_same_text_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert files.write(path, "a", files.PRIVATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.stat()
    assert not files.write(path, "a", files.PRIVATE)
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_hard_link_stays_one_file_and_others_are_replaced_in_one_step(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    second.hardlink_to(first)
    files.write(first, "new and longer", files.PRIVATE)
    assert first.stat().st_ino == second.stat().st_ino
    assert second.read_text() == "new and longer"
    files.write(second, "short", files.PRIVATE)
    assert first.read_text() == "short"
    second.unlink()
    inode = first.stat().st_ino
    files.write(first, "again", files.PRIVATE)
    assert first.stat().st_ino != inode, "with one name the file is replaced, so that nobody reads half of it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first"]


@AS_ROOT
@pytest.mark.parametrize("kind", ["plain", "link", "hard"])
def test_a_file_keeps_its_owner_and_group(tmp_path: Path, kind: str) -> None:
    real, path = tmp_path / "real", tmp_path / ".env"
    real.write_text("a")
    real.chmod(0o640)
    os.chown(real, 1234, 4321)
    if kind != "plain":
        (path.symlink_to if kind == "link" else path.hardlink_to)(real)
    files.write(path if kind != "plain" else real, "b", files.PRIVATE)
    found = real.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o640)
    assert real.read_text() == "b"


@AS_ROOT
def test_a_user_who_may_write_the_file_but_not_give_it_away_leaves_its_owner(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("a")
    path.chmod(0o660)
    os.chown(path, 0, 4321)
    os.chown(tmp_path, 1234, 4321)
    child = os.fork()
    if child == 0:
        os.chdir(tmp_path)  # the folders above it belong to root alone
        os.setgroups([])
        os.setgid(4321)
        os.setuid(1234)
        os._exit(0 if files.write(Path(".env"), "b", files.PRIVATE) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert path.read_text() == "b"
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o660)


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="no mount may be made here",
)
def test_a_bind_mounted_file_is_written_in_place(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "stack" / ".env"
    inside.parent.mkdir()
    inside.touch()
    outside.write_text("A=1\n")
    outside.chmod(0o640)
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from pathlib import Path; from lmstack import files; files.write(Path({str(inside)!r}), 'A=2\\n', files.PRIVATE)"
    script = f'mount --bind {outside} {inside} && exec {sys.executable} -c "$0"'
    subprocess.run(["unshare", "-rm", "sh", "-c", script, code], check=True, capture_output=True)
    assert outside.read_text() == "A=2\n"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o640
    assert [path.name for path in inside.parent.iterdir()] == [".env"], "no temporary file is left"


def test_a_full_disk_in_the_middle_of_a_write_in_place_puts_the_old_text_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / ".env", tmp_path / "other"
    path.write_text("the old text")
    other.hardlink_to(path)
    written = files._write_all

    def fill(stream: object, content: bytes) -> None:
        if content != b"the old text":
            written(stream, content[:5])  # type: ignore[arg-type]
            raise OSError(errno.ENOSPC, "No space left on device")
        written(stream, content)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "_write_all", fill)
    with pytest.raises(LmError, match="No space left"):
        files.write(path, "a new and longer text", files.PRIVATE)
    assert path.read_text() == other.read_text() == "the old text"


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(LmError, match="cannot write"):
        files.write(path, "x", files.PRIVATE)
    assert path.is_dir() or path.is_fifo()
