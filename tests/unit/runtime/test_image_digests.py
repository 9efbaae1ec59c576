"""A Docker stack records the digest of its image and stays with it, whatever its tag names later."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_engine import FakeEngine, select_stub
from lmstack.cli.status import _status_lines
from lmstack.errors import LmError
from lmstack.releases.allowed import release_image
from lmstack.releases.pins import IMAGE, IMAGE_REPOSITORY
from lmstack.runtime import images
from lmstack.runtime.base import Progress
from lmstack.runtime.compose import ComposeRuntime
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project

FIRST, SECOND = (f"{IMAGE_REPOSITORY}@sha256:{letter * 64}" for letter in "ab")


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("engine") as server:
        server.images[IMAGE] = [f"mirror.example/litellm@sha256:{'a' * 64}", FIRST]
        yield server
        server.shutdown()


@pytest.fixture
def project(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a stack that ran the first image. The docker command writes down what it should do."""
    select_stub(monkeypatch, tmp_path, f'echo "$@" >> {tmp_path}/said\n')
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    made = Project(tmp_path / "stack")
    lay_down(made)
    images.record_image(made, IMAGE)
    return made


def recorded(project: Project) -> dict[str, object]:
    found: dict[str, object] = json.loads((project.state / "image.json").read_text())
    return found


def get(project: Project, image: str = IMAGE) -> str:
    return images.get(project, image, Progress(quiet=True))


def test_the_digest_of_its_own_repository_is_recorded(project: Project) -> None:
    assert recorded(project) == {"image": IMAGE, "digest": FIRST, "digests": {IMAGE: FIRST}, "found_volumes": []}
    assert ComposeRuntime(project).placement().image_digest == FIRST
    assert ComposeRuntime(project).recorded(project.settings().version) == f"{IMAGE}, digest sha256:{'a' * 64}"


def test_a_tag_that_names_another_image_does_not_change_what_runs(
    project: Project, engine: FakeEngine, tmp_path: Path
) -> None:
    assert get(project) == IMAGE
    engine.images[IMAGE] = [SECOND]  # somebody moved the tag, and it was pulled
    assert get(project) == FIRST
    assert (tmp_path / "said").read_text() == f"pull {FIRST}\n"
    (remark,) = images.digest_remark(project, IMAGE)
    assert remark.startswith(f"{IMAGE} is now {SECOND}. This stack stays with the image that it recorded, {FIRST}.")
    engine.images["kept"] = [FIRST]
    images.record_image(project, IMAGE)
    assert recorded(project)["digest"] == FIRST


def test_an_image_that_is_gone_comes_back_by_its_digest(project: Project, engine: FakeEngine, tmp_path: Path) -> None:
    del engine.images[IMAGE]
    engine.images["another"] = []
    assert get(project) == FIRST
    assert (tmp_path / "said").read_text() == f"pull {FIRST}\n"


def test_a_rollback_runs_the_image_that_ran_before_the_upgrade(project: Project, engine: FakeEngine) -> None:
    other = release_image("1.106.10")
    engine.images[other] = [SECOND]
    images.record_image(project, other)
    assert recorded(project)["digests"] == {IMAGE: FIRST, other: SECOND}
    engine.images[IMAGE] = [f"{IMAGE_REPOSITORY}@sha256:{'c' * 64}"]
    assert (images.name_to_run(project, IMAGE), images.name_to_run(project, other)) == (FIRST, other)


def test_a_recorded_image_that_the_registry_lost_is_one_clear_error(
    project: Project, engine: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\necho manifest unknown >&2\nexit 1\n")
    engine.images[IMAGE] = [SECOND]
    with pytest.raises(LmError, match=r"which is recorded for .*, cannot be pulled: [\s\S]*manifest unknown"):
        get(project)


def test_an_image_that_was_built_here_has_no_digest_and_says_so(project: Project, engine: FakeEngine) -> None:
    (project.state / "image.json").unlink()
    engine.images[IMAGE] = []
    images.record_image(project, IMAGE)
    assert recorded(project)["digests"] == {}
    assert get(project) == IMAGE
    said = ComposeRuntime(project).recorded(project.settings().version)
    assert said == f"{IMAGE}, built here, so no registry gave it a digest"


def test_the_record_of_an_older_lmstack_counts(project: Project, engine: FakeEngine) -> None:
    (project.state / "image.json").write_text(json.dumps({"image": IMAGE, "digest": FIRST}))
    engine.images[IMAGE] = [SECOND]
    assert images.name_to_run(project, IMAGE) == FIRST


@pytest.mark.parametrize(
    ("digest", "shown"),
    [(FIRST, f"digest sha256:{'a' * 64}"), ("sha256:id", "built here, so no registry gave it a digest")],
)
def test_status_shows_the_digest_of_the_image(digest: str, shown: str, project: Project) -> None:
    data = {
        "services": [],
        "url": "http://x",
        "litellm": "1",
        "runtime": "docker",
        "uptime_seconds": 1,
        "models": [],
        "workers": [],
        "image": IMAGE,
        "image_digest": digest,
    }
    data["services"] = [{"name": "litellm-proxy", "state": "running", "detail": ""}]
    assert f"Image {IMAGE}, {shown}" in _status_lines(data, project)
