"""What our side costs: interleaved rounds against three proxies, figures as ratios. ``make bench``, about ten minutes.

ours: as `lm up` runs it. flags: the same configuration and switches without our callback and hook. quickstart: stock
LiteLLM with a minimal config and no switches, as its own quickstart starts it. One llmock serves all three; CPU time
is that of the proxy's process, the fair figure on a shared machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lmstack.plan import STOCK_ENVIRON  # noqa: E402
from support import KEY, Mock, clean_environ, free_port, wait_for  # noqa: E402 - the path was just added

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "150"))
SHAPES = [(stream, connections) for stream in (False, True) for connections in (1, 16)]


@dataclass
class Proxy:
    """One proxy under test and its samples: shape -> (requests/s, CPU ms a request, p50 ms, p99 ms)."""

    name: str
    port: int
    process: psutil.Process
    samples: dict[tuple[bool, int], list[tuple[float, float, float, float]]] = field(default_factory=dict)

    def round(self, stream: bool, connections: int) -> None:
        """One sample of one shape."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}], "stream": stream}
        with httpx.Client(trust_env=False, timeout=60, headers={"authorization": f"Bearer {KEY}"}) as client:

            def one(_: int) -> float:
                began = time.perf_counter()
                client.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body).raise_for_status()
                return (time.perf_counter() - began) * 1000

            before, began = self.process.cpu_times(), time.perf_counter()
            with ThreadPoolExecutor(connections) as pool:
                times = sorted(pool.map(one, range(REQUESTS)))
            took, after = time.perf_counter() - began, self.process.cpu_times()
        cpu = (after.user + after.system - before.user - before.system) * 1000 / REQUESTS
        sample = (REQUESTS / took, cpu, times[len(times) // 2], times[int(len(times) * 0.99)])
        self.samples.setdefault((stream, connections), []).append(sample)


def main() -> None:
    """Start the three, interleave the rounds, print the table."""
    mock, started = Mock(), []
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
        try:
            proxies = [start(kind, Path(folder) / kind, mock) for kind in ("ours", "flags", "quickstart")]
            started = [p.process for p in proxies]
            for proxy in proxies:  # warm up
                proxy.round(False, 4)
                proxy.round(True, 4)
                proxy.samples.clear()
            for n in range(ROUNDS):
                for shape in SHAPES:
                    for proxy in proxies[n % 3 :] + proxies[: n % 3]:
                        proxy.round(*shape)
            report(proxies)
        finally:
            for process in started:
                process.terminate()
            psutil.wait_procs(started, 30)
            mock.stop()


def start(kind: str, folder: Path, mock: Mock) -> Proxy:
    """Start one proxy and wait until it answers."""
    folder.mkdir()
    port = free_port()
    env = {
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_API_BASE": f"{mock.url}/v1",
        "LITELLM_MASTER_KEY": KEY,
        "LEDGER_PATH": str(folder / "litellm.db"),
    }
    if kind == "quickstart":
        params = {"model": "openai/gpt-4o-mini", "api_key": "os.environ/OPENAI_API_KEY", "api_base": f"{mock.url}/v1"}
        config = {
            "model_list": [{"model_name": "gpt-4o-mini", "litellm_params": params}],
            "general_settings": {"master_key": KEY},
        }
    else:
        setup = clean_environ(folder, **env, LITELLM_RUNTIME="local")
        for words in (["init"], ["render"]):
            subprocess.run(
                [sys.executable, "-m", "lmstack", *words, "-C", str(folder)], env=setup, check=True, capture_output=True
            )
        config = yaml.safe_load((folder / "litellm-config.yaml").read_text())
        env |= STOCK_ENVIRON
        if kind == "flags":
            del config["litellm_settings"]["callbacks"]
            del env["LITELLM_WORKER_STARTUP_HOOKS"]
    (folder / "litellm-config.yaml").write_text(yaml.safe_dump(config))
    argv = [
        str(Path(sys.executable).with_name("litellm")),
        "--config",
        str(folder / "litellm-config.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, env=clean_environ(folder, **env), stdout=log, stderr=log)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health/liveliness", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(answers, 120, kind)
    return Proxy(kind, port, psutil.Process(process.pid))


def report(proxies: list[Proxy]) -> None:
    """Medians of the per-round ratios to quickstart, and to our flags without our side."""
    print(f"{os.cpu_count()} cores, {ROUNDS} interleaved rounds of {REQUESTS} requests; ratios are medians over rounds")
    print(
        f"{'shape':24} {'ours: rps':>10} {'cpu ms':>7} {'p50 ms':>7} {'p99 ms':>7} | cpu vs flags, rps vs flags | cpu vs quickstart, rps vs quickstart"
    )
    by_name = {p.name: p for p in proxies}
    for shape in SHAPES:
        ours = by_name["ours"].samples[shape]
        mid = [statistics.median(column) for column in zip(*ours, strict=True)]
        cells = []
        for other in ("flags", "quickstart"):
            theirs = by_name[other].samples[shape]
            cpu = statistics.median(a[1] / b[1] for a, b in zip(ours, theirs, strict=True))
            rps = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
            cells.append(f"x{cpu:.2f}, x{rps:.2f}")
        label = f"{'stream' if shape[0] else 'plain'}, {shape[1]} connections"
        print(f"{label:24} {mid[0]:10.0f} {mid[1]:7.2f} {mid[2]:7.1f} {mid[3]:7.1f} | {cells[0]:26} | {cells[1]}")


if __name__ == "__main__":
    main()
