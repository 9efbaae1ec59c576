"""The ledger on real SQLite files: rows, events, sums, bounds."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from ledger_records import call, ended, make_writer, rows_of, write
from lmstack.ledger import events, housekeeping, queries, schema, workers
from lmstack.ledger import writer as ledger_writer
from lmstack.ledger.apply import transaction
from lmstack.ledger.records import Started
from support import wait_for


def test_start_and_end_make_one_row_two_events_and_running_totals(writer: ledger_writer.Writer, ledger: Path) -> None:
    first, second = call("1"), call("2")
    write(writer, Started(first), ended(first), Started(second), ended(second, 0.5))
    rows = queries.ask(ledger, "requests", {})
    assert {(r["id"], r["status"], r["cost_usd"]) for r in rows} == {("1", "succeeded", 0.25), ("2", "succeeded", 0.5)}
    with sqlite3.connect(ledger) as conn:
        bodies = [r[0] for r in conn.execute("SELECT payload FROM outbox WHERE type = ? ORDER BY seq", (events.COST,))]
    assert '"task_total":0.75' in bodies[1]


def test_an_end_that_is_told_twice_counts_once(writer: ledger_writer.Writer, ledger: Path) -> None:
    one = call("1")
    write(writer, Started(one), ended(one), ended(one, status="failed"))
    assert [r["status"] for r in queries.ask(ledger, "requests", {})] == ["succeeded"]
    assert sum(r["events"] for r in queries.ask(ledger, "event_counts", {})) == 2


def test_an_unknown_price_stays_unknown_and_sends_no_cost_event(writer: ledger_writer.Writer, ledger: Path) -> None:
    one = call("1")
    write(writer, ended(one, None))
    (row,) = queries.ask(ledger, "requests", {})
    assert row["cost_usd"] is None
    assert [e["type"] for e in queries.ask(ledger, "events", {})] == [events.SUCCEEDED]
    (usage,) = queries.ask(ledger, "usage", {})
    assert (usage["unpriced"], usage["cost_usd"]) == (1, 0.0)


def test_rows_of_a_dead_worker_become_interrupted_with_an_estimate_and_living_ones_stay(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    orphan = call("orphan", age=60)
    orphan.estimate_usd = 0.125
    write(writer, Started(call("alive")), Started(orphan))
    conn = schema.connect(ledger)
    conn.execute("UPDATE requests SET worker = 'gone' WHERE id = 'orphan'")
    assert workers.interrupt_requests(conn, ["gone"], time.time(), send_events=True) == 1
    conn.close()
    rows = {r["id"]: r for r in queries.ask(ledger, "requests", {})}
    assert {name: r["status"] for name, r in rows.items()} == {"alive": "started", "orphan": "interrupted"}
    assert (rows["orphan"]["cost_usd"], rows["orphan"]["cost_estimated"]) == (0.125, 1)
    assert [e["type"] for e in queries.ask(ledger, "events", {})] == [events.FAILED]


def test_a_damaged_ledger_is_set_aside_and_a_new_one_takes_over(tmp_path: Path) -> None:
    ledger = tmp_path / "litellm.db"
    ledger.write_bytes(b"this is no database, and never was one" * 200)
    writer = make_writer(ledger)
    writer.post(ended(call("1"), 0.5))
    writer.flush(5)
    wait_for(lambda: list(tmp_path.glob("litellm.db.corrupt-*")) and rows_of(ledger), 10)
    writer.close()


def test_retention_deletes_in_small_steps_and_keeps_the_sums(writer: ledger_writer.Writer, ledger: Path) -> None:
    old = [call(f"old-{n}", age=100 * 86400) for n in range(housekeeping.BATCH + 10)]
    write(writer, *[ended(c, 0.01) for c in old], ended(call("new"), 0.01))
    conn = schema.connect(ledger)
    assert housekeeping.delete_some(conn, housekeeping.Bounds(90, 0), time.time())["expired"] == housekeeping.BATCH
    assert housekeeping.delete_some(conn, housekeeping.Bounds(90, 0), time.time())["expired"] == 10
    assert [r["id"] for r in queries.ask(ledger, "requests", {})] == ["new"]
    (total,) = queries.ask(ledger, "usage", {"by": "task"})
    assert (total["requests"], total["cost_usd"]) == (housekeeping.BATCH + 11, pytest.approx(5.11))
    assert conn.execute("SELECT COUNT(*) FROM outbox WHERE state = 'pending'").fetchone()[0] == 2 * (
        housekeeping.BATCH + 11
    )


def test_the_size_bound_lets_requests_go_first_and_undelivered_events_last(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    write(writer, *[ended(call(str(n)), 0.01) for n in range(100)])
    conn = schema.connect(ledger)
    went = [next(iter(housekeeping.delete_some(conn, housekeeping.Bounds(0, 0.001), time.time()))) for _ in range(2)]
    assert went == ["requests", "pending"]


def test_the_size_bound_lets_refused_requests_go_before_all_others(conn: sqlite3.Connection) -> None:
    good = [ended(call(f"good{n}", age=9000.0)) for n in range(50)]
    refused = [ended(call(f"refused{n}"), None, "rejected") for n in range(50)]
    transaction(conn, [Started(call("open", age=9999.0)), *good, *refused], "w", False)

    def left() -> list[str]:
        return [status for (status,) in conn.execute("SELECT DISTINCT status FROM requests ORDER BY status")]

    bounds = housekeeping.Bounds(0, 0.001)
    assert housekeeping.delete_some(conn, bounds, time.time()) == {"requests": 50}
    assert left() == ["started", "succeeded"]
    housekeeping.delete_some(conn, bounds, time.time())
    assert left() == ["started"]


def test_usage_is_exact_over_the_partial_first_hour(writer: ledger_writer.Writer, ledger: Path) -> None:
    base = int(time.time()) // 3600 * 3600 - 3 * 3600
    for n, offset in enumerate((0, 1000, 2000, 3600, 4000)):
        one = call(str(n))
        one.started_at = base + offset
        write(writer, ended(one, 0.5))
    (some,) = queries.ask(ledger, "usage", {"since": base + 1500})
    assert (some["requests"], some["cost_usd"], some["prompt_tokens"]) == (3, 1.5, 9)
    (day,) = queries.ask(ledger, "usage", {"by": "day", "since": base + 3600})
    assert day["requests"] == 2


def test_several_writers_share_one_file(ledger: Path) -> None:
    writers = [make_writer(ledger) for _ in range(3)]

    def work(place: int) -> None:
        for n in range(100):
            one = call(f"{place}-{n}")
            writers[place].post(Started(one))
            writers[place].post(ended(one, 0.01))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for one in writers:
        one.close(10)
    (usage,) = queries.ask(ledger, "usage", {"by": "task"})
    assert (usage["requests"], usage["cost_usd"]) == (300, pytest.approx(3.0))


def test_a_newer_ledger_is_refused_and_a_reader_changes_nothing(writer: ledger_writer.Writer, ledger: Path) -> None:
    write(writer, Started(call("1")))
    with sqlite3.connect(ledger) as conn:
        conn.execute("INSERT INTO migrations VALUES (999, 'future', 0)")
    with pytest.raises(schema.LedgerVersionError):
        queries.ask(ledger, "requests", {})
    with pytest.raises(FileNotFoundError):
        queries.ask(ledger.with_name("none.db"), "requests", {})


def test_a_ledger_without_tables_is_no_ledger_yet(tmp_path: Path) -> None:
    path = tmp_path / "litellm.db"
    schema.connect(path).close()
    with pytest.raises(FileNotFoundError):
        queries.ask(path, "requests", {})
