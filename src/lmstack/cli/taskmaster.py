"""taskmaster dev: the receiving side, for development."""

import contextlib
import os
from http.server import ThreadingHTTPServer
from typing import Annotated

import typer

from lmstack.cli.app import Context, app, command
from lmstack.errors import LmError
from lmstack.result import Result

taskmaster_app = typer.Typer(
    name="taskmaster", help="The API that gets the events.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(taskmaster_app)


@command("dev", "lm taskmaster dev --port 3001", taskmaster_app)
def dev(
    context: Context, port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where to listen.")] = 3001
) -> Result:
    """Run the example receiver (docs/taskmaster.md): it checks signatures and prints what arrives, until Ctrl-C."""
    # Where its copy finds it too; it is read at import.
    os.environ["TASKMASTER_WEBHOOK_SECRET"] = context.project.settings().get("TASKMASTER_WEBHOOK_SECRET")
    from lmstack.operate.receiver import Receiver

    try:
        server = ThreadingHTTPServer(("0.0.0.0", port), Receiver)  # noqa: S104 - containers must reach it
    except OSError as error:
        raise LmError(
            f"port {port}: {error.strerror}", f"take another: lm taskmaster dev --port {port % 65535 + 1}"
        ) from None
    context.say(f"Listening on port {port}. In .env: TASKMASTER_API_URL=http://host.docker.internal:{port}")
    with contextlib.suppress(KeyboardInterrupt), server:
        server.serve_forever()
    return Result("taskmaster dev")
