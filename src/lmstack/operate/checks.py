"""What could keep a gateway from working, each with the command that mends it. Looks, and changes nothing."""

import os
import shlex
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from lmstack.catalog.models import Catalog, Provider
from lmstack.config.settings import Settings
from lmstack.releases.allowed import image_objection
from lmstack.stack import health
from lmstack.stack.plan import Plan, reachable_from
from lmstack.stack.project import Project

OK, WARN, FAIL = "ok", "warn", "fail"
LOW_DISK_MB, NO_DISK_MB = 1000, 200
CLOCK_SECONDS = 60.0
# Where a provider answers when .env names no other endpoint, and what its keys begin with.
ENDPOINTS = {
    "openai": ("https://api.openai.com/v1", "sk-"),
    "anthropic": ("https://api.anthropic.com", "sk-ant-"),
    "google": ("https://generativelanguage.googleapis.com/v1beta", "AIza"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """``status``: ok, warn or fail; ``why`` it matters; ``fix``: the command or line that mends it."""

    name: str
    status: str
    what: str
    why: str = ""
    fix: str = ""


def python() -> Finding:
    """The interpreter that runs lm, and the local runtime's proxy; an older one could not have come this far."""
    return Finding("python", OK, f"Python {'.'.join(map(str, sys.version_info[:3]))}")


def env_file(project: Project) -> Finding:
    """Who may read the keys."""
    try:
        mode = stat.S_IMODE(project.env_file.stat().st_mode)
    except OSError:
        return Finding("env file", WARN, "there is no .env", "no provider key is stored here", "lm init")
    if mode & 0o077:
        return Finding("env file", WARN, f".env has mode {mode:o}", "other users of this machine can read your keys", "chmod 600 .env")  # fmt: skip
    return Finding("env file", OK, ".env is readable by you alone")


def folder(project: Project) -> Finding:
    """Whether ledger and logs can be written."""
    place = project.logs if project.logs.exists() else project.root
    if not os.access(place, os.W_OK):
        return Finding("folder", FAIL, f"{place} is not writable", "logs and ledger are written there", f"sudo chown -R $(id -u) {shlex.quote(str(place))}")  # fmt: skip
    free = shutil.disk_usage(place).free // 1_000_000
    if free < LOW_DISK_MB:
        status = FAIL if free < NO_DISK_MB else WARN
        return Finding("disk", status, f"{free} MB are free", "a full disk sends the ledger to its spool", "free some, or lower LEDGER_MAX_MB: lm config set LEDGER_MAX_MB 200")  # fmt: skip
    return Finding("disk", OK, f"{free // 1000} GB are free")


def keys(settings: Settings, providers: Iterable[Provider]) -> list[Finding]:
    """The form of each key, unless another endpoint is set, whose keys have any form."""
    found = []
    for provider in providers:
        key = settings.get(provider.key or "")
        expected = ENDPOINTS.get(provider.name, ("", ""))[1]
        if key and expected and not settings.get(provider.base or "") and not key.startswith(expected):
            found.append(
                Finding(f"key {provider.name}", WARN, f"{provider.key} does not begin with {expected}", f"{provider.title}'s keys do", f"lm config set {provider.key}")
            )  # fmt: skip
    return found


def provider_answers(provider: Provider, settings: Settings, deep: bool) -> tuple[list[Finding], float | None]:
    """Whether it can be reached; with ``deep`` whether it takes the key, by listing its models, which costs nothing.
    Also its clock's lead over ours in seconds, when it told."""
    base = settings.get(provider.base or "") or ENDPOINTS.get(provider.name, ("", ""))[0]
    key = settings.get(provider.key or "")
    if not base or not key:
        return [], None
    headers = {"anthropic": {"x-api-key": key, "anthropic-version": "2023-06-01"}, "google": {"x-goog-api-key": key}}.get(provider.name, {"authorization": f"Bearer {key}"})  # fmt: skip
    path = "/v1/models" if provider.name == "anthropic" else "/models"
    name = f"provider {provider.name}"
    try:
        answer = httpx.get(base.rstrip("/") + path if deep else base, headers=headers if deep else {}, timeout=5)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = f"{urlsplit(base).hostname} does not answer ({type(error).__name__})"
        return [Finding(name, FAIL, what, "its models will always fall back", "check the network, or the proxy's variables (https_proxy)")], None  # fmt: skip
    if deep and answer.status_code in (401, 403):
        return [Finding(name, FAIL, f"refuses {provider.key} ({answer.status_code})", "its models will always fall back", f"lm config set {provider.key}")], _lead(answer)  # fmt: skip
    return [Finding(name, OK, "answers, and takes the key" if deep else "answers")], _lead(answer)


def clock(leads: Iterable[float | None]) -> Finding:
    """Ours against the providers'."""
    known = [lead for lead in leads if lead is not None]
    if not known:
        return Finding("clock", OK, "nobody to compare it with")
    worst = max(known, key=abs)
    if abs(worst) > CLOCK_SECONDS:
        return Finding("clock", WARN, f"it differs by {abs(worst):.0f} s from a provider's", "signatures of events expire, days of budgets shift", _set_clock())  # fmt: skip
    return Finding("clock", OK, "agrees with the providers'")


def ollama(settings: Settings, runtime: str, answers: Callable[[str], bool]) -> Finding | None:
    """A container reaches this machine by another address than a process does."""
    base = settings.get("OLLAMA_API_BASE")
    if not base:
        return None
    here = reachable_from(base, "local")
    if not answers(here):
        return Finding("ollama", FAIL, f"nothing answers at {here}", "OLLAMA_API_BASE is set, so its models are offered", "ollama serve, or: lm config unset OLLAMA_API_BASE")  # fmt: skip
    own = _own_address()
    local = urlsplit(here).hostname in ("127.0.0.1", "localhost", "::1")
    if runtime == "docker" and local and own and not answers(here.replace(urlsplit(here).hostname or "", own, 1)):
        return Finding("ollama", FAIL, "it listens on 127.0.0.1 alone", "the proxy's container cannot reach that", "OLLAMA_HOST=0.0.0.0 ollama serve")  # fmt: skip
    return Finding("ollama", OK, f"answers at {here}")


def taskmaster(settings: Settings) -> Finding:
    """Whether events find somebody."""
    seen = health.taskmaster(settings)
    if seen["status"] == "off":
        return Finding("taskmaster", OK, "off: TASKMASTER_API_URL is not set")
    if seen["status"] == "reachable":
        return Finding("taskmaster", OK, f"{seen['url']} answers")
    return Finding("taskmaster", WARN, f"{seen['url']} does not answer", "events wait in the outbox and are retried for 72 hours", "start it, or: lm config set TASKMASTER_API_URL http://...")  # fmt: skip


def ledger(status: dict[str, object], dead: int) -> Finding:
    """The file, and what could not be delivered."""
    if status["status"] == "missing":
        return Finding("ledger", OK, "none yet: it comes with the first request")
    if status["status"] != "ok":
        return Finding("ledger", FAIL, str(status.get("error")), "usage and budgets are read from it", "lm logs --level WARNING")  # fmt: skip
    if dead:
        return Finding("ledger", WARN, f"{dead} events were refused for good", "TaskMaster does not know of them", "lm events dead, then: lm events replay")  # fmt: skip
    return Finding("ledger", OK, f"requests: {status.get('requests')}")


def image(settings: Settings) -> Finding:
    """The image of the Docker runtime."""
    name = settings.image
    objection = image_objection(name)
    if objection:
        return Finding("image", FAIL, f"{name}: {objection}", "it must not run", "lm config unset LITELLM_IMAGE")
    return Finding("image", OK, name)


def models(plan: Plan) -> list[Finding]:
    """Names whose provider ended them, and prices that nobody knows."""
    found = []
    for deployment in plan.deployments:
        model = deployment.model
        if model.deprecated and not model.retired:
            found.append(Finding(f"model {model.name}", WARN, f"its provider ends it on {model.deprecated}", "requests for it will fail then", "use another name; see: lm models"))  # fmt: skip
        if not model.priced:
            found.append(Finding(f"model {model.name}", WARN, "its price is unknown", "its cost is NULL, and no budget counts it", "set input and output in models.yaml"))  # fmt: skip
    retired = [f"{d.name} by {d.model.successor}" for d in plan.deployments if d.model.successor]
    if retired:
        found.append(Finding("retired", WARN, f"retired names are served by others: {', '.join(retired)}", "answers and prices are those of the model that serves", "ask for those models by their own names; see: lm models"))  # fmt: skip
    if not plan.deployments:
        found.append(Finding("models", FAIL, "nothing can be served", "no provider has a key", "lm config set OPENAI_API_KEY"))  # fmt: skip
    return found


def memory(plan: Plan, megabytes: int) -> Finding:
    """Each worker is a process with all of LiteLLM in it."""
    wanted = 400 * (plan.workers + 1)
    if megabytes < wanted:
        return Finding("memory", WARN, f"{megabytes} MB for {plan.workers} workers", f"they need about {wanted} MB; the kernel ends what does not fit", "lm config set LITELLM_WORKERS 1")  # fmt: skip
    return Finding("memory", OK, f"{megabytes // 1000} GB, {plan.workers} workers")


def drift(stale_for_compose: bool, running_digest: str | None, digest: str) -> Finding:
    """Whether what runs is what the files say."""
    if running_digest is not None and running_digest != digest:
        return Finding("drift", WARN, "the gateway runs with older settings", "a change in .env, models.yaml or the code is not applied", "lm up")  # fmt: skip
    if running_digest is None and stale_for_compose:
        return Finding("drift", WARN, "litellm-config.yaml is stale", "plain `docker compose up` would use it", "lm render")  # fmt: skip
    return Finding("drift", OK, "files and gateway agree")


def configured(catalog: Catalog, settings: Settings) -> list[Provider]:
    """Providers that have a key."""
    return [p for p in catalog.providers.values() if p.key and settings.get(p.key)]


def _set_clock() -> str:
    """The command that sets this machine's clock; macOS has no systemd."""
    return "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else "sudo timedatectl set-ntp true"


def _lead(answer: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - time.time()
    except (TypeError, ValueError):
        return None


def _own_address() -> str | None:
    """This machine's address on its network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None
