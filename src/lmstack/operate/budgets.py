"""Show and edit the budgets of models.yaml."""

import math
import time
from typing import Any

from lmstack import files
from lmstack.catalog.models import parse_catalog
from lmstack.config.modelsfile import set_budget
from lmstack.errors import ConfigError, NoLedgerError
from lmstack.operate.changes import budgets_digest
from lmstack.operate.planning import ask
from lmstack.routing.budgets import dump_limits
from lmstack.runtime.base import load_state
from lmstack.stack.project import Project, shipped_catalog


def budget_rows(project: Project) -> list[dict[str, Any]]:
    """Return a row for each budget with limit, spending and reservations in USD; empty when there is no budget."""
    rules = project.catalog().rules.budgets
    if not rules:
        return []
    try:
        return ask(project, "budgets", rules=dump_limits(rules))
    except NoLedgerError:  # nothing was spent yet
        now = time.time()
        return [{**r.state(0.0, r.reset_at(now)), "reserved_usd": 0.0, "rule": r.name or None} for r in rules]


def waits_for_up(project: Project) -> bool:
    """Return whether the limits have changed since the last start, so that the gateway does not have them yet."""
    state = load_state(project)
    started_with = state.parts.get("budgets") if state else None
    return started_with is not None and started_with != budgets_digest(project.catalog().rules.budgets)


def edit_budget(project: Project, scope: str, name: str, period: str, amount: float | None) -> bool:
    """Write one budget into models.yaml; None as ``amount`` removes it. Return whether the file has changed.

    Every other byte stays. Raises ConfigError when the edit would also change another budget.
    """
    project.require_stack_or_blank()
    project.catalog()  # a file with errors is not edited
    file = project.models_file
    old = files.read(file) or ""
    new = set_budget(old, scope, name, period, amount)
    _check_edit(old, new, (scope, "" if scope == "all" else name, period), amount)
    return new != old and files.write(file, new)


def _check_edit(old: str, new: str, edited: tuple[str, str, str], amount: float | None) -> None:
    """Raise ConfigError unless old and new text differ only in this budget. A YAML alias may carry an edit to others."""
    before, after = _limits(old), _limits(new)
    before.pop(edited, None)
    written = after.pop(edited, None)
    same = written is None if amount is None else written is not None and math.isclose(written, amount, rel_tol=1e-6)
    if not same or before != after:
        raise ConfigError(
            "this edit of models.yaml would also change other budgets; nothing was changed",
            "edit the file by hand, then: lm validate",
        )


def _limits(text: str) -> dict[tuple[str, str, str], float]:
    return {(r.scope, r.name, r.period): r.usd for r in parse_catalog(shipped_catalog(), text).rules.budgets}
