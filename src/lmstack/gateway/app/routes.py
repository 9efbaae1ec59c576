"""The routes that the gateway serves: one frozen table. What is not in it is answered with 404.

LiteLLM's app has some 1,300 pairs of method and path. Many of them call a provider without our hooks, so they would leave
no row. The middleware asks this table first. docs/calls.md and docs/security.md print it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

WEBSOCKET = "WS"


class Access(str, Enum):
    """Who may call a route."""

    ANYONE = "anyone"
    KEY = "key"
    MASTER = "master key"
    OPERATOR = "operator, on loopback, with LITELLM_ADMIN=on"
    PAGE = (
        "master key, viewer's key, or a login; forms: not for viewers; `/metrics`: master key, or LITELLM_METRICS_TOKEN"
    )


class Recorded(str, Enum):
    """Who writes the row of a call. ``NO``: the call reaches no provider, or it cannot cost anything and changes nothing."""

    HOOKS = "yes"
    MIDDLEWARE = "yes, without attempts"
    NO = "no"


class Cost(str, Enum):
    """How the cost of a call is found."""

    TOKENS = "tokens"
    PRICE_MAP = "LiteLLM's price map, or models.yaml"
    FREE = "free"
    FLAT = "models.yaml (`per_batch`), else unknown"


@dataclass(frozen=True, slots=True)
class Route:
    """One pair of method and path. A path may hold ``{name}`` for one segment and ``{name:path}`` for several."""

    method: str
    path: str
    access: Access
    recorded: Recorded = Recorded.NO
    cost: Cost = Cost.FREE


def _calls(paths: Iterable[str], cost: Cost, recorded: Recorded = Recorded.HOOKS) -> Iterator[Route]:
    for path in paths:
        yield Route("POST", path, Access.KEY, recorded, cost)


def _versions(*paths: str) -> tuple[str, ...]:
    """Return each path with and without ``/v1`` before it, as LiteLLM serves it."""
    return tuple(version + path for path in paths for version in ("/v1", ""))


def _azure(name: str) -> tuple[str, ...]:
    """Return the two paths under which Azure's clients name the model in the URL."""
    return (f"/openai/deployments/{{model:path}}/{name}", f"/engines/{{model:path}}/{name}")


_GEMINI = "models/{model:path}"
# What a client reads of the files and batches that it has made.
_STORED = ("/files", "/files/{file_id:path}", "/files/{file_id:path}/content", "/batches", "/batches/{batch_id:path}")

# The page of lmstack.web. It checks the login itself, and answers 404 for what it does not have.
_PAGE = ("/dashboard", "/dashboard/{name:path}", "/api/v1", "/api/v1/{name:path}", "/metrics")
_PAGE_FORMS = (
    "/dashboard/login", "/dashboard/logout", "/dashboard/outbox/replay", "/dashboard/keys", "/dashboard/keys/{name}/{action}",
)  # fmt: skip

ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", Access.ANYONE),
    Route("GET", "/models", Access.ANYONE),
    *(Route("GET", f"/health/{name}", Access.ANYONE) for name in ("liveliness", "liveness", "readiness")),
    Route("GET", "/me/usage", Access.KEY),
    Route("GET", "/health/readiness/details", Access.MASTER),  # `lm upgrade` asks for the release
    Route("GET", "/v1/models", Access.KEY),
    Route("GET", "/v1/models/{model}", Access.KEY),
    Route("GET", "/models/{model}", Access.KEY),
    Route("GET", "/v1/model/info", Access.MASTER),
    Route("GET", "/model/info", Access.MASTER),
    *_calls((*_versions("/chat/completions"), *_azure("chat/completions")), Cost.TOKENS),
    *_calls((*_versions("/completions"), *_azure("completions")), Cost.TOKENS),
    *_calls((*_versions("/embeddings"), *_azure("embeddings")), Cost.TOKENS),
    *_calls(("/v1/messages",), Cost.TOKENS),
    *_calls(("/v1/messages/count_tokens",), Cost.FREE, Recorded.MIDDLEWARE),
    *_calls(_versions("/responses"), Cost.TOKENS),
    *_calls((f"/v1beta/{_GEMINI}:generateContent", f"/v1beta/{_GEMINI}:streamGenerateContent"), Cost.TOKENS),
    *_calls((f"/{_GEMINI}:generateContent", f"/{_GEMINI}:streamGenerateContent"), Cost.TOKENS),
    *_calls((f"/v1beta/{_GEMINI}:countTokens", f"/{_GEMINI}:countTokens"), Cost.FREE, Recorded.MIDDLEWARE),
    *_calls(_versions("/images/generations", "/images/edits"), Cost.PRICE_MAP),
    *_calls(_versions("/audio/speech", "/audio/transcriptions"), Cost.PRICE_MAP),
    *_calls(_versions("/moderations"), Cost.FREE),
    *_calls((*_versions("/rerank"), "/v2/rerank"), Cost.PRICE_MAP),
    *_calls(_versions("/files"), Cost.FREE),
    *_calls(_versions("/batches"), Cost.FLAT),
    *_calls(_versions("/batches/{batch_id:path}/cancel"), Cost.FREE, Recorded.MIDDLEWARE),
    *(Route("GET", path, Access.KEY) for path in _versions(*_STORED)),
    *(Route("DELETE", path, Access.KEY, Recorded.MIDDLEWARE) for path in _versions("/files/{file_id:path}")),
    *(Route(WEBSOCKET, path, Access.KEY, Recorded.HOOKS, Cost.PRICE_MAP) for path in _versions("/realtime")),
    *(Route("GET", path, Access.PAGE) for path in _PAGE),
    *(Route("POST", path, Access.PAGE) for path in _PAGE_FORMS),
)

# The beginnings of LiteLLM's management routes. None of them calls a provider for a client.
_MANAGEMENT = (
    "access_group", "active", "add", "alerting", "audit", "budget", "cache", "callbacks", "config", "config_overrides",
    "coordination_redis", "cost", "credentials", "customer", "debug", "delete", "email", "end_user", "get", "global", "invitation", "jwt", "key", "management", "model", "model_group",
    "model_hub", "onboarding", "organization", "project", "provider", "public", "router", "routes",
    "schedule", "scim", "settings", "spend", "sso", "tag", "team", "update",
    "user", "v2", "v3", "fallback",
)  # fmt: skip
_NOT_MANAGEMENT = (
    "/v2/rerank",
    "/cache/settings/test",
    "/coordination_redis/settings/test",
    "/sso/debug",
    "/model/metrics",
)

ADMIN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


def _pattern(path: str) -> "re.Pattern[str]":
    parts = re.split(r"\{(\w+)(:path)?\}", path)
    text = re.escape(parts[0])
    for name, several, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        text += (r"[A-Za-z0-9_-]+" if name.endswith("_id") else r".+" if several else r"[^/]+") + re.escape(literal)
    return re.compile(text)


_EXACT = {(r.method, r.path): r for r in ROUTES if "{" not in r.path}
_PATTERNS = tuple((r.method, _pattern(r.path), r) for r in ROUTES if "{" in r.path)


# Why a route is closed, by the beginning of its path without /v1.
_REASONS = {
    "/responses/": "LiteLLM asks the other providers for a stored response too, and no call could record what it costs.",
    "/realtime/": "such a session goes to the provider directly, so its usage never reaches the gateway. Use the WebSocket.",
}


def find(method: str, path: str, admin: bool = False) -> Route | None:
    """Return the route for a request, or None. ``admin``: LITELLM_ADMIN is on."""
    asked = "GET" if method == "HEAD" else method
    found = _EXACT.get((asked, path)) or next(
        (route for verb, pattern, route in _PATTERNS if verb == asked and pattern.fullmatch(path)), None
    )
    if found is None and admin and method in ADMIN_METHODS and is_management(path):
        return Route(method, path, Access.OPERATOR)
    return found


def is_management(path: str) -> bool:
    """Return whether a path is one of LiteLLM's management routes."""
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    return (path == "/" or first in _MANAGEMENT) and not path.startswith(_NOT_MANAGEMENT)


def closed(path: str) -> str:
    """Return the text of the 404 for a path that is not served."""
    if is_management(path):
        return "This is a management route of LiteLLM, and it is closed. LITELLM_ADMIN=on opens it on loopback, in the local runtime (docs/security.md)."
    reason = next((text for begins, text in _REASONS.items() if path.removeprefix("/v1").startswith(begins)), None)
    if reason:
        return f"lmstack does not serve this route: {reason} docs/calls.md lists what is served."
    return "lmstack does not serve this route: a call through it would not be recorded. docs/calls.md lists what is served."
