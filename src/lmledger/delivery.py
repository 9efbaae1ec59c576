"""The sender: takes leased events from the outbox to TaskMaster, at least once, in order per task.

One thread per worker process; leases see to it that an event has one sender at a time over all of them.
An outage of the receiver costs a model call nothing: this thread shares only the SQLite file with it.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from lmledger import outbox
from lmledger.store import connect

log = logging.getLogger("lmledger")

POLL_SECONDS = 0.25
TIMEOUT_SECONDS = 10.0
PARALLEL = 4
PAUSE_AFTER_GONE_SECONDS = 600.0
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go. ``api_key`` and ``secret`` are never logged."""

    url: str
    api_key: str = ""
    secret: str = ""
    source: str = "lmstack"


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
    if target.api_key:
        headers["authorization"] = f"Bearer {target.api_key}"
    if target.secret:
        headers["webhook-signature"] = sign(target.secret, event.event_id, int(now), event.payload)
    return headers


def sign(secret: str, event_id: str, timestamp: int, body: str) -> str:
    """Standard Webhooks' ``v1`` signature; a ``whsec_`` secret is base64, any other is taken as it is."""
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        key = secret.encode()
    digest = hmac.new(key, f"{event_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class Sender:
    """Sends until stopped. ``wake`` makes it look at once instead of at the next poll."""

    def __init__(self, path: Path, target: Target) -> None:
        self._path, self._target = path, target
        self._owner = f"{os.getpid()}:{os.urandom(4).hex()}"
        self._wake, self._stop = threading.Event(), threading.Event()
        self._paused_until = 0.0
        self._next_warning = 0.0
        self._thread = threading.Thread(target=self._run, name="lmledger-sender", daemon=True)
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
        if not self._path.exists():
            self._stop.wait(POLL_SECONDS)
            return
        conn = connect(self._path)
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS) as client, ThreadPoolExecutor(PARALLEL) as pool:
                while not self._stop.is_set():
                    if time.time() < self._paused_until or not self._round(conn, client, pool):
                        self._wake.wait(POLL_SECONDS)
                        self._wake.clear()
                outbox.release(conn, self._owner)
        finally:
            conn.close()

    def _round(self, conn: sqlite3.Connection, client: httpx.Client, pool: ThreadPoolExecutor) -> bool:
        events = outbox.lease(conn, self._owner, time.time(), PARALLEL * 8)
        if not events:
            return False
        results = list(pool.map(lambda event: self._post(client, event), events))
        conn.execute("BEGIN IMMEDIATE")
        delivered = [event for event, result in zip(events, results, strict=True) if result is None]
        outbox.mark_delivered(conn, self._owner, delivered, time.time())
        for event, result in zip(events, results, strict=True):
            if result is not None:
                self._settle(conn, event, result)
        conn.execute("COMMIT")
        return True

    def _post(self, client: httpx.Client, event: outbox.Outgoing) -> "Failure | None":
        headers = headers_for(self._target, event, time.time())
        try:
            answer = client.post(self._target.url, content=event.payload.encode(), headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Failure(None, f"{type(error).__name__}: {error}", None)
        if 200 <= answer.status_code < 300:
            return None
        return Failure(answer.status_code, f"HTTP {answer.status_code}", _retry_after(answer, time.time()))

    def _settle(self, conn: sqlite3.Connection, event: outbox.Outgoing, failure: "Failure") -> None:
        status = failure.status
        if status == 410:  # "gone": the receiver asks us to stop; events are kept and tried much later
            self._paused_until = time.time() + PAUSE_AFTER_GONE_SECONDS
            outbox.mark_failed(conn, self._owner, event, time.time(), failure.error, PAUSE_AFTER_GONE_SECONDS)
        elif status is not None and status < 500 and status not in RETRIED:
            outbox.mark_dead(conn, self._owner, event, failure.error)
        else:
            outbox.mark_failed(conn, self._owner, event, time.time(), failure.error, failure.retry_after)
        self._warn(f"TaskMaster did not take an event: {failure.error}")

    def _warn(self, text: str) -> None:
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + 60
            log.warning("delivery: %s", text)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a post was not taken: HTTP status (None: no answer), text, seconds that the receiver asked for."""

    status: int | None
    error: str
    retry_after: float | None


def _retry_after(answer: httpx.Response, now: float) -> float | None:
    value = answer.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp() - now)
