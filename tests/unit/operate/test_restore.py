"""A restore is checked with the restored files before the gateway stops, and says how to undo what it began."""

from pathlib import Path

import pytest

from fake_runtime import Machine
from lmstack.errors import ConfigError, LmError
from lmstack.operate import backup
from lmstack.runtime import base

SAY = base.Progress(quiet=True)
ENV = "OPENAI_API_KEY=sk-x0123456789\nLITELLM_PORT=4917\n"


def opened(machine: Machine, env: str) -> backup.Opened:
    """Return an unpacked backup with this .env."""
    folder = machine.project.root / "unpacked"
    folder.mkdir()
    (folder / ".env").write_text(env)
    return backup.Opened(folder, [backup.ENV], "2026-11-24 10:00:00 UTC")


def backups(machine: Machine) -> list[Path]:
    return list(machine.project.root.glob("backups/*"))


@pytest.mark.parametrize("step", ["check", "prepare"])
def test_an_env_that_cannot_start_here_is_refused_before_anything_stops(machine: Machine, step: str) -> None:
    machine.starts()
    state, env = base.load_state(machine.project), machine.project.env_file.read_text()
    machine.raises[step] = LmError("LiteLLM 1.106.1 is not installed here")
    with pytest.raises(LmError, match="is not installed here"):
        backup.restore(machine.project, opened(machine, ENV + "LITELLM_VERSION=1.106.1\n"), 5, SAY)
    assert machine.checked == ["1.106.1"]
    assert "down" not in machine.steps
    assert (base.load_state(machine.project), machine.project.env_file.read_text()) == (state, env)


def test_a_restore_that_fails_half_way_says_how_to_undo_it(machine: Machine) -> None:
    machine.starts(LITELLM_PORT="4918")
    machine.raises["up"] = LmError("no space left on device", "free some space")
    with pytest.raises(LmError, match="no space") as raised:
        backup.restore(machine.project, opened(machine, ENV), 5, SAY)
    kept = backups(machine)[0]
    assert raised.value.hint == f"free some space; to undo the restore: lm restore {kept} --env"
    state = base.load_state(machine.project)
    assert state is not None
    assert state.flags == {"LITELLM_PORT": "4918"}


def test_a_gateway_that_lm_did_not_start_is_not_restored_under(machine: Machine) -> None:
    machine.services = [base.Service("litellm-proxy", "running", pid=1)]
    with pytest.raises(LmError, match="lm did not start it"):
        backup.restore(machine.project, opened(machine, ENV), 5, SAY)
    assert machine.project.env_file.read_text() != ENV
    assert backups(machine) == []


def test_an_env_of_another_docker_project_is_refused(machine: Machine) -> None:
    machine.starts(LITELLM_RUNTIME="docker")
    with pytest.raises(ConfigError, match="names the Docker project 'theirs'"):
        backup.restore(machine.project, opened(machine, ENV + "COMPOSE_PROJECT_NAME=theirs\n"), 5, SAY)
    assert machine.services
    assert "theirs" not in machine.project.env_file.read_text()
    assert backups(machine) == []


def test_an_env_that_starts_is_restored(machine: Machine) -> None:
    machine.starts()
    done = backup.restore(machine.project, opened(machine, ENV + "LITELLM_VERSION=1.106.1\n"), 5, SAY)
    assert done.running
    assert "LITELLM_VERSION=1.106.1" in machine.project.env_file.read_text()
    assert machine.steps[-4:] == ["down", "check", "prepare", "up"]


def test_two_restores_within_a_second_keep_two_backups(tmp_path: Path) -> None:
    first = backup._free_name(tmp_path, "before-restore-1")
    first.touch()
    second = backup._free_name(tmp_path, "before-restore-1")
    second.touch()
    assert [first.name, second.name] == ["before-restore-1.tar.gz", "before-restore-1-2.tar.gz"]
    assert backup._free_name(tmp_path, "before-restore-1").name == "before-restore-1-3.tar.gz"
