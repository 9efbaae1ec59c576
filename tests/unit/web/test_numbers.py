"""Every number of the page equals `lm usage` for the same span, over random ledgers."""

import itertools
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import page_site
from lmstack.ledger import apply, queries, usage
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Usage
from lmstack.ledger.schema import connect, migrate
from lmstack.web import overview, views
from lmstack.web.span import Span
from lmstack.web.views import Ask

NOW = 1_790_000_000.0  # 13 minutes past an hour
NAMES = st.sampled_from(["a", "b", "(none)", "c" * 30, None])
SECONDS = (
    st.integers(0, 4 * 86400)
    | st.integers(0, 7200)
    | st.sampled_from([0, 3600, 7200, int(NOW % 3600), int(NOW % 3600) + 3600])
)


@st.composite
def records(draw: st.DrawFn) -> list[Ended]:
    """Return requests of the last four days; many begin on a whole hour."""
    made = []
    for number in range(draw(st.integers(0, 25))):
        at = NOW - draw(SECONDS) + draw(st.sampled_from([0.0, 0.001, -0.001, 0.5]))
        model, task = draw(NAMES), draw(NAMES)
        call = Call(
            f"req_{number}", f"call-{number}", None, at, "/v1/chat/completions", False, model, Attribution(task_id=task)
        )
        if draw(st.booleans()):
            tier = draw(st.sampled_from([None, 1, 2, 3]))
            attempt = Attempt(model, model, draw(NAMES), None, tier, None, False, at)
            attempt.close("succeeded")
            call.attempts.append(attempt)
        status = draw(st.sampled_from(["succeeded", "failed", "rejected", "interrupted"]))
        tokens = Usage(draw(st.none() | st.integers(0, 10**6)), draw(st.none() | st.integers(0, 10**5)))
        cost = draw(st.none() | st.floats(0, 100))
        made.append(Ended(call, status, at + 1, 1000.0, tokens, cost))
    return made


def write(path: Path, ends: list[Ended]) -> None:
    with closing(connect(path)) as conn:
        migrate(conn)
        apply.transaction(conn, ends, "w", send_events=False)


def expected(ends: list[Ended], by: str, since: float, until: float) -> dict[str, dict[str, Any]]:
    """Add up the records themselves, without SQL."""
    found: dict[str, dict[str, Any]] = {}
    for end in ends:
        last = end.call.attempts[-1] if end.call.attempts else None
        name = {
            "model": (last.deployment if last else None) or end.call.requested_model,
            "provider": last.provider if last else None, "task": end.call.attribution.task_id, "agent": None, "user": None, "key": None, "team": None,
            "tier": str(last.tier) if last and last.tier else None,
            "day": time.strftime("%Y-%m-%d", time.gmtime(end.call.started_at)),
        }[by] or "(none)"  # fmt: skip
        if since <= end.call.started_at < until:
            row = found.setdefault(name, Counter())  # type: ignore[arg-type]
            row["requests"] += 1
            row["failures"] += end.status != "succeeded"
            row["prompt_tokens"] += end.usage.prompt or 0
            row["completion_tokens"] += end.usage.completion or 0
            row["cost_usd"] += end.cost_usd or 0.0
            row["unpriced"] += end.status in ("succeeded", "interrupted") and end.cost_usd is None
    return found


def same(rows: list[dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> None:
    assert {row["name"] for row in rows} == set(wanted)
    for row in rows:
        for key in overview.SUMMED:
            assert row[key] == pytest.approx(wanted[row["name"]][key], abs=1e-9), (row["name"], key)


@settings(max_examples=60, deadline=None)
@given(records(), st.sampled_from(usage.GROUPINGS), SECONDS, st.none() | st.integers(1, 5400) | SECONDS)
def test_usage_overview_and_chart_add_up_the_same_requests(
    ends: list[Ended], by: str, ago: int, length: int | None
) -> None:
    since = NOW - ago
    until = since + length if length else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "litellm.db"
        write(path, ends)
        asked = Ask(Span(since, until, "", NOW), {"by": by}, page_site.facts())
        with closing(queries.open_ledger(path)) as conn:
            rows = views.show_usage(conn, asked)["rows"]
            same(rows, expected(ends, by, since, until or NOW + 10))
            if until is None:
                assert rows == queries.ask(path, "usage", {"by": by, "since": since})
            shown = views.show_overview(conn, asked)
            for key in overview.SUMMED:
                assert shown[key] == pytest.approx(sum(row[key] for row in rows), abs=1e-9), key
            if by == "day":
                return
            chart = views.show_timeline(conn, asked)
            for key in overview.SUMMED:
                drawn = sum(itertools.chain.from_iterable(one[key] for one in chart["series"]))
                assert drawn == pytest.approx(shown[key], abs=1e-9), key


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert usage.percentile([], 50) is None
    assert usage.percentile([7.0], 99) == 7.0
    assert usage.percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.0
    assert usage.percentile([float(n) for n in range(1, 101)], 99) == 99.0
