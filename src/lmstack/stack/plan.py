"""Decide what will run, before anything is changed. Pure: from settings, catalog and facts to a frozen plan."""

import hashlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from lmstack.catalog.models import Catalog, Model, Provider
from lmstack.config.rules import Rules
from lmstack.config.settings import Settings
from lmstack.errors import ConfigError
from lmstack.ledger.redact import without_userinfo
from lmstack.routing.candidates import AUTO, GROUPS, Candidate
from lmstack.routing.policy import Models

DEFAULT_OLLAMA = "http://localhost:11434"
HOST_GATEWAY = "host.docker.internal"


@dataclass(frozen=True, slots=True)
class Facts:
    """What lm has found out about the machine before planning."""

    runtime: str  # "docker" or "local"
    ollama: bool = False  # something answers at Ollama's address
    embedded: bool = False  # this environment can serve the built-in model
    cores: int = 1
    memory_mb: int = 0  # of the machine; 0: unknown


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model at one provider. ``api_base`` and ``api_key`` are as in the rendered file, never a secret."""

    model: Model
    provider: Provider
    litellm_model: str
    api_base: str | None
    api_key: str | None

    @property
    def name(self) -> str:
        """Return the name that clients use."""
        return self.model.name

    @property
    def candidate(self) -> Candidate | None:
        """Return this deployment as routing sees it; None for a model that does not chat."""
        model = self.model
        if model.mode != "chat" or model.tier is None:
            return None
        rates = (float(model.input or 0), float(model.output or 0)) if model.priced else None
        can = None if model.can is None else frozenset(model.can)
        return Candidate(
            model.name, self.provider.name, model.tier, rates, model.context, can, self.litellm_model, model.successor is not None
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that rendering and the runtimes need. ``unserved`` maps a model name to the variable that it lacks."""

    settings: Settings
    runtime: str
    deployments: tuple[Deployment, ...]
    groups: dict[str, tuple[str, ...]]
    unserved: dict[str, str]
    embedded: bool
    redis: bool
    environ: dict[str, str]
    messages: tuple[str, ...] = ()
    rules: Rules = field(default_factory=Rules)
    workers: int = 1
    fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # for each chat model: tried when it fails
    models: Models = field(default_factory=lambda: Models(()))  # the models that routing chooses from

    @property
    def names(self) -> tuple[str, ...]:
        """Return every name that a client can request."""
        special = (AUTO, *self.groups) if self.groups else ()
        return (*special, *(d.name for d in self.deployments))

    @property
    def url(self) -> str:
        """Return the address at which clients on this machine reach the gateway."""
        host = self.settings.host.strip("[]")
        host = {"0.0.0.0": "localhost", "::": "localhost", "127.0.0.1": "localhost"}.get(host, host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    def digest(self, config: str) -> str:
        """Return a hash that changes whenever the running gateway would change. It does not reveal a key."""
        parts = [config, self.runtime, self.settings.host, str(self.settings.port), str(self.workers)]
        parts += [f"{name}={value}" for name, value in sorted(self.environ.items())]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def plan_stack(settings: Settings, catalog: Catalog, facts: Facts) -> Plan:
    """Return the plan: which deployment serves which name, and in which order the models of a group are tried."""
    messages = [str(note) for note in settings.notes]
    deployments, unserved = [], {}
    for model in catalog.models.values():
        provider = catalog.providers[model.provider]
        lacking = _lacking(provider, settings, facts)
        if lacking == "":
            deployments.append(_deploy(catalog.resolve(model), provider, settings, facts))
        elif lacking is not None:
            unserved[model.name] = lacking
    embedded = not deployments and facts.embedded and facts.runtime == "local"
    if embedded:
        deployments = [
            _deploy(model, catalog.providers["embedded"], settings, facts)
            for model in catalog.models.values()
            if model.provider == "embedded"
        ]
        messages.append(
            "No provider key and no Ollama: serving the built-in toy model smollm2 (135M parameters). Set a key in .env for real work."
        )
    for deployment in deployments:
        if deployment.model.successor:
            messages.append(f"{deployment.name} was retired by its provider: served by {deployment.model.successor}.")
    models = Models(c for d in deployments if (c := d.candidate) is not None)
    walks = {name: tuple(c.name for c in walk) for name, walk in models.orders.items()}
    groups = {name: walks[name] for name in GROUPS if walks[name]}
    return Plan(
        settings, facts.runtime, tuple(deployments), groups, unserved, embedded,
        settings.on("LITELLM_REDIS") or bool(settings.get("REDIS_URL")), _environ(settings, catalog, facts), tuple(messages), catalog.rules,
        settings.workers or _room_for_workers(facts), {name: walks[name][1:] for name in models.by_name}, models,
    )  # fmt: skip


def no_models(plan: Plan) -> ConfigError:
    """Return the error for a plan that serves no model."""
    keys = ", ".join(sorted(set(plan.unserved.values())))
    return ConfigError(
        "no model can be served: no provider has a key", f"set one of {keys} in .env, then run 'lm up' again"
    )


def reachable_from(url: str, runtime: str) -> str:
    """Return an address as the proxy must use it. A container reaches this machine by another name than a process."""
    parts = urlsplit(url)
    here, there = ("localhost", "127.0.0.1", "[::1]", "::1"), HOST_GATEWAY
    host = parts.hostname or ""
    if runtime == "docker" and host in here:
        host = there
    elif runtime == "local" and host == there:
        host = "127.0.0.1"
    else:
        return url
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}" + (f":{parts.port}" if parts.port else "")))


def _room_for_workers(facts: Facts) -> int:
    """Return one worker per core, at most MAX_WORKERS, and no more than the memory allows."""
    return max(1, min(facts.cores, MAX_WORKERS, facts.memory_mb // WORKER_MB))


def _lacking(provider: Provider, settings: Settings, facts: Facts) -> str | None:
    """Return the variable that the provider lacks, "" when it lacks none, None when it is never offered."""
    if provider.name == "embedded":
        return None
    if provider.name == "ollama":
        return "" if settings.get("OLLAMA_API_BASE") or facts.ollama else "OLLAMA_API_BASE"
    if provider.keyless:
        return "" if not provider.base or settings.get(provider.base) else provider.base
    return "" if provider.key and settings.get(provider.key) else provider.key


def _deploy(model: Model, provider: Provider, settings: Settings, facts: Facts) -> Deployment:
    base = None
    if provider.name == "ollama":
        base = _ollama_base(provider, settings, facts)
        # A password is never rendered: then the address is in the environment, see _environ.
        base = base if without_userinfo(base) == base else "os.environ/OLLAMA_API_BASE"
    elif provider.base and (provider.name == "embedded" or settings.get(provider.base)):
        base = f"os.environ/{provider.base}"
    # The OpenAI client insists on a key even where none is checked.
    key = "none" if provider.keyless else f"os.environ/{provider.key}"
    return Deployment(model, provider, f"{provider.prefix}/{model.model}", base, key)


def _ollama_base(provider: Provider, settings: Settings, facts: Facts) -> str:
    """Return the address of Ollama's OpenAI routes, as the proxy must use it."""
    base = reachable_from(settings.get("OLLAMA_API_BASE") or DEFAULT_OLLAMA, facts.runtime).rstrip("/")
    return base if base.endswith(provider.suffix) else base + provider.suffix


def _environ(settings: Settings, catalog: Catalog, facts: Facts) -> dict[str, str]:
    """Return the environment of the proxy: every setting with a value, adapted addresses, and LiteLLM's switches."""
    env = {name: value.text for name, value in settings.extra.items() if value.text}
    env |= {name: value.text for name, value in settings.values.items() if value.text}
    addresses = ("TASKMASTER_API_URL", "OPENAI_API_BASE", "ANTHROPIC_API_BASE", "GEMINI_API_BASE")
    for name in (*addresses, "OTEL_EXPORTER_OTLP_ENDPOINT", "ALERT_WEBHOOK_URL", *catalog.alert_addresses):
        if env.get(name):
            env[name] = reachable_from(env[name], facts.runtime)
    if env.get("OLLAMA_API_BASE"):
        env["OLLAMA_API_BASE"] = _ollama_base(catalog.providers["ollama"], settings, facts)
    return env | STOCK_ENVIRON


# Each worker, and their parent, is a process with all of LiteLLM in it: about 400 MB. Other programs need memory too.
WORKER_MB, MAX_WORKERS = 1500, 4

# Switches of stock LiteLLM that every runtime sets; docker-compose.yml has the same (a test compares).
STOCK_ENVIRON = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else every start makes three network requests, about 8 s
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true",
    "DEFAULT_MAX_RETRIES": "0",  # the SDK's own retries (embeddings) would be missing in the ledger
    "LITELLM_WORKER_STARTUP_HOOKS": "lmstack.gateway.app.startup:install",
}
