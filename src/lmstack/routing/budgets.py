"""Which limits in US dollars count for a request. What was spent against them is the ledger's to say."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

PERIODS = ("day", "total")  # a day is a UTC day
EVERY = "*"  # in the place of a name: each task or agent that has no limit of its own


@dataclass(frozen=True, slots=True)
class Limit:
    """US dollars per ``period``. ``scope``: all, task or agent; ``name``: whose; as configured it may be ``*``."""

    scope: str
    name: str
    period: str
    usd: float

    def reset_at(self, now: float) -> float | None:
        """Unix seconds of the next UTC midnight; None for a limit that never resets."""
        if self.period != "day":
            return None
        today = datetime.fromtimestamp(now, timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
        return (today + timedelta(days=1)).timestamp()

    def refusal(self, spent: float, now: float) -> dict[str, Any]:
        """The machine-readable part of the 429."""
        reset = self.reset_at(now)
        return {
            "scope": self.scope, "name": self.name or None, "period": self.period, "limit_usd": self.usd,
            "spent_usd": round(spent, 9),
            "resets_at": None if reset is None else datetime.fromtimestamp(reset, timezone.utc).isoformat(),
        }  # fmt: skip


def parse_limits(found: object) -> tuple[Limit, ...]:
    """Limits as lmstack.stack.render wrote them."""
    return tuple(Limit(**entry) for entry in found) if isinstance(found, list) else ()


def dump_limits(limits: Iterable[Limit]) -> list[dict[str, Any]]:
    """Limits as the rendered configuration has them."""
    return [asdict(limit) for limit in limits]


def limits_for(rules: Iterable[Limit], task: str | None, agent: str | None, asked: float | None) -> tuple[Limit, ...]:
    """What counts for a request: an own limit before the one for everybody, and the client's own ``x-task-budget``."""
    names: Mapping[str, str | None] = {"all": "", "task": task, "agent": agent}
    found: dict[tuple[str, str], Limit] = {}
    for rule in sorted(rules, key=lambda r: r.name != EVERY):  # the general first, so that the special replaces it
        name = names[rule.scope]
        if name is not None and rule.name in (name, EVERY):
            found[rule.scope, rule.period] = replace(rule, name=name)
    own = (Limit("task", task, "total", asked),) if asked is not None and task is not None else ()
    return (*found.values(), *own)
