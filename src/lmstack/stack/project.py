"""A stack's folder: the paths of its files, and how to load settings, catalog and plan from them."""

import os
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lmstack import files
from lmstack.catalog.models import Catalog, parse_catalog
from lmstack.config.envfile import Entry, parse_env
from lmstack.config.settings import Settings, parse_settings
from lmstack.config.yamlrules import COMPOSE, parse_yaml
from lmstack.errors import ConfigError
from lmstack.stack.plan import Facts, Plan, plan_stack
from lmstack.stack.render import is_rendered, render_config

PROXY_SERVICE = "litellm-proxy"
_COMPOSE_FILES = ("docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml")


@dataclass(frozen=True, slots=True)
class Project:
    """Paths only; nothing is read before a method is called."""

    root: Path

    @property
    def env_file(self) -> Path:
        """Return the path of the settings and keys."""
        return self.root / ".env"

    @property
    def models_file(self) -> Path:
        """Return the path of the user's own models; the file is optional."""
        return self.root / "models.yaml"

    @property
    def config_file(self) -> Path:
        """Return the path of the configuration that LiteLLM reads."""
        return self.root / "litellm-config.yaml"

    @property
    def compose_file(self) -> Path:
        """Return the path of the Docker stack's compose file."""
        return self.root / "docker-compose.yml"

    @property
    def state(self) -> Path:
        """Return the folder of pids, digests and locks. Users edit nothing in it."""
        return self.root / ".lmstack"

    @property
    def logs(self) -> Path:
        """Return the folder of the local runtime's logs and ledger."""
        return self.root / "logs"

    @property
    def ledger(self) -> Path:
        """Return the path of the local runtime's ledger. In the container it is /app/logs/litellm.db."""
        return self.logs / "litellm.db"

    @property
    def is_stack(self) -> bool:
        """Return whether this folder has our mark. A compose file does not count: it may belong to another program."""
        return (self.root / "callbacks" / "taskmaster.py").is_file() or (self.state / "state.json").is_file()

    @property
    def is_blank(self) -> bool:
        """Return whether this folder is empty, except for files that a stack may begin with: settings, models, state."""
        own = {self.env_file.name, self.models_file.name, self.state.name, self.logs.name}
        if self._has_own_config():
            own.add(self.config_file.name)
        return self.root.is_dir() and all(path.name in own for path in self.root.iterdir())

    @property
    def is_new(self) -> bool:
        """Return whether `lm up` would create a stack here: the folder is empty, and nothing was started in it."""
        return self.is_blank and not self.is_stack

    def require_stack(self) -> None:
        """Raise ConfigError unless this folder holds one of our stacks. Call it before every change."""
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise ConfigError(f"the folder {self.root} {what}", "name a stack's folder: lm ... -C FOLDER")
        if not self.is_stack:
            raise ConfigError(
                f"{self.root} holds no lmstack stack", "go to a stack's folder, name it with -C FOLDER, or make one here: lm init"
            )  # fmt: skip

    def require_stack_or_blank(self) -> None:
        """Raise ConfigError when this folder belongs to another program. Call it before a file of the user is written."""
        if not self.is_blank:
            self.require_stack()

    def require_own_config(self) -> None:
        """Raise ConfigError when litellm-config.yaml was not written by lm. Call it before that file is replaced."""
        if self.config_file.exists() and not self._has_own_config():
            raise ConfigError(
                f"{self.config_file} was not written by lm, and lm would replace it; nothing was changed",
                f"describe its models in models.yaml (docs/providers.md), then move it away: "
                f"mv {shlex.quote(str(self.config_file))} {shlex.quote(str(self.config_file) + '.old')}",
            )

    def _has_own_config(self) -> bool:
        return is_rendered(files.read(self.config_file) or "")

    def foreign_compose(self) -> str | None:
        """Return why the compose file here is not ours, None when it is. Call it before every compose command."""
        if not self.is_stack:
            return f"{self.root} holds no lmstack stack"
        text = files.read(self.compose_file)
        if text is None:
            return f"there is no {self.compose_file}"
        try:
            _, found = parse_yaml(text, str(self.compose_file), COMPOSE)
        except ConfigError as error:
            return "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
        services = found.get("services") if isinstance(found, dict) else None
        if not isinstance(services, dict) or PROXY_SERVICE not in services:
            return f"{self.compose_file} has no service '{PROXY_SERVICE}', so it is not a stack of lmstack"
        return None

    def compose_name(self) -> str:
        """Return the project name that the compose file itself gives; "" when it gives none, or one with variables."""
        import yaml

        try:
            found = yaml.safe_load(files.read(self.compose_file) or "")
        except yaml.YAMLError:
            return ""
        name = found.get("name") if isinstance(found, dict) else None
        return name if isinstance(name, str) and "$" not in name else ""

    def env_entries(self) -> dict[str, Entry]:
        """Return the entries of .env; empty when there is no such file."""
        return parse_env(files.read(self.env_file) or "", ".env")

    def catalog(self) -> Catalog:
        """Return the shipped catalog, changed by models.yaml."""
        return parse_catalog(shipped_catalog(), files.read(self.models_file))

    def settings(self, flags: dict[str, str] | None = None, catalog: Catalog | None = None) -> Settings:
        """Return the settings: flags before environment before .env before defaults. ConfigError lists every problem."""
        known = catalog or self.catalog()
        return parse_settings(self.env_entries(), os.environ, flags, known.variables, known.alert_addresses)


def find_project(folder: Path | None) -> Project:
    """Return the given folder, else the nearest parent folder that holds a stack, else the current folder."""
    if folder is not None:
        return Project(folder.resolve())
    here = Path.cwd()
    for candidate in (here, *here.parents):
        if (candidate / "docker-compose.yml").exists() and (candidate / "callbacks" / "taskmaster.py").exists():
            return Project(candidate)
        if any((candidate / name).exists() for name in _COMPOSE_FILES):
            break  # another project inside a stack's folder: the user does not mean the stack around it
    return Project(here)


def shipped_catalog() -> str:
    """Return the text of the catalog that comes with this version."""
    return (resources.files("lmstack.catalog") / "catalog.yaml").read_text(encoding="utf-8")


def shipped_plan() -> Plan:
    """Return the plan of the committed litellm-config.yaml: every provider of the guide, for `docker compose up`."""
    catalog = parse_catalog(shipped_catalog())
    keys = {name: "set" for p in catalog.providers.values() if p.name != "embedded" and (name := p.key)}
    return plan_stack(parse_settings({}, keys), catalog, Facts("docker", ollama=True))


def shipped_config() -> str:
    """Return the text of the committed litellm-config.yaml."""
    return render_config(shipped_plan())


__all__ = ["Project", "find_project", "shipped_catalog", "shipped_config", "shipped_plan"]
