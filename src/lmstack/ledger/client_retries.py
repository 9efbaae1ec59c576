"""A client's retry of a request that a killed worker had in hand. The client is charged for one of the two.

The client sends the same ``Idempotency-Key`` or ``x-request-id`` again, for the same model, task, agent and key. The row of the
first attempt stays, and its cost, which was only an estimate, becomes 0. A proxy may send one ``x-request-id`` for many requests.
So a retry repeats one request only, the oldest: its row names that request in ``retry_of``.
"""

import json
import sqlite3
from collections.abc import Iterable

from lmstack.ledger import sums
from lmstack.ledger.records import Call
from lmstack.ledger.sums import Sums

# The error type of a request that a dead worker left open.
INTERRUPTED = "Interrupted"
# A key that returns later is not a retry.
SECONDS = 86400.0
_SAME = (
    "client_key = ? AND endpoint IS ? AND requested_model IS ? AND task_id IS ? AND agent_id IS ? AND key_alias IS ?"
)
# The conditions of the partial indexes are literals here: SQLite does not use such an index for a bound value.
_REPEATED = (
    f"SELECT id FROM requests INDEXED BY requests_interrupted WHERE {_SAME} AND started_at BETWEEN ? AND ? "  # noqa: S608 - literals
    "AND status = 'interrupted' AND error_type = 'Interrupted' AND cost_usd > 0 ORDER BY started_at LIMIT 1"
)
# Requests that dead workers had in hand together do not repeat each other.
_RETRY = (
    f"SELECT id FROM requests INDEXED BY requests_client_key WHERE {_SAME} AND started_at BETWEEN ? AND ? "  # noqa: S608 - literals
    "AND client_key IS NOT NULL AND id != ? AND status != 'rejected' AND retry_of IS NULL "
    "AND worker NOT IN (SELECT value FROM json_each(?)) ORDER BY started_at LIMIT 1"
)


def repeated_by(conn: sqlite3.Connection, retry: Call) -> str | None:
    """Return the id of the oldest interrupted request that this one repeats and that still has a cost."""
    if not retry.client_key:
        return None
    row = conn.execute(_REPEATED, (*_values(retry), retry.started_at - SECONDS, retry.started_at)).fetchone()
    return row and str(row[0])


def release(conn: sqlite3.Connection, request_id: str, batch: Sums) -> None:
    """Set the cost of an interrupted request to 0."""
    sums.uncount_cost(conn, request_id, batch)
    conn.execute("UPDATE requests SET cost_usd = 0 WHERE id = ?", (request_id,))


def mark(conn: sqlite3.Connection, retry_id: str, request_id: str) -> None:
    """Write in the row of a retry which request it repeats."""
    conn.execute("UPDATE requests SET retry_of = ? WHERE id = ?", (request_id, retry_id))


def take_retry(conn: sqlite3.Connection, call: Call, dead: Iterable[str]) -> bool:
    """Return whether the client has sent this request again, to a worker that is not dead. Mark that retry: it counts once."""
    if not call.client_key:
        return False
    span = (call.started_at, call.started_at + SECONDS)
    row = conn.execute(_RETRY, (*_values(call), *span, call.id, json.dumps(list(dead)))).fetchone()
    if row is None:
        return False
    mark(conn, row[0], call.id)
    return True


def _values(call: Call) -> tuple[object, ...]:
    who = call.attribution
    return (call.client_key, call.endpoint, call.requested_model, who.task_id, who.agent_id, who.key_alias)
