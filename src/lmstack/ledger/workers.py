"""The ledger's table of workers: heartbeats, and the requests that a dead worker left open."""

import sqlite3
import time
from collections.abc import Iterable, Sequence

from lmstack.ledger import client_retries, outbox, sums
from lmstack.ledger.apply import apply_alone, end_request
from lmstack.ledger.records import Attribution, Call, Ended, Fault, Record, Verdict
from lmstack.ledger.schema import writing
from lmstack.ledger.sums import Sums


def write_heartbeat(conn: sqlite3.Connection, worker: str, now: float) -> None:
    """Show the other workers that this one is alive."""
    conn.execute(
        "INSERT INTO workers VALUES (?,?,?) ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
        (worker, now, now),
    )


def heartbeats(conn: sqlite3.Connection) -> dict[str, float]:
    """Return the last heartbeat of each worker."""
    return dict(conn.execute("SELECT id, beat_at FROM workers").fetchall())


def leave(conn: sqlite3.Connection, worker: str) -> None:
    """Remove a worker that stops. If it leaves a request open, its row stays, and another worker ends the request."""
    sql = "DELETE FROM workers WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM requests WHERE status = 'started' AND worker = ?1)"
    conn.execute(sql, (worker,))


def adopt(conn: sqlite3.Connection, records: Sequence[Record], worker: str, send_events: bool) -> list[Verdict]:
    """Apply the records in a dead worker's spool file in one transaction. Interrupt the requests that it never ended."""
    with writing(conn):
        verdicts = [apply_alone(conn, record, worker, send_events) for record in records]
        interrupt_requests(conn, [worker], time.time(), send_events)
    return verdicts


def interrupt_requests(conn: sqlite3.Connection, dead: Iterable[str], now: float, send_events: bool) -> int:
    """Set the open requests of dead workers to ``interrupted``, and queue their events. Return how many there were.

    The cost is the estimate from the start, marked as an estimate. The real charge of the provider is unknown.
    """
    count = 0
    batch = Sums()
    dead = tuple(dead)
    for worker in dead:
        rows = conn.execute(
            "SELECT id, call_id, trace_id, started_at, endpoint, stream, requested_model, task_id, agent_id, user, "
            "key_alias, team, estimate_usd, reserved_usd, client_key FROM requests WHERE status = 'started' AND worker = ?",
            (worker,),
        ).fetchall()
        for row in rows:
            end_request(conn, _interrupted(conn, row, now, dead), worker, send_events, batch)
        outbox.release(conn, worker)
        count += len(rows)
        conn.execute("DELETE FROM workers WHERE id = ?", (worker,))
    sums.write(conn, batch)
    return count


def _interrupted(conn: sqlite3.Connection, row: Sequence[object], now: float, dead: Sequence[str]) -> Ended:
    id_, call_id, trace_id, started_at, endpoint, stream, model, task, agent, user, key_alias, team, estimate, reserved, client_key = row  # fmt: skip
    who = Attribution(task_id=task, agent_id=agent, user=user, key_alias=key_alias, team=team)  # type: ignore[arg-type]
    call = Call(id_, call_id, trace_id, started_at, endpoint, bool(stream), model, who, estimate_usd=estimate, client_key=client_key)  # type: ignore[arg-type]  # fmt: skip
    # Its budgets are not known any more: assume all of them.
    call.limited = () if reserved is None else ("task", "agent", "team", "key")
    # Only one of the two is charged: see client_retries.
    cost = 0.0 if call.estimate_usd and client_retries.take_retry(conn, call, dead) else call.estimate_usd
    # The end of an answer that is no stream is written before the answer is sent.
    sent = "a part of its stream may have been sent" if stream else "nothing was sent to the client"
    return Ended(
        call,
        "interrupted",
        now,
        max(0.0, (now - call.started_at) * 1000),
        cost_usd=cost,
        cost_estimated=cost is not None,
        fault=Fault(client_retries.INTERRUPTED, None, f"the proxy stopped before this request had its answer; {sent}"),
    )
