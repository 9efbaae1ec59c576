"""Admit a request within the rates of its key: requests and tokens in a minute, and open requests."""

import contextlib
from collections.abc import AsyncIterator

from lmstack.gateway import worker
from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.app.routes import Recorded, Route
from lmstack.gateway.rates import Rates, State
from lmstack.gateway.shared_rates import SharedRates
from lmstack.keys.key import Key
from lmstack.keys.routes import SHARED, kind_of
from lmstack.ledger.rates_file import SECONDS

Headers = list[tuple[bytes, bytes]]
_TEXTS = {
    "requests": "The key '{name}' has made {used} requests in the last minute, and {limit} are allowed.",
    "tokens": "The key '{name}' has used {used} tokens in the last minute, and {limit} are allowed.",
    "parallel": "The key '{name}' has {used} open requests, and {limit} are allowed at a time.",
}


@contextlib.asynccontextmanager
async def admitted(
    key: Key | None, route: Route, rates: Rates | None = None, shared: SharedRates | None = None
) -> AsyncIterator[Headers]:
    """Count a call of a key while the block runs, and give the headers for the client. Raises RefusedError (429).

    What only reads our own state is not counted. Files and batches are read at the provider, with our key.
    The counts of this host are asked first, and then those of all hosts.
    """
    is_ours = route.recorded is Recorded.NO and kind_of(route.path) not in SHARED
    if key is None or not key.limits.has_rates or is_ours:
        yield []
        return
    counts, shared = (worker.get().rates, worker.get().shared_rates) if rates is None else (rates, shared)
    state = counts.begin(key)
    if state.refused is not None:
        raise _too_many(key, state, state.refused)
    try:
        if shared is None:
            yield headers_of(key, state)
        else:
            async with _by_all(key, state, counts, shared) as headers:
                yield headers
    finally:
        counts.end(key)


@contextlib.asynccontextmanager
async def _by_all(key: Key, state: State, counts: Rates, shared: SharedRates) -> AsyncIterator[Headers]:
    """Count a call over all hosts. ``state``: what this host says, which holds when Redis does not answer."""
    request = shared.new_request()
    found = await shared.begin(key, request)
    if found is not None and found.refused is not None:
        counts.take_back(key, state)
        raise _too_many(key, found, found.refused)
    try:
        yield headers_of(key, found or state)
    finally:
        shared.end(key, request)


def headers_of(key: Key, state: State) -> Headers:
    """Return the standard headers for the limits of a key."""
    found: dict[str, str] = {}
    for name, limit, used in (("requests", key.limits.rpm, state.requests), ("tokens", key.limits.tpm, state.tokens)):
        if limit is not None:
            found[f"x-ratelimit-limit-{name}"] = str(limit)
            found[f"x-ratelimit-remaining-{name}"] = str(max(0, limit - used))
            found[f"x-ratelimit-reset-{name}"] = f"{state.wait or SECONDS}s"
    return [(name.encode(), value.encode()) for name, value in found.items()]


def _too_many(key: Key, state: State, kind: str) -> RefusedError:
    limit, used = {
        "requests": (key.limits.rpm, state.requests), "tokens": (key.limits.tpm, state.tokens), "parallel": (key.limits.parallel, state.open),
    }[kind]  # fmt: skip
    text = _TEXTS[kind].format(name=key.name, used=used, limit=limit) + f" Try again in {state.wait} s."
    refusal = RefusedError(429, "rate_limit_exceeded", text, limit={"kind": kind, "limit": limit, "used": used})
    refusal.headers = {"retry-after": str(state.wait)} | {n.decode(): v.decode() for n, v in headers_of(key, state)}
    return refusal
