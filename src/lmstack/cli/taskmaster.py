"""taskmaster dev: the receiving side, for development."""

import os
import sys
from typing import Annotated

import typer

from lmstack import proc
from lmstack.cli.app import Context, app, command
from lmstack.result import Result

taskmaster_app = typer.Typer(
    name="taskmaster", help="The API that gets the events.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(taskmaster_app)


@command("dev", "lm taskmaster dev --port 3001", taskmaster_app)
def dev(context: Context, port: Annotated[int, typer.Option("--port", help="Where to listen.")] = 3001) -> Result:
    """Run the example receiver (docs/taskmaster.md): it checks signatures and prints what arrives, until Ctrl-C."""
    secret = context.project.settings().get("TASKMASTER_WEBHOOK_SECRET")
    context.say(f"Listening on port {port}. In .env: TASKMASTER_API_URL=http://host.docker.internal:{port}")
    for line in proc.lines(
        [sys.executable, "-m", "lmstack.receiver", str(port)], env={**os.environ, "TASKMASTER_WEBHOOK_SECRET": secret}
    ):
        print(line, flush=True)
    return Result("taskmaster dev")
