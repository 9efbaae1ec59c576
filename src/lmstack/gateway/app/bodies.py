"""Read a request's body in bounds, before LiteLLM parses it. Used only after the key was checked."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator

from starlette.types import Message, Receive, Scope, Send

from lmstack.gateway.app.dialects import error_body
from lmstack.web.session import MAX_FORM_BYTES

IDLE_SECONDS = 30.0
SLOWEST, GRACE_SECONDS = 500.0, 10.0  # bytes in a second, after the first seconds
LONGEST_SECONDS = 600.0  # for one body
FORM_IDLE_SECONDS = 5.0  # of the page
# What the bodies of all open requests, and the messages of sessions, may hold in one worker. LiteLLM needs several times as much for a body.
IN_FLIGHT_BYTES = 512_000_000
Hold = Callable[[int], None]
MAX_DEPTH = 100
MAX_KEYS = 100_000
_CALLBACKS = (b'"success_callback"', b'"failure_callback"', b'"callbacks"')
# JSON may also write a letter of a name so. Its writers do that for other characters only.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]", re.IGNORECASE)
MAX_BRACKETS, MAX_STRINGS = 200_000, 200_000
_TEXT = bytes(set(range(256)) - set(b'[]{}:"'))
_NO_OBJECT = re.compile(rb'\s*(?:[\["0-9-]|null|true|false)')
_STRING = re.compile(rb'"[^"]*"')


class RefusedError(Exception):
    """A request is refused before LiteLLM sees it. ``status``: the HTTP status code; ``kind``: the error's type in the JSON.

    ``fields`` are added to the error, ``headers`` to the answer.
    """

    def __init__(self, status: int, kind: str, message: str, **fields: object) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.fields = status, kind, message, fields
        self.headers: dict[str, str] = {}


class ClientLeftError(Exception):
    """The client closed the connection before its body was complete."""


class InFlight:
    """Counts the bytes of the bodies and messages that this worker holds."""

    def __init__(self, most: int = IN_FLIGHT_BYTES) -> None:
        self.most, self.held = most, 0

    def add(self, size: int) -> None:
        """Count bytes. Raises RefusedError (503) when there is no room."""
        if self.held + size > self.most:
            raise RefusedError(503, "overloaded", "The gateway holds too many large requests. Try again in a second.")
        self.held += size

    def remove(self, size: int) -> None:
        """Count bytes that are no longer held."""
        self.held -= size

    @contextlib.contextmanager
    def request(self) -> Iterator[Hold]:
        """Give a function that counts bytes for one request; it raises RefusedError (503) when there is no room."""
        own = 0

        def add(size: int) -> None:
            nonlocal own
            self.add(size)
            own += size

        try:
            yield add
        finally:
            self.remove(own)


async def read(
    scope: Scope, receive: Receive, max_bytes: int, idle: float = IDLE_SECONDS, hold: Hold | None = None
) -> bytes:  # fmt: skip
    """Return the whole body. ``hold`` counts its bytes. Raises RefusedError (413, 408, 503) and ClientLeftError."""
    for name, value in scope["headers"]:
        # Python refuses to read a number of thousands of digits.
        if name == b"content-length" and (not value.isdigit() or len(value) > 15 or int(value) > max_bytes):
            raise _too_large(max_bytes)
    parts: list[bytes] = []
    size, began = 0, time.monotonic()
    while True:
        message = await _next(receive, idle)
        if message["type"] != "http.request":
            raise ClientLeftError
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if hold is not None:
            hold(len(part))
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
        seconds = time.monotonic() - began
        if seconds > LONGEST_SECONDS or (seconds > GRACE_SECONDS and size < SLOWEST * seconds):
            raise RefusedError(408, "request_timeout", "The body comes too slowly.")


async def with_form(scope: Scope, receive: Receive, hold: Hold) -> Receive:
    """Return what gives a form of the page again. No key was checked yet, so the form must be short and come soon."""
    if scope["method"] != "POST":
        return receive
    return replayed(await read(scope, receive, MAX_FORM_BYTES, FORM_IDLE_SECONDS, hold), receive)


def check_json(body: bytes) -> None:
    """Refuse JSON that takes long to parse: too deep, or too many keys or values. Raises RefusedError (400).

    Bad JSON passes: LiteLLM reports it. The time is bounded: a few passes at C speed, and never one pass for each level.
    """
    brackets = sum(body.count(character) for character in b"[]{}")
    if body.count(b":") <= MAX_KEYS and brackets <= MAX_DEPTH:
        return
    outside = _outside_strings(body)
    if outside.count(b":") > MAX_KEYS:
        raise RefusedError(400, "invalid_request_error", f"The body has more than {MAX_KEYS} keys.")
    if len(outside) - outside.count(b":") > MAX_BRACKETS:
        raise RefusedError(400, "invalid_request_error", f"The body has more than {MAX_BRACKETS} brackets.")
    depth = 0
    for character in outside:
        if character in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                text = f"The body is nested more than {MAX_DEPTH} levels deep."
                raise RefusedError(400, "invalid_request_error", text)
        elif character in b"]}":
            depth -= 1


def _outside_strings(body: bytes) -> bytes:
    """Return the brackets and colons of a JSON text that are not in its strings."""
    # A backslash and a quote inside strings are taken out first, so that every quote left begins or ends a string.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    # Strings without brackets and colons are empty now. Two strings that follow each other become one.
    rest = plain.translate(None, _TEXT).replace(b'""', b"")
    if rest.count(b'"') > 2 * MAX_STRINGS:
        raise RefusedError(400, "invalid_request_error", f"The body has more than {MAX_STRINGS} texts.")
    return _STRING.sub(b"", rest)


def check_object(body: bytes) -> None:
    """Refuse JSON that is no object. LiteLLM answers it with 500 before our first hook. Raises RefusedError (400)."""
    if _NO_OBJECT.match(body):
        raise RefusedError(
            400, "invalid_request_error", 'The body must be a JSON object, for example {"model": "auto"}.'
        )


def check_callbacks(body: bytes) -> None:
    """Refuse a client's own logging callbacks. LiteLLM fails over them before our first hook, so there is no row."""
    if not any(name in body for name in _CALLBACKS) and not _ESCAPED_LETTER.search(body):
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


async def refuse(send: Send, refusal: RefusedError, path: str = "") -> None:
    """Answer with a refusal in the form that the clients of a path read."""
    body = json.dumps(error_body(path, refusal.status, refusal.kind, refusal.message, refusal.fields)).encode()
    headers = [
        *((name.encode(), value.encode()) for name, value in refusal.headers.items()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if refusal.status in (408, 413, 503):
        headers.append((b"connection", b"close"))
    if refusal.status == 503:
        headers.append((b"retry-after", b"1"))
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


def with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """Return headers that state the length of the body, also where it came in chunks: budgets need it."""
    if any(name == b"content-length" for name, _ in headers):
        return headers
    kept = [(name, value) for name, value in headers if name != b"transfer-encoding"]
    return [*kept, (b"content-length", str(length).encode())]
