"""env, run, open: use the gateway from other programs."""

from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.coercion import LmCommand
from lmstack.cli.options import OneOf, key_names, model_names
from lmstack.cli.words import split_run
from lmstack.errors import UsageError
from lmstack.key_strength import GUIDE_KEY
from lmstack.operate import holder, launch
from lmstack.operate.clients import CLIENTS, environ_for, key_command, snippet_for, usable_model
from lmstack.result import Result, table
from lmstack.runtime.base import load_state

PROGRAMS = frozenset(name for name, client in CLIENTS.items() if client.command)
_MODEL = Annotated[str, typer.Option("--model", "-m", help="The model to use.", autocompletion=model_names)]
_KEY = Annotated[str | None, typer.Option("--key", help="Use the key with this name. LITELLM_API_KEY holds its secret. Default: the master key.", autocompletion=key_names)]  # fmt: skip


@command("env", "lm env claude-code")
def env(
    context: Context,
    client: Annotated[str | None, typer.Argument(help="Which client. Default: list them."), OneOf(tuple(CLIENTS))] = None,
    model: _MODEL = "auto",
    key: _KEY = None,
) -> Result:  # fmt: skip
    """Print the settings that a client needs for this gateway.

    In a shell: eval "$(lm env openai)"
    """
    _check(model)
    if client is None:
        rows = table(("CLIENT", "WHAT"), [(name, c.title) for name, c in CLIENTS.items()])
        return Result("env", {"clients": list(CLIENTS)}, (*rows, "", "Show one with: lm env openai"))
    chosen, url = CLIENTS[client], launch.gateway_url(context.project)
    environ = environ_for(chosen, url, _expression(context, key), model)
    snippet, where = snippet_for(chosen, url, model)
    lines = [f"export {name}={value}" for name, value in environ.items()]
    # Everything else is a comment, so that eval runs only the exports.
    if snippet:
        lines += ["", f"# {where}:", *(f"# {line}".rstrip() for line in snippet.splitlines())]
    data = {"client": client, "title": chosen.title, "environ": environ, "snippet": snippet, "where": where}
    return Result("env", data, tuple(lines))


class _RunCommand(LmCommand):
    """Parse `lm run CLIENT WORDS...`: every word after the client belongs to the program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own, client, words = split_run(args, PROGRAMS)
        is_option = client[:1] and client[0].startswith("-")  # an unknown one: Typer reports it
        return super().parse_args(ctx, [*own, *([] if is_option else ["--"]), *client, *words])


@command("run", "lm run claude-code -p 'Hello!'", cls=_RunCommand)
def run(
    context: Context,
    client: Annotated[str, typer.Argument(help="The client, such as claude-code or openai."), OneOf(tuple(CLIENTS))],
    args: Annotated[
        list[str] | None,
        typer.Argument(help="The client's arguments; for an SDK the whole command. Options of lm come before CLIENT."),
    ] = None,
    model: _MODEL = "auto",
    key: _KEY = None,
) -> Result:
    """Run a program with the variables that `lm env` prints. Its exit code becomes the exit code of lm.

    With --json, lm prints the program's output and exit code as JSON when it has ended.
    """
    _check(model)
    secret = holder.secret_of(context.project, key) if key is not None else None
    argv, environ = launch.client_command(context.project, client, args or [], model, secret)
    if not context.as_json:
        launch.replace_process(argv, environ)
    code, output = launch.run_captured(argv, environ)
    return Result("run", {"command": argv, "exit_code": code, "output": output}, exit=code)


@command("open", "lm open")
def open_page(
    context: Context,
    only_print: Annotated[bool, typer.Option("--print", help="Only print the address.")] = False,
) -> Result:
    """Print the gateway's address. On a desktop, also open its health report in the browser."""
    address = f"{launch.gateway_url(context.project)}/"
    if load_state(context.project) is None:
        remark = "no gateway was started from this folder; start it with: lm up"
        return Result("open", {"url": address, "opened": False}, (address,), (remark,))
    wanted = not (only_print or context.as_json or context.quiet) and launch.has_desktop()
    return Result("open", {"url": address, "opened": wanted and launch.open_in_browser(f"{address}health")}, (address,))


def _expression(context: Context, key: str | None) -> str:
    """Return what the shell replaces by the secret of a key. The secret itself is in no output."""
    if key is not None:
        holder.require_active(context.project, key)
        return holder.key_expression(key)
    public = context.project.settings().master_key == GUIDE_KEY
    return GUIDE_KEY if public else key_command(context.dir_flag)


def _check(model: str) -> None:
    if not usable_model(model):
        raise UsageError("--model is not the name of a model", "see the names with: lm models")
