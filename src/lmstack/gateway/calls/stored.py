"""Finds the model in the id of a file or batch. LiteLLM writes it there, as base64, and asks the provider of this model."""

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lmstack.gateway.calls.fields import mapping
from lmstack.routing.refusals import invalid

_PREFIXES = ("file-", "batch_")
# What LiteLLM writes: the provider's own id, and a name that the gateway serves.
_OURS = re.compile(r"litellm:([A-Za-z0-9_-]+);model,([^;]+)")
NOT_OURS = "this gateway has made no such id."


def decoded(given: str) -> str:
    """Return the text in an id, as LiteLLM reads it; "" when it is a provider's own id."""
    for candidate in (given, *(given.removeprefix(prefix) for prefix in _PREFIXES if given.startswith(prefix))):
        try:
            text = base64.urlsafe_b64decode(candidate + "=" * (-len(candidate) % 4)).decode()
        except ValueError:
            continue
        if text.startswith("litellm"):
            return text
    return ""


def provider_id(given: str) -> str:
    """Return the provider's own id of a file or batch, with or without what LiteLLM has written around it."""
    found = _OURS.fullmatch(decoded(given))
    return found[1] if found else given


def is_forged(given: str) -> bool:
    """Return whether LiteLLM would read more in an id than this gateway lets it write: another address, or a list of models."""
    inside = decoded(given)
    return bool(inside) and not _OURS.fullmatch(inside)


def keeper(data: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Return the model that names the provider of a new batch, as LiteLLM finds it; None without any.

    It looks at the input file, then at the body, the address and the header. Raises RefusalError for a file's id that a client
    wrote itself: LiteLLM would take another model from it, and that one would not be charged.
    """
    file = data.get("input_file_id")
    if isinstance(file, str) and is_forged(file):
        raise invalid("input_file_id", NOT_OURS)
    found = _OURS.fullmatch(decoded(file)) if isinstance(file, str) else None
    if found:
        return found[2].strip()
    query = parse_qs(urlsplit(str(mapping(data.get("proxy_server_request")).get("url"))).query, keep_blank_values=True)
    named = data.get("model") or query.get("model", [""])[-1] or headers.get("x-litellm-model")
    return named if isinstance(named, str) and named else None
