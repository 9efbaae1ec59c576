"""Decide about a request before LiteLLM sees it: host and origin, route, key, size and form of the body, in this order.

Nothing of a request is parsed before its key was checked. A request that is refused before that leaves no row: it only adds
to a counter. A call with a valid key on a recorded route leaves a row.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmstack.addresses import is_loopback
from lmstack.gateway.app import bodies, credentials, gemini_errors, handshake, routes, stored_ids
from lmstack.gateway.app.bodies import IN_FLIGHT_BYTES, ClientLeftError, Hold, InFlight, RefusedError
from lmstack.gateway.app.gemini_errors import GeminiErrors
from lmstack.gateway.app.middleware import HOOKED, JSON_ENDPOINTS, TO_RECORD, extension_headers
from lmstack.gateway.app.origins import Origins, origins_from
from lmstack.gateway.app.own_keys import WithoutKeys
from lmstack.gateway.app.routes import Access, Recorded, Route

DEFAULT_MAX_BODY_MB = 50.0
# What of a provider's own headers a client may see. Others may repeat our key: a provider may send back what it received.
_PROVIDER_PREFIX = b"llm_provider-"
_PROVIDER_HEADERS = (
    b"x-ratelimit-", b"anthropic-ratelimit-", b"retry-after", b"request-id", b"x-request-id", b"openai-processing-ms",
    b"openai-version", b"content-type", b"date",
)  # fmt: skip
# A proxy in front of the gateway sets these. Then the loopback address is the proxy's, not the operator's.
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})
_CORS_HEADERS = b"GET, POST, OPTIONS", b"600"

# Called for each refused request with the reason, the client's address and the path.
Note = Callable[[str, str, str], None]
# Called for each refused call that has a row, with its headers, its path and the refusal.
Record = Callable[[Mapping[str, str], str, RefusedError], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class GateSettings:
    """``max_bytes``: of a body; ``admin``: LITELLM_ADMIN=on."""

    origins: Origins
    max_bytes: int
    admin: bool


def gate_settings(environ: Mapping[str, str]) -> GateSettings:
    """Read LITELLM_ORIGINS, LITELLM_HOST, LITELLM_MAX_BODY_MB and LITELLM_ADMIN. `lm` has checked them; here a wrong value is the default."""
    try:
        megabytes = float(environ.get("LITELLM_MAX_BODY_MB") or DEFAULT_MAX_BODY_MB)
    except ValueError:
        megabytes = DEFAULT_MAX_BODY_MB
    if not 0 < megabytes < 10_000:
        megabytes = DEFAULT_MAX_BODY_MB
    admin = environ.get("LITELLM_ADMIN", "").strip().lower() in ("on", "true", "yes", "1")
    return GateSettings(origins_from(environ), int(megabytes * 1_000_000), admin)


class RequestGate:
    """ASGI middleware around everything else.

    ``master_key``: gives the operator's key; ``note``: counts refusals; ``record``: writes the row of a refused call.
    """

    def __init__(
        self, app: ASGIApp, master_key: Callable[[], str | None], note: Note, record: Record, settings: GateSettings | None = None
    ) -> None:  # fmt: skip
        self.app = app
        self._master_key = master_key
        self._note, self._record = note, record
        self._settings = settings or gate_settings(os.environ)
        self._in_flight = InFlight(max(IN_FLIGHT_BYTES, 4 * self._settings.max_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request or WebSocket."""
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        elif scope["type"] == "http":
            with self._in_flight.request() as hold:
                await self._serve(scope, receive, send, hold)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, hold: Hold) -> None:
        # Starlette reads the first of two headers with one name, so the first one counts here too.
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        shown = _Sender(GeminiErrors(send) if scope["path"].endswith(gemini_errors.ENDS) else send)
        try:
            self._check_origin(scope, headers)
            shown.origin = self._configured_origin(headers)
            if shown.origin and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await shown.preflight(headers)
                return
            route = self._route(scope)
            self._check_key(route, scope, headers)
        except RefusedError as refusal:
            self._note(refusal.kind, _address(scope), scope["path"])
            await bodies.refuse(shown, refusal)
            return
        try:
            receive = await self._with_body(scope, receive, headers, route, hold)
        except RefusedError as refusal:
            await self._keep(route, scope, refusal)
            await bodies.refuse(shown, refusal)
            return
        except ClientLeftError:
            return
        await self.app(scope, receive, WithoutKeys(shown))

    async def _keep(self, route: Route, scope: Scope, refusal: RefusedError) -> None:
        """Write the row of a request that was refused after its key was checked, or count it where its route has no rows."""
        if route.recorded is Recorded.NO:
            self._note(refusal.kind, _address(scope), scope["path"])
        else:
            await self._record(extension_headers(scope), scope["path"], refusal)

    def _configured_origin(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the origin of the page that sends a request, when LITELLM_ORIGINS names it; else ""."""
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        return origin if origin in self._settings.origins.configured else ""

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        try:
            self._check_origin(scope, headers)
            route = self._route(scope)
            self._check_key(route, scope, headers)
        except RefusedError as refusal:
            self._note(refusal.kind, _address(scope), scope["path"])
            await handshake.refuse(receive, send, refusal)
            return
        try:
            handshake.check_model(scope.get("query_string", b""))
        except RefusedError as refusal:
            await self._keep(route, scope, refusal)
            await handshake.refuse(receive, send, refusal)
            return
        scope["headers"] = handshake.with_bearer(scope["headers"], self._master_key() or "")
        link = handshake.Bounded(receive, send, self._settings.max_bytes, self._in_flight)
        try:
            await self.app(scope, link.receive, link.send)
        finally:
            link.let_go()

    def _check_origin(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if any(sum(name == once for name, _ in scope["headers"]) > 1 for once in (b"host", b"origin")):
            raise RefusedError(400, "invalid_request_error", "Host and Origin may be sent once.")
        objection = self._settings.origins.objection(headers)
        if objection:
            raise RefusedError(403, "foreign_origin", objection)

    def _route(self, scope: Scope) -> Route:
        found = routes.find(scope.get("method", routes.WEBSOCKET), scope["path"], self._settings.admin)
        if found is None:
            raise RefusedError(404, "not_served", routes.closed(scope["path"]))
        return found

    def _check_key(self, route: Route, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        given = credentials.key_of(headers, scope["path"], scope.get("query_string", b""))
        if not given and route.method == routes.WEBSOCKET:
            given = credentials.subprotocol_key(headers)
        if route.access is Access.ANYONE and not given:
            # LiteLLM would refuse an empty credential, and our failure hook would write a row under the caller's own task.
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in credentials.HEADERS]
            return
        if route.access is Access.OPERATOR and (not is_loopback(_address(scope)) or not _FORWARDED.isdisjoint(headers)):
            raise RefusedError(
                404, "not_served", "LiteLLM's management routes answer on loopback only, without a proxy in between."
            )
        master = self._master_key()
        if not given or not master or not credentials.is_same(given, master):
            raise RefusedError(
                401, "auth_error", "Invalid or missing API key. Send 'Authorization: Bearer <LITELLM_MASTER_KEY>'."
            )

    async def _with_body(
        self, scope: Scope, receive: Receive, headers: Mapping[bytes, bytes], route: Route, hold: Hold
    ) -> Receive:
        stored_ids.check(scope["path"])
        if route.access is Access.ANYONE:  # nothing behind these routes reads a body
            return receive
        # LiteLLM reads the body of every method.
        body = await bodies.read(scope, receive, self._settings.max_bytes, hold=hold)
        # LiteLLM parses JSON of any content type, except for the parts of a form. Of "multipart/x" too.
        if not headers.get(b"content-type", b"").startswith(b"multipart/form-data") or scope["path"].endswith(
            JSON_ENDPOINTS
        ):
            bodies.check_json(body)
            bodies.check_callbacks(body)
        if scope["path"].endswith(JSON_ENDPOINTS):
            bodies.check_object(body)
        if route.recorded is Recorded.MIDDLEWARE:
            scope[TO_RECORD] = body
        elif route.recorded is Recorded.HOOKS:
            scope[HOOKED] = True
        if body:
            scope["headers"] = _with_length(scope["headers"], len(body))
        return bodies.replayed(body, receive)


class _Sender:
    """Send an answer with our CORS headers in place of LiteLLM's, and without a provider's private headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.origin = ""  # of the page that may read the answer

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", ()) if _may_be_seen(name.lower())]
            message = {**message, "headers": [*kept, *self._cors()]}
        await self._send(message)

    async def preflight(self, headers: Mapping[bytes, bytes]) -> None:
        """Answer a browser's question whether a page of a configured origin may send a request."""
        methods, age = _CORS_HEADERS
        allowed = [(b"access-control-allow-methods", methods), (b"access-control-max-age", age)]
        wanted = headers.get(b"access-control-request-headers")
        if wanted:
            allowed.append((b"access-control-allow-headers", wanted))
        await self._send({"type": "http.response.start", "status": 204, "headers": [*allowed, *self._cors()]})
        await self._send({"type": "http.response.body", "body": b""})

    def _cors(self) -> list[tuple[bytes, bytes]]:
        if not self.origin:
            return []
        return [(b"access-control-allow-origin", self.origin.encode("latin-1")), (b"vary", b"origin"),
                (b"access-control-expose-headers", b"*")]  # fmt: skip


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """Return headers that state the length of the body, also where it came in chunks: budgets need it."""
    if any(name == b"content-length" for name, _ in headers):
        return headers
    kept = [(name, value) for name, value in headers if name != b"transfer-encoding"]
    return [*kept, (b"content-length", str(length).encode())]


def _may_be_seen(name: bytes) -> bool:
    if name.startswith(b"access-control-"):
        return False
    return not name.startswith(_PROVIDER_PREFIX) or name.removeprefix(_PROVIDER_PREFIX).startswith(_PROVIDER_HEADERS)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
