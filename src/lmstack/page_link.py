"""Sign and check what the page gives to a browser: its session, its forms, and the one-time link of `lm dashboard`.

The secret is derived from the operator's key, so every worker has the same one, and a new key ends all sessions. A signed
text is ``kind.id.expires.signature``. It names neither the key nor a person. Pure, except for random ids.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

SESSION, VIEWER, LINK, FORM, ONCE = "session", "viewer", "link", "form", "once"
_ABOUT = "~"
SESSION_SECONDS, LINK_SECONDS = 8 * 3600, 120
_CONTEXT = b"lmstack page, version 1"


@dataclass(frozen=True, slots=True)
class Signed:
    """A text that was signed with our secret. ``expires`` is in Unix seconds. ``id`` is random, then comes what it is about."""

    kind: str
    id: str
    expires: int

    @property
    def about(self) -> list[str]:
        """Return what was given to ``sign``."""
        return self.id.split(_ABOUT)[1:]


def sign(key: str, kind: str, now: float, seconds: int, *about: str) -> str:
    """Return a new signed text with a random id, valid for ``seconds`` from ``now``. ``key``: the operator's.

    ``about``: what the text is about, without dots and ``~``.
    """
    body = f"{kind}.{_ABOUT.join((secrets.token_urlsafe(16), *about))}.{int(now) + seconds}"
    return f"{body}.{_signature(key, body)}"


def read(key: str, kind: str, text: str, now: float) -> Signed | None:
    """Return what a signed text holds; None when it is of another kind, too old, or not signed with this key."""
    body, _, signature = text.rpartition(".")
    parts = body.split(".")
    if not key or len(parts) != 3 or not hmac.compare_digest(signature.encode(), _signature(key, body).encode()):
        return None
    found = Signed(parts[0], parts[1], int(parts[2]))
    return found if found.kind == kind and now < found.expires else None


def form_token(key: str, session_id: str) -> str:
    """Return the token that each form of a session carries, so that no other site can send the form."""
    return _signature(key, f"{FORM}.{session_id}")


def _signature(key: str, text: str) -> str:
    secret = hmac.new(key.encode("utf-8", "surrogateescape"), _CONTEXT, hashlib.sha256).digest()
    return hmac.new(secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def same(given: str, known: str) -> bool:
    """Compare two texts in a time that does not depend on where they differ. Nothing equals an empty one."""
    return bool(known) and hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), known.encode("utf-8", "surrogateescape")
    )
