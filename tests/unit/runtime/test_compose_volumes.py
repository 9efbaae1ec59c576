"""`lm down --volumes` deletes what this stack made, also after a first start that failed."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lmstack.errors import ConfigError, LmError
from lmstack.runtime import base, images
from lmstack.runtime.compose import ComposeRuntime
from lmstack.runtime.compose_project import ComposeProject
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project


class Compose:
    """What compose does with volumes: it makes them before it starts a container."""

    def __init__(self, *present: str) -> None:
        self.present, self.fails = {*present}, False

    def run(self, words: list[str], *_: Any, **__: Any) -> None:
        if "up" in words:
            self.present.add("mine_litellm-logs")
            if self.fails:
                raise LmError("port is already allocated")
        if "--volumes" in words:
            self.present.clear()


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> Compose:
    made = Compose()
    monkeypatch.setattr(ComposeProject, "run", lambda _, *a, **k: made.run(*a, **k))
    monkeypatch.setattr(ComposeProject, "volumes", lambda _: {*made.present})
    monkeypatch.setattr(ComposeProject, "containers", lambda _: [mock.Mock(labels={}, status="running")])
    monkeypatch.setattr(ComposeProject, "require_own_name", lambda _: None)
    monkeypatch.setattr(ComposeRuntime, "_environment", lambda *_: {})
    monkeypatch.setattr(images, "image_id", lambda _: "sha256:1")
    return made


def start(runtime: ComposeRuntime) -> None:
    plan = mock.Mock(redis=False)
    plan.settings.image = "litellm:v1"
    runtime.up(plan, "", base.UpOptions(), base.Progress(quiet=True))


def test_the_volumes_of_a_first_start_that_failed_can_be_deleted(tmp_path: Path, compose: Compose) -> None:
    lay_down(Project(tmp_path))
    runtime = ComposeRuntime(Project(tmp_path))
    compose.fails = True
    with pytest.raises(LmError, match="port is already allocated"):
        start(runtime)
    compose.fails = False
    start(runtime)
    assert runtime.down(True, print).deleted == ("mine_litellm-logs",)


def test_a_volume_that_was_there_before_a_failed_first_start_stays(tmp_path: Path, compose: Compose) -> None:
    lay_down(Project(tmp_path))
    runtime = ComposeRuntime(Project(tmp_path))
    compose.present.add("mine_litellm-logs")
    compose.fails = True
    with pytest.raises(LmError, match="port is already allocated"):
        start(runtime)
    with pytest.raises(ConfigError, match="is older than this stack"):
        runtime.down(True, print)
    assert compose.present
