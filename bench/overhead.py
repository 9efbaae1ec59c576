"""What our side costs, and what the switches give: interleaved rounds against several proxies, figures as ratios.

``python -m bench.overhead [KIND ...]``. ``ours ours@/path/of/an/environment/bin/python`` compares two releases of LiteLLM. One fast upstream serves all; CPU time is that of the proxy's whole
process tree, the fair figure on a shared machine. Only one proxy is asked at a time; the others wait.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from bench.proxies import KINDS, SHAPES, Proxy, Shape, kind_of, start, stop, upstream


def measure(names: list[str], rounds: int, requests: int, shapes: tuple[Shape, ...] = SHAPES) -> list[Proxy]:
    """Start all, warm them up, interleave the rounds, stop all."""
    proxies: list[Proxy] = []
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        try:
            for n, name in enumerate(names):
                proxies.append(start(kind_of(name), Path(folder) / str(n), base))
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


# The proxy that can switch one of our parts off for one request.
SWITCHES = {"hooks": "toggle", "gate": "gate-switch"}


def same_process(rounds: int, requests: int, shapes: tuple[Shape, ...] = SHAPES, part: str = "hooks") -> list[str]:
    """Return a Markdown table: CPU and latency of requests with and without one of our parts, in one process.

    The rounds alternate. The figures are medians over rounds; the ratio is the median of the ratios of each pair.
    """
    lines = [
        "| shape | CPU ms without | CPU ms with | CPU ratio | quartiles of the ratio | p50 ms without | p50 ms with |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        proxy = start(KINDS[SWITCHES[part]], Path(folder) / part, base)
        try:
            for shape in shapes:
                pairs = []
                for n in range(rounds + 1):
                    order = ("nothing", part) if n % 2 else (part, "nothing")
                    found = {without: proxy.round(shape, requests, without) for without in order}
                    pairs += [(found[part], found["nothing"])] if n else []  # the first is the warm-up
                ratios = statistics.quantiles((b.cpu / a.cpu for a, b in pairs), n=4)
                mid = [
                    statistics.median(v) for v in zip(*((a.cpu, b.cpu, a.p50, b.p50) for a, b in pairs), strict=True)
                ]
                lines.append(f"| {_label(shape)} | {mid[0]:.2f} | {mid[1]:.2f} | {ratios[1]:.3f} | {ratios[0]:.2f} to {ratios[2]:.2f} | {mid[2]:.1f} | {mid[3]:.1f} |")  # fmt: skip
        finally:
            stop([proxy])
    return lines


def report(proxies: list[Proxy], against: str) -> list[str]:
    """Return a Markdown table: medians, and the median over rounds of each ratio to ``against``."""
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
    unknown = {word.partition("@")[0] for word in given.kinds} - KINDS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    shapes = tuple((stream, n) for stream in (False, True) for n in given.connections)
    proxies = measure(given.kinds, given.rounds, given.requests, shapes)
    print(f"{os.cpu_count()} cores; {given.rounds} interleaved rounds of {given.requests} requests; ratios to {given.kinds[0]}")  # fmt: skip
    print("\n".join(report(proxies, given.kinds[0])))
    print("\n".join(f"{p.kind.name}: ready after {p.ready:.1f} s, {p.mb:.0f} MB" for p in proxies))


if __name__ == "__main__":
    main()
