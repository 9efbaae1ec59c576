"""usage: requests, tokens and cost."""

import csv
import io
import os
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.options import SINCE, OneOf
from lmstack.errors import UsageError
from lmstack.ledger.cells import without_formula
from lmstack.ledger.usage import GROUPINGS
from lmstack.operate.holder import VARIABLE
from lmstack.operate.launch import gateway_url
from lmstack.operate.planning import seconds
from lmstack.operate.usage import cost_on_premium, usage_of_secret, usage_rows
from lmstack.result import Result, counted, table, terminal_width, usd


@command("usage", "lm usage --by task --since 24h")
def usage(
    context: Context,
    by: Annotated[str, typer.Option("--by", help="What each row adds up."), OneOf(GROUPINGS)] = "model",
    since: SINCE = "24h",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    own: Annotated[bool, typer.Option("--key", help="Show what the key in LITELLM_API_KEY may use and has used. Works on any machine.")] = False,
    url: Annotated[str | None, typer.Option("--url", help="With --key: the gateway's address. Default: that of this stack.")] = None,
) -> Result:  # fmt: skip
    """Show requests, tokens and cost.

    The last line shows what the same tokens would cost on `premium`, at the price of the model that your gateway tries first for it. An answer of unknown price is counted, but never added as 0.
    """
    if own or url is not None:
        return _own(context, url)
    rows = usage_rows(context.project, by, seconds(since))
    total, unpriced = sum(row["cost_usd"] for row in rows), sum(row["unpriced"] for row in rows)
    dearest = cost_on_premium(context.project, rows)
    data = {"by": by, "since": since, "rows": rows, "total_usd": total, "unpriced": unpriced, "dearest": dearest}
    if as_csv:
        return Result("usage", data, tuple(_csv(rows)))
    if not rows:
        return Result("usage", data, (f"No requests in the last {since}.",))
    lines = table((by.upper(), "REQUESTS", "FAILED", "IN", "OUT", "COST", ""), _cells(rows), frozenset({1, 2, 3, 4, 5}))
    extra = f", and {counted(unpriced, 'answer')} of unknown price" if unpriced else ""
    compared = (f"The same tokens on premium ({dearest['model']}): {usd(dearest['cost_usd'])}",) if dearest else ()
    return Result("usage", data, (*lines, f"Total: {usd(total)}{extra}", *compared))


def _own(context: Context, url: str | None) -> Result:
    """Ask the gateway as the holder of a key does."""
    secret = os.environ.get(VARIABLE, "")
    if not secret:
        raise UsageError(f"{VARIABLE} is not set", f"it must hold the secret of the key: export {VARIABLE}=sk-lm-…")
    found = usage_of_secret(url or gateway_url(context.project), secret)
    lines = [f"{found['key']}: agent {found['agent'] or '-'}, team {found['team'] or '-'}"]
    lines += [f"  {b['period']}: {usd(b['spent_usd'])} of {usd(b['limit_usd'])}" for b in found["budgets"]]
    lines += [f"  {name}: {rate['used']} of {rate['limit']}" for name, rate in found["rates"].items() if rate["limit"]]
    lines += [f"  in all: {counted(found['total']['requests'], 'request')}, {usd(found['total']['cost_usd'])}"]
    return Result("usage", {"own": found}, tuple(lines))


def _cells(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return table cells; on a terminal the last one is a bar for the cost."""
    most = max((row["cost_usd"] for row in rows), default=0.0)
    wide = 20 if terminal_width() and most else 0
    return [
        (
            str(r["name"]), str(r["requests"]), str(r["failures"]), str(r["prompt_tokens"]), str(r["completion_tokens"]), _cost(r),
            "█" * round(wide * r["cost_usd"] / most) if wide else "",
        )
        for r in rows
    ]  # fmt: skip


def _cost(row: dict[str, Any]) -> str:
    return usd(row["cost_usd"]) + (f" + {row['unpriced']} unknown" if row["unpriced"] else "")


def _csv(rows: list[dict[str, Any]]) -> list[str]:
    out = io.StringIO()
    names = ["name", "requests", "failures", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced"]
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "name": without_formula(row["name"])} for row in rows)
    return out.getvalue().removesuffix("\n").split("\n")
