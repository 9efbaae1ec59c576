"""Shows and changes single settings. Changes .env only when the result is valid."""

import os
import secrets
from collections.abc import Callable
from typing import Any

from lmstack import files
from lmstack.config.envfile import parse_env, set_line
from lmstack.config.settings import SETTINGS, Settings, Value, env_example, parse_settings
from lmstack.config.spelling import did_you_mean
from lmstack.errors import UsageError
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
    if name not in known:
        hint = did_you_mean(name, known) or "list the settings with: lm config show"
        raise UsageError(f"there is no setting '{name}'", hint)
    return known[name] if known[name].text else Value("", "unset")


def edit_env(project: Project, name: str, edit: Callable[[str], str]) -> bool:
    """Write ``edit(text)`` as .env; return whether the file changed. Raises ConfigError when the result is not valid."""
    project.require_stack_or_blank()
    catalog = project.catalog()
    find_setting(project.settings(None, catalog), name)
    old = files.read(project.env_file)
    new = edit(env_example() if old is None else old)
    parse_settings(parse_env(new), {}, None, catalog.variables)
    return new != old and files.write(project.env_file, new, files.PRIVATE)


def rotate_key(project: Project) -> None:
    """Write a new random master key into .env."""
    project.require_stack_or_blank()
    key = f"sk-{secrets.token_urlsafe(32)}"
    old = files.read(project.env_file)
    new = set_line(env_example() if old is None else old, "LITELLM_MASTER_KEY", key)
    files.write(project.env_file, new, files.PRIVATE)


def overridden(name: str) -> tuple[str, ...]:
    """Return a remark when the process environment overrides a setting of .env."""
    return (f"The environment variable {name} is set, and it counts before .env.",) if os.environ.get(name) else ()
