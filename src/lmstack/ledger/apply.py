"""Records as SQL: what a start, an end and an orphan do to the ledger, each inside the caller's transaction.

Pure database work on a connection that somebody else owns; no thread, no LiteLLM.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lmstack.ledger import outbox, spending
from lmstack.ledger.records import Attribution, Call, Ended, Fault, Record, Verdict
from lmstack.ledger.schema import writing

log = logging.getLogger(__name__)

# The error of a request whose worker was taken for dead.
MADE_UP = "Interrupted"
# No request costs more; a cost that says so is an error of whoever told it.
MAX_COST_USD = 1e6

Sums = dict[tuple[str, str, int], list[float]]


# What the value of one record does, and no state of the file.
_REFUSALS = (
    ValueError, TypeError, OverflowError, sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)  # fmt: skip


def transaction(conn: sqlite3.Connection, records: Sequence[Record], worker: str, events: bool) -> list[Verdict]:
    """Apply records in one transaction and return a verdict for each; raises sqlite3.Error with nothing applied. What
    SQLite refuses is not durable: the others must not wait behind it for ever."""
    try:
        with writing(conn):
            return apply(conn, records, worker, events)
    except _REFUSALS:
        with writing(conn):
            return [_apply_alone(conn, record, worker, events) for record in records]


def adopt(conn: sqlite3.Connection, records: Sequence[Record], worker: str, events: bool) -> list[Verdict]:
    """Apply what a dead worker had in its spool; what it never ended is interrupted."""
    with writing(conn):
        verdicts = [_apply_alone(conn, record, worker, events) for record in records]
        interrupt_orphans(conn, [worker], time.time(), events)
    return verdicts


def _apply_alone(conn: sqlite3.Connection, record: Record, worker: str, events: bool) -> Verdict:
    conn.execute("SAVEPOINT alone")
    try:
        return apply(conn, [record], worker, events)[0]
    except _REFUSALS:
        log.exception("ledger: SQLite refuses a record")
        conn.execute("ROLLBACK TO alone")
        return Verdict(False, checked=False)
    finally:
        conn.execute("RELEASE alone")


def apply(conn: sqlite3.Connection, records: Iterable[Record], worker: str, events: bool) -> list[Verdict]:
    """Apply records inside the caller's transaction and return a verdict for each. Applying one twice changes nothing."""
    sums: Sums = {}
    verdicts = []
    for record in records:
        over = None
        if isinstance(record, Ended):
            _end(conn, record, worker, events, sums)
        else:
            if record.limits:
                _add_rollups(conn, sums)  # what ended earlier in this batch counts too
                sums.clear()
                over = spending.over(conn, record.limits, time.time())
            if over is None:
                _insert(conn, record.call, worker)
        verdicts.append(Verdict(over is None, over))
    _add_rollups(conn, sums)
    return verdicts


def beat(conn: sqlite3.Connection, worker: str, now: float) -> None:
    """Show that a worker lives."""
    conn.execute(
        "INSERT INTO workers VALUES (?,?,?) ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
        (worker, now, now),
    )


def beats(conn: sqlite3.Connection) -> dict[str, float]:
    """The last beat of each worker."""
    return dict(conn.execute("SELECT id, beat_at FROM workers").fetchall())


def interrupt_orphans(conn: sqlite3.Connection, dead: Iterable[str], now: float, events: bool) -> int:
    """Turn what dead workers never ended into ``interrupted``, with its failure event; returns how many rows.

    The cost is the estimate made at the start, flagged as such: what the provider really charged, nobody knows.
    """
    count = 0
    sums: Sums = {}
    for worker in dead:
        rows = conn.execute(
            "SELECT id, call_id, trace_id, started_at, endpoint, stream, requested_model, task_id, agent_id, user, "
            "key_alias, estimate_usd FROM requests WHERE status = 'started' AND worker = ?",
            (worker,),
        ).fetchall()
        for row in rows:
            who = Attribution(task_id=row[7], agent_id=row[8], user=row[9], key_alias=row[10])
            call = Call(row[0], row[1], row[2], row[3], row[4], bool(row[5]), row[6], who, estimate_usd=row[11])
            fault = Fault(MADE_UP, None, "the proxy stopped before this request had its answer")
            end = Ended(
                call,
                "interrupted",
                now,
                max(0.0, (now - row[3]) * 1000),
                cost_usd=row[11],
                cost_estimated=row[11] is not None,
                fault=fault,
            )
            _end(conn, end, worker, events, sums)
        outbox.release(conn, worker)
        count += len(rows)
        conn.execute("DELETE FROM workers WHERE id = ?", (worker,))
    _add_rollups(conn, sums)
    return count


def _insert(conn: sqlite3.Connection, call: Call, worker: str) -> None:
    who = call.attribution
    conn.execute(
        "INSERT OR IGNORE INTO requests (id, call_id, trace_id, started_at, status, endpoint, stream, requested_model,"
        " task_id, agent_id, user, key_alias, tags, worker, estimate_usd, reserved_usd) VALUES (?,?,?,?,'started',?,?,?,?,?,?,?,?,?,?,?)",
        (
            call.id, call.call_id, call.trace_id, call.started_at, call.endpoint, call.stream, call.requested_model,
            who.task_id, who.agent_id, who.user, who.key_alias, json.dumps(who.tags) if who.tags else None, worker,
            call.estimate_usd, call.reserved_usd,
        ),
    )  # fmt: skip


_END = (
    "UPDATE requests SET status=?, ended_at=?, call_id=?, trace_id=?, requested_model=?, deployment=?, "
    "served_model=?, provider=?, tier=?, prompt_tokens=?, completion_tokens=?, cached_tokens=?, "
    "reasoning_tokens=?, cost_usd=?, latency_ms=?, ttft_ms=?, attempts=?, fallbacks=?, cache_hit=?, error_type=?, "
    "error_code=?, error_message=?, cost_estimated=? WHERE id=? AND status='started'"
)


def _end(conn: sqlite3.Connection, end: Ended, worker: str, events: bool, sums: Sums) -> None:
    if end.cost_usd is not None and not 0 <= end.cost_usd < MAX_COST_USD:
        end = replace(end, cost_usd=None)  # a cost below nothing would refund a budget
    call, last = end.call, end.call.attempts[-1] if end.call.attempts else None
    fault = end.fault
    values = (
        end.status, end.ended_at, call.call_id, call.trace_id, call.requested_model,
        last.deployment if last else None, last.model if last else None, last.provider if last else None,
        last.tier if last else None, end.usage.prompt, end.usage.completion, end.usage.cached,
        end.usage.reasoning, end.cost_usd, end.latency_ms, call.ttft_ms, len(call.attempts),
        call.fallbacks, end.cache_hit, fault.type if fault else None, fault.code if fault else None,
        fault.message if fault else None, end.cost_estimated, call.id,
    )  # fmt: skip
    changed = conn.execute(_END, values).rowcount
    if not changed:  # its start never came this way
        _insert(conn, call, worker)
        changed = conn.execute(_END, values).rowcount
    if not changed and _take_back(conn, call.id, sums):
        changed = conn.execute(_END, values).rowcount
    if not changed:
        return  # hooks fire twice, a request ends once
    _insert_attempts(conn, end)
    _announce(conn, end, events)
    _sum_up(end, sums)


def _take_back(conn: sqlite3.Connection, request_id: str, sums: Sums) -> bool:
    """Undo an end that another worker made up when it took this one for dead; whether there was one."""
    row = conn.execute(
        "SELECT cost_usd, task_id, agent_id, user, requested_model, started_at FROM requests WHERE id = ? AND "
        "status = 'interrupted' AND error_type = ?",
        (request_id, MADE_UP),
    ).fetchone()
    if row is None:
        return False
    cost, task, agent, user, model, started_at = row
    for kind, name in (("task", task), ("agent", agent)):
        sql = "UPDATE totals SET cost_usd = MAX(0, cost_usd - ?), requests = requests - 1 WHERE kind = ? AND id = ?"
        conn.execute(sql, (cost or 0.0, kind, name))
    line = (-1, -1, 0, 0, -(cost or 0.0), -(cost is None))
    _sum(
        sums,
        {"task": task, "agent": agent, "model": model, "provider": None, "tier": None, "user": user},
        started_at,
        line,
    )
    conn.execute("UPDATE requests SET status = 'started' WHERE id = ?", (request_id,))
    return True


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
    if cost and not end.cost_estimated:
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


def _sum_up(end: Ended, sums: Sums) -> None:
    """Add one request to the batch's sums: a batch writes each rollup row once."""
    call, last, who = end.call, end.call.attempts[-1] if end.call.attempts else None, end.call.attribution
    good = end.status == "succeeded"
    line = (
        1,
        not good,
        end.usage.prompt or 0,
        end.usage.completion or 0,
        end.cost_usd or 0.0,
        end.status in ("succeeded", "interrupted") and end.cost_usd is None,
    )
    names = {
        "task": who.task_id,
        "agent": who.agent_id,
        "model": (last.deployment if last else None) or call.requested_model,
        "provider": last.provider if last else None,
        "tier": str(last.tier) if last and last.tier is not None else None,
        "user": who.user,
    }
    _sum(sums, names, call.started_at, line)


def _sum(sums: Sums, names: Mapping[str, str | None], started_at: float, line: Sequence[float]) -> None:
    """Add one line to the sums of its hour, under each dimension's name."""
    hour = int(started_at) // 3600
    for dimension, name in names.items():
        total = sums.setdefault((dimension, name if name is not None else "(none)", hour), [0.0] * 6)
        for place, value in enumerate(line):
            total[place] += value


def _add_rollups(conn: sqlite3.Connection, sums: Sums) -> None:
    conn.executemany(
        "INSERT INTO rollups VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (dimension, hour, name) DO UPDATE SET "
        "requests = requests + excluded.requests, failures = failures + excluded.failures, "
        "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
        "completion_tokens = completion_tokens + excluded.completion_tokens, "
        "cost_usd = cost_usd + excluded.cost_usd, unpriced = unpriced + excluded.unpriced",
        [
            (d, name, hour, int(r), int(f), int(p), int(c), cost, int(u))
            for (d, name, hour), (r, f, p, c, cost, u) in sums.items()
        ],
    )
