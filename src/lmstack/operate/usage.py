"""Usage of a time span, compared with the model that serves `premium`. And what a key has used, as its holder sees it."""

import time
from typing import Any

from lmstack.errors import ConfigError, LmError, UnhealthyError
from lmstack.operate.planning import ask
from lmstack.stack.plan import Facts, plan_stack
from lmstack.stack.project import Project


def usage_rows(project: Project, by: str, seconds: float) -> list[dict[str, Any]]:
    """Return requests, failures, tokens and cost in USD of the last ``seconds``, a row for each value of ``by``."""
    return ask(project, "usage", by=by, since=time.time() - seconds)


def cost_on_premium(project: Project, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the model that the gateway tries first for `premium`, and what these tokens would have cost there.

    Returns None when no model is configured, or when the price is unknown.
    """
    try:
        catalog = project.catalog()
        settings = project.settings(None, catalog)
    except ConfigError:  # the usage is shown although .env or models.yaml has errors
        return None
    facts = Facts("docker", ollama=bool(settings.get("OLLAMA_API_BASE")))
    premium = plan_stack(settings, catalog, facts).models.orders["premium"]
    if not premium:
        return None
    tokens_in, tokens_out = sum(r["prompt_tokens"] for r in rows), sum(r["completion_tokens"] for r in rows)
    cost = premium[0].cost(tokens_in, tokens_out)
    return None if cost is None else {"model": premium[0].name, "cost_usd": cost}


def usage_of_secret(url: str, secret: str) -> dict[str, Any]:
    """Ask a gateway for the limits, the use and the cost of a key, as its holder does. Needs no stack on this machine."""
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/me/usage", headers={"authorization": f"Bearer {secret}"}, timeout=30)
        found = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as failure:
        raise UnhealthyError(f"{url} does not answer as a gateway: {type(failure).__name__}", "check --url") from None
    if answer.status_code != 200 or not isinstance(found, dict):
        error = found.get("error") if isinstance(found, dict) else None
        text = error.get("message") if isinstance(error, dict) else f"status {answer.status_code}"
        raise LmError(f"{url}: {text}", "the key is in the variable LITELLM_API_KEY")
    return found
