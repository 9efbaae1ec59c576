"""The order of replacements, with workers that are no processes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.gateway.app import replacement
from lmstack.gateway.app.replacement import Replacements
from lmstack.gateway.app.server_files import ServerFiles
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
    monkeypatch.setattr(replacement, "LEAVE_SECONDS", 0)
    monkeypatch.setattr(replacement, "SETTLE_SECONDS", 0)
    return Machine(tmp_path)


def test_the_old_worker_leaves_only_after_the_new_one_has_started(machine: Machine) -> None:
    old = machine.wrks[1]
    machine.replacements.replace(1)
    machine.replacements.replace(1)
    machine.replacements.look()
    machine.replacements.look()
    assert [worker.idx for worker in machine.started] == [1]
    assert (machine.wrks[1], old.stopped, old.begun.flags[LEAVING]) == (old, False, 0)
    machine.started[0].begun.flags[STARTED] = 1
    machine.replacements.look()
    assert (machine.wrks[1], old.stopped, old.begun.flags[LEAVING]) == (machine.started[0], True, 1)


def test_a_worker_with_the_settings_of_before_proves_no_change(machine: Machine, tmp_path: Path) -> None:
    machine.replacements.replace(0)
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


def test_an_unreadable_change_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "next.json").write_text("{")
    machine.replacements.replace_all()
    machine.replacements.look()
    assert machine.started == []
