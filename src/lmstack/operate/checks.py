"""The single checks of `lm doctor`. Each returns what was found, why it matters, and how to fix it. Changes nothing."""

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
from lmstack.ledger.redact import without_userinfo
from lmstack.operate.map_prices import has_price_in_map
from lmstack.releases.allowed import image_objection
from lmstack.stack import health
from lmstack.stack.plan import Plan, reachable_from
from lmstack.stack.project import Project

OK, WARN, FAIL = "ok", "warn", "fail"
LOW_DISK_MB, NO_DISK_MB = 1000, 200
CLOCK_SECONDS = 60.0
# The address of each provider, if .env sets no other, and how its keys begin.
ENDPOINTS = {
    "openai": ("https://api.openai.com/v1", "sk-"),
    "anthropic": ("https://api.anthropic.com", "sk-ant-"),
    "google": ("https://generativelanguage.googleapis.com/v1beta", "AIza"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. ``status``: ok, warn or fail; ``why`` it matters; ``fix``: the command that solves it."""

    name: str
    status: str
    what: str
    why: str = ""
    fix: str = ""


def python() -> Finding:
    """Report the Python that runs lm and the proxy of the local runtime. An older Python could not start lm."""
    return Finding("python", OK, f"Python {'.'.join(map(str, sys.version_info[:3]))}")


def env_file(project: Project) -> Finding:
    """Check who may read the keys in .env."""
    try:
        mode = stat.S_IMODE(project.env_file.stat().st_mode)
    except OSError:
        return Finding("env file", WARN, "there is no .env", "no provider key is stored here", "lm init")
    if mode & 0o077:
        return Finding("env file", WARN, f".env has mode {mode:o}", "other users of this machine can read your keys", "chmod 600 .env")  # fmt: skip
    return Finding("env file", OK, ".env is readable by you alone")


def folder(project: Project) -> Finding:
    """Check whether ledger and logs can be written, and how much room the disk has."""
    place = project.logs if project.logs.exists() else project.root
    if not os.access(place, os.W_OK):
        return Finding("folder", FAIL, f"{place} is not writable", "logs and ledger must be written there", f"sudo chown -R $(id -u) {shlex.quote(str(place))}")  # fmt: skip
    free = shutil.disk_usage(place).free // 1_000_000
    if free < LOW_DISK_MB:
        status = FAIL if free < NO_DISK_MB else WARN
        return Finding("disk", status, f"only {free} MB are free", "on a full disk the ledger cannot be written", "delete some files, or lower the limit: lm config set LEDGER_MAX_MB 200")  # fmt: skip
    return Finding("disk", OK, f"{free // 1000} GB are free")


def keys(settings: Settings, providers: Iterable[Provider]) -> list[Finding]:
    """Check how each key begins. Keys for another address than the provider's may begin in any way."""
    found = []
    for provider in providers:
        key = settings.get(provider.key or "")
        expected = ENDPOINTS.get(provider.name, ("", ""))[1]
        if key and expected and not settings.get(provider.base or "") and not key.startswith(expected):
            found.append(
                Finding(f"key {provider.name}", WARN, f"{provider.key} does not begin with {expected}", f"the keys of {provider.title} do; this one may belong to another provider", f"lm config set {provider.key}")
            )  # fmt: skip
    return found


def provider_answers(provider: Provider, settings: Settings, deep: bool) -> tuple[list[Finding], float | None]:
    """Check whether a provider answers; with ``deep``, whether it accepts the key. Listing its models costs nothing.

    Also return how far the provider's clock is ahead of this machine's, in seconds; None when unknown.
    """
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
        return [Finding(name, FAIL, what, "every request for its models uses a fallback", "check the network, or the variable https_proxy")], None  # fmt: skip
    if deep and answer.status_code in (401, 403):
        return [Finding(name, FAIL, f"refuses {provider.key} ({answer.status_code})", "every request for its models uses a fallback", f"lm config set {provider.key}")], _lead(answer)  # fmt: skip
    return [Finding(name, OK, "answers and accepts the key" if deep else "answers")], _lead(answer)


def clock(leads: Iterable[float | None]) -> Finding:
    """Compare this machine's clock with the clocks of the providers."""
    known = [lead for lead in leads if lead is not None]
    if not known:
        return Finding("clock", OK, "not compared: no provider has sent its time")
    worst = max(known, key=abs)
    if abs(worst) > CLOCK_SECONDS:
        return Finding("clock", WARN, f"it differs by {abs(worst):.0f} s from a provider's clock", "TaskMaster may refuse events, and the day of a budget begins at the wrong time", _set_clock())  # fmt: skip
    return Finding("clock", OK, "agrees with the clocks of the providers")


def ollama(settings: Settings, runtime: str, answers: Callable[[str], bool]) -> Finding | None:
    """Check whether Ollama answers. A container reaches this machine by another address than a local process."""
    base = settings.get("OLLAMA_API_BASE")
    if not base:
        return None
    here = reachable_from(base, "local")
    if not answers(here):
        return Finding("ollama", FAIL, f"nothing answers at {without_userinfo(here)}", "OLLAMA_API_BASE is set, so requests are sent there", "ollama serve, or: lm config unset OLLAMA_API_BASE")  # fmt: skip
    own = _own_address()
    local = urlsplit(here).hostname in ("127.0.0.1", "localhost", "::1")
    if runtime == "docker" and local and own and not answers(here.replace(urlsplit(here).hostname or "", own, 1)):
        return Finding("ollama", FAIL, "it listens on 127.0.0.1 only", "the container of the proxy cannot reach that address", "OLLAMA_HOST=0.0.0.0 ollama serve")  # fmt: skip
    return Finding("ollama", OK, f"answers at {without_userinfo(here)}")


def taskmaster(settings: Settings) -> Finding:
    """Check whether TaskMaster answers."""
    seen = health.taskmaster(settings)
    if seen["status"] == "off":
        return Finding("taskmaster", OK, "off: TASKMASTER_API_URL is not set")
    if seen["status"] == "reachable":
        return Finding("taskmaster", OK, f"{seen['url']} answers")
    return Finding("taskmaster", WARN, f"{seen['url']} does not answer", "events wait in the outbox; after 72 hours they become dead", "start TaskMaster, or: lm config set TASKMASTER_API_URL http://...")  # fmt: skip


def ledger(status: dict[str, object], dead: int) -> Finding:
    """Check whether the ledger can be read, and whether it holds dead events."""
    if status["status"] == "missing":
        return Finding("ledger", OK, "there is none yet; the first request creates it")
    if status["status"] != "ok":
        return Finding("ledger", FAIL, str(status.get("error")), "usage and budgets are read from it", "lm logs --level WARNING")  # fmt: skip
    if dead:
        return Finding("ledger", WARN, f"{dead} dead events", "TaskMaster did not take them", "lm events dead, then: lm events replay")  # fmt: skip
    return Finding("ledger", OK, f"requests: {status.get('requests')}")


def image(settings: Settings) -> Finding:
    """Check the image of the Docker runtime."""
    name = settings.image
    objection = image_objection(name)
    if objection:
        return Finding("image", FAIL, f"{name}: {objection}", "it must not run", "lm config unset LITELLM_IMAGE")
    return Finding("image", OK, name)


def models(plan: Plan) -> list[Finding]:
    """Check for models that end soon, models without a price, and retired names."""
    found = []
    for deployment in plan.deployments:
        model = deployment.model
        if model.deprecated and not model.retired:
            found.append(Finding(f"model {model.name}", WARN, f"the provider ends it on {model.deprecated}", "requests for it will fail after that day", "use another name; see: lm models"))  # fmt: skip
        if not model.priced and model.flat_price is None and not has_price_in_map(deployment):
            found.append(Finding(f"model {model.name}", WARN, "its price is unknown", "its cost is unknown, so requests under a budget do not use it", "set its price in models.yaml (docs/providers.md)"))  # fmt: skip
    retired = [f"{d.name} by {d.model.successor}" for d in plan.deployments if d.model.successor]
    if retired:
        found.append(Finding("retired", WARN, f"retired names are served by other models: {', '.join(retired)}", "answers and prices are those of the other model", "use the name of the other model; see: lm models"))  # fmt: skip
    if not plan.deployments:
        found.append(Finding("models", FAIL, "no model can be served", "no provider has a key", "lm config set OPENAI_API_KEY"))  # fmt: skip
    return found


def memory(plan: Plan, megabytes: int) -> Finding:
    """Check the memory. Each worker is a process of about 400 MB."""
    wanted = 400 * (plan.workers + 1)
    if megabytes < wanted:
        return Finding("memory", WARN, f"{megabytes} MB for {_count(plan.workers, 'worker')}", f"they need about {wanted} MB; the system ends processes when memory is used up", "lm config set LITELLM_WORKERS 1")  # fmt: skip
    return Finding("memory", OK, f"{megabytes // 1000} GB for {_count(plan.workers, 'worker')}")


def no_stack(project: Project) -> Finding:
    """Return the finding for a folder that holds no stack. `lm up` creates one only in an empty folder."""
    what, why = f"{project.root} holds no stack", "there is no ledger, and no gateway was started here"
    if project.is_new:
        return Finding("stack", WARN, what, why, "lm init, or lm up, which does it too")
    return Finding("stack", FAIL, what, why, "lm init, or name a stack's folder: lm doctor -C FOLDER")


def drift(stale_for_compose: bool, running_digest: str | None, digest: str) -> Finding:
    """Check whether the running gateway has the present settings."""
    if running_digest is not None and running_digest != digest:
        return Finding("drift", WARN, "the gateway runs with older settings", "a change of .env, models.yaml or lmstack is not applied yet", "lm up")  # fmt: skip
    if running_digest is None and stale_for_compose:
        return Finding("drift", WARN, "litellm-config.yaml is not up to date", "plain `docker compose up` would use it", "lm render")  # fmt: skip
    return Finding(
        "drift", OK, "the gateway has the present settings" if running_digest else "litellm-config.yaml is up to date"
    )


def configured(catalog: Catalog, settings: Settings) -> list[Provider]:
    """Return the providers that have a key."""
    return [p for p in catalog.providers.values() if p.key and settings.get(p.key)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _set_clock() -> str:
    """Return the command that sets this machine's clock; macOS has no systemd."""
    return "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else "sudo timedatectl set-ntp true"


def _lead(answer: httpx.Response) -> float | None:
    """Return how far the clock of the answer is ahead of this machine's, in seconds."""
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - time.time()
    except (TypeError, ValueError):
        return None


def _own_address() -> str | None:
    """Return this machine's address on its network. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None
