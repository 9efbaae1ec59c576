"""What keys cost: CPU of a request with a key, with limits, and beside 10,000 other keys, against LiteLLM's own check.

``python -m bench.keys [ROUNDS]``. Rounds are short and interleaved. A figure is the CPU time of the workers, user and system,
out of /proc. A ratio is the median over the rounds, with its interval of 95 % (bootstrap).
"""

import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import psutil

from bench.proxies import KINDS, Proxy, load, start, stop, upstream
from lmstack.keys.secret import digest, new_secret
from lmstack.ledger import keys
from lmstack.ledger.schema import connect
from support import KEY, wait_for

MANY, USED = 10_000, 500  # keys beside the first one, and those of them that the requests use one after the other
LIMITS = {"rpm": 1_000_000, "tpm": 1_000_000_000, "parallel": 1000}
BUDGETS = {"budgets": {"day": 1e6, "month": 1e6}}
PLAIN = (False, 8)
REQUESTS = 80  # in a round, about a second
STOCK, OURS, ONE = "the master key, checked by LiteLLM", "the master key, checked by lmstack", "a key"
FEW, BESIDE, TURNS = "the only key", f"a key beside {MANY:,} others", f"{USED} of {MANY:,} keys, one after the other"
Found = dict[str, list[float]]


def costs(rounds: int) -> list[str]:
    """Return two Markdown tables: what our check costs against LiteLLM's own, and what the number of keys costs."""
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        places = {name: Path(folder) / name for name in ("stock", "ours", "many")}
        kinds = {"stock": "stock-auth", "ours": "ours", "many": "ours"}
        proxies = {name: start(KINDS[kinds[name]], place, base) for name, place in places.items()}
        try:
            ours = proxies["ours"]
            ways = {
                STOCK: (proxies["stock"], [KEY]),
                OURS: (ours, [KEY]),
                ONE: (ours, made_keys(ours, places["ours"], 1, {})),
                "a key with rpm, tpm and parallel": (ours, made_keys(ours, places["ours"], 1, LIMITS)),
                "a key with budgets for a day and a month": (ours, made_keys(ours, places["ours"], 1, BUDGETS)),
            }
            lines = _table(_rounds(ways, rounds), "the first row")
            return [*lines, "", *_table(_few_and_many(proxies["many"], places["many"], rounds), "the first row")]
        finally:
            stop(list(proxies.values()))


def _rounds(ways: dict[str, tuple[Proxy, list[str]]], rounds: int) -> Found:
    """Return the CPU milliseconds of a request in each round. Every round begins with another of the ways."""
    found: Found = {name: [] for name in ways}
    for n in range(rounds + 1):
        order = list(ways.items())
        for name, (proxy, secrets) in order[n % len(order) :] + order[: n % len(order)]:
            used = _cpu_of(proxy, secrets)
            found[name] += [used] if n else []  # the first is the warm-up
    return found


def _few_and_many(proxy: Proxy, folder: Path, rounds: int) -> Found:
    """Return the same for one process that knows one key, and then 10,001, one after the other. Two processes differ by some per cent."""
    found: Found = {FEW: [], BESIDE: [], TURNS: []}
    [first] = made_keys(proxy, folder, 1, {})
    others = made_keys(proxy, folder, MANY, {})
    with closing(connect(folder / "litellm.db")) as conn:
        conn.execute("PRAGMA busy_timeout = 10000")
        conn.execute("CREATE TEMP TABLE kept AS SELECT * FROM keys WHERE version > 1")
        conn.execute(
            "CREATE TEMP TABLE kept_secrets AS SELECT * FROM key_secrets WHERE key_id IN (SELECT id FROM kept)"
        )
        for n in range(rounds + 1):
            took: dict[str, float] = {}
            for is_many in (True, False) if n % 2 else (False, True):
                _switch(conn, is_many)
                wait_for(lambda many=is_many: _is_known(proxy, others[-1]) is many, 30, "the keys")  # type: ignore[misc]
                took[BESIDE if is_many else FEW] = _cpu_of(proxy, [first])
                if is_many:
                    took[TURNS] = _cpu_of(proxy, others[-USED:])
            for name, used in took.items():
                found[name] += [used] if n else []
    return found


def _switch(conn: sqlite3.Connection, is_many: bool) -> None:
    """Put the other keys into the ledger, or take them out. A version that is lower than before makes a worker read all keys."""
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("DELETE FROM key_secrets WHERE key_id IN (SELECT id FROM kept)")
    conn.execute("DELETE FROM keys WHERE id IN (SELECT id FROM kept)")
    if is_many:
        conn.execute("INSERT INTO keys SELECT * FROM kept")
        conn.execute("INSERT INTO key_secrets SELECT * FROM kept_secrets")
    conn.execute("UPDATE key_version SET version = ?", (MANY + 1 if is_many else 1,))
    conn.execute("COMMIT")


def _cpu_of(proxy: Proxy, secrets: list[str]) -> float:
    """Send a round of requests and return the CPU milliseconds of one."""
    before = _workers_cpu(proxy)
    asyncio.run(load(proxy.port, PLAIN, REQUESTS, keys=secrets))
    return (_workers_cpu(proxy) - before) * 1000 / REQUESTS


def _workers_cpu(proxy: Proxy) -> float:
    """Return the CPU seconds of the workers: of all threads, in nanoseconds, where the kernel counts them so."""
    total = 0.0
    for process in proxy.process.children(recursive=True):
        with suppress(psutil.Error, OSError):
            tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
            total += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    return total or proxy.cpu()


def _table(cpu: Found, to: str) -> list[str]:
    lines = [f"| a request with | CPU ms | ratio to {to} | 95 % interval |", "|---|--:|--:|--:|"]
    base = next(iter(cpu.values()))
    for name, these in cpu.items():
        ratios = [a / b for a, b in zip(these, base, strict=True)]
        low, high = interval(ratios, statistics.median)
        lines.append(
            f"| {name} | {statistics.median(these):.2f} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} |"
        )
    return lines


def interval(
    found: Sequence[float], figure: Callable[[Sequence[float]], float], times: int = 2000
) -> tuple[float, float]:
    """Return the bounds between which ``figure`` is in 95 of 100 samples that are drawn out of ``found`` again."""
    dice = random.Random(1)  # noqa: S311 - no secret
    drawn = sorted(figure(dice.choices(found, k=len(found))) for _ in range(times))
    return drawn[int(times * 0.025)], drawn[int(times * 0.975)]


def made_keys(proxy: Proxy, folder: Path, count: int, limits: dict[str, object]) -> list[str]:
    """Make keys in a running proxy's ledger, and return their secrets once it knows them."""
    secrets = [new_secret() for _ in range(count)]
    with closing(connect(folder / "litellm.db")) as conn:
        conn.execute("PRAGMA busy_timeout = 10000")
        for number, secret in enumerate(secrets):
            keys.change(
                conn, "create", "bench", 0.0, f"{number}-{digest(secret)[:8]}", limits=limits, hash=digest(secret)
            )
    wait_for(lambda: _is_known(proxy, secrets[-1]), 30, "the keys")
    return secrets


def _is_known(proxy: Proxy, secret: str) -> bool:
    try:
        proxy.round((False, 1), 1, keys=[secret])
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    print("\n".join(costs(int(sys.argv[1]) if len(sys.argv) > 1 else 60)))
