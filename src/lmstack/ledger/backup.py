"""Save a ledger as a tar stream, while the gateway runs, and restore it, while the gateway does not run.

The tar holds ``litellm.db``, ``ledger.json`` (a summary), and the spool files. SQLite's online backup gives one
consistent copy and delays no writer. The spool files are read first: a record may then be in both places, and counts once.
"""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from lmstack.ledger import queries, schema, spool

DATABASE, SUMMARY, _SPOOLS = "litellm.db", "ledger.json", "*.spool-*.jsonl"


class BackupError(Exception):
    """The file is not a backup of a ledger, or it is damaged."""


def save(ledger: Path, target: IO[bytes]) -> dict[str, Any]:
    """Write the ledger to ``target``. Return a summary: schema, requests, events that wait, Unix time.

    Raises FileNotFoundError without a ledger, sqlite3.Error or OSError. Leaves no files behind.
    """
    if not ledger.exists():
        raise FileNotFoundError(ledger)
    with _temporary_folder(ledger) as place, tarfile.open(fileobj=target, mode="w|") as out:
        for path in spool.left_behind(ledger, ()):
            with contextlib.suppress(FileNotFoundError):  # its records moved into the ledger just now
                add(out, path.name, path.read_bytes())
        copy = place / DATABASE
        with (
            contextlib.closing(queries.open_ledger(ledger)) as source,
            contextlib.closing(sqlite3.connect(copy)) as made,
        ):
            source.backup(made)
        summary = check(copy)
        add(out, SUMMARY, json.dumps(summary).encode())
        out.add(copy, DATABASE)
    return summary


def check_saved(saved: Path) -> dict[str, Any]:
    """Return the summary of a tar of ``save``. Changes no ledger. Raises the same errors as ``load``."""
    with _temporary_folder(saved) as place, saved.open("rb") as source:
        return _unpacked(source, place)


def load(ledger: Path, source: IO[bytes]) -> dict[str, Any]:
    """Replace the ledger with the one in ``source``. Return its summary. The proxy must not run.

    Raises BackupError for a bad backup, LedgerVersionError for a newer one. Then the ledger is unchanged.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(ledger) as place:
        summary = _unpacked(source, place)
        # The companion files -wal and -shm, and the spool files, belong to the old ledger.
        for old in [*ledger.parent.glob(f"{ledger.name}-*"), *spool.left_behind(ledger, ())]:
            old.unlink(missing_ok=True)
        (place / DATABASE).replace(ledger)
        for path in place.glob(_SPOOLS):
            path.replace(ledger.parent / path.name)
    return summary


def _unpacked(source: IO[bytes], place: Path) -> dict[str, Any]:
    try:
        with tarfile.open(fileobj=source, mode="r|") as given:
            for member in given:
                if member.name in (DATABASE, SUMMARY) or (fnmatch(member.name, _SPOOLS) and "/" not in member.name):
                    _extract(given, member, place / member.name)
    except (tarfile.TarError, EOFError) as error:
        raise BackupError(f"not readable: {error}") from None
    if not (place / DATABASE).exists():
        raise BackupError(f"it has no {DATABASE}")
    return check(place / DATABASE)


def check(path: Path) -> dict[str, Any]:
    """Return the summary of a ledger. Raise BackupError when it is damaged, LedgerVersionError when it is too new."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        try:
            verdict = str(conn.execute("PRAGMA quick_check(1)").fetchone()[0])
            if verdict != "ok":
                raise BackupError(f"the database is damaged: {verdict}")
            schema.check_version(conn)
            (number,) = conn.execute("SELECT MAX(number) FROM migrations").fetchone()
            (requests,) = conn.execute("SELECT COUNT(*) FROM requests").fetchone()
            (waiting,) = conn.execute("SELECT COUNT(*) FROM outbox WHERE state IN ('pending', 'leased')").fetchone()
        except sqlite3.DatabaseError as error:
            raise BackupError(f"the database is damaged: {error}") from None
    return {"schema": number, "requests": requests, "waiting_events": waiting, "at": time.time()}


@contextlib.contextmanager
def _temporary_folder(ledger: Path) -> Iterator[Path]:
    """Make a folder beside the ledger. On the same disk, a file is moved into place in one step."""
    made = Path(tempfile.mkdtemp(dir=ledger.parent, prefix=".backup-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def add(out: tarfile.TarFile, name: str, content: bytes, mode: int = 0o600) -> None:
    """Put bytes into a tar under a name."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), int(time.time()), mode
    out.addfile(entry, io.BytesIO(content))


def _extract(given: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write the content of a regular file to ``target``. A tar can hold links, and files with holes of any size."""
    content = given.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise BackupError(f"{member.name} is not a regular file")
    with target.open("wb") as stream:
        shutil.copyfileobj(content, stream)
        stream.flush()
        os.fsync(stream.fileno())


def main(argv: list[str]) -> int:
    """Run ``save LEDGER`` (to stdout) or ``load LEDGER`` (from stdin). Return 1 and print one line on stderr when it fails."""
    word, ledger = argv
    try:
        if word == "save":
            save(Path(ledger), sys.stdout.buffer)
        else:
            print(json.dumps(load(Path(ledger), sys.stdin.buffer)))
    except (OSError, sqlite3.Error, BackupError, schema.LedgerVersionError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
