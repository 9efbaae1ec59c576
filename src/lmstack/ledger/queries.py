"""Read the ledger. Opens it read-only (except for CHANGES), and never migrates it. Needs only the standard library.

``python -m lmstack.ledger.queries PATH NAME '{"since": ...}'`` answers as JSON. That is how the CLI reads a ledger
inside a container. Times are Unix seconds; costs are US dollars.
"""

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmstack.ledger import alerts, outbox, refusals, spending
from lmstack.ledger.filters import FAILED, Filter
from lmstack.ledger.key_queries import budget_row, change_key, key_audit, key_of_hash, key_rows, key_usage
from lmstack.ledger.keys import KeyChangeError
from lmstack.ledger.schema import LedgerVersionError, check_version, connect
from lmstack.ledger.timing import DEAD_AFTER_SECONDS
from lmstack.ledger.usage import NO_END, usage
from lmstack.routing.budgets import EVERY, parse_limits

Rows = list[dict[str, Any]]


def open_ledger(path: Path) -> sqlite3.Connection:
    """Return a read-only connection. Raise FileNotFoundError, LedgerVersionError or sqlite3.Error when that fails."""
    if not path.exists():
        raise FileNotFoundError(path)
    conn = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
    conn.row_factory = sqlite3.Row
    if not check_version(conn):  # the gateway has started just now, and has not made its tables yet
        conn.close()
        raise FileNotFoundError(path)
    return conn


def requests(
    conn: sqlite3.Connection, since: float = 0.0, failed: bool = False, task: str | None = None, limit: int = 50
) -> Rows:
    """Return requests, the newest first. An open request of a dead worker is shown as interrupted."""
    return filtered(
        conn, Filter(FAILED if failed else None, {} if task is None else {"task": task}), since, limit=limit
    )


def filtered(
    conn: sqlite3.Connection, wanted: Filter, since: float = 0.0, until: float | None = None, limit: int = 50
) -> Rows:
    """Return the requests that a filter admits and that started in a span, the newest first."""
    conditions, values = wanted.sql()
    args: list[Any] = [time.time() - DEAD_AFTER_SECONDS, since, *([] if until is None else [until]), *values, limit]
    where = " AND ".join(["started_at >= ?", *([] if until is None else ["started_at < ?"]), *conditions])
    status = (
        "CASE WHEN status = 'started' AND worker NOT IN (SELECT id FROM workers WHERE beat_at >= ?) "
        "THEN 'interrupted' ELSE status END AS status"
    )
    sql = f"SELECT *, {status} FROM requests WHERE {where} ORDER BY started_at DESC LIMIT ?"  # noqa: S608 - literals
    return _rows(conn, sql, tuple(args))


def request(conn: sqlite3.Connection, id: str) -> Rows:  # noqa: A002 - the name of the column
    """Return the request with this id, or with LiteLLM's call id, with its attempts and events; empty when there is none.

    The beginning of an id is enough. Return up to five requests when several begin with it.
    """
    found = _rows(conn, "SELECT * FROM requests WHERE id = ? OR call_id = ? LIMIT 1", (id, id))
    if not found and id.startswith("req_"):
        found = _rows(conn, "SELECT * FROM requests WHERE id >= ? AND id < ? LIMIT 5", (id, f"{id}~"))
    for row in found:
        row["attempt_list"] = _rows(conn, "SELECT * FROM attempts WHERE request_id = ? ORDER BY number", (row["id"],))
        row["event_list"] = _rows(
            conn,
            "SELECT event_id, type, state, attempts, delivered_at, last_error FROM outbox WHERE created_at >= ? AND "
            "json_extract(payload, '$.call_id') = ? ORDER BY seq",
            (row["started_at"], row["call_id"]),
        )
    return found


def errors(conn: sqlite3.Connection, since: float = 0.0, until: float = NO_END) -> Rows:
    """Return errors by kind, the most frequent first: failed attempts, and requests that were refused before any."""
    sql = """
        SELECT error_type, error_code, provider, deployment, COUNT(*) AS count, MAX(started_at) AS last_at, error_message
        FROM (
            SELECT error_type, error_code, provider, deployment, started_at, error_message FROM attempts
            WHERE outcome != 'succeeded' AND started_at >= :since AND started_at < :until
            UNION ALL
            SELECT error_type, error_code, NULL, requested_model, started_at, error_message FROM requests
            WHERE status = 'rejected' AND started_at >= :since AND started_at < :until
        ) GROUP BY error_type, error_code, provider, deployment ORDER BY count DESC, last_at DESC
        """
    return _rows(conn, sql, {"since": since, "until": until})


def last_attempts(conn: sqlite3.Connection, since: float = 0.0, limit: int = 300) -> Rows:
    """Return the attempts of the last requests, the newest first. Requests that were wrong in themselves (400) are left out."""
    sql = """
        SELECT a.deployment, a.provider, a.outcome, a.error_type, a.error_code, a.error_message,
               a.started_at + COALESCE(a.latency_ms, 0) / 1000 AS ended_at
        FROM (SELECT id FROM requests WHERE started_at >= ? AND COALESCE(error_code, '') != '400'
              ORDER BY started_at DESC LIMIT ?) r
        JOIN attempts a ON a.request_id = r.id
        WHERE a.outcome IN ('succeeded', 'failed') ORDER BY ended_at DESC
        """
    return _rows(conn, sql, (since, limit))


def refused(conn: sqlite3.Connection, since: float = 0.0, until: float = NO_END) -> Rows:
    """Return one row: how many requests were refused before LiteLLM saw them, by reason, and the last of them.

    A ledger of an earlier version has none of it until a gateway of this version has written to it.
    """
    with contextlib.suppress(sqlite3.OperationalError):
        return [{"counts": refusals.counts(conn, since, until), "last": refusals.last(conn, since, until)}]
    return [{"counts": [], "last": []}]


def events(conn: sqlite3.Connection, state: str | None = None, limit: int = 50) -> Rows:
    """Return events of the outbox, the newest first. ``state`` is pending, leased, delivered or dead."""
    where, args = ("WHERE state = ?", (state, limit)) if state else ("", (limit,))
    columns = "seq, event_id, type, order_key, created_at, state, attempts, next_attempt_at, delivered_at, last_error"
    return _rows(conn, f"SELECT {columns} FROM outbox {where} ORDER BY seq DESC LIMIT ?", args)  # noqa: S608 - literals


def event_counts(conn: sqlite3.Connection) -> Rows:
    """Return how many events are in each state, and the time of the oldest one."""
    return _rows(
        conn,
        "SELECT state, COUNT(*) AS events, MIN(created_at) AS oldest FROM outbox GROUP BY state ORDER BY state",
        (),
    )


def status(conn: sqlite3.Connection) -> Rows:
    """Return one row: how many requests the ledger has, and when the last one started."""
    return _rows(conn, "SELECT COUNT(*) AS requests, MAX(started_at) AS last_started_at FROM requests", ())


def budgets(conn: sqlite3.Connection, rules: list[dict[str, Any]]) -> Rows:
    """Return each budget with ``spent_usd`` and ``reserved_usd``. A rule for everybody (``*``) gives a row per top spender."""
    now, rows = time.time(), []
    configured = parse_limits(rules)
    own = {(rule.scope, rule.period, rule.name) for rule in configured}
    for rule in configured:
        names = [rule.name]
        if rule.name == EVERY:
            spenders = spending.spenders(conn, rule.scope, rule.period, now)
            names = [name for name in spenders if (rule.scope, rule.period, name) not in own]
        for limit in (replace(rule, name=name) for name in names):
            rows.append({**budget_row(conn, limit, now), "rule": rule.name or None})
    return rows


QUERIES: dict[str, Callable[..., Rows]] = {
    "usage": usage, "requests": requests, "request": request, "events": events, "event_counts": event_counts,
    "status": status, "budgets": budgets, "errors": errors, "last_attempts": last_attempts,
    "refused": refused, "keys": key_rows, "key_audit": key_audit, "key_of_hash": key_of_hash,
    "key_usage": key_usage, "alerts": alerts.alert_rows,
}  # fmt: skip


def ask(path: Path, name: str, arguments: dict[str, Any]) -> Rows:
    """Open the ledger, run one query or one of CHANGES, close it. Raises KeyChangeError for a change that cannot be made."""
    if name in CHANGES:
        return CHANGES[name](path, **arguments)
    conn = open_ledger(path)
    try:
        return QUERIES[name](conn, **arguments)
    finally:
        conn.close()


def _replay(path: Path, event_id: str | None = None) -> Rows:
    """Make dead letters pending again."""
    open_ledger(path).close()
    with contextlib.closing(connect(path)) as conn:
        return [{"replayed": outbox.replay(conn, time.time(), event_id)}]


# These write. They are short, and wait for the gateway's own commits.
CHANGES: dict[str, Callable[..., Rows]] = {"replay": _replay, "key_change": change_key, "alert_test": alerts.send_test}


def _rows(conn: sqlite3.Connection, sql: str, args: tuple[Any, ...] | dict[str, Any]) -> Rows:
    return [dict(row) for row in conn.execute(sql, args).fetchall()]


def main(argv: list[str]) -> int:
    """Run ``queries PATH NAME JSON``: print rows as JSON. Return 1 and print one line on stderr when that fails."""
    path, name, arguments = argv
    try:
        print(json.dumps(ask(Path(path), name, json.loads(arguments))))
    except (OSError, sqlite3.Error, LedgerVersionError, KeyChangeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
