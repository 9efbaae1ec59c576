"""Reads the sections ``routing``, ``budgets``, ``keys`` and ``alerts`` of models.yaml. Amounts are US dollars. Pure."""

from dataclasses import dataclass, field, replace
from typing import Any

from lmstack.config.alert_rules import parse_alerts
from lmstack.config.key_rules import parse_keys
from lmstack.config.yamlfile import UserYaml
from lmstack.ledger.alert_rules import AlertRules
from lmstack.routing.budgets import PERIODS, SOFT, Limit
from lmstack.routing.candidates import GROUPS

SCOPES = {"all": "all", "tasks": "task", "agents": "agent", "teams": "team", "keys": "key"}
_OPTIONS: dict[str, tuple[type, ...]] = {"tier": (str,), "max_cost": (int, float), "no_fallback": (bool,)}
_AMOUNTS: dict[str, tuple[type, ...]] = dict.fromkeys(PERIODS, (int, float))


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a user. ``routing`` is {"tasks"|"agents": {id: {"tier", "max_cost", "no_fallback"}}}, as it is rendered.

    ``keys``: the limits of each declared key, as plain values.
    """

    routing: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    budgets: tuple[Limit, ...] = ()
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    alerts: AlertRules | None = None


def parse_rules(document: UserYaml) -> Rules:
    """Return the rules of all sections. Problems are added to the document."""
    alerts = parse_alerts(document)
    soft = alerts.levels[0] if alerts and alerts.levels else SOFT
    budgets = tuple(limit if soft == SOFT else replace(limit, soft=soft) for limit in _budgets(document))
    return Rules(_routing(document), budgets, parse_keys(document), alerts)


def _routing(document: UserYaml) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for section in document.mapping("routing"):
        document.one_of(f"routing.{section}", section, ("tasks", "agents"))
        for name, options in document.mapping(f"routing.{section}").items():
            path = f"routing.{section}.{name}"
            if document.fields(path, options, _OPTIONS):
                if "tier" in options:
                    document.one_of(f"{path}.tier", options["tier"], GROUPS)
                _not_negative(document, path, options.get("max_cost", 0), "max_cost")
                found.setdefault(section, {})[name] = dict(options)
    return found


def _budgets(document: UserYaml) -> list[Limit]:
    rules = []
    for section, entries in document.mapping("budgets").items():
        document.one_of(f"budgets.{section}", section, SCOPES)
        if section == "all":
            rules += _limits(document, "budgets.all", "all", "", entries)
        elif section in SCOPES:
            for name, amounts in document.mapping(f"budgets.{section}").items():
                rules += _limits(document, f"budgets.{section}.{name}", SCOPES[section], name, amounts)
    return rules


def _limits(document: UserYaml, path: str, scope: str, name: str, amounts: Any) -> list[Limit]:
    if not document.fields(path, amounts, _AMOUNTS):
        return []
    for period, usd in amounts.items():
        _not_negative(document, path, usd, period)
    return [Limit(scope, name, period, float(usd)) for period, usd in amounts.items()]


def _not_negative(document: UserYaml, path: str, usd: float, name: str) -> None:
    if usd < 0:
        document.add(f"{path}.{name}", f"must be 0 or more US dollars, not {usd}")
