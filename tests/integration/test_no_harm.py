"""Commands that fail leave the running gateway as it is; odd folders, logs and signals do no harm."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support import LM, Mock, Stack, clean_environ, free_port, wait_for


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, mock: Mock) -> Iterator[Stack]:
    """Start a gateway in a folder that has a comment sign, spaces, quotes and a percent sign in its name."""
    root = tmp_path_factory.mktemp("odd") / "my #1 dir; 100% 'odd'"
    root.mkdir()
    made = Stack(root, free_port(), {"LITELLM_RUNTIME": "local"})
    made.lm("init", "--dir", str(root))
    made.write_env(**mock.bases())
    made.lm("up")
    yield made
    if made.pids():
        made.lm("down")
    assert made.pids() == []


def identity(stack: Stack) -> tuple[object, ...]:
    """Return what a failed command must not change: processes, state, and an answer on the old port."""
    answer = httpx.get(f"{stack.url}/health/liveliness", trust_env=False)
    return stack.pids(), (stack.root / ".lmstack" / "state.json").read_text(), answer.status_code


@pytest.fixture
def dead_docker(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a docker command and without an engine."""
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "docker").chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_HOST": "tcp://127.0.0.1:9", "LITELLM_RUNTIME": "auto"}


def test_up_on_docker_without_an_engine_leaves_the_local_gateway(odd: Stack, dead_docker: dict[str, str]) -> None:
    before = identity(odd)
    beside = Stack(odd.root, odd.port, {**odd.env, **dead_docker})
    for words in (["up", "--runtime", "docker"], ["up", "--runtime", "docker", "--dry-run"]):
        done = beside.lm(*words, check=False)
        assert done.returncode == 4, done.stderr
        assert "no Docker engine answers" in done.stderr
        assert identity(odd) == before


def test_a_busy_port_leaves_the_gateway_on_its_old_one(odd: Stack) -> None:
    before = identity(odd)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        done = odd.lm("up", "--port", port, check=False)
        assert done.returncode == 1
        assert f"port {port}" in done.stderr
        assert f"process {os.getpid()}" in done.stderr
        odd.env["LITELLM_PORT"] = port
        try:
            assert odd.lm("restart", check=False).returncode == 1
        finally:
            del odd.env["LITELLM_PORT"]
    assert identity(odd) == before
    assert "nothing has changed" in odd.lm("up").stdout


def test_any_bytes_in_the_log_are_shown_and_its_end_can_be_chosen(odd: Stack) -> None:
    log = odd.root / "logs" / "litellm-proxy.log"
    assert "\x1b[" not in odd.lm("logs").stdout  # LiteLLM itself writes a few colours in spite of NO_COLOR
    with log.open("ab") as stream:
        stream.write(b"one\ntwo \xff\xfe\nthree\n")
    assert odd.lm("logs", "-n", "2").stdout.splitlines()[-1] == "three"
    assert len(odd.lm("logs", "-n", "2").stdout.splitlines()) == 2
    assert odd.lm("logs", "-n", "0").stdout == ""
    for words in (["-n", "-3"], ["--since", "nosuch"], ["--since", "nan"], ["--since", "1e300"]):
        done = odd.lm("logs", *words, check=False)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr


def test_down_with_volumes_says_what_it_deleted_and_frees_the_runtime(odd: Stack) -> None:
    odd.post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]})
    odd.lm("down")
    assert odd.json("status")["data"]["runtime"] is None
    assert odd.ledger.exists()
    data = odd.json("down", "--volumes", "--yes")["data"]
    assert data["stopped"] is False
    assert "logs/litellm.db" in data["deleted"]
    assert not odd.ledger.exists()
    again = odd.json("down", "--volumes", "--yes")["data"]
    assert (again["volumes_deleted"], again["deleted"]) == (False, [])


@pytest.mark.exhaustive
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=lambda sign: sign.name)
def test_a_signal_to_up_in_the_foreground_stops_the_stack(stack: Stack, mock: Mock, sign: signal.Signals) -> None:
    stack.write_env(**mock.bases())
    process = subprocess.Popen(
        [*LM, "up", "--foreground", "--json"], cwd=stack.root, env=clean_environ(stack.root, **stack.env), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for(stack.serves, 120, "the gateway")
    process.send_signal(sign)
    out, _ = process.communicate(timeout=90)
    assert out.count("\n{") == 0
    assert out.startswith("{")
    assert stack.pids() == []
