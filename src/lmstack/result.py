"""What a command returns, and the one place that shows it: text for people, an envelope for programs."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from lmstack.errors import ConfigError, Exit, LmError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Result:
    """``data`` is what --json gives; ``lines`` is what a person reads; ``messages`` are remarks for both."""

    command: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    exit: Exit = Exit.OK


def failure(command: str, error: LmError) -> Result:
    """An expected error as a result: every problem, then the hint."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    listed = [{"where": p.where, "what": p.what, "fix": p.fix} for p in problems]
    data: dict[str, Any] = {"error": str(error), "hint": error.hint, "problems": listed}
    lines = [f"error: {error}"] + [f"  {p}" for p in problems] + ([f"  → {error.hint}"] if error.hint else [])
    return Result(command, data, tuple(lines), exit=error.exit_code)


def show(result: Result, as_json: bool, quiet: bool) -> None:
    """Print a result. Errors go to stderr as text, to stdout as JSON; --quiet leaves only errors."""
    if as_json:
        envelope = {
            "command": result.command,
            "ok": result.exit == Exit.OK,
            "data": result.data,
            "messages": list(result.messages),
        }
        print(json.dumps(envelope, indent=2, default=str))
        return
    failed = "error" in result.data
    if quiet and not failed:
        return
    for message in result.messages:
        say(f"note: {message}", sys.stderr)
    for line in result.lines:
        say(line, sys.stderr if failed else sys.stdout)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print text that may hold what a client sent: a task id must not move the cursor or set a colour."""
    print(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", line), file=stream, flush=True)


def table(
    header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: frozenset[int] = frozenset()
) -> tuple[str, ...]:
    """Aligned columns as lines; ``right`` holds the columns with numbers. The last column is cut to the terminal."""
    rows = [tuple(_SPACE.sub(" ", cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    room = terminal_width()
    out = []
    for row in [header, *rows]:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        out.append(line if room is None or len(line) <= room else line[: room - 1] + "…")
    return tuple(out)


def terminal_width() -> int | None:
    """Columns of the terminal, None when the output is no terminal: a pipe gets everything."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else None


def usd(amount: float | None) -> str:
    """A cost for people; unknown stays unknown."""
    if amount is None:
        return "unknown"
    if 0 < amount < 0.0000005:
        return "<$0.000001"
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.6f}".rstrip("0")
