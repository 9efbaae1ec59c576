"""docs/performance.md: every figure from one command, ``python -m bench.performance`` (``make bench``, about half an hour
on two cores). ``--quick`` prints a short form in under three minutes and writes nothing."""

import argparse
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bench import commands, gate, ledger, looplag, overhead, tail
from bench.proxies import Proxy

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
TEXT = ROOT / "bench" / "performance.md"


def main() -> None:
    """Measure, and write the page (or, with ``--quick``, print)."""
    parser = argparse.ArgumentParser(prog="python -m bench.performance")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=SECTIONS, help="measure one section again and put it into the page")
    given = parser.parse_args()
    if given.quick:
        print("\n".join(short()))
        return
    found = sections_of(PAGE.read_text(encoding="utf-8")) if given.only else {}
    for title in [given.only] if given.only else SECTIONS:
        found[title] = "\n".join([f"Measured on {machine()}.", "", *SECTIONS[title]()])
        print(f"\n## {title}\n\n{found[title]}", file=sys.stderr, flush=True)
    parts = [f"\n## {title}\n\n{found[title]}\n" for title in SECTIONS if title in found]
    PAGE.write_text(TEXT.read_text(encoding="utf-8") + "".join(parts), encoding="utf-8")
    print(f"{PAGE} written")


def sections_of(page: str) -> dict[str, str]:
    """Title -> text of the sections of a written page."""
    parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)
    return {title: text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def machine() -> str:
    """Return the machine and the versions of the measurement."""
    model = next((line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor())  # fmt: skip
    return f"{os.cpu_count()} cores ({model}), {platform.system()} {platform.release()}, Python {platform.python_version()}, LiteLLM {version('litellm')}, Granian {version('granian')}"  # fmt: skip


def short() -> list[str]:
    """Return a report for CI: the cost of our side, the ledger, the loop."""
    costs = overhead.same_process(5, 100, ((False, 8), (True, 8)))
    return [machine(), "", *costs, "", *internals(20_000, 10_000)]


def against_quickstart() -> list[str]:
    """Compare LiteLLM's quickstart, stock LiteLLM with our flags, and ours."""
    return overhead.report(overhead.measure(["quickstart", "bare-2", "lm up"], 5, 200), "quickstart")


def the_gate() -> list[str]:
    """Compare requests with and without the gate and the middleware, in one process and without a proxy."""
    table = overhead.same_process(24, 150, ((False, 1), (False, 16), (True, 16)), "gate")
    rows = [f"| a body of {size} | {ms:.3f} |" for size, ms in gate.costs().items()]
    return [*table, "", "| gate and middleware, without a proxy | CPU ms for each request |", "|---|--:|", *rows]


def servers() -> list[str]:
    """Compare servers and numbers of workers."""
    kinds = ["ours", "uvicorn", "lm up", "uvicorn-2", "gunicorn-2"]
    return with_starts(overhead.measure(kinds, 4, 200, ((False, 16), (True, 16))), "ours")


def switches() -> list[str]:
    """Compare LiteLLM's own switches."""
    kinds = ["ours", "handler", "rust", "info-log", "no-aiohttp"]
    return overhead.report(overhead.measure(kinds, 4, 200, ((False, 8), (True, 8))), "ours")


SECTIONS: dict[str, Callable[[], list[str]]] = {
    "Against LiteLLM's quickstart": against_quickstart,
    "What our side costs": lambda: overhead.same_process(12, 150),
    "What the gate costs": the_gate,
    "Servers": servers,
    "Switches": switches,
    "The first answer": lambda: commands.first_answer(3),
    "Commands": lambda: commands.cli(7, 1_000_000),
    "Ledger, delivery, event loop": lambda: internals(50_000, 60_000),
    "Tail": lambda: tail.section(7, 400),
    "Memory": lambda: tail.memory(20_000),
}


def with_starts(proxies: list[Proxy], against: str) -> list[str]:
    """Return the table, and the start time and memory of each proxy."""
    starts = ["", "| proxy | ready after s | resident MB |", "|---|--:|--:|"]
    starts += [f"| {p.kind.name} | {p.ready:.1f} | {p.mb:.0f} |" for p in proxies]
    return [*overhead.report(proxies, against), *starts]


def internals(requests: int, events: int) -> list[str]:
    """Measure the ledger, the delivery and the event loop without a proxy."""
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
        rows = ledger.writes(Path(folder), requests)
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
        single, batched = ledger.catchup(Path(folder), events)
    hooks = looplag.costs()
    lags = [", ".join(f"{value:.3f}" for value in figures) for figures in looplag.main()]
    return [
        "| what | figure |", "|---|--:|",
        f"| ledger, rows written a second | {rows:.0f} |",
        f"| delivery, events a second, one post each | {single:.0f} |",
        f"| delivery, events a second, TASKMASTER_BATCH=on | {batched:.0f} |",
        *(f"| CPU of our hooks and the ledger's writer for each request, {n} parallel, ms | {ms:.2f} |" for n, ms in hooks.items()),
        f"| one pass of the event loop with 64 requests in our hooks, ms: median, 99.9 %, worst | {lags[0]} |",
        f"| the same without our hooks | {lags[1]} |",
        f"| one step of a request in our hooks, 64 parallel, ms: median, 99.9 %, worst | {', '.join(f'{ms:.3f}' for ms in looplag.longest_steps())} |",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
