"""Read a request's body in bounds, before LiteLLM parses it. Used only after the key was checked."""

import asyncio
import json

from starlette.types import Message, Receive, Scope, Send

IDLE_SECONDS = 30.0
MAX_DEPTH = 100
MAX_KEYS = 100_000
_CALLBACKS = (b'"success_callback"', b'"failure_callback"', b'"callbacks"')
_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))


class RefusedError(Exception):
    """A request is refused before LiteLLM sees it. ``status``: the HTTP status code; ``kind``: the error's type in the JSON."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


class ClientLeftError(Exception):
    """The client closed the connection before its body was complete."""


async def read(scope: Scope, receive: Receive, max_bytes: int, idle: float = IDLE_SECONDS) -> bytes:
    """Return the whole body. Raises RefusedError (413, 408) and ClientLeftError."""
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > max_bytes):
            raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await _next(receive, idle)
        if message["type"] != "http.request":
            raise ClientLeftError
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def check_json(body: bytes) -> None:
    """Refuse JSON that takes long to parse: too deep, or too many keys. Raises RefusedError (400). Bad JSON passes: LiteLLM reports it.

    Works at C speed on the bytes. Names of keys are counted by their colons, so long texts with colons need the exact count.
    """
    if body.count(b":") <= MAX_KEYS and body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    # A backslash and a quote inside strings are taken out first, so that every quote left begins or ends a string.
    texts = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    outside = b"".join(texts[::2])
    if outside.count(b":") > MAX_KEYS:
        raise RefusedError(400, "invalid_request_error", f"The body has more than {MAX_KEYS} keys.")
    brackets = outside.translate(None, _STRUCTURE)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        raise RefusedError(400, "invalid_request_error", f"The body is nested more than {MAX_DEPTH} levels deep.")


def check_callbacks(body: bytes) -> None:
    """Refuse a client's own logging callbacks. LiteLLM fails over them before our first hook, so there is no row."""
    if not any(name in body for name in _CALLBACKS):
        return
    try:
        found = json.loads(body)
    except ValueError:
        return
    named = [name for name in map(_plain, _CALLBACKS) if isinstance(found, dict) and name in found]
    if named:
        raise RefusedError(400, "invalid_request_error", f"{named[0]}: this gateway does not take it from clients.")


def _plain(quoted: bytes) -> str:
    return quoted.decode().strip('"')


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was read, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def refuse(send: Send, refusal: RefusedError) -> None:
    """Answer with a refusal in the form that OpenAI's clients read."""
    error = {"message": refusal.message, "type": refusal.kind, "param": None, "code": str(refusal.status)}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _next(receive: Receive, idle: float) -> Message:
    try:
        return await asyncio.wait_for(receive(), idle)
    except asyncio.TimeoutError:
        raise RefusedError(408, "request_timeout", f"No part of the body came for {idle:g} s.") from None


def _too_large(max_bytes: int) -> RefusedError:
    return RefusedError(
        413, "request_too_large", f"The body is larger than LITELLM_MAX_BODY_MB ({max_bytes / 1_000_000:g} MB)."
    )
