"""Write the costs of one month as a file for people and a file for spreadsheets. Pure, except for ``read_month``.

The HTML file needs nothing else: style and charts are in it, so that it can be mailed and printed.
"""

import re
import time
from calendar import timegm
from dataclasses import dataclass
from html import escape
from typing import Any

from lmstack.errors import UsageError
from lmstack.ledger.cells import without_formula
from lmstack.ledger.usage import GROUPINGS
from lmstack.operate.planning import ask
from lmstack.operate.usage import cost_on_premium
from lmstack.stack.project import Project

MOST_ROWS = 40  # of one table; the CSV has all
_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #1a1f29; max-width: 860px; margin: 32px auto; padding: 0 20px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 16px; margin: 32px 0 8px; } p { color: #5a6372; margin: 4px 0; }
.sums { display: flex; flex-wrap: wrap; gap: 12px 40px; margin: 20px 0; } .sums b { display: block; font-size: 24px; color: #1a1f29; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid #e2e5ea; }
th { font-weight: 500; color: #5a6372; } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { overflow-wrap: anywhere; } svg { display: block; } rect { fill: #2f5bd3; }
"""


@dataclass(frozen=True, slots=True)
class Month:
    """The sums of one UTC month. ``groups``: the rows of `lm usage` for each grouping; ``premium``: see `lm usage`."""

    name: str
    groups: dict[str, list[dict[str, Any]]]
    premium: dict[str, Any] | None

    @property
    def total(self) -> dict[str, float]:
        """Return the sums of all requests."""
        keys = ("requests", "failures", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced")
        return {key: sum(row[key] for row in self.groups["day"]) for key in keys}


def month_span(name: str) -> tuple[float, float]:
    """Return where a month such as ``2026-11`` begins and ends, in Unix seconds (UTC). Raises UsageError."""
    found = re.fullmatch(r"(\d{4})-(\d\d)", name)
    if not found or not 1970 < int(found[1]) < 3000 or not 1 <= int(found[2]) <= 12:
        raise UsageError(f"'{name[:40]}' is no month", f"write it as {time.strftime('%Y-%m')}")
    year, month = int(found[1]), int(found[2])
    return timegm((year, month, 1, 0, 0, 0)), timegm((year + month // 12, month % 12 + 1, 1, 0, 0, 0))


def read_month(project: Project, name: str) -> Month:
    """Return the sums of a month. Raises UsageError, and LmError when there is no ledger."""
    since, until = month_span(name)
    groups = {by: ask(project, "usage", by=by, since=since, until=until) for by in GROUPINGS}
    groups["day"].sort(key=lambda row: row["name"])
    return Month(name, groups, cost_on_premium(project, groups["day"]))


def csv_rows(month: Month) -> list[list[Any]]:
    """Return the cells of the CSV file: a row for each grouping and name."""
    keys = ("requests", "failures", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced")
    header: list[Any] = ["month", "by", "name", *keys]
    return [header] + [
        [month.name, by, without_formula(row["name"]), *(row[key] for key in keys)]
        for by, rows in month.groups.items()
        for row in rows
    ]


def html_of(month: Month) -> str:
    """Return the HTML file."""
    total = month.total
    parts = [_sums(total), _premium(month, total), "<h2>Cost by day</h2>", _days(month.groups["day"])]
    for by, rows in month.groups.items():
        if by != "day" and any(row["name"] != "(none)" for row in rows):
            parts += [f"<h2>By {by}</h2>", _table(by, rows, total["cost_usd"])]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Costs of {month.name}</title><style>{_STYLE}</style></head><body><h1>Costs of {month.name}</h1>"
        f"<p>Days are UTC, amounts US dollars.</p>{''.join(parts)}</body></html>\n"
    )


def _sums(total: dict[str, float]) -> str:
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    shown = {
        "Cost": _usd(total["cost_usd"]), "Requests": f"{total['requests']:,.0f}", "Failed": f"{total['failures']:,.0f}",
        "Tokens": f"{tokens:,.0f}",
    }  # fmt: skip
    if total["unpriced"]:
        shown["Answers of unknown price"] = f"{total['unpriced']:,.0f}"
    return '<div class="sums">' + "".join(f"<p><b>{text}</b>{name}</p>" for name, text in shown.items()) + "</div>"


def _premium(month: Month, total: dict[str, float]) -> str:
    if month.premium is None:
        return ""
    cost, model = month.premium["cost_usd"], escape(str(month.premium["model"]))
    return f"<p>The same tokens on {model} would cost {_usd(cost)} today, {_usd(abs(cost - total['cost_usd']))} {'more' if cost >= total['cost_usd'] else 'less'}.</p>"


def _days(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>There were no requests.</p>"
    most = max(row["cost_usd"] for row in rows) or 1.0
    bars = "".join(
        f'<rect x="{(int(row["name"][8:10]) - 1) * 26}" y="{120 - 112 * row["cost_usd"] / most:.1f}" width="20" height="{112 * row["cost_usd"] / most:.1f}">'
        f"<title>{row['name']}: {_usd(row['cost_usd'])}</title></rect>"
        for row in rows
    )
    marks = "".join(f'<text x="{(day - 1) * 26 + 10}" y="136" text-anchor="middle" font-size="11" fill="#5a6372">{day}</text>' for day in (1, 5, 10, 15, 20, 25, 30))  # fmt: skip
    return f'<svg viewBox="0 0 806 140" width="100%" role="img" aria-label="Cost by day, at most {_usd(most)}">{bars}{marks}</svg>'


def _table(by: str, rows: list[dict[str, Any]], whole: float) -> str:
    lines = "".join(
        f'<tr><td>{escape(str(row["name"]))}</td><td class="n">{row["requests"]:,}</td><td class="n">{row["failures"]:,}</td>'
        f'<td class="n">{row["prompt_tokens"]:,}</td><td class="n">{row["completion_tokens"]:,}</td><td class="n">{_usd(row["cost_usd"])}</td>'
        f'<td><svg width="90" height="8" aria-hidden="true"><rect width="{90 * row["cost_usd"] / whole if whole else 0:.1f}" height="8"/></svg></td></tr>'
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>{len(rows) - MOST_ROWS} more are in the CSV file.</p>" if len(rows) > MOST_ROWS else ""
    names = ("Requests", "Failed", "Tokens in", "Tokens out", "Cost")
    header = "".join(f'<th class="n" scope="col">{name}</th>' for name in names)
    return f'<table><thead><tr><th scope="col">{by.capitalize()}</th>{header}<th></th></tr></thead><tbody>{lines}</tbody></table>{more}'


def _usd(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:,.4f}"
