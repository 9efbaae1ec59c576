"""Prepare a WebSocket for LiteLLM: one key, a name that is safe to read, messages in bounds."""

import asyncio
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.types import Message, Receive, Send

from lmstack.gateway.app import credentials
from lmstack.gateway.app.bodies import InFlight, RefusedError, check_json

MAX_NAME = 200
_END: Message = {"type": "websocket.disconnect", "code": 1000, "reason": ""}
_UNSUPPORTED, _TOO_BIG, _POLICY, _TRY_AGAIN = 1003, 1009, 1008, 1013


def check_model(query: bytes) -> None:
    """Refuse a model's name that LiteLLM would not read as one text. It pastes the name into a JSON text."""
    names = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("model", [])
    if len(names) > 1:
        raise RefusedError(400, "invalid_request_error", "model: one name is expected.")
    if any(len(name) > MAX_NAME or not name.isprintable() or '"' in name or "\\" in name for name in names):
        raise RefusedError(400, "invalid_request_error", "model: a name without quotes is expected.")


def with_bearer(headers: Iterable[tuple[bytes, bytes]], key: str) -> list[tuple[bytes, bytes]]:
    """Return headers with the key in one place. LiteLLM looks for it elsewhere than for HTTP.

    The subprotocol with the key is left out: the server answers with the first one, so the key would go back.
    """
    kept = [(name, value) for name, value in headers if name not in credentials.HEADERS]
    shown = [(name, credentials.without_key(value) if name == credentials.SUBPROTOCOLS else value) for name, value in kept]  # fmt: skip
    return [*((name, value) for name, value in shown if value), (b"authorization", b"Bearer " + key.encode())]


async def refuse(receive: Receive, send: Send, refusal: RefusedError) -> None:
    """Refuse the handshake. The client gets the status 403: servers allow no other before a WebSocket is open."""
    await receive()  # the server waits for an answer to the client's handshake
    await send({"type": "websocket.close", "code": _POLICY, "reason": refusal.message[:100]})


class Bounded:
    """Both directions of a WebSocket. A message that is too large, is no text, or takes long to parse ends it.

    Granian sends no close while a ``receive`` waits, so the client would not learn of it. A close ends the waiting first.
    The app learns of the close after the client: it may end the task that sends the close. A message counts as held by
    the worker until the app asks for the next one.
    """

    def __init__(self, receive: Receive, send: Send, max_bytes: int, in_flight: InFlight | None = None) -> None:
        self._receive, self._send, self._max_bytes = receive, send, max_bytes
        self._in_flight = in_flight or InFlight()
        self._held = 0
        self._closed = False
        self._close_sent = asyncio.Event()
        self._waiting: asyncio.Future[Message] | None = None

    async def receive(self) -> Message:
        """Return the next message; the end of the session after a close, and in place of a message that breaks a rule."""
        self.let_go()
        if self._closed:
            return await self._end()
        try:
            self._waiting = asyncio.ensure_future(self._receive())
            message = await self._waiting
        except asyncio.CancelledError:
            if self._closed:
                return await self._end()
            raise
        objection = self._objection(message) if message["type"] == "websocket.receive" else None
        if objection is None:
            return message
        code, reason = objection
        await self.send({"type": "websocket.close", "code": code, "reason": reason})
        return _END

    async def send(self, message: Message) -> None:
        """Pass a message to the client, unless the session was closed."""
        if self._closed:
            return
        if message["type"] == "websocket.close":
            await self._close(message)
        else:
            await self._send(message)

    def let_go(self) -> None:
        """Count the last message as no longer held."""
        self._in_flight.remove(self._held)
        self._held = 0

    async def _close(self, message: Message) -> None:
        self._closed = True
        try:
            if self._waiting is not None and not self._waiting.done():
                self._waiting.cancel()
                await asyncio.wait([self._waiting])
            await self._send(message)
        finally:
            self._close_sent.set()

    async def _end(self) -> Message:
        await self._close_sent.wait()
        return _END

    def _objection(self, message: Message) -> tuple[int, str] | None:
        text = message.get("text")
        if text is None:
            return _UNSUPPORTED, "Send text messages; audio is base64 text inside them."
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > self._max_bytes:
            return _TOO_BIG, f"A message is larger than LITELLM_MAX_BODY_MB ({self._max_bytes / 1_000_000:g} MB)."
        try:
            self._in_flight.add(size)
            self._held = size
            check_json(text.encode("utf-8", "replace"))
        except RefusedError as refusal:
            return _TRY_AGAIN if refusal.status == 503 else _POLICY, refusal.message
        return None
