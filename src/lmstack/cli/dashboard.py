"""dashboard: open the page."""

from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.operate import launch
from lmstack.operate.dashboard import make_link
from lmstack.result import Result


@command("dashboard", "lm dashboard")
def dashboard(
    context: Context,
    only_print: Annotated[bool, typer.Option("--print", help="Only print the link.")] = False,
) -> Result:
    """Open the dashboard in the browser, logged in.

    It shows costs, requests, models, budgets and errors. The link works once and for two minutes. Without a desktop, lm prints it.
    """
    made = make_link(context.project)
    wanted = not (only_print or context.as_json or context.quiet) and launch.has_desktop()
    opened = wanted and launch.open_in_browser(made.link)
    data = {"url": made.url, "link": made.link, "expires_seconds": made.seconds, "opened": opened}
    lines = (f"Opened {made.url} in the browser.",) if opened else (made.link,)
    return Result("dashboard", data, lines)
