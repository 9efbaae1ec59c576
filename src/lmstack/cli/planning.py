"""From a folder and flags to a plan: the steps that several commands share. Prints nothing."""

from dataclasses import dataclass

from lmstack import health
from lmstack.cli.app import Context
from lmstack.errors import LmError, NoLedgerError
from lmstack.plan import Facts, Plan, plan_stack
from lmstack.render import render_config
from lmstack.runtime import embedded
from lmstack.runtime.base import Runtime, Service
from lmstack.runtime.choose import choose, current_runtime, machine, ollama_address, runtime_for
from lmstack.settings import Settings


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, its rendered text, the runtime and the reason for it."""

    plan: Plan
    config: str
    runtime: Runtime
    why: str

    @property
    def digest(self) -> str:
        """Changes with the plan, the rendered text, and the code that would run."""
        return self.plan.digest(self.config + self.runtime.code())


def planned(context: Context, flags: dict[str, str]) -> Planned:
    """Load, look at the machine, plan and render; touches nothing."""
    catalog = context.project.catalog()
    settings = context.project.settings(flags, catalog)
    ollama = bool(settings.get("OLLAMA_API_BASE")) or health.ollama_answers(ollama_address(settings))
    served = ollama or any(p.key and settings.get(p.key) for p in catalog.providers.values())
    choice = choose(settings, context.project, served)
    plan = plan_stack(settings, catalog, Facts(choice.name, ollama, embedded.available(), *machine()))
    return Planned(plan, render_config(plan), runtime_for(choice.name, context.project), choice.why)


def runtime_flags(runtime: str | None, redis: bool, port: int | None, workers: int | None) -> dict[str, str]:
    """Flags as settings; what was not given is not there."""
    flags = {
        "LITELLM_RUNTIME": runtime,
        "LITELLM_PORT": port,
        "LITELLM_WORKERS": workers,
        "LITELLM_REDIS": "on" if redis else None,
    }
    return {name: str(value) for name, value in flags.items() if value is not None}


def gateway_health(context: Context, deep: bool = False) -> dict[str, object]:
    """`lm health`'s report for what runs here."""
    from lmstack.runtime.base import load_state

    settings = context.project.settings()
    state = load_state(context.project)
    url = state.url if state else f"http://localhost:{settings.port}"
    return health.gateway(url, settings, ledger_status(current_runtime(settings, context.project)), deep)


def ledger_status(runtime: Runtime) -> dict[str, object]:
    """Whether the ledger can be read, and how many requests it holds."""
    try:
        return {"status": "ok", **runtime.query("status", {})[0]}
    except LmError as error:
        return {"status": "missing" if isinstance(error, NoLedgerError) else "unreadable", "error": str(error)}


def service_rows(services: list[Service]) -> list[dict[str, object]]:
    """Services as JSON."""
    return [
        {"name": s.name, "state": s.state, "health": s.health, "pid": s.pid, "restarts": s.restarts, "detail": s.detail}
        for s in services
    ]


def curl_example(settings: Settings, url: str, model: str) -> str:
    """A request that works when pasted; the key is shown only when it is the public default."""
    from lmstack.settings import GUIDE_KEY

    key = GUIDE_KEY if settings.master_key == GUIDE_KEY else "$LITELLM_MASTER_KEY"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return (
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"    -H \"Authorization: Bearer {key}\" \\\n    -d '{body}'"
    )


__all__ = ["Planned", "curl_example", "gateway_health", "ledger_status", "planned", "runtime_flags", "service_rows"]
