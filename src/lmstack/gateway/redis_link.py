"""One connection to Redis, over which scripts run in the order in which they were asked for.

Nothing waits for Redis longer than ANSWER_SECONDS. When an answer does not come in time, or the connection breaks, all that wait
get None immediately. So does everybody after them, without waiting, until a task has reached Redis again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

log = logging.getLogger(__name__)

ANSWER_SECONDS = 0.05
CONNECT_SECONDS = 1.0  # no request waits for this
RETRY_SECONDS = 2.0
WARN_SECONDS = 60.0
# When the event loop was late by more than this, the answer may have come in time. It then has this long to be read.
_LATE, _EXTRA = 0.005, 0.02
Word = str | int


class Connection(Protocol):
    """What is used of a connection of redis.asyncio."""

    async def connect(self) -> None:
        """Connect, log in, and choose the database."""

    async def disconnect(self, nowait: bool = False) -> None:
        """Close the connection."""

    def pack_commands(self, commands: Sequence[Sequence[Word]]) -> list[bytes]:
        """Return commands as they go over the wire."""

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        """Send commands."""

    async def read_response(self) -> Any:
        """Return the next answer. Raises the error that Redis answers."""


def connector(environ: Mapping[str, str]) -> Callable[[], Connection] | None:
    """Return what makes a connection to the Redis of REDIS_URL or of the compose stack; None where no Redis is configured."""
    url = environ.get("REDIS_URL", "")
    if not url:
        if environ.get("LITELLM_REDIS", "").strip().lower() not in ("on", "true", "yes", "1"):
            return None
        url = f"redis://:{quote(environ.get('REDIS_PASSWORD', ''), safe='')}@redis:6379/0"

    # Now, because the import takes tenths of a second, and later it would be on the event loop.
    from redis.asyncio import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    def connection() -> Connection:
        pool = ConnectionPool.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=CONNECT_SECONDS, retry=Retry(NoBackoff(), 0), decode_responses=True
        )  # fmt: skip
        make: Callable[[], Connection] = pool.make_connection
        return make()

    return connection


@dataclass(slots=True)
class _Asked:
    command: tuple[Word, ...]
    at: float  # of the loop's clock
    answer: "asyncio.Future[Any] | None"


class RedisLink:
    """Runs ``scripts`` in Redis. Its methods never raise, and belong to one event loop. ``on_up`` is called at each connection."""

    def __init__(self, connect: Callable[[], Connection], scripts: Sequence[str], on_up: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        self._connect, self._scripts, self._on_up = connect, scripts, on_up
        self._hashes: dict[str, str] = {}
        self._queue: list[_Asked] = []
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()  # to connect, for the first time
        self._next_warning, self._down_since = 0.0, 0.0
        self.is_up = False
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._task = self._loop.create_task(self._run())

    async def ask(self, script: str, keys: Sequence[str], *arguments: Word) -> Any:
        """Return a script's answer; None when Redis does not answer in time."""
        if not self.is_up and not self._tried.is_set():
            await self._first_try()
        if not self.is_up:
            return None
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._add(("EVALSHA", self._hashes[script], len(keys), *keys, *arguments), answer)
        return await answer

    def tell(self, script: str, keys: Sequence[str], *arguments: Word) -> None:
        """Run a script, and do not wait for it. Nothing happens while Redis does not answer."""
        if self.is_up:
            self._add(("EVALSHA", self._hashes[script], len(keys), *keys, *arguments), None)

    def command(self, *words: Word) -> None:
        """Run a command, and do not wait for it."""
        if self.is_up:
            self._add(words, None)

    def close(self) -> None:
        """End the connection. May be called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _add(self, command: tuple[Word, ...], answer: "asyncio.Future[Any] | None") -> None:
        self._queue.append(_Asked(command, self._loop.time(), answer))
        self._wake.set()

    async def _first_try(self) -> None:
        """Wait until the first connection is there, but not longer than for an answer."""
        left = self._began + ANSWER_SECONDS - self._loop.time()
        if left > 0:
            waiting = asyncio.ensure_future(self._tried.wait())
            await asyncio.wait({waiting}, timeout=left)
            waiting.cancel()

    async def _run(self) -> None:
        while True:
            batch: list[_Asked] = []
            try:
                await self._serve(batch)
            except Exception as error:
                self._warn(error)
            finally:
                self.is_up = False
                self._tried.set()
                waiting, self._queue = [*batch, *self._queue], []
                for asked in waiting:
                    _give(asked, None)
            await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, batch: list[_Asked]) -> None:
        """Connect, and run what is asked for, until something fails. ``batch`` holds what was sent and not yet answered."""
        connection = self._connect()
        try:
            # A stopped Redis accepts connections. So it must answer before anybody waits for it.
            self._hashes = await asyncio.wait_for(_loaded(connection, self._scripts), CONNECT_SECONDS)
            self.is_up = True
            self._tried.set()
            self._on_up()
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch[:], self._queue = self._queue, []
                if batch:
                    await self._exchange(connection, batch)
        finally:
            self.is_up = False
            await connection.disconnect(nowait=True)

    async def _exchange(self, connection: Connection, batch: list[_Asked]) -> None:
        """Send a batch and hand out its answers. Raises TimeoutError when they do not come in time."""
        deadline = batch[0].at + ANSWER_SECONDS
        answers = self._loop.create_task(_answers(connection, batch))
        try:
            await asyncio.wait({answers}, timeout=max(0.0, deadline - self._loop.time()))
            if not answers.done() and self._loop.time() > deadline + _LATE:
                await asyncio.wait({answers}, timeout=_EXTRA)
            if not answers.done():
                raise TimeoutError(f"no answer within {ANSWER_SECONDS * 1000:g} ms")
            answers.result()
            batch.clear()
        finally:
            answers.cancel()

    def _warn(self, error: Exception) -> None:
        """Log once a minute that Redis does not answer. The text of an error of another kind may hold a part of the address."""
        if time.monotonic() < self._next_warning:
            return
        self._next_warning = time.monotonic() + WARN_SECONDS
        is_plain = isinstance(error, OSError) or type(error).__module__.startswith("redis.")
        text = str(error) if is_plain and str(error) else type(error).__name__
        log.warning(
            "lmstack: Redis does not count the rates of keys: %s. Each host counts its own until it answers.", text
        )


async def _loaded(connection: Connection, scripts: Sequence[str]) -> dict[str, str]:
    """Connect, and return the names under which Redis knows the scripts."""
    await connection.connect()
    packed = connection.pack_commands([("SCRIPT", "LOAD", text) for text in scripts])
    await connection.send_packed_command(packed, check_health=False)
    return {text: str(await connection.read_response()) for text in scripts}


async def _answers(connection: Connection, batch: Sequence[_Asked]) -> None:
    packed = connection.pack_commands([asked.command for asked in batch])
    await connection.send_packed_command(packed, check_health=False)
    for asked in batch:
        _give(asked, await connection.read_response())


def _give(asked: _Asked, answer: Any) -> None:
    if asked.answer is not None and not asked.answer.done():
        asked.answer.set_result(answer)
