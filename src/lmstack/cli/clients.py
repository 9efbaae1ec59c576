"""env, run, open, completion: other programs on this gateway, and the shell."""

import os
import shutil
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lmstack.cli.app import Context, command
from lmstack.cli.options import OneOf, model_names
from lmstack.cli.words import split_run
from lmstack.config.settings import GUIDE_KEY
from lmstack.errors import MissingToolError, UsageError
from lmstack.operate.clients import CLIENTS, environ_for, key_command, snippet_for, usable_model
from lmstack.result import Result, table
from lmstack.runtime.base import load_state

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = frozenset(name for name, client in CLIENTS.items() if client.command)
_MODEL = Annotated[str, typer.Option("--model", "-m", help="The name to ask for.", autocompletion=model_names)]


@command("env", "lm env claude-code")
def env(
    context: Context,
    client: Annotated[
        str | None, typer.Argument(help="Which client; left out: the list of them."), OneOf(tuple(CLIENTS))
    ] = None,
    model: _MODEL = "auto",
) -> Result:
    """What to export or paste so that a client uses this gateway. For a shell: eval "$(lm env openai)"."""
    _check(model)
    if client is None:
        shown = [(name, c.title) for name, c in CLIENTS.items()]
        return Result("env", {"clients": list(CLIENTS)}, table(("CLIENT", "WHAT"), shown))
    chosen, url = CLIENTS[client], _url(context)
    public = context.project.settings().master_key == GUIDE_KEY
    environ = environ_for(chosen, url, GUIDE_KEY if public else key_command(context.dir_flag), model)
    snippet, where = snippet_for(chosen, url, model)
    lines = [f"export {name}={value}" for name, value in environ.items()]
    # What is not for the shell stands behind a comment mark, so that eval takes the exports alone.
    if snippet:
        lines += ["", f"# {where}:", *(f"# {line}".rstrip() for line in snippet.splitlines())]
    data = {"client": client, "title": chosen.title, "environ": environ, "snippet": snippet, "where": where}
    return Result("env", data, tuple(lines))


class _Run(TyperCommand):
    """`lm run CLIENT WORDS...`: the words after the client are the program's, whatever they look like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own, client, words = split_run(args, PROGRAMS)
        return super().parse_args(ctx, [*own, "--", *client, *words])


@command("run", "lm run claude-code -p 'Hello!'", cls=_Run)
def run(
    context: Context,
    client: Annotated[
        str, typer.Argument(help="Whose variables to set, e.g. claude-code or openai."), OneOf(tuple(CLIENTS))
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(help="Its arguments; for an SDK the whole command. Options of lm come before CLIENT."),
    ] = None,
    model: _MODEL = "auto",
) -> Result:
    """Run a program with the environment that `lm env` prints; its exit code is ours."""
    _check(model)
    chosen = CLIENTS[client]
    argv = [*chosen.command, *(args or [])]
    if not argv:
        raise UsageError(f"'{client}' is a library: say what to run", f"lm run {client} python3 my_script.py")
    if shutil.which(argv[0]) is None:
        raise MissingToolError(f"'{argv[0]}' is not installed or not on PATH", "install it, or give its path")
    environ = environ_for(chosen, _url(context), context.project.settings().master_key, model)
    sys.stdout.flush()
    try:
        os.execvpe(argv[0], argv, {**os.environ, **environ})  # noqa: S606 - the program takes our place
    except OSError as error:
        raise MissingToolError(
            f"cannot run '{argv[0]}': {error.strerror}", "check it with: file -L " + argv[0]
        ) from None


@command("open", "lm open")
def open_page(
    context: Context,
    only_print: Annotated[bool, typer.Option("--print", help="Print the address and open nothing.")] = False,
) -> Result:
    """Print the gateway's address, and open its page of routes in the browser of a desktop."""
    address = _url(context) + "/"
    opened = False
    if load_state(context.project) is None:
        remarks: tuple[str, ...] = ("nothing was started from this folder; start it with: lm up",)
    else:
        remarks = ()
        opened = not (only_print or context.as_json or context.quiet) and _desktop() and _opened(address)
    return Result("open", {"url": address, "opened": opened}, (address,), remarks)


@command("completion", "lm completion bash >> ~/.bashrc")
def completion(
    context: Context, shell: Annotated[str, typer.Argument(help="Which shell."), OneOf(SHELLS)] = "bash"
) -> Result:
    """Print the script that completes commands, options and names in your shell."""
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="lm", complete_var="_LM_COMPLETE", shell=shell)
    return Result("completion", {"shell": shell, "script": script}, (script,))


def _check(model: str) -> None:
    if not usable_model(model):
        raise UsageError("--model is no model's name", "see the names with: lm models")


def _desktop() -> bool:
    """Whether a person sits in front of a screen: in a pipe, over ssh or in a container nothing is opened."""
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _opened(address: str) -> bool:
    import webbrowser

    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):  # no browser is harmless: the address is printed
        return False


def _url(context: Context) -> str:
    state = load_state(context.project)
    return state.url if state else f"http://localhost:{context.project.settings().port}"
