"""The numbers of the overview, from the same sums as `lm usage`. Each function blocks: call it in a thread."""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from lmstack.ledger import queries, usage
from lmstack.ledger.usage import DAY
from lmstack.web.host import Facts
from lmstack.web.span import Span

CHART_GROUPS = 8  # each has a colour of its own; the others are one group
OTHERS = "(others)"
SUMMED = ("requests", "failures", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced")


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of all rows of `usage`."""
    listed = list(rows)
    return {name: sum(row[name] for row in listed) for name in SUMMED}


def overview(conn: sqlite3.Connection, span: Span, facts: Facts) -> dict[str, Any]:
    """Return the sums of a span, its latencies, and the cost of this UTC day beside yesterday's and the budget."""
    summed = totals(usage.usage(conn, "tier", span.since, span.until))
    return {
        **summed,
        **usage.latencies(conn, span.since, span.until),
        "premium": on_premium(summed, facts),
        "today": today(conn, span.now, facts),
    }


def on_premium(summed: Mapping[str, Any], facts: Facts) -> dict[str, Any] | None:
    """Return what the same tokens would cost on `premium`, and what was saved, in US dollars. None without a price."""
    model = facts.premium
    cost = model.cost(summed["prompt_tokens"], summed["completion_tokens"]) if model else None
    if model is None or cost is None:
        return None
    return {"model": model.name, "cost_usd": cost, "saved_usd": cost - summed["cost_usd"]}


def today(conn: sqlite3.Connection, now: float, facts: Facts) -> dict[str, Any]:
    """Return the cost of this UTC day, of yesterday, and of yesterday up to the same time of day."""
    midnight = now // DAY * DAY
    cost = totals(usage.usage(conn, "tier", midnight))["cost_usd"]
    yesterday = totals(usage.usage(conn, "tier", midnight - DAY, midnight))["cost_usd"]
    same_time = totals(usage.usage(conn, "tier", midnight - DAY, now - DAY))["cost_usd"]
    limits = [limit["usd"] for limit in facts.budgets if limit["scope"] == "all" and limit["period"] == "day"]
    return {
        "cost_usd": cost, "yesterday_usd": yesterday, "yesterday_so_far_usd": same_time,
        "budget_usd": min(limits, default=None),
    }  # fmt: skip


def chart(conn: sqlite3.Connection, by: str, span: Span, only: str | None = None) -> dict[str, Any]:
    """Return the sums over time for a chart: the steps, and for each group one list of values per sum.

    The most expensive groups have their own series; OTHERS adds up the rest. Values of a step without requests are 0.
    ``only``: the name of one group.
    """
    rows = usage.timeline(conn, by, span.since, span.until, span.step, only)
    names = _largest(rows)
    first = int(span.since // span.step * span.step)
    last = int((span.until or span.now) // span.step * span.step)
    steps = list(range(first, last + 1, span.step))
    if span.until is not None and steps and steps[-1] >= span.until and len(steps) > 1:
        steps.pop()
    place = {at: index for index, at in enumerate(steps)}
    series = {name: {key: [0] * len(steps) for key in SUMMED} for name in names}
    for row in rows:
        group, index = series[row["name"] if row["name"] in series else OTHERS], place.get(row["at"])
        if index is not None:
            for key in SUMMED:
                group[key][index] += row[key]
    return {"by": by, "step": span.step, "at": steps, "series": [{"name": name, **series[name]} for name in names]}


def _largest(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    cost: dict[str, tuple[float, int]] = {}
    for row in rows:
        known = cost.get(row["name"], (0.0, 0))
        cost[row["name"]] = (known[0] + row["cost_usd"], known[1] + row["requests"])
    ordered = sorted(cost, key=lambda name: (*(-value for value in cost[name]), name))
    return ordered if len(ordered) <= CHART_GROUPS else [*ordered[: CHART_GROUPS - 1], OTHERS]


def budgets(conn: sqlite3.Connection, facts: Facts) -> list[dict[str, Any]]:
    """Return each budget with what was spent and reserved, as `lm budget show` does."""
    return queries.budgets(conn, list(facts.budgets))


def models(conn: sqlite3.Connection, span: Span, facts: Facts) -> dict[str, Any]:
    """Return the served models with their use in a span, and the use of each provider."""
    used = {row["name"]: row for row in usage.usage(conn, "model", span.since, span.until)}
    nothing = dict.fromkeys(SUMMED, 0)
    listed = [
        {
            "name": m.name, "provider": m.provider, "model": m.litellm_model, "tier": m.tier,
            "input_usd": m.rates[0] if m.rates else None, "output_usd": m.rates[1] if m.rates else None,
            "flat_price": list(m.flat_price) if m.flat_price else None, "context": m.context, "state": m.state,
            "error": m.error, "checked_at": m.checked_at, "cooldown_seconds": m.cooldown_seconds,
            "retires_on": m.retires_on, "retired": m.retired,
            **{key: used.get(m.name, nothing)[key] for key in SUMMED},
        }
        for m in facts.models
    ]  # fmt: skip
    return {"models": listed, "providers": usage.usage(conn, "provider", span.since, span.until)}
