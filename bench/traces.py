"""What traces cost: CPU of a request without them, with all of them, and with a tenth of them.

``python -m bench.traces [ROUNDS]``. The rounds of all are interleaved. Each figure is the CPU time of the whole process tree of
the proxy; the receiver is another process's thread. The second proxy without traces shows by how much two processes differ.
"""

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.proxies import KINDS, start, stop, upstream
from otlp import OtlpReceiver

SHAPE = (False, 8)
OFF, AGAIN, ON, TENTH = "no traces", "no traces, in another process", "all traces", "a tenth of the traces"
SAMPLED = (("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.1"))


def costs(rounds: int = 12, requests: int = 200) -> list[str]:
    """Return a Markdown table: CPU milliseconds of a request, and the ratio to a proxy without traces."""
    receiver = OtlpReceiver()
    to = (("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url),)
    ways = {OFF: (), AGAIN: (), ON: to, TENTH: (*to, *SAMPLED)}
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder, upstream() as base:
        proxies = {}
        try:
            for number, (name, env) in enumerate(ways.items()):
                proxies[name] = start(replace(KINDS["ours"], env=env), Path(folder) / str(number), base)
            cpu: dict[str, list[float]] = {name: [] for name in ways}
            for n in range(rounds + 1):
                order = list(proxies.items())
                for name, proxy in order[n % len(order) :] + order[: n % len(order)]:
                    sample = proxy.round(SHAPE, requests)
                    cpu[name] += [sample.cpu] if n else []  # the first is the warm-up
        finally:
            stop(list(proxies.values()))
            receiver.stop()
    return _table(cpu, len(receiver.spans))


def _table(cpu: dict[str, list[float]], spans: int) -> list[str]:
    lines = ["| a request with | CPU ms | ratio to the first row | quartiles of the ratio |", "|---|--:|--:|--:|"]
    for name, values in cpu.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(values, cpu[OFF], strict=True)], n=4)
        lines.append(f"| {name} | {statistics.median(values):.2f} | {middle:.3f} | {low:.2f} to {high:.2f} |")
    return [*lines, "", f"The receiver got {spans:,} spans."]


if __name__ == "__main__":
    print("\n".join(costs(int(sys.argv[1]) if len(sys.argv) > 1 else 12)))
