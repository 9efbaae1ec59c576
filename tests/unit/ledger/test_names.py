"""Names that clients choose do not fill the ledger, and budgets stay exact all the same."""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from ledger_records import call, ended
from lmstack.ledger import spending, sums, workers
from lmstack.ledger.apply import transaction
from lmstack.ledger.records import Attribution, Call, Ended, Started
from lmstack.routing.budgets import Limit

FLOOD = 1500


def request(name: str, limited: tuple[str, ...] = ()) -> Call:
    made = call(f"req-{name}", name)
    made.attribution = Attribution(task_id=name, agent_id=f"agent-{name}", user=f"user-{name}")
    made.requested_model, made.limited = f"model-{name}", limited
    return made


def apply(conn: sqlite3.Connection, records: Iterable[Ended | Started]) -> None:
    assert all(verdict.durable for verdict in transaction(conn, list(records), "w", True))


@pytest.fixture
def flooded(conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A ledger after more names within one hour than have room."""
    now = time.time() // 3600 * 3600 + 60
    monkeypatch.setattr(time, "time", lambda: now)
    apply(conn, [ended(request("known"), 0.5)])
    for begin in range(0, FLOOD, 500):
        names = (f"{n:05}-{'x' * 180}" for n in range(begin, begin + 500))
        apply(conn, (ended(replace(request(name), attempts=[]), None, "rejected") for name in names))
    return conn


def rows(conn: sqlite3.Connection, table: str) -> int:
    return int(conn.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def test_a_million_names_would_make_no_more_rows_than_a_thousand(flooded: sqlite3.Connection) -> None:
    dimensions = dict(flooded.execute("SELECT dimension, COUNT(*) FROM rollups GROUP BY dimension"))
    most = dict.fromkeys(("task", "agent", "user", "model"), sums.MAX_NAMES + 1)
    assert dimensions == {**most, "provider": 2, "tier": 2, "key": 1, "team": 1}
    # A batch of 500 that crosses the limit may still make totals.
    assert rows(flooded, "totals") <= 2 * (sums.MAX_NAMES + 500)
    before = rows(flooded, "totals"), rows(flooded, "rollups")
    apply(flooded, (ended(request(f"later-{n}"), 0.01) for n in range(500)))
    assert (rows(flooded, "totals"), rows(flooded, "rollups")) == before


def test_nothing_is_lost_from_the_sums(flooded: sqlite3.Connection) -> None:
    apply(flooded, (ended(request(f"later-{n}"), 0.01) for n in range(100)))
    for dimension in ("task", "agent", "user", "model", "provider", "tier"):
        assert _usage(flooded, dimension) == (FLOOD + 101, pytest.approx(1.5))
    assert flooded.execute("SELECT SUM(requests), ROUND(SUM(cost_usd), 6) FROM totals").fetchone() == (2 * (FLOOD + 101), 3.0)  # fmt: skip


def _usage(conn: sqlite3.Connection, dimension: str) -> tuple[int, float]:
    return conn.execute("SELECT SUM(requests), SUM(cost_usd) FROM rollups WHERE dimension = ?", (dimension,)).fetchone()


@pytest.mark.parametrize("period", ["day", "total"])
@pytest.mark.parametrize("name", ["known", "new"])
def test_a_budget_is_exact_after_a_flood_of_names(flooded: sqlite3.Connection, name: str, period: str) -> None:
    limit = Limit("task", name, period, 1.0)
    start = spending.spent(flooded, limit, time.time())
    assert start == (0.5 if name == "known" else 0.0)
    for number in range(3):
        one = replace(request(name, ("task",)), id=f"budgeted-{number}")
        apply(flooded, [Started(one, (limit,)), ended(one, 0.1)])
    assert spending.spent(flooded, limit, time.time()) == pytest.approx(start + 0.3)
    rest = [Started(request("again", ("task",)), (replace(limit, usd=start + 0.29),))]
    assert transaction(flooded, rest, "w", False)[0].exceeded is not None


def test_a_request_that_a_dead_worker_left_open_is_counted_by_its_budget(flooded: sqlite3.Connection) -> None:
    one = request("new", ("task",))
    one.estimate_usd = one.reserved_usd = 0.25
    apply(flooded, [Started(one, (Limit("task", "new", "total", 1.0),))])
    workers.write_heartbeat(flooded, "w", time.time())
    assert workers.interrupt_requests(flooded, ["w"], time.time(), False) == 1
    for period in ("day", "total"):
        assert spending.spent(flooded, Limit("task", "new", period, 1.0), time.time()) == 0.25


def test_the_end_of_a_request_that_was_taken_for_dead_counts_once(flooded: sqlite3.Connection) -> None:
    one = request("late")
    one.estimate_usd = 0.25
    apply(flooded, [Started(one)])
    workers.interrupt_requests(flooded, ["w"], time.time(), False)
    assert flooded.execute("SELECT cost_usd FROM totals WHERE kind = 'task' AND id = '(other)'").fetchone() == (0.25,)
    apply(flooded, [ended(one, 0.75)])
    assert flooded.execute("SELECT cost_usd FROM totals WHERE kind = 'task' AND id = '(other)'").fetchone() == (0.75,)
    assert _usage(flooded, "task") == (FLOOD + 2, pytest.approx(0.5 + 0.75))


def test_a_client_that_calls_its_task_as_the_sum_of_the_rest_hides_no_other_name(conn: sqlite3.Connection) -> None:
    apply(conn, [ended(request(sums.OTHER), 0.5)])
    apply(conn, [ended(request("next"), 0.25)])
    found = conn.execute("SELECT name, cost_usd FROM rollups WHERE dimension = 'task' ORDER BY name").fetchall()
    assert found == [("(other)", 0.5), ("next", 0.25)]
    assert conn.execute("SELECT cost_usd FROM totals WHERE kind = 'task' AND id = 'next'").fetchone() == (0.25,)


def test_the_totals_have_a_bound_of_their_own(conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "MAX_TOTALS", 10)
    apply(conn, (ended(request(f"t{n}"), 0.01) for n in range(50)))
    assert conn.execute("SELECT COUNT(*) FROM totals WHERE kind = 'task'").fetchone() == (11,)
    apply(conn, [ended(request("paid", ("task",)), 0.01)])
    assert conn.execute("SELECT cost_usd FROM totals WHERE id = 'paid'").fetchone() == (0.01,)
    events = [row for (row,) in conn.execute("SELECT payload FROM outbox WHERE type LIKE '%cost%' ORDER BY seq")]
    assert ['"task_total":null' in event for event in events[49:]] == [True, False]


def test_what_is_summed_together_is_no_spender(flooded: sqlite3.Connection) -> None:
    apply(flooded, (ended(request(f"later-{n}"), 0.01) for n in range(100)))
    for period in ("day", "total"):
        found = spending.spenders(flooded, "task", period, time.time())
        assert found[0] == "known"
        assert sums.OTHER not in found
