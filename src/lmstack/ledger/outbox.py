"""The outbox: events that wait for TaskMaster, and alerts for other targets. Queue them, lease them, record the outcome.

Functions with SQL on a connection that the caller owns; no thread, no network. A lane is the queue of one task, or of one
alert for one target. A ``target`` is "" for TaskMaster, else a name of models.yaml.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from lmstack.ledger.records import new_id
from lmstack.ledger.retries import Failure, after_failure
from lmstack.ledger.schema import writing

LEASE_SECONDS = 60.0
GIVEN_UP = "models.yaml has no such target, or its variable is not set"


@dataclass(frozen=True, slots=True)
class LeasedEvent:
    """One event that a sender may send. ``attempts`` counts the tries before this one."""

    seq: int
    event_id: str
    type: str
    order_key: str
    created_at: float
    payload: str
    attempts: int


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The outcome of a run, the first events of a lane: how many were delivered, and the failure that stopped it."""

    run: list[LeasedEvent]
    delivered: int
    failure: Failure | None = None


def put(
    conn: sqlite3.Connection, type_: str, order_key: str, payload: dict[str, object], now: float, target: str = ""
) -> str:
    """Queue one event inside the caller's transaction, and return its id. Without ``order_key`` it has a lane of its own."""
    event_id = new_id("evt")
    key = order_key or event_id
    conn.execute(
        "INSERT INTO outbox (event_id, type, order_key, created_at, payload, next_attempt_at, target) VALUES (?,?,?,?,?,?,?)",
        (event_id, type_, key, now, json.dumps(payload, separators=(",", ":")), now, target),
    )
    conn.execute("INSERT OR IGNORE INTO lanes (order_key, due_at, target) VALUES (?,?,?)", (key, now, target))
    return event_id


def lease(
    conn: sqlite3.Connection, owner: str, now: float, lanes: int, run: int, most: int | None = None, target: str = ""
) -> list[list[LeasedEvent]]:
    """Lease up to ``lanes`` due lanes of a target for LEASE_SECONDS. Return the first ``run`` events of each, in their order.

    ``most`` limits the events of all lanes together. A lease far in the future comes from a clock that was set back:
    it does not count.
    """
    # A look needs no lock. Most of them find nothing.
    if conn.execute("SELECT 1 FROM lanes WHERE target = ? AND due_at <= ? LIMIT 1", (target, now)).fetchone() is None:
        return []
    with writing(conn):
        keys = [
            key
            for (key,) in conn.execute(
                "SELECT order_key FROM lanes WHERE target = ?4 AND due_at <= ?1 AND "
                "(lease_until IS NULL OR lease_until <= ?1 OR lease_until > ?2) ORDER BY due_at LIMIT ?3",
                (now, now + 2 * LEASE_SECONDS, lanes, target),
            ).fetchall()
        ]
        runs = _runs(conn, keys, run, lanes * run if most is None else most)
        until = now + LEASE_SECONDS
        conn.executemany(
            "UPDATE lanes SET lease_owner = ?, lease_until = ? WHERE order_key = ?",
            [(owner, until, key) for key in runs],
        )
        conn.executemany(
            "UPDATE outbox SET state = 'leased', lease_owner = ?, lease_until = ? WHERE seq = ?",
            [(owner, until, event.seq) for one in runs.values() for event in one],
        )
        empty = [(key,) for key, one in runs.items() if not one]
        conn.executemany("DELETE FROM lanes WHERE order_key = ?", empty)
    return [one for one in runs.values() if one]


def _runs(conn: sqlite3.Connection, keys: list[str], limit: int, room: int) -> dict[str, list[LeasedEvent]]:
    """Return the first events of each lane, until there is no more room."""
    runs: dict[str, list[LeasedEvent]] = {}
    for key in keys:
        if room <= 0:
            break
        rows = conn.execute(
            "SELECT seq, event_id, type, order_key, created_at, payload, attempts FROM outbox "
            "WHERE order_key = ? AND state IN ('pending','leased') ORDER BY seq LIMIT ?",
            (key, min(limit, room)),
        )
        runs[key] = [LeasedEvent(*row) for row in rows]
        room -= len(runs[key])
    return runs


def settle(conn: sqlite3.Connection, owner: str, outcome: RunOutcome, now: float) -> None:
    """Record the outcome of a run and release its lane, inside the caller's transaction.

    Does nothing when ``owner`` has lost the lease.
    """
    key = outcome.run[0].order_key
    held = conn.execute("SELECT 1 FROM lanes WHERE order_key = ? AND lease_owner = ?", (key, owner)).fetchone()
    if held is None:
        return
    done, rest = outcome.run[: outcome.delivered], outcome.run[outcome.delivered :]
    conn.executemany(
        "UPDATE outbox SET state = 'delivered', delivered_at = ?, attempts = attempts + 1, last_error = NULL, "
        "lease_owner = NULL WHERE seq = ? AND event_id = ?",
        [(now, event.seq, event.event_id) for event in done],
    )
    conn.executemany(
        "UPDATE outbox SET state = 'pending', lease_owner = NULL WHERE seq = ? AND event_id = ?",
        [(event.seq, event.event_id) for event in rest],
    )
    due, receiver_chose = now, False
    if outcome.failure is not None and rest:
        due, receiver_chose = _fail(conn, rest[0], outcome.failure, now)
    conn.execute(
        "UPDATE lanes SET due_at = ?, asked = ?, lease_owner = NULL, lease_until = NULL WHERE order_key = ?",
        (due, receiver_chose, key),
    )
    conn.execute(
        "DELETE FROM lanes WHERE order_key = ?1 AND NOT EXISTS "
        "(SELECT 1 FROM outbox WHERE order_key = ?1 AND state IN ('pending','leased'))",
        (key,),
    )


def _fail(conn: sqlite3.Connection, event: LeasedEvent, failure: Failure, now: float) -> tuple[float, bool]:
    """Record a failed try. Return when the lane is due again, and whether the receiver named that time."""
    sql = "SELECT next_attempt_at FROM outbox WHERE seq = ? AND event_id = ?"
    found = conn.execute(sql, (event.seq, event.event_id)).fetchone()
    if found is None:  # removed to keep the ledger within its bounds
        return now, False
    following = after_failure(event.attempts, found[0] - now, failure)
    conn.execute(
        "UPDATE outbox SET state = ?, attempts = attempts + ?, next_attempt_at = ?, last_error = ? WHERE seq = ?",
        (
            "dead" if following.dead else "pending",
            following.counts,
            now + following.pause,
            failure.error[:500],
            event.seq,
        ),
    )
    return now + following.pause, following.receiver_chose


def release(conn: sqlite3.Connection, owner: str, target: str | None = None) -> None:
    """Release the leases of ``owner`` for a target, or for all, so that no other sender waits until they end."""
    own, args = "lease_owner = ?1 AND (?2 IS NULL OR target = ?2)", (owner, target)
    conn.execute(f"UPDATE outbox SET state = 'pending', lease_owner = NULL WHERE state = 'leased' AND {own}", args)  # noqa: S608 - literals
    conn.execute(f"UPDATE lanes SET lease_owner = NULL, lease_until = NULL WHERE {own}", args)  # noqa: S608 - literals


def give_up(conn: sqlite3.Connection, targets: Iterable[str]) -> int:
    """Make the open events of every other target dead letters, inside the caller's transaction. Return how many."""
    kept = ["", *targets]
    others = f"target NOT IN ({','.join('?' * len(kept))})"
    if conn.execute(f"SELECT 1 FROM lanes WHERE {others} LIMIT 1", kept).fetchone() is None:  # noqa: S608 - placeholders
        return 0
    conn.execute(f"DELETE FROM lanes WHERE {others}", kept)  # noqa: S608 - placeholders
    return conn.execute(
        f"UPDATE outbox SET state = 'dead', last_error = ? WHERE state IN ('pending','leased') AND {others}",  # noqa: S608 - placeholders
        (GIVEN_UP, *kept),
    ).rowcount


def replay(conn: sqlite3.Connection, now: float, event_id: str | None = None) -> int:
    """Make dead letters (one, or all) pending again. They keep their ids. Return how many."""
    with writing(conn):
        conn.execute(
            "INSERT OR IGNORE INTO lanes (order_key, due_at, target) SELECT order_key, ?2, target FROM outbox "
            "WHERE state = 'dead' AND (?1 IS NULL OR event_id = ?1)",
            (event_id, now),
        )
        return conn.execute(
            "UPDATE outbox SET state = 'pending', attempts = 0, next_attempt_at = ?2 "
            "WHERE state = 'dead' AND (?1 IS NULL OR event_id = ?1)",
            (event_id, now),
        ).rowcount
