"""What a Redis adds to a request of a key with rates: time and CPU, against the counts of one host.

``python -m bench.shared_rates [ROUNDS]``. It needs redis-server. Rounds with and without Redis are interleaved.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.keys import LIMITS, PLAIN, made_keys
from bench.proxies import KINDS, load, start, stop, upstream
from lmstack.gateway.app import pace
from lmstack.gateway.app.routes import Access, Recorded, Route
from lmstack.gateway.rates import Rates
from lmstack.gateway.shared_rates import SharedRates, shared_from
from lmstack.keys.key import Key, KeyLimits
from support import RedisServer, redis_server

CALL = Route("POST", "/v1/chat/completions", Access.KEY, Recorded.HOOKS)
TIMES = 200  # in a round
ONE_BY_ONE = (False, 1)


def costs(rounds: int) -> list[str]:
    """Return two Markdown tables: only the gate, and whole requests through two gateways."""
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, redis_server(Path(folder), "bench") as redis:
        return [*asyncio.run(_alone(redis, Path(folder), rounds)), "", *_whole(redis, Path(folder), rounds)]


async def _alone(redis: RedisServer, folder: Path, rounds: int) -> list[str]:
    key, rates = Key(1, "k", KeyLimits(**LIMITS), shared_name="bench"), Rates(folder / "rates")  # type: ignore[arg-type]
    shared = shared_from({"REDIS_URL": redis.url})
    ways: dict[str, SharedRates | None] = {"the file of this host": None, "the file and Redis": shared}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, used in ways.items():
            began = time.process_time()
            times = [await _admitted(key, rates, used) for _ in range(TIMES)]
            await asyncio.sleep(0)
            if number:
                wall[name] += times
                cpu[name].append((time.process_time() - began) * 1000 / TIMES)
    if shared is not None:
        shared.close()
    lines = ["| counted in | ms, p50 | ms, p99 | CPU ms |", "|---|--:|--:|--:|"]
    return lines + [f"| {name} | {_middle_and_end(wall[name])} | {statistics.median(cpu[name]):.3f} |" for name in ways]


async def _admitted(key: Key, rates: Rates, shared: SharedRates | None) -> float:
    """Return the milliseconds that a request waits at the gate."""
    began = time.perf_counter()
    async with pace.admitted(key, CALL, rates, shared):
        waited = (time.perf_counter() - began) * 1000
    return waited


def _whole(redis: RedisServer, folder: Path, rounds: int) -> list[str]:
    with upstream() as base:
        kinds = {
            "the file of this host": KINDS["ours"],
            "the file and Redis": replace(KINDS["ours"], env=(("REDIS_URL", redis.url),)),
        }
        proxies = {name: start(kind, folder / str(number), base) for number, (name, kind) in enumerate(kinds.items())}
        try:
            keys = {
                name: made_keys(proxies[name], folder / str(number), 1, LIMITS) for number, name in enumerate(kinds)
            }
            times: dict[str, list[float]] = {name: [] for name in kinds}
            cpu: dict[str, list[float]] = {name: [] for name in kinds}
            for number in range(rounds + 1):
                for name in list(kinds)[:: 1 if number % 2 else -1]:
                    took = asyncio.run(load(proxies[name].port, ONE_BY_ONE, TIMES, keys=keys[name]))
                    used = proxies[name].round(PLAIN, TIMES, keys=keys[name]).cpu
                    if number:
                        times[name] += took
                        cpu[name].append(used)
        finally:
            stop(list(proxies.values()))
    lines = ["| a whole request, counted in | ms, p50 | ms, p99 | CPU ms |", "|---|--:|--:|--:|"]
    return lines + [
        f"| {name} | {_middle_and_end(times[name])} | {statistics.median(cpu[name]):.2f} |" for name in kinds
    ]


def _middle_and_end(times: list[float]) -> str:
    cuts = statistics.quantiles(times, n=100)
    return f"{cuts[49]:.2f} | {cuts[98]:.2f}"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        print("\n".join(costs(int(sys.argv[1]) if len(sys.argv) > 1 else 12)))
