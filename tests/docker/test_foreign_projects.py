"""Somebody else's compose project: no command of ours stops, changes or deletes anything of it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import LM, Stack, clean_environ, free_port

pytestmark = pytest.mark.docker
FOREIGN = """
services:
  database:
    image: redis:7-alpine
    volumes: [data:/data]
volumes:
  data: {}
"""
# Every command that could touch a stack, with the options that destroy.
COMMANDS = [
    "up", "up --runtime docker", "up --dry-run --runtime docker", "down", "down --volumes -y", "restart", "status", "logs", "health",
    "upgrade --to 1.106.1", "rollback", "backup", "usage", "requests", "events list", "errors", "doctor", "test", "budget show",
]  # fmt: skip


def docker(*words: str, folder: Path | None = None) -> str:
    return subprocess.run(["docker", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def state_of(folder: Path) -> tuple[Any, ...]:
    """The container and the volume, as the engine knows them."""
    name = docker("compose", "-f", "docker-compose.yml", "ps", "-aq", folder=folder).split()
    (found,) = json.loads(docker("inspect", *name))
    (volume,) = [m["Name"] for m in found["Mounts"] if m["Type"] == "volume"]
    created = json.loads(docker("volume", "inspect", volume))[0]["CreatedAt"]
    return found["Id"], found["State"]["Status"], found["State"]["StartedAt"], found["RestartCount"], created


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "docker-compose.yml").write_text(FOREIGN)
    docker("compose", "up", "-d", folder=folder)
    yield folder
    docker("compose", "down", "--volumes", folder=folder)


def lm(folder: Path, command: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [*LM, *command.split()]
    environ = clean_environ(folder.parent, **env)
    return subprocess.run(
        argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def test_no_command_touches_a_project_that_is_not_ours(foreign: Path) -> None:
    before = state_of(foreign)
    for command in COMMANDS:
        done = lm(foreign, command, LITELLM_RUNTIME="docker" if "--runtime" not in command else "auto")
        assert "Traceback" not in done.stderr, (command, done.stderr)
        assert state_of(foreign) == before, command
    assert sorted(p.name for p in foreign.iterdir() if p.name != "docker-compose.yml") in (
        [],
        [".lmstack"],
        ["backups"],
    )


def test_no_command_touches_it_even_with_our_mark_beside_it(foreign: Path) -> None:
    """The mark alone is not enough: the compose file must be ours too."""
    (foreign / "callbacks").mkdir()
    (foreign / "callbacks" / "taskmaster.py").write_text("")
    before = state_of(foreign)
    for command in ("down", "down --volumes -y", "restart", "up --runtime docker", "logs", "usage"):
        done = lm(foreign, command, LITELLM_RUNTIME="docker")
        assert done.returncode != 0, command
        assert "Traceback" not in done.stderr
        assert state_of(foreign) == before, command


def test_a_project_of_the_same_name_in_another_folder_is_refused(foreign: Path, tmp_path: Path) -> None:
    mine = Stack(tmp_path / "elsewhere" / "theirs", free_port(), {"LITELLM_RUNTIME": "docker"})
    mine.root.mkdir(parents=True)
    mine.lm("init", "--dir", str(mine.root))
    mine.write_env(OPENAI_API_KEY="sk-test-0123456789")
    before = state_of(foreign)
    for command in (("up",), ("down",), ("down", "--volumes", "-y")):
        done = mine.lm(*command, check=False)
        assert done.returncode == 3, done.stderr
        assert "belongs to the stack in" in done.stderr
        assert state_of(foreign) == before, command


def test_a_project_inside_a_stacks_folder_lives_on(docker_gateway: Stack) -> None:
    """Same folder, same project name, another file: compose itself would call its containers orphans."""
    beside = docker_gateway.root / "theirs.yml"
    beside.write_text(FOREIGN)
    docker("compose", "-f", "theirs.yml", "up", "-d", folder=docker_gateway.root)
    try:
        (before,) = docker("compose", "-f", "theirs.yml", "ps", "-q", "database", folder=docker_gateway.root).split()
        docker_gateway.env["COMPOSE_REMOVE_ORPHANS"] = "1"
        docker_gateway.lm("up")
        docker_gateway.lm("restart")
        (after,) = docker("compose", "-f", "theirs.yml", "ps", "-q", "database", folder=docker_gateway.root).split()
        assert before == after
    finally:
        docker_gateway.env.pop("COMPOSE_REMOVE_ORPHANS", None)
        docker("compose", "-f", "theirs.yml", "rm", "-sfv", "database", folder=docker_gateway.root)
