"""The alerts of one worker: a thread that checks the rules when it is this worker's turn, and a sender for each webhook.

The event loop is not involved. Without ``alerts`` in models.yaml, the thread ends when the configuration is loaded.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import litellm

from lmstack.delivery.contract import target_from
from lmstack.delivery.sender import LOCK_WAIT_MS, Sender
from lmstack.delivery.webhooks import webhooks_from
from lmstack.gateway.app import leaving
from lmstack.gateway.calls import served
from lmstack.gateway.stock import live, lookup
from lmstack.ledger import alerts, outbox
from lmstack.ledger.alert_checks import Facts, ServedModel
from lmstack.ledger.alert_rules import AlertRules, AlertTarget, rules_from
from lmstack.ledger.schema import VERSION, check_version, connect, writing
from lmstack.routing.candidates import rates_from
from lmstack.routing.prices import entry_of, price_from

log = logging.getLogger(__name__)

LOAD_POLL_SECONDS = 0.5
# An alert may come a little later than an event. Each look of each worker costs time.
SENDER_POLL_SECONDS = 2.0
WARN_EVERY_SECONDS = 600.0


class Alerting:
    """Checks and sends until it is closed. ``owner``: the name of the worker, under which it leases events."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path, self._owner = path, owner
        self._stop = threading.Event()
        self._senders: list[Sender] = []
        self._next_warning = 0.0
        self._thread = threading.Thread(target=self._run, name="lmstack-alerts", daemon=True)

    def start(self) -> None:
        """Begin when LiteLLM has loaded its configuration."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further check and no further post. Does not wait for those under way."""
        self._stop.set()
        for sender in self._senders:
            sender.stop()

    def close(self, seconds: float = 5.0) -> None:
        """End the checks and the posts. Alerts that were not delivered stay in the outbox."""
        until = time.monotonic() + seconds
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        for sender in self._senders:
            sender.stop()  # one that was made meanwhile
            sender.close(max(0.1, until - time.monotonic()))

    def _run(self) -> None:
        while lookup.router() is None:
            if self._stop.wait(LOAD_POLL_SECONDS):
                return
        try:
            rules = rules_from(live.settings().get("alerts"))
            to = self._open(rules) if rules else []
        except Exception:
            log.exception("lmstack: there are no alerts, because their rules cannot be read")
            return
        if rules is None:
            self._once(self._give_up)
            return
        while not self._stop.wait(min(rules.every, 1.0) if not self._path.exists() else rules.every):
            self._once(lambda: self._turn(rules, to))

    def _once(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # a locked or damaged file: the next turn finds another state
            if time.monotonic() >= self._next_warning:
                self._next_warning = time.monotonic() + WARN_EVERY_SECONDS
                log.warning("alerts: %s: %s; it is tried again", type(error).__name__, error)

    def _open(self, rules: AlertRules) -> list[AlertTarget]:
        """Start a sender for each webhook. Return the targets that have an address."""
        receivers, missing = webhooks_from(rules.to, os.environ)
        for target in missing:
            log.warning("alerts: the target %s gets none, because %s is not set", target.name, target.url)
        taskmaster = target_from(os.environ) is not None
        columns = {receiver.column for receiver in receivers}
        for receiver in receivers:
            self._senders.append(Sender(self._path, receiver, owner=self._owner, poll=SENDER_POLL_SECONDS))
        return [target for target in rules.to if (target.column in columns if target.column else taskmaster)]

    def _turn(self, rules: AlertRules, to: list[AlertTarget]) -> None:
        """Check the rules, unless another worker has just done it. A worker that stops may have an old configuration."""
        if leaving.has_begun() or not self._path.exists():
            return
        now = time.time()
        with contextlib.closing(connect(self._path)) as conn:
            conn.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
            if check_version(conn) != VERSION or not alerts.take_turn(conn, rules.every, now):
                return
            alerts.run(conn, rules, _facts(), to, now)
        for sender in self._senders:
            sender.wake()

    def _give_up(self) -> None:
        """Models.yaml has no alerts any more: what waits for their targets has no address."""
        if self._path.exists():
            with contextlib.closing(connect(self._path)) as conn:
                conn.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
                if check_version(conn) == VERSION:
                    with writing(conn):
                        outbox.give_up(conn, ())


def _facts() -> Facts:
    """Return what the running gateway serves, and the budgets of models.yaml."""
    found = {}
    for deployment in live.deployments():
        info = deployment.get("model_info") or {}
        if info.get("lm_provider"):
            found[deployment["model_name"]] = _model(deployment, info)
    return Facts(tuple(found.values()), served.rules().limits)


def _model(deployment: Mapping[str, Any], info: Mapping[str, Any]) -> ServedModel:
    entry = entry_of(litellm.model_cost, deployment["litellm_params"]["model"])
    rates = price_from(rates_from(info.get("lm_rates")), entry, mode=info.get("mode")).rates
    return ServedModel(deployment["model_name"], info["lm_provider"], info.get("lm_ends"), rates)
