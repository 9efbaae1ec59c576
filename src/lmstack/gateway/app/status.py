"""Answer GET /health and GET /models for callers without a key, and what a key may see. Makes no provider call."""

from collections.abc import Mapping, MutableMapping
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from lmstack.gateway import worker
from lmstack.gateway.app import credentials, me
from lmstack.gateway.app.auth import SCOPE_KEY
from lmstack.gateway.calls import served
from lmstack.gateway.results import LastResultOf, newest_of
from lmstack.gateway.stock import live, lookup


class AnonymousRoute(Route):
    """Match requests without credentials only. For a request with credentials, LiteLLM's route and its check answer."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Return a full match or none. A partial match would hide LiteLLM's route for another method."""
        if scope["type"] == "http" and any(name in credentials.HEADERS for name, _ in scope["headers"]):
            return Match.NONE, {}
        match, child = super().matches(scope)
        return (match if match is Match.FULL else Match.NONE), child


class KeyRoute(Route):
    """Match requests with the key of an agent only. The gate has checked the key. The operator gets LiteLLM's answer."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Return a full match or none."""
        if scope["type"] != "http" or scope.get(SCOPE_KEY) is None:
            return Match.NONE, {}
        match, child = super().matches(scope)
        return (match if match is Match.FULL else Match.NONE), child


def own_routes() -> list[Route]:
    """Return the routes that we answer in place of LiteLLM."""
    return [
        KeyRoute("/v1/models", models, methods=["GET"]),
        KeyRoute("/v1/models/{name:path}", model, methods=["GET"]),
        KeyRoute("/models/{name:path}", model, methods=["GET"]),
        Route("/me/usage", me.usage, methods=["GET"]),
        AnonymousRoute("/models", models, methods=["GET"]),
        AnonymousRoute("/health", health, methods=["GET"]),
    ]


async def health(request: Request) -> JSONResponse:
    """Report how each deployment is, what the ledger lacks, and which private names of LiteLLM are missing."""
    lacking = [{"name": use.place, "without": use.without} for use in lookup.missing()]
    return JSONResponse(await report() | {"ledger": worker.get().counts(), "missing": lacking})


async def report() -> dict[str, Any]:
    """Return the last result of each deployment in all workers, and LiteLLM's background probes of free models."""
    own = worker.get()
    last_result = newest_of(own.results, await own.shared_results.read())
    return health_report(deployments(), last_result, live.probes())


async def models(request: Request) -> JSONResponse:
    """List the model names that a client can request, in the form of OpenAI's list."""
    names = served.names_for(request.scope.get(SCOPE_KEY))
    return JSONResponse({"object": "list", "data": [_entry(name) for name in names]})


async def model(request: Request) -> JSONResponse:
    """Describe one model that a key may use. Any other name is answered alike, whether it is served or not."""
    name = request.path_params["name"]
    if name in served.names_for(request.scope.get(SCOPE_KEY)):
        return JSONResponse(_entry(name))
    text = f"This key may use no model '{name[:100]}'. GET /v1/models lists its models."
    error = {"message": text, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    return JSONResponse({"error": error}, 404)


def _entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "lmstack"}


def health_report(
    listed: list[Mapping[str, Any]], last_result: LastResultOf, probes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return LiteLLM's keys (healthy_endpoints, ...) and ``status``: healthy, degraded (some fail), unhealthy (all fail)."""
    groups: dict[str, list[dict[str, Any]]] = {"healthy": [], "unhealthy": [], "unchecked": []}
    for deployment in listed:
        state, entry = _state_of(deployment, last_result, probes)
        groups[state].append(entry)
    bad, total = len(groups["unhealthy"]), len(listed)
    status = "healthy" if total and not bad else "unhealthy" if bad == total else "degraded"
    found: dict[str, Any] = {"status": status}
    for state, entries in groups.items():
        found[f"{state}_endpoints"], found[f"{state}_count"] = entries, len(entries)
    return found


def _state_of(
    deployment: Mapping[str, Any], last_result: LastResultOf, probes: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    info = deployment.get("model_info") or {}
    name = deployment["model_name"]
    entry: dict[str, Any] = {
        "model": name, "provider": info.get("lm_provider"), "tier": info.get("lm_tier"),
        "source": None, "checked_at": None, "error": None,
    }  # fmt: skip
    last = last_result(name, info.get("lm_provider"))
    if last is not None:
        at = datetime.fromtimestamp(last.at, timezone.utc).isoformat(timespec="seconds")
        entry |= {"source": "traffic", "checked_at": at}
        if last.fault:
            entry["error"] = last.fault.type
        return ("unhealthy" if last.fault else "healthy"), entry
    for state in ("healthy", "unhealthy"):
        if any(probe.get("model_id") == info.get("id") for probe in probes.get(f"{state}_endpoints") or ()):
            return state, entry | {"source": "probe"}
    return "unchecked", entry


def deployments() -> list[Mapping[str, Any]]:
    """Return each deployment once. LiteLLM may also list the members of a routing group under the group's name."""
    return [d for d in live.deployments() if (d.get("model_info") or {}).get("id") == d["model_name"]]
