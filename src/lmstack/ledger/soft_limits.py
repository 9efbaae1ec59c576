"""Report a budget that is nearly used up: one event and one log line in each of its periods. Runs in the writer's transaction."""

import logging
import sqlite3
from collections.abc import Iterable

from lmstack.ledger import events, outbox, spending
from lmstack.ledger.records import Ended, Record
from lmstack.routing.budgets import Limit, period_of

log = logging.getLogger(__name__)


def report(conn: sqlite3.Connection, records: Iterable[Record], now: float, send_events: bool) -> None:
    """Report each budget of the ended requests that has reached its soft limit for the first time in its period."""
    limits = {
        limit for one in records if isinstance(one, Ended) and one.cost_usd for limit in one.call.limits if limit.soft and limit.usd
    }  # fmt: skip
    for limit in limits:
        spent = spending.used(conn, limit, now)
        if spent >= limit.usd * (limit.soft or 1.0) and _is_first(conn, limit, now):
            log.warning(
                "lmstack: %s '%s' has spent %.6f of %.6f USD of its budget per %s",
                limit.scope, limit.name, spent, limit.usd, limit.period,
            )  # fmt: skip
            if send_events:
                outbox.put(conn, events.BUDGET, "", events.budget_payload(limit, spent, now), now)


def _is_first(conn: sqlite3.Connection, limit: Limit, now: float) -> bool:
    began = 0 if limit.period == "total" else int(period_of(limit.period, now)[0])
    place = (limit.scope, limit.name, limit.period, began)
    conn.execute("DELETE FROM warnings WHERE kind = ? AND name = ? AND period = ? AND began < ?", place)
    return bool(conn.execute("INSERT OR IGNORE INTO warnings VALUES (?,?,?,?,?,?)", (*place, limit.usd, now)).rowcount)
