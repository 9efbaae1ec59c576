"""Fixtures for the commands that start, change and stop a stack."""

import os
from pathlib import Path

import pytest

from fake_runtime import FakeRuntime, Machine
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project
from support import LEAKS


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a stack's folder with a key in .env, on a machine on which nothing runs."""
    for name in [name for name in os.environ if name.startswith(LEAKS)]:
        monkeypatch.delenv(name)
    made = Machine(Project(tmp_path))
    lay_down(made.project, "OPENAI_API_KEY=sk-x0123456789\nLITELLM_RUNTIME=local\nLITELLM_PORT=4917\n")
    monkeypatch.setenv("HOME", str(tmp_path))

    def runtime_for(name: str, project: Project) -> FakeRuntime:
        return FakeRuntime(made, name, project)

    monkeypatch.setattr("lmstack.operate.planning.runtime_for", runtime_for)
    monkeypatch.setattr("lmstack.runtime.choose.runtime_for", runtime_for)
    monkeypatch.setattr("lmstack.stack.health.missing_names", lambda plan: ())
    monkeypatch.setattr("lmstack.stack.health.ollama_answers", lambda url: False)
    monkeypatch.setattr("lmstack.runtime.readiness.missing_names", lambda plan: ())
    return made
