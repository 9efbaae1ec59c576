"""report: the costs of a month as a file to mail."""

import csv
import io
import time
from pathlib import Path
from typing import Annotated

import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.operate.cost_report import csv_rows, html_of, read_month
from lmstack.result import Result, usd


@command("report", "lm report --month 2026-11")
def report(
    context: Context,
    month: Annotated[str | None, typer.Option("--month", help="The month (UTC). Default: the present one.")] = None,
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="Where to write the two files.")] = ".",
) -> Result:
    """Write the costs of a month as one HTML file and one CSV file.

    They add up days, models, tasks and agents. The HTML file needs nothing else, so it can be mailed.
    """
    found = read_month(context.project, month or time.strftime("%Y-%m", time.gmtime()))
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(csv_rows(found))
    target = Path(to)
    written = {target / f"costs-{found.name}.html": html_of(found), target / f"costs-{found.name}.csv": out.getvalue()}
    files.ensure_writable_folder(target)
    for path, text in written.items():
        files.write(path, text)
    total = found.total
    data = {
        "month": found.name, "files": [str(path) for path in written], "total_usd": total["cost_usd"],
        "requests": int(total["requests"]), "unpriced": int(total["unpriced"]),
    }  # fmt: skip
    lines = (f"{found.name}: {usd(total['cost_usd'])} for {total['requests']:,.0f} requests.", *map(str, written))
    return Result("report", data, lines)
