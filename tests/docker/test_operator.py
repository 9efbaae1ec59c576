"""upgrade, rollback, backup and restore of the compose stack: real images, real volumes."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from lmstack.releases.pins import IMAGE, IMAGE_REPOSITORY, LITELLM_VERSION
from lmstack.stack import health
from support import KEY, Stack

pytestmark = pytest.mark.docker
HELLO = [{"role": "user", "content": "test"}]
CHAT = "/v1/chat/completions"
OTHER, BROKEN = "1.106.3", "1.106.4"


def ask(stack: Stack) -> str:
    answer = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO})
    assert answer.status_code == 200, answer.text
    call: str = answer.headers["x-litellm-call-id"]
    stack.row(call)
    return call


@pytest.fixture(scope="module")
def other_releases() -> Iterator[None]:
    """Build images on the pinned one: one that reports another release, and one that does not start."""
    metadata = f"/app/.venv/lib/python3*/site-packages/litellm-{LITELLM_VERSION}.dist-info/METADATA"
    renamed = f"RUN sed -i 's/^Version: .*/Version: {OTHER}/' {metadata}"
    server = "/app/.venv/lib/python3*/site-packages/litellm/proxy/proxy_server.py"
    broken = f"RUN sed -i 's/^Version: .*/Version: {BROKEN}/' {metadata} && echo 'raise ImportError' | tee -a {server}"
    names = [f"{IMAGE_REPOSITORY}:v{version}" for version in (OTHER, BROKEN)]
    have = subprocess.run(["docker", "images", "-q", *names[:1]], capture_output=True, text=True, check=True).stdout
    assert not have, f"{names[0]} is here already, and a test must not replace it"
    for name, step in zip(names, (renamed, broken), strict=True):
        text = f"FROM {IMAGE}\nUSER root\n{step}\n"
        subprocess.run(
            ["docker", "build", "-q", "-t", name, "-"], input=text, text=True, check=True, capture_output=True
        )
    yield
    subprocess.run(["docker", "image", "rm", "-f", *names], capture_output=True, check=False)


def test_image_and_version_move_together_and_come_back(side_stack: Stack, other_releases: None) -> None:
    side_stack.lm("up", timeout=300)
    first = ask(side_stack)
    moved = side_stack.json("upgrade", "--to", OTHER, "--unproven")["data"]
    assert (moved["changed"], moved["running"]) == (True, True)
    assert health.release(side_stack.url, KEY) == OTHER
    assert side_stack.json("status")["data"]["image"] == f"{IMAGE_REPOSITORY}:v{OTHER}"
    assert side_stack.row(first)["status"] == "succeeded"
    # The guide's own way starts that release too.
    built = json.loads(side_stack.shell("docker compose config --format json").stdout)
    assert built["services"]["litellm-proxy"]["build"]["args"]["LITELLM_VERSION"] == OTHER

    failed = side_stack.lm("upgrade", "--to", BROKEN, "--unproven", "--timeout", "40", check=False)
    assert failed.returncode == 5, failed.stderr
    assert f"LiteLLM {OTHER} runs again; nothing was changed." in failed.stderr
    assert health.release(side_stack.url, KEY) == OTHER

    side_stack.lm("rollback")
    assert health.release(side_stack.url, KEY) == LITELLM_VERSION
    assert "LITELLM_VERSION" not in (side_stack.root / ".env").read_text()


def test_a_ledger_that_is_not_there_yet_builds_nothing(side_stack: Stack) -> None:
    done = side_stack.lm("usage", check=False, timeout=20)
    assert (done.returncode, "there is no ledger" in done.stderr) == (1, True), done.stderr
    assert side_stack.shell(f"docker images -q {side_stack.root.name}-litellm-proxy").stdout == ""


def test_a_backup_of_the_volume_is_taken_online_and_put_back(side_stack: Stack) -> None:
    side_stack.lm("up", timeout=300)
    first = ask(side_stack)
    saved = side_stack.json("backup", "saved.tar.gz")["data"]
    assert saved["ledger"]["requests"] == 1
    second = ask(side_stack)
    done = side_stack.json("restore", "saved.tar.gz", "--yes")["data"]
    assert done["ledger"]["requests"] == 1
    assert side_stack.row(first)["status"] == "succeeded"
    assert side_stack.ask("request", id=second) == []
    ask(side_stack)
    left = side_stack.shell("docker compose exec -T litellm-proxy ls -A /app/logs").stdout
    assert ".backup" not in left
    # Stopped, as after a move to another machine: the volume is read and written without the proxy.
    side_stack.lm("down")
    assert side_stack.json("backup", "stopped.tar.gz")["data"]["ledger"]["requests"] == 2
    assert side_stack.json("restore", "saved.tar.gz", "--yes")["data"]["running"] is False
    assert [row["requests"] for row in side_stack.json("usage")["data"]["rows"]] == [1]
