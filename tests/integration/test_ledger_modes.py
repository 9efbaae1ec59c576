"""Strict mode, the other servers, own prices, a stop under load, and the example receiver, with the real proxy."""

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
from stopping import stop_under_load
from support import KEY, ROOT, Mock, Stack, TaskMaster, clean_environ, free_port, running, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"
SECRET = "whsec_dGVzdC1zZWNyZXQ="
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
        wait_for(lambda: stack.post(CHAT, BODY).status_code == 200, what="recording again")
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


@pytest.mark.exhaustive
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


@pytest.fixture(scope="module")
def receiver_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The example receiver: its address, and the file with what it prints."""
    port, log = free_port(), tmp_path_factory.mktemp("receiver") / "receiver.log"
    argv = [sys.executable, str(ROOT / "src" / "lmstack" / "operate" / "receiver.py"), str(port)]
    with log.open("wb") as stream:
        environ = {**os.environ, "TASKMASTER_WEBHOOK_SECRET": SECRET}
        process = subprocess.Popen(argv, env=environ, stdout=stream, stderr=stream)
    yield f"http://127.0.0.1:{port}", log
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory, mock: Mock, receiver_log: tuple[str, Path]) -> Iterator[Stack]:
    """A gateway with own prices, which sends its events to the example receiver. The last test stops it."""
    own = "gpt-4o-mini: {input: 100, output: 200}\n  house: {provider: openai, model: house-1, input: 300, output: 400}\n  mystery: {provider: openai, model: mystery-1}"
    events = {"TASKMASTER_API_URL": receiver_log[0], "TASKMASTER_WEBHOOK_SECRET": SECRET}
    mock.reset()
    with running(tmp_path_factory.mktemp("priced"), f"models:\n  {own}\n", **mock.bases(), **events) as made:
        yield made


def test_the_example_receiver_verifies_every_signature(priced: Stack, receiver_log: tuple[str, Path]) -> None:
    url, log = receiver_log
    for _ in range(20):
        priced.post(CHAT, BODY, x_task_id="example")
    wait_for(lambda: {r["state"]: r["events"] for r in priced.ask("event_counts")} == {"delivered": 40})
    lines = log.read_text().splitlines()
    assert len(lines) == 40
    assert all(re.match(r"litellm\.(request\.succeeded|cost\.recorded) \{", line) for line in lines)
    assert priced.json("health")["data"]["taskmaster"]["status"] == "reachable"
    forged = httpx.post(
        f"{url}/api/litellm/log", json={}, headers={"webhook-id": "x", "webhook-timestamp": "0"}, trust_env=False
    )
    assert forged.status_code == 401


def test_own_prices_count_for_streams_too_and_an_unknown_price_stays_unknown(priced: Stack) -> None:
    for model, prices in (("gpt-4o-mini", (100, 200)), ("house", (300, 400)), ("mystery", None)):
        for stream in (False, True):
            row = priced.row(priced.post(CHAT, {**BODY, "model": model, "stream": stream}).headers["x-litellm-call-id"])
            expected = prices and (row["prompt_tokens"] * prices[0] + row["completion_tokens"] * prices[1]) / 1e6
            assert row["completion_tokens"] > 0
            assert row["cost_usd"] == (pytest.approx(expected) if expected else None), (model, stream)


def test_a_stop_under_load_leaves_no_answered_request_without_its_row(priced: Stack, mock: Mock) -> None:
    """With one worker. test_lifecycle.py does it with two."""
    stop_under_load(priced, mock)


def alive(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/health/liveliness", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
