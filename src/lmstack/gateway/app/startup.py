"""What lmstack adds to the proxy around the callbacks: two anonymous routes, a door, a flush on shutdown,
and who may be cooled down.

``install`` is named in LITELLM_WORKER_STARTUP_HOOKS and runs once per worker, before the config is loaded.
LiteLLM offers no public seam for these; each leans on a fact that tests/contract re-checks at a bump.
"""

import asyncio
import inspect
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Mapping, MutableMapping
from datetime import datetime, timezone
from typing import Any

from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.proxy import proxy_server
from litellm.router_utils.cooldown_cache import CooldownCache
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lmstack.gateway import worker
from lmstack.gateway.app import logfilter
from lmstack.gateway.calls.current import RequestContext, body, is_clients_fault, request_context
from lmstack.gateway.calls.outcome import abandon
from lmstack.ledger.records import Call

log = logging.getLogger(__name__)

CREDENTIALS = frozenset(
    {b"authorization", b"x-api-key", b"api-key", b"x-litellm-api-key", b"x-goog-api-key", b"ocp-apim-subscription-key"}
)
# Endpoints that take JSON and nothing else, so a form content type there is curl's default for -d.
JSON_ENDPOINTS = ("/chat/completions", "/completions", "/messages", "/responses", "/embeddings")
FLUSH_SECONDS = 10.0
# A stream that was left is only taken down after its response.
ABANDONED_SECONDS = 2.0


def install() -> None:
    """Add our routes before the stock ones, flush on shutdown, apply the log level. Raising would stop the worker."""
    _drop_empty_variables()
    routes = proxy_server.app.router.routes
    if isinstance(proxy_server.app.middleware_stack, Door):
        return
    routes.insert(0, AnonymousRoute("/health", health, methods=["GET"]))
    routes.insert(0, AnonymousRoute("/models", models, methods=["GET"]))
    # The public add_middleware is only for apps that do not run yet.
    proxy_server.app.middleware_stack = Door(proxy_server.app.middleware_stack)
    _end_with_parent()
    _flush_on_shutdown()
    _fail_fast_on_redis()
    _cool_down_only_the_guilty()
    _apply_log_level(os.environ.get("LITELLM_LOG_LEVEL", "INFO").upper())
    discreet = logfilter.Discreet(body.get)
    for name in logfilter.LOGGERS:
        logging.getLogger(name).addFilter(discreet)
    worker.get()


class Door:
    """ASGI middleware around everything stock: notes headers and path, which hooks lack when authentication fails, lets
    the guide's curl (``-d`` without a content type) be read as the JSON it is, and sees that who came in is let out:
    where a request is torn down without any hook, its row would stay open as long as the worker lives."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        seen = RequestContext(
            {k.decode("latin-1"): v.decode("latin-1") for k, v in headers if k.startswith(b"x-")}, scope["path"]
        )
        request_context.set(seen)
        if scope["method"] == "POST" and scope["path"].endswith(JSON_ENDPOINTS):
            scope["headers"] = [
                (k, b"application/json") if k == b"content-type" and v.startswith(b"application/x-www-form") else (k, v)
                for k, v in headers
            ]
        try:
            await self.app(scope, receive, send)
        finally:
            for call in seen.calls:
                if not call.ended:
                    _abandon_soon(call)


def _abandon_soon(call: Call) -> None:
    try:
        asyncio.get_running_loop().call_later(ABANDONED_SECONDS, abandon, call)
    except RuntimeError:  # the server has dropped the request's coroutine, and Python clears it away by itself
        abandon(call)


class AnonymousRoute(Route):
    """A route for callers without any credential; with one, the stock route and its check answer."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        if scope["type"] == "http" and any(name in CREDENTIALS for name, _ in scope["headers"]):
            return Match.NONE, {}
        match, child = super().matches(scope)
        return (match if match is Match.FULL else Match.NONE), child


async def health(request: Request) -> JSONResponse:
    """What is known without asking a provider: this worker's traffic, and background probes of free models."""
    mine = worker.get()
    report = health_report(_deployments(), mine.sightings, proxy_server.health_check_results)
    return JSONResponse(report | {"ledger": mine.counts()})


async def models(request: Request) -> JSONResponse:
    """The names that can be asked for, in OpenAI's list shape."""
    router = proxy_server.llm_router
    names = router.get_model_names() if router else []
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "lmstack"} for name in dict.fromkeys(names)]
    return JSONResponse({"object": "list", "data": data})


def health_report(
    deployments: list[Mapping[str, Any]], sightings: Mapping[str, worker.Sighting], probes: Mapping[str, Any]
) -> dict[str, Any]:
    """Stock's keys (healthy_endpoints, ...) plus ``status``: healthy, degraded (some fail) or unhealthy (all fail)."""
    groups: dict[str, list[dict[str, Any]]] = {"healthy": [], "unhealthy": [], "unchecked": []}
    for deployment in deployments:
        state, entry = _state_of(deployment, sightings, probes)
        groups[state].append(entry)
    bad, total = len(groups["unhealthy"]), len(deployments)
    status = "healthy" if total and not bad else "unhealthy" if bad == total else "degraded"
    report: dict[str, Any] = {"status": status}
    for state, entries in groups.items():
        report[f"{state}_endpoints"], report[f"{state}_count"] = entries, len(entries)
    return report


def _state_of(
    deployment: Mapping[str, Any], sightings: Mapping[str, worker.Sighting], probes: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    info = deployment.get("model_info") or {}
    name = deployment["model_name"]
    entry: dict[str, Any] = {
        "model": name, "provider": info.get("lm_provider"), "tier": info.get("lm_tier"),
        "source": None, "checked_at": None, "error": None,
    }  # fmt: skip
    seen = sightings.get(name)
    if seen is not None:
        at = datetime.fromtimestamp(seen.at, timezone.utc).isoformat(timespec="seconds")
        entry |= {"source": "traffic", "checked_at": at}
        if seen.fault:
            entry["error"] = seen.fault.type
        return ("unhealthy" if seen.fault else "healthy"), entry
    for state in ("healthy", "unhealthy"):
        if any(probe.get("model_id") == info.get("id") for probe in probes.get(f"{state}_endpoints") or ()):
            return state, entry | {"source": "probe"}
    return "unchecked", entry


def _deployments() -> list[Mapping[str, Any]]:
    router = proxy_server.llm_router
    listed: list[Mapping[str, Any]] = (router.get_model_list() or []) if router else []
    # Stock lists the members of a routing group under the group's name too; only a deployment's own name is wanted.
    return [d for d in listed if (d.get("model_info") or {}).get("id") == d["model_name"]]


def _flush_on_shutdown() -> None:
    """Stock drops its queued log events on SIGTERM; wait for them, then commit and hand leases back."""
    stock = proxy_server.proxy_shutdown_event

    async def flushing(*args: Any, **kwargs: Any) -> None:
        try:
            await asyncio.wait_for(GLOBAL_LOGGING_WORKER.flush(), FLUSH_SECONDS)
            await asyncio.to_thread(worker.get().close, FLUSH_SECONDS)
        except Exception:
            log.exception("lmstack: the flush on shutdown failed")
        await stock(*args, **kwargs)

    proxy_server.proxy_shutdown_event = flushing


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on serving beside the one that takes its place, with the old
    configuration. Nobody waits for it any more, so it ends itself, in order."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        log.warning("lmstack: the server's main process is gone; this worker ends")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, args=(parent.sentinel,), name="lmstack-parent", daemon=True).start()


def _cool_down_only_the_guilty() -> None:
    """LiteLLM cools a deployment down for any failure that it calls 500, its own stumbling over a request included, and
    tries every model with that request: one client could take all models away from all others."""
    stock = CooldownCache.add_deployment_to_cooldown

    def add(self: CooldownCache, model_id: str, *args: Any, **kwargs: Any) -> None:
        if not is_clients_fault(model_id):
            stock(self, model_id, *args, **kwargs)

    CooldownCache.add_deployment_to_cooldown = add


def _fail_fast_on_redis() -> None:
    """LiteLLM's router asks Redis synchronously after a failure. redis-py's default policy then sleeps for seconds
    between retries, on the event loop: with Redis gone, one failing model would stop every request of the worker.
    LiteLLM passes no policy of its own, so the default object is what its clients copy."""
    try:
        import redis
    except ImportError:
        return
    policy = inspect.signature(redis.Redis.__init__).parameters["retry"].default
    if hasattr(policy, "_retries"):
        policy._retries = 0


def _drop_empty_variables() -> None:
    """Compose passes an unset variable on as an empty one, which LiteLLM and the SDKs may take for a value."""
    for name in [name for name, value in os.environ.items() if value == ""]:
        del os.environ[name]


def _apply_log_level(level: str) -> None:
    """INFO is stock's default (access lines, warnings, errors); LiteLLM's own info lines cost a fifth more CPU."""
    if level == "INFO":
        return
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router", "lmstack", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(level)
