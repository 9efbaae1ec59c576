"""Shows and changes single settings. An edit that would make .env wrong is refused."""

import os
import secrets
from collections.abc import Callable, Collection
from typing import Any

from lmstack import files
from lmstack.catalog.models import Catalog
from lmstack.config.env_example import env_example
from lmstack.config.envfile import Entry, parse_env, set_line
from lmstack.config.settings import BY_NAME, SETTINGS, Settings, Value, parse_settings
from lmstack.config.spelling import did_you_mean
from lmstack.errors import ConfigError, Problem, UsageError, invalid
from lmstack.ledger.redact import without_userinfo
from lmstack.stack.project import Project


def setting_rows(settings: Settings) -> list[dict[str, Any]]:
    """Return every setting as {"name", "value", "source"}; a secret value, or a password in an address, is ``***``."""
    secret = {setting.name for setting in SETTINGS if setting.secret}
    rows = []
    for name, value in {**settings.values, **settings.extra}.items():
        hidden = value.text and (name in secret or name not in settings.values)
        source = value.source if value.text else "unset"
        rows.append({"name": name, "value": "***" if hidden else without_userinfo(value.text), "source": source})
    return rows


def find_setting(settings: Settings, name: str) -> Value:
    """Return one setting; an unset one has the source ``unset``. Raises UsageError for an unknown name."""
    known = {**settings.values, **settings.extra}
    _require_known(name, known)
    return known[name] if known[name].text else Value("", "unset")


def edit_env(project: Project, name: str, edit: Callable[[str], str]) -> bool:
    """Write ``edit(text)`` as .env; return whether the file changed.

    Raises ConfigError when the edited setting is wrong, or when the edit causes another problem. Other problems that
    .env had before stay: wrong values can be repaired one after the other.
    """
    project.require_stack_or_blank()
    catalog = project.catalog()
    old = files.read(project.env_file)
    text = env_example() if old is None else old
    new = edit(text)
    entries = parse_env(new)
    _require_known(name, {*BY_NAME, *catalog.variables, *parse_env(text)})
    before = {problem.what for problem in _problems(parse_env(text), catalog)}
    wrong = [p for p in _problems(entries, catalog) if p.what not in before or name in p.what.split()]
    if wrong:
        raise invalid(wrong)
    return new != old and files.write(project.env_file, new, files.PRIVATE)


def rotate_key(project: Project) -> None:
    """Write a new random master key into .env."""
    project.require_stack_or_blank()
    key = f"sk-{secrets.token_urlsafe(32)}"
    old = files.read(project.env_file)
    new = set_line(env_example() if old is None else old, "LITELLM_MASTER_KEY", key)
    files.write(project.env_file, new, files.PRIVATE)


def _require_known(name: str, known: Collection[str]) -> None:
    if name not in known:
        hint = did_you_mean(name, known) or "list the settings with: lm config show"
        raise UsageError(f"there is no setting '{name}'", hint)


def _problems(entries: dict[str, Entry], catalog: Catalog) -> list[Problem]:
    """Return what is wrong with the values in .env. The environment of this shell does not count."""
    try:
        parse_settings(entries, {}, None, catalog.variables)
    except ConfigError as error:
        return list(error.problems)
    return []


def overridden(name: str) -> tuple[str, ...]:
    """Return a remark when the process environment overrides a setting of .env."""
    return (f"The environment variable {name} is set, and it counts before .env.",) if os.environ.get(name) else ()
