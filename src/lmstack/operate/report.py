"""Write the archive that a user sends with a bug report. No key and no password is in it."""

import json
import tarfile
from pathlib import Path
from typing import Any

from lmstack import files
from lmstack.catalog.models import Catalog
from lmstack.config.settings import BY_NAME, Settings
from lmstack.ledger.backup import add
from lmstack.ledger.redact import redacted, secret_values
from lmstack.operate import archive
from lmstack.operate.planning import service_rows
from lmstack.operate.settings_edit import setting_rows
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.runtime.choose import current_runtime
from lmstack.stack.project import Project


def write_report(project: Project, target: Path, data: dict[str, Any]) -> None:
    """Write findings, settings, configuration and logs as one archive. Keys are removed from every part."""
    catalog = project.catalog()
    settings = project.settings(None, catalog)
    runtime = current_runtime(project)
    parts = {
        "doctor.json": json.dumps(data, indent=2),
        "settings.txt": "\n".join(f"{row['name']}={row['value']} ({row['source']})" for row in setting_rows(settings)),
        "litellm-config.yaml": files.read(project.config_file) or "",
        "models.yaml": files.read(project.models_file) or "",
        "services.json": json.dumps(service_rows(runtime.services()), indent=2),
        "log.txt": runtime.log_tail(500),
        "version.txt": f"LiteLLM {LITELLM_VERSION}\n",
    }
    secrets = _secrets(settings, catalog)
    with archive.written(target) as stream, tarfile.open(fileobj=stream, mode="w:gz") as bundle:
        for name, text in parts.items():
            add(bundle, f"lmstack-report/{name}", redacted(text, secrets).encode(errors="replace"), 0o644)


def _secrets(settings: Settings, catalog: Catalog) -> tuple[str, ...]:
    """Return the values that the report must not show. What lm does not know, such as a key of models.yaml, counts."""
    values = {name: value.text for name, value in {**settings.values, **settings.extra}.items()}
    names = {name for name in values if name not in BY_NAME or BY_NAME[name].secret}
    return secret_values(values, names | {p.key for p in catalog.providers.values() if p.key})
