"""A killed worker had a request in hand, and its client sends it again: one of the two is charged."""

import sqlite3
import time
from dataclasses import replace

import pytest

from ledger_records import call, ended
from lmstack.ledger import apply, workers
from lmstack.ledger.records import Call, Started


def request(id_: str, key: str | None, age: float = 0.0, stream: bool = False, task: str = "t") -> Call:
    made = replace(call(id_, task, age), client_key=key, stream=stream)
    made.estimate_usd = 0.5
    return made


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
        lambda: workers.interrupt_requests(conn, ["dead"], time.time(), False),
    ]
    for step in steps if retried_first else reversed(steps):
        step()
    apply.transaction(conn, [ended(retry, 0.25)], "alive", False)
    assert spent(conn) == everywhere(0.25)
    kept = conn.execute("SELECT status, cost_usd, error_message FROM requests WHERE id = 'one'").fetchone()
    assert kept == ("interrupted", 0.0, "the proxy stopped before this request had its answer; nothing was sent to the client")  # fmt: skip
    assert conn.execute("SELECT requests FROM totals WHERE kind = 'task' AND id = 't'").fetchone() == (2,)


@pytest.mark.parametrize(
    ("key", "task"), [(None, "t"), ("another", "t"), ("key-1", "another task")], ids=["no key", "other key", "other task"]
)  # fmt: skip
def test_what_is_no_retry_leaves_the_estimate(conn: sqlite3.Connection, key: str | None, task: str) -> None:
    apply.transaction(conn, [Started(request("one", "key-1", age=5))], "dead", False)
    workers.interrupt_requests(conn, ["dead"], time.time(), False)
    apply.transaction(conn, [Started(request("two", key, task=task))], "alive", False)
    assert spent(conn) == everywhere(0.5)


def test_the_row_of_a_stream_says_that_a_part_may_have_been_sent(conn: sqlite3.Connection) -> None:
    apply.transaction(conn, [Started(request("one", None, stream=True))], "dead", False)
    workers.interrupt_requests(conn, ["dead"], time.time(), False)
    (text,) = conn.execute("SELECT error_message FROM requests").fetchone()
    assert text.endswith("a part of its stream may have been sent")
