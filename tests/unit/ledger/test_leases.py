"""Who may send an event, on real SQLite files: leases, order, dead letters."""

import sqlite3
import time
from pathlib import Path

from ledger_records import call, ended, write
from lmstack.ledger import outbox, queries, retries, schema
from lmstack.ledger import writer as ledger_writer


def settle(
    conn: sqlite3.Connection,
    owner: str,
    run: list[outbox.LeasedEvent],
    now: float,
    done: int,
    failure: retries.Failure | None = None,
) -> None:
    conn.execute("BEGIN IMMEDIATE")
    outbox.settle(conn, owner, outbox.RunOutcome(run, done, failure), now)
    conn.execute("COMMIT")


def test_a_tasks_events_go_in_order_and_a_failure_holds_up_its_task_alone(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    write(writer, *[ended(call(str(n), "same"), None) for n in range(3)], ended(call("x", "other"), None))
    conn = schema.connect(ledger)
    now = time.time() + 1
    same, other = outbox.lease(conn, "me", now, 10, 10)
    assert [e.seq for e in same] == [1, 2, 3]
    assert [e.seq for e in other] == [4]
    assert outbox.lease(conn, "you", now, 10, 10) == []
    settle(conn, "me", other, now, 1)
    settle(conn, "me", same, now, 1, retries.Failure(500, "HTTP 500"))
    assert outbox.lease(conn, "you", now + 1, 10, 10) == []  # the third waits behind the second
    ((second, third),) = outbox.lease(conn, "you", now + 10, 10, 10)
    assert (second.seq, second.attempts, second.event_id, third.seq) == (2, 1, same[1].event_id, 3)
    settle(conn, "you", [second, third], now, 2)
    assert conn.execute("SELECT COUNT(*) FROM lanes").fetchone()[0] == 0


def test_a_lease_that_ran_out_is_taken_over_and_the_old_owner_cannot_settle_it(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    write(writer, ended(call("1"), None))
    conn, now = schema.connect(ledger), time.time() + 1
    (mine,) = outbox.lease(conn, "me", now, 1, 1)
    (theirs,) = outbox.lease(conn, "you", now + outbox.LEASE_SECONDS + 1, 1, 1)
    assert theirs[0].event_id == mine[0].event_id
    settle(conn, "me", mine, now, 0, retries.Failure(400, "late", final=True))
    assert queries.ask(ledger, "events", {})[0]["state"] == "leased"


def test_a_clock_that_was_set_back_does_not_freeze_a_lease(writer: ledger_writer.Writer, ledger: Path) -> None:
    write(writer, ended(call("1"), None))
    conn, now = schema.connect(ledger), time.time() + 1
    outbox.lease(conn, "me", now + 86400, 1, 1)
    assert outbox.lease(conn, "you", now, 1, 1)


def test_the_schedule_reaches_past_72_hours_then_the_event_is_dead_and_can_be_replayed(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    assert sum(retries.SCHEDULE) > 72 * 3600
    write(writer, ended(call("1"), None))
    conn, now = schema.connect(ledger), time.time()
    for _ in range(len(retries.SCHEDULE) + 1):
        now += 110_000
        (run,) = outbox.lease(conn, "me", now, 1, 1)
        settle(conn, "me", run, now, 0, retries.Failure(503, "HTTP 503"))
    assert queries.ask(ledger, "events", {"state": "dead"})[0]["attempts"] == len(retries.SCHEDULE) + 1
    assert outbox.replay(conn, now) == 1
    assert outbox.lease(conn, "me", now, 1, 1)[0][0].event_id == run[0].event_id
