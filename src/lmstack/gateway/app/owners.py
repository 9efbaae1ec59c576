"""Let a key see only the files and batches that it has made. The provider shows all of them, because it knows only the gateway.

The ledger remembers who has made which. A list would show what all keys have made, so only the operator gets one.
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.types import Message, Scope, Send

from lmstack.gateway.app import stored_ids
from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.calls.stored import provider_id
from lmstack.keys.key import Key
from lmstack.keys.routes import SHARED, kind_of
from lmstack.ledger import stored_owners

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 1_000_000
_LIST = "A list shows what all keys have made, so it needs the master key. Ask for a file or batch by its id."
_NOT_OWN = "The key '{name}' has made no file or batch with this id."
_UNREADABLE = "The gateway cannot read who has made this file or batch. Try again."
# What a batch names in an answer: files that the provider has made for it.
_MADE = ("output_file_id", "error_file_id")


def concerns(key: Key | None, path: str) -> bool:
    """Return whether a request of a key is about files or batches."""
    return key is not None and kind_of(path) in SHARED


async def check(key: Key, ledger: Path, method: str, path: str, body: bytes) -> None:
    """Raise RefusedError (403, 404, 503) for a list, and for a file or batch that another one has made."""
    named = stored_ids.id_in(path)
    if named is None and method in ("GET", "HEAD"):
        raise RefusedError(403, "route_not_allowed", _LIST)
    if named is None and kind_of(path) == "batches":
        named = _input_file(body)
    if named is None:
        return
    try:
        own = await asyncio.to_thread(stored_owners.is_owner, ledger, key.shared_name, provider_id(named))
    except (sqlite3.Error, OSError):
        raise RefusedError(503, "owner_unknown", _UNREADABLE) from None
    if not own:
        raise RefusedError(404, "not_found", _NOT_OWN.format(name=key.name))


def without_compression(scope: Scope) -> None:
    """Let the answer come as it is, because ``Noting`` reads it."""
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]


class Noting:
    """Send an answer, and record the files and batches in it as those of a key before its last part goes out."""

    def __init__(self, send: Send, key: Key, ledger: Path, method: str) -> None:
        self._send, self._key, self._ledger, self._method = send, key, ledger, method
        self._parts: list[bytes] = []
        self._size, self._succeeded = 0, False

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self._succeeded = message["status"] < 300
        elif self._succeeded and self._size <= MAX_ANSWER_BYTES:
            self._parts.append(message.get("body", b""))
            self._size += len(self._parts[-1])
            if not message.get("more_body") and self._size <= MAX_ANSWER_BYTES:
                await self._note(b"".join(self._parts))
        await self._send(message)

    async def _note(self, body: bytes) -> None:
        found = [provider_id(one) for one in _ids(body, self._method == "POST")]
        if not found:
            return
        try:
            await asyncio.to_thread(stored_owners.add, self._ledger, self._key.shared_name, found)
        except (sqlite3.Error, OSError) as error:
            log.warning(
                "lmstack: who has made a file or batch could not be recorded, so its key cannot read it: %s", error
            )


def _ids(body: bytes, is_made: bool) -> Iterable[str]:
    """Return the ids in an answer. ``is_made``: of the object itself, too, because this request has made it."""
    if not body.lstrip().startswith(b"{"):  # the content of a file
        return []
    try:
        found: Any = json.loads(body)
    except ValueError:
        return []
    if not isinstance(found, dict) or found.get("object") not in ("file", "batch"):
        return []
    names = ("id", *_MADE) if is_made else _MADE if found["object"] == "batch" else ()
    return [found[name] for name in names if isinstance(found.get(name), str) and found[name]]


def _input_file(body: bytes) -> str | None:
    """Return the file of a new batch; None where there is none, which LiteLLM refuses."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    named = found.get("input_file_id") if isinstance(found, dict) else None
    return named if isinstance(named, str) else None
