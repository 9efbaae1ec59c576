"""The rules of ``alerts:`` in models.yaml, as they are rendered and as the gateway reads them. Holds no address. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BUDGET, FAILURES, PROVIDER, DEAD, RETIRES, PRICE = (
    "budget", "failure_rate", "provider_down", "events_dead", "model_retires", "price_changed",
)  # fmt: skip
# Each rule with its defaults: percent, minutes, counts and days. They apply where models.yaml has no value or ``true``.
DEFAULTS: dict[str, Any] = {
    BUDGET: [80, 100],
    FAILURES: {"percent": 10, "minutes": 10, "requests": 20},
    PROVIDER: {"minutes": 5, "failures": 3},
    DEAD: True,
    RETIRES: {"days": 30},
    PRICE: True,
}
RULES = tuple(DEFAULTS)
EVERY_SECONDS = 30
FORMS = ("auto", "slack", "json")
TASKMASTER = "taskmaster"


@dataclass(frozen=True, slots=True)
class AlertTarget:
    """Where alerts go. ``url`` and ``secret`` are names of variables, never their values. Without ``rules``: all of them.

    TaskMaster has no ``url`` here: its address is TASKMASTER_API_URL.
    """

    name: str
    url: str = ""
    secret: str = ""
    form: str = "auto"
    rules: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """Return the target as the outbox names it: "" for TaskMaster, which gets all other events too."""
        return "" if self.name == TASKMASTER else self.name

    def wants(self, rule: str) -> bool:
        """Return whether this target gets the alerts of a rule."""
        return not self.rules or rule in self.rules


# Where models.yaml names no target.
DEFAULT_TARGETS = (AlertTarget(TASKMASTER), AlertTarget("webhook", "ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET"))


@dataclass(frozen=True, slots=True)
class AlertRules:
    """The rules that are on, with their values, and the targets. ``every``: seconds between two checks."""

    on: Mapping[str, Any] = field(default_factory=dict)
    every: float = EVERY_SECONDS
    to: tuple[AlertTarget, ...] = ()

    @property
    def levels(self) -> tuple[float, ...]:
        """Return the shares of a budget at which an alert is sent, the lowest first."""
        return tuple(sorted(percent / 100 for percent in self.on.get(BUDGET, ())))

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the names of the variables that hold addresses and secrets."""
        return tuple(dict.fromkeys(name for target in self.to for name in (target.url, target.secret) if name))

    def as_rendered(self) -> dict[str, Any]:
        """Return the rules as plain values, for the rendered configuration."""
        to = [
            {name: list(value) if isinstance(value, tuple) else value for name, value in (
                ("name", t.name), ("url", t.url), ("secret", t.secret), ("form", t.form), ("rules", t.rules)) if value}
            for t in self.to
        ]  # fmt: skip
        return {**self.on, "every": self.every, "to": to}


def rules_from(found: Mapping[str, Any] | None) -> AlertRules | None:
    """Return the rules in the rendered configuration; None where models.yaml has none."""
    if not found:
        return None
    to = tuple(AlertTarget(**{**target, "rules": tuple(target.get("rules", ()))}) for target in found.get("to", ()))
    on = {name: found[name] for name in RULES if found.get(name)}
    return AlertRules(on, float(found.get("every") or EVERY_SECONDS), to)
