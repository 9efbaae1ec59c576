"""Turn every failure of a command into a result: expected errors, wrong usage, Ctrl-C, errors of the system, bugs."""

import re
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import typer

from lmstack.config.spelling import did_you_mean
from lmstack.errors import Exit, LmError, UsageError
from lmstack.result import Result, failure

# Some releases of Typer contain click, others import it. This is the error class of both.
WrongUsage: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def execute(name: str, call: Callable[[], Result]) -> Result:
    """Run a command. A failure becomes a result; a bug also prints its traceback on stderr."""
    try:
        return call()
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and reader_left():
            raise
        return failed(name, error)


def reader_left() -> bool:
    """Return whether the broken pipe is standard output, and not a connection to another process."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return False


def failed(name: str, error: BaseException) -> Result:
    """Return an exception as a result. For a bug, also print the traceback on stderr."""
    if isinstance(error, LmError):
        return failure(name, error)
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, typer.Abort) and _interrupted(error)):
        return Result(name, {"error": "interrupted", "hint": "", "problems": []}, ("interrupted",), exit=Exit.FAILED)
    if isinstance(error, typer.Abort):
        print(file=sys.stderr)  # end the line of the question
        hint = f"answer it on a terminal, or give an option such as --yes; see: lm {name} --help"
        return failure(name, LmError("a question was not answered; nothing was changed", hint))
    if isinstance(error, OSError) and error.strerror:
        about = f"{error.filename}: " if error.filename else ""
        hint = f"check it with: ls -ld {shlex.quote(str(error.filename))}" if about else ""
        return failure(name, LmError(f"{about}{error.strerror}", hint))
    import traceback

    traceback.print_exception(error)
    kind = type(error).__name__
    bug = failure(name, LmError(f"a bug in lm: {kind}", "report it, with the lines above and: lm doctor --report FILE"))
    return replace(bug, data={**bug.data, "class": kind})


def _interrupted(error: BaseException) -> bool:
    """Return whether Ctrl-C ended a question, and not the end of the input."""
    return isinstance(error.__context__, KeyboardInterrupt)


def wrong_usage(error: Any) -> Result:
    """Return a usage error of Typer as a result, in plain words."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "lm"
    text = "Missing command." if shows_help(error) else error.format_message()
    text = _in_our_words(" ".join(text.split()))
    choice = re.search(r"'([^']*)' is not one of (.+)", text)
    meant = did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2])) if choice else ""
    wrong = UsageError(short(text), f"{meant}{' ' if meant else ''}see: {path} --help")
    return failure(path.removeprefix("lm ") or "lm", wrong)


_PYDANTIC = (
    (r": Value error, ", ": "),
    (r"Input should be a valid integer.*", "it must be a whole number"),
    (r"Input should be a valid number.*", "it must be a number"),
    (r"Input should be greater than or equal to (\S+)", r"it must be \1 or more"),
    (r"Input should be less than or equal to (\S+)", r"it must be \1 or less"),
)


def _in_our_words(text: str) -> str:
    """Return a message of Typer without pydantic's terms."""
    for found, replacement in _PYDANTIC:
        text = re.sub(found, replacement, text)
    return text


def shows_help(error: Exception) -> bool:
    """Return whether a group was called without a command; then people see its help."""
    return type(error).__name__ == "NoArgsIsHelpError"


def check_text(words: Sequence[str]) -> None:
    """Raise UsageError for a word that is not UTF-8. It could be neither stored nor shown."""
    for number, word in enumerate(words, 1):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"word {number} of the command line is not UTF-8", "type it again, or rename the file"
            ) from None


def short(text: str) -> str:
    """Shorten what the user typed, for an error message."""
    return text if len(text) <= 300 else f"{text[:300]}…"
