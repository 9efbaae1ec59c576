"""A gateway in a container may have an older lmstack than `lm`: what it does not know is left out."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_engine import DOCKER_VARIABLES, FakeEngine, docker_stub
from support import InProcessStack, Stack

# It answers each query with no rows, but for the ones that its lmstack does not know.
DOCKER = """\
case "$*" in
  *"config --format json") exit 1;;
  *UNKNOWN*) echo "Traceback (most recent call last):" >&2; echo "KeyError: 'UNKNOWN'" >&2; exit 1;;
  *) echo '[]';;
esac
"""


@pytest.fixture
def engine(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    for name in DOCKER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with FakeEngine("engine") as server:
        stack.env |= {"LITELLM_RUNTIME": "docker", "DOCKER_HOST": server.host, "DOCKER_CONFIG": str(stack.root)}
        yield server
        server.shutdown()


def use(stack: Stack, folder: Path, unknown: str) -> None:
    stack.env["PATH"] = f"{docker_stub(folder, DOCKER.replace('UNKNOWN', unknown))}:{os.environ['PATH']}"


def test_errors_are_shown_by_a_container_that_counts_no_refusals(
    stack: InProcessStack, engine: FakeEngine, tmp_path: Path
) -> None:
    use(stack, tmp_path / "bin", "refused")
    assert stack.json("errors")["data"]["refused"] == {"counts": [], "last": []}
    assert "No errors" in stack.lm("errors").stdout


def test_another_unknown_query_is_one_error_with_the_next_step(
    stack: InProcessStack, engine: FakeEngine, tmp_path: Path
) -> None:
    use(stack, tmp_path / "bin", "usage")
    done = stack.lm("usage", check=False)
    assert done.returncode == 1
    assert "the older lmstack in the container has no query 'usage'" in done.stderr
    assert "lm up" in done.stderr
