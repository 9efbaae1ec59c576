"""Give the page (lmstack.web) what only the gateway knows: the served models with their health, budgets, the premium model."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from lmstack.gateway import worker
from lmstack.gateway.app import leaving, status
from lmstack.gateway.calls import served
from lmstack.gateway.calls.cooldown import cooldowns
from lmstack.gateway.stock import live
from lmstack.routing.budgets import dump_limits
from lmstack.routing.candidates import rates_from
from lmstack.web.app import page_app
from lmstack.web.host import Facts, Host, Note, ServedModel

_OFF = ("off", "false", "no", "0")


def page(environ: Mapping[str, str], note: Note) -> ASGIApp | None:
    """Return the app of the page, or None when LITELLM_DASHBOARD is off. ``note``: counts refusals.

    With LITELLM_METRICS_TOKEN, /metrics is served also without the page.
    """
    is_off = environ.get("LITELLM_DASHBOARD", "").strip().lower() in _OFF
    token = environ.get("LITELLM_METRICS_TOKEN", "").strip()
    if is_off and not token:
        return None
    ledger = Path(environ.get("LEDGER_PATH") or worker.DEFAULT_LEDGER)
    return page_app(Host(ledger, live.master_key, facts, note, leaving.has_begun, token), only_metrics=is_off)


async def facts() -> Facts:
    """Return what the gateway knows now. Reads memory, and what all workers saw from the ledger, off the event loop."""
    report = await status.report()
    states = {
        entry["model"]: (state, entry)
        for state in ("healthy", "unhealthy", "unchecked")
        for entry in report[f"{state}_endpoints"]
    }
    found = status.deployments()
    left = {one.deployment: one.until - time.time() for one in cooldowns(d["model_name"] for d in found)}
    premium = served.models().orders["premium"]
    return Facts(
        [_model(deployment, states, left) for deployment in found],
        dump_limits(served.rules().limits),
        premium[0] if premium else None,
        served.declared_keys(),
        lambda key: worker.get().rates.used(key),
    )


def _model(
    deployment: Mapping[str, Any], states: Mapping[str, tuple[str, Mapping[str, Any]]], left: Mapping[str, float]
) -> ServedModel:
    name, info = deployment["model_name"], deployment.get("model_info") or {}
    state, entry = states.get(name, ("unchecked", {}))
    flat, seconds = info.get("lm_flat_price"), left.get(name, 0.0)
    return ServedModel(
        name, info.get("lm_provider"), deployment["litellm_params"]["model"], info.get("lm_tier"), rates_from(info.get("lm_rates")),
        (str(flat[0]), float(flat[1])) if flat else None, info.get("lm_context"), state, entry.get("error"), entry.get("checked_at"),
        seconds if seconds > 0 else None, info.get("lm_ends"), bool(info.get("lm_heir")),
    )  # fmt: skip
