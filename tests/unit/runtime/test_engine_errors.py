"""What the Docker engine refuses, and files that are damaged, are errors with a next step and never tracebacks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_engine import FakeEngine, select_stub
from lmstack.errors import ConfigError, LmError
from lmstack.operate import upgrade
from lmstack.runtime import images
from lmstack.runtime.base import State, save_state
from lmstack.runtime.compose import ComposeRuntime
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project

GONE = "deadbeef" * 8


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """Run an engine that lists a container which is removed before lm can look at it."""
    select_stub(monkeypatch, tmp_path)
    monkeypatch.delenv("COMPOSE_PROJECT_NAME", raising=False)
    with FakeEngine("engine", containers=(GONE,)) as server:
        server.refused[f"/{GONE}/json"] = (404, "no such container")
        monkeypatch.setenv("DOCKER_HOST", server.host)
        yield server
        server.shutdown()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "stack")
    lay_down(made)
    return made


def test_a_container_that_vanishes_is_left_out(engine: FakeEngine, project: Project) -> None:
    runtime = ComposeRuntime(project)
    runtime.compose.require_own_name()
    assert runtime.services() == []


def test_an_image_name_that_the_engine_refuses_is_a_configuration_error(engine: FakeEngine) -> None:
    engine.refused["/images/litellm::v1/json"] = (400, "invalid reference format")
    with pytest.raises(ConfigError, match="refuses the image name 'litellm::v1': invalid reference format"):
        images.image_id("litellm::v1")


def test_an_engine_in_trouble_is_one_error(engine: FakeEngine, project: Project) -> None:
    engine.refused["/containers/json"] = (500, "the disk is full")
    with pytest.raises(LmError, match="the disk is full"):
        ComposeRuntime(project).compose.containers()
    engine.refused["/volumes"] = (500, "the disk is full")
    with pytest.raises(LmError, match="the disk is full"):
        ComposeRuntime(project).compose.volumes()


def test_services_of_an_engine_in_trouble_are_unknown(engine: FakeEngine, project: Project) -> None:
    save_state(project, State("docker", "digest", "http://localhost:4000", [], 0.0))
    engine.refused["/containers/json"] = (500, "the disk is full")
    (service,) = ComposeRuntime(project).services()
    assert not service.is_known
    assert "the disk is full" in service.detail


@pytest.mark.parametrize("text", ["{", "[]", "nonsense"])
def test_a_damaged_record_of_the_image_is_one_error(project: Project, text: str) -> None:
    path = project.state / "image.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(LmError, match="is damaged") as raised:
        images.found_volumes(project)
    assert raised.value.hint == f"delete it: rm {path}"


@pytest.mark.parametrize("text", ["{", "[]", "{}", "nonsense"])
def test_a_damaged_record_of_an_upgrade_is_none(project: Project, text: str) -> None:
    path = project.state / "release.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(LmError, match="there is nothing to go back to"):
        upgrade.release_before(project)
