"""Keep the ledger within its bounds, a few rows at a time, so that no writer waits for it.

Delivered events are deleted after a day, requests after ``keep_days``. When the file is still larger than ``max_mb``,
refused requests go first, then the oldest ended ones. Delivered events follow, then dead letters, and pending events last,
with a warning. No request is deleted while it runs, because budgets count what it reserves. An event carries all that
TaskMaster gets, so it needs no row. Rollups and totals are never deleted, so usage and budgets stay known; sums.py bounds them.
"""

import sqlite3
from dataclasses import dataclass

from lmstack.ledger.schema import writing

BATCH = 500
DELIVERED_DAYS = 1.0
_ENDED = "SELECT id FROM requests WHERE status != 'started'"
_REFUSED = "SELECT id FROM requests WHERE status = 'rejected' ORDER BY started_at LIMIT ?"
_OLDEST_EVENTS = "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state = ? ORDER BY seq LIMIT ?)"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long (days) requests are kept, and how large (MB) the ledger may grow. 0 means without bound."""

    keep_days: float = 90.0
    max_mb: float = 1024.0


def delete_some(conn: sqlite3.Connection, bounds: Bounds, now: float) -> dict[str, int]:
    """Delete at most one batch of each kind in one short transaction. Return how many rows went, by kind.

    ``now`` must come from TrustedClock.
    """
    gone: dict[str, int] = {}
    with writing(conn):
        if bounds.keep_days:
            gone["expired"] = _delete_requests(
                conn, f"{_ENDED} AND started_at < ? ORDER BY started_at LIMIT ?", (_expiry(bounds, now), BATCH)
            )
        sql = "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state = 'delivered' AND delivered_at < ? LIMIT ?)"
        gone["old events"] = conn.execute(sql, (now - DELIVERED_DAYS * 86400, BATCH)).rowcount
        if bounds.max_mb and _used_mb(conn) > bounds.max_mb:
            gone |= _shrink(conn)
    gone = {kind: count for kind, count in gone.items() if count > 0}
    if gone:
        conn.execute("PRAGMA incremental_vacuum(2000)").fetchall()
    return gone


def has_expired(conn: sqlite3.Connection, bounds: Bounds, now: float) -> bool:
    """Return whether a request is older than ``keep_days``."""
    sql = f"{_ENDED} AND started_at < ? LIMIT 1"
    return bool(bounds.keep_days) and conn.execute(sql, (_expiry(bounds, now),)).fetchone() is not None


def _expiry(bounds: Bounds, now: float) -> float:
    return now - bounds.keep_days * 86400


def _shrink(conn: sqlite3.Connection) -> dict[str, int]:
    """Delete one batch of the least important kind that has rows."""
    requests = _delete_requests(conn, _REFUSED, (BATCH,)) or _delete_requests(conn, f"{_ENDED} ORDER BY started_at LIMIT ?", (BATCH,))  # fmt: skip
    if requests:
        return {"requests": requests}
    for state in ("delivered", "dead", "pending"):
        count = conn.execute(_OLDEST_EVENTS, (state, BATCH)).rowcount
        if count:
            return {state: count}
    return {}


def _delete_requests(conn: sqlite3.Connection, select: str, args: tuple[float, ...]) -> int:
    ids = [(row[0],) for row in conn.execute(select, args).fetchall()]
    conn.executemany("DELETE FROM attempts WHERE request_id = ?", ids)
    conn.executemany("DELETE FROM requests WHERE id = ?", ids)
    return len(ids)


def _used_mb(conn: sqlite3.Connection) -> float:
    pages, free, size = (
        int(conn.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size / 1_000_000
