"""The checks of `lm doctor` for what receives alerts and traces. No alert and no span is sent."""

from urllib.parse import unquote

import httpx

from lmstack.config.settings import Settings
from lmstack.ledger.alert_rules import AlertRules
from lmstack.operate.checks import OK, WARN, Finding
from lmstack.stack.plan import reachable_from

_SECONDS = 5.0


def traces(settings: Settings) -> Finding:
    """Check whether the receiver of traces takes an empty request. The address may hold a password, so it is not shown."""
    own = settings.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    base = settings.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not own and not base:
        return Finding("traces", OK, "off: OTEL_EXPORTER_OTLP_ENDPOINT is not set")
    url = reachable_from(own or f"{base.rstrip('/')}/v1/traces", "local")
    headers = {"content-type": "application/x-protobuf", **_headers(settings.get("OTEL_EXPORTER_OTLP_HEADERS"))}
    try:
        status = httpx.post(url, content=b"", headers=headers, timeout=_SECONDS).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return _no_traces(f"the receiver does not answer ({type(error).__name__})", "start it, or: lm config unset OTEL_EXPORTER_OTLP_ENDPOINT")  # fmt: skip
    if status in (401, 403):
        return _no_traces(f"the receiver refuses its key ({status})", "lm config set OTEL_EXPORTER_OTLP_HEADERS")
    if not 200 <= status < 300:
        return _no_traces(f"the receiver answers {status} at /v1/traces", "use the address for OTLP over HTTP, usually with port 4318")  # fmt: skip
    return Finding("traces", OK, "the receiver takes them")


def _no_traces(what: str, fix: str) -> Finding:
    return Finding("traces", WARN, what, "spans are lost; requests are not affected", fix)


def _headers(text: str) -> dict[str, str]:
    """Return the headers of OTEL_EXPORTER_OTLP_HEADERS: name=value with commas between them, percent-encoded."""
    pairs = [part.partition("=") for part in text.split(",") if "=" in part]
    return {unquote(name).strip(): unquote(value).strip() for name, _, value in pairs}


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
