"""When an event is tried again, and when it is dead: the promise of 72 hours, on a real SQLite file and a made-up clock."""

import itertools
import sqlite3
from dataclasses import dataclass

import pytest

from lmstack.ledger import events, outbox, retries, schema
from lmstack.ledger.outbox import LeasedEvent, RunOutcome
from lmstack.ledger.retries import SCHEDULE, Failure

HOUR = 3600.0
BEGAN = 1_700_000_000.0
DOWN = Failure(503, "HTTP 503")


def put(conn: sqlite3.Connection, task: str = "task:t", now: float = BEGAN, count: int = 1) -> None:
    with schema.writing(conn):
        for number in range(count):
            outbox.put(conn, events.COST, task, {"n": number}, now)


def settle(
    conn: sqlite3.Connection, run: list[LeasedEvent], now: float, failure: Failure | None, owner: str = "me"
) -> None:
    with schema.writing(conn):
        outbox.settle(conn, owner, RunOutcome(run, 0 if failure else len(run), failure), now)


def row(conn: sqlite3.Connection) -> tuple[str, int, float]:
    return tuple(conn.execute("SELECT state, attempts, next_attempt_at FROM outbox ORDER BY seq").fetchone())


def due(conn: sqlite3.Connection) -> float:
    return float(conn.execute("SELECT MIN(due_at) FROM lanes").fetchone()[0])


def tries(
    conn: sqlite3.Connection, failure: Failure, hours: float, end_waits_every: float | None = None
) -> list[float]:
    """Fail every try of one event for so many hours; returns the seconds at which it was tried, up to its death."""
    made, now = [], BEGAN
    while now <= BEGAN + hours * HOUR:
        for (event,) in outbox.lease(conn, "me", now, 1, 1):
            made.append(now - BEGAN)
            settle(conn, [event], now, failure)
        if row(conn)[0] == "dead":
            break
        now = max(now + 1, min(due(conn), now + (end_waits_every or 1e9)))
        if end_waits_every:
            retries.end_waits(conn, now)
    return made


# 410 is put off by the poster itself, by 600 seconds.
@pytest.mark.parametrize("retry_after", [None, 0.0, 1.0, 60.0, 600.0, 3600.0, 1e14])
def test_100_hours_of_failures_kill_nothing_before_72_and_no_try_comes_before_the_schedule(
    conn: sqlite3.Connection, retry_after: float | None
) -> None:
    put(conn)
    made = tries(conn, Failure(503, "x", retry_after), 100)
    assert len(made) >= 12
    assert row(conn)[0] == "pending" or made[-1] > 72 * HOUR
    waits = [b - a for a, b in itertools.pairwise(made)]
    assert min(waits) >= max(SCHEDULE[0], min(retry_after or 0.0, retries.MAX_RETRY_AFTER_SECONDS))
    assert max(waits) <= SCHEDULE[-1] * retries.JITTER + 1


def test_without_a_named_time_there_are_twelve_tries_by_the_schedule(conn: sqlite3.Connection) -> None:
    put(conn)
    waits = [b - a for a, b in itertools.pairwise(tries(conn, DOWN, 200))]
    assert row(conn)[:2] == ("dead", 12)
    assert all(step <= wait <= step * 1.21 + 1 for step, wait in zip(SCHEDULE, waits, strict=True))


def test_a_receiver_that_comes_and_goes_uses_up_no_schedule(conn: sqlite3.Connection) -> None:
    """Each time it comes back, everything is due at once. An event that fails each time has had no 72 hours yet."""
    put(conn)
    made = tries(conn, DOWN, 80, end_waits_every=300)
    assert len(made) > 100
    assert row(conn)[0] == "pending" or made[-1] > 72 * HOUR


@dataclass(frozen=True)
class Case:
    name: str
    attempts: int  # before this try
    early: float  # seconds before its time at which it is tried
    failure: Failure
    counts: bool
    dead: bool
    least: float  # seconds to the next try
    most: float
    asked: bool = False


CASES = (
    Case("the first failure", 0, 0, DOWN, True, False, 5, 6),
    Case("the last failure", 11, 0, DOWN, True, True, 0, 0),
    Case("no answer", 3, 0, Failure(None, "ConnectError"), True, False, 600, 720),
    Case("refused for good", 0, 0, Failure(400, "HTTP 400", None, True), True, True, 0, 0),
    Case("refused for good, with a time", 0, 0, Failure(400, "HTTP 400", 60, True), True, True, 0, 0),
    Case("a time before ours", 2, 0, Failure(503, "x", 0.0), True, False, 120, 144),
    Case("a time after ours", 0, 0, Failure(503, "x", 60.0), False, False, 60, 60, True),
    Case("an endless time", 0, 0, Failure(503, "x", 1e14), False, False, 3600, 3600, True),
    Case("a time before ours at the end", 11, 0, Failure(503, "x", 3600.0), True, True, 0, 0),
    Case("early, after an outage", 6, 7000, DOWN, False, False, 7000, 7000),
    Case("early at the end", 11, 80000, DOWN, False, False, 80000, 80000),
    Case("early, and refused for good", 6, 7000, Failure(413, "x", None, True), True, True, 0, 0),
    Case("early, and a later time is named", 1, 3, Failure(429, "x", 90.0), False, False, 90, 90, True),
    Case("planned by a clock that was an hour ahead", 1, 3605, DOWN, False, False, 6, 6),
    Case("made by a clock that was an hour ahead", 0, 3600, DOWN, True, False, 5, 6),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_failed_try(conn: sqlite3.Connection, case: Case) -> None:
    put(conn)
    now = BEGAN + 10
    conn.execute("UPDATE outbox SET attempts = ?, next_attempt_at = ?", (case.attempts, now + case.early))
    ((event,),) = outbox.lease(conn, "me", now, 1, 1)
    settle(conn, [event], now, case.failure)
    state, attempts, planned = row(conn)
    assert (state, attempts) == ("dead" if case.dead else "pending", case.attempts + case.counts)
    assert case.least - 1e-3 <= planned - now <= case.most + 1e-3
    lane = conn.execute("SELECT due_at, asked FROM lanes").fetchone()
    assert lane is None if case.dead else lane == (planned, case.asked)


def test_an_outcome_from_another_ledger_settles_nothing_of_this_one(conn: sqlite3.Connection) -> None:
    """After a damaged ledger was set aside, the new one counts from 1 again and may hold the same task."""
    put(conn)
    ((mine,),) = outbox.lease(conn, "me", BEGAN, 1, 1)
    stale = LeasedEvent(mine.seq, "evt_of_the_old_ledger", mine.type, mine.order_key, BEGAN, "{}", 0)
    settle(conn, [stale], BEGAN, None)
    assert row(conn)[0] != "delivered"
    settle(conn, [stale], BEGAN, Failure(400, "HTTP 400", None, True))
    assert row(conn)[0] != "dead"


@pytest.mark.parametrize("jump", [-HOUR, -60.0, 60.0, 80 * HOUR], ids=lambda jump: f"{jump:+g} s")
def test_two_workers_and_a_clock_that_jumps_lose_nothing(conn: sqlite3.Connection, jump: float) -> None:
    put(conn, count=3)
    (mine,) = outbox.lease(conn, "me", BEGAN, 1, 10)
    now = BEGAN + jump
    retries.end_waits_after_clock_change(conn, now)
    theirs = outbox.lease(conn, "you", now, 1, 10)
    settle(conn, mine, now, DOWN)  # only counts while the lease is mine
    for run in theirs:
        settle(conn, run, now, None, "you")
    for step in range(5):
        for run in outbox.lease(conn, "you", now + 100 * (step + 1), 1, 10):
            settle(conn, run, now + 100 * (step + 1), None, "you")
    states = conn.execute("SELECT DISTINCT state FROM outbox").fetchall()
    assert states == [("delivered",)]
    assert conn.execute("SELECT COUNT(*) FROM lanes").fetchone() == (0,)


def test_what_was_put_off_before_the_clock_went_back_and_the_worker_restarted_is_due(conn: sqlite3.Connection) -> None:
    for task in ("new", "tried", "asked", "rightly waiting"):
        put(conn, task, BEGAN)
    conn.execute("UPDATE outbox SET attempts = 1 WHERE order_key = 'tried'")
    conn.execute("UPDATE outbox SET attempts = 6 WHERE order_key = 'rightly waiting'")
    conn.execute("UPDATE lanes SET asked = 1 WHERE order_key = 'asked'")
    waits = {"new": HOUR, "tried": HOUR, "asked": 2 * HOUR, "rightly waiting": HOUR}
    conn.executemany("UPDATE lanes SET due_at = ? WHERE order_key = ?", [(BEGAN + s, k) for k, s in waits.items()])
    assert retries.repair_due_times(conn, BEGAN) == 3
    assert {run[0].order_key for run in outbox.lease(conn, "me", BEGAN, 9, 9)} == {"new", "tried", "asked"}


def test_a_stop_gives_leases_back_and_a_replay_gives_the_whole_schedule_again(conn: sqlite3.Connection) -> None:
    put(conn, count=2)
    assert outbox.lease(conn, "me", BEGAN, 1, 10)
    assert outbox.lease(conn, "you", BEGAN, 1, 10) == []
    outbox.release(conn, "me")
    ((first, second),) = outbox.lease(conn, "you", BEGAN, 1, 10)
    settle(conn, [first, second], BEGAN, Failure(400, "HTTP 400", None, True), "you")
    assert outbox.replay(conn, BEGAN + 5) == 1
    assert row(conn) == ("pending", 0, BEGAN + 5)
    ((again, _),) = outbox.lease(conn, "me", BEGAN + 5, 1, 10)
    assert (again.event_id, again.attempts) == (first.event_id, 0)


def test_no_more_is_leased_than_is_sent(conn: sqlite3.Connection) -> None:
    for lane in range(50):
        put(conn, f"task:{lane}", BEGAN + lane, count=30)
    runs = outbox.lease(conn, "me", BEGAN + 100, 50, 100, 100)
    assert [len(run) for run in runs] == [30, 30, 30, 10]
    assert conn.execute("SELECT COUNT(*) FROM outbox WHERE state = 'leased'").fetchone() == (100,)
    assert conn.execute("SELECT COUNT(*) FROM lanes WHERE lease_owner IS NOT NULL").fetchone() == (4,)
