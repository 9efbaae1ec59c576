"""What is wrong now, by the rules of models.yaml: reads of the ledger that take a bounded time. Writes nothing."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from lmstack.keys.key import Key, limits_from
from lmstack.ledger import alert_rules as rule
from lmstack.ledger import events, outbox, spending
from lmstack.ledger.alert_rules import AlertRules
from lmstack.ledger.faults import CLIENT_KEY, NOT_THE_PROVIDER
from lmstack.routing.budgets import EVERY, Limit, period_of

# No check reads more requests than this, the newest ones.
MOST_REQUESTS = 3000


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the running gateway: when its provider ends it (ISO date), and US dollars per million tokens."""

    name: str
    provider: str
    ends: str | None = None
    rates: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What only the gateway knows: its models, and the budgets of models.yaml."""

    models: tuple[ServedModel, ...] = ()
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a rule finds. ``once``: it is sent once for its ``key``, and no alert follows when it is over.

    ``limit`` and ``level``: the budget, and the share of it that is used up.
    """

    rule: str
    key: str
    subject: str
    text: str
    value: float | None = None
    threshold: float | None = None
    once: bool = False
    limit: Limit | None = None
    level: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the ledger. ``firing``: the keys of the alerts that fire, with their beginning (Unix seconds)."""

    conn: sqlite3.Connection
    rules: AlertRules
    facts: Facts
    firing: Mapping[str, float]
    now: float

    def values(self, name: str) -> Any:
        """Return the values of a rule: what models.yaml says, over the defaults."""
        return {**rule.DEFAULTS[name], **self.rules.on[name]}


@dataclass(frozen=True, slots=True)
class Found:
    """The troubles of one look. ``undecided``: keys of alerts that fire, and about which nothing new is known."""

    troubles: tuple[Trouble, ...]
    undecided: frozenset[str] = frozenset()


def check(look: Look) -> Found:
    """Return what is wrong now. Raises sqlite3.Error."""
    troubles: list[Trouble] = []
    undecided: set[str] = set()
    for name in look.rules.on:
        for one in _CHECKS[name](look):
            if isinstance(one, str):
                undecided.add(one)
            else:
                troubles.append(one)
    return Found(tuple(troubles), frozenset(undecided))


# A check gives troubles, and the keys of alerts that can neither go on nor end for now.
Checked = Iterator[Trouble | str]


def _budgets(look: Look) -> Checked:
    """Find the budgets that have reached a level. The writer notes each budget that has reached its soft limit."""
    rows = look.conn.execute("SELECT kind, name, period, began, limit_usd FROM warnings ORDER BY at DESC").fetchall()
    for scope, name, period, began, usd in rows:
        current = 0 if period == "total" else int(period_of(period, look.now)[0])
        limit = _current_limit(look, scope, name, period) if began == current else None
        if limit is None or limit.usd != usd:
            continue
        spent = spending.spent(look.conn, limit, look.now)
        for level in look.rules.levels:
            if spent >= level * usd:
                subject = f"{scope} {name}".strip()
                text = f"The budget of {subject} per {period} is used up by {100 * spent / usd:.0f} %: {spent:.4f} of {usd:.4f} USD."  # fmt: skip
                key = f"{rule.BUDGET}:{scope}:{name}:{period}:{began}:{usd:g}:{level:g}"
                yield Trouble(rule.BUDGET, key, subject, text, spent, level * usd, once=True, limit=limit, level=level)


def _current_limit(look: Look, scope: str, name: str, period: str) -> Limit | None:
    """Return the budget that applies now: models.yaml or the key itself may have changed since it was noted."""
    own: tuple[Limit, ...] = ()
    if scope == "key":
        row = look.conn.execute("SELECT id, name, limits FROM keys WHERE name = ?", (name,)).fetchone()
        own = Key(row[0], row[1], limits_from(json.loads(row[2]))).budgets(look.now) if row else ()
    named = [one for one in (*own, *look.facts.limits) if (one.scope, one.period) == (scope, period)]
    exact = [one for one in named if one.name == name]
    found = exact or [one for one in named if one.name == EVERY]
    return Limit(scope, name, period, found[0].usd, found[0].soft) if found else None


def _failure_rate(look: Look) -> Checked:
    """Find too many failed requests. It ends when the rate is below half of the limit."""
    values = look.values(rule.FAILURES)
    failed, total = look.conn.execute(
        "SELECT COALESCE(SUM(status = 'failed' AND COALESCE(error_code, '') NOT IN (?, ?)), 0), COUNT(*) FROM "
        "(SELECT status, error_code FROM requests WHERE started_at >= ? ORDER BY started_at DESC LIMIT ?) "
        "WHERE status IN ('succeeded','failed')",
        (*NOT_THE_PROVIDER, look.now - 60 * values["minutes"], MOST_REQUESTS),
    ).fetchone()
    fires = rule.FAILURES in look.firing
    if not total:
        if fires:
            yield rule.FAILURES
        return
    percent = 100 * failed / total
    enough = failed and total >= values["requests"] and percent >= values["percent"]
    if enough or (fires and percent >= values["percent"] / 2):
        text = f"{percent:.0f} % of the requests failed in the last {values['minutes']:g} minutes: {failed} of {total}."
        yield Trouble(rule.FAILURES, rule.FAILURES, "all requests", text, round(percent, 2), values["percent"])


def _providers(look: Look) -> Checked:
    """Find the providers of which no attempt has succeeded lately. One ends with the first answer."""
    values = look.values(rule.PROVIDER)
    since = look.now - 60 * values["minutes"]
    served = {model.provider for model in look.facts.models}
    firing = {key.partition(":")[2]: began for key, began in look.firing.items() if key.startswith(f"{rule.PROVIDER}:")}
    answered, failures, last = _attempts(look, min([since, *firing.values()]), since)
    for provider in sorted(served & ({*failures, *firing})):
        key = f"{rule.PROVIDER}:{provider}"
        if provider in firing:
            if answered.get(provider, 0.0) <= firing[provider]:
                yield key
        elif failures.get(provider, 0) >= values["failures"] and answered.get(provider, 0.0) < since:
            count = failures[provider]
            text = f"No request to {provider} has succeeded for {values['minutes']:g} minutes: {count} failed. The last: {last[provider]}."  # fmt: skip
            yield Trouble(rule.PROVIDER, key, provider, text, count, values["failures"])


def _attempts(look: Look, since: float, lately: float) -> tuple[dict[str, float], dict[str, int], dict[str, str]]:
    """Return for each provider its last answer (Unix seconds), how often it failed ``lately``, and the last error's name."""
    rows = look.conn.execute(
        "SELECT a.provider, a.outcome, a.error_type, a.error_code, a.error_message, "
        "a.started_at + COALESCE(a.latency_ms, 0) / 1000 AS ended_at FROM "
        "(SELECT id FROM requests WHERE started_at >= ? ORDER BY started_at DESC LIMIT ?) r "
        "JOIN attempts a ON a.request_id = r.id WHERE a.provider IS NOT NULL ORDER BY ended_at",
        (since - 600, MOST_REQUESTS),  # a request may have begun before
    )
    answered: dict[str, float] = {}
    failures: dict[str, int] = {}
    last: dict[str, str] = {}
    for provider, outcome, kind, code, message, ended_at in rows:
        if outcome == "succeeded":
            answered[provider] = ended_at
        elif code is not None and code not in NOT_THE_PROVIDER and not (message or "").startswith(CLIENT_KEY):
            failures[provider] = failures.get(provider, 0) + (ended_at >= lately)
            last[provider] = f"{kind} {code}"
    return answered, failures, last


def _dead_events(look: Look) -> Checked:
    # What was never meant to arrive does not count.
    sql = (
        "SELECT COUNT(*) FROM outbox INDEXED BY outbox_dead WHERE state = 'dead' AND type != ? AND last_error IS NOT ?"
    )
    count = look.conn.execute(sql, (events.ALERT_TEST, outbox.GIVEN_UP)).fetchone()[0]
    if count:
        text = f"Events that could not be delivered: {count}. See: lm events dead"
        yield Trouble(rule.DEAD, rule.DEAD, "events", text, count, 1)


def _retirements(look: Look) -> Checked:
    days = look.values(rule.RETIRES)["days"]
    today = date.fromtimestamp(look.now)
    for model in look.facts.models:
        left = _days_until(model.ends, today)
        if left is not None and left <= days:
            ends = f"ends it on {model.ends}, in {left} days" if left > 0 else f"ended it on {model.ends}"
            text = f"{model.name}: its provider {model.provider} {ends}. Use another name; see: lm models"
            key = f"{rule.RETIRES}:{model.name}:{model.ends}"
            yield Trouble(rule.RETIRES, key, model.name, text, left, days, once=True)


def _days_until(ends: str | None, today: date) -> int | None:
    try:
        return (date.fromisoformat(ends) - today).days if ends else None
    except ValueError:
        return None


def _prices(look: Look) -> Checked:
    known = {row[0]: row[1:] for row in look.conn.execute("SELECT model, input, output FROM known_prices")}
    for model in look.facts.models:
        before = known.get(model.name)
        if model.rates is not None and before is not None and tuple(before) != model.rates:
            old, new = (f"{one[0]:g} / {one[1]:g}" for one in (before, model.rates))
            text = f"The price of {model.name} goes from {old} to {new} USD per million tokens (input / output)."
            key = f"{rule.PRICE}:{model.name}:{int(look.now)}"
            yield Trouble(rule.PRICE, key, model.name, text, model.rates[0], before[0], once=True)


_CHECKS: Mapping[str, Callable[[Look], Checked]] = {
    rule.BUDGET: _budgets, rule.FAILURES: _failure_rate, rule.PROVIDER: _providers, rule.DEAD: _dead_events,
    rule.RETIRES: _retirements, rule.PRICE: _prices,
}  # fmt: skip
