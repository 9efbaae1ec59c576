"""The side file: what the ledger cannot take right now is kept here, one JSON line a record, and taken over later.

One file per worker, beside the ledger or, when that folder takes nothing, below the machine's temporary folder.
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
    """Append and take over; every method may raise OSError but ``unfinished``."""

    def __init__(self, ledger: Path, worker: str) -> None:
        name = f"{ledger.name}.spool-{name_of(worker)}.jsonl"
        self._ledger = ledger
        self._places = [folder / name for folder in _folders(ledger)]
        self._locks: dict[Path, int] = {}
        self.pending = 0

    def append(self, records: Iterable[Record]) -> None:
        """Keep records in the first place that takes them; OSError when none does."""
        lines = [dump(record) + "\n" for record in records]
        data = "".join(lines).encode()
        for path in self._places:
            with contextlib.suppress(OSError):
                if path.parent != self._ledger.parent:
                    _private(path.parent)
                self._hold(path)
                _append_whole(path, data)
                self.pending += len(lines)
                return
        raise OSError("no place takes the spool")

    def files(self) -> list[Path]:
        """This worker's files that hold something, oldest place first."""
        return [path for path in self._places if path.exists()]

    def emptied(self) -> None:
        """Everything in it is on the ledger."""
        self.pending = 0
        self.let_go()

    def let_go(self) -> None:
        """Give up the locks that tell others that this worker lives."""
        for handle in self._locks.values():
            os.close(handle)
        self._locks.clear()

    def _hold(self, path: Path) -> None:
        """Lock a file of ours for as long as this process lives, so that nobody takes it for a dead worker's."""
        if path in self._locks:
            with contextlib.suppress(OSError):
                if os.fstat(self._locks[path]).st_ino == path.stat().st_ino:
                    return
            os.close(self._locks.pop(path))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody reads it right now, or the file system knows no locks
            os.close(handle)
            return
        self._locks[path] = handle


def left_behind(ledger: Path, alive: Iterable[str]) -> list[Path]:
    """Spools of workers that are gone."""
    living = {name_of(worker) for worker in alive}
    found = [path for folder in _folders(ledger) for path in folder.glob(f"{ledger.name}.spool-*.jsonl")]
    return [path for path in found if worker_of(ledger, path) not in living and _is_trusted(path, ledger)]


def name_of(worker: str) -> str:
    """A worker's name as a part of a file's."""
    return worker.replace(":", "-").replace("/", "-")


def worker_of(ledger: Path, path: Path) -> str:
    """The worker in a spool's name, with what a file name may not hold replaced."""
    return path.name.removeprefix(f"{ledger.name}.spool-").removesuffix(".jsonl")


def is_held(path: Path) -> bool:
    """Whether a living worker has locked it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: the age of the file has to tell
        return False
    finally:
        os.close(handle)
    return False


def _is_trusted(path: Path, ledger: Path) -> bool:
    """Whether only this user, or the owner of the ledger's folder, can have written it: /tmp is open to everybody."""
    try:
        file, folder = path.lstat(), path.parent.stat()
        owners = {os.getuid(), ledger.parent.stat().st_uid if path.parent == ledger.parent else os.getuid()}
    except OSError:
        return False
    shared = path.parent != ledger.parent and bool(folder.st_mode & 0o022)
    return stat.S_ISREG(file.st_mode) and {file.st_uid, folder.st_uid} <= owners and not shared


def read(path: Path) -> Iterator[Record]:
    """Its records; a line that was cut off by a crash is passed over."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                yield load(line)


def _append_whole(path: Path, data: bytes) -> None:
    """All of it or nothing: on a full disk half a line would swallow the one that comes after it. Unbuffered, because
    a buffered file tries once more, at its close, to write what has just failed."""
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
    """Beside the ledger, else in a folder of this ledger alone: another stack on this machine must not take it over."""
    mark = hashlib.sha256(str(ledger.resolve()).encode()).hexdigest()[:16]
    return [ledger.parent, Path(tempfile.gettempdir()) / f"lmstack-spool-{os.getuid()}-{mark}"]


def _private(folder: Path) -> None:
    """Make the folder of the second place; PermissionError when somebody else made it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
