"""Reads single values out of what LiteLLM and clients hand over: safe to store, short, and without secrets."""

import functools
import os
from collections.abc import Mapping
from typing import Any

from lmstack.gateway.stock import live
from lmstack.ledger.redact import redacted, secret_values

MAX_MESSAGE = 500
MAX_FIELD = 200


def redact(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """Return a text without anything that is a key or looks like one, cut to MAX_MESSAGE characters."""
    return storable(redacted(text, _own_secrets() if secrets is None else secrets)[:MAX_MESSAGE])


def without_own_secrets(text: str) -> str:
    """Return a text for a client without the keys of this process. What only looks like a key stays: it may be the client's."""
    for secret in _own_secrets():
        text = text.replace(secret, "***")
    return text


def begun_secret(text: bytes) -> bytes:
    """Return the longest end of a text that a key of this process begins with; empty in most cases."""
    keys = [secret.encode("utf-8", "surrogateescape") for secret in _own_secrets()]
    longest = max((n for key in keys for n in range(1, len(key)) if text.endswith(key[:n])), default=0)
    return text[len(text) - longest :]


def _own_secrets() -> tuple[str, ...]:
    """Return the secret values of this process. The configuration lists secret variables that have ordinary names."""
    return _secret_values(tuple(live.settings().get("key_variables") or ()))


@functools.cache
def _secret_values(names: tuple[str, ...]) -> tuple[str, ...]:
    return secret_values(os.environ, names)


def short_text(value: object) -> str | None:
    """Return a string or number as a redacted text of at most MAX_FIELD characters; None for anything else."""
    if isinstance(value, str) and len(value) <= MAX_FIELD:
        return _short_text(value) if value else None
    return redact(str(value))[:MAX_FIELD] if isinstance(value, str | int) else None


@functools.lru_cache(maxsize=2048)
def _short_text(text: str) -> str:
    """Return a redacted text. Cached: the names of models, tasks and agents come with every request."""
    return redact(text)[:MAX_FIELD]


def storable(text: str) -> str:
    """Return a text that UTF-8 can encode. JSON can name half a character (a lone surrogate), which no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def field(value: object, name: str) -> object:
    """Return a member of a mapping or an attribute of an object; None when it is missing."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
