"""Take our own keys out of the errors that a client gets: a provider may send back what it received."""

import json
import zlib
from collections.abc import Iterable

from starlette.types import Message, Send

from lmstack.gateway.app.dialects import error_body
from lmstack.gateway.calls.fields import begun_secret, without_own_secrets

ERROR = '"error"'
# A larger error is not looked through: it is replaced. The limit holds before and after it is unpacked.
MAX_ERROR_BYTES = 1_000_000
_GZIP = zlib.MAX_WBITS | 16
_ENCODING, _LENGTH = b"content-encoding", b"content-length"
_JSON = (b"content-type", b"application/json")
_ERROR = ERROR.encode()
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")


class WithoutKeys:
    """Send an answer that LiteLLM may have compressed, but not a stream. Of an error, and of an error within a stream, send it without our keys."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None  # the start of an error: its length may change
        self._parts: list[bytes] = []
        self._size = 0
        self._stream: _StreamErrors | None = None

    async def __call__(self, message: Message) -> None:
        """Pass a message on, or keep it until the error is complete."""
        if message["type"] == "http.response.start":
            if all(name.lower() != _LENGTH for name, _ in message.get("headers", ())):
                self._stream = _StreamErrors()
            if message["status"] >= 400:
                self._held = message
                return
        elif message["type"] == "http.response.body" and self._held is not None:
            self._keep(message.get("body", b""))
            if not message.get("more_body"):
                await self._send_error(self._held, b"".join(self._parts))
            return
        elif message["type"] == "http.response.body" and self._stream is not None:
            body = self._stream.cleaned(message.get("body", b""), is_last=not message.get("more_body"))
            message = {**message, "body": body}
        await self._send(message)

    def _keep(self, part: bytes) -> None:
        """Keep a part of an error, up to one byte more than its limit."""
        room = MAX_ERROR_BYTES + 1 - self._size
        self._parts.append(part[:room])
        self._size += len(self._parts[-1])

    async def _send_error(self, start: Message, body: bytes) -> None:
        self._held = None
        headers = [(name.lower(), value) for name, value in start.get("headers", ())]
        plain = _plain(headers, body)
        cleaned = _replacement(start["status"]) if plain is None else _cleaned(plain)
        if cleaned != plain:
            kept = [(name, value) for name, value in headers if name not in (_LENGTH, _ENCODING)]
            if plain is None:
                kept = [*((name, value) for name, value in kept if name != b"content-type"), _JSON]
            start = {**start, "headers": [*kept, (_LENGTH, str(len(cleaned)).encode())]}
            body = cleaned
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


class _StreamErrors:
    """Cleans the errors in one stream. An error lasts until an empty line, and may be cut into parts anywhere."""

    def __init__(self) -> None:
        self._before = b""  # the end of the part before: the word may be cut
        self._in_error = False
        self._held = b""  # the end of an error's part that may be the beginning of a key

    def cleaned(self, part: bytes, is_last: bool) -> bytes:
        """Return a part of the stream for the client. The beginning of a key is kept back until the next part comes."""
        if not self._in_error and _ERROR not in self._before + part:
            self._before = (self._before + part)[1 - len(_ERROR) :]
            return part
        text = _cleaned(self._held + part)
        self._held = b"" if is_last else begun_secret(text)
        self._in_error = bool(self._held) or not text.endswith(_EVENT_ENDS)
        self._before = b""
        return text[: len(text) - len(self._held)]


def _cleaned(body: bytes) -> bytes:
    """Return bytes without the keys of this process."""
    return without_own_secrets(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _plain(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes | None:
    """Return the text of an error; None when it is larger than the limit, or cannot be read."""
    encodings = [value.strip().lower() for name, value in headers if name == _ENCODING]
    if len(body) > MAX_ERROR_BYTES:
        return None
    if not body or not encodings:
        return body
    return _unpacked(body) if encodings == [b"gzip"] else None


def _unpacked(body: bytes) -> bytes | None:
    """Return what gzip has packed; None when it is broken, or larger than the limit."""
    unpacker = zlib.decompressobj(_GZIP)
    try:
        plain = unpacker.decompress(body, MAX_ERROR_BYTES + 1)
    except zlib.error:
        return None
    return plain if unpacker.eof and not unpacker.unused_data and len(plain) <= MAX_ERROR_BYTES else None


def _replacement(status: int) -> bytes:
    """Return our own error in place of one that was not looked through."""
    text = "The error is too large, or it cannot be read, so the gateway does not send its text. `lm errors` shows its beginning."
    return json.dumps(error_body("", status, "unreadable_error", text, {})).encode()
