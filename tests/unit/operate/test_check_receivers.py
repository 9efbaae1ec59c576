"""What `lm doctor` finds about the targets of alerts and the receiver of traces."""

import pytest
from pytest_httpserver import HTTPServer

from lmstack.catalog.models import parse_catalog
from lmstack.config.settings import parse_settings
from lmstack.operate.check_receivers import alerts, traces
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


@pytest.mark.parametrize(
    ("status", "what"), [(200, "takes them"), (401, "refuses its key (401)"), (404, "answers 404 at /v1/traces")]
)
def test_the_receiver_of_traces_is_asked_with_its_headers(httpserver: HTTPServer, status: int, what: str) -> None:
    httpserver.expect_request("/o/v1/traces", method="POST").respond_with_data("", status=status)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": httpserver.url_for("/o/"), "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20a,x=b"}  # fmt: skip
    found = traces(parse_settings({}, environ))
    assert (found.status, what in found.what) == ("ok" if status == 200 else "warn", True)
    request = httpserver.log[0][0]
    assert (request.headers["authorization"], request.headers["x"], request.data) == ("Bearer a", "b", b"")


@pytest.mark.parametrize("headers", ["", "x=\u00e4", "x=a%0Ab"])
def test_a_receiver_that_cannot_be_asked_is_a_warning_without_its_address(headers: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:s3cret@127.0.0.1:1/x", "OTEL_EXPORTER_OTLP_HEADERS": headers}
    found = traces(parse_settings({}, environ))
    assert (found.status, "s3cret" in str(found)) == ("warn", False)
    assert traces(parse_settings({}, {})).what.startswith("off")
