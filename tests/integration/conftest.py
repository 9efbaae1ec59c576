"""Clients from npm: installed while other tests run, because that takes a minute."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support import wait_until

# Pinned: a test runs what it was written against.
NODE_CLIENTS = (
    "@openai/codex@0.169.0",
    "@anthropic-ai/claude-code@2.1.197",
    "ai@6.0.326",
    "@ai-sdk/openai@3.0.141",
    "task-master-ai@0.43.1",
    "@continuedev/cli@1.5.47",
)
# npm leaves install scripts out; the second command puts claude-code's program in its place.
INSTALL_SECONDS = 300
INSTALL = f"""
timeout {INSTALL_SECONDS} npm install --no-audit --no-fund --fetch-retries=0 --fetch-timeout=60000 --prefix . {" ".join(NODE_CLIENTS)} &&
node node_modules/@anthropic-ai/claude-code/install.cjs
echo $? > code.part; mv code.part code
"""
_installer: list[subprocess.Popen[bytes]] = []


def _folder(config: pytest.Config) -> Path:
    """Return a folder that is the same for every worker of xdist."""
    base: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return (base.parent if hasattr(config, "workerinput") else base) / "node"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the installation in the background, once, when a selected test needs it."""
    needed = any("node_clients" in getattr(item, "fixturenames", ()) for item in session.items)
    if not needed or session.config.option.collectonly or shutil.which("npm") is None:
        return
    folder = _folder(session.config)
    with contextlib.suppress(FileExistsError):  # another worker has begun it
        folder.mkdir()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(["nice", "sh", "-c", INSTALL], cwd=folder, stdout=log, stderr=log, start_new_session=True)  # fmt: skip
        _installer.append(process)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Wait for the installation: another worker of xdist may still need it. End it when the tests were stopped."""
    for process in _installer:
        if not (session.shouldstop or session.shouldfail):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INSTALL_SECONDS + 30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture(scope="session")
def node_clients(request: pytest.FixtureRequest) -> Path:
    """Return node_modules with the clients. Skip, with the reason, where npm is missing or reaches nothing."""
    folder = _folder(request.config)
    if not folder.exists():
        pytest.skip("npm is not installed")
    if not wait_until((folder / "code").exists, INSTALL_SECONDS + 30):
        pytest.skip(f"npm did not install the clients within {INSTALL_SECONDS} seconds")
    if (folder / "code").read_text().strip() != "0":
        pytest.skip(f"npm cannot install the clients: {(folder / 'log').read_text().strip()[:200]}")
    return folder / "node_modules"
