"""Reads the section ``keys`` of models.yaml: the names of keys and their limits. It holds no secret. Pure."""

from collections.abc import Mapping
from typing import Any

from lmstack.config.yamlfile import UserYaml
from lmstack.keys import parse
from lmstack.routing.budgets import PERIODS

_NUMBER, _LIST = (int, str), (list, str)
FIELDS: dict[str, tuple[type, ...]] = {
    "agent": (str,), "team": (str,), "models": _LIST, "tiers": _LIST, "routes": _LIST, "tasks": (str,), "budgets": (dict,),
    "soft": (int, str), "rpm": _NUMBER, "tpm": _NUMBER, "parallel": _NUMBER, "role": (str,),
}  # fmt: skip


def parse_keys(document: UserYaml) -> dict[str, dict[str, Any]]:
    """Return the limits of each declared key, as plain values. Problems are added to the document."""
    found = {}
    for name, fields in document.mapping("keys").items():
        path = f"keys.{name}"
        try:
            parse.name(name)
        except ValueError as error:
            document.add(path, str(error))
            continue
        fields = {} if fields is None else fields
        if document.fields(path, fields, FIELDS):
            found[name] = _limits(document, path, fields)
    return found


def _limits(document: UserYaml, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for field, value in fields.items():
        try:
            limits |= parse.changes({"budget": _amounts(value)} if field == "budgets" else {field: _text(value)})
        except ValueError as error:
            document.add(f"{path}.{field}", str(error).partition(": ")[2])
    try:
        parse.changed({}, limits)
    except ValueError as error:
        document.add(path, str(error))
    return limits


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _amounts(budgets: Mapping[str, Any]) -> list[str]:
    unknown = next((period for period in budgets if period not in PERIODS), None)
    if unknown is not None or not budgets:
        raise ValueError(f"budgets: name one or more of {', '.join(PERIODS)}")
    return [f"{usd}/{period}" for period, usd in budgets.items()]
