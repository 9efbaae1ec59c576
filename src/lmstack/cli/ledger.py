"""usage, requests, request, events: questions to the ledger, running or not."""

import time
from datetime import datetime
from typing import Annotated, Any

import typer

from lmledger.queries import GROUPINGS
from lmstack.cli.app import Context, app, command
from lmstack.cli.stack import seconds
from lmstack.errors import LmError
from lmstack.result import Result, table, usd
from lmstack.runtime.choose import current_runtime

events_app = typer.Typer(
    name="events", help="What TaskMaster was told, or will be.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(events_app)

_SINCE = Annotated[str, typer.Option("--since", help="How far back: 30m, 24h, 7d.")]


@command("usage", "lm usage --by task --since 24h")
def usage(
    context: Context,
    by: Annotated[str, typer.Option("--by", help=f"One of {', '.join(GROUPINGS)}.")] = "model",
    since: _SINCE = "24h",
) -> Result:
    """Requests, failures, tokens and cost per group. Unknown prices are counted, never summed as 0."""
    if by not in GROUPINGS:
        raise LmError(f"cannot group by '{by}'", f"choose one of {', '.join(GROUPINGS)}")
    rows = ask(context, "usage", by=by, since=time.time() - seconds(since))
    total = sum(row["cost_usd"] for row in rows)
    unpriced = sum(row["unpriced"] for row in rows)
    shown = [
        (
            str(r["name"]),
            str(r["requests"]),
            str(r["failures"]),
            str(r["prompt_tokens"]),
            str(r["completion_tokens"]),
            _cost(r),
        )
        for r in rows
    ]
    lines = table((by.upper(), "REQUESTS", "FAILED", "IN", "OUT", "COST"), shown, frozenset({1, 2, 3, 4, 5}))
    extra = f", and {unpriced} answers of unknown price" if unpriced else ""
    data = {"by": by, "since": since, "rows": rows, "total_usd": total, "unpriced": unpriced}
    return Result("usage", data, (*lines, f"Total: {usd(total)}{extra}"))


@command("requests", "lm requests --failed --since 1h")
def requests(
    context: Context,
    failed: Annotated[bool, typer.Option("--failed", help="Only what did not succeed.")] = False,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    since: _SINCE = "24h",
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 20,
) -> Result:
    """The newest requests, with model, cost and outcome."""
    rows = ask(context, "requests", since=time.time() - seconds(since), failed=failed, task=task, limit=limit)
    shown = [
        (
            datetime.fromtimestamp(r["started_at"]).strftime("%H:%M:%S"), r["id"], r["status"], r["deployment"] or r["requested_model"] or "-",
            "-" if r["latency_ms"] is None else f"{r['latency_ms']:.0f}", usd(r["cost_usd"]) if r["status"] == "succeeded" else "-",
            r["task_id"] or "-", r["error_type"] or "",
        )
        for r in rows
    ]  # fmt: skip
    lines = table(("TIME", "ID", "STATUS", "MODEL", "MS", "COST", "TASK", "ERROR"), shown, frozenset({4, 5}))
    return Result("requests", {"requests": rows}, lines)


@command("request", "lm request req_0190c2")
def request(context: Context, id: Annotated[str, typer.Argument(help="Our id, or the x-litellm-call-id.")]) -> Result:  # noqa: A002
    """One request with each provider attempt."""
    rows = ask(context, "request", id=id)
    if not rows:
        raise LmError(f"no request '{id}' on the ledger", "see the newest with: lm requests")
    row = dict(rows[0])
    attempts = row.pop("attempt_list")
    lines = [f"{name:18} {value}" for name, value in row.items() if value is not None]
    shown = [
        (
            str(a["number"]),
            a["deployment"] or "-",
            a["provider"] or "-",
            a["outcome"],
            f"{a['latency_ms'] or 0:.0f}",
            a["error_message"] or "",
        )
        for a in attempts
    ]
    lines += table(("TRY", "MODEL", "PROVIDER", "OUTCOME", "MS", "ERROR"), shown, frozenset({0, 4}))
    return Result("request", {"request": row, "attempts": attempts}, tuple(lines))


@command("status", "lm events status", events_app)
def events_status(context: Context) -> Result:
    """How many events wait, were delivered, or are dead."""
    rows = ask(context, "event_counts")
    shown = [(r["state"], str(r["events"])) for r in rows]
    lines = (
        table(("STATE", "EVENTS"), shown, frozenset({1}))
        if rows
        else ("No events: set TASKMASTER_API_URL in .env to send some.",)
    )
    return Result("events status", {"states": rows}, lines)


@command("list", "lm events list --state dead", events_app)
def events_list(
    context: Context,
    state: Annotated[str | None, typer.Option("--state", help="pending, leased, delivered or dead.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 20,
) -> Result:
    """The newest events with their state and last error."""
    rows = ask(context, "events", state=state, limit=limit)
    shown = [(str(r["seq"]), r["type"], r["state"], str(r["attempts"]), r["last_error"] or "") for r in rows]
    lines = table(("SEQ", "TYPE", "STATE", "TRIES", "LAST ERROR"), shown, frozenset({0, 3}))
    return Result("events list", {"events": rows}, lines)


@command("replay", "lm events replay", events_app)
def events_replay(
    context: Context,
    id: Annotated[str | None, typer.Argument(help="One event id; default: every dead event.")] = None,  # noqa: A002
) -> Result:
    """Send dead events again, with their old ids."""
    (row,) = ask(context, "replay", event_id=id)
    return Result("events replay", row, (f"{row['replayed']} events will be sent again.",))


def ask(context: Context, query: str, **arguments: Any) -> list[dict[str, Any]]:
    """Ask the ledger of whatever runtime this folder uses."""
    return current_runtime(context.project.settings(), context.project).query(query, arguments)


def _cost(row: dict[str, Any]) -> str:
    return usd(row["cost_usd"]) + (f" + {row['unpriced']} unknown" if row["unpriced"] else "")
