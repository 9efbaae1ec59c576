"""Running sums of the ledger: totals per task, agent, team and key, and rollups per hour. Runs inside the caller's transaction.

Clients choose most names, so their number is bounded: what comes after MAX_NAMES in an hour is summed under OTHER. A name
that has a row already keeps it, and so does what a budget counts: a budget stays exact.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lmstack.ledger import spending
from lmstack.ledger.records import Ended

OTHER = "(other)"
MAX_NAMES = 1000  # of one dimension in one hour
MAX_TOTALS = 100_000  # tasks, and agents, and so on in the totals


@dataclass(slots=True)
class Sums:
    """What a batch adds to the rollups: the six sums by dimension, name and hour. ``exact``: names that a budget counts."""

    lines: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    exact: set[tuple[str, str]] = field(default_factory=set)

    def clear(self) -> None:
        """Forget what was written."""
        self.lines.clear()
        self.exact.clear()


def add_to_total(conn: sqlite3.Connection, kind: str, id_: str | None, end: Ended) -> float | None:
    """Add one request to the total of a task, an agent, a team or a key. Return the new total in US dollars.

    Returns None without an id, and for a name that has no total of its own.
    """
    if id_ is None:
        return None
    cost = end.cost_usd or 0.0
    sql = "UPDATE totals SET cost_usd = cost_usd + ?, requests = requests + 1 WHERE kind = ? AND id = ? RETURNING cost_usd"
    found = conn.execute(sql, (cost, kind, id_)).fetchone()
    if found is not None:
        return float(found[0])
    own = _is_counted_by_a_budget(end, kind) or _has_room_in_totals(conn, kind, end.call.started_at)
    conn.execute(
        "INSERT INTO totals VALUES (?,?,?,1) ON CONFLICT (kind, id) DO UPDATE SET cost_usd = cost_usd + excluded.cost_usd, "
        "requests = requests + 1",
        (kind, id_ if own else OTHER, cost),
    )
    return cost if own else None


def count(end: Ended, sums: Sums) -> None:
    """Add one ended request to the sums of its batch. A batch writes each rollup row once."""
    call, last, who = end.call, end.call.attempts[-1] if end.call.attempts else None, end.call.attribution
    line = (
        1,
        end.status != "succeeded",
        end.usage.prompt or 0,
        end.usage.completion or 0,
        end.cost_usd or 0.0,
        end.status in ("succeeded", "interrupted") and end.cost_usd is None,
    )
    names = {
        "task": who.task_id,
        "agent": who.agent_id,
        "model": (last.deployment if last else None) or call.requested_model,
        "provider": last.provider if last else None,
        "tier": str(last.tier) if last and last.tier is not None else None,
        "user": who.user,
        "key": who.key_alias,
        "team": who.team,
    }
    _add(sums, names, call.started_at, line)
    sums.exact.update((kind, name) for kind, name in names.items() if name and _is_counted_by_a_budget(end, kind))


def uncount_interrupted(conn: sqlite3.Connection, request_id: str, sums: Sums) -> None:
    """Take an interrupted request out of totals and sums again. It had no attempts and no usage."""
    _uncount(conn, request_id, sums, requests=1)


def uncount_cost(conn: sqlite3.Connection, request_id: str, sums: Sums) -> None:
    """Take the estimated cost of an interrupted request out of totals and sums. It stays counted as a request."""
    _uncount(conn, request_id, sums, requests=0)


def _uncount(conn: sqlite3.Connection, request_id: str, sums: Sums, requests: int) -> None:
    cost, task, agent, user, key, team, model, started_at = conn.execute(
        "SELECT cost_usd, task_id, agent_id, user, key_alias, team, requested_model, started_at FROM requests WHERE id = ?",
        (request_id,),
    ).fetchone()
    for kind, name in (("task", task), ("agent", agent), ("team", team), ("key", key)):
        sql = "UPDATE totals SET cost_usd = MAX(0, cost_usd - ?), requests = requests - ? WHERE kind = ? AND id = ?"
        if name is not None and not conn.execute(sql, (cost or 0.0, requests, kind, name)).rowcount:
            conn.execute(sql, (cost or 0.0, requests, kind, OTHER))
    names = {
        "task": task,
        "agent": agent,
        "model": model,
        "provider": None,
        "tier": None,
        "user": user,
        "key": key,
        "team": team,
    }
    _add(sums, names, started_at, (-requests, -requests, 0, 0, -(cost or 0.0), -requests * (cost is None)))


def write(conn: sqlite3.Connection, sums: Sums) -> None:
    """Add the sums of a batch to the rollups, and to what budgets have spent."""
    spending.add(conn, sums.lines)
    for (dimension, name, hour), (requests, failures, prompt, completion, cost, unpriced) in sums.lines.items():
        line = (int(requests), int(failures), int(prompt), int(completion), cost, int(unpriced))
        if _update(conn, line, dimension, hour, name):
            continue
        own = (dimension, name) in sums.exact or _has_room(conn, dimension, hour)
        if own or not _update(conn, line, dimension, hour, OTHER):
            conn.execute(
                "INSERT INTO rollups VALUES (?,?,?,?,?,?,?,?,?)", (dimension, name if own else OTHER, hour, *line)
            )


def _update(conn: sqlite3.Connection, line: Sequence[float], dimension: str, hour: int, name: str) -> bool:
    """Return whether there was a row to add the line to."""
    sql = (
        "UPDATE rollups SET requests = requests + ?, failures = failures + ?, prompt_tokens = prompt_tokens + ?, "
        "completion_tokens = completion_tokens + ?, cost_usd = cost_usd + ?, unpriced = unpriced + ? "
        "WHERE dimension = ? AND hour = ? AND name = ?"
    )
    return bool(conn.execute(sql, (*line, dimension, hour, name)).rowcount)


def _is_counted_by_a_budget(end: Ended, kind: str) -> bool:
    """Return whether a budget of this task or agent counts the cost of a request. What costs nothing changes no budget."""
    return kind in end.call.limited and bool(end.cost_usd)


def _has_room(conn: sqlite3.Connection, dimension: str, hour: int) -> bool:
    """Return whether a new name gets a row in this hour. A row of OTHER tells nothing: a client may choose that name."""
    sql = "SELECT 1 FROM rollups WHERE dimension = ? AND hour = ? LIMIT 1 OFFSET ?"
    return conn.execute(sql, (dimension, hour, MAX_NAMES - 1)).fetchone() is None


def _has_room_in_totals(conn: sqlite3.Connection, kind: str, started_at: float) -> bool:
    """Return whether a new task or agent gets a total. The hour is asked first: counting all totals takes milliseconds."""
    if not _has_room(conn, kind, int(started_at) // 3600):
        return False
    return int(conn.execute("SELECT COUNT(*) FROM totals WHERE kind = ?", (kind,)).fetchone()[0]) < MAX_TOTALS


def _add(sums: Sums, names: Mapping[str, str | None], started_at: float, line: Sequence[float]) -> None:
    """Add one line to the sums of its hour, once for each dimension."""
    hour = int(started_at) // 3600
    for dimension, name in names.items():
        total = sums.lines.setdefault((dimension, name if name is not None else "(none)", hour), [0.0] * 6)
        for place, value in enumerate(line):
            total[place] += value
