"""The ASGI app of the page: routes, who may see what, and the headers of every answer."""

import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from lmstack import page_link
from lmstack.ledger.schema import LedgerVersionError
from lmstack.web import html
from lmstack.web.api import Api, problem
from lmstack.web.host import Host
from lmstack.web.key_forms import KeyForms
from lmstack.web.live import Live
from lmstack.web.metrics import CONTENT_TYPE, Metrics
from lmstack.web.pages import PAGES, Page, Pages
from lmstack.web.reading import Reader
from lmstack.web.secured import Secured
from lmstack.web.session import Session, Sessions, is_same_origin, read_form
from lmstack.web.span import span_from
from lmstack.web.views import Ask, ViewError, filter_of

log = logging.getLogger(__name__)

HOME = "/dashboard"
FORM_SECONDS = 3600
_KEPT = "public, max-age=31536000, immutable"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
Handler = Callable[[Request], Awaitable[Response]]
FormHandler = Callable[[Request, Session, dict[str, str]], Awaitable[Response]]


def page_app(host: Host, only_metrics: bool = False) -> ASGIApp:
    """Return the app for /dashboard, /api/v1 and /metrics. ``only_metrics``: LITELLM_DASHBOARD is off."""
    site = Site(host)
    return Secured(Starlette(routes=[site.metrics_route()]) if only_metrics else site.app())


class Site:
    """The handlers of the page, and what they share."""

    def __init__(self, host: Host) -> None:
        self._host, self._reader = host, Reader(host.ledger)
        self._sessions = Sessions(host, self._reader)
        self._pages = Pages(host, self._reader, self._sessions)
        self._key_forms = KeyForms(host, self._reader, self._sessions, self._pages)
        self._api = Api(host, self._reader)
        self._metrics = Metrics()
        # A thread of its own: a slow view of one page must not hold up the others' live rows.
        self._live = Live(Reader(host.ledger, threads=1), host.is_leaving)

    def app(self) -> Starlette:
        """Return the routes."""
        shown = [
            Route(f"{HOME}/{path}".rstrip("/"), self._for_people(page), methods=["GET"]) for path, page in PAGES.items()
        ]
        return Starlette(
            routes=[
                Route(f"{HOME}/static/{{name:path}}", self.static, methods=["GET"]),
                Route(f"{HOME}/login", self.login_form, methods=["GET"]),
                Route(f"{HOME}/login", self.login, methods=["POST"]),
                Route(f"{HOME}/link", self.link, methods=["GET"]),
                Route(f"{HOME}/logout", self.logout, methods=["POST"]),
                Route(f"{HOME}/outbox/replay", self._for_operator(self._pages.replay), methods=["POST"]),
                Route(f"{HOME}/keys", self._for_operator(self._key_forms.create), methods=["POST"]),
                Route(f"{HOME}/keys/{{name}}/{{action}}", self._for_operator(self._key_forms.change), methods=["POST"]),
                Route(f"{HOME}/live", self._for_programs(self.live), methods=["GET"]),
                *shown,
                self.metrics_route(),
                Route("/api/v1", self._for_programs(self._api.index), methods=["GET"]),
                Route("/api/v1/{view}/{id}", self._for_programs(self._api.one), methods=["GET"]),
                Route("/api/v1/{view}", self._for_programs(self._api.view), methods=["GET"]),
            ],
            exception_handlers={
                404: self.not_found, FileNotFoundError: self.no_ledger, LedgerVersionError: self.no_ledger,
                sqlite3.Error: self.no_ledger,
            },
        )  # fmt: skip

    def metrics_route(self) -> Route:
        """Return the route of /metrics."""
        return Route("/metrics", self.metrics, methods=["GET"])

    async def metrics(self, request: Request) -> Response:
        """Send the metrics to Prometheus, for LITELLM_METRICS_TOKEN or the operator's key."""
        if not self._sessions.may_scrape(request):
            self._sessions.note_refusal(request)
            return problem(401, "auth_error", "Send 'Authorization: Bearer <LITELLM_METRICS_TOKEN>'.")
        facts = await self._host.facts()
        text = await self._reader.ask(lambda conn: self._metrics.text(conn, facts), "/metrics")
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def static(self, request: Request) -> Response:
        """Send one of our files. Its address names its content, so a browser keeps it."""
        path = html.STATIC / request.path_params["name"]
        if path.suffix not in _KINDS or path not in html.files():
            return problem(404, "not_found", "There is no such file.")
        return FileResponse(path, media_type=_KINDS[path.suffix], headers={"cache-control": _KEPT})

    async def login_form(self, request: Request) -> Response:
        """Show the form for the key."""
        return await self._ask_for_key(request, 200, "")

    async def login(self, request: Request) -> Response:
        """Begin a session for the operator's key, or for the key of a viewer."""
        form = await read_form(request)
        if not await self._sessions.may_try(request):
            return await self._ask_for_key(request, 429, "Too many wrong keys. Try again in a minute.")
        if not is_same_origin(request) or not self._is_login_form(form):
            return await self._ask_for_key(request, 403, "This form was too old. Send it again.")
        given = form.get("key", "").strip()
        if await self._sessions.of_key(given) is None:
            await self._sessions.note_failure(request)
            return await self._ask_for_key(
                request, 401, "This is neither the operator's key nor a valid key with the role viewer."
            )
        answer = RedirectResponse(_own_path(form.get("next", "")), 303)
        await self._sessions.begin(request, answer, given)
        return answer

    async def link(self, request: Request) -> Response:
        """Begin a session for a one-time link. The page goes on by itself: a redirect would not send the new cookie."""
        if not await self._sessions.use_link(request.query_params.get("token", "")):
            return await self._ask_for_key(
                request, 401, "This link was used before, or is too old. Make a new one with: lm dashboard"
            )
        answer = await self._pages.plain(200, "Logged in", go_to=HOME)
        await self._sessions.begin(request, answer)
        return answer

    async def logout(self, request: Request) -> Response:
        """End the session."""
        session = await self._sessions.find(request)
        answer = RedirectResponse(f"{HOME}/login", 303)
        if session is not None:
            if not self._sessions.is_own_form(request, session, await read_form(request)):
                return await self._pages.plain(403, "This form is not valid", "Load the page again, and log out there.")
            await self._sessions.end(request, session, answer)
        return answer

    async def live(self, request: Request) -> Response:
        """Follow new requests."""
        if self._live.is_full:
            return problem(503, "overloaded", "Too many pages follow live requests.")
        ask = Ask(span_from({}, time.time()), request.query_params, await self._host.facts())
        try:
            stream = self._live.stream(filter_of(ask), lambda: self._may_read(request))
        except ViewError as error:
            return problem(400, "invalid_request_error", f"{error}.")
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _may_read(self, request: Request) -> bool:
        try:
            return await self._sessions.find(request) is not None
        except (OSError, LedgerVersionError, sqlite3.Error):  # the browser opens the stream again
            return False

    async def not_found(self, request: Request, error: Exception) -> Response:
        """Answer an unknown address."""
        if request.url.path.startswith(HOME):
            return await self._pages.plain(404, "There is no such page")
        return problem(404, "not_found", "There is no such view.")

    async def no_ledger(self, request: Request, error: Exception) -> Response:
        """Answer while the ledger cannot be read."""
        log.warning("lmstack: the page cannot read the ledger: %s: %s", type(error).__name__, error)
        text = "The ledger cannot be read now. lm doctor shows why."
        if request.url.path.startswith(HOME):
            return await self._pages.plain(503, "No ledger", text)
        return problem(503, "ledger_unavailable", text)

    def _for_people(self, page: Page) -> Handler:
        async def handle(request: Request) -> Response:
            session = await self._sessions.find(request)
            return self._to_login(request) if session is None else await self._pages.show(request, page, session)

        return handle

    def _for_operator(self, inner: FormHandler) -> Handler:
        """Return a handler of forms: a session, that of the operator, and the token of our own page, in this order."""

        async def handle(request: Request) -> Response:
            session = await self._sessions.find(request)
            if session is None:
                return self._to_login(request)
            if session.viewer:
                text = f"The key '{session.viewer}' has the role viewer: it reads, and changes nothing."
                return await self._pages.plain(403, "This is the operator's", text)
            form = await read_form(request)
            if not self._sessions.is_own_form(request, session, form):
                text = "Load the page again, and send the form from there."
                return await self._pages.plain(403, "This form is not valid", text)
            return await inner(request, session, form)

        return handle

    def _for_programs(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            if await self._sessions.find(request) is not None:
                return await inner(request)
            self._sessions.note_refusal(request)
            return problem(
                401,
                "auth_error",
                "Log in at /dashboard, or send 'Authorization: Bearer <KEY>' with the operator's key, or with that of a viewer.",
            )

        return handle

    def _to_login(self, request: Request) -> Response:
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"hx-redirect": f"{HOME}/login"})
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{HOME}/login?{urlencode({'next': path})}", 303)

    async def _ask_for_key(self, request: Request, status: int, text: str) -> Response:
        token = page_link.sign(self._host.master_key() or "", page_link.FORM, time.time(), FORM_SECONDS)
        following = _own_path(request.query_params.get("next", ""))
        return await self._pages.plain(status, "Log in", text, form=token, next=following)

    def _is_login_form(self, form: dict[str, str]) -> bool:
        key = self._host.master_key() or ""
        return page_link.read(key, page_link.FORM, form.get("token", ""), time.time()) is not None


def _own_path(path: str) -> str:
    """Return a path of the page to go on with. An address of another site would be one that somebody else has chosen."""
    return path if path == HOME or path.startswith((f"{HOME}/", f"{HOME}?")) else HOME
