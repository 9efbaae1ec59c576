"""The exceptions of lmstack. An expected failure says what happened, where, and what to do. It has an exit code."""

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    MISSING_TOOL = 4
    UNHEALTHY = 5


EXIT_MEANINGS = {
    Exit.OK: "success",
    Exit.FAILED: "failure or interruption; the message says why and what to do",
    Exit.USAGE: "the command line is wrong: an unknown command, option, name or value",
    Exit.CONFIG: ".env, models.yaml or a configuration has errors; each one is listed with its line",
    Exit.MISSING_TOOL: "a program or package is missing or does not answer, for example the Docker engine",
    Exit.UNHEALTHY: "the gateway or a model is unhealthy, or a check has failed",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in a file or variable that the user wrote: where (file:line or variable), what, and how to fix it.

    A ``warning`` works, but perhaps not as the user expects.
    """

    where: str
    what: str
    fix: str = ""
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.fix})" if self.fix else "")


class LmError(Exception):
    """An expected failure. ``hint`` is the next step, if possible a command to paste."""

    exit_code = Exit.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LmError):
    """A command line that is wrong: an unknown command, option, name or value."""

    exit_code = Exit.USAGE


class ConfigError(LmError):
    """A configuration with errors. It lists all of them."""

    exit_code = Exit.CONFIG

    def __init__(self, message: str, hint: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message, hint)
        self.problems = problems


class MissingToolError(LmError):
    """A program or package that is missing or does not answer."""

    exit_code = Exit.MISSING_TOOL


class NoLedgerError(LmError):
    """There is no ledger, because no request was recorded yet."""


class UnknownQueryError(LmError):
    """The ledger is read by an older lmstack in a container, which does not know this query."""


class UnhealthyError(LmError):
    """A gateway that does not answer, or not as it should."""

    exit_code = Exit.UNHEALTHY


class ReaderLeftError(BrokenPipeError):
    """The reader of our output has closed it (head, grep -q). ``code`` is the exit code of the command."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


def invalid(problems: list[Problem] | tuple[Problem, ...]) -> ConfigError:
    """Return one error for a list of problems."""
    noun = "problem" if len(problems) == 1 else "problems"
    return ConfigError(f"{len(problems)} configuration {noun}", "", tuple(problems))
