"""up, down, restart: start and stop the gateway."""

from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.options import RUNTIMES, OneOf
from lmstack.errors import LmError
from lmstack.operate import lifecycle
from lmstack.operate.foreground import follow_until_stopped
from lmstack.operate.model_list import names_lines
from lmstack.operate.planning import curl_example, runtime_flags
from lmstack.result import Result, say, uncoloured
from lmstack.runtime.base import READY_SECONDS, UpOptions


@command("up", "lm up --port 4100")
def up(
    context: Context,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Where the proxy runs."), OneOf(RUNTIMES)] = None,
    redis: Annotated[bool, typer.Option("--redis", help="Share cooldowns between workers through Redis.")] = False,
    port: Annotated[int | None, typer.Option("--port", help="Port of the gateway.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Worker processes of the proxy.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the proxy.")] = READY_SECONDS,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay and show the log. Ctrl-C stops the stack.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run even a floating or refused image.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and show what would happen. Change nothing.")] = False,
) -> Result:  # fmt: skip
    """Start the gateway, or apply changed settings. It is safe to run it again.

    All checks come before the first change. In an empty folder, lm creates a stack first.
    """
    flags = runtime_flags(runtime, redis, port, workers)
    options = UpOptions(timeout, foreground, force)
    if dry_run:
        return _previewed(lifecycle.preview(context.project, flags, options))
    done = lifecycle.up(context.project, flags, options, context.say)
    result = _started(done, "up")
    if not foreground:
        return result
    for line in result.lines:
        context.say(line)
    show = (lambda line: None) if context.as_json or context.quiet else (lambda line: say(uncoloured(line)))
    follow_until_stopped(context.project, done.wanted.runtime, show, context.say)
    return Result("up", result.data, ("Stopped.",), result.messages)


@command("down", "lm down")
def down(
    context: Context,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete the ledger and Redis data too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Result:
    """Finish open requests and stop everything. Data is kept, unless you give --volumes."""
    lifecycle.require_stoppable(context.project)
    question = "Delete the ledger and all other data of this stack?"
    if volumes and not yes and not typer.confirm(question, default=False, err=True):
        raise LmError("nothing was deleted, nothing was stopped", "lm down (without --volumes) keeps the data")
    stopped = lifecycle.down(context.project, volumes, context.say)
    lines = ["Stopped." if stopped.ran else "Nothing was running."]
    if stopped.kept:
        lines += [f"The stack's folder is gone, so its volumes stay. Delete them with: docker volume rm {' '.join(stopped.kept)}"]  # fmt: skip
    elif volumes:
        lines += [f"Deleted: {', '.join(stopped.deleted)}" if stopped.deleted else "There was no data to delete."]
    data = {"stopped": stopped.ran, "volumes_deleted": bool(stopped.deleted), "deleted": list(stopped.deleted)}
    return Result("down", data, tuple(lines))


@command("restart", "lm restart")
def restart(
    context: Context, timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the proxy.")] = READY_SECONDS
) -> Result:  # fmt: skip
    """Stop the gateway and start it again.

    It gets the present settings, and the flags of the last `lm up`.
    """
    return _started(lifecycle.restart(context.project, timeout, context.say), "restart")


def _previewed(found: lifecycle.Preview) -> Result:
    wanted, action = found.wanted, found.action
    name, url = wanted.runtime.name, wanted.plan.url
    headline = {
        "nothing": "The gateway runs already, and no setting has changed.",
        "reload": f"lm up would replace the workers of the gateway on {url}. No request is refused, and open ones are finished.",
        "handover": f"lm up would start a new server, which takes the place of the one on {url}. No request is refused, and open ones are finished.",
        "restart": f"lm up would restart the gateway as {name} on {url}. Open requests are finished first.",
        "start": f"lm up would start the gateway as {name} on {url} ({wanted.why}).",
    }[action]
    data = {"action": action, "url": url, "runtime": name, "why": wanted.why, "models": list(wanted.plan.names), "changes": found.changes, "restart_reasons": list(found.restart_reasons)}  # fmt: skip
    why = [f"  A restart is needed: {reason}" for reason in found.restart_reasons]
    return Result("up", data, (headline, *(f"  {change}" for change in found.changes), *why), found.remarks)


def _started(done: lifecycle.Up, name: str) -> Result:
    plan, started = done.wanted.plan, done.started
    headline = f"Ready after {started.took:.0f} s." if started else "Already running; nothing has changed."
    data = {
        "url": plan.url, "runtime": done.wanted.runtime.name, "why": done.wanted.why, "models": list(plan.names),
        "changed": started is not None, "ready_seconds": round(started.took, 1) if started else 0.0,
    }  # fmt: skip
    lines = (
        f"{headline} Gateway: {plan.url}",
        *([f"Dashboard: {plan.url}/dashboard (lm dashboard logs in)"] if plan.settings.on("LITELLM_DASHBOARD") else []),
        *names_lines(plan.names),
        "",
        "Try it:",
        "  " + curl_example(plan.settings, plan.url, "auto" if plan.groups else plan.deployments[0].name),
        "",
        "Next: lm health · lm logs -f · lm usage · lm down",
    )
    return Result(name, data, lines, done.remarks)
