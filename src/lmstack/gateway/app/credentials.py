"""Which key a request carries. The order of the headers is LiteLLM's, so that its own check sees the same key.

LiteLLM also reads keys in ``Basic`` and ``AWS4-HMAC-SHA256``, for pass-through routes. These are not served.
"""

import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qs

# LiteLLM takes the first of these that is present (litellm/proxy/auth/user_api_key_auth.py, get_api_key).
HEADERS = (
    b"x-litellm-api-key",
    b"authorization",
    b"api-key",
    b"x-api-key",
    b"x-goog-api-key",
    b"ocp-apim-subscription-key",
)
_BEARING = (b"x-litellm-api-key", b"authorization")
_GENERATE = (":generateContent", ":streamGenerateContent", ":countTokens")
# Browsers cannot set headers on a WebSocket; OpenAI's own clients put the key into a subprotocol.
SUBPROTOCOLS = b"sec-websocket-protocol"
_SUBPROTOCOL = "openai-insecure-api-key."


def key_of(headers: Mapping[bytes, bytes], path: str, query: bytes = b"") -> str | None:
    """Return the key that a request carries, or None. ``headers``: lower-case names; the query counts for native Gemini only."""
    for name in HEADERS:
        value = headers.get(name)
        if value:
            text = value.decode("latin-1")
            return _without_scheme(text) if name in _BEARING else text
    if query and path.endswith(_GENERATE):
        return next(iter(parse_qs(query.decode("latin-1")).get("key", [])), None)
    return None


def subprotocol_key(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the key in a WebSocket's subprotocols, or None."""
    offered = _protocols(headers.get(SUBPROTOCOLS, b""))
    return next((name.removeprefix(_SUBPROTOCOL) for name in offered if name.startswith(_SUBPROTOCOL)), None)


def without_key(protocols: bytes) -> bytes:
    """Return a WebSocket's subprotocols without those that carry a key."""
    return ", ".join(name for name in _protocols(protocols) if not name.startswith(_SUBPROTOCOL)).encode("latin-1")


def without_keys(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without those that carry a key."""
    return [(name, value) for name, value in headers if name not in HEADERS]


def is_same(given: str, master: str) -> bool:
    """Compare two keys in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), master.encode("utf-8", "surrogateescape"))


def _protocols(value: bytes) -> list[str]:
    return [name.strip() for name in value.decode("latin-1").split(",")]


def _without_scheme(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    return rest if rest and scheme.lower() == "bearer" else value
