"""How many requests and tokens a key had in the last minute, and how many of its requests are open: exact over all workers.

The counts are in a file beside the ledger, which every worker of the machine maps into its memory. A key has one row there. It
holds 60 buckets of one second for requests and for tokens, and the open requests of each worker. A change holds a
record lock on the row for some microseconds. The kernel releases the locks of a killed worker, so its column counts no more.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmstack.keys.key import Key
from lmstack.ledger.rates_file import (
    AT,
    BUCKETS,
    COLUMNS,
    HEAD,
    OPEN,
    REQUESTS,
    ROW,
    SECONDS,
    TOKEN_BUCKETS,
    TOKENS,
    WORD,
)

log = logging.getLogger(__name__)

_GROW = 256  # rows
_LOCK_TRIES = 50  # with a pause of 20 µs each: a worker that is stopped while it holds a lock must not stop the others
_PAUSE = 0.00002
_GROW_LOCK = 1 << 40  # a byte that no row has


@dataclass(frozen=True, slots=True)
class State:
    """The counts of a key. ``refused``: the limit that does not admit another request, requests, tokens or parallel.

    ``wait``: seconds until it may. ``second``: in which a request was counted.
    """

    requests: int
    tokens: int
    open: int
    refused: str | None = None
    wait: int = 0
    second: int = 0

    @property
    def used(self) -> dict[str, int]:
        """Return the counts by the names of the limits."""
        return {"rpm": self.requests, "tpm": self.tokens, "parallel": self.open}


class Rates:
    """The counts of one machine, for one worker. Its methods take microseconds, and never raise."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path, self._now = path, now
        self._mutex = threading.Lock()
        self._file: int | None = None
        # Closing a map closes a copy of the file's handle, and the kernel then drops all record locks of this process.
        self._maps: list[mmap.mmap] = []
        self._words: memoryview | None = None
        self._column = 0

    def begin(self, key: Key) -> State:
        """Count a request of a key, unless a limit does not admit it. The caller calls ``end`` when it was admitted."""
        with self._row(key.id) as row:
            if row is None:
                return State(0, 0, 0)
            second = self._advance(row)
            refused, wait = self._objection(row, key, second)
            if refused is None:
                row[REQUESTS] += 1
                row[BUCKETS + second % SECONDS] += 1
                row[OPEN + self._column] += 1
            return State(row[REQUESTS], row[TOKENS], sum(row[OPEN:]), refused, wait, second)

    def take_back(self, key: Key, state: State) -> None:
        """Do not count a request that ``begin`` has counted, and that was refused afterwards. ``end`` is called too."""
        with self._row(key.id) as row:
            if (
                row is not None
                and self._advance(row) - state.second < SECONDS
                and row[BUCKETS + state.second % SECONDS]
            ):
                row[BUCKETS + state.second % SECONDS] -= 1
                row[REQUESTS] -= 1

    def end(self, key: Key) -> None:
        """Count a request as no longer open."""
        with self._row(key.id) as row:
            if row is not None and row[OPEN + self._column]:
                row[OPEN + self._column] -= 1

    def add_tokens(self, key_id: int, tokens: int) -> None:
        """Count the tokens of an answer."""
        with self._row(key_id) as row:
            if row is not None:
                second = self._advance(row)
                row[TOKENS] += tokens
                row[TOKEN_BUCKETS + second % SECONDS] += tokens

    def state(self, key: Key) -> State:
        """Return the counts of a key."""
        with self._row(key.id) as row:
            if row is None:
                return State(0, 0, 0)
            self._advance(row)
            self._forget_dead(row)
            return State(row[REQUESTS], row[TOKENS], sum(row[OPEN:]))

    def used(self, key: Key) -> dict[str, int]:
        """Return the counts of a key by the names of its limits."""
        return self.state(key).used

    def _objection(self, row: memoryview, key: Key, second: int) -> tuple[str | None, int]:
        """Return the limit that does not admit another request, and the seconds to wait."""
        limits = key.limits
        if limits.parallel is not None and sum(row[OPEN:]) >= limits.parallel:
            self._forget_dead(row)
            if sum(row[OPEN:]) >= limits.parallel:
                return "parallel", 1
        if limits.rpm is not None and row[REQUESTS] >= limits.rpm:
            return "requests", _wait(row, BUCKETS, second, row[REQUESTS] - limits.rpm)
        if limits.tpm is not None and row[TOKENS] >= limits.tpm:
            return "tokens", _wait(row, TOKEN_BUCKETS, second, row[TOKENS] - limits.tpm)
        return None, 0

    def _advance(self, row: memoryview) -> int:
        """Take what is older than a minute out of the sums, and return the present second.

        A clock that was set back by less than a minute counts on in the last second. After a larger jump the counts begin again.
        """
        second, last = int(self._now()), row[AT]
        if not last - SECONDS < second < last + SECONDS:
            row[AT : BUCKETS + 2 * SECONDS] = _EMPTY
            row[AT] = second
        for passed in range(last + 1, second + 1) if row[AT] == last else ():
            place = passed % SECONDS
            row[BUCKETS + place] = row[TOKEN_BUCKETS + place] = 0
        if second > last:  # added up again: a worker that was killed between two of its writes must leave no wrong sum
            row[REQUESTS] = sum(row[BUCKETS : BUCKETS + SECONDS])
            row[TOKENS] = sum(row[TOKEN_BUCKETS : TOKEN_BUCKETS + SECONDS])
        row[AT] = max(second, row[AT])
        return int(row[AT])

    def _forget_dead(self, row: memoryview) -> None:
        """Set the columns of workers that have died to 0. Their locks are free."""
        for column in range(COLUMNS):
            if row[OPEN + column] and column != self._column and self._try_lock(column, 1):
                row[OPEN + column] = 0
                self._unlock(column, 1)

    @contextlib.contextmanager
    def _row(self, key_id: int) -> Iterator[memoryview | None]:
        """Give the row of a key, locked; None when the file cannot be used. Then requests are served and not counted."""
        with self._mutex:
            start = HEAD + key_id * ROW
            try:
                words = self._ready(start + ROW)
            except (OSError, ValueError) as error:
                log.warning("lmstack: the rates of keys cannot be counted: %s", error)
                yield None
                return
            locked = self._lock(start * WORD, WORD)
            try:
                yield words[start : start + ROW]
            finally:
                if locked:  # else a stopped worker holds the lock, and the request is counted without it
                    self._unlock(start * WORD, WORD)

    def _lock(self, start: int, length: int) -> bool:
        """Return whether the bytes are locked for us. Waits for a millisecond at most."""
        for _ in range(_LOCK_TRIES):
            if self._try_lock(start, length):
                return True
            time.sleep(_PAUSE)
        return False

    def _try_lock(self, start: int, length: int) -> bool:
        try:
            fcntl.lockf(self._file or 0, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError:
            return False
        return True

    def _unlock(self, start: int, length: int) -> None:
        fcntl.lockf(self._file or 0, fcntl.LOCK_UN, length, start)

    def _ready(self, words: int) -> memoryview:
        """Return the counts, with at least so many words. Opens and grows the file where that is needed."""
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            self._column = next((c for c in range(COLUMNS) if self._try_lock(c, 1)), COLUMNS - 1)
        if self._words is None or len(self._words) < words:
            size = self._grow(self._file, (words + _GROW * ROW) * WORD)
            self._maps.append(mmap.mmap(self._file, size))
            first, self._words = self._words is None, memoryview(self._maps[-1]).cast("Q")
            if first:
                self._forget_former_worker(self._words)
        return self._words

    def _grow(self, file: int, size: int) -> int:
        """Make the file so large, and return its size. It never shrinks, and it has no holes.

        A process is killed when it writes into mapped memory for which the disk has no room.
        """
        if not self._lock(_GROW_LOCK, 1):
            raise OSError("another worker does not release the file with the rates")
        try:
            found = os.fstat(file).st_size
            if found < size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, found, size - found)
            elif found < size:
                os.pwrite(file, bytes(size - found), found)
            return max(found, size)
        finally:
            self._unlock(_GROW_LOCK, 1)

    def _forget_former_worker(self, words: memoryview) -> None:
        """Set our column to 0: the worker that had it before may have been killed."""
        for start in range(HEAD + OPEN + self._column, len(words), ROW):
            if words[start]:
                words[start] = 0


_EMPTY = memoryview(bytes((BUCKETS + 2 * SECONDS) * WORD)).cast("Q")


def _wait(row: memoryview, buckets: int, second: int, surplus: int) -> int:
    """Return the seconds until more than ``surplus`` is older than a minute."""
    for passed in range(1, SECONDS + 1):
        surplus -= row[buckets + (second + passed) % SECONDS]
        if surplus < 0:
            return passed
    return SECONDS
