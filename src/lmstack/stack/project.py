"""A stack's folder: where its files are, and how they are loaded into settings, catalog and plan."""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lmstack import files
from lmstack.catalog.models import Catalog, parse_catalog
from lmstack.config.envfile import Entry, parse_env
from lmstack.config.settings import Settings, parse_settings
from lmstack.errors import ConfigError
from lmstack.stack.plan import Facts, Plan, plan_stack
from lmstack.stack.render import render_config

PROXY_SERVICE = "litellm-proxy"
_COMPOSE_FILES = ("docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml")


@dataclass(frozen=True, slots=True)
class Project:
    """Paths only; nothing is read before a method is called."""

    root: Path

    @property
    def env_file(self) -> Path:
        """Settings and keys."""
        return self.root / ".env"

    @property
    def models_file(self) -> Path:
        """The user's own models, optional."""
        return self.root / "models.yaml"

    @property
    def config_file(self) -> Path:
        """What LiteLLM reads."""
        return self.root / "litellm-config.yaml"

    @property
    def compose_file(self) -> Path:
        """The Docker stack."""
        return self.root / "docker-compose.yml"

    @property
    def state(self) -> Path:
        """Pids, digests, locks: nothing that a user edits."""
        return self.root / ".lmstack"

    @property
    def logs(self) -> Path:
        """Logs and ledger of the local runtime."""
        return self.root / "logs"

    @property
    def ledger(self) -> Path:
        """The local runtime's ledger; in the container it is /app/logs/litellm.db."""
        return self.logs / "litellm.db"

    @property
    def is_stack(self) -> bool:
        """Whether this folder carries our mark. A compose file alone is none: it may be somebody else's."""
        return (self.root / "callbacks" / "taskmaster.py").is_file() or (self.state / "state.json").is_file()

    @property
    def is_blank(self) -> bool:
        """Whether nothing is in this folder but what a stack may begin with: settings, models, our own state."""
        own = {self.env_file.name, self.models_file.name, self.state.name, self.logs.name}
        return self.root.is_dir() and all(path.name in own for path in self.root.iterdir())

    def require_stack(self) -> None:
        """ConfigError unless this folder holds a stack of ours; asked before anything is changed."""
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise ConfigError(f"the folder {self.root} {what}", "name a stack's folder: lm ... -C FOLDER")
        if not self.is_stack:
            raise ConfigError(
                f"{self.root} holds no lmstack stack", "go to a stack's folder, name it with -C FOLDER, or make one here: lm init"
            )  # fmt: skip

    def foreign_compose(self) -> str | None:
        """Why the compose file of this folder is not ours, None when it is. No compose call may be made before."""
        if not self.is_stack:
            return f"{self.root} holds no lmstack stack"
        text = files.read(self.compose_file)
        if text is None:
            return f"there is no {self.compose_file}"
        import yaml

        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            return f"{self.compose_file} is not readable as YAML: {error}"
        services = found.get("services") if isinstance(found, dict) else None
        if not isinstance(services, dict) or PROXY_SERVICE not in services:
            return f"{self.compose_file} has no service '{PROXY_SERVICE}', so it is not a stack of lmstack"
        return None

    def env_entries(self) -> dict[str, Entry]:
        """What .env says; nothing when there is none."""
        return parse_env(files.read(self.env_file) or "", ".env")

    def catalog(self) -> Catalog:
        """The shipped catalog with models.yaml over it."""
        return parse_catalog(shipped_catalog(), files.read(self.models_file))

    def settings(self, flags: dict[str, str] | None = None, catalog: Catalog | None = None) -> Settings:
        """Flags over environment over .env over defaults; ConfigError lists every problem."""
        known = catalog or self.catalog()
        return parse_settings(self.env_entries(), os.environ, flags, known.variables)


def find_project(folder: Path | None) -> Project:
    """The given folder, else the nearest one upwards that holds a stack, else the current one."""
    if folder is not None:
        return Project(folder.resolve())
    here = Path.cwd()
    for candidate in (here, *here.parents):
        if (candidate / "docker-compose.yml").exists() and (candidate / "callbacks" / "taskmaster.py").exists():
            return Project(candidate)
        if any((candidate / name).exists() for name in _COMPOSE_FILES):
            break  # somebody else's project within a stack's tree: the stack around it is not meant
    return Project(here)


def shipped_catalog() -> str:
    """The catalog that comes with this version."""
    return (resources.files("lmstack.catalog") / "catalog.yaml").read_text(encoding="utf-8")


def shipped_plan() -> Plan:
    """The plan behind the committed litellm-config.yaml: every provider of the guide, for plain `docker compose up`."""
    catalog = parse_catalog(shipped_catalog())
    keys = {name: "set" for p in catalog.providers.values() if p.name != "embedded" and (name := p.key)}
    return plan_stack(parse_settings({}, keys), catalog, Facts("docker", ollama=True))


def shipped_config() -> str:
    """The text of the committed litellm-config.yaml."""
    return render_config(shipped_plan())


__all__ = ["Project", "find_project", "shipped_catalog", "shipped_config", "shipped_plan"]
