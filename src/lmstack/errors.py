"""One exception tree. An expected failure says what, where, and how to mend it, and knows its exit code."""

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
    Exit.OK: "it worked",
    Exit.FAILED: "it failed, or was interrupted; the message says why and what to do",
    Exit.USAGE: "the command line is wrong: an unknown command, option, name or value",
    Exit.CONFIG: "what stands in .env, models.yaml or a config cannot be used; every problem is listed with its line",
    Exit.MISSING_TOOL: "a program or package is missing or does not answer, such as the Docker engine",
    Exit.UNHEALTHY: "the gateway, a model or a check is not well",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in what the user wrote: where (file:line or variable), what, and the mend.
    A ``warning`` works, but not as its writer may think."""

    where: str
    what: str
    fix: str = ""
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.fix})" if self.fix else "")


class LmError(Exception):
    """An expected failure. ``hint`` is the next step, ideally a command to paste."""

    exit_code = Exit.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LmError):
    """A command was asked for something that does not exist."""

    exit_code = Exit.USAGE


class ConfigError(LmError):
    """What the user wrote cannot be used; all problems at once."""

    exit_code = Exit.CONFIG

    def __init__(self, message: str, hint: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message, hint)
        self.problems = problems


class MissingToolError(LmError):
    """A program or package that is needed is not there or does not answer."""

    exit_code = Exit.MISSING_TOOL


class NoLedgerError(LmError):
    """Nothing was recorded yet."""


class UnhealthyError(LmError):
    """The gateway runs, or should, but does not answer as it must."""

    exit_code = Exit.UNHEALTHY


class ReaderLeftError(BrokenPipeError):
    """Whoever reads our output has left (head, grep -q); ``code`` is the exit code that the command has all the same."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


def invalid(problems: list[Problem] | tuple[Problem, ...]) -> ConfigError:
    """One error for a list of problems."""
    noun = "problem" if len(problems) == 1 else "problems"
    return ConfigError(f"{len(problems)} configuration {noun}", "", tuple(problems))
