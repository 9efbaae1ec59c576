"""config: show and change settings."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from lmstack.cli.app import Context, app, command
from lmstack.cli.options import OneOf
from lmstack.config.envfile import set_line, unset_line
from lmstack.errors import Problem, UsageError
from lmstack.operate import settings_edit
from lmstack.operate.editor import EDITABLE, edit_file
from lmstack.result import Result, table

config_app = typer.Typer(name="config", help="Show and change settings.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app)

_NAME = Annotated[str, typer.Argument(help="The variable, e.g. LITELLM_PORT.")]


@command("show", "lm config show", config_app)
def config_show(context: Context) -> Result:
    """List every setting, its value (a secret as ***) and its source."""
    settings = context.project.settings()
    rows = settings_edit.setting_rows(settings)
    lines = table(("NAME", "VALUE", "SOURCE"), [(r["name"], r["value"], r["source"]) for r in rows])
    return Result("config show", {"settings": rows}, lines, tuple(str(note) for note in settings.notes))


@command("get", "lm config get LITELLM_PORT", config_app)
def config_get(context: Context, name: _NAME) -> Result:
    """Print the current value of one setting."""
    value = settings_edit.find_setting(context.project.settings(), name)
    return Result("config get", {"name": name, "value": value.text, "source": value.source}, (value.text,))


@command("set", "lm config set LITELLM_PORT 4100", config_app)
def config_set(
    context: Context,
    name: _NAME,
    value: Annotated[str | None, typer.Argument(help="Left out: read from standard input, for keys.")] = None,
) -> Result:
    """Write one setting into .env. The rest of the file stays as it is; a wrong value is refused."""
    new = _read_value(name) if value is None else value
    return _edited(context, "config set", name, lambda text: set_line(text, name, new))


@command("unset", "lm config unset OPENAI_API_BASE", config_app)
def config_unset(context: Context, name: _NAME) -> Result:
    """Remove one setting from .env."""
    return _edited(context, "config unset", name, lambda text: unset_line(text, name))


@command("edit", "lm config edit", config_app)
def config_edit(
    context: Context,
    file: Annotated[str, typer.Argument(help="Which file to edit."), OneOf(EDITABLE)] = ".env",
) -> Result:
    """Open .env or models.yaml in $VISUAL or $EDITOR. The file changes only when the saved text is valid; otherwise the
    problems are shown, and you can edit again."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("an editor needs a terminal", "change one setting with: lm config set NAME VALUE")
    changed = edit_file(context.project, file, _edit_again if context.may_ask else lambda problems: False)
    data = {"file": str(context.project.root / file), "changed": changed}
    return Result("config edit", data, _next_step(file, changed))


def _edited(context: Context, command_name: str, name: str, edit: Callable[[str], str]) -> Result:
    changed = settings_edit.edit_env(context.project, name, edit)
    data = {"file": str(context.project.env_file), "name": name, "changed": changed}
    written, *next_step = _next_step(".env", changed)
    return Result(command_name, data, (written, *settings_edit.overridden(name), *next_step))


def _next_step(file: str, changed: bool) -> tuple[str, ...]:
    return (f"{file}: written", "Next: lm up (applies it)") if changed else (f"{file}: unchanged",)


def _read_value(name: str) -> str:
    """Read a value from standard input. An empty one is an error: it is most likely a mistake."""
    if sys.stdin.isatty():
        return str(typer.prompt(f"{name} (not shown)", hide_input=True, err=True)).strip()
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        hint = f"give one, or remove the setting: lm config unset {name}"
        raise UsageError(f"there is no value for {name} on standard input", hint)
    return given


def _edit_again(problems: Sequence[Problem]) -> bool:
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return typer.confirm("Edit again? 'n' discards your changes", default=True, err=True)
