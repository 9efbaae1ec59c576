"""alerts: which rules watch the gateway, what fires now, and whether its targets can be reached."""

from typing import Any

import typer

from lmstack.cli.app import Context, app, command
from lmstack.cli.requests import local_time
from lmstack.errors import Exit
from lmstack.operate.alerts import alert_state, send_test_alerts
from lmstack.result import Result, table

alerts_app = typer.Typer(
    name="alerts", help="Show the alerts and test their targets.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(alerts_app)


@command("show", "lm alerts show", alerts_app)
def alerts_show(context: Context) -> Result:
    """List the rules, the alerts that fire now, and what each target got last."""
    data = alert_state(context.project)
    if data["every_seconds"] is None:
        return Result("alerts show", data, ("There are no alerts. Add alerts: to models.yaml (docs/alerts.md).",))
    rules = [(r["rule"], "on" if r["on"] else "off", _values(r["values"])) for r in data["rules"]]
    targets = [(t["name"], _address(t), _last(t["last"])) for t in data["targets"]]
    firing = [(local_time(f["since"]), f["rule"], f["text"]) for f in data["firing"]]
    lines = (*table(("RULE", "STATE", "VALUES"), rules), "", *table(("TARGET", "ADDRESS", "LAST ALERT"), targets), "")
    now = table(("SINCE", "RULE", "WHAT"), firing) if firing else ("Nothing fires now.",)
    return Result("alerts show", data, (*lines, *now))


@command("test", "lm alerts test", alerts_app)
def alerts_test(context: Context) -> Result:
    """Send a test to each target through the running gateway, and say what came back."""
    rows = send_test_alerts(context.project)
    lines = tuple(f"{r['target']}: delivered after {r['seconds']:.1f} s" if r["delivered"] else f"{r['target']}: {r['error']}" for r in rows)  # fmt: skip
    failed = not all(row["delivered"] for row in rows)
    return Result("alerts test", {"targets": rows}, lines, exit=Exit.UNHEALTHY if failed else Exit.OK)


def _values(values: Any) -> str:
    if isinstance(values, dict):
        return ", ".join(f"{name} {value:g}" for name, value in values.items())
    return ", ".join(f"{level:g} %" for level in values) if isinstance(values, list) else ""


def _address(target: dict[str, Any]) -> str:
    return target["variable"] if target["has_address"] else f"{target['variable']} is not set"


def _last(last: dict[str, Any] | None) -> str:
    if last is None:
        return "none yet"
    error = f", {last['last_error']}" if last["last_error"] and last["state"] != "delivered" else ""
    return f"{local_time(last['queued_at'])} {last['state']}{error}: {last['text']}"
