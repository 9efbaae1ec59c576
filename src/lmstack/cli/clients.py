"""env, run, completion: other programs on this gateway, and the shell."""

import os
import shutil
from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.config.settings import GUIDE_KEY
from lmstack.config.yamlfile import did_you_mean
from lmstack.errors import MissingToolError, UsageError
from lmstack.operate.clients import CLIENTS, KEY_COMMAND, Client, environ_for, snippet_for
from lmstack.result import Result, table
from lmstack.runtime.base import load_state

SHELLS = ("bash", "zsh", "fish")
_MODEL = Annotated[str, typer.Option("--model", "-m", help="The name to ask for.")]


@command("env", "lm env claude-code")
def env(
    context: Context,
    client: Annotated[str | None, typer.Argument(help="Which client; left out: the list of them.")] = None,
    model: _MODEL = "auto",
) -> Result:
    """What to export or paste so that a client uses this gateway. For a shell: eval "$(lm env openai)"."""
    if client is None:
        shown = [(name, c.title) for name, c in CLIENTS.items()]
        return Result("env", {"clients": list(CLIENTS)}, table(("CLIENT", "WHAT"), shown))
    chosen, url = _client(client), _url(context)
    public = context.project.settings().master_key == GUIDE_KEY
    key = GUIDE_KEY if public else KEY_COMMAND
    environ = environ_for(chosen, url, key, model)
    snippet, where = snippet_for(chosen, url, model)
    lines = [f"export {name}={value}" for name, value in environ.items()]
    # What is not for the shell stands behind a comment mark, so that eval takes the exports alone.
    if snippet:
        lines += ["", f"# {where}:", *(f"# {line}".rstrip() for line in snippet.splitlines())]
    data = {"client": client, "title": chosen.title, "environ": environ, "snippet": snippet, "where": where}
    return Result("env", data, tuple(lines))


@command("run", "lm run claude-code -- --print 'Hello!'")
def run(
    context: Context,
    client: Annotated[str, typer.Argument(help="Whose variables to set, e.g. claude-code or openai.")],
    args: Annotated[list[str] | None, typer.Argument(help="Arguments; for an SDK the whole command.")] = None,
    model: _MODEL = "auto",
) -> Result:
    """Run a program with the environment that `lm env` prints; its exit code is ours."""
    chosen = _client(client)
    argv = [*chosen.command, *(args or [])]
    if not argv:
        raise UsageError(f"'{client}' is a library: say what to run", f"lm run {client} -- python my_script.py")
    if shutil.which(argv[0]) is None:
        raise MissingToolError(f"'{argv[0]}' is not installed or not on PATH")
    environ = environ_for(chosen, _url(context), context.project.settings().master_key, model)
    os.execvpe(argv[0], argv, {**os.environ, **environ})  # noqa: S606 - the program takes our place


@command("completion", "lm completion bash >> ~/.bashrc")
def completion(
    context: Context, shell: Annotated[str, typer.Argument(help=f"One of {', '.join(SHELLS)}.")] = "bash"
) -> Result:
    """Print the script that completes commands and options in your shell."""
    from typer._completion_shared import get_completion_script

    if shell not in SHELLS:
        raise UsageError(f"there is no completion for '{shell}'", f"one of {', '.join(SHELLS)}")
    script = get_completion_script(prog_name="lm", complete_var="_LM_COMPLETE", shell=shell)
    return Result("completion", {"shell": shell, "script": script}, (script,))


def _client(name: str) -> Client:
    if name not in CLIENTS:
        raise UsageError(f"there is no client '{name}'", did_you_mean(name, CLIENTS) or f"one of {', '.join(CLIENTS)}")
    return CLIENTS[name]


def _url(context: Context) -> str:
    state = load_state(context.project)
    return state.url if state else f"http://localhost:{context.project.settings().port}"
