"""`lm report`: the sums of a month are those of its requests, and its files run nothing that a client wrote."""

import csv
import json
import time
from calendar import timegm
from pathlib import Path

import pytest

import page_site
from lmstack.errors import UsageError
from lmstack.ledger import queries
from lmstack.operate import cost_report
from support import InProcessStack


@pytest.mark.parametrize(
    ("name", "ends"), [("2026-11", "2026-12-01"), ("2026-12", "2027-01-01"), ("2028-02", "2028-03-01")]
)
def test_a_month_ends_where_the_next_one_begins(name: str, ends: str) -> None:
    since, until = cost_report.month_span(name)
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(since)) == f"{name}-01 00:00:00"
    assert time.strftime("%Y-%m-%d", time.gmtime(until)) == ends


@pytest.mark.parametrize("name", ["", "2026", "2026-13", "2026-00", "26-1", "0000-01", "2026-11-01", "x" * 500])
def test_what_is_no_month_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="is no month"):
        cost_report.month_span(name)


def test_the_files_have_the_sums_of_the_month(stack: InProcessStack, tmp_path: Path) -> None:
    ledger = tmp_path / "logs" / "litellm.db"
    ledger.parent.mkdir(exist_ok=True)
    page_site.fill(ledger, 300, 50, now=float(timegm((2026, 11, 10, 12, 0, 0))))
    done = json.loads(stack.lm("report", "--month", "2026-10", "--to", str(tmp_path / "out"), "--json").stdout)["data"]
    since, until = cost_report.month_span("2026-10")
    rows = [r for r in queries.ask(ledger, "requests", {"limit": 1000}) if since <= r["started_at"] < until]
    assert done["requests"] == len(rows) > 50
    assert done["total_usd"] == pytest.approx(sum(r["cost_usd"] or 0 for r in rows))
    page, table = (Path(name) for name in done["files"])
    cells = list(csv.DictReader(table.open()))
    assert sum(int(r["requests"]) for r in cells if r["by"] == "task") == len(rows)
    text = page.read_text()
    assert "By task" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text


def test_a_name_of_a_client_stays_text() -> None:
    row = {
        "name": "=cmd(<b>)",
        "requests": 1,
        "failures": 0,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "cost_usd": 0.5,
        "unpriced": 0,
    }
    month = cost_report.Month("2026-11", {"day": [{**row, "name": "2026-11-03"}], "task": [row]}, None)
    assert "=cmd(&lt;b&gt;)" in cost_report.html_of(month)
    assert cost_report.csv_rows(month)[-1][2] == "'=cmd(<b>)"
    empty = cost_report.Month("2026-11", {"day": []}, None)
    assert "There were no requests." in cost_report.html_of(empty)
