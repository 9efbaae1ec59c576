"""up, down, restart, status, health, logs: the life of a stack."""

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.cli.options import RUNTIMES, OneOf
from lmstack.config.kinds import LOG_LEVELS
from lmstack.errors import Exit, LmError
from lmstack.operate.changes import since_the_last_start
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
from lmstack.operate.stacks import known
from lmstack.operate.start import Started, check, is_unchanged, start
from lmstack.result import Result, say, table, uncoloured
from lmstack.runtime import base
from lmstack.runtime.choose import current_runtime, own_port, running_runtime
from lmstack.stack.assets import lay_down, refresh

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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and say what would happen; touch nothing.")
    ] = False,
) -> Result:
    """Start the gateway, or apply a change; running it again is harmless.

    All checks come first; nothing is touched before the line that says what will start. In an empty folder the stack
    is laid down first.
    """
    flags = runtime_flags(runtime, redis, port, workers)
    options = base.UpOptions(timeout, foreground, force)
    if dry_run:
        return _dry_run(context, planned(context.project, flags), replace(options, dry_run=True))
    if context.project.is_blank and not context.project.is_stack:
        planned(
            context.project, flags
        )  # what is wrong with the options or the environment is said before any file is made
        if runtime == "docker":
            from lmstack.runtime.compose import require_engine

            require_engine()
        context.say(f"{context.project.root} is empty: laying down a stack (lm init)")
        lay_down(context.project, files.read(context.project.env_file))
    context.project.require_stack()
    with files.locked(context.project.state / "lock", "lm up"):
        if refresh(context.project):
            context.say("Updating this stack's files to this version of lmstack")
        wanted = planned(context.project, flags)
        try:
            with _sigterm_is_ctrl_c() if foreground else contextlib.nullcontext():
                result = _up(context, wanted, options)
        except KeyboardInterrupt:
            if foreground:
                _stop_undisturbed(context, wanted)
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
    with files.locked(context.project.state / "lock", "lm down"):
        runtime = current_runtime(context.project.settings(), context.project)
        stopped = runtime.down(volumes, context.say)
    text = "Stopped." if stopped.ran else "Nothing was running."
    deleted = (
        f"Deleted: {', '.join(stopped.deleted)}"
        if stopped.deleted
        else "There was no data to delete."
        if volumes
        else ""
    )
    data = {"stopped": stopped.ran, "volumes_deleted": bool(stopped.deleted), "deleted": list(stopped.deleted)}
    return Result("down", data, (text, deleted) if deleted else (text,))


@command("restart", "lm restart")
def restart(
    context: Context, timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = base.READY_SECONDS
) -> Result:
    """Stop, and start with the settings on disk and the flags of the last `lm up`; waits until the proxy answers again."""
    context.project.require_stack()
    runtime = running_runtime(context.project)
    with files.locked(context.project.state / "lock", "lm restart"):
        wanted = planned(context.project, flags_of_running(context.project))
        options = base.UpOptions(timeout)
        check(context.project, wanted, options)
        wanted.runtime.prepare(wanted.plan, wanted.config, options, context.say)
        runtime.down(False, context.say)
        started = start(context.project, wanted, options, context.say)
    return report(wanted, started, "restart")


@command("status", "lm status --check")
def status(
    context: Context,
    check_it: Annotated[bool, typer.Option("--check", help="Exit code 5 unless every service runs.")] = False,
) -> Result:
    """Show what runs: address, models, services, their state and since when."""
    state = base.load_state(context.project)
    services = current_runtime(context.project.settings(), context.project).services()
    running = any(s.state == "running" for s in services)
    since = state.started_at if state and running else None
    data = {
        "running": running,
        "runtime": state.runtime if state else None,
        "url": state.url if state else None,
        "started_at": state.started_at if state else None,
        "uptime_seconds": round(max(0.0, time.time() - since)) if since else None,
        "models": state.models if state and running else [],
        "litellm": context.project.settings().version,
        "image": state.image if state else None,
        "image_digest": state.image_digest if state else None,
        "services": service_rows(services),
    }
    well = running and all(s.state == "running" for s in services)
    exit_code = Exit.UNHEALTHY if check_it and not well else Exit.OK
    return Result("status", data, _status_lines(data, services), exit=exit_code)


@command("ls", "lm ls")
def ls(context: Context) -> Result:
    """List the stacks that were started on this machine by this user."""
    rows = known()
    shown = [
        (str(r["folder"]), "running" if r["running"] else "stopped", str(r["runtime"] or ""), str(r["url"] or ""))
        for r in rows
    ]
    lines = (
        table(("FOLDER", "STATE", "RUNTIME", "URL"), shown)
        if rows
        else ("No stack was started here yet. Start one with: lm up",)
    )
    return Result("ls", {"stacks": rows}, lines)


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


def _up(context: Context, wanted: Planned, options: base.UpOptions) -> Result:
    if is_unchanged(context.project, wanted):
        return report(wanted, None, "up")
    return report(wanted, start(context.project, wanted, options, context.say), "up")


def _dry_run(context: Context, wanted: Planned, options: base.UpOptions) -> Result:
    """What `lm up` would do: the same checks, and no effect."""
    project = context.project
    if not project.is_blank:
        project.require_stack()
    told = since_the_last_start(base.load_state(project), wanted)
    same = is_unchanged(project, wanted)
    remarks = () if same or project.is_blank else check(project, wanted, options)
    runs = own_port(project) is not None
    action = "nothing" if same else "restart" if runs else "start"
    headline = {
        "nothing": "It runs already, and nothing has changed.",
        "restart": f"lm up would restart the gateway as {wanted.runtime.name} on {wanted.plan.url}. Open requests are finished first.",
        "start": f"lm up would start the gateway as {wanted.runtime.name} on {wanted.plan.url} ({wanted.why}).",
    }[action]
    data = {"action": action, "url": wanted.plan.url, "runtime": wanted.runtime.name, "why": wanted.why, "models": list(wanted.plan.names), "changes": told}  # fmt: skip
    return Result("up", data, (headline, *(f"  {change}" for change in told)), (*wanted.plan.messages, *remarks))


def _stay(context: Context, wanted: Planned, result: Result) -> Result:
    """Show the log until Ctrl-C, then stop the stack."""
    for line in result.lines:
        context.say(line)
    with contextlib.suppress(KeyboardInterrupt), _sigterm_is_ctrl_c():
        try:
            for line in wanted.runtime.logs(base.LogQuery(follow=True, tail=5)):
                if not context.as_json and not context.quiet:
                    say(uncoloured(line))
        finally:
            _stop_undisturbed(context, wanted)
    return Result(result.command, result.data, ("Stopped.",), result.messages)


@contextlib.contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """What a service manager sends is the way to stop, as Ctrl-C is."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop_undisturbed(context: Context, wanted: Planned) -> None:
    """Stop the stack; a second signal must not leave half of it running."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        wanted.runtime.down(False, context.say)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(lines: Iterable[str]) -> None:
    """Each line as it comes, until the last one or Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in lines:
            say(uncoloured(line))


def report(wanted: Planned, started: Started | None, name: str) -> Result:
    """The result of a start, or (None) of finding that everything runs already."""
    plan = wanted.plan
    example = "auto" if plan.groups else plan.deployments[0].name
    headline = "Already running; nothing has changed." if started is None else f"Ready after {started.took:.0f} s."
    data = {
        "url": plan.url, "runtime": wanted.runtime.name, "why": wanted.why, "models": list(plan.names), "changed": started is not None,
        "ready_seconds": round(started.took, 1) if started else 0.0,
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
    return Result(name, data, lines, (*plan.messages, *(started.remarks if started else ())))


def _status_lines(data: Mapping[str, Any], services: list[base.Service]) -> tuple[str, ...]:
    if not services:
        return ("Nothing is running. Start it with: lm up",)
    rows = table(("SERVICE", "STATE", "DETAIL"), [(s.name, s.state, s.detail) for s in services])
    if data["url"] is None:
        return rows
    since = f", up {_span(data['uptime_seconds'])}" if data["uptime_seconds"] is not None else ""
    return (
        f"{data['url']} ({data['runtime']}{since}), LiteLLM {data['litellm']}",
        f"Models: {', '.join(data['models'])}",
        *rows,
    )


def _span(seconds: float) -> str:
    """A time span in its two largest units."""
    days, hours, minutes = int(seconds // 86400), int(seconds // 3600 % 24), int(seconds // 60 % 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds % 60)} s"


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
