"""Run queries and templates in a few threads, each with its own read-only connection to the ledger.

The threads are few on purpose: many open pages must not take the processor from the requests. The same question within a
second is asked once.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from lmstack.ledger import queries

THREADS = 2
KEEP_SECONDS = 1.0
MAX_KEPT = 200
T = TypeVar("T")


class Reader:
    """Reads one ledger. ``ask`` raises FileNotFoundError while there is no ledger, and sqlite3.Error."""

    def __init__(self, path: Path, threads: int = THREADS) -> None:
        self.path = path
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lmstack-page")
        self._own = threading.local()
        self._kept: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}

    async def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns. It runs in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def ask(self, work: Callable[[sqlite3.Connection], T], key: Hashable = None) -> T:
        """Return what ``work`` returns for a connection, in a thread. With a ``key``, an answer serves for a second."""
        if key is None:
            return await self.run(lambda: work(self._connection()))
        now = time.monotonic()
        kept = self._kept.get(key)
        # A future of another event loop cannot be awaited here. Only tests have several loops.
        if kept is None or now - kept[0] > KEEP_SECONDS or kept[1].get_loop() is not asyncio.get_running_loop():
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            kept = (now, asyncio.ensure_future(self.ask(work)))
            self._kept[key] = kept
        found: T = await asyncio.shield(kept[1])
        return found

    def _connection(self) -> sqlite3.Connection:
        """Return the connection of this thread. A file that was replaced, by a restored backup for example, is opened again."""
        status = self.path.stat()
        identity = (status.st_dev, status.st_ino)
        if getattr(self._own, "identity", None) != identity:
            old = getattr(self._own, "conn", None)
            if old is not None:
                old.close()
            self._own.conn = queries.open_ledger(self.path)
            self._own.identity = identity
        conn: sqlite3.Connection = self._own.conn
        return conn
