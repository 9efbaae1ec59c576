"""A running stack that is under load, and the books that are balanced at the end."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.faults.receiver import FaultyReceiver  # noqa: E402
from lmstack.ledger.spool import left_behind  # noqa: E402
from support import KEY, Mock, Stack, free_port, wait_for  # noqa: E402 - the path was just added

Counts = dict[str, float | int | str]
HELLO = [{"role": "user", "content": "Hello!"}]
KINDS = (
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO}),
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}),
    ("/v1/messages", {"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 20}),
    ("/v1/responses", {"model": "gpt-6-luna", "input": "Hello!"}),
)
IS_ROOT = os.geteuid() == 0


class LoadedStack:
    """A gateway in the local runtime. llmock is every provider, and a receiver that can misbehave takes the events."""

    def __init__(self, folder: Path, workers: int = 1, **env: str) -> None:
        self.mock, self.receiver = Mock(), FaultyReceiver()
        self.stack = Stack(folder, free_port(), {"LITELLM_RUNTIME": "local"})
        self.stack.lm("init", "--dir", str(folder))
        own = {"TASKMASTER_API_URL": self.receiver.url, "LITELLM_WORKERS": str(workers)}
        self.stack.write_env(**{**self.mock.bases(), **own, **env})
        self.stack.lm("up")
        self.sent = 0
        self.answered: set[str] = set()
        self.unfinished: dict[str, object] = {}
        self._lock = threading.Lock()
        self._client = httpx.Client(trust_env=False, timeout=60, headers={"authorization": f"Bearer {KEY}"})

    def ask(self, number: int) -> bool:
        """Send one request and count it. Return whether it was answered to the end."""
        path, body = KINDS[number % len(KINDS)]
        with self._lock:
            self.sent += 1
        try:
            answer = self._client.post(self.stack.url + path, json=body, headers={"x-task-id": f"task-{number % 7}"})
        except httpx.HTTPError:
            return False
        if answer.status_code != 200 or (body.get("stream") and "[DONE]" not in answer.text):
            return False
        with self._lock:
            self.answered.add(answer.headers["x-litellm-call-id"])
        return True

    def post(self, path: str, body: dict[str, object]) -> httpx.Response:
        """Send one request and read its answer to the end."""
        return self._client.post(self.stack.url + path, json=body, headers={"x-task-id": "mixed"})

    def load(self, count: int, threads: int = 8) -> int:
        """Send that many requests. Return how many were answered."""
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(self.ask, range(count)))

    @contextlib.contextmanager
    def steady(self, threads: int = 6) -> Iterator[None]:
        """Send requests in the background while the block runs. After a failure each thread waits a little."""
        stop = threading.Event()

        def work(number: int) -> None:
            while not stop.is_set():
                number += 1
                if not self.ask(number):
                    stop.wait(0.1)

        with ThreadPoolExecutor(threads) as pool:
            for place in range(threads):
                pool.submit(work, place * 1000)
            try:
                yield
            finally:
                stop.set()

    def proxy(self) -> psutil.Process | None:
        """Return the proxy's process, None while supervisord has none running."""
        services = self.stack.json("status")["data"]["services"]
        pid = next((s["pid"] for s in services if s["name"] == "litellm-proxy" and s["state"] == "running"), None)
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid) if pid else None
        return None

    def alive(self) -> bool:
        """Return whether the gateway answers."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.stack.url}/health/liveliness", trust_env=False, timeout=2).status_code == 200
        return False

    def balance(self, patience: float = 120.0) -> Counts:
        """Wait until nothing is unfinished. Then compare what the clients, the ledger and the receiver have."""
        self.receiver.mode = "ok"
        wait_for(self.alive, 120, "the gateway to answer")
        try:
            wait_for(self._settled, patience, "every row to end and every event to be delivered")
        except BaseException:
            self._print_unfinished()
            raise
        return self._compare()

    def _settled(self) -> bool:
        # Records move from the spool to the rows, then to the events. Look in this order: in the other order, a record
        # that moves between two looks is seen by neither.
        self.unfinished = {"spools": left_behind(self.stack.ledger, alive=())}
        rows = self.stack.ask("requests", limit=1_000_000)
        ended = {row["call_id"] for row in rows if row["status"] != "started"}
        self.unfinished["rows"] = len([row for row in rows if row["status"] == "started"])
        self.unfinished["answered, not in the ledger"] = len(self.answered - ended)
        states = {row["state"]: row["events"] for row in self.stack.ask("event_counts")}
        self.unfinished |= {state: states.get(state) for state in ("pending", "leased")}
        return not any(self.unfinished.values())

    def _print_unfinished(self) -> None:
        print(f"unfinished: {self.unfinished}; {self.sent} sent, {len(self.answered)} answered to the end")
        for row in self.stack.ask("requests", limit=1_000_000):
            if row["status"] == "started":
                print(f"{'answered' if row['call_id'] in self.answered else 'not answered'}: {row}")
        print(self.stack.lm("logs", "--tail", "40", check=False).stdout)

    def _compare(self) -> Counts:
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


def asked(*mocks: Mock) -> list[dict[str, object]]:
    """Return the requests that reached a provider. The background probes of free models are no requests."""
    return [request for mock in mocks for request in mock.requests() if "Hello!" in str(request["body"])]


Given = LoadedStack | None  # a stack that runs already, for the short forms in the tests; None: start one


@contextlib.contextmanager
def loaded_stack(given: Given = None, workers: int = 1, disk: str = "", **env: str) -> Iterator[LoadedStack]:
    """Yield the stack that is given. Without one, start one in a temporary folder and stop it afterwards.

    With ``disk``, such as "64m", its ledger is on a file system of that size where root runs this.
    """
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="lmstack-faults-") as folder, _small_disk(Path(folder) / "logs", disk):
        made = LoadedStack(Path(folder), workers, **env)
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[None]:
    if not size or not IS_ROOT:
        yield
        return
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
