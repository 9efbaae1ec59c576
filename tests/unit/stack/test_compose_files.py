"""Which compose files are ours: tags of compose are read, and a file that cannot be read is a reason, never a crash."""

from pathlib import Path

import pytest

from lmstack.config.check_docker import check_compose
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    lay_down(made)
    return made


@pytest.mark.parametrize(
    "text",
    [
        "services:\n  litellm-proxy: !override\n    image: x\n    ports: !reset null\n",
        "services: !override\n  litellm-proxy:\n    ports: !override ['1:1']\n    user: !override root\n",
        "services:\n  litellm-proxy: {}\n  other: !reset {}\n",
    ],
)
def test_the_tags_of_compose_are_read(project: Project, text: str) -> None:
    project.compose_file.write_text(text)
    assert project.foreign_compose() is None
    assert check_compose(text, "docker-compose.yml") == []


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "[" * 100_000, "- " * 3000, "a: !nosuch x", "a: [", "a: &x [*x]"])
def test_a_file_that_cannot_be_read_is_a_reason(project: Project, text: str) -> None:
    project.compose_file.write_text(text)
    reason = project.foreign_compose()
    assert reason is not None
    assert str(project.compose_file) in reason
    assert "not readable as YAML" in reason


def test_a_compose_file_of_another_program_is_not_ours(project: Project) -> None:
    project.compose_file.write_text("services: {web: {image: !override nginx}}\n")
    assert "has no service 'litellm-proxy'" in str(project.foreign_compose())
