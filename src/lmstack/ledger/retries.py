"""When an event is sent again after a failure, and when it becomes a dead letter. Pure, except for the SQL at the end.

The promise: an event that TaskMaster does not take is tried for at least 72 hours.
"""

import random
import sqlite3
from dataclasses import dataclass

# Seconds after the 1st, 2nd, ... failed try. After the last one the event becomes a dead letter.
SCHEDULE = (5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
JITTER = 1.2  # a wait is up to this factor longer than its step, never shorter
# A receiver that asks for a longer wait is tried again after this time.
MAX_RETRY_AFTER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the receiver did not take an event. Without an answer there is no ``status``. ``retry_after`` is in seconds.

    After a ``final`` failure the event is never tried again by itself.
    """

    status: int | None
    error: str
    retry_after: float | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class NextTry:
    """What follows from one failed try. ``pause`` is in seconds.

    ``counts``: the try uses up one step of the schedule. ``receiver_chose``: the receiver named the time.
    """

    dead: bool
    counts: bool
    pause: float
    receiver_chose: bool


def after_failure(attempts: int, early: float, failure: Failure) -> NextTry:
    """Decide about the next try. ``attempts`` are the counted tries before this one.

    ``early``: this try came so many seconds before its planned time, after an outage or a change of the clock.
    """
    early = min(early, longest_wait(attempts))
    step = SCHEDULE[min(attempts, len(SCHEDULE) - 1)]
    planned = early if early > 0 else step * random.uniform(1.0, JITTER)  # noqa: S311 - jitter, not secrecy
    named = min(failure.retry_after or 0.0, MAX_RETRY_AFTER_SECONDS)
    # An early try uses up no step. Neither does a try after which the receiver names a later time than ours.
    receiver_chose = named > planned
    counts = failure.final or not (receiver_chose or early > 0)
    dead = failure.final or (counts and attempts >= len(SCHEDULE))
    return NextTry(dead, counts, 0.0 if dead else max(planned, named), receiver_chose and not dead)


def longest_wait(attempts: int) -> float:
    """Return the longest time in seconds that the schedule puts between the last counted try and the next one."""
    return SCHEDULE[min(attempts, len(SCHEDULE)) - 1] * JITTER if attempts else 0.0


def end_waits(conn: sqlite3.Connection, now: float, target: str = "") -> int:
    """Make each lane of a target due that waits by our schedule, because the receiver is back. Return how many.

    A lane stays where the receiver itself named the time.
    """
    sql = "UPDATE lanes SET due_at = ?1 WHERE target = ?2 AND due_at > ?1 AND asked = 0"
    return conn.execute(sql, (now, target)).rowcount


def end_waits_after_clock_change(conn: sqlite3.Connection, now: float) -> int:
    """Make each lane due that waits longer than a receiver may ask for, because the clock was set back."""
    sql = "UPDATE lanes SET due_at = ?1 WHERE due_at > ?1 AND (asked = 0 OR due_at > ?1 + ?2)"
    return conn.execute(sql, (now, MAX_RETRY_AFTER_SECONDS)).rowcount


def repair_due_times(conn: sqlite3.Connection, now: float) -> int:
    """Make each lane due that waits longer than any try explains: the clock was set back while no sender ran."""
    conn.create_function("longest_wait", 1, longest_wait, deterministic=True)
    return conn.execute(
        "UPDATE lanes SET due_at = ?1 WHERE due_at > ?1 + CASE WHEN asked THEN ?2 ELSE 0 END AND due_at > ?1 + "
        "(SELECT longest_wait(attempts) FROM outbox WHERE outbox.order_key = lanes.order_key "
        "AND state IN ('pending','leased') ORDER BY seq LIMIT 1)",
        (now, MAX_RETRY_AFTER_SECONDS),
    ).rowcount
