"""The order of replacements, with workers that are no processes."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.gateway.app import old_workers, replacement
from lmstack.gateway.app.replacement import Replacements
from lmstack.gateway.app.server_files import Change, ServerFiles
from lmstack.gateway.app.worker_start import LEAVING, STARTED


class Worker:
    """A worker that starts when a test says so."""

    def __init__(self, idx: int, settings: str) -> None:
        self.idx, self.settings, self.alive, self.stopped = idx, settings, True, False
        self.begun = SimpleNamespace(flags=[1, 0] if settings == "old" else [0, 0])
        self.inner = SimpleNamespace(pid=1, exitcode=None)

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.alive = False

    def join(self) -> None: ...


class Machine:
    """Two workers that serve, and every worker that was started after them."""

    def __init__(self, folder: Path) -> None:
        self.files = ServerFiles(str(folder))
        self.wrks: list[Any] = [Worker(0, "old"), Worker(1, "old")]
        self.started: list[Worker] = []
        self.raises: OSError | None = None
        self.replacements = Replacements(self, self.files)

    def start_worker(self, idx: int, change: Any) -> Worker:
        if self.raises:
            raise self.raises
        self.started.append(Worker(idx, "new" if change else "running"))
        return self.started[-1]

    def took_over(self, idx: int, worker: Any) -> None:
        self.wrks[idx] = worker

    def ask(self, folder: Path) -> None:
        """Ask for a change, as `lm up` does."""
        asked = {"id": "c", "names": [], "seconds": 9, "environment": {}, "config_file": str(folder / "config"), "config": "new"}  # fmt: skip
        (folder / "next.json").write_text(json.dumps(asked))
        self.replacements.replace_all()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(old_workers, "LEAVE_SECONDS", 0)
    monkeypatch.setattr(old_workers, "SETTLE_SECONDS", 0)
    return Machine(tmp_path)


def test_the_old_worker_leaves_only_after_the_new_one_has_started(machine: Machine) -> None:
    old = machine.wrks[1]
    machine.replacements.replace(1, "too old")
    machine.replacements.replace(1, "too old")
    machine.replacements.look()
    machine.replacements.look()
    assert [worker.idx for worker in machine.started] == [1]
    assert (machine.wrks[1], old.stopped, old.begun.flags[LEAVING]) == (old, False, 0)
    machine.started[0].begun.flags[STARTED] = 1
    machine.replacements.look()
    assert (machine.wrks[1], old.stopped, old.begun.flags[LEAVING]) == (machine.started[0], True, 1)


def test_a_worker_with_the_settings_of_before_proves_no_change(machine: Machine, tmp_path: Path) -> None:
    machine.replacements.replace(0, "too old")
    machine.replacements.look()
    machine.ask(tmp_path)
    machine.started[0].begun.flags[STARTED] = 1  # It would have taken over with the next look.
    machine.replacements.look()
    assert not machine.started[0].alive
    assert not (tmp_path / "config").exists()
    assert [worker.settings for worker in machine.started] == ["running", "new"]
    machine.started[1].begun.flags[STARTED] = 1
    machine.replacements.look()
    assert (tmp_path / "config").read_text() == "new"


def test_a_change_whose_file_cannot_be_written_fails(machine: Machine, tmp_path: Path) -> None:
    old = list(machine.wrks)
    (tmp_path / "config").mkdir()
    machine.ask(tmp_path)
    machine.replacements.look()
    machine.started[0].begun.flags[STARTED] = 1
    machine.replacements.look()
    assert machine.replacements.reload["state"] == "failed"
    assert (machine.wrks, machine.started[0].alive) == (old, False)


def test_a_worker_that_cannot_be_created_ends_a_change(machine: Machine, tmp_path: Path) -> None:
    machine.raises = BlockingIOError(11, "no process id")
    machine.ask(tmp_path)
    machine.replacements.look()
    assert machine.replacements.reload["state"] == "failed"
    assert machine.replacements.pause is None


def test_after_the_proof_a_failed_start_is_tried_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "PAUSE_SECONDS", (0,))
    machine.ask(tmp_path)
    machine.replacements.look()
    machine.started[0].begun.flags[STARTED] = 1
    machine.replacements.look()
    machine.started[1].alive = False
    machine.replacements.look()
    machine.started[2].begun.flags[STARTED] = 1
    machine.replacements.look()
    machine.replacements.look()
    assert machine.replacements.reload["state"] == "done"
    assert machine.wrks == [machine.started[0], machine.started[2]]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("{", ""),
        ("5", ""),
        ("[" * 100_000, ""),
        ('{"id": "c"}', "c"),
        ('{"id": "c", "environment": 5, "names": 5}', "c"),
    ],
)
def test_an_unreadable_change_fails_and_changes_nothing(
    machine: Machine, tmp_path: Path, text: str, known: str
) -> None:
    (tmp_path / "next.json").write_text(text)
    machine.replacements.replace_all()
    machine.replacements.look()
    assert machine.started == []
    assert (machine.replacements.reload["id"], machine.replacements.reload["state"]) == (known, "failed")
    assert "cannot be read" in machine.replacements.reload["error"]


def test_a_failed_change_drops_no_replacement_of_one_worker(machine: Machine, tmp_path: Path) -> None:
    machine.replacements.replace(1, "too old")
    machine.replacements.look()  # Its new worker starts, and the change ends it.
    machine.ask(tmp_path)
    machine.replacements.look()
    machine.replacements.replace(0, "too large")
    machine.replacements.replace(0, "too large")
    machine.started[1].alive = False
    machine.replacements.look()
    assert machine.replacements.reload["state"] == "failed"
    for n in (2, 3):
        machine.started[n].begun.flags[STARTED] = 1
        machine.replacements.look()
    assert [(worker.idx, worker.settings) for worker in machine.started[2:]] == [(1, "running"), (0, "running")]


def test_replacements_wait_while_many_old_workers_finish(machine: Machine, tmp_path: Path) -> None:
    for idx in (0, 1, 0, 1):
        machine.replacements.replace(idx, "too old")
        machine.replacements.look()
        machine.started[-1].begun.flags[STARTED] = 1
        machine.replacements.look()
    machine.ask(tmp_path)
    machine.replacements.look()
    assert (len(machine.started), machine.replacements.reload["state"]) == (4, "running")
    machine.replacements.stop()[0].alive = False
    machine.replacements.look()
    assert len(machine.started) == 5


def test_a_change_does_not_wait_for_old_workers_for_ever(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "MAX_OLD", 0)
    machine.ask(tmp_path)
    machine.replacements.look()
    assert machine.replacements.reload["state"] == "running"
    now = replacement.time.monotonic() + 10
    monkeypatch.setattr(replacement.time, "monotonic", lambda: now)
    machine.replacements.look()
    assert machine.replacements.reload["state"] == "failed"
    assert "try again later" in machine.replacements.reload["error"]
    assert machine.replacements.pause is None


def test_a_commit_whose_second_file_cannot_be_renamed_puts_the_first_back(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("old")
    (tmp_path / "config").chmod(0o644)
    (tmp_path / "environment.json").mkdir()
    change = Change(id="c", config_file=str(tmp_path / "config"), config="new", environ=dict(os.environ))
    with pytest.raises(OSError, match="directory"):
        machine.files.commit(change)
    assert (tmp_path / "config").read_text() == "old"
    assert (tmp_path / "config").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "environment.json"]
