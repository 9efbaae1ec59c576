"""Recorded processes are found by pid and creation time; a later process with the same pid is never taken for ours."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lmstack.runtime.processes import end_processes, forget_processes, processes, record_processes


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process with a child. Nothing in their command lines or environments names a stack."""
    child = "import time; time.sleep(600)"
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    for one in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
        one.kill()
    process.wait(10)
    process.stdout.close()


def record(root: Path, entries: list[object]) -> None:
    (root / ".lmstack").mkdir(exist_ok=True)
    (root / ".lmstack" / "processes.json").write_text(json.dumps(entries))


def lives(pid: int) -> bool:
    """An orphan stays as a zombie until its new parent has read its status."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_process_whose_parent_has_not_read_its_status_is_not_waited_for() -> None:
    """`lm up --foreground` is the parent of the supervisor that `lm down` stops."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        began = time.monotonic()
        end_processes([process.pid], 20, already_stopping=False)
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
        assert time.monotonic() - began < 20


def test_a_recorded_process_is_found_with_its_children_and_ended(tmp_path: Path, family: subprocess.Popen[str]) -> None:
    assert processes(tmp_path) == []
    record(tmp_path, [[family.pid, psutil.Process(family.pid).create_time()]])
    children = [child.pid for child in psutil.Process(family.pid).children()]
    assert len(children) == 1
    assert processes(tmp_path) == sorted([family.pid, *children])
    record_processes(tmp_path, [])
    end_processes(processes(tmp_path), 10, already_stopping=False)
    assert processes(tmp_path) == []
    assert not any(lives(pid) for pid in children)


def test_a_child_that_lost_its_parent_is_found_by_the_record(tmp_path: Path, family: subprocess.Popen[str]) -> None:
    record(tmp_path, [[family.pid, psutil.Process(family.pid).create_time()]])
    record_processes(tmp_path, [])
    (child,) = psutil.Process(family.pid).children()
    family.kill()
    family.wait(10)
    assert processes(tmp_path) == [child.pid]
    end_processes([child.pid], 10, already_stopping=False)
    assert not lives(child.pid)


@pytest.mark.parametrize("later", [-3600.0, -2.0, 2.0, 3600.0])
def test_another_process_with_a_recorded_pid_is_not_ours(
    tmp_path: Path, family: subprocess.Popen[str], later: float
) -> None:
    record(tmp_path, [[family.pid, psutil.Process(family.pid).create_time() + later]])
    assert processes(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", '[["x", "y"]]', "null", "5", "\udc80"])
def test_a_damaged_record_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lmstack").mkdir()
    (tmp_path / ".lmstack" / "processes.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert processes(tmp_path) == []
    forget_processes(tmp_path)
    forget_processes(tmp_path)


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["-m", "lmstack.gateway.app.serve", "--config", "{root}/litellm-config.yaml", "--port", "4000"], True),
        (["-m", "supervisor.supervisord", "-n", "-c", "{root}/.lmstack/supervisord.conf"], True),
        (["-m", "lmstack.runtime.embedded", "4001", "{root}"], True),
        (["/usr/bin/litellm", "--config", "{root}/litellm-config.yaml"], False),
        (["/usr/bin/vim", "{root}/.lmstack/supervisord.conf"], False),
        (["-m", "lmstack.gateway.app.serve", "--config", "{root}/other/litellm-config.yaml"], False),
    ],
)
def test_only_our_own_programs_are_found_by_their_command_line(tmp_path: Path, words: list[str], ours: bool) -> None:
    script = "print('up', flush=True); import time; time.sleep(600)"
    argv = [sys.executable, "-c", script, *(word.format(root=tmp_path) for word in words)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert processes(tmp_path) == ([process.pid] if ours else [])
        finally:
            process.kill()
