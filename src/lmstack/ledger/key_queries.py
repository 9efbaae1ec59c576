"""Queries and changes of keys, for ledger/queries.py: what `lm key` and `GET /me/usage` show."""

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmstack.keys.key import Key, limits_from, state_of, use_of_rates
from lmstack.ledger import keys, rates_file, spending
from lmstack.ledger.keys import KeyChangeError
from lmstack.ledger.schema import check_version, connect, migrate
from lmstack.routing.budgets import Limit

FIRST_SCHEMA = 8  # with keys
ROLES_SCHEMA = 10  # its gateway knows roles: an older one would let a viewer spend
BUSY_MS = 5000
Rows = list[dict[str, Any]]


def key_rows(
    conn: sqlite3.Connection, name: str | None = None, rates: bool = False, admits: Callable[[dict[str, Any]], bool] | None = None
) -> Rows:  # fmt: skip
    """Return the keys with their limits and what their budgets have spent. A ledger of an earlier version has none.

    ``rates`` adds the present use of limits per minute; a process of the gateway must not ask for it (rates_file.py). ``admits``
    chooses rows that have a state.
    """
    if check_version(conn) < FIRST_SCHEMA:
        return []
    now, found = time.time(), []
    gone = functools.cache(lambda period: spending.of_keys(conn, period, now))
    for row in keys.rows(conn, name):
        key = key_of(row)
        row["state"] = state_of(key, now)
        if admits is None or admits(row):
            row["budgets"] = [
                budget_row(conn, limit, now)
                if name is not None
                else _budget(limit, now, *gone(limit.period).get(key.name, (0.0, 0.0)))
                for limit in key.budgets(now)
            ]
            found.append(row)
    if rates:
        path = Path(next(file for _, name, file in map(tuple, conn.execute("PRAGMA database_list")) if name == "main"))
        for row in found:
            limits = limits_from(row["limits"])
            used = rates_file.read(path, row["id"], now) if limits.has_rates else None
            row["rates"] = use_of_rates(limits, used)
    return found


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the key of a row."""
    return Key(
        row["id"], row["name"], limits_from(row["limits"]), row["created_at"], row["expires_at"], row["revoked_at"]
    )


def viewer(conn: sqlite3.Connection, begins: str, id_: int | None = None) -> Key | None:
    """Return the valid key with the role viewer, by the beginning of its hash; None for any other. See ``keys.valid``."""
    if check_version(conn) < FIRST_SCHEMA:
        return None
    key = keys.valid(conn, begins, time.time(), id_)
    return key if key is not None and key.limits.is_viewer else None


def key_usage(conn: sqlite3.Connection, name: str) -> Rows:
    """Return one row: the budgets of a key with their spending, and its requests, tokens and cost today, by day, and in all."""
    now = time.time()
    own = key_rows(conn, name)
    sql = """
        SELECT date(hour * 3600, 'unixepoch') AS day, SUM(requests) AS requests, SUM(failures) AS failures,
               SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens, SUM(cost_usd) AS cost_usd
        FROM rollups WHERE dimension = 'key' AND hour >= ? AND name = ? GROUP BY 1 ORDER BY 1 DESC
        """
    days = [dict(row) for row in conn.execute(sql, (int(now) // 3600 - 30 * 24, name)).fetchall()]
    total = conn.execute("SELECT requests, cost_usd FROM totals WHERE kind = 'key' AND id = ?", (name,)).fetchone()
    return [{
        "budgets": own[0]["budgets"] if own else [], "days": days,
        "total": {"requests": total[0], "cost_usd": total[1]} if total else {"requests": 0, "cost_usd": 0.0},
    }]  # fmt: skip


def key_audit(conn: sqlite3.Connection, since: float = 0.0, name: str | None = None, limit: int = 50) -> Rows:
    """Return the changes of keys, the newest first."""
    return [] if check_version(conn) < FIRST_SCHEMA else keys.audit(conn, since, name, limit)


def key_of_hash(conn: sqlite3.Connection, hash_: str) -> Rows:
    """Return one row with the name of the key that has this hash; none for an unknown or a rotated secret."""
    name = None if check_version(conn) < FIRST_SCHEMA else keys.named_by(conn, hash_, time.time())
    return [] if name is None else [{"name": name}]


def budget_row(conn: sqlite3.Connection, limit: Limit, now: float) -> dict[str, Any]:
    """Return a budget with what was spent, and what open requests have reserved."""
    return _budget(limit, now, spending.spent(conn, limit, now), spending.reserved(conn, limit))


def _budget(limit: Limit, now: float, spent: float, reserved: float) -> dict[str, Any]:
    return {**limit.state(spent, limit.reset_at(now)), "reserved_usd": reserved}


def change_key(path: Path, action: str, **values: Any) -> Rows:
    """Make, edit, revoke or rotate a key. The first key may be made before the gateway has made the ledger.

    Raises FileNotFoundError without a ledger, KeyChangeError for a change that cannot be made.
    """
    is_new = action == "create" and not path.exists()
    if is_new:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not path.exists():
        raise FileNotFoundError(path)
    with contextlib.closing(connect(path)) as conn:
        conn.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        if is_new:
            migrate(conn)
        elif check_version(conn) < (ROLES_SCHEMA if action in ("create", "edit") else FIRST_SCHEMA):
            raise KeyChangeError("the gateway that runs here is older: start the new one with lm up")
        return keys.change(conn, action, now=time.time(), **values)
