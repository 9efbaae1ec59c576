"""The compose stack on a real engine: the guide's Docker commands one by one, hardening, durability, supply chain."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from campaign import SlowProvider, campaign
from support import KEY, Mock, Stack, TaskMaster, wait_for

pytestmark = pytest.mark.docker
HELLO = [{"role": "user", "content": "test"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _quiet_mock(bridge_mock: Mock) -> None:
    bridge_mock.reset()


def container(stack: Stack, service: str = "litellm-proxy") -> dict[str, Any]:
    name = stack.shell(f"docker compose ps -aq {service}").stdout.split()[0]
    return json.loads(subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True).stdout)[0]


def ask(stack: Stack, **headers: str) -> str:
    answer = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, **headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-litellm-call-id"]


@pytest.mark.parametrize("compose", ["docker compose", "docker-compose"])
def test_the_guides_commands_work_as_written(docker_gateway: Stack, compose: str) -> None:
    stack = docker_gateway
    stack.post(CHAT, {"model": "gpt-17", "messages": HELLO})
    assert stack.shell("docker info").stdout
    assert "litellm-network" in stack.shell(f"{compose} config").stdout
    assert "litellm-proxy" in stack.shell(f"{compose} ps").stdout
    assert stack.shell(f"{compose} logs litellm-proxy").stdout
    assert stack.shell(f"{compose} logs --since 1h litellm-proxy").stdout
    followed = stack.shell(f"timeout 3 {compose} logs -f litellm-proxy", check=False)
    assert (followed.returncode, bool(followed.stdout)) == (124, True)
    assert re.search("error", stack.shell(f"{compose} logs litellm-proxy | grep -i error").stdout, re.IGNORECASE)
    assert "OPENAI_API_KEY=" in stack.shell(f"{compose} exec -T litellm-proxy env | grep API_KEY").stdout
    shell = stack.shell(f"echo 'echo in $PWD' | {compose} exec -T litellm-proxy /bin/bash")
    assert shell.stdout.strip() == "in /app"
    config = stack.shell(f"{compose} exec -T litellm-proxy cat /app/config/litellm-config.yaml").stdout
    assert config == (stack.root / "litellm-config.yaml").read_text()
    for route in ("health", "models"):
        assert stack.shell(f"curl -fsS http://localhost:{stack.port}/{route}").stdout.startswith("{")


def test_docker_says_healthy(docker_gateway: Stack) -> None:
    state = lambda: container(docker_gateway)["State"]["Health"]["Status"] == "healthy"  # noqa: E731
    wait_for(state, 60, "the container to be healthy")
    assert "(healthy)" in docker_gateway.shell("docker compose ps").stdout
    assert container(docker_gateway)["Config"]["Healthcheck"]["Interval"] == 30_000_000_000


def test_the_container_is_hardened_and_listens_on_loopback_only(docker_gateway: Stack) -> None:
    host = container(docker_gateway)["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Init"] is True
    assert host["Memory"] == 2 * 1024**3
    assert host["PidsLimit"] == 512
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
    assert [b["HostIp"] for b in host["PortBindings"]["4000/tcp"]] == ["127.0.0.1"]
    denied = docker_gateway.shell("docker compose exec -T litellm-proxy touch /app/x", check=False)
    assert "Read-only file system" in denied.stderr
    caps = docker_gateway.shell("docker compose exec -T litellm-proxy grep CapEff /proc/1/status").stdout
    assert caps.split()[1] == "0000000000000000"
    (network,) = container(docker_gateway)["NetworkSettings"]["Networks"]
    assert network.endswith("_litellm-network")


def test_no_key_in_layers_labels_or_logs(docker_gateway: Stack, bridge_mock: Mock) -> None:
    bridge_mock.script({"type": "fail", "status": 401, "times": 1})
    docker_gateway.post(CHAT, {"model": "gpt-6-astra", "messages": HELLO, "disable_fallbacks": True})
    image = container(docker_gateway)["Image"]
    texts = {
        "image": subprocess.run(["docker", "inspect", image], capture_output=True, text=True, check=True).stdout,
        "history": subprocess.run(
            ["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=True
        ).stdout,
        "labels": json.dumps(container(docker_gateway)["Config"]["Labels"]),
        "arguments": json.dumps(
            [container(docker_gateway)["Config"]["Cmd"], container(docker_gateway)["Config"]["Entrypoint"]]
        ),
        "logs": docker_gateway.shell("docker compose logs").stdout,
        "files": docker_gateway.shell(
            f"docker run --rm --entrypoint sh {image} -c 'cat /app/config/* /opt/lmstack/*/*.py'"
        ).stdout,
    }
    secrets = [v for k, v in bridge_mock.bases().items() if k.endswith("KEY")] + ["dGVzdC1zZWNyZXQ="]
    for place, text in texts.items():
        assert not [s for s in secrets if s in text], place
    assert KEY not in texts["logs"]
    listed = docker_gateway.shell(f"docker run --rm --entrypoint sh {image} -c 'find /app /opt -name .env'").stdout
    assert listed == ""


def test_taskmaster_at_the_guides_address_gets_the_events(docker_gateway: Stack, bridge_taskmaster: TaskMaster) -> None:
    ((headers, event),) = bridge_taskmaster.events(ask(docker_gateway, x_task_id="from-docker"))
    assert (headers["ce-type"], event["task_id"]) == ("litellm.request.succeeded", "from-docker")


def test_a_killed_proxy_comes_back_and_every_answered_request_has_its_row(docker_gateway: Stack) -> None:
    calls = [ask(docker_gateway) for _ in range(10)]
    before = container(docker_gateway)["RestartCount"]
    for child in psutil.Process(container(docker_gateway)["State"]["Pid"]).children(recursive=True):
        child.kill()
    wait_for(lambda: container(docker_gateway)["RestartCount"] > before, 60, "the engine to restart the container")
    wait_for(
        lambda: docker_gateway.json("health", check=False)["data"]["status"] == "healthy", 120, "the proxy to answer"
    )
    assert {docker_gateway.row(call)["status"] for call in calls} == {"succeeded"}


def test_a_killed_worker_is_replaced_and_the_container_stays(docker_gateway: Stack) -> None:
    before = container(docker_gateway)
    (server,) = psutil.Process(before["State"]["Pid"]).children()
    worker = server.children()[0]
    worker.kill()
    ask(docker_gateway)  # The request waits for the new worker when there is no other.
    wait_for(lambda: server.children() and worker not in server.children(), 60, "a new worker")
    after = container(docker_gateway)
    assert (after["Id"], after["RestartCount"]) == (before["Id"], before["RestartCount"])
    assert "was ended by SIGKILL; a new worker replaces it" in docker_gateway.lm("logs").stdout


def test_the_ledger_survives_down_and_up_and_is_read_while_stopped(docker_gateway: Stack) -> None:
    call = ask(docker_gateway)
    docker_gateway.row(call)
    docker_gateway.lm("down")
    assert docker_gateway.shell("docker compose ps -aq").stdout == ""
    assert docker_gateway.json("request", call)["data"]["request"]["status"] == "succeeded"
    assert docker_gateway.json("usage")["data"]["rows"]
    docker_gateway.lm("up", timeout=300)
    assert docker_gateway.row(call)["status"] == "succeeded"
    assert (
        docker_gateway.shell("docker compose exec -T litellm-proxy ls /app/logs/litellm.db").stdout.strip()
        == "/app/logs/litellm.db"
    )


def test_down_volumes_asks_first(docker_gateway: Stack) -> None:
    refused = docker_gateway.shell(f"echo n | {sys.executable} -m lmstack down --volumes", check=False)
    assert refused.returncode == 1
    assert "nothing was deleted" in refused.stderr
    assert docker_gateway.json("status")["data"]["running"] is True


def inside(stack: Stack, script: str) -> str:
    """Run a script in the proxy's container and return what it prints."""
    return stack.shell(f"docker compose exec -T litellm-proxy sh -c '{script}'").stdout


def test_a_changed_setting_is_a_reload_that_outlives_a_restart_of_the_container(docker_gateway: Stack) -> None:
    stack, text = docker_gateway, (docker_gateway.root / ".env").read_text()
    before = container(stack)["Id"]
    without_ollama = "".join(line for line in text.splitlines(True) if not line.startswith("OLLAMA"))
    key = "sk-test-$with$$dollars"  # Docker Compose expands a dollar sign.
    (stack.root / ".env").write_text(
        without_ollama.replace("sk-test-openai-0123456789", f"'{key}'") + "LITELLM_TIMEOUT=77\n"
    )
    assert stack.json("up", "--dry-run")["data"]["action"] == "reload"
    assert "llama3.2" not in stack.json("up")["data"]["models"]
    for _ in ("after the reload", "after a restart of the container"):
        assert container(stack)["Id"] == before
        config = inside(stack, "cat /app/config/litellm-config.yaml")
        assert config == (stack.root / "litellm-config.yaml").read_text()
        assert "timeout: 77" in config
        assert "llama3.2" not in {model["id"] for model in models(stack)}
        ask(stack)
        assert json.loads(inside(stack, "cat /app/config/.server/environment.json"))["OPENAI_API_KEY"] == key
        (worker,) = stack.json("status")["data"]["workers"]
        assert worker["memory_mb"] > 50
        stack.shell("docker compose restart litellm-proxy")
        wait_for(stack.serves, 60, "the restarted container")
    modes = inside(stack, "stat -c %a /app/config/.server /app/config/.server/environment.json").split()
    assert modes == ["700", "600"]
    # `docker compose up` makes a new container. It has the settings of .env, and none of the changes of the old one.
    stack.lm("down")
    (stack.root / ".env").write_text(text)
    assert stack.lm("up", timeout=300)
    assert "timeout: 120" in inside(stack, "cat /app/config/litellm-config.yaml")
    assert "llama3.2" in {model["id"] for model in models(stack)}
    assert "environment.json" not in inside(stack, "ls /app/config/.server")


def models(stack: Stack) -> list[dict[str, Any]]:
    """Return the models that the gateway lists."""
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.get(f"{stack.url}/v1/models", headers=headers, trust_env=False, timeout=30).json()["data"]


def test_a_change_that_fails_in_the_container_changes_nothing(docker_gateway: Stack) -> None:
    stack, text = docker_gateway, (docker_gateway.root / ".env").read_text()
    state, config = stack.root / ".lmstack" / "state.json", stack.root / "litellm-config.yaml"
    before = (state.read_text(), config.read_text(), stack.json("status")["data"]["workers"][0]["pid"])
    (stack.root / ".env").write_text(text + "LITELLM_TIMEOUT=78\n")
    inside(stack, "chmod 500 /app/config")
    try:
        done = stack.lm("up", check=False)
    finally:
        inside(stack, "chmod 755 /app/config")
        (stack.root / ".env").write_text(text)
    assert (done.returncode, "runs on as before" in done.stderr) == (5, True), done.stderr
    assert (state.read_text(), config.read_text(), stack.json("status")["data"]["workers"][0]["pid"]) == before
    assert stack.json("up")["data"]["changed"] is False


@pytest.mark.exhaustive
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_kills_and_ten_changes_refuse_nothing(side_stack: Stack, workers: int) -> None:
    provider = SlowProvider(5, "0.0.0.0")
    env = {"OPENAI_API_KEY": "sk-test-openai-0123456789", "OPENAI_API_BASE": provider.base}
    side_stack.write_env(**env, LITELLM_WORKERS=str(workers))
    side_stack.lm("up", timeout=300)
    campaign(side_stack, {**env, "LITELLM_WORKERS": str(workers)}, rounds=10)
    provider.stop()


def test_plain_compose_works_without_lm_as_the_guide_says(side_stack: Stack) -> None:
    (side_stack.root / ".env").unlink()
    side_stack.shell("cp .env.example .env")
    with (side_stack.root / ".env").open("a") as env:
        env.write(f"LITELLM_PORT={side_stack.port}\n")
    side_stack.shell("docker-compose build --no-cache")
    side_stack.shell("docker-compose down && docker-compose build && docker-compose up -d")
    wait_for(
        lambda: side_stack.shell(f"curl -fsS http://localhost:{side_stack.port}/models", check=False).returncode == 0,
        90,
    )
    assert "gpt-4o-mini" in side_stack.shell(f"curl -fsS http://localhost:{side_stack.port}/models").stdout
    side_stack.shell("docker-compose down")


def test_the_unmodified_image_runs_with_mounted_files(side_stack: Stack, bridge_mock: Mock) -> None:
    side_stack.write_env(**bridge_mock.bases(), LITELLM_MOUNT="on")
    side_stack.lm("up", timeout=300)
    assert container(side_stack)["Config"]["Image"].startswith("ghcr.io/berriai/litellm:v")
    assert side_stack.row(ask(side_stack))["status"] == "succeeded"
    keys = bridge_mock.bases()
    del keys["ANTHROPIC_API_KEY"]
    side_stack.write_env(**keys, LITELLM_MOUNT="on")
    assert "claude-3-haiku" not in side_stack.json("up")["data"]["models"]


def test_the_non_root_image_runs_and_writes_its_ledger(side_stack: Stack, bridge_mock: Mock) -> None:
    side_stack.write_env(**bridge_mock.bases(), LITELLM_IMAGE="ghcr.io/berriai/litellm-non_root:v1.108.7")
    side_stack.lm("up", timeout=300)
    assert side_stack.shell("docker compose exec -T litellm-proxy id -u").stdout.strip() == "65534"
    assert side_stack.row(ask(side_stack))["status"] == "succeeded"


def test_two_workers_share_one_ledger(side_stack: Stack) -> None:
    side_stack.lm("up", "--workers", "2", timeout=300)
    calls = [ask(side_stack) for _ in range(12)]
    assert {side_stack.row(call)["status"] for call in calls} == {"succeeded"}


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("ghcr.io/berriai/litellm:main-latest", "floats"),
        ("ghcr.io/berriai/litellm:v1.107.0", "malicious"),
        ("litellm/litellm", "not one of LiteLLM's own"),
        ("ghcr.io/berriai/litellm:v1.83.0", "known vulnerabilities"),
        ("x@sha256:1bbcb1443bc962e45f5aad53fe3d2c30600e0379715fb6c664cdd3ac126c339e", "malicious"),
    ],
)
def test_unsafe_images_are_refused_before_anything_is_touched(
    side_stack: Stack, bridge_mock: Mock, image: str, why: str
) -> None:
    side_stack.write_env(**bridge_mock.bases(), LITELLM_IMAGE=image)
    before = (side_stack.root / "litellm-config.yaml").read_text()
    done = side_stack.lm("up", check=False)
    assert (done.returncode, why in done.stderr) == (3, True), done.stderr
    assert (side_stack.root / "litellm-config.yaml").read_text() == before
    assert side_stack.shell("docker compose ps -aq").stdout == ""


def test_up_records_the_digest_and_warns_when_it_changes_unasked(side_stack: Stack) -> None:
    side_stack.lm("up", timeout=300)
    status = side_stack.json("status")["data"]
    assert status["image"].startswith("ghcr.io/berriai/litellm:v")
    assert "sha256:" in status["image_digest"]
    assert f"Image {status['image']}, " in side_stack.lm("status").stdout
    file = side_stack.root / ".lmstack" / "image.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "digest": "sha256:other"}))
    side_stack.lm("down")
    messages = side_stack.json("up")["messages"]
    assert any("at the last start it was" in message for message in messages)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"DOCKER_HOST": "unix:///nonexistent/docker.sock"}, "no Docker engine answers"),
        ({"PATH": "/nonexistent"}, "the docker command is not installed"),
    ],
)
def test_each_missing_piece_has_its_own_error(side_stack: Stack, env: dict[str, str], message: str) -> None:
    broken = Stack(side_stack.root, side_stack.port, {**side_stack.env, **env})
    done = broken.lm("up", check=False)
    assert done.returncode == 4
    assert message in done.stderr
    assert "→" in done.stderr


def test_redis_is_private_authenticated_and_not_touched_by_a_change_of_config(
    side_stack: Stack, bridge_mock: Mock
) -> None:
    side_stack.lm("up", "--redis", timeout=300)
    redis = container(side_stack, "redis")
    assert redis["HostConfig"]["PortBindings"] == {}
    assert redis["HostConfig"]["CapDrop"] == ["ALL"]
    anonymous = side_stack.shell("docker compose --profile redis exec -T redis redis-cli ping", check=False)
    assert "NOAUTH" in anonymous.stdout
    password = (side_stack.root / ".lmstack" / "redis-password").read_text().strip()
    assert password not in json.dumps([redis["Args"], redis["Config"]["Cmd"]])
    side_stack.write_env(**bridge_mock.bases(), LITELLM_TIMEOUT="66")
    side_stack.lm("up", "--redis")
    assert container(side_stack, "redis")["Id"] == redis["Id"]


def test_redis_shares_cool_downs_over_the_workers(side_stack: Stack, bridge_mock: Mock) -> None:
    side_stack.lm("up", "--redis", "--workers", "2", timeout=300)
    bridge_mock.script({"type": "fail", "status": 500, "times": None, "match": {"model": "gpt-6.1-sol"}})
    for _ in range(30):
        assert side_stack.post(CHAT, {"model": "gpt-6.1-sol", "messages": HELLO}).status_code == 200
    hits = [r for r in bridge_mock.requests() if r["model"] == "gpt-6.1-sol"]
    # One for the cool-down, one more when both workers ask at the same moment; without Redis each worker learns by itself.
    assert 1 <= len(hits) <= 2, len(hits)


def test_redis_dying_and_coming_back_under_load_fails_no_request(side_stack: Stack, bridge_mock: Mock) -> None:
    side_stack.lm("up", "--redis", "--workers", "2", timeout=300)
    name = container(side_stack, "redis")["Name"]
    answers: list[tuple[int, float]] = []

    def ask_one(n: int) -> None:
        began = time.monotonic()
        status = side_stack.post(
            CHAT, {"model": ("gpt-4o-mini", "gpt-6-luna")[n % 2], "messages": HELLO}, timeout=60
        ).status_code
        answers.append((status, time.monotonic() - began))

    def load(count: int) -> None:
        # A failing model makes LiteLLM's router ask Redis in the middle of the load.
        bridge_mock.script({"type": "fail", "status": 500, "times": 1, "match": {"model": "gpt-6-luna"}})
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask_one, range(count)))

    load(100)
    subprocess.run(["docker", "kill", name], check=True, capture_output=True)
    load(200)
    # The gateway starts without Redis too.
    side_stack.shell("docker compose restart litellm-proxy")
    wait_for(
        lambda: side_stack.json("health", check=False)["data"]["proxy"]["alive"],
        90,
        "the proxy to answer without Redis",
    )
    load(100)
    subprocess.run(["docker", "start", name], check=True, capture_output=True)
    load(100)
    assert {status for status, _ in answers} == {200}
    assert len(answers) == 500


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_an_ollama_that_no_container_can_reach_is_named_with_its_mend(side_stack: Stack, address: str) -> None:
    ollama = Mock(address)
    try:
        side_stack.write_env(OLLAMA_API_BASE=f"http://localhost:{ollama.port}")
        result = side_stack.json("up")
        assert any("OLLAMA_HOST=0.0.0.0" in m for m in result["messages"]) == (address == "127.0.0.1")
        answer = side_stack.post(CHAT, {"model": "llama3.2", "messages": HELLO})
        assert (answer.status_code == 200) == (address == "0.0.0.0")
    finally:
        ollama.stop()


def test_without_permission_or_compose_the_error_says_which(side_stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    bare = Stack(side_stack.root, side_stack.port, {**side_stack.env, "PATH": str(tmp_path)})
    done = bare.lm("up", check=False)
    assert (done.returncode, "docker compose is not installed" in done.stderr) == (4, True), done.stderr
    if os.geteuid() == 0:
        # Imports first: another user may not even read this interpreter.
        code = (
            "import docker, os; from lmstack.runtime.engine import require_engine; os.setuid(65534); require_engine()"
        )
        env = {**os.environ, "HOME": "/nonexistent"}
        denied = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        assert "may not use the Docker engine" in denied.stderr


def test_ready_is_quick_once_images_exist(side_stack: Stack) -> None:
    began = time.monotonic()
    side_stack.lm("up", timeout=300)
    wait_for(lambda: container(side_stack)["State"]["Health"]["Status"] == "healthy", 60, "docker to say healthy")
    assert time.monotonic() - began < 60


def test_plain_compose_up_refuses_a_weak_key_on_a_public_address(side_stack: Stack) -> None:
    """Only `lm` can check before the start. The container checks when it starts."""
    side_stack.shell("docker compose build", check=True)
    side_stack.shell("LITELLM_HOST=0.0.0.0 docker compose up -d")
    try:
        told = "the default key is refused while LITELLM_HOST is 0.0.0.0"
        wait_for(
            lambda: told in side_stack.shell("docker compose logs litellm-proxy").stdout, 120, "the refusal in the log"
        )
    finally:
        side_stack.shell("docker compose down")
