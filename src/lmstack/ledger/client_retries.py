"""A client's retry of a request that a killed worker had in hand. The client is charged for one of the two.

The client sends the same ``Idempotency-Key`` or ``x-request-id`` again, for the same model, task and agent. The row of the first
attempt stays, and its cost, which was only an estimate, becomes 0.
"""

import sqlite3
import time

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


def release(conn: sqlite3.Connection, retry: Call, batch: Sums) -> None:
    """Set the cost of the interrupted requests that this one repeats to 0."""
    sql = f"SELECT id FROM requests WHERE {_SAME} AND status = 'interrupted' AND error_type = ? AND cost_usd > 0 AND started_at > ?"  # noqa: S608 - literals
    for (request_id,) in conn.execute(sql, (*_values(retry), INTERRUPTED, time.time() - SECONDS)).fetchall():
        sums.uncount_cost(conn, request_id, batch)
        conn.execute("UPDATE requests SET cost_usd = 0 WHERE id = ?", (request_id,))


def is_repeated(conn: sqlite3.Connection, call: Call) -> bool:
    """Return whether the client has sent this request again."""
    if not call.client_key:
        return False
    sql = f"SELECT 1 FROM requests WHERE {_SAME} AND id != ? AND started_at >= ?"  # noqa: S608 - literals
    return conn.execute(sql, (*_values(call), call.id, call.started_at)).fetchone() is not None


def _values(call: Call) -> tuple[object, ...]:
    who = call.attribution
    return (call.client_key, call.endpoint, call.requested_model, who.task_id, who.agent_id, who.key_alias)
