"""taskmaster dev: the example receiver of events, for development."""

import contextlib
import os
import sys
from http.server import ThreadingHTTPServer
from typing import Annotated

import typer

from lmstack.cli.app import Context, app, command
from lmstack.errors import LmError
from lmstack.operate.foreground import sigterm_as_ctrl_c
from lmstack.result import Result

taskmaster_app = typer.Typer(
    name="taskmaster", help="Run an example receiver of events.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(taskmaster_app)


@command("dev", "lm taskmaster dev --port 3001", taskmaster_app)
def dev(
    context: Context, port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 3001
) -> Result:
    """Run the example receiver of docs/taskmaster.md. It checks signatures and prints each event, until Ctrl-C.

    With --json, the events go to standard error, and the result is printed after Ctrl-C.
    """
    # The receiver is one file to copy. It reads the secret from the environment when it is imported.
    os.environ["TASKMASTER_WEBHOOK_SECRET"] = context.project.settings().get("TASKMASTER_WEBHOOK_SECRET")
    from lmstack.operate.receiver import SEEN, Receiver

    try:
        server = ThreadingHTTPServer(("0.0.0.0", port), Receiver)  # noqa: S104 - containers must reach it
    except OSError as error:
        hint = f"choose another: lm taskmaster dev --port {port % 65535 + 1}"
        raise LmError(f"cannot listen on port {port}: {error.strerror}", hint) from None
    context.say(f"Listening on port {port}. Ctrl-C ends it.")
    context.say(
        f"To send events here: lm config set TASKMASTER_API_URL http://host.docker.internal:{port}; then: lm up"
    )
    events_elsewhere = contextlib.redirect_stdout(sys.stderr) if context.as_json else contextlib.nullcontext()
    with contextlib.suppress(KeyboardInterrupt), sigterm_as_ctrl_c(), server, events_elsewhere:
        server.serve_forever()
    return Result("taskmaster dev", {"port": port, "events": len(SEEN)})
