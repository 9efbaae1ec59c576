"""The limits in US dollars that apply to a request. The ledger knows what was spent against them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

PERIODS = ("hour", "day", "week", "month", "total")  # periods begin in UTC; a week begins on Monday
SOFT = 0.8  # a warning is sent when this share of a budget is used up
EVERY = "*"  # as a name: every task or agent that has no limit of its own


@dataclass(frozen=True, slots=True)
class Limit:
    """US dollars per ``period``.

    ``scope`` is all, task, agent, team or key. ``name`` is the task, the agent and so on; in models.yaml it may be ``*``.
    ``soft``: a warning is sent when this share is used up; None means no warning.
    """

    scope: str
    name: str
    period: str
    usd: float
    soft: float | None = None

    def reset_at(self, now: float) -> float | None:
        """Return the Unix seconds when the next period begins; None for a limit that never resets."""
        return None if self.period == "total" else period_of(self.period, now)[1]

    def state(self, spent: float, reset: float | None) -> dict[str, Any]:
        """Return the limit and what was spent, for a 429 and for `lm budget show`. ``reset`` is in Unix seconds."""
        return {
            "scope": self.scope, "name": self.name or None, "period": self.period, "limit_usd": self.usd,
            "spent_usd": round(spent, 9),
            "resets_at": None if reset is None else datetime.fromtimestamp(reset, timezone.utc).isoformat(),
        }  # fmt: skip


def period_of(period: str, now: float) -> tuple[float, float]:
    """Return when the hour, day, week or month of ``now`` begins and ends, in Unix seconds. All are periods of UTC."""
    if period == "hour":
        began = int(now) // 3600 * 3600
        return began, began + 3600
    today = datetime.fromtimestamp(now, timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return today.timestamp(), (today + timedelta(days=1)).timestamp()
    if period == "week":
        monday = today - timedelta(days=today.weekday())
        return monday.timestamp(), (monday + timedelta(days=7)).timestamp()
    first = today.replace(day=1)
    return first.timestamp(), (first + timedelta(days=32)).replace(day=1).timestamp()


def parse_limits(found: object) -> tuple[Limit, ...]:
    """Return the limits that lmstack.stack.render wrote. Each sends a warning before it is used up."""
    return tuple(Limit(**{"soft": SOFT, **entry}) for entry in found) if isinstance(found, list) else ()


def dump_limits(limits: Iterable[Limit]) -> list[dict[str, Any]]:
    """Return the limits as plain values, for the rendered configuration."""
    return [{name: value for name, value in asdict(limit).items() if value is not None} for limit in limits]


def limits_for(
    limits: Iterable[Limit],
    names: Mapping[str, str | None],
    own: Iterable[Limit] = (),
    task_budget: float | None = None,
) -> tuple[Limit, ...]:
    """Return the limits that apply to a request: those of models.yaml, its key's ``own``, and its ``x-task-budget``.

    ``names``: its task, agent, team and key, by scope. A limit for one of them replaces the one for every task, agent, ...
    """
    found: dict[tuple[str, str], Limit] = {}
    for limit in sorted(limits, key=lambda r: r.name != EVERY):  # the general limits first; special ones replace them
        name = "" if limit.scope == "all" else names.get(limit.scope)
        if name is not None and limit.name in (name, EVERY):
            found[limit.scope, limit.period] = replace(limit, name=name)
    task = names.get("task")
    last = (Limit("task", task, "total", task_budget),) if task_budget is not None and task is not None else ()
    return (*found.values(), *own, *last)
