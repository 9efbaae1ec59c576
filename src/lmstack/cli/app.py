"""The Typer application, and what all commands share: --json, --quiet, --dir, results, errors and exit codes."""

import contextlib
import functools
import importlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from lmstack import __version__
from lmstack.cli.coercion import LmCommand, LmGroup
from lmstack.cli.failures import WrongUsage, check_text, execute, failed, shows_help, wrong_usage
from lmstack.cli.options import check_numbers, plain, typed
from lmstack.cli.shared import Context, places, project_of, shared
from lmstack.cli.words import command_word, own_words, wants_json
from lmstack.errors import Exit, LmError, ReaderLeftError
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.result import Result, naming_folder, show
from lmstack.runtime.base import Progress

_JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
# Not a Path: Path("") is the current folder, and `lm -C "$UNSET" down` must not stop what runs there.
_DIR = Annotated[
    str | None,
    typer.Option(
        "--dir", "-C", metavar="PATH", help="The stack's folder. Default: this folder or the nearest above it."
    ),
]
_SHARED = (("as_json", _JSON, False), ("quiet", _QUIET, False), ("folder", _DIR, None))

app = typer.Typer(
    cls=LmGroup, name="lm", help="Run stock LiteLLM as an LLM gateway a team can trust.", no_args_is_help=True, add_completion=False,
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
    as_json: _JSON = False,
    quiet: _QUIET = False,
    folder: _DIR = None,
) -> None: ...


def _group(as_json: _JSON = False, quiet: _QUIET = False, folder: _DIR = None) -> None:
    """Accept the shared options after the name of a group. The command reads them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A result and how to show it. There is no result when Typer has printed help or the version."""

    result: Result | None
    quiet: bool = False
    code: int = 0


def command(
    name: str, example: str, group: typer.Typer = app, **settings: Any
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Register ``f(context, ...) -> Result`` as a command. ``example`` is the last line of its help."""

    def register(f: Callable[..., Result]) -> Callable[..., Result]:
        full = name if group is app else f"{group.info.name} {name}"

        @functools.wraps(f)
        def run(ctx: typer.Context, **options: Any) -> Answer:
            quiet = any(place.get("quiet") for place in places(ctx))
            return Answer(execute(full, lambda: _call(full, f, ctx, options)), quiet)

        own = [
            p.replace(annotation=typed(p)) for p in list(inspect.signature(f, eval_str=True).parameters.values())[1:]
        ]
        kind = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter(n, kind, default=d, annotation=a) for n, a, d in _SHARED]
        first = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        run.__signature__ = inspect.Signature([first, *own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (first, *own, *shared)}
        text = inspect.cleandoc(f.__doc__ or "") + f"\n\nExample: {example}"
        group.command(name, help=text, **{"cls": LmCommand, **settings})(run)
        if group.registered_callback is None:
            group.callback(cls=LmGroup)(_group)
        return f

    return register


_CREATES = ("init",)  # these make the folder of --dir


def _call(name: str, f: Callable[..., Result], ctx: typer.Context, options: dict[str, Any]) -> Result:
    """Call a command with its own options, in the folder of --dir."""
    given = shared(ctx)
    own = {key: plain(value) for key, value in options.items() if key not in ("as_json", "quiet", "folder")}
    check_numbers(own, {p.name or "": p.opts[0] for p in ctx.command.params})
    context = Context(
        project_of(given.folder, name in _CREATES), Progress(given.quiet or given.as_json), given.as_json, given.quiet
    )
    if not context.dir_flag:
        return f(context, **own)
    try:
        result = f(context, **own)
    except LmError as error:
        error.hint = naming_folder(error.hint, context.dir_flag)
        raise
    messages = tuple(naming_folder(line, context.dir_flag) for line in result.messages)
    if result.command in _VERBATIM:
        return replace(result, messages=messages)
    return replace(
        result, messages=messages, lines=tuple(naming_folder(line, context.dir_flag) for line in result.lines)
    )


# These print text of files, shells or clients. No command in it is changed.
_VERBATIM = {
    "env",
    "agent add",
    "completion",
    "render",
    "usage",
    "request",
    "requests",
    "errors",
    "logs",
    "route",
    "config get",
    "config show",
}


# Module -> the first words of its commands. Only the module of the command that runs is imported: that halves its time.
FAMILIES = {
    "stack": ("up", "down", "restart"),
    "status": ("status", "ls", "health"),
    "logs": ("logs",),
    "config": ("config",),
    "key": ("key", "audit"),
    "agent": ("agent",),
    "init": ("init",),
    "models": ("models",),
    "validate": ("validate", "render"),
    "version": ("version",),
    "usage": ("usage",),
    "report": ("report",),
    "requests": ("requests", "request", "errors"),
    "events": ("events",),
    "alerts": ("alerts",),
    "route": ("route",),
    "budget": ("budget",),
    "env": ("env", "run", "open"),
    "dashboard": ("dashboard",),
    "try_models": ("test",),
    "doctor": ("doctor",),
    "backup": ("backup", "restore"),
    "upgrade": ("upgrade", "rollback"),
    "taskmaster": ("taskmaster",),
    "completion": ("completion",),
}


def registered(word: str | None = None) -> typer.Typer:
    """Return the application with the commands of the module that has ``word``; without such a module, with all commands."""
    own = [module for module, words in FAMILIES.items() if word in words]
    for module in own or FAMILIES:
        importlib.import_module(f"lmstack.cli.{module}")
    return app


def main() -> None:
    """Run lm, when no generated help page answers the command line."""
    if "_LM_COMPLETE" in os.environ:
        from typer._completion_classes import completion_init

        completion_init()  # otherwise Typer knows no shell
        registered()()
    else:
        sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command line, show its result and return the exit code. Raises ReaderLeftError when the reader has left."""
    as_json = wants_json(argv)
    page = io.StringIO()
    # Typer prints help and version by itself.
    prints_page = as_json and not {"-h", "--help", "--version"}.isdisjoint(own_words(argv))
    with contextlib.redirect_stdout(page) if prints_page else contextlib.nullcontext():
        answer = _answer(argv)
    result = answer.result
    if result is None and as_json:
        result = Result("lm", {"text": page.getvalue()}, exit=Exit(answer.code))
    if result is None:
        return answer.code
    try:
        show(result, as_json, answer.quiet)
    except BrokenPipeError:
        raise ReaderLeftError(int(result.exit)) from None
    return int(result.exit)


def _answer(argv: Sequence[str]) -> Answer:
    """Parse the command line and call the command. Errors become results."""
    quiet = not {"-q", "--quiet"}.isdisjoint(own_words(argv))
    try:
        word = command_word(argv)
        check_text(own_words(argv) if word == "run" else argv)
        # Calling app() would print usage errors as text.
        lm = typer.main.get_command(registered(word))
        with lm.make_context("lm", list(argv)) as context:
            answer = lm.invoke(context)
        return answer if isinstance(answer, Answer) else Answer(None)
    except typer.Exit as end:
        return Answer(None, quiet, end.exit_code)
    except BrokenPipeError:
        raise
    except WrongUsage as error:
        if shows_help(error) and not wants_json(argv):
            error.show()  # type: ignore[attr-defined]
            return Answer(None, code=int(Exit.USAGE))
        return Answer(wrong_usage(error))
    except (Exception, KeyboardInterrupt) as error:
        return Answer(failed("lm", error), quiet)


__all__ = [
    "FAMILIES", "VERSION_LINE", "Answer", "Context", "app", "command", "execute", "failed", "main", "registered", "run",
]  # fmt: skip
