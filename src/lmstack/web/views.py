"""What each view shows, as plain data: the page renders it, and /api/v1 sends it as JSON. Each function runs in a thread."""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmstack.ledger import queries, usage
from lmstack.ledger.filters import STATUSES, Filter
from lmstack.ledger.migrations import DIMENSIONS
from lmstack.web import one_request, overview
from lmstack.web.host import Facts
from lmstack.web.span import Span

SHOWN_REQUESTS, MOST_REQUESTS = 100, 10_000
EVENT_STATES = ("pending", "leased", "delivered", "dead")
MEASURES = {
    "cost_usd": "Cost", "requests": "Requests", "failures": "Failures", "prompt_tokens": "Tokens in", "completion_tokens": "Tokens out",
}  # fmt: skip


class ViewError(ValueError):
    """A parameter that no view knows. The text says what is wrong."""


class MissingError(ValueError):
    """There is no such request or key. The text names it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a URL asks for. ``query`` holds the parameters without the span."""

    span: Span
    query: Mapping[str, str]
    facts: Facts

    def one_of(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """Return a parameter, or the default when it is missing or empty. Raises ViewError for any other value."""
        value = self.query.get(name) or default
        if value not in (*allowed, default):
            raise ViewError(f"'{name}' is one of {', '.join(allowed)}")
        return value

    def number(self, name: str, default: int, most: int) -> int:
        """Return a positive number that is at most ``most``. Raises ViewError."""
        text = self.query.get(name) or str(default)
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise ViewError(f"'{name}' must be a number above 0")
        return min(int(text), most)


View = Callable[[sqlite3.Connection, Ask], dict[str, Any]]


def show_overview(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return the numbers of the overview."""
    return overview.overview(conn, ask.span, ask.facts)


def show_usage(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return what `lm usage` prints for the same span."""
    by = ask.one_of("by", usage.GROUPINGS, "model")
    rows = usage.usage(conn, by, ask.span.since, ask.span.until)
    summed = overview.totals(rows)
    return {"by": by, "rows": rows, "total_usd": summed["cost_usd"], "unpriced": summed["unpriced"]}


def show_timeline(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return the sums over time by group."""
    return overview.chart(conn, ask.one_of("by", usage.GROUPINGS[:-1], "model"), ask.span)


def filter_of(ask: Ask) -> Filter:
    """Return the filter of a URL. Raises ViewError for an unknown status."""
    status = ask.one_of("status", STATUSES, "") or None
    return Filter(status, {name: ask.query[name] for name in DIMENSIONS if ask.query.get(name)})


def show_requests(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return the requests that the filter admits, the newest first."""
    limit = ask.number("limit", SHOWN_REQUESTS, MOST_REQUESTS)
    return {"requests": queries.filtered(conn, filter_of(ask), ask.span.since, ask.span.until, limit)}


def show_request(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return one request with its attempts, events and cost, under the keys of `lm request`. Raises MissingError."""
    found = queries.request(conn, ask.query["id"])
    if len(found) != 1:
        raise MissingError("The ledger has no request with this id.")
    row = dict(found[0])
    attempts, events = row.pop("attempt_list"), row.pop("event_list")
    return {
        "request": row, "attempts": one_request.time_line(row, attempts), "events": events,
        "lines": one_request.cost_lines(row, ask.facts),
    }  # fmt: skip


def show_models(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return models and providers with their use."""
    return overview.models(conn, ask.span, ask.facts)


def show_budgets(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return the budgets."""
    return {"budgets": overview.budgets(conn, ask.facts)}


def show_errors(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return the errors by kind, and what was refused at the gate."""
    span = (ask.span.since, usage.NO_END if ask.span.until is None else ask.span.until)
    return {"errors": queries.errors(conn, *span), "refused": queries.refused(conn, *span)[0]}


def show_events(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return the outbox: how many events are in each state, and the newest of them."""
    state = ask.one_of("state", EVENT_STATES, "") or None
    counts = {row["state"]: row for row in queries.event_counts(conn)}
    limit = ask.number("limit", SHOWN_REQUESTS, MOST_REQUESTS)
    return {"counts": counts, "state": state, "events": queries.events(conn, state, limit)}


# By their name in /api/v1. The second value names the list that CSV writes.
VIEWS: dict[str, tuple[View, str | None]] = {
    "overview": (show_overview, None), "usage": (show_usage, "rows"), "timeline": (show_timeline, None),
    "requests": (show_requests, "requests"), "models": (show_models, "models"), "budgets": (show_budgets, "budgets"),
    "errors": (show_errors, "errors"), "events": (show_events, "events"),
}  # fmt: skip
