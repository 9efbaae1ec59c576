"""Change LiteLLM's own objects, one function for each change. No other module changes them.

LiteLLM has no public interface for these changes. tests/contract/test_litellm_facts.py checks each of them at a new release.
Where a private name is missing (stock/uses.py), its function changes nothing, and the gateway serves without the change.
"""

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import httpx
from fastapi import HTTPException
from litellm.proxy import proxy_server
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lmstack.gateway.app import credentials
from lmstack.gateway.stock import uses
from lmstack.gateway.stock.lookup import find

log = logging.getLogger(__name__)


def wrap_app(wrap: Callable[[ASGIApp], ASGIApp]) -> bool:
    """Put middleware around LiteLLM's app. Return False when the app is wrapped already.

    Starlette's ``add_middleware`` refuses an app that has started, and LiteLLM's app has started by now. The server calls
    the app object itself, so the object gets a class that calls our middleware first.
    """
    app = proxy_server.app
    plain: Any = type(app)
    if getattr(plain, "is_lmstacks", False):
        return False
    wrapped = wrap(functools.partial(plain.__call__, app))

    class Wrapped(plain):  # type: ignore[misc]
        is_lmstacks = True

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await wrapped(scope, receive, send)

    app.__class__ = Wrapped
    return True


def add_routes_first(routes: Iterable[Route]) -> None:
    """Insert routes before LiteLLM's own. ``app.get`` adds a route behind them, where it is never reached."""
    proxy_server.app.routes[:0] = list(routes)


def run_before_shutdown(action: Callable[[], Awaitable[None]]) -> None:
    """Await ``action`` when a worker stops, before LiteLLM's own shutdown. LiteLLM offers no hook for it."""
    litellm_shutdown = find(uses.SHUTDOWN)
    if litellm_shutdown is None:
        return

    async def shutdown(*args: Any, **kwargs: Any) -> None:
        await action()
        await litellm_shutdown(*args, **kwargs)

    _replace(uses.SHUTDOWN, shutdown)


def do_not_import_again() -> None:
    """Make LiteLLM's import of its OpenTelemetry logger fail immediately: lmstack makes its own spans (gateway/traces.py).

    LiteLLM tries it on each request. Without the ``opentelemetry`` packages Python would look for them each time, for 0.5 to
    5 ms. With them it would add work to each request. None in ``sys.modules`` is Python's own way to say that there is no
    such module.
    """
    sys.modules["litellm.integrations.otel.logger"] = None  # type: ignore[assignment]


def keep_error_details() -> None:
    """Give each endpoint's errors the message, fields and headers of the HTTPException that they are made from.

    LiteLLM does so for chat. On /v1/completions, images, moderations and rerank it answers with ``str(exception)``, which
    is the Python text of a dictionary.
    """
    kind, detail_of = find(uses.PROXY_ERROR), find(uses.ERROR_DETAIL)
    if kind is None or detail_of is None:
        return
    litellm_init = kind.__init__

    def init(self: Any, message: str, *args: Any, **kwargs: Any) -> None:
        litellm_init(self, message, *args, **kwargs)
        source = sys.exc_info()[1]  # LiteLLM makes the new error in the handler of the first one
        if not isinstance(source, HTTPException) or not isinstance(source.detail, dict):
            return
        if str(message) not in (str(source), str(source.detail)):
            return
        text, fields = detail_of(source.detail)
        self.message, self.provider_specific_fields = text, fields or None
        self.headers = {**(source.headers or {}), **self.headers}
        if self.param == "None":
            self.param = None

    kind.__init__ = init


def keep_gemini_address() -> None:
    """Ask Gemini's countTokens at the address of all other calls. LiteLLM adds a second /v1beta to it."""
    litellm_url = find(uses.GEMINI_URL)
    if litellm_url is None:
        return

    def url(self: Any, model: str, api_base: str | None = None) -> str:
        base = None if api_base is None else api_base.rstrip("/").removesuffix("/v1beta")
        return str(litellm_url(self, model, base))

    _replace(uses.GEMINI_URL, url)


def report_unprocessable_requests() -> None:
    """Fail a call that a provider refuses with 422. LiteLLM answers it with 200 and ``null``, and our row would say succeeded.

    With ``drop_params`` LiteLLM leaves out the fields that the 422 names, and tries twice. Then it returns nothing.
    """
    litellm_drop = find(uses.DROP_PARAMS)
    if litellm_drop is None:
        return

    def drop(error: Any, data: Mapping[str, Any]) -> dict[str, Any]:
        left = litellm_drop(error, data)
        if isinstance(data, _Reduced) or len(left) == len(data):
            raise error
        return _Reduced(left)

    _replace(uses.DROP_PARAMS, drop)


class _Reduced(dict[str, Any]):
    """A body without the fields that a provider has refused."""


def refuse_foreign_redirects() -> None:
    """Follow no redirect that takes a request with a body or a key to another host, port or scheme.

    LiteLLM's clients follow every redirect. httpx then drops ``authorization``, but no other header with a key.
    """
    for use in (uses.REDIRECTS, uses.SYNC_REDIRECTS):
        httpx_redirect = find(use)
        if httpx_redirect is not None:
            _replace(use, _own_redirect(httpx_redirect))


def _own_redirect(httpx_redirect: Callable[..., httpx.Request]) -> Callable[..., httpx.Request]:
    def redirect(self: Any, request: httpx.Request, response: httpx.Response) -> httpx.Request:
        made = httpx_redirect(self, request, response)
        foreign = _origin(made.url) != _origin(request.url)
        if foreign and (request.method not in ("GET", "HEAD") or any(name in request.headers for name in _KEYS)):
            text = f"the provider redirects to {made.url.host}, which must get neither the request nor the key"
            log.warning("lmstack: %s", text)  # OpenAI's SDK does not pass the text on
            raise httpx.TooManyRedirects(text, request=request)  # LiteLLM does not repeat the call after this error
        return made

    return redirect


def refuse_foreign_session_redirects() -> None:
    """Open no realtime session at another host, port or scheme: ``websockets`` would send the provider's key there."""
    websockets_redirect = find(uses.SESSION_REDIRECTS)
    if websockets_redirect is None:
        return

    def redirect(self: Any, exc: Exception) -> Exception | str:
        found: Exception | str = websockets_redirect(self, exc)
        if not isinstance(found, str) or _origin(httpx.URL(found)) == _origin(httpx.URL(self.uri)):
            return found
        log.warning(
            "lmstack: the provider redirects a session to %s, which must not get the key", httpx.URL(found).host
        )
        return exc

    _replace(uses.SESSION_REDIRECTS, redirect)


_KEYS = tuple(name.decode() for name in credentials.HEADERS)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Return scheme, host and port. httpx leaves out the port that is usual for a scheme."""
    return url.scheme, url.host, url.port


def disable_redis_retries() -> None:
    """Set the retries of redis-py's default retry policy to zero. Do nothing when redis-py is not installed.

    After a failure LiteLLM's router calls Redis synchronously. The default policy sleeps for seconds between its retries.
    Without Redis, one failing model would then block the event loop of the worker, and with it every request.
    LiteLLM sets no policy, so its clients copy the default object.
    """
    try:
        import redis
    except ImportError:
        return
    own = inspect.signature(redis.Redis.__init__).parameters.get("retry")
    if own is not None and hasattr(own.default, "_retries"):
        own.default._retries = 0


def keep_port() -> None:
    """Keep the configured port. When port 4000 is in use, LiteLLM's command line would choose a random port instead."""
    if find(uses.PORT_CHECK) is not None:
        _replace(uses.PORT_CHECK, staticmethod(lambda port: False))


def _replace(use: uses.Use, ours: Any) -> None:
    """Put our object in the place of a private name that ``find`` has found."""
    module, _, path = use.place.partition(":")
    *parents, name = path.split(".")
    setattr(functools.reduce(getattr, parents, importlib.import_module(module)), name, ours)
