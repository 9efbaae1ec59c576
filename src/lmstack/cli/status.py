"""status, ls, health: what runs, and how it is."""

import time
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, command
from lmstack.errors import Exit
from lmstack.operate.model_list import names_lines
from lmstack.operate.planning import gateway_health
from lmstack.operate.stacks import known
from lmstack.operate.status import is_well, stack_status
from lmstack.result import Result, table
from lmstack.runtime.images import shown_digest
from lmstack.stack.project import Project


@command("status", "lm status --check")
def status(
    context: Context,
    check: Annotated[bool, typer.Option("--check", help="Exit code 5 unless every service runs.")] = False,
) -> Result:
    """Show what runs, and since when: address, models and services."""
    data = stack_status(context.project)
    return Result(
        "status",
        data,
        _status_lines(data, context.project),
        exit=Exit.UNHEALTHY if check and not is_well(data) else Exit.OK,
    )


@command("ls", "lm ls")
def ls(context: Context) -> Result:
    """List your stacks on this machine."""
    rows = known()
    shown = [
        (str(r["folder"]), "running" if r["running"] else "stopped", str(r["runtime"] or ""), str(r["url"] or ""))
        for r in rows
    ]
    if not rows:
        return Result("ls", {"stacks": rows}, ("You have started no stack on this machine. Start one with: lm up",))
    return Result("ls", {"stacks": rows}, table(("FOLDER", "STATE", "RUNTIME", "URL"), shown))


@command("health", "lm health --json")
def health(
    context: Context,
    deep: Annotated[bool, typer.Option("--deep", help="Also show the results of the proxy's own checks.")] = False,
) -> Result:
    """Show the health of the running gateway. Calls no provider. Exit code 5 when the gateway is unhealthy."""
    data = gateway_health(context.project, deep)
    exit_code = Exit.UNHEALTHY if data["status"] == "unhealthy" else Exit.OK
    return Result("health", data, tuple(_health_lines(data, context.project)), exit=exit_code)


def _status_lines(data: dict[str, Any], project: Project) -> tuple[str, ...]:
    if not data["services"]:
        return (f"Nothing is running. {_no_stack(project) or 'Start it with: lm up'}",)
    rows = table(("SERVICE", "STATE", "DETAIL"), [(s["name"], s["state"], s["detail"]) for s in data["services"]])
    if data["url"] is None:
        return rows
    release = f"LiteLLM {data['litellm']}" if data["litellm"] else "but .env or models.yaml has errors: lm validate"
    uptime = f", up {_duration(data['uptime_seconds'])}" if data["uptime_seconds"] is not None else ""
    return (
        f"{data['url']} ({data['runtime']}{uptime}), {release}",
        *names_lines(data["models"]),
        *([f"Image {data['image']}, {shown_digest(data['image_digest'] or '')}"] if data["image"] else []),
        *rows,
        *_worker_lines(data),
    )


def _worker_lines(data: dict[str, Any]) -> list[str]:
    """Return a table of the workers, and how many had to be replaced."""
    if not data["workers"]:
        return []
    now = time.time()
    found = [
        (str(w["number"]), str(w["pid"]), "?" if w["memory_mb"] is None else f"{w['memory_mb']} MB", _duration(max(0.0, now - w["started_at"])))
        for w in data["workers"]
    ]  # fmt: skip
    lost = [f"Workers that died and were replaced: {data['workers_replaced']}"] if data["workers_replaced"] else []
    return [*table(("WORKER", "PID", "MEMORY", "UP"), found), *lost]


def _no_stack(project: Project) -> str:
    """Return the next step in a folder that `lm up` would refuse: it has files, but no stack. "" for any other folder."""
    if project.is_stack or project.is_new:
        return ""
    return f"{project.root} holds no stack. Make one here with: lm init. List your stacks with: lm ls"


def _duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    days, hours, minutes = int(seconds // 86400), int(seconds // 3600 % 24), int(seconds // 60 % 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{int(seconds)} s"


def _health_lines(data: dict[str, Any], project: Project) -> list[str]:
    proxy = data["proxy"]
    alive = "answers" if proxy["alive"] else f"does not answer ({proxy['error']})"
    lines = [f"{data['status']}: the proxy at {proxy['url']} {alive}"]
    rows = [
        (m["model"], m["status"], m.get("provider") or "", m.get("error") or m.get("source") or "")
        for m in data["models"]
    ]
    lines += table(("MODEL", "STATUS", "PROVIDER", "FROM"), rows) if rows else []
    for part in ("taskmaster", "ledger", "redis"):
        error = data[part].get("error")
        lines.append(f"{part}: {data[part]['status']}" + (f" ({error})" if error else ""))
    return lines if proxy["alive"] else [*lines, f"  → {_no_stack(project) or 'start it with: lm up'}"]
