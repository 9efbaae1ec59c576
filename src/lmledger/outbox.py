"""TaskMaster's events: what they say, when they are tried again, and who may send one.

Pure functions and SQL on a connection that the caller owns; no thread, no network.
"""

import json
import random
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timezone

from lmledger.records import Ended, new_id

SUCCEEDED = "litellm.request.succeeded"
FAILED = "litellm.request.failed"
COST = "litellm.cost.recorded"

# Seconds after the 1st, 2nd, ... failed try (Standard Webhooks' spirit, stretched past 72 hours); then dead.
SCHEDULE = (5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
LEASE_SECONDS = 60.0


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
        "task_id": call.attribution.task_id,
        "agent_id": call.attribution.agent_id,
        "call_id": call.call_id,
        "trace_id": call.trace_id,
        "latency_ms": round(end.latency_ms, 3),
        "ttft_ms": None if call.ttft_ms is None else round(call.ttft_ms, 3),
        "attempts": len(call.attempts),
        "fallbacks": fallbacks(end),
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


def fallbacks(end: Ended) -> int:
    """How often the request moved on to another deployment."""
    names = [attempt.deployment for attempt in end.call.attempts]
    return sum(1 for before, after in zip(names, names[1:], strict=False) if before != after)


def put(conn: sqlite3.Connection, type_: str, order_key: str, payload: dict[str, object], now: float) -> None:
    """Queue one event inside the caller's transaction. ``order_key`` "" means: ordered with nothing else."""
    event_id = new_id("evt")
    conn.execute(
        "INSERT INTO outbox (event_id, type, order_key, created_at, payload, next_attempt_at) VALUES (?,?,?,?,?,?)",
        (event_id, type_, order_key or event_id, now, json.dumps(payload, separators=(",", ":")), now),
    )


def lease(conn: sqlite3.Connection, owner: str, now: float, limit: int) -> list[Outgoing]:
    """Take up to ``limit`` events, only those with no earlier open event of the same key, oldest first."""
    conn.execute("BEGIN IMMEDIATE")
    rows = conn.execute(
        """
        SELECT seq, event_id, type, order_key, created_at, payload, attempts FROM outbox AS o
        WHERE state IN ('pending','leased') AND next_attempt_at <= :now
          AND (state = 'pending' OR lease_until <= :now)
          AND NOT EXISTS (SELECT 1 FROM outbox AS e WHERE e.order_key = o.order_key AND e.seq < o.seq
                          AND e.state IN ('pending','leased'))
        ORDER BY next_attempt_at, seq LIMIT :limit
        """,
        {"now": now, "limit": limit},
    ).fetchall()
    conn.executemany(
        "UPDATE outbox SET state = 'leased', lease_owner = ?, lease_until = ? WHERE seq = ?",
        [(owner, now + LEASE_SECONDS, row[0]) for row in rows],
    )
    conn.execute("COMMIT")
    return [Outgoing(*row) for row in rows]


def mark_delivered(conn: sqlite3.Connection, owner: str, events: list[Outgoing], now: float) -> None:
    """Settle what the receiver has taken, unless the lease was lost meanwhile."""
    conn.executemany(
        "UPDATE outbox SET state = 'delivered', delivered_at = ?, attempts = attempts + 1, last_error = NULL, "
        "lease_owner = NULL WHERE seq = ? AND lease_owner = ?",
        [(now, event.seq, owner) for event in events],
    )


def mark_failed(
    conn: sqlite3.Connection, owner: str, event: Outgoing, now: float, error: str, retry_after: float | None
) -> None:
    """Plan the next try by SCHEDULE (or the receiver's Retry-After, in seconds); past the last one it is dead."""
    if event.attempts >= len(SCHEDULE):
        mark_dead(conn, owner, event, error)
        return
    pause = SCHEDULE[event.attempts] * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not secrecy
    if retry_after is not None:
        pause = max(retry_after, 0.0)
    conn.execute(
        "UPDATE outbox SET state = 'pending', attempts = attempts + 1, next_attempt_at = ?, last_error = ?, "
        "lease_owner = NULL WHERE seq = ? AND lease_owner = ?",
        (now + pause, error[:500], event.seq, owner),
    )


def mark_dead(conn: sqlite3.Connection, owner: str, event: Outgoing, error: str) -> None:
    """Give up on an event; it stays listed and can be replayed."""
    conn.execute(
        "UPDATE outbox SET state = 'dead', attempts = attempts + 1, last_error = ?, lease_owner = NULL "
        "WHERE seq = ? AND lease_owner = ?",
        (error[:500], event.seq, owner),
    )


def release(conn: sqlite3.Connection, owner: str) -> None:
    """Give back every lease of ``owner`` at once: on an orderly stop nobody must wait for them to run out."""
    conn.execute(
        "UPDATE outbox SET state = 'pending', lease_owner = NULL WHERE lease_owner = ? AND state = 'leased'", (owner,)
    )


def replay(conn: sqlite3.Connection, now: float, event_id: str | None = None) -> int:
    """Make dead events (one, or all) pending again with their old ids; returns how many."""
    where, args = ("AND event_id = ?", (now, event_id)) if event_id else ("", (now,))
    sql = f"UPDATE outbox SET state = 'pending', attempts = 0, next_attempt_at = ? WHERE state = 'dead' {where}"  # noqa: S608 - literals only
    return conn.execute(sql, args).rowcount
