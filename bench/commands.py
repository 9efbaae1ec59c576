"""What the CLI costs: CPU and wall time of commands against `python -c pass`, interleaved; and from `lm up` to an answer."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx

from bench.ledger import fill
from bench.proxies import KINDS, start, stop, upstream
from support import KEY, Mock, Stack, clean_environ, free_port

LM = [sys.executable, "-m", "lmstack"]


def cli(rounds: int, rows: int) -> list[str]:
    """Return a Markdown table: median CPU and wall milliseconds of each command."""
    mock = Mock()
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
        stack = Stack(Path(folder), free_port(), {"LITELLM_RUNTIME": "local"})
        stack.lm("init", "--dir", folder)
        stack.write_env(**mock.bases())
        stack.lm("up")
        try:
            big = Path(folder) / "big"
            shutil.copytree(folder, big, ignore=shutil.ignore_patterns(".lmstack", "logs", "big"))
            (big / "logs").mkdir()
            fill(big / "logs" / "litellm.db", rows)
            commands = {
                "python -c pass": ([sys.executable, "-c", "pass"], folder),
                "lm --help": ([*LM, "--help"], folder),
                "lm up --help": ([*LM, "up", "--help"], folder),
                "lm models": ([*LM, "models"], folder),
                "lm health": ([*LM, "health"], folder),
                f"lm usage ({rows / 1e6:g} million rows)": ([*LM, "usage"], str(big)),
            }
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, (argv, cwd) in commands.items():
                    times[name].append(timed(argv, cwd))
        finally:
            stack.lm("down")
            mock.stop()
    lines = ["| command | CPU ms | wall ms |", "|---|--:|--:|"]
    for name, found in times.items():
        cpu, wall = (statistics.median(values) * 1000 for values in zip(*found, strict=True))
        lines.append(f"| `{name}` | {cpu:.0f} | {wall:.0f} |")
    return lines


def timed(argv: list[str], cwd: str) -> tuple[float, float]:
    """Run one command; return its CPU and wall seconds."""
    env = clean_environ(Path(cwd), LITELLM_RUNTIME="local")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, cwd=cwd, env=env, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def first_answer(rounds: int) -> list[str]:
    """Return the seconds from the command to the first answered request: `lm up` against the quickstart's own start."""
    ours: dict[str, list[float]] = {"1": [], "2": []}
    stock: list[float] = []
    with upstream() as base:
        for n in range(rounds):
            with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
                began = time.perf_counter()
                proxy = start(KINDS["quickstart"], Path(folder) / "q", base)
                _answered(proxy.port)
                stock.append(time.perf_counter() - began)
                stop([proxy])
            for workers, found in ours.items():
                with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
                    stack = Stack(Path(folder), free_port(), {"LITELLM_RUNTIME": "local"})
                    stack.lm("init", "--dir", folder)
                    stack.write_env(OPENAI_API_KEY="sk-test", OPENAI_API_BASE=base, LITELLM_WORKERS=workers)
                    began = time.perf_counter()
                    stack.lm("up")
                    _answered(stack.port)
                    found.append(time.perf_counter() - began)
                    stack.lm("down")
            print(f"round {n + 1}: stock {stock[-1]:.1f} s, ours {ours['1'][-1]:.1f} s, two workers {ours['2'][-1]:.1f} s", file=sys.stderr)  # fmt: skip
    lines = ["| start | seconds to the first answer | against stock |", "|---|--:|--:|"]
    for name, found in (("stock quickstart", stock), ("lm up", ours["1"]), ("lm up, two workers", ours["2"])):
        gap = statistics.median(a - b for a, b in zip(found, stock, strict=True))
        lines.append(f"| {name} | {statistics.median(found):.1f} | {gap:+.1f} |")
    return lines


def _answered(port: int) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}
    while True:
        with suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            if httpx.post(url, json=body, headers={"authorization": f"Bearer {KEY}"}, trust_env=False, timeout=60).status_code == 200:  # fmt: skip
                return


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    print("\n".join([*cli(7, 1_000_000), "", *first_answer(3)]))
