"""Run other programs. Only this module does: with argv lists, a time-out, and secrets only in the environment."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmstack.errors import LmError, MissingToolError


@dataclass(frozen=True, slots=True)
class Finished:
    """The exit code and the output of a program."""

    code: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    show: bool = False,
    given: str | Path | None = None,
    into: Path | None = None,
) -> Finished:
    """Run a program, wait for it, and return its exit code and output.

    ``show`` sends the output to the terminal (stderr) instead of capturing it. ``given`` is the standard input: text or a
    file. ``into`` is a file for the standard output. Raises MissingToolError when the program is missing. Raises LmError on
    a time-out and, with ``check``, on a non-zero exit.
    """
    source: Any = subprocess.PIPE if isinstance(given, str) else subprocess.DEVNULL
    output: Any = sys.stderr if show else subprocess.PIPE
    try:
        with contextlib.ExitStack() as files:
            source = files.enter_context(given.open("rb")) if isinstance(given, Path) else source
            output = files.enter_context(into.open("wb")) if into else output
            process = subprocess.Popen(
                list(argv), env=_environment(env), cwd=cwd, text=True, errors="replace", stdout=output,
                stderr=sys.stderr if show else subprocess.PIPE, stdin=source,
            )  # fmt: skip
    except FileNotFoundError:
        raise MissingToolError(f"'{argv[0]}' is not installed or not on PATH") from None
    except PermissionError:
        raise MissingToolError(f"'{argv[0]}' cannot be executed") from None
    try:
        out, err = process.communicate(given if isinstance(given, str) else None, timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        raise LmError(f"'{quoted(argv)}' did not finish within {timeout:g} s") from None
    except BaseException:
        _end(process)
        raise
    finished = Finished(process.returncode, out or "", err or "")
    if check and finished.code:
        tail = (finished.stderr or finished.stdout).strip().splitlines()[-8:]
        told = "".join(f"\n    {line[:300]}{'…' if len(line) > 300 else ''}" for line in tail)
        raise LmError(f"'{quoted(argv)}' ended with status {finished.code}{told}")
    return finished


def start_detached(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> int:
    """Start a program that goes on when lm ends, in its own session; return its pid."""
    # Other users must not read ledger and logs. An open umask of the user's does not count.
    with open(log, "ab", opener=_private) as stream:
        process = subprocess.Popen(
            list(argv), env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            umask=0o077,
        )  # fmt: skip
    return process.pid


def lines(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Iterator[str]:
    """Return the output of a program line by line, until it ends. The program ends with the caller."""
    process = subprocess.Popen(
        list(argv), env=_environment(env), cwd=cwd, text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )  # fmt: skip
    assert process.stdout is not None  # noqa: S101 - for the type checker
    try:
        for line in process.stdout:
            yield line.rstrip("\n")
    finally:
        _end(process)


def interactive(argv: Sequence[str]) -> int:
    """Run a program on the user's terminal, such as an editor, until it ends; return its exit code.

    Ctrl-C belongs to that program while it runs. Raises MissingToolError when it cannot be started.
    """
    try:
        process = subprocess.Popen(list(argv))
    except OSError as error:
        raise MissingToolError(f"'{argv[0]}' cannot be started: {error.strerror}") from None
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def quoted(argv: Sequence[str]) -> str:
    """Return an argv as text for a shell. An argv never holds a secret."""
    return shlex.join(argv)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _environment(env: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if env is None else {**os.environ, **env}


def _end(process: "subprocess.Popen[str]") -> None:
    for sig in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return
