"""Answer GET /me/usage: what the holder of a key may use, has used and has spent. It shows nothing of other keys."""

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from lmstack.gateway import worker
from lmstack.gateway.app.auth import SCOPE_KEY
from lmstack.gateway.app.dialects import error_body
from lmstack.gateway.calls import served
from lmstack.gateway.rates import State
from lmstack.keys.key import Key, use_of_rates
from lmstack.ledger import queries

READ_SECONDS = 5.0
KEEP_SECONDS = 1.0  # an answer is made once in this time: a client may ask in a loop
_NO_KEY = "The master key has no limits. Ask with the key of an agent, or see: lm usage"
_UNREADABLE = "The ledger cannot be read right now. Try again."
_kept: dict[int, tuple[float, Key, dict[str, Any]]] = {}


async def usage(request: Request) -> JSONResponse:
    """Return limits, use and cost of the client's own key."""
    key: Key | None = request.scope.get(SCOPE_KEY)
    if key is None:
        return _error(400, "invalid_request_error", _NO_KEY)
    kept = _kept.get(key.id)
    if kept is not None and kept[1] is key and time.monotonic() - kept[0] < KEEP_SECONDS:
        return JSONResponse(kept[2])
    try:
        reading = asyncio.to_thread(queries.ask, worker.get().path, "key_usage", {"name": key.name})
        [found] = await asyncio.wait_for(reading, READ_SECONDS)
    except Exception:
        return _error(503, "usage_unknown", _UNREADABLE)
    answer = _answer(key, await _rates(key), found)
    _kept[key.id] = (time.monotonic(), key, answer)
    return JSONResponse(answer)


async def _rates(key: Key) -> State | None:
    """Return the counts of all hosts, or of this one when they are not shared; None for a key without such limits."""
    if not key.limits.has_rates:
        return None
    own = worker.get()
    shared = None if own.shared_rates is None else await own.shared_rates.state(key)
    return shared or own.rates.state(key)


def _answer(key: Key, state: State | None, found: dict[str, Any]) -> dict[str, Any]:
    limits = key.limits
    rates = use_of_rates(limits, None if state is None else state.used)
    return {
        "key": key.name, "agent": key.agent_of(None), "team": limits.team, "expires_at": key.expires_at,
        "models": served.names_for(key), "routes": list(limits.routes), "tasks": limits.tasks, "rates": rates, **found,
    }  # fmt: skip


def _error(status: int, kind: str, text: str) -> JSONResponse:
    return JSONResponse(error_body("", status, kind, text, {}), status)
