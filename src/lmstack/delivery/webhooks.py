"""Webhooks that get alerts: a generic one gets our signed CloudEvents, Slack gets a line of text. No thread, no network."""

import json
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from lmstack.delivery.contract import Target
from lmstack.ledger.alert_rules import AlertTarget

SLACK = "slack"
_SLACK_HOST = "hooks.slack.com"
_MARKS = {"firing": "\u26a0\ufe0f", "ended": "\u2705"}


def webhooks_from(targets: Iterable[AlertTarget], environ: Mapping[str, str]) -> tuple[list[Target], list[AlertTarget]]:
    """Return the receivers of all targets with an address in the environment, and the targets that have none."""
    found, missing = [], []
    for target in targets:
        address = environ.get(target.url, "").strip()
        if not target.column:
            continue
        if not address:
            missing.append(target)
            continue
        secret = environ.get(target.secret, "").strip() if target.secret else ""
        form = SLACK if is_slack(target.form, address) else "cloudevents"
        found.append(Target(address, secret=secret, column=target.column, variable=target.url, form=form))
    return found, missing


def is_slack(form: str, address: str) -> bool:
    """Return whether a webhook gets Slack's form. ``auto`` decides by the host."""
    if form != "auto":
        return form == SLACK
    try:
        return urlsplit(address).hostname == _SLACK_HOST
    except ValueError:
        return False


def slack_body(payload: str) -> str:
    """Return Slack's form of an alert. A name that a client chose must mention no person, so its markup is escaped."""
    alert = json.loads(payload)
    text = f"{_MARKS.get(alert.get('state'), '')} {alert.get('text')}".strip()
    for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, escape)
    return json.dumps({"text": text})
