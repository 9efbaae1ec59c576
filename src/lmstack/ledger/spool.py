"""The spool file: keeps the records that the ledger does not take now, one JSON line for each.

Each worker has its own file, beside the ledger. When that folder takes nothing, it is below the temporary folder.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmstack.ledger.records import Record, dump, load


class Spool:
    """The spool files of one worker. ``pending`` counts the records in them. Methods may raise OSError."""

    def __init__(self, ledger: Path, worker: str) -> None:
        name = f"{ledger.name}.spool-{name_of(worker)}.jsonl"
        self._ledger = ledger
        self._places = [folder / name for folder in _folders(ledger)]
        self._locks: dict[Path, int] = {}
        self.pending = 0

    def append(self, records: Iterable[Record]) -> None:
        """Write records to the first place that takes them. Raise OSError when none does."""
        lines = [dump(record) + "\n" for record in records]
        data = "".join(lines).encode()
        for path in self._places:
            with contextlib.suppress(OSError):
                if path.parent != self._ledger.parent:
                    _make_private(path.parent)
                self._lock(path)
                _append_whole(path, data)
                self.pending += len(lines)
                return
        raise OSError(f"the spool file cannot be written, neither in {' nor in '.join(map(str, self._folders()))}")

    def files(self) -> list[Path]:
        """Return the files of this worker that exist."""
        return [path for path in self._places if path.exists()]

    def emptied(self) -> None:
        """Note that all records are in the ledger now."""
        self.pending = 0
        self.release_locks()

    def release_locks(self) -> None:
        """Release the locks that show that this worker is alive."""
        for handle in self._locks.values():
            with contextlib.suppress(OSError):
                os.close(handle)
        self._locks.clear()

    def _folders(self) -> list[Path]:
        return [path.parent for path in self._places]

    def _lock(self, path: Path) -> None:
        """Lock a file as long as this process lives, so that no other worker treats it as the file of a dead worker."""
        if path in self._locks:
            with contextlib.suppress(OSError):
                if os.fstat(self._locks[path]).st_ino == path.stat().st_ino:
                    return
            os.close(self._locks.pop(path))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another worker reads it now, or the file system has no locks
            os.close(handle)
            return
        self._locks[path] = handle


def left_behind(ledger: Path, alive: Iterable[str]) -> list[Path]:
    """Return the spool files of workers that are not in ``alive``."""
    living = {name_of(worker) for worker in alive}
    found = [path for folder in _folders(ledger) for path in folder.glob(f"{ledger.name}.spool-*.jsonl")]
    return [path for path in found if worker_of(ledger, path) not in living and _is_trusted(path, ledger)]


def name_of(worker: str) -> str:
    """Return a worker's name as part of a file name."""
    return worker.replace(":", "-").replace("/", "-")


def worker_of(ledger: Path, path: Path) -> str:
    """Return the worker in the name of a spool file, as ``name_of`` writes it."""
    return path.name.removeprefix(f"{ledger.name}.spool-").removesuffix(".jsonl")


def is_held(path: Path) -> bool:
    """Return whether a living worker has locked the file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # The file system has no locks: only time can tell.
        return False
    finally:
        os.close(handle)
    return False


def _is_trusted(path: Path, ledger: Path) -> bool:
    """Return whether only this user, or the owner of the ledger's folder, can have written the file.

    Everybody can write to /tmp.
    """
    try:
        file, folder = path.lstat(), path.parent.stat()
        owners = {os.getuid(), ledger.parent.stat().st_uid if path.parent == ledger.parent else os.getuid()}
    except OSError:
        return False
    shared = path.parent != ledger.parent and bool(folder.st_mode & 0o022)
    return stat.S_ISREG(file.st_mode) and {file.st_uid, folder.st_uid} <= owners and not shared


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a spool file. Skip a line that a crash has cut off."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                yield load(line)


def _append_whole(path: Path, data: bytes) -> None:
    """Write all of the data or nothing: half a line would spoil the next one.

    The file is unbuffered. A buffered file would try again at its close to write what has just failed.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(handle).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def _folders(ledger: Path) -> list[Path]:
    """Return the two places of a spool file. The second one has the ledger's path in its name.

    So no other stack on this machine takes over its files.
    """
    mark = hashlib.sha256(str(ledger.resolve()).encode()).hexdigest()[:16]
    return [ledger.parent, Path(tempfile.gettempdir()) / f"lmstack-spool-{os.getuid()}-{mark}"]


def _make_private(folder: Path) -> None:
    """Make the folder of the second place. Raise PermissionError when another user made it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
