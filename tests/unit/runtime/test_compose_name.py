"""lm and compose mean the same Docker project, whoever names it."""

import os
from pathlib import Path

import pytest

from lmstack.runtime.compose_project import ComposeProject
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a stack whose compose file names its project. The docker command is a stub that does nothing."""
    stub = tmp_path / "bin" / "docker"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("COMPOSE_PROJECT_NAME", raising=False)
    made = Project(tmp_path / "folder")
    lay_down(made, "")
    made.compose_file.write_text("name: from-the-file\n" + made.compose_file.read_text())
    return made


def project_of_command(project: Project) -> str:
    words = ComposeProject(project).argv("ps")
    return words[words.index("-p") + 1]


def test_the_name_in_the_compose_file_counts(project: Project) -> None:
    assert ComposeProject(project).name == project_of_command(project) == "from-the-file"


def test_env_and_environment_win_over_the_compose_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.env_file.write_text("COMPOSE_PROJECT_NAME=from-env\n")
    assert ComposeProject(project).name == project_of_command(project) == "from-env"
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "From-Environment")
    assert ComposeProject(project).name == project_of_command(project) == "from-environment"


def test_a_name_with_variables_is_not_guessed(project: Project) -> None:
    project.compose_file.write_text(project.compose_file.read_text().replace("from-the-file", "'${SOME_NAME:-x}'"))
    assert ComposeProject(project).name == project_of_command(project) == "folder"
