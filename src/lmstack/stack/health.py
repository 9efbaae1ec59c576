"""Query the health of a running gateway. Makes no provider call."""

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmstack.config.settings import Settings
from lmstack.ledger.redact import without_userinfo
from lmstack.stack.plan import Plan, reachable_from

if TYPE_CHECKING:
    import httpx

QUICK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. Status 0 means that no answer came; ``error`` has the reason. ``ms`` in milliseconds."""

    status: int
    body: Any
    error: str = ""
    ms: float = 0.0


def get(url: str, key: str = "", timeout: float = QUICK_SECONDS) -> Answer:
    """Send a GET request and return the answer with its JSON body. Never raises for a server's fault."""
    import httpx

    began = time.perf_counter()
    try:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = client().get(url, headers=headers, timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Answer(0, None, f"{type(error).__name__}: {error}")
    try:
        body = answer.json()
    except ValueError:
        body = None
    return Answer(answer.status_code, body, "", (time.perf_counter() - began) * 1000)


@functools.cache
def client() -> "httpx.Client":
    """Return the HTTP client that all requests share.

    A new client reads the certificate store, which takes longer than the request. Connections are not kept: the server may
    have been restarted since.
    """
    import httpx

    # trust_env off: a request to our own machine must not go through a proxy.
    return httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def release(url: str, key: str) -> str:
    """Return the LiteLLM release that the proxy reports, "" when it reports none."""
    answer = get(f"{url}/health/readiness/details", key)
    return str(answer.body.get("litellm_version", "")) if isinstance(answer.body, dict) else ""


def missing_parts(url: str) -> list[dict[str, str]]:
    """Return each private name of LiteLLM that the running gateway lacks, as ``name`` and what it does ``without``."""
    body = get(f"{url}/health").body
    found = body.get("missing") if isinstance(body, dict) else None
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


def refused_call(url: str, key: str, model: str) -> tuple[int, str]:
    """Send a chat call for a model that does not exist; return its status (0: no answer) and its call id.

    The call costs nothing and reaches no provider.
    """
    import httpx

    body = {"model": model, "messages": [{"role": "user", "content": "Are you there?"}]}
    headers = {"authorization": f"Bearer {key}", "x-agent-id": "lm-proof"}
    try:
        answer = client().post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    except httpx.HTTPError:
        return 0, ""
    return answer.status_code, answer.headers.get("x-litellm-call-id", "")


def missing_names(plan: Plan) -> tuple[str, ...]:
    """Return the planned names that the proxy does not serve yet. LiteLLM drops an invalid deployment silently."""
    answer = get(f"{plan.url}/v1/models", plan.settings.master_key)
    if answer.status != 200 or not isinstance(answer.body, dict):
        return plan.names
    served = {model.get("id") for model in answer.body.get("data", [])}
    return tuple(name for name in plan.names if name not in served)


def ollama_answers(address: str, timeout: float = 0.5) -> bool:
    """Return whether an HTTP server answers at this address."""
    return get(address, timeout=timeout).status != 0


def gateway(url: str, settings: Settings, ledger: dict[str, Any], deep: bool) -> dict[str, Any]:
    """Return the `lm health` report: status healthy, degraded or unhealthy, and each part."""
    alive = get(f"{url}/health/liveliness")
    seen = get(f"{url}/health")
    report = seen.body if seen.status == 200 and isinstance(seen.body, dict) else {}
    models = [
        {**entry, "status": state}
        for state in ("healthy", "unhealthy", "unchecked")
        for entry in report.get(f"{state}_endpoints", [])
    ]
    key_works = get(f"{url}/v1/models", settings.master_key).status == 200 if alive.status == 200 else False
    proxy = {
        "url": url,
        "alive": alive.status == 200,
        "key_accepted": key_works,
        "ms": round(alive.ms, 1),
        "error": alive.error,
    }
    receiver = taskmaster(settings)
    if isinstance(report.get("ledger"), dict):
        ledger = {**ledger, **report["ledger"]}
        if ledger.get("unrecorded"):
            ledger["status"] = "losing"
    status = "unhealthy" if not proxy["alive"] else str(report.get("status", "degraded"))
    if status == "healthy" and (not key_works or receiver["status"] == "unreachable" or ledger.get("status") != "ok"):
        status = "degraded"
    data: dict[str, Any] = {
        "status": status, "proxy": proxy, "models": models, "taskmaster": receiver, "ledger": ledger,
        "redis": {"status": "on" if settings.on("LITELLM_REDIS") or settings.get("REDIS_URL") else "off"},
    }  # fmt: skip
    if deep and proxy["alive"]:
        # Stock's keyed /health; with background checks on, it is served from a cache and pays nothing.
        data["stock"] = get(f"{url}/health", settings.master_key, 30).body
    return data


def taskmaster(settings: Settings) -> dict[str, Any]:
    """Return whether TaskMaster's own health route answers: status off, reachable or unreachable."""
    base = settings.get("TASKMASTER_API_URL").rstrip("/")
    if not base:
        return {"status": "off"}
    answer = get(f"{reachable_from(base, 'local')}/api/health")
    ok = 200 <= answer.status < 500
    return {
        "status": "reachable" if ok else "unreachable",
        "url": without_userinfo(base),
        "http": answer.status,
        "error": answer.error,
    }
