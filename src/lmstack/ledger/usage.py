"""Add up requests, tokens and cost of a time span: for `lm usage`, and over time for the page's charts.

Whole hours come from the rollups, the partial hours at both ends from the rows. That is exact, and quick over millions of
rows. Times are Unix seconds, costs US dollars; days are UTC days.
"""

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

from lmstack.ledger.migrations import DIMENSIONS

GROUPINGS = (*DIMENSIONS, "day")
HOUR, DAY = 3600, 86400
NO_END = 1e12
# Above this number of newest answers, percentiles are those of a sample.
LATENCY_SAMPLE = 10_000

_SUMS = """
    SUM(requests) AS requests, SUM(failures) AS failures, SUM(prompt_tokens) AS prompt_tokens,
    SUM(completion_tokens) AS completion_tokens, SUM(cost_usd) AS cost_usd, SUM(unpriced) AS unpriced
"""
_ROW_SUMS = """
    COUNT(*) AS requests, SUM(status != 'succeeded') AS failures, COALESCE(SUM(prompt_tokens), 0) AS prompt_tokens,
    COALESCE(SUM(completion_tokens), 0) AS completion_tokens, COALESCE(SUM(cost_usd), 0.0) AS cost_usd,
    SUM(status IN ('succeeded','interrupted') AND cost_usd IS NULL) AS unpriced
"""
Rows = list[dict[str, Any]]


def usage(conn: sqlite3.Connection, by: str = "model", since: float = 0.0, until: float | None = None) -> Rows:
    """Return requests, failures, tokens and cost of ended requests for each group, the highest cost first.

    ``unpriced`` counts answers of unknown cost.
    """
    source, values = _source(by, since, until)
    sql = f"SELECT name, {_SUMS} FROM ({source}) GROUP BY name ORDER BY cost_usd DESC, requests DESC"  # noqa: S608 - only constants
    return _rows(conn, sql, values)


def timeline(
    conn: sqlite3.Connection, by: str, since: float, until: float | None, step: int, only: str | None = None
) -> Rows:
    """Return the sums of ``usage`` for each group and step of time, the oldest first. ``at``: where the step begins.

    ``step`` is in seconds: a divisor of an hour, or whole hours. ``only``: the name of one group.
    """
    if step % HOUR == 0:
        source, values = _source(by, since, until)
    else:
        end = NO_END if until is None else until
        source, values = _of_rows(by, "since", "until"), {"since": since, "until": end}
    sql = f"""
        SELECT CAST(at / :step AS INTEGER) * :step AS at, name, {_SUMS} FROM ({source})
        WHERE :only IS NULL OR name = :only GROUP BY 1, 2 ORDER BY 1
        """  # noqa: S608 - only constants
    return _rows(conn, sql, values | {"step": step, "only": only})


def latencies(conn: sqlite3.Connection, since: float, until: float | None = None) -> dict[str, Any]:
    """Return the percentiles of the newest answers in milliseconds, None without answers.

    ``sampled`` is true where the span has more answers than LATENCY_SAMPLE.
    """
    sql = (
        "SELECT latency_ms, ttft_ms FROM requests WHERE started_at >= ? AND started_at < ? AND status = 'succeeded' "
        "ORDER BY started_at DESC LIMIT ?"
    )
    found = conn.execute(sql, (since, NO_END if until is None else until, LATENCY_SAMPLE)).fetchall()
    whole = sorted(row[0] for row in found if row[0] is not None)
    first = sorted(row[1] for row in found if row[1] is not None)
    return {
        "p50_ms": percentile(whole, 50), "p99_ms": percentile(whole, 99),
        "ttft_p50_ms": percentile(first, 50), "ttft_p99_ms": percentile(first, 99),
        "answers": len(found), "sampled": len(found) == LATENCY_SAMPLE,
    }  # fmt: skip


def percentile(ordered: list[float], percent: int) -> float | None:
    """Return the smallest value that at least ``percent`` of the values do not exceed (nearest rank)."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _source(by: str, since: float, until: float | None) -> tuple[str, dict[str, float]]:
    """Return the SQL of all sums of a span with their time, and its values."""
    end = NO_END if until is None else until
    first, last = math.ceil(since / HOUR), math.floor(end / HOUR)
    head_end = min(first * HOUR, end)
    # The sum of a day is the same in each dimension. The tiers have the fewest rows.
    name = f"date(hour * {HOUR}, 'unixepoch')" if by == "day" else "name"
    parts = [
        f"SELECT hour * {HOUR} AS at, {name} AS name, requests, failures, prompt_tokens, completion_tokens, cost_usd, unpriced "  # noqa: S608 - only constants
        "FROM rollups WHERE dimension = :dimension AND hour >= :first AND hour < :last",
        _of_rows(by, "since", "head_end"),
    ]
    if until is not None:
        parts.append(_of_rows(by, "tail", "until"))
    values = {
        "dimension": "tier" if by == "day" else by, "first": first, "last": last, "since": since, "until": end,
        "head_end": head_end, "tail": max(last * HOUR, head_end),
    }  # fmt: skip
    return " UNION ALL ".join(parts), values  # type: ignore[return-value]


def _of_rows(by: str, start: str, end: str) -> str:
    """Return the SQL of the sums of rows between two named times, for each minute."""
    name = "date(started_at, 'unixepoch')" if by == "day" else DIMENSIONS[by]
    return (
        f"SELECT CAST(started_at / 60 AS INTEGER) * 60 AS at, {name} AS name, {_ROW_SUMS} FROM requests "  # noqa: S608 - only constants
        f"WHERE started_at >= :{start} AND started_at < :{end} AND status != 'started' GROUP BY 1, 2"
    )


def _rows(conn: sqlite3.Connection, sql: str, values: Mapping[str, float | str | None]) -> Rows:
    return [dict(row) for row in conn.execute(sql, values).fetchall()]
