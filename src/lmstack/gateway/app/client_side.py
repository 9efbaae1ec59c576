"""What a client gets to see of an answer: its headers, without those of a provider that may repeat a key."""

from collections.abc import Mapping

from starlette.types import Message, Send

# What of a provider's own headers a client may see. Others may repeat our key: a provider may send back what it received.
_PROVIDER_PREFIX = b"llm_provider-"
_PROVIDER_HEADERS = (
    b"x-ratelimit-", b"anthropic-ratelimit-", b"retry-after", b"request-id", b"x-request-id", b"openai-processing-ms",
    b"openai-version", b"content-type", b"date",
)  # fmt: skip
_RATES = b"x-ratelimit-"
_CORS_HEADERS = b"GET, POST, OPTIONS", b"600"


class ClientSide:
    """Send an answer with our CORS headers in place of LiteLLM's, and without a provider's private headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.origin = ""  # of the page that may read the answer
        self.rates: list[tuple[bytes, bytes]] = []  # headers for the limits of the client's key

    async def __call__(self, message: Message) -> None:
        """Pass a message on, with our headers in place of those that the client must not see."""
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", ()) if _may_be_seen(name.lower())]
            if self.rates:  # the provider's own limits are those of our key there
                kept = [(name, value) for name, value in kept if not name.lower().startswith(_RATES)]
            message = {**message, "headers": [*kept, *self.rates, *self._cors()]}
        await self._send(message)

    async def preflight(self, headers: Mapping[bytes, bytes]) -> None:
        """Answer a browser's question whether a page of a configured origin may send a request."""
        methods, age = _CORS_HEADERS
        allowed = [(b"access-control-allow-methods", methods), (b"access-control-max-age", age)]
        wanted = headers.get(b"access-control-request-headers")
        if wanted:
            allowed.append((b"access-control-allow-headers", wanted))
        await self._send({"type": "http.response.start", "status": 204, "headers": [*allowed, *self._cors()]})
        await self._send({"type": "http.response.body", "body": b""})

    def _cors(self) -> list[tuple[bytes, bytes]]:
        if not self.origin:
            return []
        return [(b"access-control-allow-origin", self.origin.encode("latin-1")), (b"vary", b"origin"),
                (b"access-control-expose-headers", b"*")]  # fmt: skip


def _may_be_seen(name: bytes) -> bool:
    if name.startswith(b"access-control-"):
        return False
    return not name.startswith(_PROVIDER_PREFIX) or name.removeprefix(_PROVIDER_PREFIX).startswith(_PROVIDER_HEADERS)
