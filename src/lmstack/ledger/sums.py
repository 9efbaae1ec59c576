"""Running sums of the ledger: totals per task and agent, and rollups per hour. Runs inside the caller's transaction."""

import sqlite3
from collections.abc import Mapping, Sequence

from lmstack.ledger.records import Ended

# What a batch adds to the rollups: (dimension, name, hour) -> the six sums.
Sums = dict[tuple[str, str, int], list[float]]


def add_to_total(conn: sqlite3.Connection, kind: str, id_: str | None, cost: float | None) -> float | None:
    """Add one request to the total of a task or an agent. Return the new total in US dollars, None without an id."""
    if id_ is None:
        return None
    row = conn.execute(
        "INSERT INTO totals VALUES (?,?,?,1) ON CONFLICT (kind, id) DO UPDATE SET cost_usd = cost_usd + "
        "excluded.cost_usd, requests = requests + 1 RETURNING cost_usd",
        (kind, id_, cost or 0.0),
    ).fetchone()
    return float(row[0])


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
    }
    _add(sums, names, call.started_at, line)


def uncount_interrupted(conn: sqlite3.Connection, request_id: str, sums: Sums) -> None:
    """Take an interrupted request out of totals and sums again. It had no attempts and no usage."""
    cost, task, agent, user, model, started_at = conn.execute(
        "SELECT cost_usd, task_id, agent_id, user, requested_model, started_at FROM requests WHERE id = ?",
        (request_id,),
    ).fetchone()
    for kind, name in (("task", task), ("agent", agent)):
        sql = "UPDATE totals SET cost_usd = MAX(0, cost_usd - ?), requests = requests - 1 WHERE kind = ? AND id = ?"
        conn.execute(sql, (cost or 0.0, kind, name))
    names = {"task": task, "agent": agent, "model": model, "provider": None, "tier": None, "user": user}
    _add(sums, names, started_at, (-1, -1, 0, 0, -(cost or 0.0), -(cost is None)))


def write(conn: sqlite3.Connection, sums: Sums) -> None:
    """Add the sums of a batch to the rollups."""
    conn.executemany(
        "INSERT INTO rollups VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (dimension, hour, name) DO UPDATE SET "
        "requests = requests + excluded.requests, failures = failures + excluded.failures, "
        "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
        "completion_tokens = completion_tokens + excluded.completion_tokens, "
        "cost_usd = cost_usd + excluded.cost_usd, unpriced = unpriced + excluded.unpriced",
        [
            (dimension, name, hour, int(requests), int(failures), int(prompt), int(completion), cost, int(unpriced))
            for (dimension, name, hour), (requests, failures, prompt, completion, cost, unpriced) in sums.items()
        ],
    )


def _add(sums: Sums, names: Mapping[str, str | None], started_at: float, line: Sequence[float]) -> None:
    """Add one line to the sums of its hour, once for each dimension."""
    hour = int(started_at) // 3600
    for dimension, name in names.items():
        total = sums.setdefault((dimension, name if name is not None else "(none)", hour), [0.0] * 6)
        for place, value in enumerate(line):
            total[place] += value
