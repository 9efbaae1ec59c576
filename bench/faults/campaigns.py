"""Campaigns that try to make the ledger or the delivery lose something. Each returns its counts; ``lost`` must be 0.

They drive the real proxy (local runtime, loopback only) with llmock as every provider and a receiver that misbehaves.
"""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.faults.post import Post  # noqa: E402
from bench.faults.receiver import FaultyReceiver  # noqa: E402
from lmstack.catalog.models import Catalog, parse_catalog  # noqa: E402
from lmstack.ledger.spool import left_behind  # noqa: E402
from lmstack.stack.project import shipped_catalog  # noqa: E402
from support import KEY, Mock, Stack, free_port, wait_for  # noqa: E402 - the path was just added

Counts = dict[str, float | int | str]
HELLO = [{"role": "user", "content": "Hello!"}]
KINDS = (
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO}),
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}),
    ("/v1/messages", {"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 20}),
    ("/v1/responses", {"model": "gpt-6-luna", "input": "Hello!"}),
)


class World:
    """A running stack under load, and the books that are balanced at the end."""

    def __init__(self, folder: Path, workers: int = 1, **env: str) -> None:
        self.mock, self.receiver = Mock(), FaultyReceiver()
        self.stack = Stack(folder, free_port(), {"LITELLM_RUNTIME": "local"})
        self.stack.lm("init", "--dir", str(folder))
        own = {"TASKMASTER_API_URL": self.receiver.url, "LITELLM_WORKERS": str(workers)}
        self.stack.write_env(**{**self.mock.bases(), **own, **env})
        self.stack.lm("up")
        self.sent = 0
        self.answered: set[str] = set()
        self.open: dict[str, object] = {}
        self._lock = threading.Lock()
        self._client = httpx.Client(trust_env=False, timeout=60, headers={"authorization": f"Bearer {KEY}"})

    def ask(self, n: int) -> bool:
        """One request; whatever happens to it, it is counted."""
        path, body = KINDS[n % len(KINDS)]
        with self._lock:
            self.sent += 1
        try:
            answer = self._client.post(self.stack.url + path, json=body, headers={"x-task-id": f"task-{n % 7}"})
        except httpx.HTTPError:
            return False
        if answer.status_code != 200 or (body.get("stream") and "[DONE]" not in answer.text):
            return False
        with self._lock:
            self.answered.add(answer.headers["x-litellm-call-id"])
        return True

    def post(self, path: str, body: dict[str, object]) -> httpx.Response:
        """One request, its answer read to the end."""
        return self._client.post(self.stack.url + path, json=body, headers={"x-task-id": "mixed"})

    def load(self, count: int, threads: int = 8) -> int:
        """That many requests; returns how many were answered."""
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(self.ask, range(count)))

    @contextlib.contextmanager
    def steady(self, threads: int = 6) -> Iterator[None]:
        """Load in the background for as long as the block takes; a gateway that is down is asked again, not hammered."""
        stop = threading.Event()

        def work(n: int) -> None:
            while not stop.is_set():
                n += 1
                if not self.ask(n):
                    stop.wait(0.1)

        with ThreadPoolExecutor(threads) as pool:
            for place in range(threads):
                pool.submit(work, place * 1000)
            try:
                yield
            finally:
                stop.set()

    def proxy(self) -> psutil.Process | None:
        """The proxy's process, when supervisord has one running."""
        services = self.stack.json("status")["data"]["services"]
        pid = next((s["pid"] for s in services if s["name"] == "litellm-proxy" and s["state"] == "running"), None)
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid) if pid else None
        return None

    def alive(self) -> bool:
        """Whether the gateway answers."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.stack.url}/health/liveliness", trust_env=False, timeout=2).status_code == 200
        return False

    def balance(self, patience: float = 120.0) -> Counts:
        """Wait until nothing is open, then compare what clients, ledger and TaskMaster have."""
        self.receiver.mode = "ok"
        wait_for(self.alive, 120, "the gateway to answer")

        def settled() -> bool:
            # In the order in which things move: spool, rows, events. The other way round, what moves on between two
            # looks is seen by neither.
            self.open = {"spools": left_behind(self.stack.ledger, alive=())}
            rows = self.stack.ask("requests", limit=1_000_000)
            ended = {row["call_id"] for row in rows if row["status"] != "started"}
            self.open["rows"] = len([row for row in rows if row["status"] == "started"])
            self.open["answered, not on the ledger"] = len(self.answered - ended)
            states = {row["state"]: row["events"] for row in self.stack.ask("event_counts")}
            self.open |= {state: states.get(state) for state in ("pending", "leased")}
            return not any(self.open.values())

        try:
            wait_for(settled, patience, "every row to end and every event to be delivered")
        except BaseException:
            print(f"still open: {self.open}; {self.sent} sent, {len(self.answered)} answered whole")
            for row in self.stack.ask("requests", limit=1_000_000):
                if row["status"] == "started":
                    print(f"{'answered' if row['call_id'] in self.answered else 'not answered'}: {row}")
            print(self.stack.lm("logs", "--tail", "40", check=False).stdout)
            raise
        with sqlite3.connect(self.stack.ledger) as conn:
            status = dict(conn.execute("SELECT call_id, status FROM requests").fetchall())
            events = {row[0] for row in conn.execute("SELECT event_id FROM outbox")}
            expected = conn.execute(
                "SELECT COUNT(*), SUM(cost_usd > 0 AND cost_estimated = 0) FROM requests"
            ).fetchone()
        rowless = {call for call in self.answered if status.get(call) != "succeeded"}
        undelivered = events - set(self.receiver.taken)
        missing = expected[0] + (expected[1] or 0) - len(events)
        return {
            "sent": self.sent,
            "answered": len(self.answered),
            "rows": len(status),
            "events": len(events),
            "received": sum(self.receiver.taken.values()),
            "unique": len(self.receiver.taken),
            "duplicates (same id)": self.receiver.duplicates(),
            "answered without row": len(rowless),
            "events not received": len(undelivered),
            "events never written": missing,
            "lost": len(rowless) + len(undelivered) + abs(missing),
            "p99 lag s": round(self.receiver.p99_lag(), 2),
        }

    def close(self) -> None:
        """Stop everything that was started."""
        self.stack.lm("down", check=False)
        self.mock.stop()
        self.receiver.stop()


@contextlib.contextmanager
def world(workers: int = 1, **env: str) -> Iterator[World]:
    """A World in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="lmstack-faults-") as folder:
        made = World(Path(folder), workers, **env)
        try:
            yield made
        finally:
            made.close()


def sigkill(short: bool, workers: int = 1) -> Counts:
    """SIGKILL of the proxy and all its workers at random moments under load."""
    kills = 2 if short else 30
    with world(workers) as w:
        with w.steady():
            for _ in range(kills):
                wait_for(w.alive, 120, "the gateway to answer")
                time.sleep(random.uniform(0.5, 3.0))  # noqa: S311 - the random moment is the point
                for process in _tree(w.proxy()):
                    process.kill()
        return {"kills": kills, **w.balance()}


def sigkill_two_workers(short: bool) -> Counts:
    """The same with two workers on one ledger."""
    return sigkill(short, workers=2)


def sigterm(short: bool) -> Counts:
    """SIGTERM under load: open requests are finished, queued records are committed."""
    stops = 2 if short else 10
    with world() as w:
        with w.steady():
            for _ in range(stops):
                wait_for(w.alive, 120, "the gateway to answer")
                time.sleep(random.uniform(0.5, 2.0))  # noqa: S311
                process = w.proxy()
                if process is not None:
                    process.send_signal(signal.SIGTERM)
                    wait_for(lambda process=process: not process.is_running(), 60, "the proxy to end")  # type: ignore[misc]
        return {"stops": stops, **w.balance()}


def receiver(short: bool) -> Counts:
    """The receiver is down, answers 500, 429, 410 or garbage, resets or hangs, while requests go on undisturbed."""
    each = 40 if short else 200
    modes = ("500", "reset") if short else ("500", "429", "garbage", "reset", "hang", "410")
    with world() as w:
        for mode in modes:
            w.receiver.mode = mode
            answered = w.load(each)
            if answered != each:
                raise AssertionError(f"a receiver in mode {mode} cost {each - answered} requests their answer")
        return {"modes": ", ".join(modes), **w.balance(900)}


def outage_24h(short: bool) -> Counts:
    """A day without receiver, on an injected clock, without a proxy."""
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


def locked(short: bool) -> Counts:
    """Another program holds the ledger's write lock while requests go on."""
    seconds = 3 if short else 30
    with world() as w:
        w.load(20)
        blocker = sqlite3.connect(w.stack.ledger, isolation_level=None, timeout=30)
        blocker.execute("BEGIN IMMEDIATE")
        began, answered = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            answered += w.load(20)
        blocker.execute("COMMIT")
        blocker.close()
        return {"seconds": seconds, "answered meanwhile": answered, **w.balance()}


def disk_full(short: bool) -> Counts:
    """The ledger's disk is full: requests go on, records are spooled elsewhere, and taken over when there is room."""
    if os.geteuid() != 0:
        return {"skipped": "a small file system can only be mounted by root", "lost": 0}
    each = 60 if short else 400
    with tempfile.TemporaryDirectory(prefix="lmstack-faults-") as folder:
        logs = Path(folder) / "logs"
        logs.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(logs)], check=True)
        try:
            w = World(Path(folder))
            try:
                w.load(each)
                ballast = logs / "ballast"
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
                    while True:
                        stream.write(b"\0" * 4096)
                answered = w.load(each)
                ballast.unlink()
                return {"answered while full": answered, "asked while full": each, **w.balance()}
            finally:
                w.close()
        finally:
            subprocess.run(["umount", "-l", str(logs)], check=True)


def provider_count(short: bool) -> Counts:
    """What the provider counted against the attempts on the ledger, with failures and fallbacks between."""
    count = 80 if short else 1000
    with world() as w:
        w.mock.reset()
        for _ in range(max(2, count // 50)):
            w.mock.script({"type": "fail", "status": 503, "times": 1, "match": {"model": "gpt-6-luna"}})
            w.load(50 if count > 80 else 40)
        counts = w.balance()
        with sqlite3.connect(w.stack.ledger) as conn:
            attempts = conn.execute("SELECT COUNT(*) FROM attempts").fetchone()[0]
        hits = len(w.mock.requests())
        return {
            "provider counted": hits,
            "attempts on the ledger": attempts,
            **counts,
            "lost": int(counts["lost"]) + abs(hits - attempts),
        }


def routing(short: bool) -> Counts:
    """One of four providers is dead, one fails at 30 %: every request of four kinds, streams or not, is answered by a
    healthy model; attempts agree with what the providers counted, costs with the catalog."""
    count = 120 if short else 1000
    flaky = Mock("127.0.0.1", "--error-rate", "503=0.3")
    dead = {"ANTHROPIC_API_BASE": f"http://127.0.0.1:{free_port()}", "GEMINI_API_BASE": f"{flaky.url}/gemini/v1beta"}
    names = ("cheap", "standard", "premium", "auto", "claude-3-haiku", "gemini-2.0-flash", "claude-opus-5-5", "gpt-4o")
    try:
        with world(2, **dead) as w:

            def one(n: int) -> int:
                path, body = MIXED[n % len(MIXED)]
                model = "text-embedding-3-small" if path == "/v1/embeddings" else names[n // len(MIXED) % len(names)]
                answer = w.post(path, {**body, "model": model})
                whole = not body.get("stream") or any(mark in answer.text for mark in ("[DONE]", "message_stop", "response.completed"))  # fmt: skip
                return int(answer.status_code == 200 and whole)

            for mock in (w.mock, flaky):
                mock.reset()
            with ThreadPoolExecutor(8) as pool:
                answered = sum(pool.map(one, range(count)))
            counts = w.balance()
            with sqlite3.connect(w.stack.ledger) as conn:
                good = conn.execute("SELECT COUNT(*) FROM attempts WHERE outcome = 'succeeded'").fetchone()[0]
                tried = dict(conn.execute("SELECT provider, COUNT(*) FROM attempts GROUP BY provider").fetchall())
                rows = conn.execute("SELECT deployment, status, cost_usd, prompt_tokens, completion_tokens FROM requests").fetchall()  # fmt: skip
            # The background probes of free models are no requests.
            asked = [r for mock in (w.mock, flaky) for r in mock.requests() if "Hello!" in str(r["body"])]
            hits = len(asked)
            unequal = abs(good - sum(r["status"] == 200 for r in asked))
            alive = sum(n for provider, n in tried.items() if provider != "anthropic")
            catalog = parse_catalog(shipped_catalog())
            wrong = sum(1 for row in rows if row[1] != "succeeded" or not _cost_is_right(catalog, *row))
            return {
                "asked": count, "answered (200, complete)": answered,
                "providers counted": hits, "attempts on the ledger": alive,
                "attempts at the dead one": tried.get("anthropic", 0), "wrong status or cost": wrong, "outcomes that differ": unequal,
                "lost": count - answered + abs(hits - alive) + wrong + unequal + int(counts["lost"]),
            }  # fmt: skip
    finally:
        flaky.stop()


MIXED: tuple[tuple[str, dict[str, object]], ...] = (
    ("/v1/chat/completions", {"messages": HELLO}),
    ("/v1/chat/completions", {"messages": HELLO, "stream": True}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 20}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 20, "stream": True}),
    ("/v1/responses", {"input": "Hello!"}),
    ("/v1/responses", {"input": "Hello!", "stream": True}),
    ("/v1/embeddings", {"input": "Hello!"}),
)


def _cost_is_right(catalog: Catalog, name: str, _: str, cost: float | None, into: int, out: int) -> bool:
    model = catalog.resolve(catalog.models[name])
    expected = (into * (model.input or 0) + out * (model.output or 0)) / 1e6
    return cost is not None and abs(cost - expected) < 1e-12


def _tree(process: psutil.Process | None) -> list[psutil.Process]:
    if process is None:
        return []
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


CAMPAIGNS: dict[str, Callable[[bool], Counts]] = {
    "sigkill": sigkill,
    "sigkill-two-workers": sigkill_two_workers,
    "sigterm": sigterm,
    "receiver": receiver,
    "outage-24h": outage_24h,
    "locked": locked,
    "disk-full": disk_full,
    "provider-count": provider_count,
    "routing": routing,
}
