"""usage, requests, request, events: questions to the ledger, running or not."""

import contextlib
import csv
import io
import time
from datetime import datetime
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, app, command
from lmstack.cli.failures import reader_left
from lmstack.cli.options import OneOf, dead_events, request_ids, task_names
from lmstack.errors import LmError
from lmstack.ledger.queries import GROUPINGS
from lmstack.operate.planning import ask, seconds
from lmstack.result import Result, say, table, terminal_width, usd

events_app = typer.Typer(
    name="events", help="What TaskMaster was told, or will be.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(events_app)

_TAIL = 500  # events that are watched for a change
_SHORT = 20  # characters of an id that tell requests apart: its milliseconds and 16 random bits
_SINCE = Annotated[str, typer.Option("--since", help="How far back: 30m, 24h, 7d.")]
_STATES = ("pending", "leased", "delivered", "dead")
_MOST = 1_000_000  # rows of one answer
_LIMIT = Annotated[int, typer.Option("--limit", "-n", min=0, max=_MOST, help="How many at most.")]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that begins so for a formula


@command("usage", "lm usage --by task --since 24h")
def usage(
    context: Context,
    by: Annotated[str, typer.Option("--by", help="What one row stands for."), OneOf(GROUPINGS)] = "model",
    since: _SINCE = "24h",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> Result:
    """Requests, failures, tokens and cost per group, and what the same tokens would have cost on the dearest tier.
    Unknown prices are counted, never summed as 0."""
    rows = ask(context.project, "usage", by=by, since=time.time() - seconds(since))
    total = sum(row["cost_usd"] for row in rows)
    unpriced = sum(row["unpriced"] for row in rows)
    dearest = _on_the_dearest(context, rows)
    data = {"by": by, "since": since, "rows": rows, "total_usd": total, "unpriced": unpriced, "dearest": dearest}
    if as_csv:
        return Result("usage", data, tuple(_csv(rows)))
    lines = table((by.upper(), "REQUESTS", "FAILED", "IN", "OUT", "COST", ""), _shown(rows), frozenset({1, 2, 3, 4, 5}))
    extra = f", and {unpriced} answers of unknown price" if unpriced else ""
    compared = (f"On {dearest['model']}, the same tokens: {usd(dearest['cost_usd'])}",) if dearest and rows else ()
    return Result("usage", data, (*lines, f"Total: {usd(total)}{extra}", *compared))


@command("errors", "lm errors --since 1h")
def errors(context: Context, since: _SINCE = "24h") -> Result:
    """What went wrong, by kind: failed attempts at providers, and requests that were refused."""
    rows = ask(context.project, "errors", since=time.time() - seconds(since))
    shown = [
        (
            str(r["count"]), r["error_type"] or "unknown", r["error_code"] or "-", r["provider"] or "(refused)", r["deployment"] or "-",
            _clock(r["last_at"]), (r["error_message"] or "").replace("\n", " "),
        )
        for r in rows
    ]  # fmt: skip
    header = ("COUNT", "ERROR", "CODE", "PROVIDER", "MODEL", "LAST", "MESSAGE")
    lines = table(header, shown, frozenset({0})) if rows else (f"No errors in the last {since}.",)
    return Result("errors", {"since": since, "errors": rows}, lines)


@command("requests", "lm requests --failed --since 1h")
def requests(
    context: Context,
    failed: Annotated[bool, typer.Option("--failed", help="Only what did not succeed.")] = False,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.", autocompletion=task_names)] = None,
    since: _SINCE = "24h",
    limit: _LIMIT = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> Result:
    """The newest requests, with model, cost and outcome. With --json: once, also with --follow."""
    rows = ask(context.project, "requests", since=time.time() - seconds(since), failed=failed, task=task, limit=limit)
    header = ("TIME", "ID", "STATUS", "MODEL", "MS", "COST", "TASK", "ERROR")
    lines = table(header, [_request_line(r) for r in rows], frozenset({4, 5}))
    if not rows and not follow:
        lines = (f"No {'failed ' if failed else ''}requests in the last {since}.",)
    if follow and not context.as_json:
        for line in (lines[0], *reversed(lines[1:])):
            say(line)
        _follow(context, rows, failed, task)
        return Result("requests", {"requests": rows})
    return Result("requests", {"requests": rows}, lines)


@command("request", "lm request req_0190c2")
def request(
    context: Context,
    id: Annotated[  # noqa: A002
        str, typer.Argument(help="Our id, its beginning, or the x-litellm-call-id.", autocompletion=request_ids)
    ],
) -> Result:
    """One request with each provider attempt."""
    rows = ask(context.project, "request", id=id)
    if not rows:
        raise LmError(f"no request '{id}' on the ledger", "see the newest with: lm requests")
    if len(rows) > 1:
        raise LmError(f"several requests begin with '{id}'", f"give more of it: {', '.join(r['id'] for r in rows)}")
    row = dict(rows[0])
    attempts, events = row.pop("attempt_list"), row.pop("event_list")
    lines = [f"{name:18} {_readable(name, value)}" for name, value in row.items() if value is not None]
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
    if events:
        told = [(e["type"], e["state"], str(e["attempts"]), e["last_error"] or "") for e in events]
        lines += table(("EVENT", "STATE", "TRIES", "LAST ERROR"), told, frozenset({2}))
    return Result("request", {"request": row, "attempts": attempts, "events": events}, tuple(lines))


@command("status", "lm events status", events_app)
def events_status(context: Context) -> Result:
    """How many events wait, were delivered, or are dead."""
    rows = ask(context.project, "event_counts")
    shown = [(r["state"], str(r["events"])) for r in rows]
    lines = (
        table(("STATE", "EVENTS"), shown, frozenset({1}))
        if rows
        else (
            "No events yet." if context.project.settings().get("TASKMASTER_API_URL")
            else "No events: set TASKMASTER_API_URL in .env to send some.",
        )
    )  # fmt: skip
    return Result("events status", {"states": rows}, lines)


@command("list", "lm events list --state dead", events_app)
def events_list(
    context: Context,
    state: Annotated[str | None, typer.Option("--state", help="Only events in this state."), OneOf(_STATES)] = None,
    limit: _LIMIT = 20,
) -> Result:
    """The newest events with their state and last error."""
    rows = ask(context.project, "events", state=state, limit=limit)
    shown = [(str(r["seq"]), r["type"], r["state"], str(r["attempts"]), r["last_error"] or "") for r in rows]
    lines = table(("SEQ", "TYPE", "STATE", "TRIES", "LAST ERROR"), shown, frozenset({0, 3}))
    return Result("events list", {"events": rows}, lines)


@command("tail", "lm events tail", events_app)
def events_tail(
    context: Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, max=_TAIL, help="How many of the past to begin with.")
    ] = 10,
) -> Result:
    """Show events as they are made, retried and delivered, until Ctrl-C. With --json: the newest, once."""
    rows = ask(context.project, "events", limit=_TAIL)
    newest = rows[:limit]
    if not context.as_json:
        for row in reversed(newest):
            say(_event_line(row))
        _follow_events(context, {row["seq"]: (row["state"], row["attempts"]) for row in rows})
    return Result("events tail", {"events": newest})


@command("dead", "lm events dead", events_app)
def events_dead(context: Context, limit: _LIMIT = 20) -> Result:
    """Events that TaskMaster refused for good, or that were tried for over 72 hours."""
    rows = ask(context.project, "events", state="dead", limit=limit)
    shown = [(r["event_id"], r["type"], str(r["attempts"]), r["last_error"] or "") for r in rows]
    lines = (*table(("ID", "TYPE", "TRIES", "LAST ERROR"), shown, frozenset({2})), "Send them again: lm events replay")
    return Result("events dead", {"events": rows}, lines if rows else ("No dead events.",))


@command("replay", "lm events replay", events_app)
def events_replay(
    context: Context,
    id: Annotated[  # noqa: A002
        str | None, typer.Argument(help="One event id; default: every dead event.", autocompletion=dead_events)
    ] = None,
) -> Result:
    """Send dead events again, with their old ids."""
    (row,) = ask(context.project, "replay", event_id=id)
    return Result("events replay", row, (f"{row['replayed']} events will be sent again.",))


def _cost(row: dict[str, Any]) -> str:
    return usd(row["cost_usd"]) + (f" + {row['unpriced']} unknown" if row["unpriced"] else "")


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def _shown(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Table cells, on a terminal with a bar for each cost."""
    most = max((row["cost_usd"] for row in rows), default=0.0)
    wide = 20 if terminal_width() and most else 0
    return [
        (
            str(r["name"]), str(r["requests"]), str(r["failures"]), str(r["prompt_tokens"]), str(r["completion_tokens"]), _cost(r),
            "█" * round(wide * r["cost_usd"] / most) if wide else "",
        )
        for r in rows
    ]  # fmt: skip


def _csv(rows: list[dict[str, Any]]) -> list[str]:
    out = io.StringIO()
    names = ["name", "requests", "failures", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced"]
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "name": _cell(row["name"])} for row in rows)
    return out.getvalue().removesuffix("\n").split("\n")


def _cell(name: Any) -> Any:
    """A name that a client chose, as a cell that no spreadsheet runs: an apostrophe says that it is text."""
    return f"'{name}" if isinstance(name, str) and name.startswith(_FORMULA) else name


def _on_the_dearest(context: Context, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The catalog's first choice of the dearest tier, and what all these tokens would have cost there."""
    priced = [m for m in context.project.catalog().models.values() if m.tier == 3 and m.priced and not m.successor]
    if not priced:
        return None
    model = min(priced, key=lambda m: 3 * (m.input or 0) + (m.output or 0))
    tokens_in, tokens_out = sum(r["prompt_tokens"] for r in rows), sum(r["completion_tokens"] for r in rows)
    cost = (tokens_in * (model.input or 0) + tokens_out * (model.output or 0)) / 1_000_000
    return {"model": model.name, "cost_usd": cost}


def _follow_events(context: Context, seen: dict[int, tuple[str, int]]) -> None:
    """Print each event whose state or number of tries is another than last time."""
    with contextlib.suppress(KeyboardInterrupt):
        while not reader_left():
            time.sleep(1)  # the pace of a poll
            rows = ask(context.project, "events", limit=_TAIL)
            for row in reversed(rows):
                if seen.get(row["seq"]) != (row["state"], row["attempts"]):
                    say(_event_line(row))
            seen = {row["seq"]: (row["state"], row["attempts"]) for row in rows}


def _readable(name: str, value: Any) -> str:
    """A column's value for people: local time instead of seconds since 1970, no digits that mean nothing."""
    if name.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(value))
    if name.endswith("_usd"):
        return f"{value:.10f}".rstrip("0")
    return f"{value:.0f}" if name.endswith("_ms") else str(value)


def _event_line(r: dict[str, Any]) -> str:
    about = r.get("order_key") or "-"
    parts = (
        _clock(r["created_at"]),
        str(r["seq"]),
        r["type"],
        r["state"],
        f"tries {r['attempts']}",
        about,
        r["last_error"] or "",
    )
    return "  ".join(parts).rstrip()


def _request_line(r: dict[str, Any]) -> tuple[str, ...]:
    return (
        _clock(r["started_at"]), r["id"] if terminal_width() is None else r["id"][:_SHORT], r["status"], r["deployment"] or r["requested_model"] or "-",
        "-" if r["latency_ms"] is None else f"{r['latency_ms']:.0f}", _cost_of_one(r),
        r["task_id"] or "-", r["error_type"] or "",
    )  # fmt: skip


def _cost_of_one(r: dict[str, Any]) -> str:
    if r["cost_usd"] is None and r["status"] not in ("succeeded", "interrupted"):
        return "-"
    text = usd(r["cost_usd"])
    return f"~{text}" if r["cost_estimated"] and text.startswith("$") else text


def _follow(context: Context, seen: list[dict[str, Any]], failed: bool, task: str | None) -> None:
    """Print requests as they end, until Ctrl-C."""
    known, since = {r["id"] for r in seen if r["status"] != "started"}, time.time() - 60
    with contextlib.suppress(KeyboardInterrupt):
        while not reader_left():
            time.sleep(1)  # the pace of a poll
            rows = ask(context.project, "requests", since=since, failed=failed, task=task, limit=1000)
            new = [r for r in reversed(rows) if r["id"] not in known and r["status"] != "started"]
            for r in new:
                say("  ".join(_request_line(r)).rstrip())
            known |= {r["id"] for r in new}
