"""A killed worker had a request in hand, and its client sends it again: one of the two is charged."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger_records import call, ended
from lmstack.ledger import apply, client_retries, workers
from lmstack.ledger.records import Call, Started
from lmstack.routing.budgets import Limit


def request(id_: str, key: str | None, age: float = 0.0, stream: bool = False, task: str = "t") -> Call:
    made = replace(call(id_, task, age), client_key=key, stream=stream)
    made.estimate_usd = 0.5
    made.attribution = replace(made.attribution, key_alias="k", team="team")
    made.limited = ("task",)
    return made


def crash(conn: sqlite3.Connection, *calls: Call) -> None:
    """Start requests in a worker that dies, and let another worker find that."""
    apply.transaction(conn, [Started(one) for one in calls], "dead", False)
    interrupt(conn)


def interrupt(conn: sqlite3.Connection, *dead: str) -> None:
    workers.interrupt_requests(conn, dead or ["dead"], time.time(), False)


def spent(conn: sqlite3.Connection) -> dict[str, float]:
    """Return the cost of the task by each of the three places that count it."""
    rows = conn.execute("SELECT COALESCE(SUM(cost_usd), 0) FROM requests WHERE task_id = 't'").fetchone()[0]
    totals = conn.execute("SELECT cost_usd FROM totals WHERE kind = 'task' AND id = 't'").fetchone()[0]
    hours = conn.execute("SELECT SUM(cost_usd) FROM rollups WHERE dimension = 'task' AND name = 't'").fetchone()[0]
    return {"rows": rows, "totals": totals, "rollups": round(hours, 9)}


def everywhere(cost: float) -> dict[str, float]:
    return {"rows": cost, "totals": cost, "rollups": cost}


@pytest.mark.parametrize("retried_first", [True, False], ids=["retry, then recovery", "recovery, then retry"])
def test_a_retry_with_the_same_key_is_charged_once(conn: sqlite3.Connection, retried_first: bool) -> None:
    first, retry = request("one", "key-1", age=5), request("two", "key-1")
    apply.transaction(conn, [Started(first)], "dead", False)
    steps = [
        lambda: apply.transaction(conn, [Started(retry)], "alive", False),
        lambda: interrupt(conn),
    ]
    for step in steps if retried_first else reversed(steps):
        step()
    apply.transaction(conn, [ended(retry, 0.25)], "alive", False)
    assert spent(conn) == everywhere(0.25)
    kept = conn.execute("SELECT status, cost_usd, error_message FROM requests WHERE id = 'one'").fetchone()
    assert kept == ("interrupted", 0.0, "the proxy stopped before this request had its answer; nothing was sent to the client")  # fmt: skip
    totals = conn.execute("SELECT DISTINCT cost_usd, requests FROM totals").fetchall()
    assert totals == [(0.25, 2)]  # of the task, the agent, the team and the key
    sums = "SELECT DISTINCT cost FROM (SELECT SUM(cost_usd) AS cost FROM rollups GROUP BY dimension)"
    assert conn.execute(sums).fetchall() == [(0.25,)]
    assert conn.execute("SELECT id, retry_of FROM requests WHERE retry_of IS NOT NULL").fetchall() == [("two", "one")]


@pytest.mark.parametrize(
    ("key", "task"), [(None, "t"), ("another", "t"), ("key-1", "another task")], ids=["no key", "other key", "other task"]
)  # fmt: skip
def test_what_is_no_retry_leaves_the_estimate(conn: sqlite3.Connection, key: str | None, task: str) -> None:
    crash(conn, request("one", "key-1", age=5))
    apply.transaction(conn, [Started(request("two", key, task=task))], "alive", False)
    assert spent(conn) == everywhere(0.5)


def test_the_row_of_a_stream_says_that_a_part_may_have_been_sent(conn: sqlite3.Connection) -> None:
    crash(conn, request("one", None, stream=True))
    (text,) = conn.execute("SELECT error_message FROM requests").fetchone()
    assert text.endswith("a part of its stream may have been sent")


def limit(usd: float) -> tuple[Limit]:
    return (Limit("task", "t", "total", usd),)


def test_a_retry_that_a_budget_refuses_releases_nothing(conn: sqlite3.Connection) -> None:
    crash(conn, request("one", "key-1", age=5))
    earlier = ended(request("earlier", None), 0.25)
    verdicts = apply.transaction(conn, [earlier, Started(request("two", "key-1"), limit(0.25))], "alive", False)
    assert (verdicts[1].durable, verdicts[1].exceeded is not None) == (False, True)
    assert spent(conn) == everywhere(0.75)
    assert conn.execute("SELECT 1 FROM requests WHERE id = 'two'").fetchone() is None


def test_what_a_retry_releases_is_room_for_it(conn: sqlite3.Connection) -> None:
    crash(conn, request("one", "key-1", age=5))
    [verdict] = apply.transaction(conn, [Started(request("two", "key-1"), limit(0.5))], "alive", False)
    assert (verdict.durable, verdict.room_usd) == (True, 0.5)
    assert spent(conn) == everywhere(0.0)


@pytest.mark.parametrize("status", ["rejected", "failed"])
def test_only_an_admitted_retry_counts_when_it_comes_before_the_recovery(conn: sqlite3.Connection, status: str) -> None:
    apply.transaction(conn, [Started(request("one", "key-1", age=5))], "dead", False)
    apply.transaction(conn, [ended(request("two", "key-1"), 0.0, status)], "alive", False)
    interrupt(conn)
    assert spent(conn) == everywhere(0.5 if status == "rejected" else 0.0)


def test_a_retry_before_the_recovery_releases_one_request(conn: sqlite3.Connection) -> None:
    """A proxy sends the same x-request-id for all its requests."""
    apply.transaction(conn, [Started(request(f"r{n}", "same", age=9 - n)) for n in range(4)], "dead", False)
    apply.transaction(conn, [Started(request("s", "same", age=4))], "dead too", False)
    apply.transaction(conn, [ended(request("two", "same"), 0.0)], "alive", False)
    interrupt(conn, "dead", "dead too")
    assert spent(conn) == everywhere(2.0)
    apply.transaction(conn, [Started(request("three", "same"))], "alive", False)
    assert spent(conn) == everywhere(1.5)


def test_a_retry_after_the_recovery_releases_the_oldest_request_once(conn: sqlite3.Connection) -> None:
    crash(conn, *(request(f"r{n}", "same", age=5 - n) for n in range(4)))
    retry = Started(request("two", "same"), limit(9.0))
    for _ in range(2):  # a COMMIT can succeed although SQLite reports an error
        assert apply.transaction(conn, [retry], "alive", False)[0].durable
    assert spent(conn) == everywhere(1.5)
    assert conn.execute("SELECT id FROM requests WHERE cost_usd = 0").fetchall() == [("r0",)]
    interrupt(conn, "alive")
    assert spent(conn) == everywhere(2.0)


@pytest.mark.parametrize("retried_first", [True, False], ids=["retry, then recovery", "recovery, then retry"])
def test_a_key_that_returns_after_a_day_is_no_retry(conn: sqlite3.Connection, retried_first: bool) -> None:
    late = Started(request("two", "key-1"))
    apply.transaction(conn, [Started(request("one", "key-1", age=client_retries.SECONDS + 60))], "dead", False)
    if retried_first:
        apply.transaction(conn, [late], "alive", False)
    interrupt(conn)
    apply.transaction(conn, [late], "alive", False)
    assert spent(conn) == everywhere(0.5)


def steps(conn: sqlite3.Connection, act: Callable[[], object]) -> int:
    """Return how many instructions of SQLite's machine an action takes."""
    count = 0

    def one_more() -> None:
        nonlocal count
        count += 1

    conn.set_progress_handler(one_more, 1)
    act()
    conn.set_progress_handler(None, 0)
    return count


def test_a_key_of_many_requests_costs_no_scan(conn: sqlite3.Connection) -> None:
    crash(conn, *(request(f"other-{n}", "same", age=5, task="u") for n in range(500)))  # interrupted, of another task
    old = [ended(request(f"old-{n}", "same", age=2 * client_retries.SECONDS)) for n in range(500)]
    recent = [ended(request(f"recent-{n}", "same", age=9 - 8 * (n % 2), task="v")) for n in range(500)]
    apply.transaction(conn, [*old, *recent], "alive", False)
    retry, first = request("two", "same"), request("one", "same", age=5)
    assert steps(conn, lambda: client_retries.repeated_by(conn, retry)) < 100
    assert steps(conn, lambda: client_retries.take_retry(conn, first, ["dead"])) < 100


def test_the_searches_use_their_indexes(conn: sqlite3.Connection) -> None:
    plans: list[str] = []
    asked: list[str] = []
    conn.set_trace_callback(asked.append)
    client_retries.repeated_by(conn, request("two", "key-1"))
    client_retries.take_retry(conn, request("one", "key-1"), ["dead"])
    conn.set_trace_callback(None)
    for sql in asked:
        plans += [
            row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}") if "requests" in row[3] or "TEMP" in row[3]
        ]
    terms = (
        "(client_key=? AND endpoint=? AND requested_model=? AND task_id=? AND agent_id=? AND key_alias=? "
        "AND started_at>? AND started_at<?)"
    )
    assert plans == [
        f"SEARCH requests USING INDEX {name} {terms}" for name in ("requests_interrupted", "requests_client_key")
    ]
