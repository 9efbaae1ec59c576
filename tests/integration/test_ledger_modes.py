"""Strict mode, the other servers, a second signal, and the example receiver, all with the real proxy."""

import concurrent.futures
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lmstack.stack.plan import STOCK_ENVIRON
from support import KEY, ROOT, Mock, Stack, TaskMaster, clean_environ, free_port, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": HELLO}


def test_strict_mode_refuses_what_cannot_be_recorded_and_recovers(stack: Stack, mock: Mock, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a file system that is full in both places can only be made by root")
    logs, spare = stack.root / "logs", stack.root / "spare"
    for folder in (logs, spare):
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    try:
        stack.env["TMPDIR"] = str(spare)
        stack.write_env(**mock.bases(), LEDGER_MODE="strict")
        stack.lm("up")
        assert stack.post(CHAT, BODY).status_code == 200
        for folder in (logs, spare):
            fill(folder)
        statuses = [stack.post(CHAT, BODY).status_code for _ in range(5)]
        assert 503 in statuses
        refused = stack.post(CHAT, BODY)
        assert refused.status_code == 503
        assert "LEDGER_MODE is strict" in refused.text
        for folder in (logs, spare):
            (folder / "ballast").unlink()
        wait_for(lambda: stack.post(CHAT, BODY).status_code == 200, 20, "recording again")
        stack.lm("down")
    finally:
        for folder in (logs, spare):
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 1024)
        except OSError:
            return


@contextlib.contextmanager
def served(stack: Stack, mock: Mock, *options: str, **env: str) -> Iterator[None]:
    """The stock proxy on the rendered config, started by hand: for what `lm up` does not offer."""
    full = {
        **mock.bases(),
        "LEDGER_PATH": str(stack.ledger),
        "LITELLM_MASTER_KEY": KEY,
        "PYTHONUNBUFFERED": "1",
        **STOCK_ENVIRON,
        **env,
    }
    argv = [str(Path(sys.executable).with_name("litellm")), "--config", str(stack.root / "litellm-config.yaml")]
    argv += ["--host", "127.0.0.1", "--port", str(stack.port), *options]
    with (stack.root / "server.log").open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=stack.root, env=clean_environ(stack.root, **full), stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: alive(stack), 120, "the server to answer")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


@pytest.mark.parametrize("server", ["--run_gunicorn", "--run_granian"])
def test_ledger_and_delivery_work_under_the_other_servers_with_two_workers(
    stack: Stack, mock: Mock, taskmaster: TaskMaster, server: str
) -> None:
    stack.write_env(**mock.bases(), TASKMASTER_API_URL=taskmaster.url)
    stack.lm("render")
    with served(stack, mock, "--num_workers", "2", server, TASKMASTER_API_URL=taskmaster.url):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: stack.post(CHAT, {**BODY, "stream": n % 2 == 0}), range(60)))
        assert {a.status_code for a in answers} == {200}
        calls = [a.headers["x-litellm-call-id"] for a in answers]
        assert {stack.row(call)["status"] for call in calls} == {"succeeded"}
        with sqlite3.connect(stack.ledger) as conn:
            workers = {row[0] for row in conn.execute("SELECT DISTINCT worker FROM requests")}
        assert len(workers) == 2
        for call in calls:
            assert len(taskmaster.events(call)) == 1
        assert httpx.get(f"{stack.url}/models", trust_env=False).status_code == 200


def test_an_answer_from_the_cache_costs_nothing_and_says_so(stack: Stack, mock: Mock) -> None:
    mock.reset()
    stack.write_env(**mock.bases())
    stack.lm("render")
    config = stack.root / "litellm-config.yaml"
    config.write_text(
        config.read_text().replace(
            "litellm_settings:\n", "litellm_settings:\n  cache: true\n  cache_params: {type: local}\n"
        )
    )
    with served(stack, mock):
        rows = [stack.row(stack.post(CHAT, BODY).headers["x-litellm-call-id"]) for _ in range(2)]
    assert [(r["status"], r["cache_hit"]) for r in rows] == [("succeeded", 0), ("succeeded", 1)]
    assert rows[0]["cost_usd"] > 0
    assert rows[1]["cost_usd"] == 0
    assert len([r for r in mock.requests() if r["model"] == "gpt-4o-mini"]) == 1


def test_own_prices_count_for_streams_too_and_an_unknown_price_stays_unknown(stack: Stack, mock: Mock) -> None:
    mock.reset()
    stack.write_env(**mock.bases())
    own = "gpt-4o-mini: {input: 100, output: 200}\n  house: {provider: openai, model: house-1, input: 300, output: 400}\n  mystery: {provider: openai, model: mystery-1}"
    (stack.root / "models.yaml").write_text(f"models:\n  {own}\n")
    stack.lm("up")
    for model, prices in (("gpt-4o-mini", (100, 200)), ("house", (300, 400)), ("mystery", None)):
        for stream in (False, True):
            row = stack.row(stack.post(CHAT, {**BODY, "model": model, "stream": stream}).headers["x-litellm-call-id"])
            expected = prices and (row["prompt_tokens"] * prices[0] + row["completion_tokens"] * prices[1]) / 1e6
            assert row["completion_tokens"] > 0
            assert row["cost_usd"] == (pytest.approx(expected) if expected else None), (model, stream)


def test_a_second_signal_loses_nothing_committed(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    stack.lm("up")
    calls = [stack.post(CHAT, BODY).headers["x-litellm-call-id"] for _ in range(20)]
    pid = next(s["pid"] for s in stack.json("status")["data"]["services"] if s["name"] == "litellm-proxy")
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)
    assert {stack.row(call)["status"] for call in calls} == {"succeeded"}


def test_the_example_receiver_verifies_every_signature(stack: Stack, mock: Mock) -> None:
    port, secret = free_port(), "whsec_dGVzdC1zZWNyZXQ="
    argv = [sys.executable, str(ROOT / "src" / "lmstack" / "operate" / "receiver.py"), str(port)]
    with (stack.root / "receiver.log").open("wb") as log:
        receiver = subprocess.Popen(
            argv, env={**os.environ, "TASKMASTER_WEBHOOK_SECRET": secret}, stdout=log, stderr=log
        )
    try:
        stack.write_env(**mock.bases(), TASKMASTER_API_URL=f"http://127.0.0.1:{port}", TASKMASTER_WEBHOOK_SECRET=secret)
        stack.lm("up")
        for _ in range(20):
            stack.post(CHAT, BODY, x_task_id="example")
        wait_for(lambda: {r["state"]: r["events"] for r in stack.ask("event_counts")} == {"delivered": 40}, 20)
        lines = (stack.root / "receiver.log").read_text().splitlines()
        assert len(lines) == 40
        assert all(re.match(r"litellm\.(request\.succeeded|cost\.recorded) \{", line) for line in lines)
        assert stack.json("health")["data"]["taskmaster"]["status"] == "reachable"
        forged = httpx.post(
            f"http://127.0.0.1:{port}/api/litellm/log",
            json={},
            headers={"webhook-id": "x", "webhook-timestamp": "0"},
            trust_env=False,
        )
        assert forged.status_code == 401
    finally:
        receiver.terminate()
        receiver.wait(10)


def alive(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/health/liveliness", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
