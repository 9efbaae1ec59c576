"""The side file: what the ledger cannot take right now is kept here, one JSON line a record, and taken over later.

One file per worker, beside the ledger or, when that folder takes nothing, below the machine's temporary folder.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmstack.ledger.records import Record, dump, load


class Spool:
    """Append and take over; every method may raise OSError but ``unfinished``."""

    def __init__(self, ledger: Path, worker: str) -> None:
        name = f"{ledger.name}.spool-{worker.replace(':', '-').replace('/', '-')}.jsonl"
        self._ledger = ledger
        self._places = [folder / name for folder in _folders(ledger)]
        self.pending = 0

    def append(self, records: Iterable[Record]) -> None:
        """Keep records in the first place that takes them; OSError when none does."""
        lines = [dump(record) + "\n" for record in records]
        data = "".join(lines).encode()
        for path in self._places:
            with contextlib.suppress(OSError):
                if path.parent != self._ledger.parent:
                    _private(path.parent)
                _append_whole(path, data)
                self.pending += len(lines)
                return
        raise OSError("no place takes the spool")

    def files(self) -> list[Path]:
        """This worker's files that hold something, oldest place first."""
        return [path for path in self._places if path.exists()]


def left_behind(ledger: Path, alive: Iterable[str]) -> list[Path]:
    """Spools of workers that are gone."""
    living = {worker.replace(":", "-").replace("/", "-") for worker in alive}
    found = [path for folder in _folders(ledger) for path in folder.glob(f"{ledger.name}.spool-*.jsonl")]
    return [
        path for path in found if path.name.removeprefix(f"{ledger.name}.spool-").removesuffix(".jsonl") not in living
    ]


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
