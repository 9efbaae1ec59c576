"""Fifty keys with different limits under mixed load, over two workers, and two of them are killed.

No limit is passed by more than the requests in hand, and no key without a limit is refused. The figures are in docs/keys.md.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lmstack.keys.secret import digest, new_secret
from lmstack.ledger import keys
from lmstack.ledger.schema import connect
from support import Mock, Stack, running, wait_for

CLIENTS = 2  # of each key
SECONDS = 45.0
HELLO = [{"role": "user", "content": "Hello!"}]
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO}),
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}),
    ("/v1/messages", {"model": "claude-3-haiku", "messages": HELLO, "max_tokens": 20}),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Hello!"}),
)
LIMITS: tuple[dict[str, Any], ...] = tuple(
    kind | {"agent": f"agent-{number}"}
    for number in range(10)
    for kind in (
        {}, {"rpm": 2 + number // 2}, {"parallel": 1}, {"tpm": 20 + 10 * number}, {"budgets": {"day": 0.00001 * (number + 1), "month": 1.0}},
    )
)  # fmt: skip

pytestmark = pytest.mark.campaign


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, mock: Mock) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("campaign"), LITELLM_WORKERS="2", **mock.bases()) as made:
        yield made


def make_keys(stack: Stack) -> dict[str, tuple[str, dict[str, Any]]]:
    """Make a key for each of LIMITS. Return secret and limits by name."""
    made = {f"k{number}-{secrets.token_hex(3)}": (new_secret(), limits) for number, limits in enumerate(LIMITS)}
    conn = connect(stack.ledger)
    for name, (secret, limits) in made.items():
        keys.change(conn, "create", "test", 0.0, name, limits=limits, hash=digest(secret))
    conn.close()
    return made


async def use(stack: Stack, secret: str, stop: threading.Event, seen: "Counter[str]") -> None:
    """Send one request after the other with a key, each kind in turn."""
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60, trust_env=False) as client:
        for path, body in itertools.cycle(CALLS):
            if stop.is_set():
                return
            try:
                answer = await client.post(path, json=body)
                seen[str(answer.status_code)] += 1
                if answer.status_code == 429:
                    await asyncio.sleep(0.2)
            except httpx.HTTPError as error:
                seen[type(error).__name__] += 1


async def load(stack: Stack, made: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, "Counter[str]"]:
    """Use all keys at a time for SECONDS. Kill a worker after a third of the time, and another after two thirds."""
    stop, seen = threading.Event(), {name: Counter[str]() for name in made}
    users = [asyncio.create_task(use(stack, secret, stop, seen[name])) for name, (secret, _) in made.items() for _ in range(CLIENTS)]  # fmt: skip
    for _ in range(2):
        await asyncio.sleep(SECONDS / 3)
        await asyncio.to_thread(kill_a_worker, stack)
    await asyncio.sleep(SECONDS / 3)
    stop.set()
    await asyncio.gather(*users)
    return seen


def kill_a_worker(stack: Stack) -> None:
    workers = wait_for(lambda: [w["pid"] for w in stack.json("status")["data"]["workers"]], 60, "workers")
    os.kill(workers[0], signal.SIGKILL)


def most_at_a_time(rows: list[dict[str, Any]]) -> int:
    """Return how many requests ran at a time. What a killed worker left open has no end of its own."""
    whole = [row for row in rows if row["status"] != "interrupted"]
    ends = sorted([(row["started_at"], 1) for row in whole] + [(row["started_at"] + row["latency_ms"] / 1000, -1) for row in whole])  # fmt: skip
    return max(itertools.accumulate(change for _, change in ends), default=0)


def most_in_a_minute(rows: list[dict[str, Any]], amount: Any) -> float:
    """Return the largest sum of ``amount(row)`` over the rows that began within 60 seconds."""
    rows = sorted(rows, key=lambda row: row["started_at"])
    return max((sum(amount(b) for b in rows[place:] if b["started_at"] < a["started_at"] + 60) for place, a in enumerate(rows)), default=0)  # fmt: skip


def test_fifty_keys_two_workers_two_kills(two: Stack, mock: Mock, capsys: pytest.CaptureFixture[str]) -> None:
    mock.reset()
    made = make_keys(two)
    wait_for(lambda: _serves(two, made), 10, "the keys")
    seen = asyncio.run(load(two, made))
    wait_for(
        lambda: all(row["status"] != "started" for row in two.ask("requests", limit=1000)), 60, "the end of all rows"
    )
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
    for row in two.ask("requests", limit=1_000_000):
        if row["key_alias"] in rows and row["status"] != "rejected":
            rows[row["key_alias"]].append(row)
    worst, refused = Counter[str](), Counter[str]()
    reserved = _reserved(two)
    for name, (_, limits) in made.items():
        own = rows[name]
        refused[next(iter(limits))] += seen[name]["429"]
        assert {row["agent_id"] for row in own} <= {limits["agent"]}
        if "rpm" in limits:
            assert most_in_a_minute(own, lambda row: 1) <= limits["rpm"]
        elif "parallel" in limits:
            assert most_at_a_time(own) <= limits["parallel"]
        elif "tpm" in limits:
            used, largest = most_in_a_minute(own, _tokens), max(map(_tokens, own))
            worst["tokens above the limit"] = max(worst["tokens above the limit"], int(used) - limits["tpm"])
            assert used <= limits["tpm"] + CLIENTS * largest
        elif "budgets" in limits:
            costs = {row["id"]: row["cost_usd"] or 0.0 for row in own}
            spent, dearest = sum(costs.values()), max(costs.values())
            # Only the last one that is admitted may pass the limit. What costs more than it has reserved comes on top.
            underestimated = sum(max(0.0, cost - reserved.get(id_, 0.0)) for id_, cost in costs.items())
            above = 100 * (spent / limits["budgets"]["day"] - 1)
            worst["per cent above a budget"] = max(worst["per cent above a budget"], int(above))
            worst["requests that cost more than they reserved"] += sum(
                cost > reserved.get(id_, 0.0) for id_, cost in costs.items()
            )
            assert spent < limits["budgets"]["day"] + dearest + underestimated, (name, costs)
        else:
            lost = seen[name].total() - seen[name]["200"]
            assert not {status for status in seen[name] if status in ("401", "403", "429")}, (name, seen[name])
            assert lost <= 2 * CLIENTS  # what a killed worker had in hand
    assert all(refused[kind] for kind in ("rpm", "parallel", "tpm", "budgets")), refused
    total = sum(seen.values(), Counter[str]())
    with capsys.disabled():
        print(
            f"\n{len(made)} keys, {total.total()} requests in {SECONDS:g} s: {dict(total)}; refused: {dict(refused)}; {dict(worst)}"
        )


def _reserved(stack: Stack) -> dict[str, float]:
    """Return the US dollars that each request has reserved. They stay in its row."""
    with contextlib.closing(connect(stack.ledger)) as conn:
        return {
            row[0]: row[1]
            for row in conn.execute("SELECT id, reserved_usd FROM requests WHERE reserved_usd IS NOT NULL")
        }


def _tokens(row: dict[str, Any]) -> int:
    return (row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0)


def _serves(stack: Stack, made: dict[str, tuple[str, dict[str, Any]]]) -> bool:
    last = list(made.values())[-1][0]
    found = [httpx.get(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {last}"}, trust_env=False) for _ in range(8)]  # fmt: skip
    return all(answer.status_code == 200 for answer in found)
