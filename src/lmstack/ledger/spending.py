"""Compare budgets with what was spent. Runs inside the writer's transaction, so it is exact over several workers."""

import math
import sqlite3
from collections.abc import Iterable

from lmstack.ledger.records import ExceededLimit
from lmstack.routing.budgets import Limit

_OPEN = {"all": "", "task": " AND task_id = ?", "agent": " AND agent_id = ?"}


def room(conn: sqlite3.Connection, limits: Iterable[Limit], now: float) -> float | ExceededLimit:
    """Return the US dollars that are left of all limits, or the first limit that does not admit another request.

    A request is admitted while spending and reservations together are below the limit. So one request at most exceeds it.
    """
    left = math.inf
    for limit in limits:
        used = spent(conn, limit, now)
        if used >= limit.usd:
            return ExceededLimit(limit, used, waiting=False)
        open_usd = reserved(conn, limit)
        if open_usd and used + open_usd >= limit.usd:
            return ExceededLimit(limit, used, waiting=True)
        left = min(left, limit.usd - used - open_usd)
    return left


def spent(conn: sqlite3.Connection, limit: Limit, now: float) -> float:
    """Return the US dollars of ended requests, without answers of unknown price."""
    if limit.period == "total" and limit.scope != "all":
        sql, args = "SELECT cost_usd FROM totals WHERE kind = ? AND id = ?", [limit.scope, limit.name]
    else:
        # Each request is in the rollup of exactly one tier, so the sum over the tiers is the sum of all requests.
        sql, args = (
            "SELECT SUM(cost_usd) FROM rollups WHERE dimension = ?",
            ["tier" if limit.scope == "all" else limit.scope],
        )
        if limit.period == "day":
            sql += _today(now)
        if limit.scope != "all":
            sql, args = sql + " AND name = ?", [*args, limit.name]
    row = conn.execute(sql, args).fetchone()
    return float(row[0] or 0.0) if row else 0.0


def reserved(conn: sqlite3.Connection, limit: Limit) -> float:
    """Return the US dollars that open requests have reserved."""
    args = [limit.name] if limit.scope != "all" else []
    sql = (
        f"SELECT SUM(reserved_usd) FROM requests INDEXED BY requests_open WHERE status = 'started'{_OPEN[limit.scope]}"  # noqa: S608 - literals
    )
    return float(conn.execute(sql, args).fetchone()[0] or 0.0)


def spenders(conn: sqlite3.Connection, scope: str, period: str, now: float, most: int = 10) -> list[str]:
    """Return the tasks or agents with the highest cost."""
    if period == "total":
        sql, args = (
            "SELECT id FROM totals WHERE kind = ? AND id != '(other)' AND cost_usd > 0 ORDER BY cost_usd DESC LIMIT ?",
            [scope, most],
        )
    else:
        sql = f"SELECT name FROM rollups WHERE dimension = ? AND name NOT IN ('(none)', '(other)'){_today(now)} GROUP BY name ORDER BY SUM(cost_usd) DESC LIMIT ?"  # noqa: S608 - literals
        args = [scope, most]
    return [row[0] for row in conn.execute(sql, args)]


def _today(now: float) -> str:
    """Return the SQL condition for the 24 hours of this UTC day. Hours later than ``now`` count, too.

    So a clock that is set back within a day refunds nothing.
    """
    midnight = int(now) // 86400 * 24
    return f" AND hour IN ({','.join(str(midnight + hour) for hour in range(24))})"
