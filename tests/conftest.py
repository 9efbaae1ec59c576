"""Fixtures: what they are made of is in support.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from support import Mock, Stack, TaskMaster, free_port


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A folder with nothing running yet; whatever a test starts in it is stopped."""
    made = Stack(tmp_path, free_port(), {"LITELLM_RUNTIME": "local"})
    made.lm("init", "--dir", str(tmp_path))
    made.write_env()
    yield made
    if made.pids():
        made.lm("down")
    assert made.pids() == []


@pytest.fixture(scope="session")
def mock() -> Iterator[Mock]:
    one = Mock()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def taskmaster() -> Iterator[TaskMaster]:
    server = HTTPServer(host="127.0.0.1")
    server.start()
    yield TaskMaster(server)
    server.stop()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, mock: Mock, taskmaster: TaskMaster) -> Iterator[Stack]:
    """A running gateway: all four providers are llmock, TaskMaster listens, cool-downs are short."""
    made = Stack(tmp_path_factory.mktemp("gateway"), free_port(), {"LITELLM_RUNTIME": "local"})
    made.lm("init", "--dir", str(made.root))
    made.write_env(
        **mock.bases(), TASKMASTER_API_URL=taskmaster.url, TASKMASTER_WEBHOOK_SECRET="whsec_dGVzdC1zZWNyZXQ="
    )
    made.lm("up")
    yield made
    made.lm("down")
    assert made.pids() == []
