"""Take our own keys out of the errors that a client gets: a provider may send back what it received."""

import gzip

from starlette.types import Message, Send

from lmstack.gateway.calls.fields import without_own_secrets

ERROR = '"error"'


class WithoutKeys:
    """Send an answer that LiteLLM may have compressed, but not a stream. Of an error, and of an error within a stream, send it without our keys."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None  # the start of an error: its length may change
        self._parts: list[bytes] = []
        self._is_stream = False

    async def __call__(self, message: Message) -> None:
        """Pass a message on, or keep it until the error is complete."""
        if message["type"] == "http.response.start":
            self._is_stream = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if message["status"] >= 400:
                self._held = message
                return
        elif message["type"] == "http.response.body" and self._held is not None:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body"):
                await self._send_error(self._held, b"".join(self._parts))
            return
        elif self._is_stream and ERROR.encode() in message.get("body", b""):
            message = {**message, "body": _cleaned(message["body"])}
        await self._send(message)

    async def _send_error(self, start: Message, body: bytes) -> None:
        self._held = None
        headers = [(name.lower(), value) for name, value in start.get("headers", ())]
        plain = gzip.decompress(body) if (b"content-encoding", b"gzip") in headers and body else body
        cleaned = _cleaned(plain)
        if cleaned != plain:
            kept = [(name, value) for name, value in headers if name not in (b"content-length", b"content-encoding")]
            start = {**start, "headers": [*kept, (b"content-length", str(len(cleaned)).encode())]}
            body = cleaned
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


def _cleaned(body: bytes) -> bytes:
    return without_own_secrets(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
