"""Two Docker engines: a stack that was started on one is never taken for stopped because another one is selected."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_engine import FakeEngine, select_stub
from lmstack.errors import LmError
from lmstack.runtime import engine
from lmstack.runtime.base import State, save_state
from lmstack.runtime.compose import ComposeRuntime
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project


@pytest.fixture
def one() -> Iterator[FakeEngine]:
    with FakeEngine("engine-one") as server:
        yield server
        server.shutdown()


@pytest.fixture
def two() -> Iterator[FakeEngine]:
    with FakeEngine("engine-two") as server:
        yield server
        server.shutdown()


@pytest.fixture
def project(tmp_path: Path, one: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a stack that was started on engine one. The docker command is a stub that does nothing."""
    select_stub(monkeypatch, tmp_path)
    made = Project(tmp_path / "stack")
    lay_down(made)
    started = {"chosen_by": f"DOCKER_HOST={one.host}", "host": one.host, "id": "engine-one"}
    save_state(made, State("docker", "digest", "http://localhost:4000", [], 0.0, engine=started))
    return made


def selected(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)


def test_on_its_own_engine_nothing_stands_in_the_way(
    project: Project, one: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected(monkeypatch, one.host)
    assert ComposeRuntime(project).services() == []
    ComposeRuntime(project).compose.require_own_name()


def test_on_another_engine_status_says_so_and_commands_refuse(
    project: Project, one: FakeEngine, two: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected(monkeypatch, two.host)
    (service,) = ComposeRuntime(project).services()
    assert service.state == "failed"
    assert one.host in service.detail
    assert two.host in service.detail
    for action in (
        lambda: ComposeRuntime(project).down(True, print),
        lambda: list(ComposeRuntime(project).logs(engine_query())),
        lambda: ComposeRuntime(project).query("status", {}),
    ):
        with pytest.raises(LmError) as raised:
            action()
        assert "another Docker engine" in str(raised.value)
        assert f"DOCKER_HOST={one.host}" in raised.value.hint
    assert (project.state / "state.json").exists()


def engine_query() -> object:
    from lmstack.runtime.base import LogQuery

    return LogQuery()


def test_when_the_selected_engine_does_not_answer_the_other_one_is_named(
    project: Project, one: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected(monkeypatch, "tcp://127.0.0.1:9")
    (service,) = ComposeRuntime(project).services()
    assert one.host in service.detail


def test_its_own_engine_that_is_down_is_named_as_down(
    project: Project, one: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected(monkeypatch, one.host)
    one.shutdown()
    one.server_close()
    (service,) = ComposeRuntime(project).services()
    assert "no Docker engine answers" in service.detail


def test_the_same_engine_under_another_address_is_the_same(
    project: Project, two: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected(monkeypatch, two.host)
    assert engine.engine_conflict(engine.Engine("DOCKER_HOST=tcp://elsewhere", "tcp://elsewhere", "engine-two")) is None


def test_a_docker_context_is_followed_as_the_docker_command_does(
    project: Project, one: FakeEngine, two: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docker import ContextAPI

    config = tmp_path / "docker-config" / "config.json"
    config.parent.mkdir()
    config.write_text("{}")
    for name, server in (("first", one), ("second", two)):
        ContextAPI.create_context(name, host=server.host, skip_tls_verify=True)
    monkeypatch.setenv("DOCKER_CONTEXT", "second")
    found = engine.selected_engine()
    assert (found.chosen_by, found.id) == ("DOCKER_CONTEXT=second", "engine-two")
    monkeypatch.setenv("DOCKER_HOST", one.host)  # the docker command prefers it to DOCKER_CONTEXT
    assert engine.selected_engine().id == "engine-one"
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.delenv("DOCKER_CONTEXT")
    config.write_text('{"currentContext": "first"}')
    assert engine.selected_engine().id == "engine-one"


def test_a_docker_context_that_does_not_exist_is_one_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "nosuch")
    assert engine.engine_problem() == "the docker context 'nosuch' (DOCKER_CONTEXT) is not found"
