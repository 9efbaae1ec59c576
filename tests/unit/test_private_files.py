"""Files that the gateway writes are closed to the other users of the machine, whatever the umask of the user is."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmstack import proc
from lmstack.ledger import schema


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
    assert (mode(made), mode(tmp_path / "cache")) == (0o600, 0o700)


def test_a_new_ledger_and_the_files_beside_it_are_for_their_user_alone(tmp_path: Path) -> None:
    with contextlib.closing(schema.connect(tmp_path / "litellm.db")) as conn:
        schema.migrate(conn)
        made = {path.name: mode(path) for path in tmp_path.iterdir()}
    assert made == dict.fromkeys(("litellm.db", "litellm.db-wal", "litellm.db-shm"), 0o600)
