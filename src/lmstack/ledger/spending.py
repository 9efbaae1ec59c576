"""What was spent against a budget, inside the writer's transaction: that makes it exact over workers and restarts."""

import sqlite3
from collections.abc import Iterable

from lmstack.ledger.records import Over
from lmstack.routing.budgets import Limit

_OPEN = {"all": "", "task": " AND task_id = ?", "agent": " AND agent_id = ?"}


def over(conn: sqlite3.Connection, limits: Iterable[Limit], now: float) -> Over | None:
    """The first limit that does not admit another request; None when all do.

    A request is admitted while what was spent and what is under way are below the limit, so that it is overshot by
    one request at most.
    """
    for limit in limits:
        used = spent(conn, limit, now)
        if used >= limit.usd:
            return Over(limit, used, waiting=False)
        under_way = reserved(conn, limit)
        if under_way and used + under_way >= limit.usd:
            return Over(limit, used, waiting=True)
    return None


def spent(conn: sqlite3.Connection, limit: Limit, now: float) -> float:
    """US dollars of ended requests; answers of unknown price are not in it."""
    if limit.period == "total" and limit.scope != "all":
        sql, args = "SELECT cost_usd FROM totals WHERE kind = ? AND id = ?", [limit.scope, limit.name]
    else:
        # Every request is in exactly one tier's rollup, so that their sum is everybody's.
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
    """US dollars kept aside by requests that are under way."""
    args = [limit.name] if limit.scope != "all" else []
    sql = (
        f"SELECT SUM(reserved_usd) FROM requests INDEXED BY requests_open WHERE status = 'started'{_OPEN[limit.scope]}"  # noqa: S608 - literals
    )
    return float(conn.execute(sql, args).fetchone()[0] or 0.0)


def spenders(conn: sqlite3.Connection, scope: str, period: str, now: float, most: int = 10) -> list[str]:
    """The tasks or agents that spent most."""
    if period == "total":
        sql, args = (
            "SELECT id FROM totals WHERE kind = ? AND cost_usd > 0 ORDER BY cost_usd DESC LIMIT ?",
            [scope, most],
        )
    else:
        sql = f"SELECT name FROM rollups WHERE dimension = ? AND name != '(none)'{_today(now)} GROUP BY name ORDER BY SUM(cost_usd) DESC LIMIT ?"  # noqa: S608 - literals
        args = [scope, most]
    return [row[0] for row in conn.execute(sql, args)]


def _today(now: float) -> str:
    midnight = int(now) // 86400 * 24
    return f" AND hour IN ({','.join(str(midnight + hour) for hour in range(24))})"
