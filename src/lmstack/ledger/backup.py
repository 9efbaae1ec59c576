"""A ledger as a tar stream, and back. Taken while the gateway runs; put back while it does not.

``litellm.db`` (SQLite's own online backup: one consistent moment, writers are not held up), ``ledger.json`` (what is in
it) and the spools, which are read first: what moves from a spool into the ledger meanwhile is in both, and a record that
is taken over twice counts once.
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
    """What was given is no backup of a ledger, or a damaged one."""


def save(ledger: Path, target: IO[bytes]) -> dict[str, Any]:
    """Write the ledger to ``target``; returns the summary: schema, requests, events still open, Unix time.

    FileNotFoundError when there is no ledger, sqlite3.Error and OSError as they come; nothing is left behind.
    """
    if not ledger.exists():
        raise FileNotFoundError(ledger)
    with _workshop(ledger) as place, tarfile.open(fileobj=target, mode="w|") as out:
        for path in spool.left_behind(ledger, ()):
            with contextlib.suppress(FileNotFoundError):  # taken over just now
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
    """What a tar of ``save`` holds, without touching any ledger; raises as ``load`` does."""
    with _workshop(saved) as place, saved.open("rb") as source:
        return _unpacked(source, place)


def load(ledger: Path, source: IO[bytes]) -> dict[str, Any]:
    """Replace the ledger by the one in ``source``; returns its summary. No proxy may be running.

    BackupError when it is none, LedgerVersionError when it is newer than this code: the ledger is then as it was.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with _workshop(ledger) as place:
        summary = _unpacked(source, place)
        # What belongs to the file that goes: its -wal and -shm, and what waited for it.
        for old in [*ledger.parent.glob(f"{ledger.name}-*"), *spool.left_behind(ledger, ())]:
            old.unlink(missing_ok=True)
        (place / DATABASE).replace(ledger)
        for path in place.glob(_SPOOLS):
            path.replace(ledger.parent / path.name)
    return summary


def _unpacked(source: IO[bytes], place: Path) -> dict[str, Any]:
    try:
        with tarfile.open(fileobj=source, mode="r|*") as given:
            for member in given:
                if member.name in (DATABASE, SUMMARY) or (fnmatch(member.name, _SPOOLS) and "/" not in member.name):
                    _extract(given, member, place / member.name)
    except (tarfile.TarError, EOFError) as error:
        raise BackupError(f"not readable: {error}") from None
    if not (place / DATABASE).exists():
        raise BackupError(f"it has no {DATABASE}")
    return check(place / DATABASE)


def check(path: Path) -> dict[str, Any]:
    """What a ledger file holds; BackupError when it is damaged, LedgerVersionError when it is too new."""
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
def _workshop(ledger: Path) -> Iterator[Path]:
    """A folder beside the ledger: on its disk, so that a file can be moved into place in one step."""
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
    """A plain file's content under a name of ours: a tar can name any path and link."""
    content = given.extractfile(member)
    if content is None:
        raise BackupError(f"{member.name} is no file")
    with target.open("wb") as stream:
        shutil.copyfileobj(content, stream)
        stream.flush()
        os.fsync(stream.fileno())


def main(argv: list[str]) -> int:
    """``save LEDGER`` writes to stdout, ``load LEDGER`` reads stdin and prints the summary; 1 and a line on stderr."""
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
