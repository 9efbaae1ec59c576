"""A stack's life through the real ``lm``: start, change, kill, drain, stop, with nothing left behind.

A start takes seconds of CPU. So one stack, ``kept``, goes through most of it; each test brings it up when it is down.
"""

import concurrent.futures
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from campaign import Load, SlowProvider, kill_a_worker
from stopping import stop_under_load
from support import ROOT, Mock, Stack, clean_environ, free_port, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, mock: Mock) -> Iterator[Stack]:
    """Make a stack with every provider. It runs only after a test has started it."""
    made = Stack(tmp_path_factory.mktemp("kept"), free_port(), {"LITELLM_RUNTIME": "local"})
    made.lm("init", "--dir", str(made.root))
    made.write_env(**mock.bases())
    yield made
    made.lm("down")
    assert made.pids() == []


def test_without_any_key_the_built_in_model_answers_and_down_leaves_no_process(stack: Stack) -> None:
    stack.env["SOMEBODYS_API_KEY"] = "sk-canary-0123456789"
    started = stack.json("up")
    assert started["data"]["models"] == ["auto", "cheap", "standard", "premium", "smollm2"]
    found = [p for p in map(psutil.Process, stack.pids()) if "lmstack.runtime.embedded" in p.cmdline()]
    assert [[name for name in p.environ() if "KEY" in name or "SECRET" in name] for p in found] == [[]]
    assert any("toy" in message for message in started["messages"])
    assert httpx.get(f"{stack.url}/health", trust_env=False).json()["status"] == "healthy"
    answer = stack.post(CHAT, {"model": "auto", "messages": HELLO, "max_tokens": 12})
    assert answer.json()["choices"][0]["message"]["content"].strip()
    streamed = stack.post(CHAT, {"model": "auto", "messages": HELLO, "max_tokens": 12, "stream": True})
    assert streamed.text.count("data: ") > 3
    assert streamed.text.rstrip().endswith("data: [DONE]")
    row = stack.row(streamed.headers["x-litellm-call-id"])
    assert (row["status"], row["provider"], row["cost_usd"]) == ("succeeded", "embedded", 0)
    assert row["completion_tokens"] > 0
    refused = stack.post(CHAT, {"model": "gpt-4o", "messages": HELLO})
    assert refused.status_code == 400
    assert "OPENAI_API_KEY" in refused.json()["error"]["message"]
    stack.lm("down")
    assert stack.pids() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{stack.url}/health", trust_env=False)


def test_up_twice_changes_nothing_and_a_changed_setting_is_applied(kept: Stack, mock: Mock) -> None:
    stack = kept
    assert stack.json("up")["data"]["changed"] is True
    pids = stack.pids()
    assert stack.json("up")["data"]["changed"] is False
    assert stack.pids() == pids
    keys = mock.bases()
    del keys["OLLAMA_API_BASE"]
    stack.write_env(**keys)
    again = stack.json("up")["data"]
    assert again["changed"] is True
    assert "llama3.2" not in again["models"]
    assert proxy_pid(stack) in pids  # the server goes on, with new workers
    assert stack.json("status")["data"]["running"] is True
    assert stack.json("health")["data"]["status"] == "healthy"


def test_a_change_under_load_refuses_nothing_and_a_broken_one_changes_nothing(kept: Stack, mock: Mock) -> None:
    provider = SlowProvider(1.5)
    settings = {**mock.bases(), "OPENAI_API_BASE": provider.base}
    kept.write_env(**settings)
    kept.lm("up")
    server, load = proxy_pid(kept), Load(kept, per_second=8)
    try:
        with load.running():
            wait_for(lambda: load.streams >= 2, what="streams before the change")
            changed = {**settings, "LITELLM_TIMEOUT": "99"}
            kept.write_env(**changed)
            assert kept.json("up", "--dry-run")["data"]["action"] == "reload"
            before = worker_pids(kept)
            assert kept.json("up")["data"]["changed"] is True
            assert not before & worker_pids(kept)
            enough = load.streams + 4
            wait_for(lambda: load.streams >= enough, what="streams after the change")
            broken_change_changes_nothing(kept, changed)
            kill_a_worker(load)
        assert load.beyond_killed_workers() == []
        assert proxy_pid(kept) == server
        assert kept.json("status")["data"]["workers_replaced"] == 1
    finally:
        kept.write_env(**mock.bases())
        provider.stop()


def broken_change_changes_nothing(stack: Stack, settings: dict[str, str]) -> None:
    """The new worker cannot load our callback. The old workers go on, and every file is as before."""
    state = stack.root / ".lmstack" / "state.json"
    config = stack.root / "litellm-config.yaml"
    callback = stack.root / "callbacks" / "taskmaster.py"
    before = (state.read_text(), config.read_text(), worker_pids(stack))
    whole = callback.read_text()
    callback.write_text("raise RuntimeError('this callback is broken')\n")
    stack.write_env(**{**settings, "LITELLM_TIMEOUT": "98"})
    done = stack.lm("up", check=False)
    callback.write_text(whole)
    assert done.returncode == 5, done.stderr
    assert "runs on as before" in done.stderr
    assert "this callback is broken" in done.stderr
    assert (state.read_text(), config.read_text(), worker_pids(stack)) == before
    stack.write_env(**settings)
    assert stack.json("up")["data"]["changed"] is False


def worker_pids(stack: Stack) -> set[int]:
    return {worker["pid"] for worker in stack.json("status")["data"]["workers"]}


def test_kill_9_in_a_burst_loses_no_answered_request_and_the_proxy_comes_back(kept: Stack) -> None:
    stack = kept
    stack.lm("up")
    proxy = proxy_pid(stack)
    answered: list[str] = []

    def ask(n: int) -> None:
        try:
            answer = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, x_task_id="burst", timeout=30)
        except httpx.HTTPError:
            return
        if answer.status_code == 200:
            answered.append(answer.headers["x-litellm-call-id"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(ask, n) for n in range(200)]
        wait_for(lambda: len(answered) >= 60, what="60 answers")
        for process in (*psutil.Process(proxy).children(recursive=True), psutil.Process(proxy)):
            process.kill()
        concurrent.futures.wait(jobs)
    assert 60 <= len(answered) < 200
    with sqlite3.connect(stack.ledger) as conn:
        ended = {row[0] for row in conn.execute("SELECT call_id FROM requests WHERE status = 'succeeded'")}
    assert set(answered) <= ended
    wait_for(lambda: proxy_pid(stack) not in (0, proxy), 60, "a new proxy process")
    wait_for(lambda: _answers(stack), 90, "the proxy to answer again")
    # What was under way when the process died is not left open.
    wait_for(
        lambda: all(
            r["status"] in ("succeeded", "interrupted") for r in stack.ask("requests", task="burst", limit=500)
        ),
        60,
    )


@pytest.mark.exhaustive  # the one of two is the usual case
def test_a_single_killed_worker_is_replaced_and_no_connection_is_refused(kept: Stack) -> None:
    kept.lm("up")
    kill_a_worker_under_load(kept)


def test_a_second_signal_loses_nothing_committed(kept: Stack) -> None:
    kept.lm("up")
    calls = [
        kept.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}).headers["x-litellm-call-id"] for _ in range(20)
    ]
    proxy = proxy_pid(kept)
    os.kill(proxy, signal.SIGTERM)
    os.kill(proxy, signal.SIGTERM)
    assert {kept.row(call)["status"] for call in calls} == {"succeeded"}
    wait_for(lambda: proxy_pid(kept) not in (0, proxy), 60, "a new proxy process")


def test_a_killed_supervisor_is_cleaned_up_by_down(kept: Stack) -> None:
    kept.lm("up")
    supervisor = psutil.Process(proxy_pid(kept)).ppid()
    os.kill(supervisor, signal.SIGKILL)
    assert kept.pids()
    kept.lm("down")
    assert kept.pids() == []


def test_a_worker_whose_server_was_killed_ends(kept: Stack) -> None:
    stack = kept
    stack.lm("up", "--workers", "2")
    keeper, server = proxy_pid(stack), server_of(stack)
    workers = workers_of(server)
    assert len(workers) == 2
    os.kill(server.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, 30)
    assert not alive
    wait_for(lambda: proxy_pid(stack) not in (0, keeper), 60, "a new server")
    wait_for(lambda: _answers(stack), 90, "the proxy to answer again")


def test_one_of_two_killed_workers_is_replaced_and_no_connection_is_refused(kept: Stack) -> None:
    kept.lm("up", "--workers", "2")
    kill_a_worker_under_load(kept)


def server_of(stack: Stack) -> psutil.Process:
    """Return the server's main process, the only child of the keeper."""
    (server,) = psutil.Process(proxy_pid(stack)).children()
    return server


def workers_of(server: psutil.Process) -> list[psutil.Process]:
    """Every child of the server is a worker. A dead one stays as a zombie until the server has read its status."""
    return [p for p in server.children() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def kill_a_worker_under_load(stack: Stack) -> None:
    """Kill a worker while four clients ask, each request on a connection of its own.

    No connection is refused or reset. Only what the worker had in hand fails. Its rows end, and the server stays.
    """
    keeper, server = proxy_pid(stack), server_of(stack)
    before = workers_of(server)
    answered: list[str] = []
    lost: list[httpx.HTTPError] = []
    replaced = threading.Event()

    def ask() -> None:
        while not replaced.is_set():
            try:
                answer = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, x_task_id="worker-kill")
            except httpx.HTTPError as error:
                lost.append(error)
                continue
            assert answer.status_code == 200, answer.text
            answered.append(answer.headers["x-litellm-call-id"])

    def is_replaced() -> bool:
        now = workers_of(server)
        return len(now) == len(before) and before[0] not in now

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(ask) for _ in range(4)]
        try:
            wait_for(lambda: len(answered) >= 8, 60, "answers before the kill")
            before[0].kill()
            wait_for(is_replaced, 60, "a new worker")
            enough = len(answered) + 20
            wait_for(lambda: len(answered) >= enough, 60, "answers after the kill")
        finally:
            replaced.set()
        for job in jobs:
            job.result()
    assert [error for error in lost if isinstance(error, httpx.ConnectError)] == []
    assert len(lost) <= 4  # one request in hand for each client
    assert proxy_pid(stack) == keeper
    assert f"(PID {before[0].pid}) was ended by SIGKILL; a new worker replaces it" in stack.lm("logs").stdout
    assert {stack.row(call)["status"] for call in answered} == {"succeeded"}
    statuses = wait_for(lambda: _all_ended(stack), 60, "the end of every row")
    assert statuses <= {"interrupted", "succeeded"}


def _all_ended(stack: Stack) -> set[str] | None:
    statuses = {r["status"] for r in stack.ask("requests", task="worker-kill", limit=5000)}
    return None if "started" in statuses else statuses


def test_a_stop_under_load_leaves_no_answered_request_without_its_row(kept: Stack, mock: Mock) -> None:
    """With two workers. test_ledger_modes.py does it with one."""
    kept.lm("up", "--workers", "2")
    stop_under_load(kept, mock)


def test_a_busy_port_is_refused_before_anything_is_touched(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    before = (stack.root / "litellm-config.yaml").read_text()
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        busy.bind(("127.0.0.1", stack.port))
        busy.listen()
        done = stack.lm("up", check=False)
    assert done.returncode == 1
    assert f"port {stack.port}" in done.stderr
    assert "lm up --port" in done.stderr
    assert "Traceback" not in done.stderr
    assert (stack.root / "litellm-config.yaml").read_text() == before
    assert stack.pids() == []


def test_render_check_notices_a_changed_env_and_diff_shows_why(stack: Stack, mock: Mock) -> None:
    stack.lm("render")
    assert stack.lm("render", "--check").returncode == 0
    stack.write_env(OPENAI_API_KEY="sk-test-openai-0123456789")
    assert stack.lm("render", "--check", check=False).returncode == 3
    diff = stack.lm("render", "--diff", check=False)
    assert diff.returncode == 3
    assert "+  - model_name: gpt-4o-mini" in diff.stdout
    assert "sk-test" not in diff.stdout


def test_logs_are_filtered_by_level_and_call_id(gateway: Stack) -> None:
    gateway.post(CHAT, {"model": "gpt-17", "messages": HELLO})
    everything = gateway.lm("logs").stdout
    errors = gateway.lm("logs", "--level", "ERROR").stdout
    assert 0 < len(errors.splitlines()) < len(everything.splitlines())
    assert gateway.lm("logs", "--call-id", "no-such-call").stdout == ""
    assert len(gateway.lm("logs", "--tail", "3").stdout.splitlines()) <= 6  # three a service
    assert gateway.lm("logs", "--since", "1h").stdout


def test_usage_requests_and_events_read_the_ledger(gateway: Stack) -> None:
    call = gateway.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, x_task_id="report").headers[
        "x-litellm-call-id"
    ]
    gateway.row(call)
    usage = gateway.json("usage", "--by", "task")["data"]
    assert next(r for r in usage["rows"] if r["name"] == "report")["requests"] == 1
    one = gateway.json("request", call)["data"]
    assert one["request"]["task_id"] == "report"
    assert len(one["attempts"]) == 1
    states = wait_for(lambda: {r["state"]: r["events"] for r in gateway.json("events", "status")["data"]["states"]})
    assert states["delivered"] > 0
    for words in (("usage",), ("requests",), ("request", call), ("events", "status"), ("events", "list")):
        assert gateway.lm(*words).stdout.strip(), words


def test_start_script_works_from_a_fresh_clone(tmp_path: object) -> None:
    """Check the script with a ready .venv. The whole set-up takes minutes and is CI's first step."""
    if not (ROOT / ".venv" / "lmstack-stamp").exists():
        pytest.skip("this checkout was not set up by start-litellm.sh")
    began = time.monotonic()
    subprocess.run(["./start-litellm.sh", "--setup-only"], cwd=ROOT, env=clean_environ(ROOT), check=True, timeout=60)
    assert time.monotonic() - began < 30
    assert free_port()


def proxy_pid(stack: Stack) -> int:
    services = stack.json("status")["data"]["services"]
    return next((s["pid"] or 0 for s in services if s["name"] == "litellm-proxy"), 0)


def _answers(stack: Stack) -> bool:
    try:
        return stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}).status_code == 200
    except httpx.HTTPError:
        return False
