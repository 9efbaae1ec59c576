"""What the slowest requests meet: latency, pauses of the event loop, the first chunk of a stream, memory, a killed worker.

``python -m bench.tail`` prints all of it in a short form. Stock is LiteLLM's quickstart with as many Granian workers.
"""

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from bench import overhead
from bench.proxies import KEY, KINDS, Proxy, load, start, stop, upstream
from lmstack.gateway.app.process_memory import shared_fairly_mb

PAIR = ("stock-2", "lm up")
PROBE = b"GET /health/liveliness HTTP/1.1\r\nhost: x\r\n\r\n"


@contextmanager
def running(*names: str) -> Iterator[tuple[list[Proxy], int]]:
    """Start proxies and the upstream; yield them and the upstream's port."""
    proxies: list[Proxy] = []
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        try:
            for n, name in enumerate(names):
                proxies.append(start(KINDS[name], Path(folder) / str(n), base))
                proxies[-1].round((False, 8), 60)
            yield proxies, int(base.split(":")[2].split("/")[0])
        finally:
            stop(proxies)


def latencies(rounds: int, requests: int) -> list[str]:
    """Return a table: p50 and p99 at 8 and 16 connections in alternating rounds, and the ratio of the p99 of each pair of rounds."""
    proxies = overhead.measure(list(PAIR), rounds, requests, ((False, 8), (False, 16)))
    lines = ["| connections | proxy | p50 ms | p99 ms | p99 over stock's |", "|--:|---|--:|--:|--:|"]
    for shape in proxies[0].samples:
        for proxy in proxies:
            own, stock = proxy.samples[shape], proxies[0].samples[shape]
            ratio = statistics.median(a.p99 / b.p99 for a, b in zip(own, stock, strict=True))
            p50, p99 = (statistics.median(values) for values in zip(*((s.p50, s.p99) for s in own), strict=True))
            lines.append(f"| {shape[1]} | {proxy.kind.name} | {p50:.0f} | {p99:.0f} | {ratio:.2f} |")
    return lines


def pauses(requests: int) -> list[str]:
    """Return a table: how long a request that costs nothing waits while 16 connections ask. It waits for the event loop."""
    lines = ["| proxy | a free request beside 16 connections, p50 ms | p99 ms | longest ms |", "|---|--:|--:|--:|"]
    with running(*PAIR) as (proxies, _):
        for proxy in proxies:
            waits = sorted(asyncio.run(_probed(proxy.port, requests)))
            lines.append(f"| {proxy.kind.name} | {_at(waits, 0.5):.0f} | {_at(waits, 0.99):.0f} | {waits[-1]:.0f} |")
    return lines


async def _probed(port: int, requests: int) -> list[float]:
    waits: list[float] = []
    work = asyncio.create_task(load(port, (False, 16), requests))
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]  # so that each worker has one
    while not work.done():
        for reader, writer in connections:
            began = time.perf_counter()
            writer.write(PROBE)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            waits.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.005)
    for _, writer in connections:
        writer.close()
    await work
    return waits


def first_chunks(requests: int) -> list[str]:
    """Return a table: milliseconds until the first chunk of a stream, more than the upstream itself takes."""
    lines = ["| proxy | connections | first chunk, overhead p50 ms | p99 ms |", "|---|--:|--:|--:|"]
    with running(*PAIR) as (proxies, port):
        for connections in (1, 8):
            direct = _at(asyncio.run(_first(port, connections, requests)), 0.5)
            for proxy in proxies:
                found = asyncio.run(_first(proxy.port, connections, requests))
                lines.append(f"| {proxy.kind.name} | {connections} | {_at(found, 0.5) - direct:.1f} | {_at(found, 0.99) - direct:.1f} |")  # fmt: skip
    return lines


async def _first(port: int, connections: int, requests: int) -> list[float]:
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello!"}],"stream":true}'
    text = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (KEY.encode(), len(body)) + body  # fmt: skip
    left, times = iter(range(requests)), list[float]()

    async def client() -> None:
        for _ in left:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = time.perf_counter()
            writer.write(text)
            await reader.readuntil(b"data: ")
            times.append((time.perf_counter() - began) * 1000)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readuntil(b"[DONE]"), 5)
            writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return sorted(times)


def memory(requests: int) -> list[str]:
    """Return a table: megabytes of server and workers, each page shared by n processes counted as 1/n, and a further worker."""
    lines = ["| proxy | workers | server MB | each worker MB | sum MB | sum after MB | requests |", "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    sums = {}
    for name in ("stock-2", "ours", "lm up"):
        with running(name) as ((proxy,), _):
            before = _mb(proxy)
            proxy.round((False, 16), requests)
            after = _mb(proxy)
            sums[name] = sum(before)
            each = ", ".join(f"{mb:.0f}" for mb in before[1:])
            lines.append(f"| {name} | {len(before) - 1} | {before[0]:.0f} | {each} | {sum(before):.0f} | {sum(after):.0f} | {requests} |")  # fmt: skip
    return [*lines, "", f"The second worker of `lm up` costs {sums['lm up'] - sums['ours']:.0f} MB."]


def _mb(proxy: Proxy) -> list[float]:
    pids = [proxy.process.pid, *(child.pid for child in proxy.process.children())]
    return [shared_fairly_mb(pid) or 0.0 for pid in pids]


def outage(seconds: float) -> list[str]:
    """Return a table: ten requests a second, each on its own connection, while one of two workers is killed after 3 s."""
    lines = ["| proxy | requests | failed | seconds without an answer |", "|---|--:|--:|--:|"]
    with running(*PAIR) as (proxies, _):
        for proxy in proxies:
            sent, failed, gap = asyncio.run(_killed(proxy.process, proxy.port, seconds))
            lines.append(f"| {proxy.kind.name} | {sent} | {failed} | {gap:.1f} |")
    return lines


async def _killed(server: psutil.Process, port: int, seconds: float) -> tuple[int, int, float]:
    answered, failed = [time.monotonic()], []
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}

    async def one(client: httpx.AsyncClient) -> None:
        try:
            got = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})  # fmt: skip
            (answered if got.status_code == 200 else failed).append(time.monotonic())
        except httpx.HTTPError:
            failed.append(time.monotonic())

    limits, jobs, end = httpx.Limits(max_keepalive_connections=0), [], time.monotonic() + seconds
    async with httpx.AsyncClient(trust_env=False, timeout=20, limits=limits) as client:
        while time.monotonic() < end:
            jobs.append(asyncio.create_task(one(client)))
            await asyncio.sleep(0.1)
            if len(jobs) == 30:
                os.kill(server.children()[-1].pid, signal.SIGKILL)
        await asyncio.gather(*jobs)
    times = sorted([*answered, end])
    return len(jobs), len(failed), max(b - a for a, b in zip(times, times[1:], strict=False))


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def section(rounds: int, requests: int) -> list[str]:
    """Return all tables of the tail."""
    parts = (latencies(rounds, requests), pauses(requests * 4), first_chunks(requests), outage(15))
    return [line for part in parts for line in (*part, "")]


if __name__ == "__main__":
    print("\n".join([*section(3, 150), *memory(500)]))
