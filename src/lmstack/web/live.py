"""Live requests as server-sent events. One task of a worker reads the newest rows for all open pages."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from lmstack.ledger import queries
from lmstack.ledger.filters import Filter
from lmstack.web import html
from lmstack.web.reading import Reader

log = logging.getLogger(__name__)

READ_SECONDS = 1.0
NEWEST, WINDOW_SECONDS = 50, 900
# A browser opens the stream again. So a worker that stops does not wait for an open page.
STREAM_SECONDS = 20.0
MAX_STREAMS = 100


async def _anybody() -> bool:
    return True


@dataclass(eq=False, slots=True)
class _Follower:
    wanted: Filter
    news: "asyncio.Queue[str]" = field(default_factory=lambda: asyncio.Queue(2 * NEWEST))


class Live:
    """What changed among the newest requests, for every page that follows them."""

    def __init__(self, reader: Reader, is_leaving: Callable[[], bool]) -> None:
        self._reader, self._is_leaving = reader, is_leaving
        self._followers: set[_Follower] = set()
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[str, str] | None = None

    @property
    def is_full(self) -> bool:
        """Return whether no further page can follow."""
        return len(self._followers) >= MAX_STREAMS

    async def stream(self, wanted: Filter, may_read: Callable[[], Awaitable[bool]] = _anybody) -> AsyncIterator[str]:
        """Yield events until the time of a stream is over, the worker leaves, or ``may_read`` is false: the login has ended."""
        follower = _Follower(wanted)
        self._followers.add(follower)
        if self._task is None or self._task.done():
            self._seen, self._task = None, asyncio.create_task(self._read())
        checked = time.monotonic()
        ends = checked + STREAM_SECONDS
        try:
            yield "retry: 500\n: connected\n\n"
            while time.monotonic() < ends and not self._is_leaving():
                with contextlib.suppress(asyncio.TimeoutError):
                    text = await asyncio.wait_for(follower.news.get(), READ_SECONDS)
                    if time.monotonic() - checked >= READ_SECONDS:
                        if not await may_read():
                            return
                        checked = time.monotonic()
                    yield text
        finally:
            self._followers.discard(follower)

    async def _read(self) -> None:
        while self._followers:
            try:
                for row, text in await self._reader.ask(self._changed):
                    for follower in self._followers:
                        if follower.wanted.admits(row) and not follower.news.full():
                            follower.news.put_nowait(text)
            except Exception as error:  # the next look may succeed; without this task no page would get a row
                log.debug("lmstack: live requests cannot be read: %s", type(error).__name__)
            await asyncio.sleep(READ_SECONDS)

    def _changed(self, conn: sqlite3.Connection) -> list[tuple[dict[str, Any], str]]:
        """Return the rows that are new or have another status since the last call, the oldest first, with their events."""
        rows = queries.filtered(conn, Filter(), time.time() - WINDOW_SECONDS, limit=NEWEST)
        before, self._seen = self._seen, {row["id"]: row["status"] for row in rows}
        if before is None:
            return []
        return [(row, _event(row)) for row in reversed(rows) if before.get(row["id"]) != row["status"]]


def _event(row: dict[str, Any]) -> str:
    lines = "".join(f"data: {line}\n" for line in html.request_row(row).splitlines() if line.strip())
    return f"event: request\n{lines}\n"
