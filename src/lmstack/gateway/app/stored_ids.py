"""Check the ids of files and batches in a path, and the header that names their model.

LiteLLM writes the model into an id, as base64, and takes it out again. A client can write such an id itself. LiteLLM pastes
what is in it into the provider's address, so it could name any other address there, with our key.
"""

import re
from collections.abc import Iterable

from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.calls.stored import NOT_OURS, is_forged

_MODEL = b"x-litellm-model"
_STORED = re.compile(r"(?:/v1)?/(?:files|batches)/([A-Za-z0-9_-]+)(?:/content|/cancel)?")


def check(path: str) -> None:
    """Refuse an id with anything inside that is no id of a provider. Raises RefusedError (400)."""
    found = _STORED.fullmatch(path)
    if found and is_forged(found[1]):
        raise RefusedError(400, "invalid_request_error", f"id: {NOT_OURS}")


def id_in(path: str) -> str | None:
    """Return the id of a file or batch in a path; None where it has none. What is no id at all is returned as it is."""
    plain = path.removeprefix("/v1")
    named = plain.removeprefix("/files").removeprefix("/batches").strip("/")
    found = _STORED.fullmatch(path)
    return (found[1] if found else named) or None


def check_model(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse two headers with a model: LiteLLM asks the first one, and the price would be that of the last. Raises RefusedError (400)."""
    if sum(name == _MODEL for name, _ in headers) > 1:
        raise RefusedError(400, "invalid_request_error", "x-litellm-model may be sent once.")
