"""Campaigns that try to make the ledger or the delivery lose something. Each returns its counts; ``lost`` must be 0.

They drive the real proxy (local runtime, loopback only). llmock is every provider, and a receiver misbehaves.
"""

import contextlib
import random
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.faults.loaded_stack import IS_ROOT, Counts, Given, LoadedStack, asked, loaded_stack
from bench.faults.post import Post
from bench.faults.routing import routing
from support import wait_for


def sigkill(short: bool, given: Given = None, workers: int = 1) -> Counts:
    """Kill the proxy and all its workers with SIGKILL at random moments under load."""
    kills = 1 if short else 30
    with loaded_stack(given, workers) as loaded:
        with loaded.steady():
            for _ in range(kills):
                wait_for(loaded.alive, 120, "the gateway to answer")
                time.sleep(random.uniform(0.5, 3.0))  # noqa: S311 - the random moment is the point
                for process in _tree(loaded.proxy()):
                    process.kill()
        return {"kills": kills, **loaded.balance()}


def sigkill_two_workers(short: bool, given: Given = None) -> Counts:
    """Do the same with two workers on one ledger."""
    return sigkill(short, given, workers=2)


def sigterm(short: bool, given: Given = None) -> Counts:
    """Send SIGTERM under load: open requests are finished, queued records are committed."""
    stops = 1 if short else 10
    with loaded_stack(given) as loaded:
        with loaded.steady():
            for _ in range(stops):
                wait_for(loaded.alive, 120, "the gateway to answer")
                time.sleep(random.uniform(0.5, 2.0))  # noqa: S311 - the random moment is the point
                process = loaded.proxy()
                if process is not None:
                    process.send_signal(signal.SIGTERM)
                    wait_for(lambda process=process: not process.is_running(), 60, "the proxy to end")  # type: ignore[misc]
        return {"stops": stops, **loaded.balance()}


def receiver(short: bool, given: Given = None) -> Counts:
    """Let the receiver answer 500, 429, 410 or garbage, reset or hang. Requests must go on undisturbed."""
    each = 40 if short else 200
    modes = ("500", "reset") if short else ("500", "429", "garbage", "reset", "hang", "410")
    with loaded_stack(given) as loaded:
        for mode in modes:
            loaded.receiver.mode = mode
            answered = loaded.load(each)
            if answered != each:
                raise AssertionError(f"a receiver in mode {mode} cost {each - answered} requests their answer")
        return {"modes": ", ".join(modes), **loaded.balance(900)}


def outage_24h(short: bool, _: Given = None) -> Counts:
    """Deliver after a day without receiver, on an injected clock, without a proxy."""
    with tempfile.TemporaryDirectory(prefix="lmstack-faults-") as folder:
        post = Post(Path(folder))
        post.receiver.mode = "503"
        post.start(injected_clock=True)
        for hour in range(24):
            post.add(20 if short else 400, f"task-{hour % 5}")
            post.add(5)
            tried = post.receiver.tries
            post.now[0] += 3600
            wait_for(lambda tried=tried: post.receiver.tries > tried or post.tick(30), 20, "a probe")  # type: ignore[misc]
        post.receiver.mode = "ok"
        wait_for(lambda: post.all_delivered() or post.tick(1), 300, "the catch-up")
        events = sum(post.states().values())
        lost = events - len(post.receiver.taken)
        counts: Counts = {
            "events": events,
            "unique": len(post.receiver.taken),
            "duplicates (same id)": post.receiver.duplicates(),
            "lost": lost,
        }
        post.stop()
        return counts


def locked(short: bool, given: Given = None) -> Counts:
    """Hold the ledger's write lock in another program while requests go on."""
    seconds = 3 if short else 30
    with loaded_stack(given) as loaded:
        loaded.load(20)
        blocker = sqlite3.connect(loaded.stack.ledger, isolation_level=None, timeout=30)
        blocker.execute("BEGIN IMMEDIATE")
        began, answered = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            answered += loaded.load(20)
        blocker.execute("COMMIT")
        blocker.close()
        return {"seconds": seconds, "answered meanwhile": answered, **loaded.balance()}


def disk_full(short: bool, given: Given = None) -> Counts:
    """Fill the ledger's disk: requests go on, records are spooled elsewhere, and taken over when there is room."""
    if not IS_ROOT:
        return {"skipped": "a small file system can only be mounted by root", "lost": 0}
    each = 60 if short else 400
    with loaded_stack(given, disk="8m") as loaded:
        loaded.load(each)
        ballast = loaded.stack.root / "logs" / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"\0" * 4096)
        answered = loaded.load(each)
        ballast.unlink()
        return {"answered while full": answered, "asked while full": each, **loaded.balance()}


def provider_count(short: bool, given: Given = None) -> Counts:
    """Compare what the provider counted with the attempts in the ledger, with failures and fallbacks between."""
    count = 80 if short else 1000
    with loaded_stack(given) as loaded:
        loaded.mock.reset()
        before = _attempts(loaded)
        for _ in range(max(2, count // 50)):
            loaded.mock.script({"type": "fail", "status": 503, "times": 1, "match": {"model": "gpt-6-luna"}})
            loaded.load(50 if count > 80 else 40)
        counts = loaded.balance()
        attempts = _attempts(loaded) - before
        hits = len(asked(loaded.mock))
        return {
            "provider counted": hits,
            "attempts in the ledger": attempts,
            **counts,
            "lost": int(counts["lost"]) + abs(hits - attempts),
        }


def _attempts(loaded: LoadedStack) -> int:
    with sqlite3.connect(loaded.stack.ledger) as conn:
        return int(conn.execute("SELECT COUNT(*) FROM attempts").fetchone()[0])


def _tree(process: psutil.Process | None) -> list[psutil.Process]:
    if process is None:
        return []
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


# The first ones can run one after the other on one stack; the others start what they need.
ON_ONE_STACK: dict[str, Callable[[bool, Given], Counts]] = {
    "receiver": receiver,
    "locked": locked,
    "disk-full": disk_full,
    "provider-count": provider_count,
    "sigterm": sigterm,
    "sigkill": sigkill,
}
CAMPAIGNS: dict[str, Callable[[bool, Given], Counts]] = {
    **ON_ONE_STACK,
    "sigkill-two-workers": sigkill_two_workers,
    "outage-24h": outage_24h,
    "routing": routing,
}
