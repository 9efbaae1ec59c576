"""Check the ids of files and batches in a path.

LiteLLM writes the model into an id, as base64, and takes it out again. A client can write such an id itself. LiteLLM pastes
what is in it into the provider's address, so it could name any other address there, with our key.
"""

import base64
import re

from lmstack.gateway.app.bodies import RefusedError

_STORED = re.compile(r"(?:/v1)?/(?:files|batches)/([A-Za-z0-9_-]+)(?:/content|/cancel)?")
_PREFIXES = ("file-", "batch_")
# What LiteLLM writes: the provider's own id, and a name that the gateway serves.
_OURS = re.compile(r"litellm:[A-Za-z0-9_-]+;model,[^;]+")


def check(path: str) -> None:
    """Refuse an id with anything inside that is no id of a provider. Raises RefusedError (400)."""
    found = _STORED.fullmatch(path)
    inside = _decoded(found[1]) if found else ""
    if inside.startswith("litellm") and not _OURS.fullmatch(inside):
        raise RefusedError(400, "invalid_request_error", "id: this gateway has made no such id.")


def _decoded(given: str) -> str:
    """Return the text in an id, as LiteLLM reads it; "" when it is a provider's own id."""
    for candidate in (given, *(given.removeprefix(prefix) for prefix in _PREFIXES if given.startswith(prefix))):
        try:
            text = base64.urlsafe_b64decode(candidate + "=" * (-len(candidate) % 4)).decode()
        except ValueError:
            continue
        if text.startswith("litellm"):
            return text
    return ""
