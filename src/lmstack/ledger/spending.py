"""Compare budgets with what was spent. Runs inside the writer's transaction, so it is exact over several workers."""

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from lmstack.ledger.records import ExceededLimit
from lmstack.routing.budgets import Limit, period_of

_OPEN = {
    "all": "", "task": " AND task_id = ?", "agent": " AND agent_id = ?", "team": " AND team = ?", "key": " AND key_alias = ?",
}  # fmt: skip
_SUMMED = ("day", "week", "month")  # counting the hours of a month at each request would take a millisecond


def room(conn: sqlite3.Connection, limits: Iterable[Limit], now: float) -> float | ExceededLimit:
    """Return the US dollars that are left of all limits, or the first limit that does not admit another request.

    A request is admitted while spending and reservations together are below the limit. So only the last one exceeds it, by less
    than its cost. What any request costs beyond its reservation comes on top.
    """
    left = math.inf
    for limit in limits:
        gone = used(conn, limit, now)
        if gone >= limit.usd:
            return ExceededLimit(limit, gone, waiting=False)
        open_usd = reserved(conn, limit)
        if open_usd and gone + open_usd >= limit.usd:
            return ExceededLimit(limit, gone, waiting=True)
        left = min(left, limit.usd - gone - open_usd)
    return left


def spent(conn: sqlite3.Connection, limit: Limit, now: float) -> float:
    """Return the US dollars of ended requests, without answers of unknown price. Writes nothing."""
    if limit.period == "total" and limit.scope != "all":
        sql, args = "SELECT cost_usd FROM totals WHERE kind = ? AND id = ?", [limit.scope, limit.name]
    else:
        # Each request is in the rollup of exactly one tier, so the sum over the tiers is the sum of all requests.
        sql, args = (
            "SELECT SUM(cost_usd) FROM rollups WHERE dimension = ?",
            ["tier" if limit.scope == "all" else limit.scope],
        )
        if limit.period != "total":
            sql += _within(limit.period, now)
        if limit.scope != "all":
            sql, args = sql + " AND name = ?", [*args, limit.name]
    row = conn.execute(sql, args).fetchone()
    return float(row[0] or 0.0) if row else 0.0


def used(conn: sqlite3.Connection, limit: Limit, now: float) -> float:
    """Return what ``spent`` returns. The sum of a day, week or month is made at its first use, and kept up to date."""
    if limit.period not in _SUMMED:
        return spent(conn, limit, now)
    began, ended = period_of(limit.period, now)
    place = (limit.scope, limit.name, limit.period, int(began))
    sql = "SELECT cost_usd FROM spent WHERE kind = ? AND name = ? AND period = ? AND began = ?"
    found = conn.execute(sql, place).fetchone()
    if found is not None:
        return float(found[0])
    usd = spent(conn, limit, now)
    conn.execute("DELETE FROM spent WHERE kind = ? AND name = ? AND period = ? AND began < ?", place)
    conn.execute("INSERT INTO spent VALUES (?,?,?,?,?,?)", (*place, int(ended), usd))
    return usd


def add(conn: sqlite3.Connection, lines: Mapping[tuple[str, str, int], Sequence[float]]) -> None:
    """Add the sums of a batch (by dimension, name and hour; the cost is the fifth) to what budgets have spent."""
    for (dimension, name, hour), line in lines.items():
        kind = "all" if dimension == "tier" else dimension
        if kind in _OPEN and line[4]:
            conn.execute(
                "UPDATE spent SET cost_usd = MAX(0, cost_usd + ?) WHERE kind = ? AND name = ? AND began <= ? AND ended > ?",
                (line[4], kind, "" if kind == "all" else name, hour * 3600, hour * 3600),
            )


def reserved(conn: sqlite3.Connection, limit: Limit) -> float:
    """Return the US dollars that open requests have reserved."""
    args = [limit.name] if limit.scope != "all" else []
    sql = (
        f"SELECT SUM(reserved_usd) FROM requests INDEXED BY requests_open WHERE status = 'started'{_OPEN[limit.scope]}"  # noqa: S608 - literals
    )
    return float(conn.execute(sql, args).fetchone()[0] or 0.0)


def of_keys(conn: sqlite3.Connection, period: str, now: float) -> dict[str, tuple[float, float]]:
    """Return what ``spent`` and ``reserved`` return, for all keys that have either. For lists: one look for each key takes seconds."""
    found: dict[str, tuple[float, float]] = {}
    sql = "SELECT id, cost_usd FROM totals WHERE kind = 'key'"
    if period != "total":
        sql = f"SELECT name, SUM(cost_usd) FROM rollups WHERE dimension = 'key'{_within(period, now)} GROUP BY name"  # noqa: S608 - literals
    for name, usd in conn.execute(sql):
        found[name] = (float(usd or 0.0), 0.0)
    sql = (
        "SELECT key_alias, SUM(reserved_usd) FROM requests INDEXED BY requests_open WHERE status = 'started' GROUP BY 1"
    )
    for name, usd in conn.execute(sql):
        found[name] = (found.get(name, (0.0, 0.0))[0], float(usd or 0.0))
    return found


def spenders(conn: sqlite3.Connection, scope: str, period: str, now: float, most: int = 10) -> list[str]:
    """Return the tasks, agents and so on with the highest cost."""
    if period == "total":
        sql, args = (
            "SELECT id FROM totals WHERE kind = ? AND id != '(other)' AND cost_usd > 0 ORDER BY cost_usd DESC LIMIT ?",
            [scope, most],
        )
    else:
        sql = f"SELECT name FROM rollups WHERE dimension = ? AND name NOT IN ('(none)', '(other)'){_within(period, now)} GROUP BY name ORDER BY SUM(cost_usd) DESC LIMIT ?"  # noqa: S608 - literals
        args = [scope, most]
    return [row[0] for row in conn.execute(sql, args)]


def _within(period: str, now: float) -> str:
    """Return the SQL condition for the hours of this period. Hours later than ``now`` count, too.

    So a clock that is set back within a period refunds nothing.
    """
    began, ended = (int(when) // 3600 for when in period_of(period, now))
    return f" AND hour IN ({','.join(map(str, range(began, ended)))})"
