"""Finds the model in the id of a file or batch. LiteLLM writes it there, as base64, and asks the provider of this model."""

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lmstack.gateway.calls.fields import mapping

_PREFIXES = ("file-", "batch_")
_MODEL = re.compile(r"litellm:.*?;model,([^;]+)", re.DOTALL)


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


def keeper(data: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Return the model that names the provider of a new batch, as LiteLLM finds it; None without any.

    It looks at the input file, then at the body, the address and the header.
    """
    file = data.get("input_file_id")
    found = _MODEL.match(decoded(file)) if isinstance(file, str) else None
    if found:
        return found[1].strip()
    query = parse_qs(urlsplit(str(mapping(data.get("proxy_server_request")).get("url"))).query, keep_blank_values=True)
    named = data.get("model") or query.get("model", [""])[-1] or headers.get("x-litellm-model")
    return named if isinstance(named, str) and named else None
