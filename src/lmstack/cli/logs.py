"""logs: the log of the proxy."""

import contextlib
from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.failures import short
from lmstack.cli.options import OneOf
from lmstack.config.kinds import LOG_LEVELS
from lmstack.errors import UsageError
from lmstack.operate.planning import seconds
from lmstack.result import Result, say, uncoloured
from lmstack.runtime.base import LogQuery
from lmstack.runtime.choose import current_runtime


@command("logs", "lm logs --since 1h --level ERROR")
def logs(
    context: Context,
    service: Annotated[str | None, typer.Argument(help="Only this service.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines until Ctrl-C.")] = False,
    since: Annotated[str | None, typer.Option("--since", help="Only the last 30s, 10m, 1h or 2d.")] = None,
    level: Annotated[str | None, typer.Option("--level", case_sensitive=False, help="This level and worse ones."), OneOf(LOG_LEVELS)] = None,
    call_id: Annotated[str | None, typer.Option("--call-id", help="Only lines with this call id.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", help="Only this many of the newest lines.")] = None,
) -> Result:  # fmt: skip
    """Show the log of the proxy. With --json: the present lines, also with --follow."""
    follow = follow and not context.as_json
    query = LogQuery(follow, seconds(since) if since else None, level, call_id, service, tail)
    runtime = current_runtime(context.project)
    if service is not None and service not in runtime.service_names:
        raise UsageError(f"there is no service '{short(service)}'", f"choose {' or '.join(runtime.service_names)}")
    lines = runtime.logs(query)
    if context.as_json:
        return Result("logs", {"lines": list(lines)})
    found = False
    with contextlib.suppress(KeyboardInterrupt):
        for line in lines:
            found = True
            if not context.quiet:
                say(uncoloured(line))
    return Result("logs", messages=() if found or follow or tail == 0 else (_nothing(query),))


def _nothing(query: LogQuery) -> str:
    if query.since is None and query.level is None and query.call_id is None:
        return "there is no log yet; start the gateway with: lm up"
    return "no line of the log matches"
