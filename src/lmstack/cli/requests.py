"""requests, request, errors: what the gateway did."""

import contextlib
import time
from datetime import datetime
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.failures import reader_left
from lmstack.cli.options import LIMIT, SINCE, request_ids, task_names
from lmstack.errors import LmError
from lmstack.operate.follow import new_requests
from lmstack.operate.planning import ask, refusals, seconds
from lmstack.result import Result, say, table, terminal_width, usd

_LONGEST_MODEL = 60
_SHORT_ID = 20  # characters: the milliseconds of the id and 16 random bits
_SHOWN_REFUSALS = 5


@command("requests", "lm requests --failed --since 1h")
def requests(
    context: Context,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed and refused requests.")] = False,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.", autocompletion=task_names)] = None,
    since: SINCE = "24h",
    limit: LIMIT = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new requests until Ctrl-C.")] = False,
) -> Result:
    """Show the newest requests with model, cost and outcome. With --json: the present ones, also with --follow."""
    rows = ask(context.project, "requests", since=time.time() - seconds(since), failed=failed, task=task, limit=limit)
    header = ("TIME", "ID", "STATUS", "MODEL", "MS", "COST", "TASK", "ERROR")
    lines = table(header, [_cells(r) for r in rows], frozenset({4, 5}))
    if not rows and not follow:
        lines = (f"No {'failed ' if failed else ''}requests in the last {since}.",)
    if follow and not context.as_json:
        _show((lines[0], *reversed(lines[1:])), context.quiet)
        with contextlib.suppress(KeyboardInterrupt):
            for new in new_requests(context.project, rows, failed, task):
                if reader_left():
                    break
                _show(("  ".join(_cells(r)).rstrip() for r in new), context.quiet)
        return Result("requests", {"requests": rows})
    return Result("requests", {"requests": rows}, lines)


@command("request", "lm request req_0190c2")
def request(
    context: Context,
    id: Annotated[  # noqa: A002
        str, typer.Argument(help="Our id, its beginning, or the x-litellm-call-id.", autocompletion=request_ids)
    ],
) -> Result:
    """Show one request with its attempts and its events."""
    rows = ask(context.project, "request", id=id)
    if not rows:
        raise LmError(f"the ledger has no request '{id}'", "see the newest: lm requests")
    if len(rows) > 1:
        raise LmError(f"several requests begin with '{id}'", f"give more of the id: {', '.join(r['id'] for r in rows)}")
    row = dict(rows[0])
    attempts, events = row.pop("attempt_list"), row.pop("event_list")
    lines = [f"{name:18} {_readable(name, value)}" for name, value in row.items() if value is not None]
    if attempts:
        tried = [(str(a["number"]), a["deployment"] or "-", a["provider"] or "-", a["outcome"], f"{a['latency_ms'] or 0:.0f}", a["error_message"] or "") for a in attempts]  # fmt: skip
        lines += ["", *table(("TRY", "MODEL", "PROVIDER", "OUTCOME", "MS", "ERROR"), tried, frozenset({0, 4}))]
    if events:
        sent = [(e["type"], e["state"], str(e["attempts"]), e["last_error"] or "") for e in events]
        lines += ["", *table(("EVENT", "STATE", "TRIES", "LAST ERROR"), sent, frozenset({2}))]
    return Result("request", {"request": row, "attempts": attempts, "events": events}, tuple(lines))


@command("errors", "lm errors --since 1h")
def errors(context: Context, since: SINCE = "24h") -> Result:
    """Count the errors by kind. These are failed attempts at providers, and requests that were refused."""
    after = time.time() - seconds(since)
    rows = ask(context.project, "errors", since=after)
    refused = refusals(context.project, after)
    data = {"since": since, "errors": rows, "refused": refused}
    told = _refused_lines(refused)
    if not rows:
        return Result("errors", data, (f"No errors in the last {since}.", *told))
    shown = [
        (
            str(r["count"]), r["error_type"] or "unknown", r["error_code"] or "-", r["provider"] or "(refused)", _model(r["deployment"]),
            local_time(r["last_at"]), (r["error_message"] or "").replace("\n", " "),
        )
        for r in rows
    ]  # fmt: skip
    header = ("COUNT", "ERROR", "CODE", "PROVIDER", "MODEL", "LAST", "MESSAGE")
    return Result("errors", data, (*table(header, shown, frozenset({0})), *told))


def _refused_lines(refused: dict[str, Any]) -> tuple[str, ...]:
    """Return the lines about requests that were refused before LiteLLM saw them. `lm requests` does not show them."""
    if not refused["counts"]:
        return ()
    counts = ", ".join(f"{row['count']} {row['reason']}" for row in refused["counts"])
    last = [(local_time(r["at"]), r["reason"], r["path"], r["address"]) for r in refused["last"][:_SHOWN_REFUSALS]]
    return (
        "",
        f"Refused before LiteLLM saw them, so lm requests does not show them: {counts}. The last ones:",
        *table(("TIME", "REASON", "PATH", "FROM"), last),
    )


def local_time(at: float) -> str:
    """Return the time of day."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def _show(lines: Any, quiet: bool) -> None:
    for line in () if quiet else lines:
        say(line)


def _cells(r: dict[str, Any]) -> tuple[str, ...]:
    return (
        local_time(r["started_at"]), r["id"] if terminal_width() is None else r["id"][:_SHORT_ID], r["status"],
        _model(r["deployment"] or r["requested_model"]), "-" if r["latency_ms"] is None else f"{r['latency_ms']:.0f}", _cost(r),
        r["task_id"] or "-", r["error_type"] or "",
    )  # fmt: skip


def _model(name: str | None) -> str:
    """Return a model's name for a table. A client may ask for a name of any length, and the other columns must stay in sight."""
    return "-" if not name else name if len(name) <= _LONGEST_MODEL else name[: _LONGEST_MODEL - 1] + "…"


def _cost(r: dict[str, Any]) -> str:
    if r["cost_usd"] is None and r["status"] not in ("succeeded", "interrupted"):
        return "-"
    text = usd(r["cost_usd"])
    return f"~{text}" if r["cost_estimated"] and text.startswith("$") else text


def _readable(name: str, value: Any) -> str:
    """Return a column's value for people: local time, a plain amount, whole milliseconds."""
    if name.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(value))
    if name.endswith("_usd"):
        return f"{value:.10f}".rstrip("0")
    return f"{value:.0f}" if name.endswith("_ms") else str(value)
