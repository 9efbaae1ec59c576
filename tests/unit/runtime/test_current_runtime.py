"""Without a state, commands find the runtime that has worked in this folder, although an engine answers."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_engine import DOCKER_VARIABLES, FakeEngine, docker_stub
from ledger_records import call, ended, make_writer, write
from lmstack.ledger.records import Started
from lmstack.runtime.base import State, load_state, save_state
from lmstack.runtime.choose import current_runtime
from lmstack.stack.project import Project
from support import InProcessStack, free_port


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessStack]:
    """Make a local stack after `lm down`: it has a ledger and a log, no state, and no LITELLM_RUNTIME."""
    for name in DOCKER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with FakeEngine("engine") as engine:
        environ = {
            "PATH": f"{docker_stub(tmp_path / 'bin')}:{os.environ['PATH']}",
            "DOCKER_CONFIG": str(tmp_path),
            "DOCKER_HOST": engine.host,
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        made = InProcessStack(tmp_path / "stack", free_port(), environ)
        made.root.mkdir()
        made.lm("init")
        made.write_env(OPENAI_API_KEY="sk-test-openai-0123456789")
        made.ledger.parent.mkdir()
        writer = make_writer(made.ledger)
        one = call("r1")
        write(writer, Started(one), ended(one))
        writer.close(5)
        (made.ledger.parent / "litellm-proxy.log").write_text("a line of the log\n")
        yield made
        engine.shutdown()


def test_a_stopped_local_stack_keeps_its_data_for_every_command(stopped: InProcessStack) -> None:
    assert [row["requests"] for row in stopped.json("usage")["data"]["rows"]] == [1]
    assert "a line of the log" in stopped.lm("logs").stdout
    assert stopped.json("backup", "saved.tar.gz")["data"]["ledger"]["requests"] == 1
    assert "logs/litellm.db" in stopped.json("down", "--volumes", "-y")["data"]["deleted"]
    assert not stopped.ledger.exists()


def test_a_stopped_local_stack_is_found_while_env_has_errors(stopped: InProcessStack) -> None:
    (stopped.root / ".env").write_text("not a line\n")
    assert "a line of the log" in stopped.lm("logs").stdout


def test_the_runtime_that_worked_last_is_found(stopped: InProcessStack) -> None:
    project = Project(stopped.root)
    assert current_runtime(project).name == "local"
    record = project.state / "image.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps({"image": "x", "digest": "y"}))
    os.utime(record, (time.time() + 10, time.time() + 10))
    assert current_runtime(project).name == "docker"
    os.utime(record, (1, 1))
    assert current_runtime(project).name == "local"


def test_a_stack_that_never_ran_uses_the_runtime_of_its_settings(stopped: InProcessStack) -> None:
    project = Project(stopped.root)
    for path in project.logs.iterdir():
        path.unlink()
    assert current_runtime(project).name == "docker"


def test_the_state_of_a_newer_lmstack_is_read(stopped: InProcessStack) -> None:
    project = Project(stopped.root)
    save_state(project, State("local", "digest", "http://localhost:4000", ["m"], 1.0, engine={"id": "a"}))
    path = project.state / "state.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "new": 1, "engine": {"id": "a", "arch": "b"}}))
    state = load_state(project)
    assert state == State("local", "digest", "http://localhost:4000", ["m"], 1.0, engine={"id": "a"})
    assert stopped.json("status", check=False)["data"]["runtime"] == "local"
