"""The keys that one worker accepts: read from the ledger by a thread of its own, and looked up without any I/O.

The thread reads one number several times a second, and only the keys that have changed. While the ledger cannot be read, the
keys that are known stay valid. Before the first reading no key is known, and ``is_read`` is False.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from pathlib import Path

from lmstack.keys.key import Key
from lmstack.keys.secret import digest
from lmstack.ledger import keys
from lmstack.ledger.ledger_file import inode_of

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # a revoked key is refused within a second
WARN_SECONDS = 60.0


class Keyring:
    """Looks up keys by their secret. ``find`` may be called from any thread."""

    def __init__(self, path: Path, poll: float = POLL_SECONDS) -> None:
        self._path, self._poll = path, poll
        self._by_hash: dict[str, tuple[Key, float | None]] = {}
        self._conn: sqlite3.Connection | None = None
        self._inode, self._next_warning = 0, 0.0
        self._version: int | None = None  # of the file that is open; None before its first reading
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_read = False

    def start(self) -> None:
        """Read the keys, then keep reading what changes in a thread."""
        self._guarded_read()
        self._thread = threading.Thread(target=self._run, name="lmstack-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def find(self, secret: str) -> Key | None:
        """Return the key that has a secret; None for an unknown or a rotated one.

        The key may be revoked or expired. How long the search takes depends on the hash only, which is no secret's beginning.
        """
        found = self._by_hash.get(digest(secret))
        if found is None or (found[1] is not None and time.time() >= found[1]):
            return None
        return found[0]

    def read(self) -> None:
        """Read what has changed. Raises sqlite3.Error and OSError, and then the keys stay as they are."""
        inode = inode_of(self._path)
        if self._conn is None or inode != self._inode:
            self._open(inode)
        if self._conn is None:
            self._by_hash, self.is_read = {}, True  # no ledger: no key was ever made
            return
        try:
            version = keys.current_version(self._conn)
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            self._by_hash, self.is_read = {}, True  # the writer has not made the tables yet
            return
        if version != self._version:
            known = self._version or 0
            self._load(self._conn, known if version > known else 0)
        self.is_read = True

    def _load(self, conn: sqlite3.Connection, after: int) -> None:
        version, changed = keys.load(conn, after)
        names = {key.id for key, _ in changed}
        kept = {hash_: found for hash_, found in self._by_hash.items() if after and found[0].id not in names}
        for key, hashes in changed:
            kept |= {hash_: (key, until) for hash_, until in hashes.items()}
        self._by_hash, self._version = kept, version  # a search sees the old keys or the new ones

    def _open(self, inode: int) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn, self._inode, self._version = None, inode, None
        if inode:
            uri = f"{self._path.resolve().as_uri()}?mode=ro"
            self._conn = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False)

    def _guarded_read(self) -> None:
        try:
            self.read()
        except Exception as error:
            with contextlib.suppress(Exception):
                if time.monotonic() >= self._next_warning:
                    self._next_warning = time.monotonic() + WARN_SECONDS
                    log.warning("lmstack: keys cannot be read: %s; the known ones stay valid", error)

    def _run(self) -> None:
        while not self._stop.wait(self._poll):
            self._guarded_read()
        if self._conn is not None:
            self._conn.close()
