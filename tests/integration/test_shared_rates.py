"""Two gateways that share a Redis, with ledgers out of the same backup: one key has one limit over both."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lmstack.keys.secret import digest, new_secret
from lmstack.ledger import keys
from lmstack.ledger.schema import connect
from support import Mock, RedisServer, Stack, redis_server, running, wait_for

pytestmark = pytest.mark.exhaustive
CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}
LIMITS: dict[str, dict[str, Any]] = {
    "rpm": {"rpm": 10}, "tpm": {"tpm": 60}, "parallel": {"parallel": 2}, "killed": {"parallel": 2}, "stopped": {"rpm": 5}, "plain": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis"), secrets.token_hex(8)) as made:
        yield made


@pytest.fixture(scope="module")
def hosts(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory, mock: Mock) -> Iterator[tuple[Stack, Stack, dict[str, str]]]:  # fmt: skip
    """Start two gateways. The ledger of the second one is a backup of the first one's."""
    env = {**mock.bases(), "REDIS_URL": redis.url}
    with running(tmp_path_factory.mktemp("one"), LITELLM_WORKERS="2", **env) as one:
        made = {name: new_secret() for name in LIMITS}
        conn = connect(one.ledger)
        for name, secret in made.items():
            keys.change(conn, "create", "test", 0.0, name, limits=LIMITS[name], hash=digest(secret))
        conn.close()
        kept = one.root / "kept.tar.gz"
        one.lm("backup", str(kept))
        second = tmp_path_factory.mktemp("two")
        two = Stack(second, 0, {"LITELLM_RUNTIME": "local"})
        two.lm("init", "--dir", str(second))
        two.lm("restore", str(kept), "--yes")
        with running(second, **env) as two:
            for stack in (one, two):
                wait_for(lambda stack=stack: all(_knows(stack, made["plain"]) for _ in range(6)), 10, "the keys")  # type: ignore[misc]
            yield one, two, made


def _knows(stack: Stack, secret: str) -> bool:
    return httpx.get(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {secret}"}, trust_env=False).status_code == 200  # fmt: skip


Hosts = tuple[Stack, Stack, dict[str, str]]


def statuses(hosts: Hosts, name: str, times: int) -> list[int]:
    """Send requests to both hosts in turn, and return their statuses."""
    return [hosts[number % 2].post(CHAT, BODY, hosts[2][name]).status_code for number in range(times)]


def test_both_hosts_admit_together_what_one_may(hosts: Hosts, mock: Mock) -> None:
    mock.reset()
    assert sorted(statuses(hosts, "rpm", 16)) == [200] * 10 + [429] * 6
    assert len(mock.requests()) == 10
    refused = hosts[1].post(CHAT, BODY, hosts[2]["rpm"])
    assert (refused.status_code, refused.json()["error"]["limit"]["used"]) == (429, 10)
    own = httpx.get(f"{hosts[0].url}/me/usage", headers={"authorization": f"Bearer {hosts[2]['rpm']}"}, trust_env=False)
    assert own.json()["rates"]["rpm"] == {"limit": 10, "used": 10}


def test_the_tokens_of_both_hosts_are_one_sum(hosts: Hosts, mock: Mock) -> None:
    mock.reset()
    answers = statuses(hosts, "tpm", 20)
    assert answers[-2:] == [429, 429]
    rows = [row for stack in hosts[:2] for row in stack.ask("requests", limit=1000) if row["key_alias"] == "tpm"]
    served = [
        (row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0) for row in rows if row["status"] == "succeeded"
    ]
    assert 60 <= sum(served) < 60 + max(served), served


def _stream(stack: Stack, secret: str, stop: threading.Event, began: threading.Event) -> threading.Thread:
    """Open a stream and keep it open until ``stop`` is set, or the gateway is gone."""

    def run() -> None:
        try:
            with httpx.stream("POST", stack.url + CHAT, json={**BODY, "stream": True}, headers={"authorization": f"Bearer {secret}"}, trust_env=False, timeout=60) as answer:  # fmt: skip
                parts = answer.iter_raw()
                next(parts)
                began.set()
                stop.wait(50)
        except httpx.HTTPError:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    assert began.wait(20)
    return thread


STALL = {"type": "stream_fault", "kind": "stall", "stall_seconds": 40, "after_chunks": 1, "times": 1}


def test_an_open_stream_at_one_host_counts_at_the_other_until_it_ends(hosts: Hosts, mock: Mock) -> None:
    one, two, made = hosts
    mock.reset()
    mock.script(STALL, STALL)
    stop = threading.Event()
    streams = [_stream(stack, made["parallel"], stop, threading.Event()) for stack in (one, two)]
    refused = [stack.post(CHAT, BODY, made["parallel"]) for stack in (one, two)]
    assert [(answer.status_code, answer.json()["error"]["limit"]["kind"]) for answer in refused] == [
        (429, "parallel")
    ] * 2
    stop.set()
    for stream in streams:
        stream.join(20)
    wait_for(lambda: two.post(CHAT, BODY, made["parallel"]).status_code == 200, 10, "the end of the streams")


def test_a_redis_that_is_stopped_leaves_each_host_its_own_count(hosts: Hosts, redis: RedisServer, mock: Mock) -> None:
    one, two, made = hosts
    mock.reset()
    one.post(CHAT, BODY, made["stopped"])
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        times = []
        for _ in range(12):
            began = time.monotonic()
            two.post(CHAT, BODY, made["stopped"])
            times.append(time.monotonic() - began)
        assert two.post(CHAT, BODY, made["stopped"]).status_code == 429
        assert len(mock.requests()) == 1 + 5
        assert max(times) < 2.0, times  # LiteLLM's own look at the cooldowns is a part of it
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    log = "".join(path.read_text(errors="replace") for path in (two.root / "logs").glob("*.log"))
    assert log.count("Each host counts its own") == 1
    assert redis.password not in log
    # Redis has not seen what the second host admitted meanwhile, so it lets the first one have what is left of its count.
    used = wait_for(lambda: _used(two, made["stopped"]) < 5, 20, "Redis counts again")
    assert used


def _used(stack: Stack, secret: str) -> int:
    answer = httpx.get(f"{stack.url}/me/usage", headers={"authorization": f"Bearer {secret}"}, trust_env=False)
    return int(answer.json()["rates"]["rpm"]["used"])


def test_the_open_requests_of_a_killed_host_end(hosts: Hosts, mock: Mock) -> None:
    one, two, made = hosts
    mock.reset()
    mock.script(STALL, STALL)
    stop = threading.Event()
    streams = [_stream(two, made["killed"], stop, threading.Event()) for _ in range(2)]
    assert one.post(CHAT, BODY, made["killed"]).status_code == 429
    for pid in two.pids():
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: one.post(CHAT, BODY, made["killed"]).status_code == 200, 30, "the leases of the dead host")
    assert time.monotonic() - began < 15
    stop.set()
    for stream in streams:
        stream.join(20)
