"""What the page shows of keys: all of them, and one with its use over time and its audit. Each function runs in a thread."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from lmstack.keys import text
from lmstack.keys.key import use_of_rates
from lmstack.ledger import key_queries
from lmstack.web import overview, shown
from lmstack.web.views import MEASURES, Ask, MissingError

STATES = ("active", "revoked", "expired")
SHOWN_KEYS = 300
MOST_CHANGES = 1000


def show_keys(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return the keys that the filter admits, as `lm key list` does."""
    return {"keys": _with_rates(key_queries.key_rows(conn, admits=_filter(ask)), ask)}


def show_key(conn: sqlite3.Connection, ask: Ask) -> dict[str, Any]:
    """Return one key, its sums over time, and who changed it, the newest change first. Raises MissingError."""
    name = ask.query["id"]
    found = _with_rates(key_queries.key_rows(conn, name), ask)
    if not found:
        raise MissingError(f"There is no key '{name}'.")
    over_time = overview.chart(conn, "key", ask.span, only=name)
    series = over_time["series"][0] if over_time["series"] else {}
    used = {measure: sum(series.get(measure, ())) for measure in overview.SUMMED}
    audit = key_queries.key_audit(conn, name=name, limit=MOST_CHANGES)
    return {"key": found[0], "used": used, "timeline": over_time, "audit": audit}


def more_of_keys(conn: sqlite3.Connection, ask: Ask, data: dict[str, Any]) -> dict[str, Any]:
    """Return what only the HTML of the list needs."""
    given = {name: ask.query[name] for name in ("name", "state", "agent", "team") if ask.query.get(name)}
    return {"given": given, "states": STATES, "access_text": _access_text, "shown": SHOWN_KEYS}


def more_of_key(conn: sqlite3.Connection, ask: Ask, data: dict[str, Any]) -> dict[str, Any]:
    """Return what only the HTML of one key needs."""
    show = ask.one_of("show", tuple(MEASURES), "cost_usd")
    over_time, key = data["timeline"], data["key"]
    return {
        "show": show, "measures": MEASURES, "limits_text": _limits_text,
        "detail_text": lambda detail: text.detail_text(detail, _when), "texts": text.options_of(key["limits"]),
        "expires": shown.utc(key["expires_at"])[:16] if key["expires_at"] else "",
        "chart": {
            "at": over_time["at"], "step": over_time["step"],
            "series": [{"name": one["name"], "values": one[show]} for one in over_time["series"]],
        },
    }  # fmt: skip


def _filter(ask: Ask) -> Callable[[dict[str, Any]], bool]:
    """Return whether a row is shown: by its state, agent and team, and by a part of its name."""
    state = ask.one_of("state", STATES, "")
    part, agent, team = (ask.query.get(name, "") for name in ("name", "agent", "team"))

    def admits(row: dict[str, Any]) -> bool:
        return (
            (not state or row["state"] == state)
            and part.lower() in row["name"].lower()
            and (not agent or agent == (row["limits"].get("agent") or row["name"]))
            and (not team or team == row["limits"].get("team"))
        )

    return admits


def _with_rates(rows: list[dict[str, Any]], ask: Ask) -> list[dict[str, Any]]:
    for row in rows:
        key = key_queries.key_of(row)
        used = ask.facts.rates(key) if key.limits.has_rates else None
        row["rates"] = use_of_rates(key.limits, used)
    return rows


def _limits_text(row: dict[str, Any]) -> str:
    return text.limits_text(row["limits"], time.time(), shown.usd, _when)


def _access_text(row: dict[str, Any]) -> str:
    """Return what a key may call: its models, tiers, routes and tasks."""
    texts = text.options_of(row["limits"])
    return ", ".join(texts[name] for name in ("models", "tiers", "routes", "tasks") if texts[name]) or shown.NONE


def _when(at: float | None) -> str:
    return "never" if at is None else shown.utc(at)[:16]
