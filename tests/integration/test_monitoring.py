"""The rules and dashboards of `docker compose --profile monitoring`, against promtool and a real Prometheus (Debian: prometheus)."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest
import yaml

import page_site
from support import ROOT, free_port, wait_for

FOLDER = ROOT / "monitoring"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no Prometheus (Debian: apt-get install prometheus)"
)


def expressions() -> list[str]:
    """Every query of the dashboards and of the rules."""
    found = [
        rule["expr"]
        for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(found) == 8
    boards = [json.loads(path.read_text()) for path in (FOLDER / "grafana" / "dashboards").glob("*.json")]
    assert len(boards) == 2
    return found + [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]


@needs_prometheus
def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    for words in (["check", "rules", "alerts.yml"], ["check", "config", "--syntax-only", "prometheus.yml"]):
        done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that reads the metrics of a page, with our rules."""
    folder, port, site_port = tmp_path_factory.mktemp("prometheus"), free_port(), free_port()
    page_site.fill(folder / "litellm.db", 300, 0.5)
    page_site.fill(folder / "litellm.db", 80, 0.002, seed=2)  # some streams of the last three minutes
    page_site.write_one(folder / "litellm.db")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "alerts.yml")]
    config["scrape_configs"][0] |= {
        "authorization": {"credentials": page_site.KEY}, "static_configs": [{"targets": [f"localhost:{site_port}"]}],
    }  # fmt: skip
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    argv = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with page_site.serving(folder / "litellm.db", site_port), (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait(20)


def result_of(prometheus: str, query: str) -> list[dict[str, object]]:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, trust_env=False, timeout=20).json()
    assert answer["status"] == "success", (query, answer)
    return list(answer["data"]["result"])


@needs_prometheus
def test_every_query_runs_on_metrics_that_the_gateway_has(prometheus: str) -> None:
    def is_scraped() -> bool:
        try:
            return bool(result_of(prometheus, "lmstack_requests_total"))
        except (httpx.HTTPError, json.JSONDecodeError):  # it says "Service Unavailable" while it starts
            return False

    wait_for(is_scraped, what="the first scrape")
    for query in expressions():
        result_of(prometheus, query)
        for name in re.findall(r"lmstack_\w+", query):
            assert result_of(prometheus, name), name
    assert result_of(prometheus, 'up{job="lmstack"} == 1')


@needs_prometheus
def test_a_dead_event_fires_its_alert(prometheus: str) -> None:
    """Events are dead in this ledger, and the rule has no waiting time."""

    def fires() -> bool:
        alerts = httpx.get(f"{prometheus}/api/v1/alerts", trust_env=False, timeout=20).json()["data"]["alerts"]
        return "EventsDead" in {alert["labels"]["alertname"] for alert in alerts}

    wait_for(fires, what="the alert EventsDead")
