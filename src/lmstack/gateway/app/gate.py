"""Decide about a request before LiteLLM sees it: host and origin, route, key, size and form of the body, in this order.

Nothing of a request is parsed before its key was checked. A request that is refused before that leaves no row: it only adds
to a counter. A call with a valid key on a recorded route leaves a row.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from lmstack.addresses import is_loopback
from lmstack.gateway import worker
from lmstack.gateway.app import auth, bodies, credentials, gemini_errors, handshake, owners, pace, routes, stored_ids
from lmstack.gateway.app.bodies import IN_FLIGHT_BYTES, ClientLeftError, Hold, InFlight, RefusedError
from lmstack.gateway.app.client_side import ClientSide
from lmstack.gateway.app.gemini_errors import GeminiErrors
from lmstack.gateway.app.middleware import HOOKED, JSON_ENDPOINTS, TO_RECORD, extension_headers
from lmstack.gateway.app.origins import Origins, origins_from
from lmstack.gateway.app.own_keys import WithoutKeys
from lmstack.gateway.app.routes import Access, Recorded, Route
from lmstack.gateway.keyring import Keyring
from lmstack.keys.key import Key

DEFAULT_MAX_BODY_MB = 50.0
# A proxy in front of the gateway sets these. Then the loopback address is the proxy's, not the operator's.
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})

# Called for each refused request with the reason, the client's address and the path.
Note = Callable[[str, str, str], None]
# Called for each refused call that has a row, with its headers, its path and the refusal.
Record = Callable[[Mapping[str, str], str, RefusedError, Key | None], Awaitable[None]]


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

    ``master_key`` gives the operator's key. ``note`` counts refusals. ``record`` writes the row of a refused call.
    ``keyring`` gives the keys of agents. ``page`` serves its own routes.
    """

    def __init__(
        self, app: ASGIApp, master_key: Callable[[], str | None], note: Note, record: Record, settings: GateSettings | None = None,
        keyring: Callable[[], Keyring] | None = None, page: ASGIApp | None = None,
    ) -> None:  # fmt: skip
        self.app = app
        self._page = page
        self._master_key = master_key
        self._note, self._record, self._keyring = note, record, keyring
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
        shown = ClientSide(GeminiErrors(send) if scope["path"].endswith(gemini_errors.ENDS) else send)
        try:
            self._check_origin(scope, headers)
            shown.origin = self._configured_origin(headers)
            if shown.origin and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await shown.preflight(headers)
                return
            route = self._route(scope)
            self._check_key(route, scope, headers)
            async with pace.admitted(scope.get(auth.SCOPE_KEY), route) as shown.rates:
                await self._admit(scope, receive, headers, shown, route, hold)
        except RefusedError as refusal:
            self._note(refusal.kind, _address(scope), scope["path"])
            await bodies.refuse(shown, refusal, scope["path"])
        except ClientLeftError:
            return

    async def _admit(
        self,
        scope: Scope,
        receive: Receive,
        headers: Mapping[bytes, bytes],
        shown: ClientSide,
        route: Route,
        hold: Hold,
    ) -> None:
        """Check the body of a request, and serve it."""
        try:
            receive = await self._with_body(scope, receive, headers, route, hold)
        except RefusedError as refusal:
            await self._keep(route, scope, refusal)
            await bodies.refuse(shown, refusal, scope["path"])
            return
        if route.access is Access.PAGE and self._page is not None:
            await self._page(scope, receive, shown)
        else:
            await self.app(scope, receive, WithoutKeys(_noting(scope, shown)))

    async def _keep(self, route: Route, scope: Scope, refusal: RefusedError) -> None:
        """Write the row of a request that was refused after its key was checked, or count it where its route has no rows."""
        if route.recorded is Recorded.NO:
            self._note(refusal.kind, _address(scope), scope["path"])
        else:
            await self._record(extension_headers(scope), scope["path"], refusal, scope.get(auth.SCOPE_KEY))

    def _configured_origin(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the origin of the page that sends a request, when LITELLM_ORIGINS names it; else ""."""
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        return origin if origin in self._settings.origins.configured else ""

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        try:
            self._check_origin(scope, headers)
            route = self._route(scope)
            given = self._check_key(route, scope, headers)
            async with pace.admitted(scope.get(auth.SCOPE_KEY), route):
                await self._open(scope, receive, send, route, given)
        except RefusedError as refusal:
            self._note(refusal.kind, _address(scope), scope["path"])
            await handshake.refuse(receive, send, refusal)

    async def _open(self, scope: Scope, receive: Receive, send: Send, route: Route, given: str) -> None:
        """Check the model of a session, and serve it."""
        try:
            handshake.check_model(scope.get("query_string", b""))
        except RefusedError as refusal:
            await self._keep(route, scope, refusal)
            await handshake.refuse(receive, send, refusal)
            return
        scope["headers"] = handshake.with_bearer(scope["headers"], given)
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
        if found is None or (found.access is Access.PAGE and self._page is None):
            raise RefusedError(404, "not_served", routes.closed(scope["path"]))
        return found

    def _check_key(self, route: Route, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """Return the secret that a request carries, "" for none where none is needed. The key is put into the scope."""
        if route.access is Access.PAGE:  # the page checks its own logins
            return ""
        given = credentials.key_of(headers, scope["path"], scope.get("query_string", b""))
        if not given and route.method == routes.WEBSOCKET:
            given = credentials.subprotocol_key(headers)
        if route.access is Access.ANYONE and not given:
            # LiteLLM would refuse an empty credential, and our failure hook would write a row under the caller's own task.
            scope["headers"] = credentials.without_keys(scope["headers"])
            return ""
        if route.access is Access.OPERATOR and (not is_loopback(_address(scope)) or not _FORWARDED.isdisjoint(headers)):
            raise RefusedError(
                404, "not_served", "LiteLLM's management routes answer on loopback only, without a proxy in between."
            )
        key = auth.identify(given, self._master_key(), self._keyring() if self._keyring else None)
        if key is not None:
            auth.check_route(key, route, scope["path"])
            scope[auth.SCOPE_KEY] = key
            if route.access is Access.ANYONE:  # our own answer, not LiteLLM's: it shows what this key may see
                scope["headers"] = credentials.without_keys(scope["headers"])
        return given or ""

    async def _with_body(
        self, scope: Scope, receive: Receive, headers: Mapping[bytes, bytes], route: Route, hold: Hold
    ) -> Receive:
        if route.access is Access.PAGE:
            return await bodies.with_form(scope, receive, hold)
        stored_ids.check(scope["path"])
        stored_ids.check_model(scope["headers"])
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
        key: Key | None = scope.get(auth.SCOPE_KEY)
        if key is not None and owners.concerns(key, scope["path"]):
            await owners.check(key, worker.get().path, scope["method"], scope["path"], body)
            owners.without_compression(scope)
        if body:
            scope["headers"] = bodies.with_length(scope["headers"], len(body))
        return bodies.replayed(body, receive)


def _noting(scope: Scope, send: Send) -> Send:
    """Return what sends the answer to the client. What a key makes at a provider is recorded as its own."""
    key: Key | None = scope.get(auth.SCOPE_KEY)
    if key is None or not owners.concerns(key, scope["path"]):
        return send
    return owners.Noting(send, key, worker.get().path, scope["method"])


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
