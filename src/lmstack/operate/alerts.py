"""Show the alerts of a stack, and send a test to each of their targets."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lmstack.config.settings import Settings
from lmstack.errors import ConfigError, NoLedgerError, UnhealthyError, UnknownQueryError
from lmstack.ledger.alert_rules import RULES, AlertTarget
from lmstack.operate.planning import ask
from lmstack.runtime.base import load_state
from lmstack.stack.project import Project

# The gateway looks for alerts every two seconds, and a post may take fifteen.
TEST_SECONDS = 25.0
_POLL_SECONDS = 0.5
_NOTHING: dict[str, Any] = {"firing": [], "sent": []}


def alert_state(project: Project) -> dict[str, Any]:
    """Return the rules, the targets with what each got last, and the alerts that fire now. Holds no address."""
    catalog = project.catalog()
    rules, settings = catalog.rules.alerts, project.settings(None, catalog)
    state = _state(project)
    sent = {row["target"]: row for row in state["sent"]}
    targets = [_target(target, settings, sent.get(target.column)) for target in (rules.to if rules else ())]
    shown = [{"rule": name, "on": bool(rules and name in rules.on), "values": rules.on.get(name) if rules else None} for name in RULES]  # fmt: skip
    return {
        "rules": shown,
        "every_seconds": rules.every if rules else None,
        "targets": targets,
        "firing": state["firing"],
    }


def send_test_alerts(project: Project, seconds: float = TEST_SECONDS) -> list[dict[str, Any]]:
    """Send a test through the running gateway to each target that has an address. Return what came back, for each target.

    Raises ConfigError without a target, UnhealthyError without a gateway.
    """
    catalog = project.catalog()
    rules, settings = catalog.rules.alerts, project.settings(None, catalog)
    if rules is None:
        raise ConfigError("models.yaml has no section alerts:", "add it (docs/alerts.md), then: lm up")
    targets = [target for target in rules.to if _has_address(target, settings)]
    if not targets:
        raise ConfigError("no target of alerts has an address", "lm config set ALERT_WEBHOOK_URL, then: lm up")
    if load_state(project) is None:
        raise UnhealthyError("no gateway was started from this folder, and it sends the alerts", "start it with: lm up")
    try:
        queued = ask(project, "alert_test", targets=[target.column for target in targets])
    except (NoLedgerError, UnknownQueryError):
        raise UnhealthyError("the running gateway knows no alerts", "apply the settings with: lm up") from None
    return _outcomes(project, targets, [row["event_id"] for row in queued], seconds)


def _outcomes(project: Project, targets: Sequence[AlertTarget], ids: list[str], seconds: float) -> list[dict[str, Any]]:
    """Wait until each event was tried once."""
    until = time.monotonic() + seconds
    while True:
        rows = {row["event_id"]: row for row in _state(project)["sent"]}
        found = [rows.get(event_id, {}) for event_id in ids]
        if all(_was_tried(row) for row in found) or time.monotonic() > until:
            return [_outcome(target, row) for target, row in zip(targets, found, strict=True)]
        time.sleep(_POLL_SECONDS)


def _was_tried(row: Mapping[str, Any]) -> bool:
    return row.get("state") in ("delivered", "dead") or bool(row.get("last_error"))


def _outcome(target: AlertTarget, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what became of one test. ``seconds`` is how long the delivery took."""
    delivered = row.get("state") == "delivered"
    took = (row.get("delivered_at") or row.get("queued_at") or 0) - (row.get("queued_at") or 0)
    error = row.get("last_error") or (
        None if delivered else "it was not sent: the running gateway may not have this target"
    )
    return {"target": target.name, "delivered": delivered, "seconds": round(took, 3) if delivered else None, "error": None if delivered else error}  # fmt: skip


def _target(target: AlertTarget, settings: Settings, sent: Mapping[str, Any] | None) -> dict[str, Any]:
    last = {name: sent[name] for name in ("text", "queued_at", "state", "last_error")} if sent else None
    return {
        "name": target.name, "variable": _variable(target), "has_address": _has_address(target, settings),
        "form": None if not target.column else target.form, "rules": list(target.rules) or list(RULES), "last": last,
    }  # fmt: skip


def _variable(target: AlertTarget) -> str:
    return target.url if target.column else "TASKMASTER_API_URL"


def _has_address(target: AlertTarget, settings: Settings) -> bool:
    return bool(settings.get(_variable(target)))


def _state(project: Project) -> dict[str, Any]:
    """Return the alerts that fire and the last one of each target; nothing before the first start of this version."""
    try:
        return ask(project, "alerts")[0]
    except (NoLedgerError, UnknownQueryError):
        return _NOTHING
