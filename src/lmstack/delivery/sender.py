"""The sender: takes leased events from the outbox to TaskMaster, at least once, in order per task.

One thread per worker process, and a few that post. A task's lane is leased, so an event has one sender at a time over
all workers, and a slow receiver holds up nothing but the lanes that it is slow on.
An outage of the receiver costs a model call nothing: this thread shares only the SQLite file with it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from lmstack.ledger import outbox
from lmstack.ledger.outbox import Failure, Outgoing, Settled
from lmstack.ledger.schema import connect, writing

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
TIMEOUT_SECONDS = 15.0
PARALLEL = 8
RUN_EVENTS = 50
LOCK_WAIT_MS = 5000
# A run must be over well before its lease is.
RUN_SECONDS = 20.0
BATCH_LANES, BATCH_EVENTS = 50, 100
PAUSE_AFTER_GONE_SECONDS = 600.0
# This many failures with no success between: the receiver is down. Then one probe at a time, further and further apart.
DOWN_AFTER = 2 * PARALLEL
PROBE_SECONDS = (1, 2, 5, 10, 30)
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go. ``api_key`` and ``secret`` are never logged."""

    url: str
    api_key: str = ""
    secret: str = ""
    source: str = "lmstack"
    batch: bool = False


def target_from(environ: Mapping[str, str]) -> Target | None:
    """The receiver that the settings name, None when there is none."""
    base = environ.get("TASKMASTER_API_URL", "").strip().rstrip("/")
    if not base:
        return None
    path = environ.get("TASKMASTER_EVENTS_PATH", "").strip() or "/api/litellm/log"
    return Target(
        base + "/" + path.lstrip("/"),
        environ.get("TASKMASTER_API_KEY", ""),
        environ.get("TASKMASTER_WEBHOOK_SECRET", ""),
        batch=environ.get("TASKMASTER_BATCH", "off").lower() in ("on", "true", "yes", "1"),
    )


def headers_for(target: Target, event: outbox.Outgoing, now: float) -> dict[str, str]:
    """CloudEvents 1.0 binary mode, and Standard Webhooks when a secret is set."""
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event.event_id,
        "ce-source": target.source,
        "ce-type": event.type,
        "ce-time": outbox.iso(event.created_at),
        "webhook-id": event.event_id,
        "webhook-timestamp": str(int(now)),
    }
    if event.order_key.startswith("task:"):
        # Header values are ASCII; CloudEvents' HTTP binding percent-encodes the rest.
        headers["ce-subject"] = "".join(
            chr(b) if 0x21 <= b <= 0x7E and b not in b'"%' else f"%{b:02X}" for b in event.order_key[5:].encode()
        )
    return headers | _proofs(target, event.event_id, event.payload, now)


def batch_post(target: Target, events: list[Outgoing], now: float) -> tuple[str, dict[str, str]]:
    """CloudEvents' batched mode: body and headers. The batch's id follows from its events, so a retry has the same."""
    entries = [
        {
            "specversion": "1.0",
            "id": event.event_id,
            "source": target.source,
            "type": event.type,
            "time": outbox.iso(event.created_at),
            "datacontenttype": "application/json",
            "data": json.loads(event.payload),
        }
        for event in events
    ]
    body = json.dumps(entries, separators=(",", ":"))
    batch_id = "bat_" + hashlib.sha256(" ".join(event.event_id for event in events).encode()).hexdigest()[:32]
    headers = {
        "content-type": "application/cloudevents-batch+json",
        "webhook-id": batch_id,
        "webhook-timestamp": str(int(now)),
    }
    return body, headers | _proofs(target, batch_id, body, now)


def _proofs(target: Target, id_: str, body: str, now: float) -> dict[str, str]:
    """Who we are, and that nobody changed the body: only where a key or a secret is set."""
    proofs = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    if target.secret:
        proofs["webhook-signature"] = sign(target.secret, id_, int(now), body)
    return proofs


def sign(secret: str, event_id: str, timestamp: int, body: str) -> str:
    """Standard Webhooks' ``v1`` signature; a ``whsec_`` secret is base64, any other is taken as it is."""
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        key = secret.encode()
    digest = hmac.new(key, f"{event_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class Sender:
    """Sends until stopped. ``wake`` makes it look at once instead of at the next poll; ``clock`` is for tests."""

    def __init__(self, path: Path, target: Target, clock: Callable[[], float] = time.time, owner: str = "") -> None:
        self._path, self._target, self._clock = path, target, clock
        # A worker's own name, so that its leases are given back when it is found dead.
        self._owner = owner or f"{os.getpid()}:{os.urandom(4).hex()}"
        self._wake, self._stop = threading.Event(), threading.Event()
        self._results: queue.SimpleQueue[list[Settled]] = queue.SimpleQueue()
        self._unsettled: list[Settled] = []  # outcomes that the ledger could not take yet
        self._recovered = False
        self._under_way = 0
        self._failures = 0
        self._not_before = 0.0
        self._next_warning = 0.0
        self._thread = threading.Thread(target=self._run, name="lmstack-sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be something new to send."""
        self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Finish the posts under way, give the leases back, end the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._session()
            except Exception as error:  # the thread must outlive a locked or missing file
                self._warn(f"{type(error).__name__}: {error}")
                self._stop.wait(1.0)

    def _session(self) -> None:
        """One connection, one pool. When the file is stuck, what was sent meanwhile is sent again: at least once."""
        if not self._path.exists():
            self._stop.wait(POLL_SECONDS)
            return
        conn = connect(self._path)
        # Nobody waits for this thread, so it can wait for its turn; a request's writer cannot.
        conn.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
        self._under_way = self._results.qsize()
        limits = httpx.Limits(max_connections=PARALLEL, max_keepalive_connections=PARALLEL)
        try:
            # trust_env off: events go to the address that was set, not through a proxy of the environment.
            with (
                httpx.Client(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client,
                ThreadPoolExecutor(PARALLEL) as pool,
            ):
                self._serve(conn, client, pool)
                pool.shutdown()
                self._collect(conn, wait=False)
                outbox.release(conn, self._owner)
        finally:
            conn.close()

    def _serve(self, conn: sqlite3.Connection, client: httpx.Client, pool: ThreadPoolExecutor) -> None:
        while not self._stop.is_set():
            busy = self._submit(conn, client, pool)
            if not self._collect(conn, wait=self._under_way > 0) and not busy and not self._under_way:
                self._wake.wait(POLL_SECONDS)
                self._wake.clear()

    def _submit(self, conn: sqlite3.Connection, client: httpx.Client, pool: ThreadPoolExecutor) -> bool:
        """Fill the free slots; False when there was nothing to do."""
        down = self._failures >= DOWN_AFTER
        slots = (1 if down else PARALLEL) - self._under_way
        if slots <= 0 or self._clock() < self._not_before:
            return False
        if self._target.batch:
            runs = outbox.lease(conn, self._owner, self._clock(), 1 if down else BATCH_LANES, BATCH_EVENTS)
            jobs, post = [runs] if runs else [], self._post_batch
        else:
            runs = outbox.lease(conn, self._owner, self._clock(), slots, 1 if down else RUN_EVENTS)
            jobs, post = [[run] for run in runs], self._post_run
        for job in jobs:
            self._under_way += 1
            pool.submit(self._do, post, client, job, self._results)
        return bool(jobs)

    def _do(
        self, post: "Post", client: httpx.Client, job: list[list[Outgoing]], results: "queue.SimpleQueue[list[Settled]]"
    ) -> None:
        """In a thread of the pool: always report back, whatever happens."""
        try:
            results.put(post(client, job))
        except Exception as error:
            results.put([Settled(run, 0, Failure(None, f"{type(error).__name__}: {error}")) for run in job])

    def _collect(self, conn: sqlite3.Connection, wait: bool) -> bool:
        """Settle what has come back, all in one transaction; False when nothing has."""
        found = self._unsettled
        while True:
            try:
                results = self._results.get(timeout=POLL_SECONDS) if wait and not found else self._results.get_nowait()
            except queue.Empty:
                break
            self._under_way -= 1
            self._recovered |= self._judge(results)
            found += results
        if not found:
            return False
        with writing(conn):
            for result in found:
                outbox.settle(conn, self._owner, result, self._clock())
            if self._recovered:
                outbox.hurry(conn, self._clock())
        self._unsettled, self._recovered = [], False
        return True

    def _judge(self, results: list[Settled]) -> bool:
        """Learn whether the receiver is up; True when it has just come back."""
        was_down = self._failures >= DOWN_AFTER
        for result in results:
            failure = result.failure
            if result.delivered or failure is None:
                self._failures = 0
            if failure is None:
                continue
            self._warn(f"TaskMaster did not take an event: {failure.error}")
            if failure.status == 410:
                self._not_before = self._clock() + PAUSE_AFTER_GONE_SECONDS
            elif not failure.final:
                self._failures += 1
        if self._failures >= DOWN_AFTER:
            step = min(self._failures - DOWN_AFTER, len(PROBE_SECONDS) - 1)
            self._not_before = max(self._not_before, self._clock() + PROBE_SECONDS[step])
        return was_down and self._failures == 0

    def _post_run(self, client: httpx.Client, job: list[list[Outgoing]]) -> list[Settled]:
        """One lane's events, one after the other, up to the first failure."""
        (run,) = job
        until = time.monotonic() + RUN_SECONDS
        for place, event in enumerate(run):
            if time.monotonic() > until or (self._stop.is_set() and place):
                return [Settled(run, place)]
            failure = self._post(client, event.payload, headers_for(self._target, event, time.time()))
            if failure is not None:
                return [Settled(run, place, failure)]
        return [Settled(run, len(run))]

    def _post_batch(self, client: httpx.Client, job: list[list[Outgoing]]) -> list[Settled]:
        """Several lanes in one post: taken as a whole, or not."""
        parts: list[list[Outgoing]] = []
        room = BATCH_EVENTS
        for run in job:
            parts.append(run[: max(room, 0)])
            room -= len(parts[-1])
        body, headers = batch_post(self._target, [event for part in parts for event in part], time.time())
        failure = self._post(client, body, headers)
        return [
            Settled(run, 0 if failure else len(part), failure if part else None)
            for run, part in zip(job, parts, strict=True)
        ]

    def _post(self, client: httpx.Client, body: str, headers: dict[str, str]) -> Failure | None:
        try:
            answer = client.post(self._target.url, content=body.encode(), headers=headers)
        except Exception as error:  # httpx's own, and whatever a broken answer makes of its parsers
            return Failure(None, f"{type(error).__name__}: {error}")
        status = answer.status_code
        if 200 <= status < 300:
            return None
        final = 400 <= status < 500 and status not in RETRIED and status != 410
        retry_after = PAUSE_AFTER_GONE_SECONDS if status == 410 else _retry_after(answer, time.time())
        return Failure(status, f"HTTP {status}", retry_after, final)

    def _warn(self, text: str) -> None:
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + 60
            log.warning("delivery: %s", text)


Post = Callable[[httpx.Client, list[list[Outgoing]]], list[Settled]]


def _retry_after(answer: httpx.Response, now: float) -> float | None:
    value = answer.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp() - now)
