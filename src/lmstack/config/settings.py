"""The settings of a stack: parsed once at the edge into a frozen value that knows the source of each.

Precedence: flag > process environment > .env > default. Pure: the caller reads the file and the environment.
``SETTINGS`` is the one list: .env.example and docs/environment.md are generated from it.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lmstack.config.envfile import Entry
from lmstack.config.yamlfile import did_you_mean
from lmstack.errors import Problem, invalid
from lmstack.releases.allowed import release_image
from lmstack.releases.pins import LITELLM_VERSION

GUIDE_KEY = "taskmaster-litellm-key"
# LiteLLM refuses to boot with these.
REFUSED_KEYS = frozenset({"", "sk-1234"})
MIN_PUBLIC_KEY = 20
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_PLACEHOLDER = re.compile(r"^(your[_-].*|<.*>|.*\.\.\.|changeme|xxx+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. ``kind`` names its check in KINDS; ``example`` is shown commented out in .env.example."""

    name: str
    default: str
    kind: str
    section: str
    help: str
    secret: bool = False
    example: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it came from: flag, environment, ``.env:LINE``, or default."""

    text: str
    source: str


def _s(section: str, name: str, default: str, kind: str, help: str, secret: bool = False, example: str = "") -> Setting:  # noqa: A002
    return Setting(name, default, kind, section, help, secret, example)


_P, _G, _T, _L = "Providers: one key is enough", "Gateway", "TaskMaster", "Ledger"
SETTINGS: tuple[Setting, ...] = (
    _s(_P, "OPENAI_API_KEY", "", "key", "OpenAI API key", True, "sk-..."),
    _s(_P, "ANTHROPIC_API_KEY", "", "key", "Anthropic API key", True, "sk-ant-..."),
    _s(_P, "GOOGLE_API_KEY", "", "key", "Google AI Studio key", True, "..."),
    _s(_P, "OLLAMA_API_BASE", "", "url", "Ollama's address; unset: http://localhost:11434 is used when it answers", example="http://localhost:11434"),
    _s(_P, "OPENAI_API_BASE", "", "url", "another endpoint for OpenAI models", example="https://my-gateway.example/v1"),
    _s(_P, "ANTHROPIC_API_BASE", "", "url", "another endpoint for Anthropic models"),
    _s(_P, "GEMINI_API_BASE", "", "url", "another endpoint for Google models"),
    _s(_G, "LITELLM_MASTER_KEY", GUIDE_KEY, "master", "the key that clients send; the default is accepted on loopback only", True),
    _s(_G, "LITELLM_PORT", "4000", "port", "port of the gateway"),
    _s(_G, "LITELLM_HOST", "127.0.0.1", "host", "address to listen on; any but loopback needs a strong LITELLM_MASTER_KEY"),
    _s(_G, "LITELLM_LOG_LEVEL", "INFO", "level", f"one of {', '.join(LOG_LEVELS)}"),
    _s(_G, "LITELLM_WORKERS", "", "workers", "worker processes of the proxy; unset or auto: one per core, as far as memory goes (plain docker compose: 1, or the number that stands here)", example="2"),
    _s(_G, "LITELLM_TIMEOUT", "120", "count", "seconds that one attempt at a provider may take"),
    _s(_G, "LITELLM_DEADLINE", "300", "count", "seconds after which a request tries no further model"),
    _s(_G, "LITELLM_RUNTIME", "auto", "runtime", "auto, docker or local"),
    _s(_G, "LITELLM_VERSION", "", "version", f"another LiteLLM release; unset: the pinned one, {LITELLM_VERSION}. `lm upgrade --to` sets and proves it", example="1.2.3"),
    _s(_G, "LITELLM_IMAGE", "", "text", "another base image or digest; unset: the image of the release"),
    _s(_G, "LITELLM_MOUNT", "off", "switch", "on: run the unmodified image with this folder's files mounted, so that nothing is built"),
    _s(_G, "LITELLM_REDIS", "off", "switch", "on: cool-downs are shared by all workers through Redis (Docker runtime)"),
    _s(_G, "REDIS_URL", "", "text", "a Redis of your own instead of the stack's", True, "redis://:password@host:6379/0"),
    _s(_G, "REDIS_PASSWORD", "", "text", "password of the stack's Redis; made by `lm up` when it is needed", True),
    _s(_T, "TASKMASTER_API_URL", "", "url", "TaskMaster's address; unset: no events are queued", example="http://host.docker.internal:3001"),
    _s(_T, "TASKMASTER_API_KEY", "", "text", "sent as a bearer token with each event", True),
    _s(_T, "TASKMASTER_WEBHOOK_SECRET", "", "text", "signs each event (Standard Webhooks)", True, "whsec_..."),
    _s(_T, "TASKMASTER_EVENTS_PATH", "/api/litellm/log", "path", "where events are posted"),
    _s(_T, "TASKMASTER_BATCH", "off", "switch", "on: many events in one post (application/cloudevents-batch+json)"),
    _s(_L, "LEDGER_MODE", "open", "ledger_mode", "open: requests go on when the ledger cannot be written; strict: they are refused (503)"),
    _s(_L, "LEDGER_KEEP_DAYS", "90", "days", "days that requests are kept; 0: for ever. Sums per hour stay"),
    _s(_L, "LEDGER_MAX_MB", "1024", "days", "size of the ledger in MB; the oldest requests go first; 0: without bound"),
    _s(_L, "LEDGER_STORE_PROMPTS", "off", "switch", "reserved: prompts and answers are never stored today"),
)  # fmt: skip
BY_NAME = {setting.name: setting for setting in SETTINGS}
# What looks like one of ours: a misspelling there deserves an error, another tool's variable does not.
_OWN = re.compile(r"^(LITELLM|TASKMASTER|LEDGER|OLLAMA|OPENAI|ANTHROPIC|GEMINI|GOOGLE|REDIS)_")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its source; ``extra`` holds further variables of .env (keys of models.yaml's providers)."""

    values: Mapping[str, Value]
    extra: Mapping[str, Value] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def get(self, name: str) -> str:
        """The text of a setting or extra variable, "" when unset."""
        value = self.values.get(name) or self.extra.get(name)
        return value.text if value else ""

    @property
    def port(self) -> int:
        """The gateway's port."""
        return int(self.get("LITELLM_PORT"))

    @property
    def host(self) -> str:
        """The address to listen on."""
        return self.get("LITELLM_HOST")

    @property
    def workers(self) -> int | None:
        """Worker processes; None: as many as the machine has room for."""
        text = self.get("LITELLM_WORKERS").lower()
        return None if text in ("", "auto") else int(text)

    @property
    def version(self) -> str:
        """The LiteLLM release that runs."""
        return self.get("LITELLM_VERSION") or LITELLM_VERSION

    @property
    def image(self) -> str:
        """What the container is built on: the image that .env names, else that of the release."""
        return self.get("LITELLM_IMAGE") or release_image(self.version)

    @property
    def master_key(self) -> str:
        """The clients' key. Never print it but where the user asked for it."""
        return self.get("LITELLM_MASTER_KEY")

    def on(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.get(name).lower() in _TRUE


def parse_settings(
    env: Mapping[str, Entry],
    environ: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    extra_names: frozenset[str] = frozenset(),
) -> Settings:
    """Merge the sources and check every value; ConfigError lists all problems."""
    problems: list[Problem] = []
    notes: list[str] = []
    values = {}
    for setting in SETTINGS:
        value = _pick(setting.name, setting.default, env, environ, flags or {})
        if setting.kind == "key" and _PLACEHOLDER.match(value.text):
            notes.append(f"{value.source}: {setting.name} holds a placeholder; treated as unset")
            value = Value("", value.source)
        wrong = KINDS[setting.kind](value.text) if value.text or setting.kind == "master" else ""
        if wrong:
            problems.append(Problem(_where(value.source, setting.name), f"{setting.name} {wrong}"))
        values[setting.name] = (
            value if value.text else Value(setting.default, "default" if setting.default else value.source)
        )
    problems += _unknown(env, extra_names)
    extra = {
        name: _pick(name, "", env, environ, {}) for name in sorted(extra_names | env.keys()) if name not in BY_NAME
    }
    settings = Settings(values, extra, tuple(notes))
    if not problems:
        problems += _exposure(settings)
    if problems:
        raise invalid(problems)
    return settings


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def env_example() -> str:
    """The text of .env.example."""
    lines = [
        "# Copy to .env (start-litellm.sh does it for you). Generated by `make docs` from lmstack/settings.py.",
        "",
    ]
    section = ""
    for setting in SETTINGS:
        if setting.section != section:
            section = setting.section
            lines += [f"# --- {section} ---"]
        lines.append(f"# {setting.help}")
        # An unset variable stands as a comment: an empty one would reach the container as a value.
        comment = "" if setting.default or setting.kind == "key" else "# "
        lines.append(f"{comment}{setting.name}={setting.default or (setting.example if comment else '')}")
        lines.append("")
    return "\n".join(lines)


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


def _where(source: str, name: str) -> str:
    return {"environment": f"environment variable {name}", "flag": "command line"}.get(source, source)


def _unknown(env: Mapping[str, Entry], extra: frozenset[str]) -> list[Problem]:
    found = []
    for name, entry in env.items():
        hint = did_you_mean(name, BY_NAME)
        if name not in BY_NAME and name not in extra and _OWN.match(name) and hint:
            found.append(Problem(f".env:{entry.line}", f"unknown variable {name}", hint))
    return found


def _exposure(settings: Settings) -> list[Problem]:
    key = settings.master_key
    if is_loopback(settings.host) or (key != GUIDE_KEY and len(key) >= MIN_PUBLIC_KEY):
        return []
    what = "the default key" if key == GUIDE_KEY else f"a key of {len(key)} characters"
    return [
        Problem(
            "LITELLM_MASTER_KEY",
            f"{what} is refused while LITELLM_HOST is {settings.host}: anyone who reaches it could spend your money",
            f"run 'lm key rotate', or choose {MIN_PUBLIC_KEY} characters or more",
        )
    ]


_TRUE, _FALSE = ("on", "true", "yes", "1"), ("off", "false", "no", "0")


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        ok = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # an unfinished [, a port that is none
        ok = False
    return "" if ok else f"must be an http:// or https:// address, not '{text}'"


def _port(text: str) -> str:
    ok = text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= 65535
    return "" if ok else f"must be a port from 1 to 65535, not '{text}'"


def _count(text: str) -> str:
    ok = text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= 3600
    return "" if ok else f"must be a whole number from 1, not '{text}'"


def _workers(text: str) -> str:
    return "" if text.lower() == "auto" else _count(text)


def _version(text: str) -> str:
    return "" if re.fullmatch(r"\d+\.\d+\.\d+", text) else f"must be a release such as {LITELLM_VERSION}, not '{text}'"


def _number(text: str) -> str:
    ok = text.isascii() and text.isdigit() and len(text) < 10
    return "" if ok else f"must be a whole number from 0, not '{text}'"


def _host(text: str) -> str:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return "" if text == "localhost" else f"must be an IP address or 'localhost', not '{text}'"
    return ""


def _one_of(*choices: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        ok = text.lower() in [choice.lower() for choice in choices]
        return "" if ok else f"must be one of {', '.join(choices)}, not '{text}'"

    return check


def _key(text: str) -> str:
    return "has spaces or line breaks in it" if re.search(r"\s", text) else ""


def _master(text: str) -> str:
    if text in REFUSED_KEYS:
        return "is empty or a well-known key, which LiteLLM refuses to start with"
    return _key(text)


KINDS: dict[str, Callable[[str], str]] = {
    "key": _key, "master": _master, "url": _url, "port": _port, "host": _host, "count": _count, "workers": _workers, "version": _version,
    "level": _one_of(*LOG_LEVELS), "switch": _one_of(*_TRUE[:1], *_FALSE[:1], *_TRUE[1:], *_FALSE[1:]),
    "runtime": _one_of("auto", "docker", "local"), "text": lambda text: "",
    "ledger_mode": _one_of("open", "strict"), "days": _number,
    "path": lambda text: "" if text.startswith("/") else f"must start with '/', not '{text}'",
}  # fmt: skip
