"""Keep what the gate refused: a count for each minute and reason, and the last refusals. Both are bounded.

A client without a key must not fill the ledger, so such a request has no row, no event and no rollup.
"""

import sqlite3

from lmstack.ledger.records import Refused

KEEP_MINUTES = 24 * 60
KEEP_LAST = 100


def write(conn: sqlite3.Connection, refused: Refused) -> None:
    """Add counts and the last refusals, inside the caller's transaction. Delete what is too old."""
    conn.executemany(
        "INSERT INTO refusals VALUES (?,?,?) ON CONFLICT (minute, reason) DO UPDATE SET count = count + excluded.count",
        [(refused.minute, reason, count) for reason, count in refused.counts.items()],
    )
    conn.execute("DELETE FROM refusals WHERE minute < ?", (refused.minute - KEEP_MINUTES,))
    conn.executemany("INSERT INTO last_refusals (at, address, path, reason) VALUES (?,?,?,?)", refused.last)
    sql = "DELETE FROM last_refusals WHERE number <= (SELECT MAX(number) FROM last_refusals) - ?"
    conn.execute(sql, (KEEP_LAST,))


def counts(conn: sqlite3.Connection, since: float, until: float) -> list[dict[str, object]]:
    """Return how many requests were refused in a span (Unix seconds), in whole minutes, for each reason."""
    sql = "SELECT reason, SUM(count) AS count FROM refusals WHERE minute >= ? AND minute < ? GROUP BY reason ORDER BY count DESC"
    return [dict(row) for row in conn.execute(sql, (int(since) // 60, -int(-until // 60))).fetchall()]


def last(conn: sqlite3.Connection, since: float, until: float) -> list[dict[str, object]]:
    """Return the last refusals of a span (Unix seconds), the newest first."""
    sql = "SELECT at, address, path, reason FROM last_refusals WHERE at >= ? AND at < ? ORDER BY number DESC"
    return [dict(row) for row in conn.execute(sql, (since, until)).fetchall()]
