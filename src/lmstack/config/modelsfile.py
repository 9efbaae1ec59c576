"""Changes to a user's models.yaml that keep its comments and its order. Pure: text in, text out."""

import io
from typing import Any

from lmstack.config.rules import SCOPES


def set_budget(text: str, scope: str, name: str, period: str, usd: float | None) -> str:
    """``budgets`` with one amount (US dollars) set, or with None taken out; ``scope``: all, task or agent."""
    editor = _editor()
    root = editor.load(text) or {}
    budgets = root.setdefault("budgets", {}) if usd is not None else root.get("budgets") or {}
    section = next(key for key, value in SCOPES.items() if value == scope)
    path = [section] if scope == "all" else [section, name]
    if usd is None:
        _take_out(budgets, [*path, period])
        if not budgets:
            root.pop("budgets", None)
    else:
        place = budgets
        for key in path:
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
        place[period] = usd
    if not root:
        return ""
    out = io.StringIO()
    editor.dump(root, out)
    return out.getvalue()


def _take_out(mapping: Any, path: list[str]) -> None:
    """Remove a value, and every mapping that is empty then."""
    if path[0] not in mapping:
        return
    if len(path) > 1:
        _take_out(mapping[path[0]], path[1:])
    if len(path) == 1 or not mapping[path[0]]:
        del mapping[path[0]]


def _editor() -> Any:
    # Imported where it is used: it is slow to load, and two commands need it.
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 1000
    return editor
