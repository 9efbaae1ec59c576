"""TaskMaster's events: what they say, when they are tried again, and who may send one.

Pure functions and SQL on a connection that the caller owns; no thread, no network.
"""

import json
import random
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timezone

from lmstack.ledger.records import Ended, new_id
from lmstack.ledger.schema import writing

SUCCEEDED = "litellm.request.succeeded"
FAILED = "litellm.request.failed"
COST = "litellm.cost.recorded"

# Seconds after the 1st, 2nd, ... failed try (Standard Webhooks' spirit, stretched past 72 hours); then dead.
SCHEDULE = (5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
JITTER = 1.2  # a wait is longer than its step by up to this factor, never shorter
LEASE_SECONDS = 60.0
# A receiver that asks for more is asked again then.
MAX_RETRY_AFTER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One leased event. ``attempts`` counts the tries before this one."""

    seq: int
    event_id: str
    type: str
    order_key: str
    created_at: float
    payload: str
    attempts: int


def iso(when: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(when, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def request_payload(end: Ended, cost: float | None) -> dict[str, object]:
    """The body of a succeeded or failed event (docs/taskmaster-api.yaml)."""
    call, last = end.call, end.call.attempts[-1] if end.call.attempts else None
    fault = end.fault
    return {
        "timestamp": iso(end.ended_at),
        "success": end.status == "succeeded",
        "model": last.model if last else None,
        "model_requested": call.requested_model,
        "provider": last.provider if last else None,
        "input_tokens": end.usage.prompt,
        "output_tokens": end.usage.completion,
        "cost": cost,
        "cost_estimated": end.cost_estimated,
        "task_id": call.attribution.task_id,
        "agent_id": call.attribution.agent_id,
        "call_id": call.call_id,
        "trace_id": call.trace_id,
        "latency_ms": round(end.latency_ms, 3),
        "ttft_ms": None if call.ttft_ms is None else round(call.ttft_ms, 3),
        "attempts": len(call.attempts),
        "fallbacks": end.call.fallbacks,
        "stream": call.stream,
        "error": None if fault is None else {"type": fault.type, "code": fault.code, "message": fault.message},
    }


def cost_payload(end: Ended, cost: float, task_total: float | None, agent_total: float | None) -> dict[str, object]:
    """The body of a cost event; totals are US dollars over all the ledger has seen of the task and the agent."""
    return {
        "task_id": end.call.attribution.task_id,
        "agent_id": end.call.attribution.agent_id,
        "model": end.call.attempts[-1].model if end.call.attempts else None,
        "cost": cost,
        "task_total": task_total,
        "agent_total": agent_total,
        "currency": "USD",
    }


def put(conn: sqlite3.Connection, type_: str, order_key: str, payload: dict[str, object], now: float) -> None:
    """Queue one event inside the caller's transaction. ``order_key`` "" means: ordered with nothing else."""
    event_id = new_id("evt")
    key = order_key or event_id
    conn.execute(
        "INSERT INTO outbox (event_id, type, order_key, created_at, payload, next_attempt_at) VALUES (?,?,?,?,?,?)",
        (event_id, type_, key, now, json.dumps(payload, separators=(",", ":")), now),
    )
    conn.execute("INSERT OR IGNORE INTO lanes (order_key, due_at) VALUES (?,?)", (key, now))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the receiver did not take an event. ``status`` None: no answer; ``retry_after`` in seconds; ``final``: never
    to be tried again."""

    status: int | None
    error: str
    retry_after: float | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """How a run went: how many of its events were delivered, and what stopped it."""

    run: list[Outgoing]
    delivered: int
    failure: Failure | None = None


def lease(
    conn: sqlite3.Connection, owner: str, now: float, lanes: int, run: int, most: int | None = None
) -> list[list[Outgoing]]:
    """Take up to ``lanes`` due lanes for LEASE_SECONDS, each with its first ``run`` events in their order; together not
    more than ``most`` events, where that is given.

    A lease that reaches further than LEASE_SECONDS ahead was made before the clock was set back: it counts for nothing.
    """
    with writing(conn):
        keys = conn.execute(
            "SELECT order_key FROM lanes WHERE due_at <= ?1 AND (lease_until IS NULL OR lease_until <= ?1 OR lease_until > ?2) "
            "ORDER BY due_at LIMIT ?3",
            (now, now + 2 * LEASE_SECONDS, lanes),
        ).fetchall()
        runs, room = [], lanes * run if most is None else most
        for (key,) in keys:
            if room <= 0:
                break
            runs.append(_run(conn, key, min(run, room)))
            room -= len(runs[-1])
        keys = keys[: len(runs)]
        conn.executemany(
            "UPDATE lanes SET lease_owner = ?, lease_until = ? WHERE order_key = ?",
            [(owner, now + LEASE_SECONDS, key) for (key,) in keys],
        )
        leased = [(owner, now + LEASE_SECONDS, event.seq) for one in runs for event in one]
        conn.executemany("UPDATE outbox SET state = 'leased', lease_owner = ?, lease_until = ? WHERE seq = ?", leased)
        empty = [(key,) for (key,), one in zip(keys, runs, strict=True) if not one]
        conn.executemany("DELETE FROM lanes WHERE order_key = ?", empty)
    return [one for one in runs if one]


def _run(conn: sqlite3.Connection, key: str, limit: int) -> list[Outgoing]:
    rows = conn.execute(
        "SELECT seq, event_id, type, order_key, created_at, payload, attempts FROM outbox "
        "WHERE order_key = ? AND state IN ('pending','leased') ORDER BY seq LIMIT ?",
        (key, limit),
    )
    return [Outgoing(*row) for row in rows]


def settle(conn: sqlite3.Connection, owner: str, result: Settled, now: float) -> None:
    """Record a run's outcome and give the lane back, inside the caller's transaction; a lost lease settles nothing."""
    key = result.run[0].order_key
    held = conn.execute("SELECT 1 FROM lanes WHERE order_key = ? AND lease_owner = ?", (key, owner)).fetchone()
    if held is None:
        return
    done, rest = result.run[: result.delivered], result.run[result.delivered :]
    conn.executemany(
        "UPDATE outbox SET state = 'delivered', delivered_at = ?, attempts = attempts + 1, last_error = NULL, "
        "lease_owner = NULL WHERE seq = ? AND event_id = ?",
        [(now, event.seq, event.event_id) for event in done],
    )
    conn.executemany(
        "UPDATE outbox SET state = 'pending', lease_owner = NULL WHERE seq = ? AND event_id = ?",
        [(event.seq, event.event_id) for event in rest],
    )
    due, asked = now, False
    if result.failure is not None and rest:
        due, asked = _fail(conn, rest[0], result.failure, now)
    conn.execute(
        "UPDATE lanes SET due_at = ?, asked = ?, lease_owner = NULL, lease_until = NULL WHERE order_key = ?",
        (due, asked, key),
    )
    conn.execute(
        "DELETE FROM lanes WHERE order_key = ?1 AND NOT EXISTS "
        "(SELECT 1 FROM outbox WHERE order_key = ?1 AND state IN ('pending','leased'))",
        (key,),
    )


def _fail(conn: sqlite3.Connection, event: Outgoing, failure: Failure, now: float) -> tuple[float, bool]:
    """One more failed try: dead, or when its lane is due again, and whether the receiver named that time."""
    sql = "SELECT next_attempt_at FROM outbox WHERE seq = ? AND event_id = ?"
    found = conn.execute(sql, (event.seq, event.event_id)).fetchone()
    if found is None:  # removed to keep the ledger within its bounds
        return now, False
    # A try before its time (after an outage, or after the clock was set back) does not use up the schedule.
    early = min(found[0] - now, longest_wait(event.attempts))
    step = SCHEDULE[min(event.attempts, len(SCHEDULE) - 1)]
    own = early if early > 0 else step * random.uniform(1.0, JITTER)  # noqa: S311 - jitter, not secrecy
    named = min(failure.retry_after or 0.0, MAX_RETRY_AFTER_SECONDS)
    # Nor does a try after which the receiver names a later time than ours: it is there, and says when.
    asked = named > own
    counts = failure.final or not (asked or early > 0)
    dead = failure.final or (counts and event.attempts >= len(SCHEDULE))
    pause = 0.0 if dead else max(own, named)
    conn.execute(
        "UPDATE outbox SET state = ?, attempts = attempts + ?, next_attempt_at = ?, last_error = ? WHERE seq = ?",
        ("dead" if dead else "pending", counts, now + pause, failure.error[:500], event.seq),
    )
    return now + pause, asked and not dead


def longest_wait(attempts: int) -> float:
    """Seconds that our schedule puts between the last counted try and the next one, at most."""
    return SCHEDULE[min(attempts, len(SCHEDULE)) - 1] * JITTER if attempts else 0.0


def hurry(conn: sqlite3.Connection, now: float) -> int:
    """After an outage: what waits by our schedule is due now; what the receiver put off itself is not."""
    return conn.execute("UPDATE lanes SET due_at = ? WHERE due_at > ? AND asked = 0", (now, now)).rowcount


def clock_set_back(conn: sqlite3.Connection, now: float) -> int:
    """After the clock was set back: nothing waits longer than a receiver may ask for."""
    sql = "UPDATE lanes SET due_at = ?1 WHERE due_at > ?1 AND (asked = 0 OR due_at > ?1 + ?2)"
    return conn.execute(sql, (now, MAX_RETRY_AFTER_SECONDS)).rowcount


def mend_due_times(conn: sqlite3.Connection, now: float) -> int:
    """Make due what waits longer than any try explains: the clock was set back while nobody was looking."""
    conn.create_function("longest_wait", 1, longest_wait, deterministic=True)
    return conn.execute(
        "UPDATE lanes SET due_at = ?1 WHERE due_at > ?1 + CASE WHEN asked THEN ?2 ELSE 0 END AND due_at > ?1 + "
        "(SELECT longest_wait(attempts) FROM outbox WHERE outbox.order_key = lanes.order_key "
        "AND state IN ('pending','leased') ORDER BY seq LIMIT 1)",
        (now, MAX_RETRY_AFTER_SECONDS),
    ).rowcount


def release(conn: sqlite3.Connection, owner: str) -> None:
    """Give back every lease of ``owner`` at once: on an orderly stop nobody must wait for them to run out."""
    conn.execute(
        "UPDATE outbox SET state = 'pending', lease_owner = NULL WHERE lease_owner = ? AND state = 'leased'", (owner,)
    )
    conn.execute("UPDATE lanes SET lease_owner = NULL, lease_until = NULL WHERE lease_owner = ?", (owner,))


def replay(conn: sqlite3.Connection, now: float, event_id: str | None = None) -> int:
    """Make dead events (one, or all) pending again with their old ids; returns how many."""
    with writing(conn):
        conn.execute(
            "INSERT OR IGNORE INTO lanes (order_key, due_at) SELECT order_key, ?2 FROM outbox "
            "WHERE state = 'dead' AND (?1 IS NULL OR event_id = ?1)",
            (event_id, now),
        )
        return conn.execute(
            "UPDATE outbox SET state = 'pending', attempts = 0, next_attempt_at = ?2 "
            "WHERE state = 'dead' AND (?1 IS NULL OR event_id = ?1)",
            (event_id, now),
        ).rowcount
