"""Change the private parts of LiteLLM that lmstack depends on. Every change to LiteLLM's own objects is in this module.

LiteLLM has no public interface for these changes. tests/contract/test_litellm_facts.py checks each of them at a new release.
"""

import importlib
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import httpx
import websockets
from fastapi import HTTPException
from litellm.llms.gemini.count_tokens.handler import GoogleAIStudioTokenCounter
from litellm.llms.openai import openai
from litellm.proxy import proxy_server
from litellm.proxy._types import ProxyException
from litellm.proxy.common_request_processing import serialize_http_exception_detail
from starlette.routing import Route
from starlette.types import ASGIApp

from lmstack.gateway.app import credentials

log = logging.getLogger(__name__)


def wrap_app(wrap: Callable[[ASGIApp], ASGIApp], kind: type[Any]) -> bool:
    """Put middleware around LiteLLM's app. Return False when the app is wrapped in ``kind`` already.

    Starlette's public ``add_middleware`` refuses an app that has started, and LiteLLM's app has started by now.
    """
    if isinstance(proxy_server.app.middleware_stack, kind):
        return False
    proxy_server.app.middleware_stack = wrap(proxy_server.app.middleware_stack)
    return True


def master_key() -> str | None:
    """Return the operator's key as LiteLLM has read it, or None before its configuration is loaded."""
    key = getattr(proxy_server, "master_key", None)
    return key if isinstance(key, str) else None


def add_routes_first(routes: Iterable[Route]) -> None:
    """Insert routes before LiteLLM's own. The public ``app.get`` adds a route behind them, where it is never reached."""
    proxy_server.app.router.routes[:0] = list(routes)


def run_before_shutdown(action: Callable[[], Awaitable[None]]) -> None:
    """Await ``action`` when a worker stops, before LiteLLM's own shutdown. LiteLLM offers no hook for it."""
    litellm_shutdown = proxy_server.proxy_shutdown_event

    async def shutdown(*args: Any, **kwargs: Any) -> None:
        await action()
        await litellm_shutdown(*args, **kwargs)

    proxy_server.proxy_shutdown_event = shutdown


def do_not_import_again() -> None:
    """Make LiteLLM's import of its OpenTelemetry logger fail immediately, where it fails at all.

    LiteLLM tries it on each request. Without the ``opentelemetry`` packages Python would look for them each time, for 0.5 to
    5 ms. None in ``sys.modules`` is Python's own way to say that there is no such module.
    """
    name = "litellm.integrations.otel.logger"
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = None  # type: ignore[assignment]


def keep_error_details() -> None:
    """Give each endpoint's errors the message, fields and headers of the HTTPException that they are made from.

    LiteLLM does so for chat. On /v1/completions, images, moderations and rerank it answers with ``str(exception)``, which
    is the Python text of a dictionary.
    """
    litellm_init = ProxyException.__init__

    def init(self: ProxyException, message: str, *args: Any, **kwargs: Any) -> None:
        litellm_init(self, message, *args, **kwargs)
        source = sys.exc_info()[1]  # LiteLLM makes the new error in the handler of the first one
        if not isinstance(source, HTTPException) or not isinstance(source.detail, dict):
            return
        if str(message) not in (str(source), str(source.detail)):
            return
        text, fields = serialize_http_exception_detail(source.detail)
        self.message, self.provider_specific_fields = text, fields or None
        self.headers = {**(source.headers or {}), **self.headers}
        if self.param == "None":
            self.param = None

    ProxyException.__init__ = init


def keep_gemini_address() -> None:
    """Ask Gemini's countTokens at the address of all other calls. LiteLLM adds a second /v1beta to it."""
    litellm_url = GoogleAIStudioTokenCounter._construct_url

    def url(self: GoogleAIStudioTokenCounter, model: str, api_base: str | None = None) -> str:
        base = None if api_base is None else api_base.rstrip("/").removesuffix("/v1beta")
        return str(litellm_url(self, model, base))

    GoogleAIStudioTokenCounter._construct_url = url


def report_unprocessable_requests() -> None:
    """Fail a call that a provider refuses with 422. LiteLLM answers it with 200 and ``null``, and our row would say succeeded.

    With ``drop_params`` LiteLLM leaves out the fields that the 422 names, and tries twice. Then it returns nothing.
    """
    litellm_drop = openai.drop_params_from_unprocessable_entity_error

    def drop(error: Any, data: Mapping[str, Any]) -> dict[str, Any]:
        left = litellm_drop(error, data)
        if isinstance(data, _Reduced) or len(left) == len(data):
            raise error
        return _Reduced(left)

    openai.drop_params_from_unprocessable_entity_error = drop


class _Reduced(dict[str, Any]):
    """A body without the fields that a provider has refused."""


def refuse_foreign_redirects() -> None:
    """Follow no redirect that takes a request with a body or a key to another host, port or scheme.

    LiteLLM's clients follow every redirect. httpx then drops ``authorization``, but no other header with a key.
    """
    httpx_redirect = httpx.AsyncClient._build_redirect_request

    def redirect(self: Any, request: httpx.Request, response: httpx.Response) -> httpx.Request:
        made = httpx_redirect(self, request, response)
        foreign = _origin(made.url) != _origin(request.url)
        if foreign and (request.method not in ("GET", "HEAD") or any(name in request.headers for name in _KEYS)):
            text = f"the provider redirects to {made.url.host}, which must get neither the request nor the key"
            log.warning("lmstack: %s", text)  # OpenAI's SDK does not pass the text on
            raise httpx.TooManyRedirects(text, request=request)  # LiteLLM does not repeat the call after this error
        return made

    for kind in (httpx.AsyncClient, httpx.Client):
        kind._build_redirect_request = redirect  # type: ignore[method-assign]


def refuse_foreign_session_redirects() -> None:
    """Open no realtime session at another host, port or scheme: ``websockets`` would send the provider's key there."""
    websockets_redirect = getattr(websockets.connect, "process_redirect", None)
    if websockets_redirect is None:
        log.warning("lmstack: this release of websockets is not known; a provider may redirect a realtime session")
        return

    def redirect(self: websockets.connect, exc: Exception) -> Exception | str:
        found: Exception | str = websockets_redirect(self, exc)
        if not isinstance(found, str) or _origin(httpx.URL(found)) == _origin(httpx.URL(self.uri)):
            return found
        log.warning(
            "lmstack: the provider redirects a session to %s, which must not get the key", httpx.URL(found).host
        )
        return exc

    websockets.connect.process_redirect = redirect  # type: ignore[method-assign]


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
    policy = inspect.signature(redis.Redis.__init__).parameters["retry"].default
    if hasattr(policy, "_retries"):
        policy._retries = 0


def keep_port() -> None:
    """Keep the configured port. When port 4000 is in use, LiteLLM's command line would choose a random port instead."""
    from litellm.proxy.proxy_cli import ProxyInitializationHelpers

    ProxyInitializationHelpers._is_port_in_use = staticmethod(lambda port: False)
    ProxyInitializationHelpers.is_port_in_use = staticmethod(lambda port: False)
