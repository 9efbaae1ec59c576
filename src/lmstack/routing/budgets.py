"""The limits in US dollars that apply to a request. The ledger knows what was spent against them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

PERIODS = ("day", "total")  # a day is a UTC day
EVERY = "*"  # as a name: every task or agent that has no limit of its own


@dataclass(frozen=True, slots=True)
class Limit:
    """US dollars per ``period``.

    ``scope`` is all, task or agent. ``name`` is the task or the agent; in models.yaml it may be ``*``.
    """

    scope: str
    name: str
    period: str
    usd: float

    def reset_at(self, now: float) -> float | None:
        """Return the Unix seconds of the next UTC midnight; None for a limit that never resets."""
        if self.period != "day":
            return None
        today = datetime.fromtimestamp(now, timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
        return (today + timedelta(days=1)).timestamp()

    def state(self, spent: float, reset: float | None) -> dict[str, Any]:
        """Return the limit and what was spent, for a 429 and for `lm budget show`. ``reset`` is in Unix seconds."""
        return {
            "scope": self.scope, "name": self.name or None, "period": self.period, "limit_usd": self.usd,
            "spent_usd": round(spent, 9),
            "resets_at": None if reset is None else datetime.fromtimestamp(reset, timezone.utc).isoformat(),
        }  # fmt: skip


def parse_limits(found: object) -> tuple[Limit, ...]:
    """Return the limits that lmstack.stack.render wrote."""
    return tuple(Limit(**entry) for entry in found) if isinstance(found, list) else ()


def dump_limits(limits: Iterable[Limit]) -> list[dict[str, Any]]:
    """Return the limits as plain values, for the rendered configuration."""
    return [asdict(limit) for limit in limits]


def limits_for(
    limits: Iterable[Limit], task: str | None, agent: str | None, task_budget: float | None
) -> tuple[Limit, ...]:
    """Return the limits that apply to a request, with its own ``x-task-budget`` at the end.

    A limit for a task or an agent replaces the one for every task or agent.
    """
    names: Mapping[str, str | None] = {"all": "", "task": task, "agent": agent}
    found: dict[tuple[str, str], Limit] = {}
    for limit in sorted(limits, key=lambda r: r.name != EVERY):  # the general limits first; special ones replace them
        name = names[limit.scope]
        if name is not None and limit.name in (name, EVERY):
            found[limit.scope, limit.period] = replace(limit, name=name)
    own = (Limit("task", task, "total", task_budget),) if task_budget is not None and task is not None else ()
    return (*found.values(), *own)
