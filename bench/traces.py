"""What traces cost: CPU of a request of which the spans are sent, against one of which they are not, in the same process.

``python -m bench.traces [ROUNDS]``. Two processes differ by more than a trace costs. So the client decides for each round, with the
flag of its ``traceparent``. The figures are the CPU time of the proxy's process tree; the receiver is not in it.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.proxies import KINDS, Proxy, start, stop, upstream
from lmstack.gateway.traces import Traces
from otlp import OtlpReceiver
from support import KEY

SHAPE = (False, 8)
ON, OFF = "all its spans sent", "its spans not sent"
# The second line of the header: bench.proxies writes the key into the request as it is.
KEYS = {name: f"{KEY}\r\ntraceparent: 00-{'1' * 32}-{'2' * 16}-{flag}" for name, flag in ((ON, "01"), (OFF, "00"))}
DELAY_MS = 100  # so that a round pays for the export of its own spans


def costs(rounds: int = 16, requests: int = 300) -> list[str]:
    """Return a Markdown table with CPU milliseconds of a request, and what the request itself does for its trace."""
    receiver = OtlpReceiver()
    env = (("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url), ("OTEL_BSP_SCHEDULE_DELAY", str(DELAY_MS)))
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        proxy = start(replace(KINDS["ours"], env=env), Path(folder) / "on", base)
        try:
            cpu = _rounds(proxy, rounds, requests)
        finally:
            stop([proxy])
            receiver.stop()
    gaps = [on - off for on, off in zip(cpu[ON], cpu[OFF], strict=True)]
    low, middle, high = statistics.quantiles(gaps, n=4)
    lines = ["| a request with | CPU ms |", "|---|--:|"]
    lines += [f"| {name} | {statistics.median(values):.2f} |" for name, values in cpu.items()]
    lines += [f"| difference of each pair of rounds: median (quartiles) | {middle:.2f} ({low:.2f} to {high:.2f}) |"]
    return [
        *lines,
        "",
        f"On the event loop: {in_request() * 1e6:.1f} µs. The receiver got {len(receiver.spans):,} spans.",
    ]


def _rounds(proxy: Proxy, rounds: int, requests: int) -> dict[str, list[float]]:
    cpu: dict[str, list[float]] = {ON: [], OFF: []}
    for n in range(rounds + 1):
        for name in (ON, OFF) if n % 2 else (OFF, ON):
            before = proxy.cpu()
            proxy.round(SHAPE, requests, keys=(KEYS[name],))
            time.sleep(3 * DELAY_MS / 1000)  # the export of the last spans belongs to this round
            cpu[name] += [(proxy.cpu() - before) * 1000 / requests] if n else []  # the first is the warm-up
    return cpu


def in_request(requests: int = 5000) -> float:
    """Return the CPU seconds that one request takes for its ids, its provider's header, and the queue. No span is made."""
    from ledger_records import call, ended

    class Nothing:
        def sampled(self, trace: int, parent: object) -> bool:
            return True

        def make(self, end: object, ids: object) -> None: ...

        def close(self, seconds: float) -> None: ...

    traces, calls = Traces(Nothing()), [call(f"r{n}") for n in range(requests)]
    ends = [ended(one) for one in calls]
    before = time.thread_time()
    for one, end in zip(calls, ends, strict=True):
        traces.hand_on({}, one)
        traces.offer(end)
    return (time.thread_time() - before) / requests


if __name__ == "__main__":
    print("\n".join(costs(int(sys.argv[1]) if len(sys.argv) > 1 else 16)))
