"""The Typer application and what every command shares: --json, --quiet, --dir, results, errors, exit codes."""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lmstack import __version__
from lmstack.errors import Exit, LmError
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.result import Result, failure, show
from lmstack.runtime.base import Progress
from lmstack.stack.project import Project, find_project

app = typer.Typer(
    name="lm", help="Run stock LiteLLM as an LLM gateway a team can trust.", no_args_is_help=True, add_completion=False,
    rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


VERSION_LINE = f"lmstack {__version__} (LiteLLM {LITELLM_VERSION})"


def _version(asked: bool) -> None:
    if asked:
        print(VERSION_LINE)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a command gets first: its folder, and how to report progress."""

    project: Project
    say: Progress
    as_json: bool
    quiet: bool

    @property
    def may_ask(self) -> bool:
        """Whether somebody is there to answer a question."""
        return sys.stdin.isatty() and not self.quiet and not self.as_json


_JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
_DIR = Annotated[Path | None, typer.Option("--dir", "-C", help="The stack's folder. Default: the nearest one upwards.")]
_SHARED = (("as_json", _JSON, False), ("quiet", _QUIET, False), ("folder", _DIR, None))


def command(
    name: str, example: str, group: typer.Typer = app
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Register ``f(context, ...) -> Result`` as a command; ``example`` stands at the end of its help."""

    def register(f: Callable[..., Result]) -> Callable[..., Result]:
        full = name if group is app else f"{group.info.name} {name}"

        @functools.wraps(f)
        def run(*args: Any, as_json: bool, quiet: bool, folder: Path | None, **options: Any) -> None:
            context = Context(find_project(folder), Progress(quiet or as_json), as_json, quiet)
            result = execute(full, lambda: f(context, *args, **options))
            show(result, as_json, quiet)
            raise typer.Exit(int(result.exit))

        own = list(inspect.signature(f, eval_str=True).parameters.values())[1:]
        kind = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter(n, kind, default=d, annotation=a) for n, a, d in _SHARED]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        text = inspect.cleandoc(f.__doc__ or "") + f"\n\nExample: {example}"
        group.command(name, help=text)(run)
        return f

    return register


def execute(name: str, call: Callable[[], Result]) -> Result:
    """Run a command's body; an expected error becomes a result, a bug stays a traceback."""
    try:
        return call()
    except LmError as error:
        return failure(name, error)
    except KeyboardInterrupt:
        return Result(name, {"error": "interrupted"}, ("interrupted",), exit=Exit.FAILED)


# The first word of a command -> the module that has it: a command imports its own family, which is half of its time.
FAMILIES = {
    "stack": ("up", "down", "restart", "status", "health", "logs"),
    "config": ("init", "render", "validate", "models", "config", "key", "version"),
    "ledger": ("usage", "errors", "requests", "request", "events"),
    "routing": ("route", "budget"),
    "clients": ("env", "run", "completion"),
    "doctor": ("doctor", "test"),
    "backup": ("backup", "restore"),
    "upgrade": ("upgrade", "rollback"),
    "taskmaster": ("taskmaster",),
}


def registered(word: str | None = None) -> typer.Typer:
    """The application: importing a family registers its commands. With the family of ``word``, else with all of them."""
    own = [module for module, words in FAMILIES.items() if word in words]
    for module in own or FAMILIES:
        importlib.import_module(f"lmstack.cli.{module}")
    return app


def main() -> None:
    """The entry point of ``lm``."""
    completing = "_LM_COMPLETE" in os.environ
    registered(None if completing else next(iter(sys.argv[1:]), None))
    if completing:
        from typer._completion_classes import completion_init

        completion_init()  # Typer knows the shells only once it is asked to
    try:
        app()
    except BrokenPipeError:
        # The reader (head, grep -q) has left: that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
