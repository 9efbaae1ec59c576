"""The counts of a key over all hosts that share a Redis. Beside them each host counts its own in a file (rates.py).

An open request has a lease, which its worker renews. So what a worker had open when its host died counts no more after
LEASE_SECONDS. While Redis does not answer, the host's own counts decide.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Mapping

from lmstack.gateway.rates import State
from lmstack.gateway.redis_link import Connection, RedisLink, connector
from lmstack.gateway.shared_script import BEGIN, RENEW, TOKENS
from lmstack.keys.key import Key

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
# A client may send its next request to another host before Redis has received that the last one ended.
_AGAIN_SECONDS = 0.01


class SharedRates:
    """The counts of one worker in Redis. Its methods never raise."""

    def __init__(self, connect: Callable[[], Connection], lease: float = LEASE_SECONDS) -> None:
        self._connect, self._lease = connect, int(lease * 1000)
        self._link: RedisLink | None = None
        self._renewing: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker, self._numbers = secrets.token_hex(6), itertools.count()
        self._open: dict[str, set[str]] = {}  # by the key's name in Redis
        self._counted: dict[int, str] = {}  # the names of the keys with a limit of tokens

    def new_request(self) -> str:
        """Return a name for a request, which no other worker gives."""
        return f"{self._worker}-{next(self._numbers)}"

    async def begin(self, key: Key, request: str) -> State | None:
        """Count a request of a key unless a limit does not admit it; None when Redis does not decide.

        The caller calls ``end`` for a request that is served.
        """
        if key.limits.tpm is not None:
            self._counted[key.id] = key.shared_name
        try:
            state = await self._ask(key, request)
            if state is not None and state.refused == "parallel":
                await asyncio.sleep(_AGAIN_SECONDS)
                state = await self._ask(key, request)
        except asyncio.CancelledError:
            self._remove(key, request)
            raise
        if key.limits.parallel is not None and (state is None or not state.refused):
            self._open.setdefault(key.shared_name, set()).add(request)
        return state

    def end(self, key: Key, request: str) -> None:
        """Count a request as no longer open."""
        own = self._open.get(key.shared_name, set())
        if request in own:
            own.remove(request)
            if not own:
                del self._open[key.shared_name]
            self._remove(key, request)

    def add_tokens(self, key_id: int, tokens: int) -> None:
        """Count the tokens of an answer. May be called from any thread."""
        name, loop = self._counted.get(key_id), self._loop
        if name is not None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._add_tokens, name, tokens)

    async def state(self, key: Key) -> State | None:
        """Return the counts of a key; None when Redis does not answer."""
        return await self._ask(key, "")

    def close(self) -> None:
        """End the connection. May be called from any thread."""
        if self._link is not None:
            self._link.close()

    async def _ask(self, key: Key, request: str) -> State | None:
        limits = (-1 if limit is None else limit for limit in (key.limits.rpm, key.limits.tpm, key.limits.parallel))
        answer = await self._reached().ask(BEGIN, _names(key.shared_name), *limits, request, self._lease)
        if answer is None:
            return None
        refused, wait, requests, tokens, counted = answer
        return State(requests, tokens, counted, refused or None, wait)

    def _reached(self) -> RedisLink:
        """Return the connection, which begins with the first request."""
        if self._link is None:
            self._loop = asyncio.get_running_loop()
            self._link = RedisLink(self._connect, (BEGIN, TOKENS, RENEW), self._renew)
        return self._link

    def _remove(self, key: Key, request: str) -> None:
        if self._link is not None and key.limits.parallel is not None:
            self._link.command("ZREM", _names(key.shared_name)[1], request)

    def _add_tokens(self, name: str, tokens: int) -> None:
        if self._link is not None:
            self._link.tell(TOKENS, _names(name)[:1], tokens)

    def _renew(self) -> None:
        """Renew the leases of all open requests, now and every RENEW_SECONDS. After an outage this brings them back."""
        if self._link is None or self._loop is None:
            return
        for name, requests in self._open.items():
            self._link.tell(RENEW, _names(name)[1:], self._lease, *requests)
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = self._loop.call_later(RENEW_SECONDS, self._renew)


def shared_from(environ: Mapping[str, str]) -> SharedRates | None:
    """Return the counts over all hosts; None where no Redis is configured."""
    connect = connector(environ)
    return None if connect is None else SharedRates(connect)


def _names(name: str) -> tuple[str, str]:
    """Return the names of both entries of a key. The braces keep them on one node of a cluster."""
    return f"lmstack:{{{name}}}:counts", f"lmstack:{{{name}}}:open"
