"""The text of /metrics, in the format of Prometheus. Blocks: call it in a thread.

Counters are the sums that the ledger keeps for each hour, so all workers give the same ones, also after a restart. The labels
have few values. A model or provider that the gateway does not serve is counted as ``(other)``. No client's text is a label.
"""

import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any

from lmstack.ledger import queries, usage
from lmstack.ledger.timing import DEAD_AFTER_SECONDS
from lmstack.routing.budgets import EVERY
from lmstack.web.host import Facts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_SECONDS = 300
OTHER = "(other)"
Labels = Mapping[str, str]
Samples = list[tuple[Labels, float]]


class Metrics:
    """Makes the text. Holds each counter at its highest value: a request that ends after all lowers the sum of failures."""

    def __init__(self) -> None:
        self._highest: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def text(self, conn: sqlite3.Connection, facts: Facts) -> str:
        """Return all metrics."""
        now = time.time()
        lines: list[str] = []
        for name, help_text, samples in _counters(conn, facts):
            lines += _family(
                name, "counter", help_text, [(labels, self._held(name, labels, v)) for labels, v in samples]
            )
        for name, help_text, samples in (*_ledger_gauges(conn, now), *_latency(conn, now), *_fact_gauges(conn, facts)):
            lines += _family(name, "gauge", help_text, samples)
        return "\n".join(lines) + "\n"

    def _held(self, name: str, labels: Labels, value: float) -> float:
        key = (name, tuple(sorted(labels.items())))
        self._highest[key] = max(value, self._highest.get(key, 0.0))
        return self._highest[key]


Family = tuple[str, str, Samples]


def _counters(conn: sqlite3.Connection, facts: Facts) -> list[Family]:
    models = _bounded(usage.usage(conn, "model"), {m.name for m in facts.models})
    providers = _bounded(usage.usage(conn, "provider"), {m.provider for m in facts.models if m.provider})

    def by_model(key: str) -> Samples:
        return [({"gen_ai_response_model": name}, row[key]) for name, row in models.items()]

    def by_provider(key: str) -> Samples:
        return [({"gen_ai_provider_name": name}, row[key]) for name, row in providers.items()]

    tokens: Samples = [
        ({"gen_ai_response_model": name, "gen_ai_token_type": kind}, row[key])
        for name, row in models.items()
        for kind, key in (("input", "prompt_tokens"), ("output", "completion_tokens"))
    ]
    return [
        ("lmstack_requests_total", "Ended requests by the model that served them.", by_model("requests")),
        ("lmstack_failures_total", "Requests that failed or were interrupted.", by_model("failures")),
        ("lmstack_tokens_total", "Tokens by model and direction.", tokens),
        ("lmstack_cost_usd_total", "US dollars, of the answers of known price.", by_model("cost_usd")),
        ("lmstack_unpriced_total", "Answers of unknown price.", by_model("unpriced")),
        ("lmstack_provider_requests_total", "Ended requests by the provider tried last.", by_provider("requests")),
        ("lmstack_provider_failures_total", "Failed requests by the provider tried last.", by_provider("failures")),
        ("lmstack_provider_cost_usd_total", "US dollars by provider.", by_provider("cost_usd")),
    ]


def _bounded(rows: Iterable[Mapping[str, Any]], known: set[str]) -> dict[str, dict[str, float]]:
    """Return the sums of the known names, and those of all other names together."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        into = found.setdefault(row["name"] if row["name"] in known else OTHER, {})
        for key, value in row.items():
            if key != "name":
                into[key] = into.get(key, 0.0) + value
    return found


def _ledger_gauges(conn: sqlite3.Connection, now: float) -> list[Family]:
    events = {row["state"]: row for row in queries.event_counts(conn)}
    waiting = [row["oldest"] for state, row in events.items() if state in ("pending", "leased")]
    workers = conn.execute("SELECT COUNT(*) FROM workers WHERE beat_at >= ?", (now - DEAD_AFTER_SECONDS,)).fetchone()[0]
    running = conn.execute(
        "SELECT COUNT(*) FROM requests INDEXED BY requests_open WHERE status = 'started'"
    ).fetchone()[0]
    states = ("pending", "leased", "delivered", "dead")
    counts: Samples = [({"state": state}, events[state]["events"] if state in events else 0.0) for state in states]
    return [
        ("lmstack_open_requests", "Requests that run now.", [({}, running)]),
        ("lmstack_workers", "Worker processes with a heartbeat.", [({}, workers)]),
        ("lmstack_outbox_events", "Events for TaskMaster by state.", counts),
        (
            "lmstack_outbox_oldest_seconds",
            "Age of the oldest event that waits.",
            [({}, now - min(waiting, default=now))],
        ),
    ]


def _latency(conn: sqlite3.Connection, now: float) -> list[Family]:
    found = usage.latencies(conn, now - LATENCY_SECONDS)
    families = []
    for name, key in (("lmstack_request_duration_seconds", ""), ("lmstack_time_to_first_token_seconds", "ttft_")):
        # The label `quantile` belongs to summaries, and a worker could not add up one over all workers.
        found_at = (("50", found[f"{key}p50_ms"]), ("99", found[f"{key}p99_ms"]))
        samples: Samples = [({"percentile": at}, value / 1000) for at, value in found_at if value is not None]
        families.append((name, "Of the answers of the last five minutes.", samples))
    return families


def _fact_gauges(conn: sqlite3.Connection, facts: Facts) -> list[Family]:
    limits = [row for row in queries.budgets(conn, list(facts.budgets)) if row["rule"] != EVERY]
    marks = [({"scope": r["scope"], "name": r["name"] or "", "period": r["period"]}, r) for r in limits]
    healthy: Samples = [
        ({"gen_ai_response_model": m.name, "gen_ai_provider_name": m.provider or ""}, float(m.state == "healthy"))
        for m in facts.models
        if m.state != "unchecked"
    ]
    cooling: Samples = [({"gen_ai_response_model": m.name}, m.cooldown_seconds or 0.0) for m in facts.models]
    return [
        ("lmstack_model_healthy", "1 when the last result of a model was an answer.", healthy),
        ("lmstack_model_cooldown_seconds", "Seconds until a model is tried again.", cooling),
        (
            "lmstack_budget_spent_usd",
            "US dollars spent of a budget.",
            [(labels, r["spent_usd"]) for labels, r in marks],
        ),
        ("lmstack_budget_limit_usd", "The limit of a budget.", [(labels, r["limit_usd"]) for labels, r in marks]),
    ]


def _family(name: str, kind: str, help_text: str, samples: Samples) -> list[str]:
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        given = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{given}}} {float(value)!r}" if given else f"{name} {float(value)!r}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
