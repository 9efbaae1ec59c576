"""Reading the log files of the local runtime, and choosing lines in either."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from lmstack.runtime import base

LOG_BACKUPS = 5


def wanted_lines(lines: Iterator[str], query: base.LogQuery) -> list[str]:
    """Filter by time, level and call id. Lines without a time of their own belong to the one before."""
    cut = None if query.since is None else datetime.fromtimestamp(time.time() - query.since, timezone.utc)
    keep, kept = cut is None, []
    for line in lines:
        when = line_time(line)
        if when is not None and cut is not None:
            keep = when >= cut
        if keep and _matches(line, query):
            kept.append(line)
    return kept if query.tail is None else kept[max(0, len(kept) - query.tail) :]


_JSON_TIME = re.compile(r'"timestamp": ?"([0-9T:.\-+Z ]+)"')
_LEVEL = re.compile(r'"level": ?"(\w+)"|\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b')
_RANK = {"DEBUG": 0, "INFO": 1, "WARNING": 2, "ERROR": 3, "CRITICAL": 4}


def line_time(line: str) -> datetime | None:
    """The time that a JSON log line carries; LiteLLM writes local time without a zone."""
    found = _JSON_TIME.search(line)
    if not found:
        return None
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(found.group(1).replace("Z", "+00:00")).astimezone(timezone.utc)
    return None


def _matches(line: str, query: base.LogQuery) -> bool:
    if query.call_id and query.call_id not in line:
        return False
    if query.level is None:
        return True
    found = _LEVEL.search(line)
    level = (found.group(1) or found.group(2)).upper() if found else "INFO"
    return _RANK.get(level, 1) >= _RANK[query.level.upper()]


def stored_lines(path: Path) -> Iterator[str]:
    rotated = [path.with_name(f"{path.name}.{n}") for n in range(LOG_BACKUPS, 0, -1)]
    for one in [*rotated, path]:
        with contextlib.suppress(FileNotFoundError), one.open("rb") as stream:
            # One line may hold anything a provider sent; a file may be larger than memory is worth.
            yield from (line.rstrip(b"\r\n").decode("utf-8", "replace") for line in stream)


def follow(path: Path, query: base.LogQuery) -> Iterator[str]:
    while not path.exists():
        time.sleep(0.2)
    stream = path.open(encoding="utf-8", errors="replace")
    stream.seek(0, os.SEEK_END)
    while True:
        line = stream.readline()
        if line:
            plain = base.LogQuery(level=query.level, call_id=query.call_id)
            yield from wanted_lines(iter([line.rstrip("\n")]), plain)
        elif path.exists() and path.stat().st_ino != os.fstat(stream.fileno()).st_ino:
            stream.close()
            stream = path.open(encoding="utf-8", errors="replace")
        else:
            time.sleep(0.2)  # the pace of a tail


_ERROR = re.compile(r"\b(?:[A-Z]\w*(?:Error|Exception)|error|ERROR|CRITICAL|Error)\b")


def last_error(lines: list[str]) -> str:
    """The last line that names an error, without the frames of its traceback; else the last line."""
    plain = [line.strip() for line in lines if line.strip() and not line.startswith(("  ", "Traceback"))]
    named = [line for line in plain if _ERROR.search(line)]
    return (named or plain or [""])[-1][:300]
