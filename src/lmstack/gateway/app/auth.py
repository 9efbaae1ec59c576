"""Who sends a request: the operator, or the holder of a key. The gate asks before anything is parsed, LiteLLM asks again.

LiteLLM's configuration names ``user_api_key_auth`` as its ``custom_auth``. So LiteLLM looks up no key itself, and the holder of
a key is no administrator to it. Both checks must find the same key, or the request is refused.
"""

import functools
import time
from typing import Any

from fastapi import HTTPException, Request

from lmstack.gateway import worker
from lmstack.gateway.app import credentials
from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.app.routes import Access, Route, closed
from lmstack.gateway.calls import current
from lmstack.gateway.keyring import Keyring
from lmstack.gateway.stock import live, uses
from lmstack.gateway.stock.lookup import find
from lmstack.keys.key import Key
from lmstack.keys.routes import SHARED, kind_of
from lmstack.keys.secret import PREFIX

# The gate puts the key of a request here; there is none for the operator.
SCOPE_KEY = "lmstack.key"
_TEXTS = {
    "key_revoked": "This key was revoked. Ask the operator of the gateway for another one.",
    "key_expired": "This key has expired. Ask the operator of the gateway for another one.",
}
_INVALID = "Invalid or missing API key. Send 'Authorization: Bearer <key>' with the key that the operator gave you."
# LiteLLM's names for the holder of the master key.
_MASTER_ALIAS, _ADMIN_NAME = "litellm_proxy_master_key", "default_user_id"


def identify(given: str | None, master: str | None, keyring: Keyring | None) -> Key | None:
    """Return the valid key of a request; None for the operator. Raises RefusedError (401, 503)."""
    if given and master and credentials.is_same(given, master):
        return None
    key = keyring.find(given) if given and keyring is not None else None
    if key is None:
        if given and keyring is not None and given.startswith(PREFIX) and not keyring.is_read:
            raise RefusedError(503, "keys_unknown", "The gateway cannot read its keys right now. Try again.")
        raise RefusedError(401, "auth_error", _INVALID)
    objection = key.objection(time.time())
    if objection is not None:
        raise RefusedError(401, objection, _TEXTS[objection])
    return key


def check_route(key: Key, route: Route, path: str) -> None:
    """Raise RefusedError (403, 404) for a call that a key may not make. It may always ask for models and its own usage."""
    kind, method = kind_of(path), route.method
    if route.access is Access.OPERATOR:
        raise RefusedError(404, "not_served", closed(path))
    if key.limits.is_viewer and route.access is not Access.ANYONE:
        raise RefusedError(403, "route_not_allowed", f"The key '{key.name}' is a viewer's: it opens the page at /dashboard, and calls nothing.")  # fmt: skip
    if route.access is Access.MASTER:
        raise RefusedError(403, "route_not_allowed", "This route is the operator's: it needs the master key.")
    if (method in ("GET", "HEAD") and kind not in SHARED) or key.limits.allows_route(kind):
        return
    may = ", ".join(key.limits.routes) or f"everything but {' and '.join(SHARED)}"
    raise RefusedError(403, "route_not_allowed", f"The key '{key.name}' may not call {kind}. It may call {may}.")


async def user_api_key_auth(request: Request, api_key: str) -> Any:
    """Return who sends a request, for LiteLLM. Raises HTTPException (401) when the gate has found somebody else."""
    context = current.request_context.get()
    try:
        key = identify(api_key, live.master_key(), worker.get().keyring)
    except RefusedError as refusal:
        raise HTTPException(refusal.status, refusal.message) from None
    by_gate = context.key if context is not None else None
    if context is None or (key and key.id) != (by_gate and by_gate.id):
        raise HTTPException(401, _INVALID)
    return _copied(_operator() if key is None else _holder(key))


@functools.cache
def _operator() -> Any:
    return _template(None)


def _holder(key: Key) -> Any:
    """Return the template for the holder of a key. It is made once for each version of a key."""
    found = _holders.get(key.id)
    if found is None or found[0] is not key:
        found = _holders[key.id] = (key, _template(key))
    return found[1]


_holders: dict[int, tuple[Key, Any]] = {}


def _template(key: Key | None) -> Any:
    """Return the object, or the plain values, by which LiteLLM knows the holder of a key, or the operator."""
    kind = find(uses.AUTH_RESULT, dict)
    if key is None:
        return kind(api_key=_MASTER_ALIAS, user_id=_ADMIN_NAME, user_role="proxy_admin")
    name = f"key:{key.name}"  # LiteLLM prints it in errors, so it is neither secret nor hash
    return kind(api_key=name, key_alias=key.name, user_id=name, user_role="internal_user")


def _copied(template: Any) -> Any:
    """Return a copy for one request, because LiteLLM writes into it. Validating a new object takes ten times as long."""
    if isinstance(template, dict):
        return dict(template)
    made = template.model_copy()
    fields: dict[str, Any] = made.__dict__
    for name, value in fields.items():
        if type(value) in (dict, list):
            fields[name] = value.copy()
    return made
