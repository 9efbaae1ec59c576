"""What a command returns, and how it is shown: as text for people, as JSON for programs."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from lmstack.errors import ConfigError, Exit, LmError

# Control characters, characters that change the direction of text or have no width, and halves of surrogate pairs.
# A client could use them to make one text look like another.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
# A command of lm in a message: after a word or mark that introduces a command, not in the middle of a sentence.
_OURS = re.compile(r"(?P<lead>^|: |· |, |\(|\$\(|; )lm (?P<rest>(?!-C )[a-z]+)(?![\w.])")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONG = re.compile(r"\S{300,}")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Result:
    """What a command returns. ``data`` is for --json, ``lines`` are for people, ``messages`` are remarks for both.

    ``errors`` is what --quiet prints when the exit code is not 0; without it, all lines. ``exit`` is one of ``Exit``, or the exit code of the program that `lm run` ran.
    """

    command: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    exit: int = Exit.OK
    errors: tuple[str, ...] = ()


def failure(command: str, error: LmError) -> Result:
    """Return an expected error as a result: the message, every problem, and the hint."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    listed = [{"where": p.where, "what": p.what, "fix": p.fix} for p in problems]
    data: dict[str, Any] = {"error": _bounded(str(error)), "hint": _bounded(error.hint), "problems": listed}
    lines = [f"error: {error}"] + [f"  {p}" for p in problems] + ([f"  → {error.hint}"] if error.hint else [])
    lines = [_bounded(line) for line in lines]
    return Result(command, data, tuple(lines), exit=error.exit_code)


def _bounded(text: str) -> str:
    """Shorten words above 300 characters. An error repeats what the user typed, and that may be a whole file."""
    return _LONG.sub(lambda word: f"{word[0][:200]}…", text)


def show(result: Result, as_json: bool, quiet: bool) -> None:
    """Print a result. Text of errors goes to stderr, JSON always to stdout. With ``quiet``, print only errors."""
    if as_json:
        envelope = {
            "command": result.command,
            "ok": result.exit == Exit.OK,
            "data": result.data,
            "messages": list(result.messages),
        }
        print(_dumped(envelope))
        return
    failed = "error" in result.data
    if quiet and not failed:
        for line in (result.errors or result.lines) if result.exit != Exit.OK else ():
            say(line, sys.stderr)
        return
    for message in result.messages:
        say(f"note: {message}", sys.stderr)
    for line in result.lines:
        say(line, sys.stderr if failed else sys.stdout)


def _dumped(envelope: dict[str, Any]) -> str:
    """Return JSON that every parser accepts. Half of a surrogate pair, which a file name may hold, is replaced."""
    text = json.dumps(envelope, indent=2, default=str)
    if "\\ud" not in text:
        return text
    sound = json.dumps(envelope, ensure_ascii=False, default=str).encode(errors="replace")
    return json.dumps(json.loads(sound), indent=2)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line. It may contain a client's text, which must not move the cursor or set a colour."""
    try:
        print(clean(line), file=stream, flush=True)
    except BrokenPipeError:
        if stream is not sys.stderr:  # an unread remark is no reason to stop
            raise


def clean(text: str) -> str:
    """Replace characters that control a terminal or are invisible."""
    return text if text.isascii() and text.isprintable() else _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def uncoloured(line: str) -> str:
    """Remove colours from a log line."""
    return _COLOUR.sub("", line)


def naming_folder(text: str, flag: str) -> str:
    """Add ``flag`` (`` -C FOLDER``) to each lm command of a hint, so that it works from every folder."""
    return _OURS.sub(lambda found: f"{found['lead']}lm{flag} {found['rest']}", text)


def table(
    header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: frozenset[int] = frozenset()
) -> tuple[str, ...]:
    """Return aligned columns as lines, cut to the width of the terminal. ``right`` holds the columns of numbers.

    rich gives the widths: a Chinese character takes two cells. The tables of rich are not used, because they cost 70 ms
    of CPU. Measured with 20 interleaved runs of `lm models`: 216 ms (median) like this, 284 ms with rich.table. The limit
    is 250 ms. Besides, rich.table takes a name in brackets for markup.
    """
    rows = [tuple(clean(_SPACE.sub(" ", cell)) for cell in row) for row in rows]
    widths = [max(cells(row[i]) for row in [header, *rows]) for i in range(len(header))]
    room = terminal_width()
    out = []
    for row in [header, *rows]:
        columns = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - cells(cell))
            columns.append(gap + cell if i in right else cell + gap)
        out.append(_cut("  ".join(columns).rstrip(), room))
    return tuple(out)


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cut(line: str, room: int | None) -> str:
    if room is None or cells(line) <= room:
        return line
    if line.isascii():
        return line[: room - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(line, room - 1).rstrip() + "…"


def terminal_width() -> int | None:
    """Return the columns of the terminal; None for a pipe, which gets whole lines."""
    # A terminal without a size (a serial line, some CI systems) reports 0.
    return (os.get_terminal_size(sys.stdout.fileno()).columns or None) if sys.stdout.isatty() else None


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 answer, 2 answers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def usd(amount: float | None) -> str:
    """Return an amount in US dollars for people; None is unknown."""
    if amount is None:
        return "unknown"
    if 0 < amount < 0.0000005:
        return "<$0.000001"
    if amount >= 1 or amount == 0:
        return f"${amount:.2f}"
    whole, _, cents = f"{amount:.6f}".rstrip("0").partition(".")
    return f"${whole}.{cents:0<2}"
