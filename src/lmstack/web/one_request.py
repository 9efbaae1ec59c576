"""One request for its page: its attempts on a time line, and its cost worked out. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from lmstack.web.host import Facts
from lmstack.web.shown import usd

_MILLION = 1_000_000


def time_line(request: Mapping[str, Any], attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each attempt where its bar begins and how long it is, in tenths of a percent of the whole request."""
    began = request["started_at"]
    ends = [(a["started_at"] - began) * 1000 + (a["latency_ms"] or 0) for a in attempts]
    whole = max([request["latency_ms"] or 0, *ends, 1e-3])
    bars = []
    for attempt in attempts:
        start = max(0.0, (attempt["started_at"] - began) * 1000)
        width = max(4, round(1000 * (attempt["latency_ms"] or 0) / whole))
        left = min(1000 - 4, round(1000 * start / whole))
        bars.append({**attempt, "start_ms": start, "left": left, "width": min(width, 1000 - left)})
    return bars


def demands(request: Mapping[str, Any]) -> list[str]:
    """Return what a request demanded of routing, by headers, metadata or models.yaml, as texts."""
    asked = json.loads(request.get("asked") or "{}")
    found = [f"tier {asked['tier']}"] if "tier" in asked else []
    found += [f"at most {usd(asked['max_cost'])}"] if "max_cost" in asked else []
    found += ["no fallback"] if asked.get("no_fallback") else []
    return found + [f"budget {one}" for one in asked.get("budgets", ())]


def cost_lines(request: Mapping[str, Any], facts: Facts) -> list[dict[str, Any]]:
    """Return the cost line by line: tokens, price per million tokens, US dollars; and what the recorded cost differs by.

    The prices are those of today. The recorded cost knows cheaper cached tokens, and the prices of its time.
    """
    model = next((m for m in facts.models if m.name == request["deployment"]), None)
    tokens = (("Tokens in", request["prompt_tokens"]), ("Tokens out", request["completion_tokens"]))
    if model is None or model.rates is None or request["cost_usd"] is None or None in (tokens[0][1], tokens[1][1]):
        return []
    lines = [
        {"what": what, "tokens": number, "rate": rate, "usd": number * rate / _MILLION}
        for (what, number), rate in zip(tokens, model.rates, strict=True)
    ]
    rest = request["cost_usd"] - sum(line["usd"] for line in lines)
    if abs(rest) > 1e-9:
        why = "Answered from the cache" if request["cache_hit"] else "Cached tokens, other prices at that time"
        lines.append({"what": why, "tokens": request["cached_tokens"], "rate": None, "usd": rest})
    return lines
