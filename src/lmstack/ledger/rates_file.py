"""The layout of the file that counts the requests, tokens and open requests of keys, and a reader for other programs than the gateway.

gateway/rates.py writes it. A process of the gateway must not use ``read``. When it closes the file, the kernel drops all locks
that the process has on it, and its open requests count no more.
"""

import fcntl
import os
import struct
from pathlib import Path

SECONDS = 60
COLUMNS = 64  # workers of one machine, with those that are being replaced
WORD = 8
# A row: the last second, both sums, the buckets of requests and of tokens, the open requests of each worker.
AT, REQUESTS, TOKENS = 0, 1, 2
BUCKETS = 3
TOKEN_BUCKETS = BUCKETS + SECONDS
OPEN = TOKEN_BUCKETS + SECONDS
ROW = OPEN + COLUMNS
HEAD = -(-COLUMNS // WORD)  # words before the first row: one byte for the lock of each worker


def beside(ledger: Path) -> Path:
    """Return where the file of a ledger is."""
    return ledger.with_name(f"{ledger.name}.rates")


def read(ledger: Path, key_id: int, now: float) -> dict[str, int] | None:
    """Return the requests (``rpm``) and tokens (``tpm``) of a key in the last minute, and its open requests (``parallel``).

    None when the file cannot be read, or has no row of the key: then no request was counted on this machine.
    """
    try:
        file = os.open(beside(ledger), os.O_RDONLY)
    except OSError:
        return None
    try:
        found = os.pread(file, ROW * WORD, (HEAD + key_id * ROW) * WORD)
        if len(found) < ROW * WORD:
            return None
        row = struct.unpack(f"={ROW}Q", found)
        return {**_of_the_last_minute(row, int(now)), "parallel": _open(file, row)}
    except OSError:
        return None
    finally:
        os.close(file)


def _of_the_last_minute(row: tuple[int, ...], second: int) -> dict[str, int]:
    """Return the sums of the buckets that are not older than a minute. Bucket n is of the last second with this remainder."""
    last = row[AT]
    young = [at % SECONDS for at in range(max(last, second) - SECONDS + 1, last + 1)]
    return {
        "rpm": sum(row[BUCKETS + place] for place in young),
        "tpm": sum(row[TOKEN_BUCKETS + place] for place in young),
    }


def _open(file: int, row: tuple[int, ...]) -> int:
    """Return the open requests of the workers that live: each of them holds the lock of its column."""
    return sum(row[OPEN + column] for column in range(COLUMNS) if row[OPEN + column] and _is_locked(file, column))


def _is_locked(file: int, column: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, column)
    except OSError:
        return True
    fcntl.lockf(file, fcntl.LOCK_UN, 1, column)
    return False
