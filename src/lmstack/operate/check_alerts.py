"""The check of `lm doctor` for the targets of alerts. Sends nothing."""

from lmstack.config.settings import Settings
from lmstack.ledger.alert_rules import AlertRules
from lmstack.operate.checks import OK, WARN, Finding


def alerts(rules: AlertRules | None, settings: Settings) -> Finding:
    """Check whether each target of alerts has an address."""
    if rules is None:
        if settings.get("ALERT_WEBHOOK_URL"):
            return Finding("alerts", WARN, "ALERT_WEBHOOK_URL is set, but models.yaml has no alerts", "no alert is sent", "add 'alerts: {}' to models.yaml, then: lm up")  # fmt: skip
        return Finding("alerts", OK, "off: models.yaml has no alerts")
    lacking = [target.url for target in rules.to if target.url and not settings.get(target.url)]
    usable = (
        len(rules.to) - len(lacking) - (not settings.get("TASKMASTER_API_URL") and any(not t.url for t in rules.to))
    )
    own = [name for name in lacking if name != "ALERT_WEBHOOK_URL"]
    if own or not usable:
        return Finding("alerts", WARN, f"not set: {', '.join(lacking) or 'TASKMASTER_API_URL'}", "these targets get no alerts", f"lm config set {(lacking or ['TASKMASTER_API_URL'])[0]}")  # fmt: skip
    return Finding("alerts", OK, f"targets with an address: {usable}; try them with: lm alerts test")
