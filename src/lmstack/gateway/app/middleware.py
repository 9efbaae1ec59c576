"""Wrap LiteLLM's whole app in one ASGI middleware. It never raises an error of its own into a request."""

import asyncio
from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmstack.gateway.app import sessions
from lmstack.gateway.app.auth import SCOPE_KEY
from lmstack.gateway.app.recording import record, record_answered
from lmstack.gateway.calls.current import RequestContext, request_context
from lmstack.gateway.calls.outcome import abandon
from lmstack.ledger.records import Call

# These endpoints accept JSON only. A form content type there is what `curl -d` sends by default.
JSON_ENDPOINTS = (
    "/chat/completions", "/completions", "/messages", "/responses", "/embeddings", "/messages/count_tokens", "/images/generations",
    "/audio/speech", "/moderations", "/rerank", "/batches", ":generateContent", ":streamGenerateContent", ":countTokens",
)  # fmt: skip
# LiteLLM closes an abandoned stream only after its response has ended, so our stream hook ends the row within this time.
ABANDONED_SECONDS = 2.0
# The gate puts the body here for a call that our hooks do not see.
TO_RECORD = "lmstack.to_record"
# The gate sets this for a call that our hooks record.
HOOKED = "lmstack.hooked"


class GatewayMiddleware:
    """Do five things for each HTTP request.

    - Keep its path and ``x-`` headers for the hooks. LiteLLM's data lacks them when authentication fails.
    - Set the content type to JSON where a client sent JSON with curl's default content type.
    - Add the headers of our own errors (``Retry-After``). Some of LiteLLM's endpoints drop them.
    - Write the row of a request that LiteLLM answered before our first hook.
    - End the ledger rows that no hook has ended when the request is over. They would stay open otherwise.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or session. Pass lifespan events on unchanged."""
        if scope["type"] == "websocket":
            context = RequestContext(extension_headers(scope), scope["path"], is_session=True, key=scope.get(SCOPE_KEY))
            request_context.set(context)
            await sessions.follow(self.app, scope, receive, send, context)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        unhooked = scope["method"] not in ("POST", "PUT", "PATCH") or TO_RECORD in scope
        context = RequestContext(
            extension_headers(scope), scope["path"], is_unhooked=unhooked, key=scope.get(SCOPE_KEY)
        )
        request_context.set(context)
        shown = _Sender(send, context, HOOKED in scope)
        if scope["method"] == "POST" and scope["path"].endswith(JSON_ENDPOINTS):
            scope["headers"] = _with_json_content_type(scope["headers"])
        try:
            if TO_RECORD in scope:
                await record(self.app, scope, receive, shown, context, scope[TO_RECORD])
            else:
                await self.app(scope, receive, shown)
        finally:
            for call in context.calls:
                if not call.ended:
                    _abandon_soon(call)


class _Sender:
    """Send an answer with the headers of our errors. ``is_hooked``: write its row when no hook has seen the request."""

    def __init__(self, send: Send, context: RequestContext, is_hooked: bool) -> None:
        self._send, self._context, self._is_hooked = send, context, is_hooked
        self._status = 0

    async def __call__(self, message: Message) -> None:
        context = self._context
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if context.error_headers:
                message["headers"] = _with_error_headers(message["headers"], context.error_headers)
        elif self._is_hooked and not context.calls and not message.get("more_body"):
            await record_answered(context, self._status)
        await self._send(message)


def extension_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that name task, agent and tags: all that begin with ``x-``. And the trace of the client."""
    return {
        k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k.startswith((b"x-", b"traceparent"))
    }


def _with_error_headers(headers: Iterable[tuple[bytes, bytes]], more: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return the headers, and those of ``more`` that are missing."""
    kept = list(headers)
    names = {name.lower() for name, _ in kept}
    return kept + [(k.encode(), v.encode()) for k, v in more.items() if k.encode() not in names]


def _with_json_content_type(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [
        (k, b"application/json") if k == b"content-type" and v.startswith(b"application/x-www-form") else (k, v)
        for k, v in headers
    ]


def _abandon_soon(call: Call) -> None:
    try:
        asyncio.get_running_loop().call_later(ABANDONED_SECONDS, abandon, call)
    except RuntimeError:  # The server dropped the coroutine, and Python closes it where no event loop runs.
        abandon(call)
