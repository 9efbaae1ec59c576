"""What our side costs, and what the switches give: interleaved rounds against several proxies, figures as ratios.

``python -m bench.overhead [--quick] [KIND ...]``. One fast upstream serves all; CPU time is that of the proxy's whole
process tree, the fair figure on a shared machine. Only one proxy is asked at a time; the others wait.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lmstack.stack.plan import STOCK_ENVIRON  # noqa: E402
from support import KEY, clean_environ, free_port, wait_for  # noqa: E402 - the path was just added


@dataclass(frozen=True)
class Kind:
    """A way to start the proxy. ``ours``: with our configuration; ``side``: with our callback and hook."""

    name: str
    ours: bool = True
    side: bool = True
    toggle: bool = False  # our callback, which a request can switch off
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


TWO = ("--num_workers", "2")
SPAWN = ("--timeout_worker_healthcheck", "60")
GRANIAN = ("--run_granian",)
KINDS = {
    kind.name: kind
    for kind in (
        Kind("quickstart", ours=False, side=False),
        Kind("lm up", flags=(*GRANIAN, *TWO)),  # on two cores
        Kind("bare-2", side=False, flags=(*GRANIAN, *TWO)),  # our configuration and switches without our side
        Kind("ours", flags=GRANIAN),
        Kind("bare", side=False, flags=GRANIAN),
        Kind("toggle", toggle=True, flags=GRANIAN),
        Kind("uvicorn"),
        Kind("uvicorn-2", flags=(*TWO, *SPAWN)),
        Kind("gunicorn-2", flags=("--run_gunicorn", *TWO)),
        Kind("handler", flags=GRANIAN, env=(("EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", "True"),)),
        Kind("rust", flags=GRANIAN, env=(("LITELLM_RUST", "1"),)),
        Kind("info-log", flags=GRANIAN, env=(("LITELLM_LOG", "INFO"),)),
        Kind("no-aiohttp", flags=GRANIAN, env=(("DISABLE_AIOHTTP_TRANSPORT", "True"),)),
    )
}
# Our callback, which a request can switch off for itself: with and without it in one process, whose like no other is.
TOGGLE = """
from lmstack.gateway.calls.hooks import LedgerHandler
class Toggle(LedgerHandler):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if data.get("user") == "off":
            return None  # the other hooks find no call of ours, and do nothing
        return await super().async_pre_call_hook(user_api_key_dict, cache, data, call_type)
handler = Toggle()
"""
Shape = tuple[bool, int]
SHAPES: tuple[Shape, ...] = tuple((stream, connections) for stream in (False, True) for connections in (1, 16, 64))


@dataclass
class Sample:
    """One round of one shape: requests a second, CPU milliseconds a request, latencies in milliseconds."""

    rps: float
    cpu: float
    p50: float
    p99: float


@dataclass
class Proxy:
    """A running proxy and its samples."""

    kind: Kind
    port: int
    process: psutil.Process
    ready: float  # seconds from its start until it answered
    samples: dict[Shape, list[Sample]] = field(default_factory=dict)
    log: Path = Path()
    mb: float = 0.0  # resident, of the tree, after everything

    def cpu(self) -> float:
        """Seconds of the whole tree."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> float:
        """Megabytes of the whole tree, shared pages counted once for each."""
        return sum(p.memory_info().rss for p in (self.process, *self.process.children(recursive=True))) / 1e6

    def round(self, shape: Shape, requests: int, user: str = "on") -> Sample:
        """One sample. ``user`` "off": a toggle's callback does nothing for it."""
        before, began = self.cpu(), time.perf_counter()
        try:
            times = sorted(asyncio.run(load(self.port, shape, requests, user)))
        except (OSError, EOFError, RuntimeError) as error:
            raise RuntimeError(f"{self.kind.name}, {shape}: {error}; {(self.log).read_text()[-3000:]}") from None
        took = time.perf_counter() - began
        return Sample(
            requests / took, (self.cpu() - before) * 1000 / requests, times[len(times) // 2], times[int(len(times) * 0.99)]
        )  # fmt: skip


async def load(port: int, shape: Shape, requests: int, user: str = "on") -> list[float]:
    """That many requests over keep-alive connections; their latencies in milliseconds. Raises when one fails."""
    stream, connections = shape
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello!"}],"user":"%s","stream":%s}' % (user.encode(), b"true" if stream else b"false")  # fmt: skip
    text = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % (KEY.encode(), len(body))
    ) + body
    left = iter(range(requests))
    times: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            began = time.perf_counter()
            writer.write(text)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(head.decode())
            if b"transfer-encoding: chunked" in head:
                while (size := int(await reader.readuntil(b"\r\n"), 16)) or await reader.readexactly(2) is None:
                    await reader.readexactly(size + 2)
            else:
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            times.append((time.perf_counter() - began) * 1000)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return times


@contextmanager
def upstream() -> Iterator[str]:
    """The fast provider; gives its base address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.upstream", str(port)], cwd=ROOT)
    base = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(lambda: _posts(base), 20, "the upstream")
        yield base
    finally:
        process.terminate()
        process.wait(10)


def _posts(base: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.post(f"{base}/chat/completions", json={}, trust_env=False).status_code == 200
    return False


def start(kind: Kind, folder: Path, base: str) -> Proxy:
    """Start one proxy and wait until it answers."""
    folder.mkdir()
    port = free_port()
    env = {"OPENAI_API_KEY": "sk-test", "OPENAI_API_BASE": base, "LITELLM_MASTER_KEY": KEY, "LEDGER_PATH": str(folder / "litellm.db")}  # fmt: skip
    params = {"model": "openai/gpt-4o-mini", "api_key": "os.environ/OPENAI_API_KEY", "api_base": base}
    config = {"model_list": [{"model_name": "gpt-4o-mini", "litellm_params": params}], "general_settings": {"master_key": KEY}}  # fmt: skip
    if kind.ours:
        setup = clean_environ(folder, **env, LITELLM_RUNTIME="local")
        for words in (["init"], ["render"]):
            argv = [sys.executable, "-m", "lmstack", *words, "-C", str(folder)]
            subprocess.run(argv, env=setup, check=True, capture_output=True)
        config = yaml.safe_load((folder / "litellm-config.yaml").read_text())
        env |= STOCK_ENVIRON | dict(kind.env)
        if kind.toggle:
            (folder / "toggle.py").write_text(TOGGLE)
            config["litellm_settings"]["callbacks"] = ["toggle.handler"]
        elif not kind.side:
            del config["litellm_settings"]["callbacks"], env["LITELLM_WORKER_STARTUP_HOOKS"]
    (folder / "litellm-config.yaml").write_text(yaml.safe_dump(config))
    serve = [sys.executable, "-m", "lmstack.gateway.app.serve"] if kind.ours and set(GRANIAN) <= set(kind.flags) else [str(Path(sys.executable).with_name("litellm"))]  # fmt: skip
    argv = [*serve, "--config", str(folder / "litellm-config.yaml"), "--host", "127.0.0.1", "--port", str(port), *kind.flags]  # fmt: skip
    began = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, env=clean_environ(folder, **env), stdout=log, stderr=log)
    wait_for(lambda: _answers(port), 180, kind.name)
    return Proxy(kind, port, psutil.Process(process.pid), time.perf_counter() - began, log=folder / "log")


def _answers(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health/liveliness", trust_env=False).status_code == 200
    return False


def stop(proxies: list[Proxy]) -> None:
    """End every tree that was started."""
    trees = [p for proxy in proxies for p in (proxy.process, *proxy.process.children(recursive=True))]
    for process in trees:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(trees, 20)
    for process in alive:
        process.kill()


def measure(names: list[str], rounds: int, requests: int, shapes: tuple[Shape, ...] = SHAPES) -> list[Proxy]:
    """Start all, warm them up, interleave the rounds, stop all."""
    proxies: list[Proxy] = []
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        try:
            for name in names:
                proxies.append(start(KINDS[name], Path(folder) / name, base))
            for proxy in proxies:
                for stream in (False, True):
                    proxy.round((stream, 8), 60)
            for n in range(rounds):
                for shape in shapes:
                    shift = n % len(proxies)
                    for proxy in proxies[shift:] + proxies[:shift]:
                        proxy.samples.setdefault(shape, []).append(proxy.round(shape, requests))
            for proxy in proxies:
                proxy.mb = proxy.memory()
        finally:
            stop(proxies)
    return proxies


def _label(shape: Shape) -> str:
    return f"{'stream' if shape[0] else 'plain'}, {shape[1]}"


def same_process(rounds: int, requests: int, shapes: tuple[Shape, ...] = SHAPES) -> list[str]:
    """A Markdown table: CPU and latency of requests with our side and, in turn with them, without it, in one process.
    Medians over rounds; the ratio is the median of each pair's."""
    lines = [
        "| shape | CPU ms without | CPU ms with | CPU ratio | quartiles of the ratio | p50 ms without | p50 ms with |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        proxy = start(KINDS["toggle"], Path(folder) / "toggle", base)
        try:
            for shape in shapes:
                pairs = []
                for n in range(rounds + 1):
                    order = ("on", "off") if n % 2 else ("off", "on")
                    found = {user: proxy.round(shape, requests, user) for user in order}
                    pairs += [(found["off"], found["on"])] if n else []  # the first is the warm-up
                ratios = statistics.quantiles((b.cpu / a.cpu for a, b in pairs), n=4)
                mid = [
                    statistics.median(v) for v in zip(*((a.cpu, b.cpu, a.p50, b.p50) for a, b in pairs), strict=True)
                ]
                lines.append(f"| {_label(shape)} | {mid[0]:.2f} | {mid[1]:.2f} | {ratios[1]:.3f} | {ratios[0]:.2f} to {ratios[2]:.2f} | {mid[2]:.1f} | {mid[3]:.1f} |")  # fmt: skip
        finally:
            stop([proxy])
    return lines


def report(proxies: list[Proxy], against: str) -> list[str]:
    """A Markdown table: medians, and the median over rounds of each ratio to ``against``."""
    base = next(p for p in proxies if p.kind.name == against)
    lines = [
        "| shape | proxy | requests/s | p50 ms | p99 ms | CPU ms | requests/s ratio | CPU ratio |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for shape in base.samples:
        for proxy in proxies:
            own, theirs = proxy.samples[shape], base.samples[shape]
            mid = [statistics.median(values) for values in zip(*((s.rps, s.p50, s.p99, s.cpu) for s in own), strict=True)]  # fmt: skip
            rps = statistics.median(a.rps / b.rps for a, b in zip(own, theirs, strict=True))
            cpu = statistics.median(a.cpu / b.cpu for a, b in zip(own, theirs, strict=True))
            lines.append(f"| {_label(shape)} | {proxy.kind.name} | {mid[0]:.0f} | {mid[1]:.1f} | {mid[2]:.1f} | {mid[3]:.2f} | {rps:.2f} | {cpu:.2f} |")  # fmt: skip
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead")
    parser.add_argument("kinds", nargs="*", default=["quickstart", "bare", "ours", "lm up"], metavar="KIND")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 16, 64])
    given = parser.parse_args()
    unknown = set(given.kinds) - KINDS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    shapes = tuple((stream, n) for stream in (False, True) for n in given.connections)
    proxies = measure(given.kinds, given.rounds, given.requests, shapes)
    print(f"{os.cpu_count()} cores; {given.rounds} interleaved rounds of {given.requests} requests; ratios to {given.kinds[0]}")  # fmt: skip
    print("\n".join(report(proxies, given.kinds[0])))
    print("\n".join(f"{p.kind.name}: ready after {p.ready:.1f} s, {p.mb:.0f} MB" for p in proxies))


if __name__ == "__main__":
    main()
