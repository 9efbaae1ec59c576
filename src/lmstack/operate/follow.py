"""Watch the ledger: what is new since the last look, once a second, until the caller stops."""

import time
from collections.abc import Iterator
from typing import Any

from lmstack.operate.planning import ask
from lmstack.stack.project import Project

EVENTS = 500  # the newest events that are watched for a change
_SECOND = 1.0

Row = dict[str, Any]


def new_requests(project: Project, seen: list[Row], failed: bool, task: str | None) -> Iterator[list[Row]]:
    """Yield the requests that have ended since the last look, oldest first. ``seen``: rows that are shown already."""
    known, since = {r["id"] for r in seen if r["status"] != "started"}, time.time() - 60
    while True:
        time.sleep(_SECOND)
        rows = ask(project, "requests", since=since, failed=failed, task=task, limit=1000)
        new = [r for r in reversed(rows) if r["id"] not in known and r["status"] != "started"]
        known |= {r["id"] for r in new}
        yield new


def changed_events(project: Project, seen: list[Row]) -> Iterator[list[Row]]:
    """Yield the events with a new state or number of tries since the last look, oldest first."""
    known = _states(seen)
    while True:
        time.sleep(_SECOND)
        rows = ask(project, "events", limit=EVENTS)
        yield [row for row in reversed(rows) if known.get(row["seq"]) != (row["state"], row["attempts"])]
        known = _states(rows)


def _states(rows: list[Row]) -> dict[int, tuple[str, int]]:
    return {row["seq"]: (row["state"], row["attempts"]) for row in rows}
