"""The files of a stack that an earlier lmstack wrote: `lm up` updates them after its checks, and --dry-run counts them."""

from pathlib import Path

import pytest

from lmstack.errors import LmError
from lmstack.operate import lifecycle
from lmstack.operate.planning import planned
from lmstack.operate.start import _state
from lmstack.runtime import base, images
from lmstack.runtime.compose import ComposeRuntime
from lmstack.runtime.compose_project import ComposeProject
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project
from support import LEAKS

OLD = "# of an earlier lmstack\n"
SAY = base.Progress(quiet=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a Docker stack whose gateway runs as the present lmstack would start it. No engine is needed."""
    import os

    for name in [name for name in os.environ if name.startswith(LEAKS)]:
        monkeypatch.delenv(name)
    made = Project(tmp_path)
    lay_down(made, "OPENAI_API_KEY=sk-x0123456789\nLITELLM_RUNTIME=docker\nLITELLM_PORT=4917\n")
    monkeypatch.setattr(ComposeRuntime, "services", lambda _: [base.Service("litellm-proxy", "running", pid=1)])
    monkeypatch.setattr(ComposeRuntime, "check", lambda *_: ())
    monkeypatch.setattr(ComposeRuntime, "placement", lambda _: base.Placement())
    monkeypatch.setattr(ComposeProject, "run", lambda *_, **__: None)
    monkeypatch.setattr(images, "image_id", lambda _: "sha256:1")
    monkeypatch.setattr("lmstack.stack.health.missing_names", lambda plan: ())
    monkeypatch.setattr("lmstack.stack.health.ollama_answers", lambda url: False)
    base.save_state(made, _state(planned(made, {}), 1.0))
    return made


@pytest.fixture
def old_file(project: Project) -> Path:
    """Return a file of the stack as an earlier lmstack wrote it."""
    path = project.root / "src" / "lmstack" / "gateway" / "__init__.py"
    path.write_text(OLD)
    return path


def test_a_dry_run_counts_the_files_that_lm_up_would_update(project: Project, old_file: Path) -> None:
    with pytest.MonkeyPatch.context() as earlier:  # the earlier lmstack found its own files up to date
        earlier.setattr("lmstack.stack.assets.outdated", lambda _: {}, raising=False)
        base.save_state(project, _state(planned(project, {}), 1.0))
    assert lifecycle.preview(project, {}, base.UpOptions()).action == "restart"
    assert old_file.read_text() == OLD


def test_an_update_changes_no_digest(project: Project, old_file: Path) -> None:
    wanted = planned(project, {})
    before = wanted.digest
    wanted.runtime.prepare(wanted.plan, wanted.config, base.UpOptions(), SAY)
    assert old_file.read_text() != OLD
    assert planned(project, {}).digest == before


def test_a_check_that_fails_leaves_the_files(project: Project, old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_engine(*_: object) -> None:
        raise LmError("no Docker engine answers")

    monkeypatch.setattr(ComposeRuntime, "check", no_engine)
    base.save_state(project, base.State("docker", "another", "http://localhost:4917", [], 1.0))
    with pytest.raises(LmError, match="no Docker engine"):
        lifecycle.up(project, {}, base.UpOptions(), SAY)
    assert old_file.read_text() == OLD
