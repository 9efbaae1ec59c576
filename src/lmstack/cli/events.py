"""events: what was sent to TaskMaster, and what waits."""

import contextlib
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, app, command
from lmstack.cli.failures import reader_left
from lmstack.cli.options import LIMIT, OneOf, dead_events
from lmstack.cli.requests import local_time
from lmstack.errors import LmError
from lmstack.operate.follow import EVENTS, changed_events
from lmstack.operate.planning import ask
from lmstack.result import Result, say, table

events_app = typer.Typer(
    name="events", help="Show and resend the events for TaskMaster.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(events_app)

_STATES = ("pending", "leased", "delivered", "dead")


@command("status", "lm events status", events_app)
def events_status(context: Context) -> Result:
    """Count the events that wait, were delivered, or are dead."""
    rows = ask(context.project, "event_counts")
    if rows:
        lines = table(("STATE", "EVENTS"), [(r["state"], str(r["events"])) for r in rows], frozenset({1}))
    else:
        lines = (_no_events(context),)
    return Result("events status", {"states": rows}, lines)


@command("list", "lm events list --state dead", events_app)
def events_list(
    context: Context,
    state: Annotated[str | None, typer.Option("--state", help="Only events in this state."), OneOf(_STATES)] = None,
    limit: LIMIT = 20,
) -> Result:
    """List the newest events with their state and last error."""
    rows = ask(context.project, "events", state=state, limit=limit)
    if not rows and limit:
        return Result("events list", {"events": rows}, (f"No {state} events." if state else _no_events(context),))
    shown = [(str(r["seq"]), r["type"], r["state"], str(r["attempts"]), r["last_error"] or "") for r in rows]
    lines = table(("SEQ", "TYPE", "STATE", "TRIES", "LAST ERROR"), shown, frozenset({0, 3}))
    return Result("events list", {"events": rows}, lines)


@command("tail", "lm events tail", events_app)
def events_tail(
    context: Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=EVENTS, help="How many past events to begin with.")] = 10,
) -> Result:  # fmt: skip
    """Show events as they are made, retried and delivered, until Ctrl-C. With --json: the newest ones, once."""
    rows = ask(context.project, "events", limit=EVENTS)
    newest = rows[:limit]
    if not context.as_json:
        _show(reversed(newest), context.quiet)
        with contextlib.suppress(KeyboardInterrupt):
            for changed in changed_events(context.project, rows):
                if reader_left():
                    break
                _show(changed, context.quiet)
    return Result("events tail", {"events": newest})


@command("dead", "lm events dead", events_app)
def events_dead(context: Context, limit: LIMIT = 20) -> Result:
    """List the dead events.

    TaskMaster has refused them for good, or did not take them within 72 hours.
    """
    rows = ask(context.project, "events", state="dead", limit=limit)
    shown = [(r["event_id"], r["type"], str(r["attempts"]), r["last_error"] or "") for r in rows]
    lines = (*table(("ID", "TYPE", "TRIES", "LAST ERROR"), shown, frozenset({2})), "Send them again: lm events replay")
    return Result("events dead", {"events": rows}, lines if rows else ("No dead events.",))


@command("replay", "lm events replay", events_app)
def events_replay(
    context: Context,
    id: Annotated[  # noqa: A002
        str | None, typer.Argument(help="One event's id. Default: every dead event.", autocompletion=dead_events)
    ] = None,
) -> Result:
    """Send dead events again, with the same ids."""
    (row,) = ask(context.project, "replay", event_id=id)
    count = row["replayed"]
    if not count and id is not None:
        raise LmError(f"there is no dead event '{id}'", "see the dead events: lm events dead")
    if not count:
        return Result("events replay", row, ("No dead events. There is nothing to send again.",))
    return Result("events replay", row, (f"{count} {'event' if count == 1 else 'events'} will be sent again.",))


def _no_events(context: Context) -> str:
    if context.project.settings().get("TASKMASTER_API_URL"):
        return "No events yet."
    return "No events. To send events: lm config set TASKMASTER_API_URL http://..."


def _show(rows: Any, quiet: bool) -> None:
    for row in () if quiet else rows:
        say(_line(row))


def _line(r: dict[str, Any]) -> str:
    about = (local_time(r["created_at"]), str(r["seq"]), r["type"], r["state"], f"tries {r['attempts']}")
    return "  ".join((*about, r.get("order_key") or "-", r["last_error"] or "")).rstrip()
