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
STOCK, OURS, ONE = "the master key, checked by LiteLLM", "the master key, checked by lmstack", "one key"
MASTER_OF_MANY = f"the master key, beside {MANY:,} keys"


def costs(rounds: int = 12, requests: int = 200) -> list[str]:
    """Return two Markdown tables: what our check costs against LiteLLM's own, and what the number of keys costs."""
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        places = {name: Path(folder) / name for name in ("stock", "one", "many")}
        kinds = {"stock": "stock-auth", "one": "ours", "many": "ours"}
        proxies = {name: start(KINDS[kinds[name]], place, base) for name, place in places.items()}
        try:
            single, thousands = (
                _made(proxies["one"], places["one"], 1, {}),
                _made(proxies["many"], places["many"], MANY, {}),
            )
            ways = {
                STOCK: (proxies["stock"], [KEY]),
                OURS: (proxies["one"], [KEY]),
                ONE: (proxies["one"], single),
                "a key with rpm, tpm and parallel": (proxies["one"], _made(proxies["one"], places["one"], 1, LIMITS)),
                "a key with budgets for a day and a month": (proxies["one"], _made(proxies["one"], places["one"], 1, BUDGETS)),
                MASTER_OF_MANY: (proxies["many"], [KEY]),
                f"one of {MANY:,} keys": (proxies["many"], thousands[-1:]),
                f"{USED} of {MANY:,} keys, one after the other": (proxies["many"], thousands[-USED:]),
            }  # fmt: skip
            return _tables(_rounds(ways, rounds, requests))
        finally:
            stop(list(proxies.values()))


def _rounds(ways: dict[str, tuple[Proxy, list[str]]], rounds: int, requests: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds of a request in each round. Every round begins with another of the ways."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds + 1):
        order = list(ways.items())
        for name, (proxy, secrets) in order[n % len(order) :] + order[: n % len(order)]:
            sample = proxy.round(PLAIN, requests, keys=secrets)
            found[name] += [sample.cpu] if n else []  # the first is the warm-up
    return found


def _tables(cpu: dict[str, list[float]]) -> list[str]:
    lines = ["| a request with | CPU ms | ratio to the first row | quartiles of the ratio |", "|---|--:|--:|--:|"]
    names = list(cpu)
    for name in names[: names.index(MASTER_OF_MANY)]:
        lines.append(f"| {name} | {statistics.median(cpu[name]):.2f} | {_ratio(cpu[name], cpu[STOCK])} |")
    lines += ["", "| a request with | CPU ms | ratio to one key | quartiles of the ratio |", "|---|--:|--:|--:|"]
    # Two processes differ by some per cent. So each figure is compared with the master key in the same process.
    own = [key / master for key, master in zip(cpu[ONE], cpu[OURS], strict=True)]
    for name in names[names.index(MASTER_OF_MANY) + 1 :]:
        other = [key / master for key, master in zip(cpu[name], cpu[MASTER_OF_MANY], strict=True)]
        lines.append(f"| {name} | {statistics.median(cpu[name]):.2f} | {_ratio(other, own)} |")
    return lines


def _ratio(these: list[float], those: list[float]) -> str:
    """Return the median of the ratios of each round, and their quartiles, as cells."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(these, those, strict=True)], n=4)
    return f"{middle:.3f} | {low:.2f} to {high:.2f}"


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
