"""Reads the section ``alerts`` of models.yaml: the rules, and the targets by the names of their variables. Pure."""

import re
from typing import Any

from lmstack.config.yamlfile import UserYaml
from lmstack.ledger.alert_rules import (
    BUDGET,
    DEFAULT_TARGETS,
    DEFAULTS,
    EVERY_SECONDS,
    FORMS,
    RULES,
    TASKMASTER,
    AlertRules,
    AlertTarget,
)

_NUMBER = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    **{name: (dict, bool) if isinstance(default, dict) else (bool,) for name, default in DEFAULTS.items()},
    BUDGET: (list, bool), "every": _NUMBER, "to": (dict,),
}  # fmt: skip
_TARGET_FIELDS: dict[str, tuple[type, ...]] = {"url": (str,), "secret": (str,), "form": (str,), "rules": (list,)}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,100}")
_LONGEST_SECONDS = 3600


def parse_alerts(document: UserYaml) -> AlertRules | None:
    """Return the rules, each one with its values; None without the section. Problems are added to the document."""
    if "alerts" not in document.root:
        return None
    fields = document.mapping("alerts")
    if not document.fields("alerts", fields, _FIELDS):
        return None
    on = {
        name: _values(document, name, fields.get(name, True)) for name in RULES if fields.get(name, True) is not False
    }
    every = fields.get("every", EVERY_SECONDS)
    if not 1 <= every <= _LONGEST_SECONDS:
        document.add("alerts.every", f"must be seconds from 1 to {_LONGEST_SECONDS}, not {every:g}")
    return AlertRules(on, float(every), _targets(document, fields))


def _values(document: UserYaml, name: str, given: Any) -> Any:
    """Return the values of one rule, over its defaults."""
    default, path = DEFAULTS[name], f"alerts.{name}"
    if given is True:
        return default
    if name == BUDGET:
        if not given or not all(_is_percent(level) for level in given):
            document.add(path, "must be a list of percentages from 1 to 100, such as [80, 100]")
            return default
        return sorted(set(given))
    if document.fields(path, given, dict.fromkeys(default, _NUMBER)):
        for field, value in given.items():
            if value <= 0 or (field == "percent" and value > 100):
                document.add(f"{path}.{field}", f"must be above 0{' and at most 100' if field == 'percent' else ''}, not {value:g}")  # fmt: skip
    return {**default, **given}


def _is_percent(level: object) -> bool:
    return isinstance(level, int | float) and not isinstance(level, bool) and 1 <= level <= 100


def _targets(document: UserYaml, fields: dict[str, Any]) -> tuple[AlertTarget, ...]:
    """Return the targets: TaskMaster unless it is off, and those of ``to``; without ``to``, the one of ALERT_WEBHOOK_URL."""
    if "to" not in fields:
        return DEFAULT_TARGETS
    entries = document.mapping("alerts.to")
    found = _taskmaster(document, entries.pop(TASKMASTER, True))
    for name, given in entries.items():
        path = f"alerts.to.{name}"
        if not _NAME.fullmatch(name):
            document.add(path, "is not a name: use small letters, digits, - and _, at most 31")
        elif document.fields(path, given, _TARGET_FIELDS) and _target_ok(document, path, given):
            found.append(AlertTarget(name, **{**given, "rules": tuple(given.get("rules", ()))}))
    return tuple(found)


def _taskmaster(document: UserYaml, given: Any) -> list[AlertTarget]:
    """Return TaskMaster as a list of one target, with all rules or some; an empty list for ``false``."""
    path = f"alerts.to.{TASKMASTER}"
    if isinstance(given, bool):
        return [AlertTarget(TASKMASTER)] if given else []
    if document.fields(path, given, {"rules": (list,)}) and _rules_ok(document, path, given):
        return [AlertTarget(TASKMASTER, rules=tuple(given.get("rules", ())))]
    return []


def _target_ok(document: UserYaml, path: str, given: dict[str, Any]) -> bool:
    before = len(document.problems)
    if "url" not in given:
        document.add(path, "needs 'url': the name of the variable in .env that holds the address")
    for field in ("url", "secret"):
        # The value is not repeated: somebody may have put the address itself there, and it is a password.
        if not _VARIABLE.fullmatch(given.get(field, "NAME")):
            document.add(
                f"{path}.{field}", "must be the name of a variable such as OPS_WEBHOOK_URL, and .env holds its value"
            )
    document.one_of(f"{path}.form", given.get("form", FORMS[0]), FORMS)
    return _rules_ok(document, path, given) and len(document.problems) == before


def _rules_ok(document: UserYaml, path: str, given: dict[str, Any]) -> bool:
    for place, name in enumerate(given.get("rules", ())):
        document.one_of(f"{path}.rules[{place}]", name, RULES)
    return all(name in RULES for name in given.get("rules", ()))
