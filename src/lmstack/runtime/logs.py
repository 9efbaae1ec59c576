"""Log files of the local runtime, and the choice of log lines in both runtimes."""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from lmstack.runtime import base

LOG_BACKUPS = 5
FOLLOW_SECONDS, LOOK_SECONDS = 0.2, 1.0


def wanted_lines(lines: Iterator[str], query: base.LogQuery) -> list[str]:
    """Return the lines that match. A line without a time belongs to the line before it."""
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
    """Return the time of a JSON log line, None when it has none. LiteLLM writes local time without a zone."""
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


def stored_lines(path: Path, start: int = 0) -> Iterator[str]:
    """Return the lines of a log file, its rotated files first. ``start`` skips that many bytes of the present file."""
    rotated = [path.with_name(f"{path.name}.{n}") for n in range(LOG_BACKUPS, 0, -1)]
    if start and path.exists() and path.stat().st_size >= start:
        rotated = []
    else:
        start = 0  # the file was rotated since
    for one in [*rotated, path]:
        with contextlib.suppress(FileNotFoundError), one.open("rb") as stream:
            stream.seek(start)
            # Line by line: a file may be too large for memory. Any byte may come: a provider's text can be in it.
            yield from (line.rstrip(b"\r\n").decode("utf-8", "replace") for line in stream)


def follow(path: Path, query: base.LogQuery) -> Iterator[str]:
    """Return the chosen lines that are added to a log file from now on, until ``query.until`` returns True."""
    plain = base.LogQuery(level=query.level, call_id=query.call_id)
    for line in _new_lines(path, _Ended(query.until)):
        yield from wanted_lines(iter([line.rstrip(b"\r\n").decode("utf-8", "replace")]), plain)


def _new_lines(path: Path, ended: Callable[[], bool]) -> Iterator[bytes]:
    stream = path.open("rb") if path.exists() else None
    try:
        if stream is not None:
            stream.seek(0, os.SEEK_END)
        while True:
            last = ended()  # before the read: what the program wrote at its end is shown too
            line = stream.readline() if stream else b""
            if line:
                yield line
            elif path.exists() and (stream is None or path.stat().st_ino != os.fstat(stream.fileno()).st_ino):
                if stream:
                    stream.close()
                stream = path.open("rb")
            elif last:
                return
            else:
                time.sleep(FOLLOW_SECONDS)
    finally:
        if stream:
            stream.close()


class _Ended:
    """Asks at most once a second whether the following ends. The answer costs more than a look at a file."""

    def __init__(self, until: Callable[[], bool] | None) -> None:
        self._until, self._next = until, 0.0

    def __call__(self) -> bool:
        if self._until is None or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + LOOK_SECONDS
        return self._until()


_ERROR = re.compile(r"\b(?:[A-Z]\w*(?:Error|Exception)|SystemExit|error|ERROR|CRITICAL|Error)\b")
# These lines about a dead worker come last and do not name the reason.
_NO_REASON = re.compile(r"Unexpected exit from worker|before it had started; the server stops")
_CAUSED = "The above exception was the direct cause of the following exception:"


def last_error(lines: list[str]) -> str:
    """Return the last line that names an error, with its cause where a traceback gives one; else the last line."""
    plain = [line for text in lines for line in _message_lines(text) if line.strip() and not _is_frame(line)]
    named = [
        n for n, line in enumerate(plain) if _ERROR.search(line) and not _NO_REASON.search(line) and line != _CAUSED
    ]
    if not named:
        told = [line for line in plain if not _NO_REASON.search(line)]
        return (told or plain or [""])[-1].strip()[:300]
    found = named[-1]
    cause = plain[found - 2].strip() if found > 1 and plain[found - 1] == _CAUSED else ""
    return plain[found].strip()[:300] + (f" (cause: {cause[:300]})" if cause else "")


def _message_lines(line: str) -> list[str]:
    """Return the text of a JSON log line, with its traceback, as lines; any other line as it is."""
    if not line.startswith("{"):
        return [line]
    try:
        entry = json.loads(line)
    except ValueError:
        return [line]
    level = entry.get("level", "")
    return [f"{level}: {entry.get('message', '')}", *str(entry.get("stacktrace") or "").splitlines()]


def _is_frame(line: str) -> bool:
    return line.startswith(("  ", "Traceback"))
