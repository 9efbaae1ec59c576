"""Compose projects of other programs: no lm command stops, changes or deletes anything of them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lmstack.cli import app as cli
from lmstack.runtime import images
from lmstack.runtime.base import State, save_state
from lmstack.runtime.engine import docker_client
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project
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
# These commands run until somebody stops them. They get this long, and are stopped.
ENDLESS = {"taskmaster dev", "events tail", "requests", "logs", "up", "run", "open"}
ENDLESS_SECONDS = 4.0


def docker(*words: str, folder: Path | None = None) -> str:
    return subprocess.run(["docker", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def everything_of(project: str) -> tuple[Any, ...]:
    """Return containers, volumes and networks of a compose project, as the engine knows them."""
    client, label = docker_client(), {"label": f"com.docker.compose.project={project}"}
    containers = [
        (c.id, c.status, c.attrs["State"]["StartedAt"], c.attrs["RestartCount"], c.attrs["HostConfig"]["RestartPolicy"])
        for c in client.containers.list(all=True, filters=label)
    ]
    volumes = [(v.name, v.attrs["CreatedAt"]) for v in client.volumes.list(filters=label)]
    networks = [n.id for n in client.networks.list(filters=label)]
    return sorted(containers, key=str), sorted(volumes), sorted(networks)


def command_lines() -> list[list[str]]:
    """Return each command of the command line itself: bare, with each of its flags, and with all of them."""
    found = []
    for words, one in _leaves(typer.main.get_command(cli.registered()), []):
        needed = ["1" for p in one.params if p.param_type_name == "argument" and p.required]
        flags = [p.opts[0] for p in one.params if p.param_type_name == "option" and p.is_flag and p.name != "help"]
        own = [[flag] for flag in flags if flag not in ("--quiet", "--json")]
        found += [[*words, *chosen, *needed] for chosen in ([], *own, flags)]
    return sorted(found, key=lambda line: line[0] == "init")  # it makes a stack of the folder


def _leaves(node: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    if not hasattr(node, "commands"):
        yield words, node
        return
    for name, one in sorted(node.commands.items()):
        yield from _leaves(one, [*words, name])


def lm(folder: Path, words: list[str], **env: str) -> str:
    """Run one command as a user would, and return its stderr."""
    process = subprocess.Popen(
        [*LM, *words], cwd=folder, env=clean_environ(folder.parent, **env), stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    endless = bool(ENDLESS & {words[0], " ".join(words[:2])})
    try:
        return process.communicate(timeout=ENDLESS_SECONDS if endless else 120)[1]
    except subprocess.TimeoutExpired:
        process.terminate()
        assert endless, words
        return process.communicate(timeout=60)[1]


def run_every_command(folder: Path, project: str, **env: str) -> None:
    run_commands(folder, project, command_lines(), **env)


def run_commands(folder: Path, project: str, lines: list[list[str]], **env: str) -> None:
    before = everything_of(project)
    assert before[0]
    for words in lines:
        told = lm(folder, words, LITELLM_RUNTIME="docker", **env)
        assert "Traceback" not in told, (words, told)
        assert everything_of(project) == before, words


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """Start a compose project "theirs" with a container, a volume and a network."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "docker-compose.yml").write_text(FOREIGN)
    docker("compose", "up", "-d", folder=folder)
    yield folder
    docker("compose", "-p", "theirs", "-f", "docker-compose.yml", "down", "--volumes", folder=folder)


def own_stack(folder: Path) -> Project:
    """Make a stack that looks as if it ran on Docker."""
    made = Project(folder)
    lay_down(made)
    save_state(made, State("docker", "digest", "http://localhost:4000", [], 0.0))
    (made.state / "image.json").write_text(json.dumps({"image": made.settings().image, "digest": "sha256:0"}))
    return made


def test_every_command_is_tried() -> None:
    lines = [" ".join(words) for words in command_lines()]
    assert {"up", "down", "down --volumes", "restart", "upgrade", "rollback", "backup", "status --check"} <= set(lines)
    assert any({"--volumes", "--yes"} <= set(words) for words in command_lines())
    assert len(lines) > 80


def test_in_a_folder_without_our_mark(foreign: Path) -> None:
    before = (foreign / "docker-compose.yml").read_text()
    run_commands(foreign, "theirs", [words for words in command_lines() if words[0] != "init"])
    kept = {"docker-compose.yml", ".lmstack", "backups", ".env", "models.yaml", "litellm-config.yaml"}
    assert {p.name for p in foreign.iterdir()} <= kept
    run_commands(foreign, "theirs", [["init"], ["up"], ["down"], ["down", "--volumes", "--yes"]])
    assert (foreign / "docker-compose.yml").read_text() == before


def test_in_a_folder_with_our_mark_and_state_but_their_compose_file(foreign: Path) -> None:
    """Check that our mark is not enough: the compose file must be ours too."""
    before = (foreign / "docker-compose.yml").read_text()
    own_stack(foreign)
    assert (foreign / "docker-compose.yml").read_text() == before
    run_every_command(foreign, "theirs")
    assert (foreign / "docker-compose.yml").read_text() == before


@pytest.mark.parametrize("where", ["environment", ".env", "folder"])
def test_in_a_stack_of_ours_with_their_project_name(foreign: Path, tmp_path: Path, where: str) -> None:
    mine = own_stack(tmp_path / "elsewhere" / ("theirs" if where == "folder" else "ours"))
    name = "COMPOSE_PROJECT_NAME=theirs\n" if where == ".env" else ""
    mine.env_file.write_text(f"{name}OPENAI_API_KEY=sk-test-0123456789\n")
    env = {"COMPOSE_PROJECT_NAME": "theirs"} if where == "environment" else {}
    before = everything_of("theirs")
    for words in (["up"], ["up", "--force"], ["down"], ["down", "--volumes", "-y"], ["logs"], ["usage"], ["backup"]):
        told = lm(mine.root, words, LITELLM_RUNTIME="docker", **env)
        assert "belongs to the stack in" in told, (words, told)
        assert everything_of("theirs") == before, words
    if where == ".env":
        run_every_command(mine.root, "theirs")


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_compose_file_of_the_users_shell_does_not_lead_to_their_project(
    foreign: Path, tmp_path: Path, where: str
) -> None:
    mine = own_stack(tmp_path / "ours")
    variable = {"COMPOSE_FILE": str(foreign / "docker-compose.yml"), "COMPOSE_PROFILES": "*"}
    text = "".join(f"{name}={value}\n" for name, value in variable.items()) if where == ".env" else ""
    mine.env_file.write_text(f"{text}LITELLM_PORT={free_port()}\n")
    before = everything_of("theirs")
    env = variable if where == "environment" else {}
    for words in (["status"], ["logs"], ["usage"], ["down"], ["down", "--volumes", "-y"], ["backup"]):
        told = lm(mine.root, words, LITELLM_RUNTIME="docker", **env)
        assert "Traceback" not in told
        assert everything_of("theirs") == before, words


def test_services_beside_ours_in_the_same_project_live_on(docker_gateway: Stack) -> None:
    """Check an override file in our folder. Compose itself would treat its containers as orphans."""
    root = docker_gateway.root
    beside = root / "docker-compose.override.yml"
    beside.write_text(FOREIGN)
    files = ("-f", "docker-compose.yml", "-f", beside.name)
    docker("compose", *files, "up", "-d", "--no-deps", "database", folder=root)

    def database() -> tuple[Any, ...]:
        (found,) = [c for c in everything_of(root.name)[0] if c[0] == identity]
        return found, [v for v in everything_of(root.name)[1] if v[0].endswith("_data") and "redis" not in v[0]]

    identity = docker("compose", *files, "ps", "-q", "--no-trunc", "database", folder=root).strip()
    before = database()
    docker_gateway.env["COMPOSE_REMOVE_ORPHANS"] = "1"
    try:
        for words in (["up"], ["restart"], ["backup"], ["down"], ["up"], ["down", "--volumes", "--yes"], ["up"]):
            done = docker_gateway.lm(*words, check=False, timeout=600)
            assert database() == before, (words, done.stderr)
            assert done.returncode == 0, (words, done.stderr)
    finally:
        docker_gateway.env.pop("COMPOSE_REMOVE_ORPHANS", None)
        docker("compose", *files, "rm", "-sfv", "database", folder=root)
        docker("volume", "rm", "-f", f"{root.name}_data")
        beside.unlink()


def test_a_volume_that_is_older_than_the_stack_is_not_deleted(tmp_path: Path) -> None:
    """Check it with a volume that a stack in another folder with the same name has left."""
    mine = own_stack(tmp_path / "twin")
    docker("volume", "create", "--label", "com.docker.compose.project=twin", "twin_litellm-logs")
    try:
        (mine.state / "image.json").unlink()
        images.record_volumes(mine, {"twin_litellm-logs", "twin_gone"})
        images.record_image(mine, "image")
        images.record_volumes(mine, set())
        told = lm(mine.root, ["down", "--volumes", "--yes"], LITELLM_RUNTIME="docker")
        assert "twin_litellm-logs is older than this stack" in told
        assert "twin_litellm-logs" in docker("volume", "ls", "-q").split()
        assert "error" not in lm(mine.root, ["down"], LITELLM_RUNTIME="docker")
    finally:
        docker("volume", "rm", "-f", "twin_litellm-logs")
