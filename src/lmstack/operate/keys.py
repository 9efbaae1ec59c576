"""Make, show, edit, revoke and rotate the keys of agents. Prints nothing. A secret is returned once, and never stored."""

import getpass
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmstack.errors import LmError, NoLedgerError, UsageError
from lmstack.keys import parse
from lmstack.keys.secret import digest, new_secret
from lmstack.operate.planning import ask
from lmstack.stack.project import Project

Row = dict[str, Any]
Options = Mapping[str, str | Sequence[str] | None]


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
    declared = _declared(project)
    limits = _changes(name, options)
    if name in declared and limits:
        raise _is_declared(name)
    secret = new_secret()
    values: dict[str, Any] = {
        "limits": declared.get(name, limits),
        "declared": name in declared,
        "hash": digest(secret),
    }
    row = _change(project, "create", name, **values, expires_at=_moment(expires))
    return Made(row, secret)


def edit(project: Project, name: str, options: Options, expires: str | None = None) -> Row:
    """Change limits, or the end, of a key, without a new secret. ``none`` takes a limit away."""
    limits = _changes(name, options)
    if limits and name in _declared(project):
        raise _is_declared(name)
    values: dict[str, Any] = {"limits": limits}
    if expires is not None:
        values["expires_at"] = None if expires == parse.NONE else _moment(expires)
    if not limits and expires is None:
        raise UsageError(
            "nothing to change", f"name an option, see: lm key edit --help; show the key: lm key show {name}"
        )
    return _change(project, "edit", name, **values)


def raise_budgets(project: Project, name: str, usd: str, until: str) -> Row:
    """Add US dollars to each budget of a key until a time. The raise ends by itself."""
    now = time.time()
    try:
        limits = {"raise_usd": parse.usd(usd), "raise_until": parse.moment(until, now)}
    except ValueError as error:
        raise UsageError(str(error), "for example: --raise 10 --until 2026-12-31") from None
    if not key(project, name)["limits"].get("budgets"):
        raise UsageError(f"the key '{name}' has no budget that could be raised", f"lm key edit {name} --budget 5/day")
    return _change(project, "edit", name, limits=limits)


def revoke(project: Project, name: str) -> Row:
    """Make a key invalid. Every worker refuses it within a second."""
    return _change(project, "revoke", name)


def rotate(project: Project, name: str, keep: str | None = None) -> Made:
    """Make a new secret for a key. ``keep``: how long the old one stays valid, such as 1h; without it, it ends immediately."""
    secret = new_secret()
    until = None if keep in (None, "0") else _moment(keep)
    return Made(_change(project, "rotate", name, hash=digest(secret), keep_until=until), secret)


def keys(project: Project, name: str | None = None) -> list[Row]:
    """Return the keys with limits, state, and the spending of their budgets; none before there is a ledger."""
    try:
        return ask(project, "keys", name=name)
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
    """Return the name of the key that has this secret; None for an unknown one."""
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


def _is_declared(name: str) -> UsageError:
    return UsageError(f"models.yaml states the limits of the key '{name}'", "change them there, then: lm up")


def _changes(name: str, options: Options) -> dict[str, Any]:
    try:
        parse.name(name)
        return parse.changes(options)
    except ValueError as error:
        raise UsageError(str(error), "see: lm key create --help") from None


def _moment(text: str | None) -> float | None:
    try:
        return None if text is None else parse.moment(text, time.time())
    except ValueError as error:
        raise UsageError(str(error)) from None


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
