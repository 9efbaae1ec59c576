"""Write records to the ledger with SQL. Runs on a connection that the caller owns; no thread, no LiteLLM.

Each record may be applied twice: a COMMIT can succeed although SQLite reports an error. The request's id decides.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace

from lmstack.ledger import client_retries, events, keys, outbox, refusals, soft_limits, spending, sums
from lmstack.ledger.records import Call, Ended, ExceededLimit, Record, Refused, Started, Verdict
from lmstack.ledger.schema import writing
from lmstack.ledger.sums import Sums

log = logging.getLogger(__name__)

# No request costs more. A higher cost is an error of the program that reported it.
MAX_COST_USD = 1e6

# Errors that come from the values of one record, not from the state of the file.
_REFUSALS = (
    ValueError, TypeError, OverflowError, sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)  # fmt: skip


def transaction(conn: sqlite3.Connection, records: Sequence[Record], worker: str, send_events: bool) -> list[Verdict]:
    """Apply records in one transaction and return a verdict for each.

    A record that SQLite refuses is not durable, and does not stop the others. Raises sqlite3.Error with nothing applied.
    """
    try:
        with writing(conn):
            return apply(conn, records, worker, send_events)
    except _REFUSALS:
        with writing(conn):
            return [apply_alone(conn, record, worker, send_events) for record in records]


def apply_alone(conn: sqlite3.Connection, record: Record, worker: str, send_events: bool) -> Verdict:
    """Apply one record inside the caller's transaction. Undo only this record when SQLite refuses it."""
    conn.execute("SAVEPOINT alone")
    try:
        return apply(conn, [record], worker, send_events)[0]
    except _REFUSALS:
        log.exception("ledger: SQLite refuses a record; it is lost")
        conn.execute("ROLLBACK TO alone")
        return Verdict(False, checked=False)
    finally:
        if conn.in_transaction:
            conn.execute("RELEASE alone")


def apply(conn: sqlite3.Connection, records: Sequence[Record], worker: str, send_events: bool) -> list[Verdict]:
    """Apply records inside the caller's transaction and return a verdict for each."""
    batch = Sums()
    verdicts = []
    for record in records:
        if isinstance(record, Ended):
            end_request(conn, record, worker, send_events, batch)
            verdicts.append(Verdict(True))
        elif isinstance(record, Refused):
            refusals.write(conn, record)
            verdicts.append(Verdict(True))
        else:
            verdicts.append(_start_request(conn, record, worker, batch))
    sums.write(conn, batch)
    soft_limits.report(conn, records, time.time(), send_events)
    return verdicts


def _start_request(conn: sqlite3.Connection, start: Started, worker: str, batch: Sums) -> Verdict:
    call = start.call
    if (start.limits or call.client_key) and _is_recorded(conn, call.id):
        return Verdict(True)  # its own reservation must not count against it, and it releases nothing twice
    repeated = client_retries.repeated_by(conn, call)
    if repeated is None:
        return _admit(conn, start, worker, batch)
    sums.write(conn, batch)
    batch.clear()
    conn.execute("SAVEPOINT retry")
    client_retries.release(conn, repeated, batch)
    verdict = _admit(conn, start, worker, batch)
    if verdict.durable:
        client_retries.mark(conn, call.id, repeated)
    else:  # a retry that is refused releases nothing
        conn.execute("ROLLBACK TO retry")
        batch.clear()
    conn.execute("RELEASE retry")
    return verdict


def _admit(conn: sqlite3.Connection, start: Started, worker: str, batch: Sums) -> Verdict:
    left = None
    if start.limits:
        sums.write(conn, batch)  # a request that ended earlier in this batch counts, too
        batch.clear()
        room = spending.room(conn, start.limits, time.time())
        if isinstance(room, ExceededLimit):
            return Verdict(False, room)
        left = room
    _insert(conn, start.call, worker)
    return Verdict(True, room_usd=left)


def _is_recorded(conn: sqlite3.Connection, request_id: str) -> bool:
    """Return whether an earlier try has admitted this request."""
    return conn.execute("SELECT 1 FROM requests WHERE id = ?", (request_id,)).fetchone() is not None


def _insert(conn: sqlite3.Connection, call: Call, worker: str) -> None:
    who = call.attribution
    conn.execute(
        "INSERT OR IGNORE INTO requests (id, call_id, trace_id, started_at, status, endpoint, stream, requested_model,"
        " task_id, agent_id, user, key_alias, team, tags, worker, estimate_usd, reserved_usd, client_key, asked)"
        " VALUES (?,?,?,?,'started',?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            call.id, call.call_id, call.trace_id, call.started_at, call.endpoint, call.stream, call.requested_model,
            who.task_id, who.agent_id, who.user, who.key_alias, who.team, json.dumps(who.tags) if who.tags else None, worker,
            call.estimate_usd, call.reserved_usd, call.client_key, json.dumps(call.asked) if call.asked else None,
        ),
    )  # fmt: skip


_END = (
    "UPDATE requests SET status=?, ended_at=?, call_id=?, trace_id=?, requested_model=?, deployment=?, "
    "served_model=?, provider=?, tier=?, prompt_tokens=?, completion_tokens=?, cached_tokens=?, "
    "reasoning_tokens=?, cost_usd=?, latency_ms=?, ttft_ms=?, attempts=?, fallbacks=?, cache_hit=?, error_type=?, "
    "error_code=?, error_message=?, cost_estimated=? WHERE id=? AND status='started'"
)


def end_request(conn: sqlite3.Connection, end: Ended, worker: str, send_events: bool, batch: Sums) -> None:
    """End a request: its row, attempts, sums and events. Does nothing for a request that has ended already."""
    if end.cost_usd is not None and not 0 <= end.cost_usd < MAX_COST_USD:
        end = replace(end, cost_usd=None)  # a negative cost would refund a budget
    if not _update_row(conn, end, worker, batch):
        return
    _insert_attempts(conn, end)
    _queue_events(conn, end, send_events)
    keys.note_use(conn, end.call.attribution.key_alias, end.call.started_at)
    sums.count(end, batch)


def _update_row(conn: sqlite3.Connection, end: Ended, worker: str, batch: Sums) -> bool:
    """Return whether the row was open, or is new, or had only an assumed end."""
    values = _end_values(end)
    if conn.execute(_END, values).rowcount:
        return True
    _insert(conn, end.call, worker)  # the start was never written
    if conn.execute(_END, values).rowcount:
        return True
    return _reopen_interrupted(conn, end.call.id, batch) and bool(conn.execute(_END, values).rowcount)


def _end_values(end: Ended) -> tuple[object, ...]:
    call, last = end.call, end.call.attempts[-1] if end.call.attempts else None
    fault = end.fault
    return (
        end.status, end.ended_at, call.call_id, call.trace_id, call.requested_model,
        last.deployment if last else None, last.model if last else None, last.provider if last else None,
        last.tier if last else None, end.usage.prompt, end.usage.completion, end.usage.cached,
        end.usage.reasoning, end.cost_usd, end.latency_ms, call.ttft_ms, len(call.attempts),
        call.fallbacks, end.cache_hit, fault.type if fault else None, fault.code if fault else None,
        fault.message if fault else None, end.cost_estimated, call.id,
    )  # fmt: skip


def _reopen_interrupted(conn: sqlite3.Connection, request_id: str, batch: Sums) -> bool:
    """Undo the end that another worker assumed when it took this one for dead. Return whether there was one."""
    sql = "UPDATE requests SET status = 'started' WHERE id = ? AND status = 'interrupted' AND error_type = ?"
    if not conn.execute(sql, (request_id, client_retries.INTERRUPTED)).rowcount:
        return False
    sums.uncount_interrupted(conn, request_id, batch)
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


def _queue_events(conn: sqlite3.Connection, end: Ended, send_events: bool) -> None:
    """Add the cost to the totals of task and agent, and queue the events that TaskMaster gets."""
    who, cost = end.call.attribution, end.cost_usd
    task_total = sums.add_to_total(conn, "task", who.task_id, end)
    agent_total = sums.add_to_total(conn, "agent", who.agent_id, end)
    sums.add_to_total(conn, "team", who.team, end)
    sums.add_to_total(conn, "key", who.key_alias, end)
    if not send_events:
        return
    key = f"task:{who.task_id}" if who.task_id else ""
    kind = events.SUCCEEDED if end.status == "succeeded" else events.FAILED
    outbox.put(conn, kind, key, events.request_payload(end, cost), end.ended_at)
    if cost and not end.cost_estimated:
        payload = events.cost_payload(end, cost, task_total, agent_total)
        outbox.put(conn, events.COST, key, payload, end.ended_at)
