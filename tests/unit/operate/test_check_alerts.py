"""What `lm doctor` finds about the targets of alerts."""

import pytest

from lmstack.catalog.models import parse_catalog
from lmstack.config.settings import parse_settings
from lmstack.operate.check_alerts import alerts
from lmstack.stack.project import shipped_catalog


@pytest.mark.parametrize(
    ("models", "environ", "status", "what"),
    [
        ("", {}, "ok", "off"),
        ("", {"ALERT_WEBHOOK_URL": "http://h/"}, "warn", "has no alerts"),
        ("alerts: {}", {}, "warn", "not set: ALERT_WEBHOOK_URL"),
        ("alerts: {}", {"TASKMASTER_API_URL": "http://h/"}, "ok", "address: 1"),
        ("alerts: {}", {"ALERT_WEBHOOK_URL": "http://h/"}, "ok", "address: 1"),
        ("alerts: {to: {ops: {url: OPS}}}", {"TASKMASTER_API_URL": "http://h/"}, "warn", "not set: OPS"),
        ("alerts: {to: {ops: {url: OPS}, taskmaster: false}}", {"OPS": "http://h/"}, "ok", "address: 1"),
        ("alerts: {to: {}}", {}, "warn", "not set: TASKMASTER_API_URL"),
    ],
)
def test_a_target_without_an_address_is_named(models: str, environ: dict[str, str], status: str, what: str) -> None:
    catalog = parse_catalog(shipped_catalog(), models)
    found = alerts(catalog.rules.alerts, parse_settings({}, environ, None, catalog.variables))
    assert (found.status, what in found.what) == (status, True), found
