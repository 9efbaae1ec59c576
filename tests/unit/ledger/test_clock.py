"""A wall clock that jumps must not delete history, end requests, or refund a budget."""

import sqlite3
import time
from pathlib import Path

import pytest

from lmstack.ledger import apply, housekeeping, queries, spending, workers
from lmstack.ledger.housekeeping import Bounds
from lmstack.ledger.records import Attribution, Call, Ended, ExceededLimit, Started, Usage
from lmstack.ledger.session import Session
from lmstack.ledger.timing import Timing
from lmstack.ledger.trusted_clock import TrustedClock, unconfirmed_gap
from lmstack.routing.budgets import Limit

DAY, HOUR, YEAR = 86400.0, 3600.0, 365 * 86400.0
NOON = 1_700_000_000.0 // DAY * DAY + DAY / 2


def call(name: str, started_at: float, task: str = "t", reserved: float | None = None) -> Call:
    made = Call(name, name, None, started_at, "/v1/chat/completions", False, "auto", Attribution(task, "a"))
    made.reserved_usd = reserved
    return made


def ended(name: str, at: float, cost: float = 0.25, task: str = "t") -> Ended:
    return Ended(call(name, at, task), "succeeded", at + 1, 1000.0, Usage(1, 1), cost)


def write(conn: sqlite3.Connection, *times: float) -> None:
    apply.transaction(conn, [ended(f"r{at}", at) for at in times], "w", True)


def ids(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT COUNT(*) FROM requests").fetchone()[0])


@pytest.mark.parametrize(
    ("hours", "gap"),
    [
        # The hours before now that have a request, and the gap that does not count yet, in hours.
        ([], 0),
        ([0], 0),
        ([0, 1, 2, 30], 28),  # a gap of more than a day that ended two hours ago
        ([0, 1, 24, 200], 176),  # it ended exactly a day ago
        ([0, 20, 26, 200], 0),  # it ended more than a day ago: the clock has run since
        ([30], 30),  # nothing was asked for since the gap began
        ([0, 23, 46, 69], 0),  # there is a request each day
        ([0, 24 * 365], 24 * 365),  # a clock a year ahead
        ([-24 * 365, 0, 1, 30], 29),  # a clock a year ahead that was set back: its rows lie in the future
        ([5, 24 * 40, 24 * 400], 24 * 40 - 5),  # only the last gap is in doubt
    ],
)
def test_a_gap_counts_as_time_only_after_the_clock_has_run_for_a_day(
    conn: sqlite3.Connection, hours: list[int], gap: int
) -> None:
    write(conn, *[NOON - hour * HOUR for hour in hours])
    assert unconfirmed_gap(conn, NOON) == gap * HOUR


@pytest.mark.parametrize(
    ("looks", "trusted"),
    [
        # Each look: seconds of the monotonic clock, and what the wall clock shows more than that.
        ([(0, 0)], False),
        ([(0, 0), (DAY - 1, 0)], False),
        ([(0, 0), (DAY, 0)], True),
        ([(0, 0), (DAY, YEAR)], False),  # the clock jumped ahead while we looked
        ([(0, 0), (DAY, YEAR), (2 * DAY, YEAR)], True),  # and has run for a day since
        ([(0, 0), (DAY, 300.0)], True),  # a small correction
        ([(0, 0), (HOUR, -10 * DAY), (DAY, -10 * DAY)], False),
        ([(0, 0), (HOUR, YEAR), (2 * HOUR, 0), (DAY, 0)], False),  # back again: the day begins again, too
    ],
)
def test_a_process_trusts_the_clock_after_it_has_watched_it_for_a_day(
    conn: sqlite3.Connection, looks: list[tuple[float, float]], trusted: bool
) -> None:
    write(conn, NOON - 100 * DAY)
    clock, found, wall = TrustedClock(), 0.0, 0.0
    for monotonic, ahead in looks:
        wall = NOON + monotonic + ahead
        found = clock.now(conn, wall, monotonic)
    assert (found == wall) is trusted


def test_a_clock_a_year_ahead_deletes_no_history_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [NOON]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for restart, asked in enumerate(("before", "after", "later")):
        session = Session(tmp_path / "litellm.db", True, Bounds(90, 0), f"w{restart}", lambda text: None, Timing())
        if asked == "before":
            session.store([ended(f"day-{day}", NOON - day * DAY) for day in range(60)])
        else:
            now[0] = NOON + YEAR + restart * HOUR
        session.store([ended(asked, now[0])])
        session.beat()
        session.close()
    assert len(queries.ask(tmp_path / "litellm.db", "requests", {"limit": 100})) == 63
    assert [record.getMessage() for record in caplog.records if "the clock was set ahead" in record.getMessage()]


def test_what_is_really_old_goes_once_the_clock_has_run_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that was off for a year must not keep its old requests for ever."""
    now = [NOON]
    monkeypatch.setattr(time, "time", lambda: now[0])
    session = Session(tmp_path / "litellm.db", True, Bounds(90, 0), "w", lambda text: None, Timing())
    session.store([ended("old", NOON - YEAR)])
    for hour in range(27):
        session.store([ended(f"hour-{hour}", now[0])])
        session.beat()
        assert ("old" in {row["id"] for row in queries.ask(tmp_path / "litellm.db", "requests", {})}) is (hour < 25)
        now[0] += HOUR
    session.close()


def test_the_size_bound_holds_whatever_the_clock_says(conn: sqlite3.Connection) -> None:
    write(conn, *[NOON + YEAR + n for n in range(10)])
    housekeeping.delete_some(conn, Bounds(90, 0.001), NOON)
    assert ids(conn) == 0


@pytest.mark.parametrize(
    ("moved", "spent"),
    [
        (0.0, 0.25),
        (6 * HOUR, 0.25),  # the same day
        (-6 * HOUR, 0.25),  # set back within the day: hours that lie ahead count, too
        (DAY, 0.0),  # the next day has its own budget
        (-DAY, 0.0),  # so has the day before: what it spent counts there
    ],
)
def test_a_budgets_day_follows_the_clock_and_refunds_nothing_within_it(
    conn: sqlite3.Connection, moved: float, spent: float
) -> None:
    write(conn, NOON)
    limit = Limit("task", "t", "day", 1.0)
    assert spending.spent(conn, limit, NOON + moved) == spent
    assert spending.spent(conn, Limit("task", "t", "total", 1.0), NOON + moved) == 0.25
    apply.transaction(conn, [Started(call("open", NOON, reserved=0.5))], "w", True)
    assert spending.reserved(conn, limit) == 0.5, "a reservation counts on any day"


def test_a_day_that_was_spent_stays_spent_when_the_clock_goes_ahead_and_comes_back(conn: sqlite3.Connection) -> None:
    limit = Limit("task", "t", "day", 0.25)
    write(conn, NOON)
    assert isinstance(spending.room(conn, [limit], NOON), ExceededLimit)
    write(conn, NOON + YEAR)
    assert isinstance(spending.room(conn, [limit], NOON), ExceededLimit)
    assert isinstance(spending.room(conn, [limit], NOON + YEAR), ExceededLimit)


def test_a_request_that_ends_before_it_began_has_no_negative_time(conn: sqlite3.Connection) -> None:
    apply.transaction(conn, [Started(call("1", NOON + YEAR))], "gone", True)
    workers.interrupt_requests(conn, ["gone"], NOON, True)
    assert conn.execute("SELECT status, latency_ms FROM requests").fetchone() == ("interrupted", 0.0)
