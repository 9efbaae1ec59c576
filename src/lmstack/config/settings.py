"""The settings of a stack. ``SETTINGS`` is the only list: .env.example and docs/environment.md are generated from it.

A flag counts before the process environment, the environment before ``.env``, and ``.env`` before the default.
Pure: the caller reads the file and the environment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lmstack.addresses import is_loopback
from lmstack.config.envfile import Entry
from lmstack.config.kinds import LOG_LEVELS, TRUE_WORDS, check
from lmstack.config.spelling import did_you_mean
from lmstack.errors import Problem, invalid
from lmstack.key_strength import GUIDE_KEY, MIN_LENGTH, weakness
from lmstack.releases.allowed import release_image
from lmstack.releases.pins import LITELLM_VERSION

_PLACEHOLDER = re.compile(r"^(your[_-].*|<.*>|.*\.\.\.|changeme|xxx+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. ``kind`` names its check in kinds.KINDS; ``example`` is shown as a comment in .env.example."""

    name: str
    default: str
    kind: str
    section: str
    help: str
    secret: bool = False
    example: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and its source: ``flag``, ``environment``, ``.env:LINE`` or ``default``."""

    text: str
    source: str


_SECTIONS: dict[str, tuple[tuple[object, ...], ...]] = {
    "Providers: one key is enough": (
        ("OPENAI_API_KEY", "", "key", "OpenAI API key", True, "sk-..."),
        ("ANTHROPIC_API_KEY", "", "key", "Anthropic API key", True, "sk-ant-..."),
        ("GOOGLE_API_KEY", "", "key", "Google AI Studio key", True, "..."),
        ("OLLAMA_API_BASE", "", "url", "address of Ollama; unset: http://localhost:11434 is used if Ollama answers there", False, "http://localhost:11434"),
        ("OPENAI_API_BASE", "", "url", "another address for OpenAI models", False, "https://my-gateway.example/v1"),
        ("ANTHROPIC_API_BASE", "", "url", "another address for Anthropic models"),
        ("GEMINI_API_BASE", "", "url", "another address for Google models"),
    ),
    "Gateway": (
        ("LITELLM_MASTER_KEY", GUIDE_KEY, "master_key", "the key that clients send; the default key works only on loopback", True),
        ("LITELLM_PORT", "4000", "port", "port of the gateway"),
        ("LITELLM_HOST", "127.0.0.1", "host", "address to listen on; any address but loopback needs a strong LITELLM_MASTER_KEY"),
        ("LITELLM_LOG_LEVEL", "INFO", "level", f"one of {', '.join(LOG_LEVELS)}"),
        ("LITELLM_WORKERS", "", "workers", "number of worker processes; unset or auto: one per core if there is enough memory (plain docker compose: 1)", False, "2"),
        ("LITELLM_WORKER_MAX_MB", "0", "worker_megabytes", "memory of one worker in MB, above which a new worker replaces it; no request is refused; 0: no limit"),
        ("LITELLM_WORKER_MAX_HOURS", "0", "number", "age of one worker in hours, at which a new worker replaces it; no request is refused; 0: no limit"),
        ("LITELLM_TIMEOUT", "120", "seconds", "seconds that one attempt at a provider may take"),
        ("LITELLM_DEADLINE", "300", "seconds", "seconds after which a request tries no other model"),
        ("LITELLM_ORIGINS", "", "origins", "web pages and host names that may use the gateway, beside loopback; several with commas", False, "https://ai.example.com"),
        ("LITELLM_MAX_BODY_MB", "50", "megabytes", "size limit of a request body in MB"),
        ("LITELLM_DASHBOARD", "on", "switch", "off: the page at /dashboard and its JSON at /api/v1 are closed"),
        ("LITELLM_ADMIN", "off", "switch", "on: LiteLLM's management routes answer, with the master key and on loopback only; needs the local runtime"),
        ("LITELLM_RUNTIME", "auto", "runtime", "where the gateway runs: auto, docker or local"),
        ("LITELLM_VERSION", "", "version", f"another LiteLLM release; unset: the pinned release {LITELLM_VERSION}. `lm upgrade --to` sets and tests it", False, "1.106.10"),
        ("LITELLM_IMAGE", "", "image", "another base image or digest; unset: the image of the LiteLLM release"),
        ("LITELLM_MOUNT", "off", "switch", "on: run the unmodified image with this folder mounted; no image is built"),
        ("LITELLM_REDIS", "off", "switch", "on: all workers share cooldowns, and all hosts the rates of keys, through Redis (Docker runtime)"),
        ("REDIS_URL", "", "redis_url", "address of your own Redis; unset: the Redis of the stack", True, "redis://:password@host:6379/0"),
        ("REDIS_PASSWORD", "", "text", "password of the stack's Redis; `lm up` makes one when it is needed", True),
    ),
    "Monitoring": (
        ("LITELLM_METRICS_TOKEN", "", "header", "token with which Prometheus reads /metrics; the key of the gateway works too", True),
        ("GRAFANA_PASSWORD", "", "text", "password of the user admin in Grafana, for docker compose --profile monitoring up", True),
    ),
    "Traces": (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", "secret_url", "address of an OpenTelemetry receiver (OTLP over HTTP); unset: no traces are made", False, "http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "", "text", "headers for the receiver, such as its key: name=value, with commas between them", True, "authorization=Bearer%20..."),
        ("OTEL_TRACES_SAMPLER", "", "sampler", "which traces are sent; unset: all, unless the client says otherwise", False, "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "", "share", "the share of the traces that is sent, for a sampler with ratio", False, "0.1"),
    ),
    "TaskMaster": (
        ("TASKMASTER_API_URL", "", "url", "address of TaskMaster; unset: no events are sent", False, "http://host.docker.internal:3001"),
        ("TASKMASTER_API_KEY", "", "header", "sent as a bearer token with each event", True),
        ("TASKMASTER_WEBHOOK_SECRET", "", "text", "signs each event (Standard Webhooks)", True, "whsec_..."),
        ("TASKMASTER_EVENTS_PATH", "/api/litellm/log", "path", "path to which events are posted"),
        ("TASKMASTER_BATCH", "off", "switch", "on: send many events in one request (application/cloudevents-batch+json)"),
    ),
    "Alerts": (
        ("ALERT_WEBHOOK_URL", "", "secret_url", "address that alerts are posted to, in the form of Slack or as JSON; models.yaml needs alerts: too", True, "https://hooks.slack.com/services/..."),
        ("ALERT_WEBHOOK_SECRET", "", "text", "signs each alert (Standard Webhooks)", True, "whsec_..."),
    ),
    "Ledger": (
        ("LEDGER_MODE", "open", "ledger_mode", "when the ledger cannot be written: open lets requests through, strict refuses them (503)"),
        ("LEDGER_KEEP_DAYS", "90", "number", "days that requests are kept; 0: no limit. Hourly sums are always kept"),
        ("LEDGER_MAX_MB", "1024", "number", "largest size of the ledger in MB; the oldest requests are deleted first; 0: no limit"),
        ("LEDGER_STORE_PROMPTS", "off", "switch", "has no effect yet: prompts and answers are never stored"),
    ),
}  # fmt: skip
# Each row: name, default, kind, help, and if they differ from the usual: secret, example.
SETTINGS: tuple[Setting, ...] = tuple(
    Setting(str(name), str(default), str(kind), section, str(help_text), *more)  # type: ignore[arg-type]
    for section, rows in _SECTIONS.items()
    for name, default, kind, help_text, *more in rows
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
# An unknown name with one of these prefixes is an error when it resembles a setting. Any other name must be nearly equal
# to a setting: variables of other tools, such as VLLM_API_BASE, are no mistake.
_SIMILARITY, _SIMILARITY_OF_OTHERS = 0.6, 0.88
_OWN = re.compile(r"^(LITELLM|TASKMASTER|LEDGER|OLLAMA|OPENAI|ANTHROPIC|GEMINI|GOOGLE|REDIS)_")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its source. ``extra`` holds the other variables, such as the keys of providers in models.yaml.

    ``notes`` are warnings about values that are accepted, but have no effect.
    """

    values: Mapping[str, Value]
    extra: Mapping[str, Value] = field(default_factory=dict)
    notes: tuple[Problem, ...] = ()

    def get(self, name: str) -> str:
        """Return the text of a setting or extra variable, "" when it is unset."""
        value = self.values.get(name) or self.extra.get(name)
        return value.text if value else ""

    @property
    def port(self) -> int:
        """Return the port of the gateway."""
        return int(self.get("LITELLM_PORT"))

    @property
    def host(self) -> str:
        """Return the address to listen on."""
        return self.get("LITELLM_HOST")

    @property
    def workers(self) -> int | None:
        """Return the number of worker processes; None means as many as fit on the machine."""
        text = self.get("LITELLM_WORKERS").lower()
        return None if text in ("", "auto") else int(text)

    @property
    def version(self) -> str:
        """Return the LiteLLM release that runs."""
        return self.get("LITELLM_VERSION") or LITELLM_VERSION

    @property
    def image(self) -> str:
        """Return the base image of the container: the one of LITELLM_IMAGE, else that of the release."""
        return self.get("LITELLM_IMAGE") or release_image(self.version)

    @property
    def master_key(self) -> str:
        """Return the key of the clients. Print it only where the user asked for it."""
        return self.get("LITELLM_MASTER_KEY")

    def on(self, name: str) -> bool:
        """Return whether a switch is on."""
        return self.get(name).lower() in TRUE_WORDS


def parse_settings(
    env: Mapping[str, Entry],
    environ: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    extra_names: frozenset[str] = frozenset(),
    secret_urls: frozenset[str] = frozenset(),
) -> Settings:
    """Merge the sources and check every value. Raises ConfigError with all problems."""
    values, notes = {}, []
    problems = _unknown_names(env, extra_names)
    for setting in SETTINGS:
        value = _pick(setting.name, setting.default, env, environ, flags or {})
        if setting.kind == "key" and _PLACEHOLDER.match(value.text):
            what = f"{setting.name} is a placeholder, so it counts as unset"
            notes.append(Problem(value.source, what, "put your own key there", warning=True))
            value = Value("", value.source)
        problems += _problems(setting.name, setting.kind, value)
        values[setting.name] = value if value.text or not setting.default else Value(setting.default, "default")
    extra = {name: _pick(name, "", env, environ, {}) for name in sorted(extra_names | env.keys()) if name not in values}
    for name in sorted(extra_names & extra.keys()):
        problems += _problems(name, "secret_url" if name in secret_urls else "text", extra[name])
    stores = values["LEDGER_STORE_PROMPTS"]
    if stores.text.lower() in TRUE_WORDS:
        what = "LEDGER_STORE_PROMPTS has no effect: prompts and answers are never stored"
        notes.append(Problem(stores.source, what, "remove it", warning=True))
    settings = Settings(values, extra, tuple(notes))
    problems = problems or _weak_public_key(settings)
    if problems:
        raise invalid(problems)
    return settings


def _pick(
    name: str, default: str, env: Mapping[str, Entry], environ: Mapping[str, str], flags: Mapping[str, str]
) -> Value:
    if name in flags:
        return Value(flags[name], "flag")
    if environ.get(name):
        return Value(environ[name].strip(), "environment")
    entry = env.get(name)
    if entry is not None and (entry.value or not default):
        return Value(entry.value.strip(), f".env:{entry.line}")
    return Value(default, "default")


def _problems(name: str, kind: str, value: Value) -> list[Problem]:
    wrong = check(kind, value.text) if value.text or kind == "master_key" else ""
    where = {"environment": f"environment variable {name}", "flag": "command line"}.get(value.source, value.source)
    return [Problem(where, f"{name} {wrong}")] if wrong else []


def _unknown_names(env: Mapping[str, Entry], extra: frozenset[str]) -> list[Problem]:
    found = []
    for name, entry in env.items():
        if name in BY_NAME or name in extra:
            continue
        similarity = _SIMILARITY if _OWN.match(name) else _SIMILARITY_OF_OTHERS
        if hint := did_you_mean(name.upper(), BY_NAME, similarity):
            found.append(Problem(f".env:{entry.line}", f"unknown variable {name}", hint))
    return found


def _weak_public_key(settings: Settings) -> list[Problem]:
    """Return a problem when other machines can reach the gateway and could guess the key."""
    what = weakness(settings.master_key)
    if is_loopback(settings.host) or not what:
        return []
    return [
        Problem(
            "LITELLM_MASTER_KEY",
            f"{what} is refused while LITELLM_HOST is {settings.host}: anyone who reaches it could spend your money",
            f"run 'lm key rotate', or choose a random key of {MIN_LENGTH} characters or more",
        )
    ]
