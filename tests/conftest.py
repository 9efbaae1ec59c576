"""Fixtures. What they are made of is in support.py."""

import functools
import gc
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from pytest_httpserver import HTTPServer

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import of litellm asks the network three times

from support import ROOT, InProcessStack, Mock, Stack, TaskMaster, free_port, running

gc.disable()  # until the tests are collected: it would take a third of the time of importing LiteLLM
SECRET = "whsec_dGVzdC1zZWNyZXQ="


@functools.cache
def docker_missing() -> str:
    """Return why tests against a real engine cannot run here, "" when they can."""
    from lmstack.releases.pins import IMAGE
    from lmstack.runtime.engine import docker_client, engine_problem

    problem = engine_problem()
    if problem:
        return problem
    have = {tag for image in docker_client().images.list() for tag in image.tags}
    lacking = [name for name in (IMAGE, "redis:7-alpine") if name not in have]
    return f"the engine lacks {', '.join(lacking)}" if lacking else ""


# These take longest, so they begin first. The rest of tests/integration follows, then all other tests.
SLOWEST = (
    "gateway", "test_unanswered", "test_lifecycle", "test_upgrade", "test_upgrade_fails", "npm", "test_faults", "test_failures", "test_routing",
    "test_ledger_modes", "test_no_harm", "test_wheel", "test_stream_splits", "test_backup", "test_alerts", "test_traces",
)  # fmt: skip
SLOWEST_OF_THE_REST = (
    "test_litellm_changes", "test_release_lock", "test_cli_values", "test_setting_values", "test_delivery_faults",
    "test_writer_faults", "test_replacing_server", "test_any_request", "test_poster", "test_cli",
)  # fmt: skip
# Files whose tests need no proxy, but much time together: `make test-quick` leaves them out.
SLOW = {
    "test_names", "test_any_request", "test_stream_splits", "test_config_edit", "test_broken_setups", "test_replacing_server",
    "test_batches", "test_poster", "test_outbox", "test_compose_env", "test_engines", "test_receiver", "test_processes",
    "test_current_runtime", "test_engine_errors", "test_image_digests", "test_spool", "test_stack_commands", "test_archive", "test_failed_changes", "test_edits", "test_change_in_use",
    "test_listeners", "test_models_file", "test_numbers", "test_loop", "test_keeper", "test_shared_rates", "test_webhooks", "test_check_receivers",
}  # fmt: skip
# Files with tests that start much each and share nothing: any worker may run any of them.
SPREAD = ("integration", "test_command_line.py")


# The release under test. With `make test-against` it is another one than the pinned one.
RELEASE = version("litellm")
IS_PINNED = f'"litellm[proxy]=={RELEASE}"' in (ROOT / "pyproject.toml").read_text()


def left_out(item: pytest.Item) -> str:
    """Return why a test cannot pass with the release under test, "" when it can."""
    for marker in item.iter_markers("pinned_release"):
        if not IS_PINNED:
            return f"LiteLLM {RELEASE}: only of the pinned release: {marker.args[0]}"
    for marker in item.iter_markers("litellm"):
        if RELEASE not in SpecifierSet(marker.args[0]):
            return f"LiteLLM {RELEASE}: {marker.args[1]}"
    return ""


def group_of(item: pytest.Item) -> str:
    """Return a name that all tests have which share something that takes long to start. "" for a test on its own."""
    for marker in item.iter_markers("xdist_group"):
        return str(marker.args[0])
    fixtures = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    if "gateway" in fixtures:
        return "npm" if "node_clients" in fixtures else "gateway"  # npm's programs take as long as all the others
    scopes = {found[-1].scope for found in fixtures.values()}
    spread = not {*SPREAD}.isdisjoint(item.path.parts) and "module" not in scopes
    return "" if spread else item.path.stem


def _put_in_group(item: pytest.Item, group: str) -> None:
    """Add the group to the test's id, from which xdist's scheduler reads it.

    xdist 3.8 does this itself for the marker ``xdist_group``, but writes to ``_nodeid``, which pytest 9.2 ignores.
    """
    item._id = item.id.parse(f"{item.nodeid}@{group}")  # type: ignore[misc]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests that share something to one worker, the slowest first. Skip what needs an engine where there is none."""
    wanting = [item for item in items if item.get_closest_marker("docker")]
    why = docker_missing() if wanting else ""
    for item in wanting if why else []:
        item.add_marker(pytest.mark.skip(reason=f"no Docker: {why}"))
    for item in items:
        if reason := left_out(item):
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.path.stem in SLOW:
            item.add_marker("slow")
    items.sort(key=_turn)
    for item in items if getattr(config.option, "loadgroup", False) else []:
        if group := group_of(item):
            _put_in_group(item, group)


def _turn(item: pytest.Item) -> tuple[int, int]:
    group = group_of(item)
    if group in SLOWEST:
        return 0, SLOWEST.index(group)
    if "integration" in item.path.parts:
        return 1, 0
    return 2, SLOWEST_OF_THE_REST.index(group) if group in SLOWEST_OF_THE_REST else len(SLOWEST_OF_THE_REST)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with `lm init`, to be copied."""
    root = tmp_path_factory.mktemp("new")
    InProcessStack(root, 0).lm("init", "--dir", str(root))
    return root


@pytest.fixture
def stack(tmp_path: Path, new_folder: Path) -> Iterator[Stack]:
    """Make a folder in which nothing runs yet. What a test starts in it is stopped."""
    shutil.copytree(new_folder, tmp_path, dirs_exist_ok=True)
    made = Stack(tmp_path, free_port(), {"LITELLM_RUNTIME": "local"})
    made.write_env()
    yield made
    if made.pids():
        made.lm("down")
    assert made.pids() == []


@pytest.fixture(scope="session")
def mock() -> Iterator[Mock]:
    """Run the llmock that most tests of this worker share."""
    one = Mock()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def taskmaster() -> Iterator[TaskMaster]:
    """Run the TaskMaster that most tests of this worker share."""
    server = HTTPServer(host="127.0.0.1")
    server.start()
    yield TaskMaster(server)
    server.stop()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, mock: Mock, taskmaster: TaskMaster) -> Iterator[Stack]:
    """Start the gateway that most tests share: all four providers are llmock, TaskMaster listens."""
    events = {"TASKMASTER_API_URL": taskmaster.url, "TASKMASTER_WEBHOOK_SECRET": SECRET}
    with running(tmp_path_factory.mktemp("gateway"), **mock.bases(), **events) as made:
        yield made


@pytest.fixture(scope="session")
def bridge_mock() -> Iterator[Mock]:
    """Run llmock where a container can reach it."""
    one = Mock("0.0.0.0")
    yield one
    one.stop()


@pytest.fixture(scope="session")
def bridge_taskmaster() -> Iterator[TaskMaster]:
    """Run TaskMaster at the guide's own port, where a container can reach it."""
    server = HTTPServer(host="0.0.0.0", port=3001)
    server.start()
    yield TaskMaster(server)
    server.stop()


@pytest.fixture(scope="session")
def compose_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PATH with the guide's `docker-compose` on it: compose v2's plugin answers to that name."""
    import os

    found = subprocess.run(
        ["docker", "info", "--format", "{{json .ClientInfo.Plugins}}"], capture_output=True, text=True, check=True
    )
    plugin = next(p["Path"] for p in json.loads(found.stdout) if p["Name"] == "compose")
    folder = tmp_path_factory.mktemp("bin")
    (folder / "docker-compose").symlink_to(plugin)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="session")
def docker_gateway(
    tmp_path_factory: pytest.TempPathFactory, bridge_mock: Mock, bridge_taskmaster: TaskMaster, compose_path: str
) -> Iterator[Stack]:
    """Start the compose stack: llmock is every provider, TaskMaster is at host.docker.internal:3001."""
    made = Stack(tmp_path_factory.mktemp("stack"), free_port(), {"LITELLM_RUNTIME": "docker", "PATH": compose_path})
    made.lm("init", "--dir", str(made.root))
    made.write_env(
        **bridge_mock.bases(), TASKMASTER_API_URL="http://host.docker.internal:3001", TASKMASTER_WEBHOOK_SECRET=SECRET
    )
    made.lm("up", timeout=600)
    yield made
    made.lm("down", "--volumes", "--yes")
    subprocess.run(["docker", "image", "rm", "-f", f"{made.root.name}-litellm-proxy"], capture_output=True, check=False)


@pytest.fixture
def side_stack(docker_gateway: Stack, tmp_path_factory: pytest.TempPathFactory, bridge_mock: Mock) -> Iterator[Stack]:
    """Make a second stack beside the shared one, for tests that break or rebuild things."""
    made = Stack(tmp_path_factory.mktemp("side"), free_port(), docker_gateway.env)
    made.lm("init", "--dir", str(made.root))
    made.write_env(**bridge_mock.bases())
    yield made
    made.shell("docker compose --profile redis down --volumes --rmi local", check=False)
    made.lm("down", "--volumes", "--yes", check=False)
