"""Make a plan from a folder and flags; other steps that several commands share. Prints nothing."""

from dataclasses import dataclass
from typing import Any

from lmstack import files
from lmstack.config.settings import Settings
from lmstack.errors import LmError, NoLedgerError, UnknownQueryError, UsageError
from lmstack.runtime import embedded
from lmstack.runtime.base import Runtime, Service, load_state
from lmstack.runtime.choose import choose, current_runtime, machine, ollama_address, runtime_for
from lmstack.stack import health
from lmstack.stack.plan import Facts, Plan, plan_stack
from lmstack.stack.project import Project
from lmstack.stack.render import render_config

LONGEST_SECONDS = 36500 * 86400.0  # a hundred years; a longer span is a typing error


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, its rendered text, the runtime, and why this runtime was chosen. ``models_file``: the text of models.yaml."""

    plan: Plan
    config: str
    runtime: Runtime
    why: str
    flags: dict[str, str]
    models_file: str = ""
    variables: frozenset[str] = frozenset()  # that hold the key or address of a provider

    @property
    def digest(self) -> str:
        """Return a hash that changes with the plan, the rendered text, and the code that would run."""
        return self.plan.digest(self.config + self.runtime.code())


def planned(project: Project, flags: dict[str, str]) -> Planned:
    """Load the settings, look at the machine, plan and render. Changes nothing."""
    catalog = project.catalog()
    settings = project.settings(flags, catalog)
    ollama = bool(settings.get("OLLAMA_API_BASE")) or health.ollama_answers(ollama_address(settings))
    served = ollama or any(p.key and settings.get(p.key) for p in catalog.providers.values())
    choice = choose(settings, project, served)
    plan = plan_stack(settings, catalog, Facts(choice.name, ollama, embedded.available(), *machine()))
    models_file = files.read(project.models_file) or ""
    return Planned(
        plan, render_config(plan), runtime_for(choice.name, project), choice.why, flags, models_file, catalog.variables
    )


def runtime_flags(runtime: str | None, redis: bool, port: int | None, workers: int | None) -> dict[str, str]:
    """Return flags as settings, without those that were not given."""
    flags = {
        "LITELLM_RUNTIME": runtime,
        "LITELLM_PORT": port,
        "LITELLM_WORKERS": workers,
        "LITELLM_REDIS": "on" if redis else None,
    }
    return {name: str(value) for name, value in flags.items() if value is not None}


def flags_of_running(project: Project) -> dict[str, str]:
    """Return the flags of the last `lm up`, as settings."""
    state = load_state(project)
    return {**state.flags, "LITELLM_RUNTIME": state.runtime} if state else {}


def seconds(text: str) -> float:
    """Return ``30s``, ``10m``, ``1h``, ``2d`` or plain seconds as seconds; raise UsageError for any other text."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        span = float(number) * unit
    except ValueError:
        span = -1
    if not 0 <= span <= LONGEST_SECONDS:  # nan is in no range
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise UsageError(f"'{shown}' is no time span", "write it as 30s, 10m, 1h or 2d, at most 36500d")
    return span


def ask(project: Project, query: str, **arguments: Any) -> list[dict[str, Any]]:
    """Return the answer of a ledger query, from the runtime that this folder uses."""
    return current_runtime(project).query(query, arguments)


def refusals(project: Project, since: float) -> dict[str, Any]:
    """Return how many requests were refused since a time (Unix seconds), by reason, and the last of them.

    A container of an older lmstack counts none.
    """
    try:
        return ask(project, "refused", since=since)[0]
    except UnknownQueryError:
        return {"counts": [], "last": []}


def gateway_health(project: Project, deep: bool = False) -> dict[str, object]:
    """Return the report of `lm health`."""
    settings = project.settings()
    state = load_state(project)
    url = state.url if state else f"http://localhost:{settings.port}"
    return health.gateway(url, settings, ledger_status(current_runtime(project)), deep)


def ledger_status(runtime: Runtime) -> dict[str, object]:
    """Return whether the ledger can be read, and how many requests it holds."""
    try:
        return {"status": "ok", **runtime.query("status", {})[0]}
    except LmError as error:
        return {"status": "missing" if isinstance(error, NoLedgerError) else "unreadable", "error": str(error)}


def service_rows(services: list[Service]) -> list[dict[str, object]]:
    """Return services as JSON objects."""
    return [
        {"name": s.name, "state": s.state, "health": s.health, "pid": s.pid, "restarts": s.restarts, "detail": s.detail}
        for s in services
    ]


def curl_example(settings: Settings, url: str, model: str) -> str:
    """Return a curl command that works from any folder. It shows the key only when that is the public default."""
    from lmstack.key_strength import GUIDE_KEY

    key = GUIDE_KEY if settings.master_key == GUIDE_KEY else "$(lm key show)"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return (
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"    -H \"Authorization: Bearer {key}\" \\\n    -d '{body}'"
    )
