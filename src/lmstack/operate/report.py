"""Write the archive that a user sends with a bug report. No key and no password is in it."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmstack import files
from lmstack.config.envfile import readable_values
from lmstack.config.settings import BY_NAME, Settings
from lmstack.errors import LmError
from lmstack.ledger.backup import add
from lmstack.ledger.redact import redacted, secret_values
from lmstack.operate import archive
from lmstack.operate.planning import service_rows
from lmstack.operate.settings_edit import setting_rows
from lmstack.operate.validation import catalog_or_shipped
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.runtime.choose import current_runtime
from lmstack.stack.project import Project


def write_report(project: Project, target: Path, data: dict[str, Any]) -> None:
    """Write findings, settings, configuration and logs as one archive. Keys are removed from every part.

    A report is most useful when something is broken. A part that cannot be read holds the error instead.
    """
    parts: dict[str, Callable[[], str]] = {
        "doctor.json": lambda: json.dumps(data, indent=2),
        "settings.txt": lambda: "\n".join(_setting_lines(project.settings())),
        "litellm-config.yaml": lambda: files.read(project.config_file) or "",
        "models.yaml": lambda: files.read(project.models_file) or "",
        "services.json": lambda: json.dumps(service_rows(current_runtime(project).services()), indent=2),
        "log.txt": lambda: current_runtime(project).log_tail(500),
        "version.txt": lambda: f"LiteLLM {LITELLM_VERSION}\n",
    }
    secrets = _secrets(project)
    with archive.written(target) as stream, tarfile.open(fileobj=stream, mode="w:gz") as bundle:
        for name, read in parts.items():
            add(bundle, f"lmstack-report/{name}", redacted(_text(read), secrets).encode(errors="replace"), 0o644)


def _text(read: Callable[[], str]) -> str:
    try:
        return read()
    except LmError as error:
        return "\n".join([f"not in this report: {error}", *map(str, getattr(error, "problems", ()))]) + "\n"


def _setting_lines(settings: Settings) -> list[str]:
    return [f"{row['name']}={row['value']} ({row['source']})" for row in setting_rows(settings)]


def _secrets(project: Project) -> tuple[str, ...]:
    """Return the values that the report must not show: those of .env, unless the setting is public, and secrets of the shell.

    Works on a .env and a models.yaml with errors too.
    """
    catalog = catalog_or_shipped(project)
    keys = {p.key for p in catalog.providers.values() if p.key}
    found = set(secret_values(os.environ, {*keys, *(name for name in BY_NAME if BY_NAME[name].secret)}))
    for name, value in readable_values(_env_text(project)):
        public = name in BY_NAME and not BY_NAME[name].secret
        found |= set(secret_values({name: value}, () if public else (name,)))
    found |= set(secret_values({"REDIS_PASSWORD": files.read(project.state / "redis-password") or ""}))
    return tuple(sorted(found, key=len, reverse=True))


def _env_text(project: Project) -> str:
    try:
        return project.env_file.read_bytes().decode(errors="replace")
    except OSError:
        return ""
