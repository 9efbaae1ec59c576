"""Make, show, edit, revoke and rotate the keys of agents. Prints nothing. A secret is returned once, and never stored."""

import getpass
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmstack.errors import LmError, NoLedgerError, UsageError
from lmstack.keys import orders, parse
from lmstack.keys.orders import Options, Order
from lmstack.keys.secret import digest
from lmstack.operate.planning import ask
from lmstack.stack.project import Project

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """A key with its secret, which is stored nowhere. ``key`` is its row."""

    key: Row
    secret: str


def create(project: Project, name: str, options: Options, expires: str | None = None) -> Made:
    """Make a key. ``options`` are the texts of the command's options; a declared key has its limits from models.yaml.

    Raises UsageError for a wrong option, ConfigError for a wrong models.yaml, LmError when there is a key of that name.
    """
    project.require_stack_or_blank()
    limits = _declared(project).get(name)
    order = _checked("see: lm key create --help", orders.create, name, options, expires, time.time(), limits)
    return Made(_carry_out(project, order), order.secret)


def edit(project: Project, name: str, options: Options, expires: str | None = None) -> Row:
    """Change limits, or the end, of a key, without a new secret. ``none`` takes a limit away."""
    is_declared = any(value is not None for value in options.values()) and name in _declared(project)
    hint = f"see: lm key edit --help; show the key: lm key show {name}"
    return _carry_out(project, _checked(hint, orders.edit, name, options, expires, time.time(), is_declared))


def raise_budgets(project: Project, name: str, usd: str, until: str) -> Row:
    """Add US dollars to each budget of a key until a time. The raise ends by itself."""
    found = key(project, name)
    hint = f"for example: --raise 10 --until 2026-12-31; a budget: lm key edit {name} --budget 5/day"
    return _carry_out(project, _checked(hint, orders.raise_budgets, found, usd, until, time.time()))


def revoke(project: Project, name: str) -> Row:
    """Make a key invalid. Every worker refuses it within a second."""
    return _carry_out(project, orders.revoke(name))


def rotate(project: Project, name: str, keep: str | None = None) -> Made:
    """Make a new secret for a key. ``keep``: how long the old one stays valid, such as 1h; without it, it ends immediately."""
    order = _checked("for example: --keep-old 1h", orders.rotate, name, keep, time.time())
    return Made(_carry_out(project, order), order.secret)


def keys(project: Project, name: str | None = None) -> list[Row]:
    """Return the keys with limits, state, and the use of their budgets and rates; none before there is a ledger."""
    try:
        return ask(project, "keys", name=name, rates=True)
    except NoLedgerError:
        return []


def key(project: Project, name: str) -> Row:
    """Return one key. Raises UsageError when there is none."""
    found = keys(project, name)
    if not found:
        raise UsageError(f"there is no key '{name}'", f"lm key list; make one with: lm key create {name}")
    return found[0]


def audit(project: Project, since: float, name: str | None = None, limit: int = 50) -> list[Row]:
    """Return the changes of keys since a time (Unix seconds), the newest first."""
    try:
        return ask(project, "key_audit", since=since, name=name, limit=limit)
    except NoLedgerError:
        return []


def name_of_secret(project: Project, secret: str) -> str | None:
    """Return the name of the key that has this secret; None for an unknown or a rotated one."""
    found = ask(project, "key_of_hash", hash_=digest(secret))
    return str(found[0]["name"]) if found else None


def apply_declared(project: Project) -> list[str]:
    """Give the keys that models.yaml declares its limits. Return the names of those that have changed.

    A declared name without a key waits for `lm key create`. A key that is declared no more keeps its limits.
    """
    declared, changed = _declared(project), []
    present = keys(project) if declared or project.ledger.exists() else []
    for row in present:
        name, limits = row["name"], declared.get(row["name"])
        if row["revoked_at"] is not None or (limits is None and not row["declared"]):
            continue
        if limits is None:
            _change(project, "edit", name, actor="models.yaml", declared=False)
        elif _differs(row, limits):
            replaced = {**dict.fromkeys(row["limits"]), **limits}
            _change(project, "edit", name, actor="models.yaml", declared=True, limits=replaced)
        else:
            continue
        changed.append(name)
    return changed


def _differs(row: Row, limits: Mapping[str, Any]) -> bool:
    wanted = parse.changed({}, limits)
    kept = {name: value for name, value in row["limits"].items() if not name.startswith("raise_")}
    return not row["declared"] or parse.changed({}, kept) != wanted


def _declared(project: Project) -> dict[str, dict[str, Any]]:
    """Return the limits in models.yaml, by key. Raises ConfigError: without them a declared key would be made without limits."""
    return dict(project.catalog().rules.keys)


def _checked(hint: str, make: Callable[..., Order], *arguments: Any) -> Order:
    try:
        return make(*arguments)
    except ValueError as error:
        of_models_yaml = str(error).startswith("models.yaml")
        raise UsageError(str(error), "change them there, then: lm up" if of_models_yaml else hint) from None


def _carry_out(project: Project, order: Order) -> Row:
    return _change(project, order.action, order.name, **order.values)


def _change(project: Project, action: str, name: str, actor: str | None = None, **values: Any) -> Row:
    try:
        return ask(project, "key_change", action=action, name=name, actor=actor or _actor(), **values)[0]
    except NoLedgerError:
        hint = "lm up" if action == "create" else f"lm key create {name}"
        raise LmError(f"there is no ledger yet, so there is no key '{name}'", hint) from None


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
