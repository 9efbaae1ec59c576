"""The options of every command: they may come before the command, after its group, or at the end."""

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from lmstack.cli.failures import short
from lmstack.errors import UsageError
from lmstack.runtime.base import Progress
from lmstack.stack.project import Project, find_project
from lmstack.stack.registry import started_folders


@dataclass(frozen=True, slots=True)
class Shared:
    """The shared options, merged from all places."""

    as_json: bool
    quiet: bool
    folder: str | None


@dataclass(frozen=True, slots=True)
class Context:
    """The first argument of every command: its folder, and how to report progress."""

    project: Project
    say: Progress
    as_json: bool
    quiet: bool

    @property
    def may_ask(self) -> bool:
        """Return whether a person can answer a question."""
        return sys.stdin.isatty() and not self.quiet and not self.as_json

    @property
    def dir_flag(self) -> str:
        """Return `` -C FOLDER``, quoted for a shell, or "" when lm finds this folder from the current one."""
        try:
            found = find_project(None).root == self.project.root
        except OSError:  # the current folder is gone
            found = False
        return "" if found else f" -C {shlex.quote(str(self.project.root))}"


def places(ctx: typer.Context | None) -> Iterator[dict[str, Any]]:
    """Yield the options of the command, of its group, and of lm itself."""
    while ctx is not None:
        yield ctx.params
        ctx = ctx.parent  # type: ignore[assignment]


def shared(ctx: typer.Context) -> Shared:
    """Merge the shared options. Raises UsageError when two places name different folders."""
    found = list(places(ctx))
    folders = [place["folder"] for place in found if place.get("folder") is not None]
    if len({os.path.abspath(folder) for folder in folders}) > 1:  # noqa: PTH100 - resolves no link and raises nothing
        raise UsageError(f"--dir names two folders: {' and '.join(reversed(folders))}", "give it once")
    return Shared(
        any(place.get("as_json") for place in found),
        any(place.get("quiet") for place in found),
        folders[0] if folders else None,
    )


def project_of(folder: str | None, may_be_new: bool = False) -> Project:
    """Return the stack's folder. Raises UsageError when the folder that was given, or the current one, is not a folder.

    ``may_be_new``: the command creates the folder.
    """
    if folder == "":
        raise UsageError("--dir is empty", "give the stack's folder, or leave --dir out")
    try:
        found = find_project(None if folder is None else Path(folder))
        # A stack may still run although its folder was deleted: `lm down --dir` must reach it.
        missing = not found.root.exists() and not may_be_new and str(found.root) not in started_folders()
        wrong = found.root.exists() and not found.root.is_dir()
    except FileNotFoundError:
        raise UsageError("the current folder does not exist any more", "change to another folder: cd") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or "it is a loop of links"
        which = "the current folder" if folder is None else f"--dir {short(folder)}"
        raise UsageError(f"{which}: {reason}", "give the stack's folder with --dir") from None
    if missing:
        raise UsageError(
            f"there is no folder {short(folder or '')}", "check --dir, or create a stack there: lm init --dir FOLDER"
        )
    if wrong:
        raise UsageError(f"--dir {folder} is not a folder", "give the folder that the file is in")
    return found
