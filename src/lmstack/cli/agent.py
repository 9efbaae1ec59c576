"""agent: set up an agent with a key of its own."""

from typing import Annotated

import typer

from lmstack.cli import key as key_options
from lmstack.cli.app import Context, app, command
from lmstack.cli.options import OneOf, model_names
from lmstack.errors import Exit
from lmstack.operate import holder, keys, launch
from lmstack.operate.clients import CLIENTS, environ_for, snippet_for
from lmstack.result import Result

agent_app = typer.Typer(name="agent", help="Set up agents.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(agent_app)


@command("add", "lm agent add coder --client claude-code --budget 5/day", agent_app)
def agent_add(
    context: Context, name: Annotated[str, typer.Argument(help="The name of the agent, and of its key.")],
    client: Annotated[str, typer.Option("--client", help="The program or library that the agent uses."), OneOf(tuple(CLIENTS))] = "openai",
    model: Annotated[str, typer.Option("--model", "-m", help="The model to use.", autocompletion=model_names)] = "auto",
    team: key_options.TEAM = None, models: key_options.MODELS = None, tiers: key_options.TIERS = None, routes: key_options.ROUTES = None,
    tasks: key_options.TASKS = None, budget: key_options.BUDGET = None, soft: key_options.SOFT = None, rpm: key_options.RPM = None,
    tpm: key_options.TPM = None, parallel: key_options.PARALLEL = None, expires: key_options.EXPIRES = None,
) -> Result:  # fmt: skip
    """Make a key, print the settings of its client, and make a first call.

    The secret is printed only here. The first call costs a few tokens.
    """
    options = key_options.options_of(None, team, models, tiers, routes, tasks, budget, soft, rpm, tpm, parallel)
    made = keys.create(context.project, name, options, expires)
    chosen, url = CLIENTS[client], launch.gateway_url(context.project)
    environ = environ_for(chosen, url, made.secret, model)
    snippet, where = snippet_for(chosen, url, model)
    call = holder.first_call(context.project, made.secret, model)
    lines = [f"export {variable}={value}" for variable, value in environ.items()]
    if snippet:
        lines += ["", f"# {where}:", *(f"# {line}".rstrip() for line in snippet.splitlines())]
    told = f"the first call failed: {call.error}" if call.error else f"the first call works: {call.model} answered, {call.cost} USD"  # fmt: skip
    data = {
        "key": made.key, "secret": made.secret, "client": client, "environ": environ, "snippet": snippet, "where": where,
        "first_call": {"model": call.model, "cost_usd": call.cost, "error": call.error},
    }  # fmt: skip
    remarks = (
        f"this is the key '{name}', and it cannot be shown again. Limits: {key_options.limits_text(made.key)}",
        told,
    )
    return Result("agent add", data, tuple(lines), remarks, Exit.UNHEALTHY if call.error else Exit.OK)
