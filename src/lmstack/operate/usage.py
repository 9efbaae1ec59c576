"""Usage of a time span, compared with the most expensive tier."""

import time
from typing import Any

from lmstack.errors import ConfigError
from lmstack.operate.planning import ask
from lmstack.stack.project import Project

DEAREST_TIER = 3


def usage_rows(project: Project, by: str, seconds: float) -> list[dict[str, Any]]:
    """Return requests, failures, tokens and cost in USD of the last ``seconds``, a row for each value of ``by``."""
    return ask(project, "usage", by=by, since=time.time() - seconds)


def cost_on_dearest_tier(project: Project, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the cheapest model of the most expensive tier, and what these tokens would have cost there; None without one."""
    try:
        models = project.catalog().models.values()
    except ConfigError:  # models.yaml has errors; the usage is shown all the same
        return None
    priced = [m for m in models if m.tier == DEAREST_TIER and m.priced and not m.successor]
    if not priced:
        return None
    model = min(priced, key=lambda m: 3 * (m.input or 0) + (m.output or 0))
    tokens_in, tokens_out = sum(r["prompt_tokens"] for r in rows), sum(r["completion_tokens"] for r in rows)
    cost = (tokens_in * (model.input or 0) + tokens_out * (model.output or 0)) / 1_000_000
    return {"model": model.name, "cost_usd": cost}
