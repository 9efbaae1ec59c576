"""What keys cost: CPU of a request with one key, with 10,000 keys, and with limits, against LiteLLM's own check.

``python -m bench.keys [ROUNDS]``. The rounds of all are interleaved. Each figure is the CPU time of the whole process tree.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from bench.proxies import KINDS, Proxy, start, stop, upstream
from lmstack.keys.secret import digest, new_secret
from lmstack.ledger import keys
from lmstack.ledger.schema import connect
from support import KEY, wait_for

MANY, USED = 10_000, 500  # keys in the ledger, and those that the requests use one after the other
LIMITS = {"rpm": 1_000_000, "tpm": 1_000_000_000, "parallel": 1000}
BUDGETS = {"budgets": {"day": 1e6, "month": 1e6}}
PLAIN = (False, 8)


def costs(rounds: int = 12, requests: int = 200) -> list[str]:
    """Return a Markdown table with a row for each way to authenticate, against LiteLLM's own check of the master key."""
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        names = ("stock-auth", "ours", "ours")
        proxies = [start(KINDS[name], Path(folder) / str(place), base) for place, name in enumerate(names)]
        try:
            stock, one, many = proxies
            ways = {
                "the master key, checked by LiteLLM": (stock, [KEY]),
                "the master key, checked by lmstack": (one, [KEY]),
                "one key": (one, _made(one, Path(folder) / "1", 1, {})),
                f"{MANY:,} keys": (many, _made(many, Path(folder) / "2", MANY, {})[-USED:]),
                "a key with rpm, tpm and parallel": (one, _made(one, Path(folder) / "1", 1, LIMITS)),
                "a key with budgets for a day and a month": (one, _made(one, Path(folder) / "1", 1, BUDGETS)),
            }
            return _table(ways, rounds, requests)
        finally:
            stop(proxies)


def _table(ways: dict[str, tuple[Proxy, list[str]]], rounds: int, requests: int) -> list[str]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds + 1):
        order = list(ways.items())
        for name, (proxy, secrets) in order[n % len(order) :] + order[: n % len(order)]:
            sample = proxy.round(PLAIN, requests, keys=secrets)
            found[name] += [sample.cpu] if n else []  # the first is the warm-up
    base, single = next(iter(found.values())), found["one key"]
    lines = [
        "| a request with | CPU ms | ratio to the first row | ratio to one key | quartiles of that |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, cpu in found.items():
        to_base = statistics.median(a / b for a, b in zip(cpu, base, strict=True))
        to_one = statistics.quantiles([a / b for a, b in zip(cpu, single, strict=True)], n=4)
        lines.append(f"| {name} | {statistics.median(cpu):.2f} | {to_base:.3f} | {to_one[1]:.3f} | {to_one[0]:.2f} to {to_one[2]:.2f} |")  # fmt: skip
    return lines


def _made(proxy: Proxy, folder: Path, count: int, limits: dict[str, object]) -> list[str]:
    """Make keys in a running proxy's ledger, and return their secrets once it knows them."""
    secrets = [new_secret() for _ in range(count)]
    conn = connect(folder / "litellm.db")
    conn.execute("PRAGMA busy_timeout = 10000")
    for number, secret in enumerate(secrets):
        keys.change(conn, "create", "bench", 0.0, f"{number}-{digest(secret)[:8]}", limits=limits, hash=digest(secret))
    conn.close()
    wait_for(lambda: _is_known(proxy, secrets[-1]), 30, "the keys")
    return secrets


def _is_known(proxy: Proxy, secret: str) -> bool:
    try:
        proxy.round((False, 1), 1, keys=[secret])
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    print("\n".join(costs(int(sys.argv[1]) if len(sys.argv) > 1 else 12)))
