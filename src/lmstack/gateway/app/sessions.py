"""Follow one realtime session: LiteLLM hands the messages of a WebSocket on between a client and a provider.

Our hooks admit it and see its attempt. What it used, and how it ended, is only in its messages.
"""

import json
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmstack.gateway import worker
from lmstack.gateway.app.own_keys import ERROR
from lmstack.gateway.app.recording import post_refused
from lmstack.gateway.calls import outcome
from lmstack.gateway.calls.costs import cost_of_session
from lmstack.gateway.calls.current import RequestContext
from lmstack.gateway.calls.error_text import without_quotations
from lmstack.gateway.calls.fields import redact, without_own_secrets
from lmstack.gateway.calls.realtime import RealtimeSession, asks_beside
from lmstack.ledger.records import Call, Fault

log = logging.getLogger(__name__)

POLICY_VIOLATION = 1008
MAX_REASON_BYTES = 120  # of a close message; the protocol allows 123
_NORMAL = (1000, 1001)
_BESIDE_TEXT = "response.conversation: 'none' is not possible under a budget. One response may run at a time."
_BUDGET_TEXT = (
    "The session has used up what its budget set aside for it, or its cost is unknown. So the gateway has ended it."
)


async def follow(app: ASGIApp, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
    """Serve a session, and record the result before the client gets the last message."""
    link = _Link(receive, send, context)
    try:
        await app(scope, link.receive, link.send)
    finally:
        link.abandon()


class _Link:
    """Both directions of a session. Messages pass unchanged, except for our own errors."""

    def __init__(self, receive: Receive, send: Send, context: RequestContext) -> None:
        self._receive, self._send, self._context = receive, send, context
        self._session = RealtimeSession()
        self._by_client = False
        self._ended_by_us = False
        self._reason = ""  # of a close, without our keys

    @property
    def _call(self) -> Call | None:
        return self._context.calls[-1] if self._context.calls else None

    async def receive(self) -> Message:
        """Return the next message of the client."""
        while True:
            message = await self._receive()
            self._by_client = self._by_client or message["type"] == "websocket.disconnect"
            if not (self._has_budget and asks_beside(message.get("text") or "")):
                return message
            await self._send(_error_message(400, "invalid_request_error", _BESIDE_TEXT))

    async def send(self, message: Message) -> None:
        """Pass a message to the client. Record the end of the session before its last message."""
        if self._ended_by_us:
            return
        if message["type"] == "websocket.send":
            await self._pass_on(message)
        elif message["type"] == "websocket.close":
            await self._close(message)
        else:
            await self._send(message)

    def abandon(self) -> None:
        """Record the end of a session that the client, or the end of this process, has ended, or that no hook has seen."""
        call = self._call
        if call is None:
            reason = self._reason or "LiteLLM refused the session before it read the request"
            post_refused(self._context, Fault("SessionFailed", None, reason))
            return
        if call.ended:
            return
        fault = None
        if not self._by_client:
            fault = Fault("Abandoned", None, "the session was torn down while it was open")
        elif self._session.running or not self._session.opened:
            fault = Fault("ClientDisconnected", "499", "the client closed the connection")
        try:
            status, fault = ("interrupted", fault) if fault else _status(self._session)
            worker.get().post(outcome.end_of_session(call, self._session, status, fault))
        except Exception:
            log.exception("lmstack: the end of a session could not be recorded")

    async def _pass_on(self, message: Message) -> None:
        refusal = self._context.refusal
        if refusal is not None:
            message = _error_message(*refusal)
        text = message.get("text")
        has_cost = self._session.read(text) if isinstance(text, str) else False
        if isinstance(text, str) and ERROR in text:
            message = {**message, "text": without_own_secrets(text)}
        await self._send(message)
        if has_cost and self._is_used_up():
            self._ended_by_us = True
            await self._send(_error_message(429, "budget_exceeded", _BUDGET_TEXT))
            await self._record("interrupted", Fault("budget_exceeded", "429", _BUDGET_TEXT))
            await self._send(_closing(POLICY_VIOLATION, _BUDGET_TEXT))

    async def _close(self, message: Message) -> None:
        code, reason = int(message.get("code") or 1000), without_own_secrets(str(message.get("reason") or ""))
        self._reason = _told(reason)
        refusal = self._context.refusal
        if refusal is not None:
            status, kind, text = refusal
            await self._record("rejected", Fault(kind, str(status), redact(text)))
            code, reason = POLICY_VIOLATION, text
        elif code in _NORMAL and self._session.opened and not self._session.running:
            await self._record(*_status(self._session))
        else:
            fault = Fault("SessionFailed", str(code), _told(self._session.error or reason or "no reason was given"))
            await self._record("interrupted" if self._session.opened else self._failed(), fault)
        await self._send(_closing(code, reason))

    def _failed(self) -> str:
        return "failed" if self._call is not None and self._call.attempts else "rejected"

    async def _record(self, status: str, fault: Fault | None) -> None:
        call = self._call
        try:
            if call is not None:
                await outcome.finish_session(call, self._session, status, fault)
        except Exception:
            log.exception("lmstack: the end of a session could not be recorded")

    @property
    def _has_budget(self) -> bool:
        return self._call is not None and self._call.allowance_usd is not None

    def _is_used_up(self) -> bool:
        """Return whether a session under a budget has cost what it may. So a budget is exceeded by one response at most."""
        call = self._call
        if call is None or call.allowance_usd is None:
            return False
        cost = cost_of_session(call, self._session)
        return cost is None or cost >= call.allowance_usd


def _status(session: RealtimeSession) -> tuple[str, Fault | None]:
    """Return the status of a session that has ended in order: failed when each of its responses has failed."""
    if session.failed and session.failed == session.done:
        return "failed", Fault("ResponseFailed", None, _told(session.error))
    return "succeeded", None


def _told(text: str) -> str:
    """Return the text of an error for the row. The messages of a session are not kept, so what it quotes is not known."""
    return redact(without_quotations(text))


def _error_message(status: int, kind: str, text: str) -> Message:
    error = {"type": kind, "message": text, "code": str(status), "param": None, "event_id": None}
    return {"type": "websocket.send", "text": json.dumps({"type": "error", "error": error})}


def _closing(code: int, reason: str) -> Message:
    short = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    return {"type": "websocket.close", "code": code, "reason": short}
