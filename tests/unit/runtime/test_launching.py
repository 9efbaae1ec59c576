"""What the local runtime hands over to the processes that it starts."""

import json
from pathlib import Path

import pytest

from lmstack.operate.planning import planned
from lmstack.runtime import keeper_control, launching, server_control
from lmstack.runtime.local import LocalRuntime
from lmstack.stack.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A stack, and a shell with settings, a key, and what is neither."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-canary-of-the-file\nLITELLM_RUNTIME=local\n")
    for name, value in {
        "LITELLM_TIMEOUT": "77",
        "ANTHROPIC_API_KEY": "sk-ant-canary",
        "HTTPS_PROXY": "http://p",
    }.items():
        monkeypatch.setenv(name, value)
    return Project(tmp_path)


def test_no_setting_is_handed_on_but_in_the_private_file(project: Project) -> None:
    plan = planned(project, {}).plan
    settings = launching.server_settings(project, plan, None)
    assert (settings["LITELLM_TIMEOUT"], settings["ANTHROPIC_API_KEY"]) == ("77", "sk-ant-canary")
    for env in (launching.environment(project, plan), launching.server_environment(project, plan)):
        assert not {"LITELLM_TIMEOUT", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "LITELLM_RUNTIME"} & set(env)
        assert env["HTTPS_PROXY"] == "http://p"
        assert "PATH" in env


def test_what_the_keeper_starts_is_private_and_has_no_setting(project: Project) -> None:
    plan = planned(project, {}).plan
    keeper_control.write_launch(project, plan, launching.server_settings(project, plan, None))
    launch = server_control.keeper_folder(project) / "launch.json"
    assert "canary" not in launch.read_text()
    assert {path.stat().st_mode & 0o77 for path in launch.parent.rglob("*")} == {0}
    assert json.loads(launch.read_text())["release"] == plan.settings.version
    assert LocalRuntime(project).runs(plan)
    assert not LocalRuntime(project).runs(planned(project, {"LITELLM_VERSION": "1.106.10"}).plan)
    server_control.forget_environment(project)
    assert not [path for path in launch.parent.rglob("*") if path.is_file()]
