"""What runs in a stack's folder: address, models, services, and since when."""

import time
from dataclasses import asdict
from typing import Any

from lmstack.errors import ConfigError
from lmstack.operate.planning import service_rows
from lmstack.runtime.base import load_state
from lmstack.runtime.choose import current_runtime
from lmstack.runtime.leftovers import leftovers
from lmstack.runtime.workers import Workers
from lmstack.stack.project import Project


def stack_status(project: Project) -> dict[str, Any]:
    """Return the data of `lm status`. ``running``: whether any service runs; otherwise the uptime is null."""
    state = load_state(project)
    services = leftovers(project) or current_runtime(project).services()
    running = any(s.state == "running" for s in services)
    workers = current_runtime(project).workers() if running else Workers()
    since = state.started_at if state and running else None
    return {
        "running": running,
        "runtime": state.runtime if state else None,
        "url": state.url if state else None,
        "started_at": state.started_at if state else None,
        "uptime_seconds": round(max(0.0, time.time() - since)) if since else None,
        "models": state.models if state and running else [],
        "litellm": _release(project),
        "image": state.image if state else None,
        "image_digest": state.image_digest if state else None,
        "services": service_rows(services),
        "workers": [asdict(worker) for worker in workers.workers],
        "workers_replaced": workers.replaced,
    }


def _release(project: Project) -> str | None:
    """Return the LiteLLM release of this stack; None while .env or models.yaml has errors."""
    try:
        return project.settings().version
    except ConfigError:
        return None


def is_well(status: dict[str, Any]) -> bool:
    """Return whether the gateway runs and so does every service of it."""
    return bool(status["running"]) and all(service["state"] == "running" for service in status["services"])
