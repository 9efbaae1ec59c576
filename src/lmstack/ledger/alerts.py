"""Which alerts fire: begin and end them, and queue what each target gets. The ledger's file decides for all workers.

Runs on a connection in autocommit mode that the caller owns; no thread, no network.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmstack.ledger import alert_rules as rule
from lmstack.ledger import events, outbox
from lmstack.ledger.alert_checks import Facts, Look, Trouble, check
from lmstack.ledger.alert_rules import AlertRules, AlertTarget
from lmstack.ledger.key_queries import BUSY_MS
from lmstack.ledger.records import new_id
from lmstack.ledger.schema import check_version, connect, writing

FIRST_SCHEMA = 11  # with alerts
KEEP_SECONDS = 90 * 86400.0
# A client may choose the names of budgets. Further alerts of one look begin at the next look.
MOST_AT_ONCE = 20
Rows = list[dict[str, Any]]


def take_turn(conn: sqlite3.Connection, every: float, now: float) -> bool:
    """Return whether this worker checks the rules now. After a crash, or with a wrong clock, another worker does it next."""
    due = "next_at <= ?1 OR next_at > ?1 + 2 * ?2"
    if conn.execute(f"SELECT 1 FROM alert_turn WHERE {due}", (now, every)).fetchone() is None:  # noqa: S608 - literals
        return False
    with writing(conn):
        return bool(conn.execute(f"UPDATE alert_turn SET next_at = ?1 + ?2 WHERE {due}", (now, every)).rowcount)  # noqa: S608 - literals


def run(conn: sqlite3.Connection, rules: AlertRules, facts: Facts, to: Sequence[AlertTarget], now: float) -> None:
    """Check the rules once. Only reads until there is something to write. ``to``: the targets that have an address."""
    firing = {row[0]: row[1] for row in conn.execute("SELECT key, since FROM alerts WHERE ended_at IS NULL")}
    found = check(Look(conn, rules, facts, firing, now))
    prices = [(m.name, *m.rates) for m in facts.models if m.rates is not None]
    known = set(conn.execute("SELECT model, input, output FROM known_prices"))
    new_prices = [price for price in prices if price not in known] if rule.PRICE in rules.on else []
    begin = [one for one in found.troubles if one.key not in firing]
    end = firing.keys() - {one.key for one in found.troubles} - found.undecided
    names = [target.column for target in to]
    with writing(conn):
        _begin(conn, _at_most(begin), to, now)
        _end(conn, end, facts, to, now)
        conn.executemany("INSERT OR REPLACE INTO known_prices VALUES (?,?,?)", new_prices)
        conn.execute("DELETE FROM alerts WHERE ended_at < ?", (now - KEEP_SECONDS,))
        outbox.give_up(conn, names)


def _at_most(troubles: list[Trouble]) -> list[Trouble]:
    """Return the first ones. A change of price is seen only once, so all of these are in it."""
    return [one for place, one in enumerate(troubles) if place < MOST_AT_ONCE or one.rule == rule.PRICE]


def _begin(conn: sqlite3.Connection, troubles: list[Trouble], to: Sequence[AlertTarget], now: float) -> None:
    """Begin alerts, each once: another worker may have been faster."""
    highest: dict[str, float] = {}
    for one in troubles:
        highest[_budget_of(one)] = max(one.level, highest.get(_budget_of(one), 0.0))
    for one in troubles:
        row = conn.execute("SELECT ended_at FROM alerts WHERE key = ?", (one.key,)).fetchone()
        if row is not None and (row[0] is None or one.once):  # a budget that fell below its level and is back
            conn.execute("UPDATE alerts SET ended_at = NULL WHERE key = ?", (one.key,))
            continue
        conn.execute(
            "INSERT OR REPLACE INTO alerts VALUES (?,?,?,?,?,?,?,NULL)",
            (one.key, one.rule, one.subject, one.text, one.value, one.threshold, now),
        )
        if one.level == highest[_budget_of(one)]:  # a budget that goes beyond two levels together is reported once
            _send(conn, one, to, now)


def _budget_of(trouble: Trouble) -> str:
    return trouble.key.rpartition(":")[0] if trouble.rule == rule.BUDGET else trouble.key


def _send(conn: sqlite3.Connection, one: Trouble, to: Iterable[AlertTarget], now: float) -> None:
    payload = events.alert_payload(one.rule, one.subject, one.text, (one.value, one.threshold), now, now)
    for target in to:
        if not target.wants(one.rule):
            continue
        if target.column or one.limit is None:
            _put(conn, events.ALERT_FIRING, one.key, payload, target.column, now)
        elif one.limit.soft is None or one.level > one.limit.soft:
            # TaskMaster gets a budget's warnings in the form that it knows. The writer has sent the first one (soft_limits.py).
            body = events.budget_payload(one.limit, one.value or 0.0, now, one.level)
            outbox.put(conn, events.BUDGET, f"alert::{_budget_of(one)}", body, now)


def _put(conn: sqlite3.Connection, kind: str, key: str, payload: dict[str, object], target: str, now: float) -> str:
    """Queue an alert for one target, behind the earlier ones about the same thing. Return the event's id."""
    event_id = outbox.put(conn, kind, f"alert:{target}:{key}", payload, now, target)
    row = (target, event_id, str(payload["text"]), now)
    conn.execute("INSERT OR REPLACE INTO alert_sends VALUES (?,?,?,?)", row)
    return event_id


def _end(conn: sqlite3.Connection, keys: Iterable[str], facts: Facts, to: Iterable[AlertTarget], now: float) -> None:
    """End alerts. Send the end of those that may begin again."""
    for key in sorted(keys):
        sql = "UPDATE alerts SET ended_at = ? WHERE key = ? AND ended_at IS NULL RETURNING rule, subject, value, threshold, since"
        row = conn.execute(sql, (now, key)).fetchone()
        if row is None or row[0] not in _ENDS:
            continue
        name, subject, value, threshold, since = row
        payload = events.alert_payload(name, subject, _end_text(name, subject, facts), (value, threshold), now, since, ended=True)  # fmt: skip
        for target in to:
            if target.wants(name):
                _put(conn, events.ALERT_ENDED, key, payload, target.column, now)


_ENDS = {
    rule.FAILURES: "The requests fail less often again.",
    rule.PROVIDER: "{} answers again.",
    rule.DEAD: "No event is dead any more.",
}


def _end_text(name: str, subject: str, facts: Facts) -> str:
    if name == rule.PROVIDER and subject not in {model.provider for model in facts.models}:
        return f"{subject} is not served any more."
    return _ENDS[name].format(subject)


def alert_rows(conn: sqlite3.Connection) -> Rows:
    """Return one row: the alerts that fire, the oldest first, and the last alert of each target with its state."""
    if check_version(conn) < FIRST_SCHEMA:
        return [{"firing": [], "sent": []}]
    columns = "rule, subject, text, value, threshold, since"
    firing = conn.execute(f"SELECT {columns} FROM alerts WHERE ended_at IS NULL ORDER BY since, key")  # noqa: S608 - literals
    # A delivered event is deleted after a day, and nothing else is.
    sent = conn.execute(
        "SELECT s.target, s.event_id, s.text, s.queued_at, COALESCE(o.state, 'delivered') AS state, o.attempts, "
        "o.delivered_at, o.last_error FROM alert_sends s LEFT JOIN outbox o ON o.event_id = s.event_id ORDER BY s.target"
    )
    return [{"firing": [dict(row) for row in firing], "sent": [dict(row) for row in sent]}]


def send_test(path: Path, targets: Sequence[str]) -> Rows:
    """Queue one test alert for each target ("" for TaskMaster). Return its event id by target.

    Raises FileNotFoundError without a ledger that has alerts.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    with contextlib.closing(connect(path)) as conn:
        conn.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        if check_version(conn) < FIRST_SCHEMA:
            raise FileNotFoundError(path)
        now, found = time.time(), []
        payload = events.alert_payload("test", "lm alerts test", "This is a test. Nothing is wrong.", (None, None), now, now)  # fmt: skip
        with writing(conn):
            for target in targets:
                found.append({"target": target, "event_id": _put(conn, events.ALERT_TEST, new_id("test"), payload, target, now)})  # fmt: skip
        return found
