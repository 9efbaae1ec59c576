"""up, down, restart, status, health, logs: the life of a stack."""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.cli.options import RUNTIMES, OneOf
from lmstack.config.settings import LOG_LEVELS
from lmstack.errors import Exit, LmError, UnhealthyError
from lmstack.operate.planning import (
    Planned,
    curl_example,
    flags_of_running,
    gateway_health,
    planned,
    runtime_flags,
    seconds,
    service_rows,
)
from lmstack.result import Result, say, table, uncoloured
from lmstack.runtime import base
from lmstack.runtime.choose import current_runtime, own_port, running_runtime
from lmstack.stack.assets import lay_down

_RUNTIME = Annotated[str | None, typer.Option("--runtime", help="Where the proxy runs."), OneOf(RUNTIMES)]


@command("up", "lm up --port 4100")
def up(
    context: Context,
    runtime: _RUNTIME = None,
    redis: Annotated[bool, typer.Option("--redis", help="Share cool-downs over workers through Redis.")] = False,
    port: Annotated[int | None, typer.Option("--port", help="Port of the gateway.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Worker processes of the proxy.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait until the proxy answers.")
    ] = base.READY_SECONDS,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay and show the log; Ctrl-C stops the stack.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run even a floating or denied image.")] = False,
) -> Result:
    """Start the gateway, or apply a change; running it again is harmless.

    All checks come first; nothing is touched before the line that says what will start. In an empty folder the stack
    is laid down first.
    """
    if context.project.is_blank and not context.project.is_stack:
        context.say(f"{context.project.root} is empty: laying down a stack (lm init)")
        lay_down(context.project, files.read(context.project.env_file))
    context.project.require_stack()
    with files.locked(context.project.state / "lock"):
        wanted = planned(context.project, runtime_flags(runtime, redis, port, workers))
        options = base.UpOptions(timeout, foreground, force)
        try:
            result = _unchanged(context, wanted) or start(context, wanted, options)
        except KeyboardInterrupt:
            if foreground:
                wanted.runtime.down(False, context.say)
            else:
                context.say("The stack goes on starting in the background: lm status shows it, lm down stops it.")
            raise
    return _stay(context, wanted, result) if foreground else result


@command("down", "lm down")
def down(
    context: Context,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete the ledger and Redis data too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Result:
    """Finish open requests and stop everything; data stays unless --volumes is given."""
    context.project.require_stack()
    if (
        volumes
        and not yes
        and not typer.confirm("Delete the ledger and all other data of this stack?", default=False, err=True)
    ):
        raise LmError("nothing was deleted, nothing was stopped", "lm down (without --volumes) keeps the data")
    with files.locked(context.project.state / "lock"):
        runtime = current_runtime(context.project.settings(), context.project)
        stopped = runtime.down(volumes, context.say)
    text = "Stopped." if stopped else "Nothing was running."
    return Result("down", {"stopped": stopped, "volumes_deleted": volumes}, (text,))


@command("restart", "lm restart")
def restart(
    context: Context, timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = base.READY_SECONDS
) -> Result:
    """Stop, and start with the settings on disk and the flags of the last `lm up`; waits until the proxy answers again."""
    context.project.require_stack()
    runtime = running_runtime(context.project)
    with files.locked(context.project.state / "lock"):
        wanted = planned(context.project, flags_of_running(context.project))
        options = base.UpOptions(timeout, own_port=own_port(context.project))
        wanted.runtime.check(wanted.plan, options)
        runtime.down(False, context.say)
        return start(context, wanted, options, "restart")


@command("status", "lm status --json")
def status(context: Context) -> Result:
    """Show what runs: services, their state and since when."""
    state = base.load_state(context.project)
    services = current_runtime(context.project.settings(), context.project).services()
    data = {
        "running": any(s.state == "running" for s in services),
        "runtime": state.runtime if state else None,
        "url": state.url if state else None,
        "started_at": state.started_at if state else None,
        "litellm": context.project.settings().version,
        "image": state.image if state else None,
        "image_digest": state.image_digest if state else None,
        "services": service_rows(services),
    }
    lines = (
        table(("SERVICE", "STATE", "DETAIL"), [(s.name, s.state, s.detail) for s in services])
        if services
        else ("Nothing is running. Start it with: lm up",)
    )
    return Result("status", data, lines)


@command("health", "lm health --json")
def health(
    context: Context,
    deep: Annotated[bool, typer.Option("--deep", help="Also show the proxy's own check results.")] = False,
) -> Result:
    """Ask the running gateway how it is. No provider is called. Exit code 5 when it is unhealthy."""
    data = gateway_health(context.project, deep)
    exit_code = Exit.UNHEALTHY if data["status"] == "unhealthy" else Exit.OK
    return Result("health", data, tuple(_health_lines(data)), exit=exit_code)


@command("logs", "lm logs --since 1h --level ERROR")
def logs(
    context: Context,
    service: Annotated[str | None, typer.Argument(help="Only this service.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    since: Annotated[str | None, typer.Option("--since", help="Only the last 30s, 10m, 1h or 2d.")] = None,
    level: Annotated[
        str | None, typer.Option("--level", case_sensitive=False, help="At least this level."), OneOf(LOG_LEVELS)
    ] = None,
    call_id: Annotated[str | None, typer.Option("--call-id", help="Only lines with this call id.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", help="Only the last lines.")] = None,
) -> Result:
    """Show the log of the proxy, the same in both runtimes. With --json: the lines there are, once."""
    follow = follow and not context.as_json
    query = base.LogQuery(follow, seconds(since) if since else None, level, call_id, service, tail)
    lines = current_runtime(context.project.settings(), context.project).logs(query)
    if context.as_json:
        return Result("logs", {"lines": list(lines)})
    _print(lines)
    return Result("logs")


def _stay(context: Context, wanted: Planned, result: Result) -> Result:
    """Show the log until Ctrl-C, then stop the stack."""
    for line in result.lines:
        context.say(line)
    _print(wanted.runtime.logs(base.LogQuery(follow=True, tail=5)))
    wanted.runtime.down(False, context.say)
    return Result(result.command, result.data, ("Stopped.",), result.messages)


def _print(lines: Iterable[str]) -> None:
    """Each line as it comes, until the last one or Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in lines:
            say(uncoloured(line))


def _unchanged(context: Context, wanted: Planned) -> Result | None:
    """The result of an `up` that has nothing to do."""
    from lmstack.stack.health import missing_names

    state = base.load_state(context.project)
    same = state is not None and state.runtime == wanted.runtime.name and state.digest == wanted.digest
    if not same or missing_names(wanted.plan):
        return None
    return _report(wanted, "Already running; nothing has changed.", 0.0, False, "up")


def start(context: Context, wanted: Planned, options: base.UpOptions, name: str = "up") -> Result:
    """Check, start, and wait until every planned name is served; UnhealthyError when that does not happen."""
    plan, runtime = wanted.plan, wanted.runtime
    remarks = runtime.check(plan, replace(options, own_port=own_port(context.project)))
    _stop_other_runtime(context, runtime.name)
    kind = {"docker": "a Docker stack", "local": "a local process"}[runtime.name]
    context.say(f"Starting lmstack as {kind} ({wanted.why}): {_count(len(plan.deployments), 'model')} on {plan.url}")
    runtime.up(plan, wanted.config, options, context.say)
    base.save_state(context.project, _state(wanted, time.time()))
    try:
        took = base.wait_ready(plan, runtime, options.timeout, context.say)
    except UnhealthyError:
        if not any(s.state in ("running", "starting", "restarting") for s in runtime.services()):
            runtime.down(False, context.say)
        raise
    return _report(wanted, f"Ready after {took:.0f} s.", took, True, name, remarks)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _stop_other_runtime(context: Context, name: str) -> None:
    state = base.load_state(context.project)
    if state is not None and state.runtime != name:
        context.say(f"Stopping the {state.runtime} runtime first …")
        running_runtime(context.project).down(False, context.say)


def _state(wanted: Planned, now: float) -> base.State:
    image, digest = getattr(wanted.runtime, "image_ran", lambda: ("", ""))()
    return base.State(
        wanted.runtime.name, wanted.digest, wanted.plan.url, list(wanted.plan.names), now, image, digest, wanted.flags
    )  # fmt: skip


def _report(
    wanted: Planned, headline: str, took: float, changed: bool, name: str, remarks: tuple[str, ...] = ()
) -> Result:
    plan = wanted.plan
    example = "auto" if plan.groups else plan.deployments[0].name
    data = {
        "url": plan.url, "runtime": wanted.runtime.name, "why": wanted.why, "models": list(plan.names), "changed": changed,
        "ready_seconds": round(took, 1),
    }  # fmt: skip
    lines = (
        f"{headline} Gateway: {plan.url}",
        f"Models: {', '.join(plan.names)}",
        "",
        "Try it:",
        "  " + curl_example(plan.settings, plan.url, example),
        "",
        "Next: lm health · lm logs -f · lm usage · lm down",
    )
    return Result(name, data, lines, (*plan.messages, *remarks))


def _health_lines(data: dict[str, object]) -> list[str]:
    proxy, models = data["proxy"], data["models"]
    assert isinstance(proxy, dict)
    assert isinstance(models, list)
    alive = "answers" if proxy["alive"] else f"does not answer ({proxy['error']})"
    lines = [f"{data['status']}: the proxy at {proxy['url']} {alive}"]
    rows = [(m["model"], m["status"], m.get("provider") or "", m.get("error") or m.get("source") or "") for m in models]
    lines += table(("MODEL", "STATUS", "PROVIDER", "FROM"), rows) if rows else []
    for part in ("taskmaster", "ledger", "redis"):
        value = data[part]
        assert isinstance(value, dict)
        lines.append(f"{part}: {value['status']}" + (f" ({value['error']})" if value.get("error") else ""))
    return lines if proxy["alive"] else [*lines, "  → start it with: lm up"]
