"""`lm logs` of a Docker stack chooses the lines first, and then the newest of them, as in the local runtime."""

import os
from pathlib import Path

import pytest

from lmstack.runtime.base import LogQuery
from lmstack.runtime.compose import ComposeRuntime
from lmstack.runtime.compose_project import ComposeProject
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project

# A docker command with a log of two errors before three other lines. It knows --tail, as compose does.
DOCKER = """#!/bin/sh
lines="ERROR one\\nERROR two\\nINFO three\\nINFO four\\nINFO five\\n"
case "$*" in
  *logs*"--tail 0"*) ;;
  *logs*"--tail 2"*) printf "$lines" | tail -2 ;;
  *logs*) printf "$lines" ;;
esac
case "$*" in *"logs"*" -f "*) echo "ERROR six" ;; esac
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ComposeRuntime:
    stub = tmp_path / "bin" / "docker"
    stub.parent.mkdir()
    stub.write_text(DOCKER)
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(ComposeProject, "require_own_name", lambda _: None)
    made = Project(tmp_path / "stack")
    lay_down(made)
    return ComposeRuntime(made)


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        (LogQuery(tail=2), ["INFO four", "INFO five"]),
        (LogQuery(level="ERROR"), ["ERROR one", "ERROR two"]),
        (LogQuery(level="ERROR", tail=2), ["ERROR one", "ERROR two"]),
        (LogQuery(level="ERROR", tail=1), ["ERROR two"]),
        (LogQuery(call_id="three", tail=1), ["INFO three"]),
        (LogQuery(level="ERROR", tail=1, follow=True), ["ERROR two", "ERROR six"]),
        (LogQuery(level="ERROR", tail=0), []),
    ],
)
def test_the_newest_of_the_chosen_lines_are_shown(runtime: ComposeRuntime, query: LogQuery, lines: list[str]) -> None:
    assert list(runtime.logs(query)) == lines
