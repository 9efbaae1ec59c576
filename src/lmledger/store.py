"""The one writer of the ledger: a bounded queue and one thread per worker process, commits in groups.

It never blocks the event loop (hooks await a future), never raises into a request, and keeps what it
could not write in the queue until the file takes it. It must not know LiteLLM.
"""

import asyncio
import json
import logging
import os
import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmledger import outbox
from lmledger.records import Attribution, Call, Ended, Fault, Record, Started
from lmledger.schema import migrate

log = logging.getLogger("lmledger")

QUEUE_SIZE = 20_000
BATCH_SIZE = 500
BEAT_SECONDS = 2.0
# A worker that has not beaten for this long is gone: what it started and never ended was interrupted.
DEAD_AFTER_SECONDS = 15.0
WAIT_SECONDS = 0.5
BUSY_MS = 2000
WARN_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where the ledger is and whether TaskMaster is to be told."""

    path: Path
    events: bool


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger for writing: WAL, so that readers and several workers do not wait for each other."""
    conn = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = NORMAL")  # survives the death of the process; a power cut may cost the tail
    conn.execute("PRAGMA temp_store = MEMORY")
    return conn


class Writer:
    """Takes records from any thread; ``write`` awaits the commit, ``post`` does not."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self.unrecorded = 0
        self._queue: queue.Queue[tuple[Record | None, Callable[[], None] | None]] = queue.Queue(QUEUE_SIZE)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmledger-writer", daemon=True)
        self._next_warning = 0.0
        self._thread.start()

    def post(self, record: Record, done: Callable[[], None] | None = None) -> None:
        """Queue a record; when the queue is full it is counted as unrecorded instead of slowing the request."""
        try:
            self._queue.put_nowait((record, done))
        except queue.Full:
            self.unrecorded += 1
            self._warn(f"{self.unrecorded} records could not be queued: the ledger at {self.options.path} is stuck")

    async def write(self, record: Record) -> None:
        """Queue a record and wait until it is durable, at most WAIT_SECONDS: a stuck disk must not stop a call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not future.done():
                future.set_result(None)

        def done() -> None:
            # The loop may be closed by the time a late commit reports back.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        self.post(record, done)
        try:
            await asyncio.wait_for(future, WAIT_SECONDS)
        except asyncio.TimeoutError:
            self._warn("a commit took longer than the time a request may wait for it; it goes on in the background")

    def flush(self, seconds: float) -> bool:
        """Wait until everything queued so far is committed; False when that takes longer."""
        committed = threading.Event()
        self._queue.put((None, committed.set))
        return committed.wait(seconds)

    def close(self, seconds: float = 5.0) -> None:
        """Commit what is queued and end the thread."""
        self.flush(seconds)
        self._stop.set()
        self._queue.put((None, None))
        self._thread.join(seconds)

    def _warn(self, text: str) -> None:
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + WARN_EVERY_SECONDS
            log.warning("ledger: %s", text)

    def _run(self) -> None:
        conn = self._open()
        next_beat = 0.0
        while conn is not None and not self._stop.is_set():
            batch = self._take(max(0.0, next_beat - time.monotonic()))
            beat = time.monotonic() >= next_beat
            if beat:
                next_beat = time.monotonic() + BEAT_SECONDS
            self._commit(conn, [record for record, _ in batch if record is not None], beat)
            for _, done in batch:
                if done is not None:
                    done()
        if conn is not None:
            conn.close()

    def _open(self) -> sqlite3.Connection | None:
        while not self._stop.is_set():
            try:
                self.options.path.parent.mkdir(parents=True, exist_ok=True)
                conn = connect(self.options.path)
                migrate(conn)
                return conn
            except Exception as error:
                self._warn(f"cannot open {self.options.path}: {error}")
                self._stop.wait(1.0)
        return None

    def _take(self, wait: float) -> list[tuple[Record | None, Callable[[], None] | None]]:
        try:
            batch = [self._queue.get(timeout=wait)] if wait > 0 else [self._queue.get_nowait()]
        except queue.Empty:
            return []
        while len(batch) < BATCH_SIZE:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def _commit(self, conn: sqlite3.Connection, records: list[Record], beat: bool) -> None:
        """Write until it succeeds: a full disk or a locked file is waited out, a poisoned record is left behind."""
        pause = 0.05
        while records or beat:
            try:
                _transaction(conn, records, self.worker, beat, self.options.events)
                return
            except sqlite3.OperationalError as error:  # locked, disk full, I/O error: they pass
                self._warn(f"{error}; {self._queue.qsize() + len(records)} records wait")
                if self._stop.wait(pause):
                    self.unrecorded += len(records)
                    return
                pause = min(pause * 2, 2.0)
            except Exception as error:  # one bad record must not cost its neighbours
                if len(records) <= 1:
                    self.unrecorded += len(records)
                    self._warn(f"a record was refused: {type(error).__name__}: {error}")
                    return
                for record in records:
                    self._commit(conn, [record], False)
                return


def _transaction(conn: sqlite3.Connection, records: list[Record], worker: str, beat: bool, events: bool) -> None:
    conn.execute("BEGIN IMMEDIATE")
    try:
        for record in records:
            if isinstance(record, Started):
                _insert(conn, record.call, worker)
            else:
                _end(conn, record, worker, events)
        if beat:
            _beat(conn, worker, time.time())
            interrupt_orphans(conn, time.time(), events)
    except BaseException:
        conn.execute("ROLLBACK")
        raise
    conn.execute("COMMIT")


def _insert(conn: sqlite3.Connection, call: Call, worker: str) -> None:
    who = call.attribution
    conn.execute(
        "INSERT OR IGNORE INTO requests (id, call_id, trace_id, started_at, status, endpoint, stream, requested_model,"
        " task_id, agent_id, user, key_alias, tags, worker) VALUES (?,?,?,?,'started',?,?,?,?,?,?,?,?,?)",
        (
            call.id, call.call_id, call.trace_id, call.started_at, call.endpoint, call.stream, call.requested_model,
            who.task_id, who.agent_id, who.user, who.key_alias, json.dumps(who.tags) if who.tags else None, worker,
        ),
    )  # fmt: skip


def _end(conn: sqlite3.Connection, end: Ended, worker: str, events: bool) -> None:
    call, last = end.call, end.call.attempts[-1] if end.call.attempts else None
    fault = end.fault
    _insert(conn, call, worker)
    changed = conn.execute(
        "UPDATE requests SET status=?, ended_at=?, call_id=?, trace_id=?, requested_model=?, deployment=?, "
        "served_model=?, provider=?, tier=?, prompt_tokens=?, completion_tokens=?, cached_tokens=?, "
        "reasoning_tokens=?, cost_usd=?, latency_ms=?, ttft_ms=?, attempts=?, fallbacks=?, cache_hit=?, error_type=?, "
        "error_code=?, error_message=? WHERE id=? AND status='started'",
        (
            end.status, end.ended_at, call.call_id, call.trace_id, call.requested_model,
            last.deployment if last else None, last.model if last else None, last.provider if last else None,
            last.tier if last else None, end.usage.prompt, end.usage.completion, end.usage.cached,
            end.usage.reasoning, end.cost_usd, end.latency_ms, call.ttft_ms, len(call.attempts),
            outbox.fallbacks(end), end.cache_hit, fault.type if fault else None, fault.code if fault else None,
            fault.message if fault else None, call.id,
        ),
    ).rowcount  # fmt: skip
    if not changed:
        return  # hooks fire twice, a request ends once
    _insert_attempts(conn, end)
    _announce(conn, end, events)


def _insert_attempts(conn: sqlite3.Connection, end: Ended) -> None:
    conn.executemany(
        "INSERT OR IGNORE INTO attempts VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        [
            (
                end.call.id, number, a.deployment, a.model, a.provider, a.started_at, a.latency_ms,
                a.outcome or "interrupted", a.fault.type if a.fault else None, a.fault.code if a.fault else None,
                a.fault.message if a.fault else None,
            )
            for number, a in enumerate(end.call.attempts, 1)
        ],
    )  # fmt: skip


def _announce(conn: sqlite3.Connection, end: Ended, events: bool) -> None:
    who, cost = end.call.attribution, end.cost_usd
    totals = {kind: _add_total(conn, kind, id_, cost) for kind, id_ in (("task", who.task_id), ("agent", who.agent_id))}
    if not events:
        return
    key = f"task:{who.task_id}" if who.task_id else ""
    kind = outbox.SUCCEEDED if end.status == "succeeded" else outbox.FAILED
    outbox.put(conn, kind, key, outbox.request_payload(end, cost), end.ended_at)
    if cost:
        payload = outbox.cost_payload(end, cost, totals["task"], totals["agent"])
        outbox.put(conn, outbox.COST, key, payload, end.ended_at)


def _add_total(conn: sqlite3.Connection, kind: str, id_: str | None, cost: float | None) -> float | None:
    if id_ is None:
        return None
    row = conn.execute(
        "INSERT INTO totals VALUES (?,?,?,1) ON CONFLICT (kind, id) DO UPDATE SET cost_usd = cost_usd + "
        "excluded.cost_usd, requests = requests + 1 RETURNING cost_usd",
        (kind, id_, cost or 0.0),
    ).fetchone()
    return float(row[0])


def _beat(conn: sqlite3.Connection, worker: str, now: float) -> None:
    conn.execute(
        "INSERT INTO workers VALUES (?,?,?) ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
        (worker, now, now),
    )


def interrupt_orphans(conn: sqlite3.Connection, now: float, events: bool) -> int:
    """Turn rows of dead workers that never ended into ``interrupted``, with their failure events; returns how many."""
    rows = conn.execute(
        "SELECT id, call_id, trace_id, started_at, endpoint, stream, requested_model, task_id, agent_id, user, key_alias, "
        "worker FROM requests WHERE status = 'started' AND worker IN (SELECT id FROM workers WHERE beat_at < ?)",
        (now - DEAD_AFTER_SECONDS,),
    ).fetchall()
    for row in rows:
        who = Attribution(task_id=row[7], agent_id=row[8], user=row[9], key_alias=row[10])
        call = Call(row[0], row[1], row[2], row[3], row[4], bool(row[5]), row[6], who)
        fault = Fault("Interrupted", None, "the proxy stopped before this request had its answer")
        # It was under way no longer than until its worker's last beat; now is an upper bound nobody needs.
        _end(conn, Ended(call, "interrupted", now, (now - row[3]) * 1000, fault=fault), row[11], events)
    conn.execute("DELETE FROM workers WHERE beat_at < ?", (now - DEAD_AFTER_SECONDS,))
    return len(rows)
