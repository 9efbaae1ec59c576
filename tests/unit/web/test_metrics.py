"""The text of /metrics: a form that Prometheus reads, the numbers of `lm usage`, few labels, and a token of its own."""

import re
import shutil
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import page_site
from lmstack.ledger import queries
from lmstack.ledger.schema import connect
from lmstack.web.app import page_app
from lmstack.web.metrics import Metrics

TOKEN = "scrape-token-0123456789"
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)')


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metrics") / "litellm.db"
    page_site.fill(path, 800, 2)
    return path


def text_of(path: Path) -> str:
    with closing(queries.open_ledger(path)) as conn:
        return Metrics().text(conn, page_site.facts())


def samples(text: str) -> dict[tuple[str, str], float]:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = SAMPLE.fullmatch(line).groups()  # type: ignore[union-attr]
            assert (name, labels) not in found, line
            found[name, labels or ""] = float(value)
    return found


def test_the_counters_are_the_sums_of_lm_usage(ledger: Path) -> None:
    found = samples(text_of(ledger))
    for row in queries.ask(ledger, "usage", {"by": "model"}):
        label = f'gen_ai_response_model="{row["name"]}"'
        assert found["lmstack_requests_total", label] == row["requests"]
        assert found["lmstack_failures_total", label] == row["failures"]
        assert found["lmstack_cost_usd_total", label] == pytest.approx(row["cost_usd"])
        assert found["lmstack_tokens_total", f'{label},gen_ai_token_type="input"'] == row["prompt_tokens"]
    for row in queries.ask(ledger, "usage", {"by": "provider"}):
        assert found["lmstack_provider_requests_total", f'gen_ai_provider_name="{row["name"]}"'] == row["requests"]


def test_a_client_cannot_add_a_label(tmp_path: Path) -> None:
    page_site.write_one(tmp_path / "litellm.db", task='a"b\n')
    with closing(connect(tmp_path / "litellm.db")) as conn:
        conn.execute("UPDATE rollups SET name = 'made-up' WHERE dimension IN ('model', 'provider')")
    text = text_of(tmp_path / "litellm.db")
    assert "made-up" not in text
    assert 'gen_ai_response_model="(other)"' in text


def test_a_counter_never_falls(ledger: Path) -> None:
    metrics = Metrics()
    with closing(connect(ledger)) as writing, closing(queries.open_ledger(ledger)) as conn:
        before = samples(metrics.text(conn, page_site.facts()))
        writing.execute("UPDATE rollups SET failures = failures - 1 WHERE failures > 0")
        after = samples(metrics.text(conn, page_site.facts()))
        writing.execute("UPDATE rollups SET failures = failures + 1 WHERE failures > 0")
    assert {key: value for key, value in before.items() if "failures" in key[0]} == {
        key: value for key, value in after.items() if "failures" in key[0]
    }


def test_only_the_token_or_the_key_reads_them(ledger: Path) -> None:
    host = replace(page_site.host(ledger), metrics_token=TOKEN)
    with TestClient(page_app(host, only_metrics=True), base_url="http://localhost:4000") as client:
        for given, status in (
            ("", 401),
            ("Bearer wrong", 401),
            (f"Bearer {TOKEN}", 200),
            (f"Bearer {page_site.KEY}", 200),
        ):
            assert client.get("/metrics", headers={"authorization": given}).status_code == status, given
        assert client.get("/dashboard").status_code == 404
    with TestClient(page_app(page_site.host(ledger)), base_url="http://localhost:4000") as client:
        assert client.get("/metrics", headers={"authorization": "Bearer "}).status_code == 401
        assert client.get("/api/v1/usage", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 401


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: apt-get install prometheus)")
def test_promtool_finds_nothing_wrong(ledger: Path) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text_of(ledger), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
