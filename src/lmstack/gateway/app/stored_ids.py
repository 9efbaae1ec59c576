"""Check the ids of files and batches in a path.

LiteLLM writes the model into an id, as base64, and takes it out again. A client can write such an id itself. LiteLLM pastes
what is in it into the provider's address, so it could name any other address there, with our key.
"""

import re

from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.calls.stored import decoded

_STORED = re.compile(r"(?:/v1)?/(?:files|batches)/([A-Za-z0-9_-]+)(?:/content|/cancel)?")
# What LiteLLM writes: the provider's own id, and a name that the gateway serves.
_OURS = re.compile(r"litellm:[A-Za-z0-9_-]+;model,[^;]+")


def check(path: str) -> None:
    """Refuse an id with anything inside that is no id of a provider. Raises RefusedError (400)."""
    found = _STORED.fullmatch(path)
    inside = decoded(found[1]) if found else ""
    if inside.startswith("litellm") and not _OURS.fullmatch(inside):
        raise RefusedError(400, "invalid_request_error", "id: this gateway has made no such id.")
