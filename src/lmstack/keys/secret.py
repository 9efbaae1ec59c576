"""Make the secrets of keys, and the hashes under which they are stored.

A secret is random and has 256 bits, so it cannot be guessed from its hash, and one round of SHA-256 is enough.
"""

import hashlib
import secrets

PREFIX = "sk-lm-"
_RANDOM_BYTES = 32


def new_secret() -> str:
    """Return a new secret: the prefix and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def shared_name(first: str) -> str:
    """Return a name for a key. ``first`` is the hash of its first secret. Neither hash nor secret follows from it."""
    return hashlib.sha256(b"lmstack counts " + first.encode()).hexdigest()[:32]


def digest(secret: str) -> str:
    """Return the hash of a secret, as 64 hexadecimal digits. Any text has one."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
